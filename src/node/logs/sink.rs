//! Writes one attempt's log: lines are stamped and buffered where the guest writes, and put into
//! files by the node's writing thread. A full buffer drops and says so; it never blocks the guest.
//! What cannot be written (a full disk) is lost whole lines at a time, and the log says so once it
//! can be written again.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{LogLimits, file_path};
use crate::base::{SharedClock, private};
use crate::runtime::{LogSink, LogStream};

/// A longer line is cut into partial lines (containerd's default, 16 KiB).
const MOST_LINE_BYTES: usize = 16 << 10;

/// The log of one attempt of a container.
pub struct AttemptLog {
    pub dir: PathBuf,
    pub attempt: i32,
    limits: LogLimits,
    began_at: Timestamp,
    clock: SharedClock,
    pending: Mutex<Pending>,
    file: Mutex<FileState>,
    progress: watch::Sender<Progress>,
    queue: Sender<Arc<AttemptLog>>,
    this: std::sync::Weak<AttemptLog>,
}

/// What readers that follow wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes put into files.
    pub written: u64,
    /// Nothing more will come.
    pub closed: bool,
}

/// A place in an attempt's files, between two lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub sequence: u64,
    /// Bytes of that file.
    pub offset: u64,
}

#[derive(Default)]
struct Pending {
    /// Formatted lines.
    lines: Vec<u8>,
    /// What has no newline yet, by stream.
    partial: [Vec<u8>; 2],
    dropped_bytes: u64,
    /// What was written and is not earned back yet, and until when that was counted.
    spent_bytes: u64,
    counted_at: Option<Timestamp>,
    queued: bool,
    closed: bool,
}

#[derive(Default)]
struct FileState {
    sequence: u64,
    bytes: u64,
    /// The directory was made: with the first line, since many containers say nothing. It is not made
    /// again when it goes with its pod.
    made: bool,
    /// A write failed; said once in the node's own log until one succeeds.
    failed: bool,
    /// Bytes of output that could not be written since then.
    lost_bytes: u64,
}

fn index(stream: LogStream) -> usize {
    match stream {
        LogStream::Stdout => 0,
        LogStream::Stderr => 1,
    }
}

const STREAMS: [(LogStream, &str); 2] =
    [(LogStream::Stdout, "stdout"), (LogStream::Stderr, "stderr")];

impl AttemptLog {
    pub(super) fn new(
        dir: PathBuf,
        attempt: i32,
        limits: LogLimits,
        clock: SharedClock,
        queue: Sender<Arc<AttemptLog>>,
    ) -> Arc<AttemptLog> {
        Arc::new_cyclic(|this| AttemptLog {
            dir,
            attempt,
            limits,
            began_at: clock.now(),
            clock,
            pending: Mutex::default(),
            file: Mutex::default(),
            progress: watch::channel(Progress::default()).0,
            queue,
            this: this.clone(),
        })
    }

    /// Tells when more was written and when the log is closed.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The attempt ended: what has no newline becomes a line, and followers come to their end.
    pub fn close(&self) {
        let mut pending = self.pending.lock();
        pending.closed = true;
        for (stream, _) in STREAMS {
            let rest = std::mem::take(&mut pending.partial[index(stream)]);
            if !rest.is_empty() {
                self.add_line(&mut pending, stream, &rest, true);
            }
        }
        self.enqueue(&mut pending);
    }

    fn add_line(&self, pending: &mut Pending, stream: LogStream, text: &[u8], full: bool) {
        let fits = pending.lines.len() + text.len() <= self.limits.buffer_bytes;
        if !fits || !self.afford(pending, text.len() as u64) {
            pending.dropped_bytes += text.len() as u64;
            return;
        }
        if pending.dropped_bytes > 0 {
            let dropped = std::mem::take(&mut pending.dropped_bytes);
            let text = drop_marker(dropped);
            self.format(&mut pending.lines, LogStream::Stderr, text.as_bytes(), true);
        }
        self.format(&mut pending.lines, stream, text, full);
    }

    /// Takes from what the container may write; asks the clock only when that is used up.
    fn afford(&self, pending: &mut Pending, bytes: u64) -> bool {
        if pending.spent_bytes + bytes > self.limits.burst_bytes {
            let now = self.clock.now();
            let since = pending.counted_at.replace(now).unwrap_or(self.began_at);
            let millis = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(0);
            let earned = self.limits.bytes_a_second.saturating_mul(millis) / 1000;
            pending.spent_bytes = pending.spent_bytes.saturating_sub(earned);
            if pending.spent_bytes + bytes > self.limits.burst_bytes {
                return false;
            }
        }
        pending.spent_bytes += bytes;
        true
    }

    fn format(&self, out: &mut Vec<u8>, stream: LogStream, text: &[u8], full: bool) {
        let (_, name) = STREAMS[index(stream)];
        let tag = if full { 'F' } else { 'P' };
        // Nine digits always, so that lines sort by their text. Writing to a Vec cannot fail.
        let _ = write!(out, "{:.9} {name} {tag} ", self.clock.now());
        out.extend_from_slice(text);
        out.push(b'\n');
    }

    fn enqueue(&self, pending: &mut Pending) {
        if !pending.queued
            && let Some(this) = self.this.upgrade()
        {
            // The thread lives as long as this sender.
            pending.queued = self.queue.send(this).is_ok();
        }
    }

    /// Puts what is buffered into files (blocking). Answers where the log ends now.
    pub fn flush(&self) -> Place {
        // The file's lock is taken first, so that two flushes keep the lines in order.
        let mut file = self.file.lock();
        let (lines, closed) = {
            let mut pending = self.pending.lock();
            pending.queued = false;
            let mut lines = std::mem::take(&mut pending.lines);
            if pending.dropped_bytes > 0 {
                let text = drop_marker(std::mem::take(&mut pending.dropped_bytes));
                self.format(&mut lines, LogStream::Stderr, text.as_bytes(), true);
            }
            (lines, pending.closed)
        };
        self.put(&mut file, &lines);
        self.progress.send_if_modified(|progress| {
            let before = *progress;
            progress.written += lines.len() as u64;
            progress.closed |= closed;
            *progress != before
        });
        Place { sequence: file.sequence, offset: file.bytes }
    }

    /// Appends lines, with a word before them about those that were lost.
    fn put(&self, file: &mut FileState, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let all = |failed| Unwritten { bytes: lines.len() as u64, ..failed };
        let result = self.append_lost(file).map_err(all).and_then(|()| self.append(file, lines));
        match result {
            Ok(()) => file.failed = false,
            Err(Unwritten { bytes, error }) => {
                file.lost_bytes += bytes;
                if !std::mem::replace(&mut file.failed, true) {
                    let dir = self.dir.display();
                    tracing::warn!(%dir, %error, "container output is lost");
                }
            }
        }
    }

    /// Says what was lost.
    fn append_lost(&self, file: &mut FileState) -> Result<(), Unwritten> {
        if file.lost_bytes == 0 {
            return Ok(());
        }
        let mut marker = Vec::new();
        let text = lost_marker(file.lost_bytes);
        self.format(&mut marker, LogStream::Stderr, text.as_bytes(), true);
        self.append(file, &marker)?;
        file.lost_bytes = 0;
        Ok(())
    }

    /// Appends whole lines, beginning new files as they fill.
    fn append(&self, file: &mut FileState, mut lines: &[u8]) -> Result<(), Unwritten> {
        while !lines.is_empty() {
            if file.bytes >= self.limits.file_bytes {
                self.rotate(file);
            }
            let room = usize::try_from(self.limits.file_bytes - file.bytes).unwrap_or(usize::MAX);
            let end = if room >= lines.len() {
                lines.len()
            } else {
                // The line that crosses the bound is the file's last.
                let rest = lines[room..].iter().position(|byte| *byte == b'\n');
                rest.map_or(lines.len(), |at| room + at + 1)
            };
            let written = self.write_file(file, &lines[..end]);
            written.map_err(|error| Unwritten { bytes: lines.len() as u64, error })?;
            file.bytes += end as u64;
            lines = &lines[end..];
        }
        Ok(())
    }

    fn write_file(&self, file: &mut FileState, lines: &[u8]) -> io::Result<()> {
        if !file.made {
            private::make_dir(&self.dir)?;
            file.made = true;
        }
        // Opened for each batch: a thousand quiet containers hold no descriptor.
        let path = file_path(&self.dir, self.attempt, file.sequence);
        let mut out = private::file().create(true).append(true).open(path)?;
        out.write_all(lines).inspect_err(|_| {
            // No torn line stays behind. Should this fail too, the next line is spoilt by it.
            let _ = out.set_len(file.bytes);
        })
    }

    fn rotate(&self, file: &mut FileState) {
        file.sequence += 1;
        file.bytes = 0;
        let Some(oldest) = file.sequence.checked_sub(self.limits.files.max(1)) else { return };
        let path = file_path(&self.dir, self.attempt, oldest);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "an old log stays");
        }
    }
}

/// What of some lines was not written, and why.
struct Unwritten {
    bytes: u64,
    error: io::Error,
}

fn lost_marker(bytes: u64) -> String {
    format!("[{bytes} bytes of output were lost: they could not be written]")
}

fn drop_marker(bytes: u64) -> String {
    format!("[{bytes} bytes of output were dropped: they came faster than they could be written]")
}

impl LogSink for AttemptLog {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        let mut pending = self.pending.lock();
        if pending.closed {
            return;
        }
        let mut partial = std::mem::take(&mut pending.partial[index(stream)]);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, full) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            partial.extend_from_slice(text);
            let mut rest = partial.as_slice();
            while rest.len() > MOST_LINE_BYTES {
                let (part, more) = rest.split_at(MOST_LINE_BYTES);
                self.add_line(&mut pending, stream, part, false);
                rest = more;
            }
            if full {
                self.add_line(&mut pending, stream, rest, true);
                partial.clear();
            } else {
                partial = rest.to_vec();
            }
        }
        pending.partial[index(stream)] = partial;
        if !pending.lines.is_empty() || pending.dropped_bytes > 0 {
            self.enqueue(&mut pending);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::clock::RealClock;

    fn open(dir: &Path, limits: LogLimits) -> Arc<AttemptLog> {
        let (queue, _) = std::sync::mpsc::channel();
        AttemptLog::new(dir.to_path_buf(), 0, limits, Arc::new(RealClock), queue)
    }

    fn write(log: &AttemptLog, text: &str) {
        log.write(LogStream::Stdout, text.as_bytes());
        log.flush();
    }

    fn messages(dir: &Path, sequence: u64) -> Vec<String> {
        let text = fs::read_to_string(file_path(dir, 0, sequence)).unwrap();
        text.lines().map(|line| line.splitn(4, ' ').last().unwrap().to_string()).collect()
    }

    #[test]
    fn what_cannot_be_written_is_told_once_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("log");
        fs::write(&place, "something else").unwrap();
        let log = open(&place, LogLimits::default());
        write(&log, "lost\n");
        write(&log, "too\n");
        fs::remove_file(&place).unwrap();
        write(&log, "back\n");
        let written = messages(&place, 0);
        assert_eq!(written.len(), 2, "{written:?}");
        assert!(written[0].ends_with("were lost: they could not be written]"), "{written:?}");
        assert_eq!(written[1], "back");
    }

    #[test]
    fn the_directory_comes_with_the_first_line_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("pod/container");
        let log = open(&place, LogLimits::default());
        log.flush();
        assert!(!place.exists());
        write(&log, "one\n");
        assert_eq!(messages(&place, 0), ["one"]);
        fs::remove_dir_all(&place).unwrap();
        write(&log, "two\n");
        assert!(!place.exists());
    }

    #[test]
    fn a_flood_is_held_to_its_rate() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { burst_bytes: 100, bytes_a_second: 0, ..LogLimits::default() };
        let log = open(dir.path(), limits);
        for _ in 0..1000 {
            write(&log, "ten bytes\n");
        }
        let written = messages(dir.path(), 0);
        assert_eq!(written.iter().filter(|line| *line == "ten bytes").count(), 11);
        let dropped = written.iter().filter(|line| line.ends_with("could be written]")).count();
        assert!(dropped > 0, "{written:?}");
    }

    #[test]
    fn a_missing_old_file_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let limits = LogLimits { file_bytes: 1, files: 1, ..LogLimits::default() };
        let log = open(dir.path(), limits);
        write(&log, "one\n");
        fs::remove_file(file_path(dir.path(), 0, 0)).unwrap();
        write(&log, "two\n");
        assert_eq!(messages(dir.path(), 1), ["two"]);
    }
}
