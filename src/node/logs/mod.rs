//! Container logs on disk: one directory a container, files by attempt and sequence number, lines
//! in the CRI form `RFC3339Nano stream F|P message`.
//!
//! ```text
//! logs/<namespace>_<pod>_<uid>/<container>/<attempt>.<sequence>.log
//! ```
//!
//! [`sink`] writes (bounded, by one thread a node), [`reader`] reads and follows. Rotation begins a
//! file with the next number and removes the oldest; nothing is ever renamed, so a reader that
//! follows cannot lose its place.

pub mod reader;
pub mod sink;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use reader::{ReadOptions, read};
pub use sink::AttemptLog;

use crate::base::{SharedClock, private};

/// How much a container's log may take.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// A file is closed once it is this long.
    pub file_bytes: u64,
    /// Files kept of one attempt.
    pub files: u64,
    /// Formatted bytes that wait to be written; what comes beyond is dropped, with a marker.
    pub buffer_bytes: usize,
    /// Bytes of text a second that one container may write for long; what comes faster is dropped,
    /// with the same marker, so that a flood costs the node no more than this.
    pub bytes_a_second: u64,
    /// What it may write at once beyond that.
    pub burst_bytes: u64,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits {
            file_bytes: 10 << 20,
            files: 3,
            buffer_bytes: 1 << 20,
            bytes_a_second: 4 << 20,
            // All that its files hold.
            burst_bytes: 30 << 20,
        }
    }
}

/// The logs of a node's containers.
pub struct LogStore {
    dir: PathBuf,
    limits: LogLimits,
    clock: SharedClock,
    /// Logs with something to write; each waits at most once.
    queue: std::sync::mpsc::Sender<Arc<AttemptLog>>,
}

impl LogStore {
    /// Starts the writing thread; it ends when the store and all its logs are gone.
    pub fn open(dir: PathBuf, limits: LogLimits, clock: SharedClock) -> io::Result<LogStore> {
        private::make_dir(&dir)?;
        let (queue, waiting) = std::sync::mpsc::channel::<Arc<AttemptLog>>();
        std::thread::Builder::new().name("logs".into()).spawn(move || {
            while let Ok(log) = waiting.recv() {
                log.flush();
            }
        })?;
        Ok(LogStore { dir, limits, clock, queue })
    }

    /// The directory of a pod's logs.
    pub fn pod_dir(&self, namespace: &str, pod: &str, uid: &str) -> PathBuf {
        self.dir.join(format!("{namespace}_{pod}_{uid}"))
    }

    /// Begins the log of an attempt; older attempts than the one before are removed (blocking).
    pub fn begin(&self, container_dir: &Path, attempt: i32) -> io::Result<Arc<AttemptLog>> {
        for (old, sequence) in files(container_dir)? {
            if old < attempt - 1 || old == attempt {
                std::fs::remove_file(file_path(container_dir, old, sequence))?;
            }
        }
        Ok(AttemptLog::new(
            container_dir.to_path_buf(),
            attempt,
            self.limits,
            self.clock.clone(),
            self.queue.clone(),
        ))
    }

    /// Removes the logs of pods whose uid is not kept (blocking).
    pub fn retain(&self, uids: &BTreeSet<String>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let uid = name.to_str().and_then(|name| name.rsplit('_').next());
            if uid.is_none_or(|uid| !uids.contains(uid)) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// The file of an attempt and a sequence number.
pub fn file_path(container_dir: &Path, attempt: i32, sequence: u64) -> PathBuf {
    container_dir.join(format!("{attempt}.{sequence}.log"))
}

/// The attempts and sequence numbers on disk, in order.
pub fn files(container_dir: &Path) -> io::Result<BTreeSet<(i32, u64)>> {
    let mut found = BTreeSet::new();
    let list = match std::fs::read_dir(container_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        list => list?,
    };
    for entry in list {
        let name = entry?.file_name();
        let parts = name.to_str().and_then(|name| name.strip_suffix(".log")?.split_once('.'));
        if let Some((attempt, sequence)) = parts
            && let (Ok(attempt), Ok(sequence)) = (attempt.parse(), sequence.parse())
        {
            found.insert((attempt, sequence));
        }
    }
    Ok(found)
}
