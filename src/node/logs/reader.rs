//! Reads an attempt's log: the last lines, those since a time, with or without timestamps, and
//! follows what is still written, by notification.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;

use super::sink::AttemptLog;
use super::{file_path, files};

/// The bytes that are read from a file at once.
const BLOCK_BYTES: usize = 64 << 10;

/// What of a log is read (core/v1 PodLogOptions).
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    pub follow: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only lines of this time and after it.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
    /// `stdout` or `stderr`; `None` is both.
    pub stream: Option<&'static str>,
}

/// A place in an attempt's files.
struct Cursor {
    dir: PathBuf,
    attempt: i32,
    sequence: u64,
    file: Option<File>,
    options: ReadOptions,
    /// Raw bytes of a line that has no newline yet.
    carry: Vec<u8>,
    /// The output stands in the middle of a partial line.
    inside_line: bool,
    left_bytes: u64,
}

/// Streams a log. `live` is the log while it may still be written.
pub fn read(
    dir: PathBuf,
    attempt: i32,
    options: ReadOptions,
    live: Option<Arc<AttemptLog>>,
) -> BoxStream<'static, io::Result<Bytes>> {
    let follow = options.follow;
    let progress = live.as_ref().map(|log| log.progress());
    let state = Follower { cursor: Start::New { dir, attempt, options }, live, progress, follow };
    stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match state.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(state))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

struct Follower {
    cursor: Start,
    live: Option<Arc<AttemptLog>>,
    progress: Option<tokio::sync::watch::Receiver<super::sink::Progress>>,
    follow: bool,
}

enum Start {
    New {
        dir: PathBuf,
        attempt: i32,
        options: ReadOptions,
    },
    Open(Box<Cursor>),
    /// Lent to a blocking read.
    Away,
}

impl Follower {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            // Seen before reading: what comes later wakes the wait below.
            let closed = match &mut self.progress {
                Some(progress) => progress.borrow_and_update().closed,
                None => true,
            };
            let (bytes, limited) = self.read_block().await?;
            if !bytes.is_empty() {
                return Ok(Some(bytes.into()));
            }
            if limited || closed || !self.follow {
                return Ok(None);
            }
            if let Some(progress) = &mut self.progress
                && progress.changed().await.is_err()
            {
                return Ok(None);
            }
        }
    }

    async fn read_block(&mut self) -> io::Result<(Vec<u8>, bool)> {
        let start = std::mem::replace(&mut self.cursor, Start::Away);
        let live = self.live.clone();
        let work = move || -> io::Result<(Box<Cursor>, Vec<u8>)> {
            if let Some(live) = live {
                live.flush();
            }
            let mut cursor = match start {
                Start::New { dir, attempt, options } => {
                    Box::new(Cursor::open(dir, attempt, options)?)
                }
                Start::Open(cursor) => cursor,
                Start::Away => {
                    return Err(io::Error::other("a log reader was used after an error"));
                }
            };
            let bytes = cursor.next_block()?;
            Ok((cursor, bytes))
        };
        let (cursor, bytes) =
            tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
        let limited = cursor.left_bytes == 0;
        self.cursor = Start::Open(cursor);
        Ok((bytes, limited))
    }
}

impl Cursor {
    fn open(dir: PathBuf, attempt: i32, options: ReadOptions) -> io::Result<Cursor> {
        let sequences = sequences(&dir, attempt)?;
        let first = sequences.first().copied().unwrap_or(0);
        let (sequence, offset) = match options.tail_lines {
            Some(lines) => tail_start(&dir, attempt, &sequences, lines)?,
            None => (first, 0),
        };
        let left_bytes = options.limit_bytes.unwrap_or(u64::MAX);
        let mut cursor = Cursor {
            dir,
            attempt,
            sequence,
            file: None,
            options,
            carry: Vec::new(),
            inside_line: false,
            left_bytes,
        };
        cursor.open_file()?;
        if let Some(file) = &mut cursor.file {
            file.seek(SeekFrom::Start(offset))?;
        }
        Ok(cursor)
    }

    fn open_file(&mut self) -> io::Result<()> {
        match File::open(file_path(&self.dir, self.attempt, self.sequence)) {
            Ok(file) => self.file = Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next output; empty at the end of what was written.
    fn next_block(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut block = vec![0; BLOCK_BYTES];
        while out.is_empty() && self.left_bytes > 0 {
            if self.file.is_none() {
                self.open_file()?;
            }
            let count = match &mut self.file {
                Some(file) => file.read(&mut block)?,
                None => 0,
            };
            if count > 0 {
                self.take_in(&block[..count], &mut out);
            } else if !self.next_file()? {
                break;
            }
        }
        Ok(out)
    }

    /// Goes on to the next file that exists, once there is one. A file is complete when the next
    /// exists, so its rest is read before.
    fn next_file(&mut self) -> io::Result<bool> {
        let later = sequences(&self.dir, self.attempt)?;
        let Some(next) = later.range(self.sequence + 1..).next().copied() else {
            return Ok(false);
        };
        if let Some(file) = &mut self.file {
            let (at, end) = (file.stream_position()?, file.metadata()?.len());
            if at < end {
                return Ok(true);
            }
        }
        self.sequence = next;
        self.file = None;
        self.carry.clear();
        self.open_file()?;
        Ok(self.file.is_some())
    }

    fn take_in(&mut self, block: &[u8], out: &mut Vec<u8>) {
        let mut carry = std::mem::take(&mut self.carry);
        for piece in block.split_inclusive(|byte| *byte == b'\n') {
            carry.extend_from_slice(piece);
            if let Some(line) = carry.strip_suffix(b"\n") {
                self.add_line(line, out);
                carry.clear();
            }
            if self.left_bytes == 0 {
                return;
            }
        }
        self.carry = carry;
    }

    fn add_line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some((time, stream, full, text)) = parse(line) else { return };
        if self.options.stream.is_some_and(|wanted| wanted != stream) {
            return;
        }
        if let Some(since) = self.options.since
            && time.parse::<Timestamp>().is_ok_and(|at| at < since)
        {
            return;
        }
        let start = out.len();
        if self.options.timestamps && !self.inside_line {
            out.extend_from_slice(time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(text);
        if full {
            out.push(b'\n');
        }
        self.inside_line = !full;
        let added = (out.len() - start) as u64;
        if added > self.left_bytes {
            out.truncate(start + usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
            self.left_bytes = 0;
        } else if self.options.limit_bytes.is_some() {
            self.left_bytes -= added;
        }
    }
}

/// Time, stream, whether the line ends here, text.
fn parse(line: &[u8]) -> Option<(&str, &str, bool, &[u8])> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let full = parts.next()? == b"F";
    Some((time, stream, full, parts.next()?))
}

fn sequences(dir: &Path, attempt: i32) -> io::Result<BTreeSet<u64>> {
    let own = files(dir)?.into_iter().filter(|(number, _)| *number == attempt);
    Ok(own.map(|(_, sequence)| sequence).collect())
}

/// Where the last `lines` lines begin: a file and an offset, found from the end.
fn tail_start(
    dir: &Path,
    attempt: i32,
    sequences: &BTreeSet<u64>,
    lines: u64,
) -> io::Result<(u64, u64)> {
    let mut left = lines;
    let mut first = (sequences.first().copied().unwrap_or(0), 0);
    let mut block = vec![0; BLOCK_BYTES];
    for sequence in sequences.iter().rev() {
        let mut file = File::open(file_path(dir, attempt, *sequence))?;
        let mut end = file.metadata()?.len();
        if lines == 0 {
            return Ok((*sequence, end));
        }
        let mut last = true;
        while end > 0 {
            let begin = end.saturating_sub(BLOCK_BYTES as u64);
            let count = usize::try_from(end - begin).unwrap_or(BLOCK_BYTES);
            file.seek(SeekFrom::Start(begin))?;
            file.read_exact(&mut block[..count])?;
            for at in (0..count).rev().filter(|at| block[*at] == b'\n') {
                // The newline at the file's end closes the last line, it begins none.
                if std::mem::take(&mut last) {
                    continue;
                }
                left -= 1;
                if left == 0 {
                    return Ok((*sequence, begin + at as u64 + 1));
                }
            }
            end = begin;
        }
        if !last {
            // The file's first line.
            left -= 1;
        }
        first = (*sequence, 0);
        if left == 0 {
            break;
        }
    }
    Ok(first)
}
