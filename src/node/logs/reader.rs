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

use super::sink::{AttemptLog, Place};
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
    /// Where to stop: who does not follow gets the log as it was when they asked.
    end: Option<Place>,
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
            let end = live.map(|live| live.flush());
            let mut cursor = match start {
                Start::New { dir, attempt, options } => {
                    Box::new(Cursor::open(dir, attempt, options, end)?)
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
    /// `end`: where a log ends that may still be written.
    fn open(
        dir: PathBuf,
        attempt: i32,
        options: ReadOptions,
        end: Option<Place>,
    ) -> io::Result<Cursor> {
        let mut sequences = sequences(&dir, attempt)?;
        if let Some(end) = end {
            sequences.retain(|sequence| *sequence <= end.sequence);
        }
        let first = sequences.first().copied().unwrap_or(0);
        let Place { sequence, offset } = match options.tail_lines {
            Some(lines) => tail_start(&dir, attempt, &sequences, end, lines)?,
            None => Place { sequence: first, offset: 0 },
        };
        let end = end.filter(|_| !options.follow);
        let left_bytes = options.limit_bytes.unwrap_or(u64::MAX);
        let mut cursor = Cursor {
            dir,
            attempt,
            sequence,
            file: None,
            end,
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
                Some(file) => {
                    let most = until(self.end, self.sequence, file.stream_position()?);
                    let most = usize::try_from(most).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
                    file.read(&mut block[..most])?
                }
                None => 0,
            };
            if count > 0 {
                self.take_in(&block[..count], &mut out);
            } else if self.end.is_some_and(|end| self.sequence >= end.sequence)
                || !self.next_file()?
            {
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

/// The bytes from `offset` of this file up to the end.
fn until(end: Option<Place>, sequence: u64, offset: u64) -> u64 {
    match end {
        Some(end) if end.sequence == sequence => end.offset.saturating_sub(offset),
        Some(end) if end.sequence < sequence => 0,
        _ => u64::MAX,
    }
}

fn sequences(dir: &Path, attempt: i32) -> io::Result<BTreeSet<u64>> {
    let own = files(dir)?.into_iter().filter(|(number, _)| *number == attempt);
    Ok(own.map(|(_, sequence)| sequence).collect())
}

/// Where the last `lines` lines before the end begin, found from there.
fn tail_start(
    dir: &Path,
    attempt: i32,
    sequences: &BTreeSet<u64>,
    log_end: Option<Place>,
    lines: u64,
) -> io::Result<Place> {
    let mut left = lines;
    let mut first = Place { sequence: sequences.first().copied().unwrap_or(0), offset: 0 };
    let mut block = vec![0; BLOCK_BYTES];
    for sequence in sequences.iter().rev() {
        let mut file = match File::open(file_path(dir, attempt, *sequence)) {
            // Rotated away meanwhile, as are those before it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            file => file?,
        };
        let mut end = file.metadata()?.len().min(until(log_end, *sequence, 0));
        if lines == 0 {
            return Ok(Place { sequence: *sequence, offset: end });
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
                    return Ok(Place { sequence: *sequence, offset: begin + at as u64 + 1 });
                }
            }
            end = begin;
        }
        if !last {
            // The file's first line.
            left -= 1;
        }
        first = Place { sequence: *sequence, offset: 0 };
        if left == 0 {
            break;
        }
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::RealClock;
    use crate::node::logs::{LogLimits, LogStore};
    use crate::runtime::{LogSink, LogStream};

    #[test]
    fn who_does_not_follow_gets_what_there_was() {
        let place = tempfile::tempdir().unwrap();
        // Each line begins a file.
        let limits = LogLimits { file_bytes: 1, files: 10, ..LogLimits::default() };
        let logs = LogStore::open(place.path().into(), limits, Arc::new(RealClock)).unwrap();
        let dir = place.path().join("container");
        let log = logs.begin(&dir, 0).unwrap();
        let write = |text: &str| {
            log.write(LogStream::Stdout, text.as_bytes());
            log.flush()
        };
        write("one\n");
        write("two\n");
        let end = write("three\n");
        let open = |tail_lines, end| {
            let options = ReadOptions { tail_lines, ..ReadOptions::default() };
            Cursor::open(dir.clone(), 0, options, end).unwrap()
        };
        let mut cursors =
            [open(None, Some(end)), open(Some(2), Some(end)), open(Some(0), Some(end))];
        write("four\n");
        let rest = |cursor: &mut Cursor| {
            let mut all = Vec::new();
            loop {
                let block = cursor.next_block().unwrap();
                if block.is_empty() {
                    return String::from_utf8(all).unwrap();
                }
                all.extend(block);
            }
        };
        let told = cursors.each_mut().map(rest);
        assert_eq!(told, ["one\ntwo\nthree\n", "two\nthree\n", ""]);
        // Opened only now, by who asked before.
        assert_eq!(rest(&mut open(Some(1), Some(end))), "three\n");
        assert_eq!(rest(&mut open(Some(2), None)), "three\nfour\n");
    }
}
