//! The store in one file on this machine's disk: the default.
//!
//! **Layout.** Log first: a commit is appended to the `log` table, in a row with others of its batch,
//! keyed by the last one's revision, and is acknowledged when that is flushed. The present state
//! lives in memory and reads never touch the disk; a `state` table follows it by checkpoints
//! (`checkpoint.rs`). Inserting 2 KiB values under random keys into one B-tree instead dirties a
//! leaf and its path for every value.
//!
//! **Writing.** One thread (`writer.rs`) drains a bounded queue (`queue.rs`) into group commits: one
//! transaction and one flush for all that wait. A write that finds no room fails its batch with
//! [`CommitError::NoSpace`], and the next one tries anew; deletions have room kept for them
//! (`reserve.rs`). After any other failed write, and after any failed flush, nothing is acknowledged
//! any more: the disk's state is unknown until the next start.
//!
//! **Damage.** redb commits in one phase here: it flushes once and relies on its page checksums
//! (XXH3) to find after a crash which transaction is whole. Who chooses stored values could, with
//! a crash at the right time, try to make a torn transaction pass. So every row has a checksum of
//! our own (SHA-256, bound to its key or last revision), revisions in the log are contiguous up to the
//! one that the head names, and the head holds the number and digest of the state rows: a torn
//! transaction is refused, not believed. [`Options::two_phase_commit`] adds redb's own answer, at
//! the price of a second flush for every batch.
//!
//! **Recovery.** State rows, then the log after the checkpoint. The log keeps the ring's events, so
//! watches and lists at recent revisions go on across a restart.

mod backend;
mod checkpoint;
mod disk;
mod queue;
mod record;
mod reserve;
mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use self::backend::{FileMedium, Medium};
use self::checkpoint::{CHECKPOINT_BYTES, CHECKPOINT_REVISIONS, Checkpoint};
use self::disk::{Disk, Loaded};
use self::queue::{Queue, Refusal};
use self::record::{Head, Logged};
use self::reserve::Reserve;
pub use self::reserve::{RESERVE_BYTES, Room};
use self::writer::{Request, Writer};
use super::embedded::{Backend, Embedded};
use super::hub::HubOptions;
use super::state::{State, Stored};
use super::{Change, CommitError, Committed, Event, Key, Op, Revision, Vital, WatchEnd};
use crate::base::private;

/// How many requests may wait for the writer.
pub const QUEUE_REQUESTS: usize = 8192;
/// How many bytes of commits may wait for the writer.
pub const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// How much of the file redb keeps in memory; reads are not served from it.
pub const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    pub hub: HubOptions,
    pub queue_requests: usize,
    pub queue_bytes: usize,
    pub cache_bytes: usize,
    /// Flush twice for every batch; see the module's documentation.
    pub two_phase_commit: bool,
    /// A checkpoint begins when this many revisions are no longer recent, or
    pub checkpoint_revisions: u64,
    /// when this many bytes of events are not.
    pub checkpoint_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            hub: HubOptions::default(),
            queue_requests: QUEUE_REQUESTS,
            queue_bytes: QUEUE_BYTES,
            cache_bytes: CACHE_BYTES,
            two_phase_commit: false,
            checkpoint_revisions: CHECKPOINT_REVISIONS,
            checkpoint_bytes: CHECKPOINT_BYTES,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store is in use by another process; stop that one first or use another directory")]
    InUse,
    #[error("the store cannot be written ({0}); check the owner and mode of its directory")]
    NotWritable(String),
    #[error("no space left on the store's disk: {0}")]
    NoSpace(String),
    #[error("the store has format {found}, made by a newer release; this one reads up to {known}")]
    NewerFormat { found: u32, known: u32 },
    #[error("the store's file is damaged ({0}); restore it from a backup")]
    Damaged(String),
    #[error("the store cannot be opened: {0}")]
    Io(String),
}

/// See the module's documentation.
pub struct RedbStore {
    embedded: Arc<Embedded>,
    queue: Arc<Queue>,
    vital: Arc<OnceLock<Vital>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl RedbStore {
    /// Opens the store in the file `path`, and makes it if it is missing (its directory must be
    /// there). Beside it stand `path.lock`, held for as long as the store is open, and
    /// `path.reserve`, room of [`RESERVE_BYTES`]. Reads the whole file: call it where blocking is no
    /// harm.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<RedbStore, OpenError> {
        let path = path.as_ref();
        // redb's own lock is let go whenever the file is opened anew after a full disk.
        let lock = lock(&beside(path, "lock"))?;
        if !path.try_exists().map_err(OpenError::from_io)? {
            create(path, &options)?;
        }
        RedbStore::start(Box::new(FileMedium(path.to_owned())), options, Some(lock))
    }

    /// Opens the store in some other medium: for tests that let it fail. Keeping others out is the
    /// caller's business.
    pub fn open_medium(medium: impl Medium, options: Options) -> Result<RedbStore, OpenError> {
        RedbStore::start(Box::new(medium), options, None)
    }

    fn start(
        medium: Box<dyn Medium>,
        options: Options,
        lock: Option<File>,
    ) -> Result<RedbStore, OpenError> {
        let room = medium.room().map_err(OpenError::from_io)?;
        let disk = Disk::open(medium, &options)?;
        let mut checkpoint =
            Checkpoint::new(options.checkpoint_revisions, options.checkpoint_bytes);
        let state = recover(disk.load()?, &disk.head, &options, &mut checkpoint)?;
        let embedded = Arc::new(Embedded::new(&options.hub, state));
        let queue = Arc::new(Queue::new(options.queue_requests, options.queue_bytes));
        let vital = Arc::<OnceLock<Vital>>::default();
        let writer = Writer {
            disk,
            embedded: embedded.clone(),
            queue: queue.clone(),
            checkpoint,
            reserve: Reserve::new(Some(room), vital.clone()),
        };
        let body = move || {
            let _lock = lock;
            let _end = WriterEnd(writer.embedded.clone(), writer.queue.clone());
            writer.run();
        };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(body)
            .map_err(OpenError::from_io)?;
        Ok(RedbStore { embedded, queue, vital, thread: Mutex::new(Some(thread)) })
    }

    async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, CommitError>>,
    ) -> Result<T, CommitError> {
        match self.queue.push(request) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(self.stopped())),
            Err(Refusal::Full) => Err(CommitError::Overloaded),
            Err(Refusal::Closed) => Err(self.stopped()),
        }
    }

    fn stopped(&self) -> CommitError {
        let why = self.embedded.failure.get();
        CommitError::Failed(why.unwrap_or_else(|| "the store is closed".to_owned()))
    }
}

/// Ends the watches when the writer is gone, however it went: nothing would come any more.
struct WriterEnd(Arc<Embedded>, Arc<Queue>);

impl Drop for WriterEnd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failure.set("its writer panicked");
        }
        // What waits is dropped, and so told.
        self.1.close();
        drop(self.1.take(&mut queue::Patience::default()));
        self.0.hub.end_all(WatchEnd::Closed);
    }
}

/// Dropped without a close, the store serves what waits and ends.
impl Drop for RedbStore {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// What a commit takes up in the queue, in bytes.
fn size(ops: &[Op]) -> usize {
    let of = |op: &Op| match op {
        Op::Put { key, value, .. } => key.0.len() + value.bytes.len(),
        Op::Delete { key, last, .. } => {
            key.0.len() + last.as_ref().map_or(0, |last| last.bytes.len())
        }
        Op::Check { key, .. } => key.0.len(),
    };
    ops.iter().map(|op| size_of::<Op>() + of(op)).sum()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let file = private::open(path).map_err(OpenError::from_io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse),
        Err(std::fs::TryLockError::Error(error)) => Err(OpenError::from_io(error)),
    }
}

/// Makes an empty store under another name first: redb cannot open what a crash leaves of its own
/// first steps.
fn create(path: &Path, options: &Options) -> Result<(), OpenError> {
    let fresh = beside(path, "new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(OpenError::from_io(error));
        }
        _ => {}
    }
    let disk = Disk::open(Box::new(FileMedium(fresh.clone())), options)?;
    disk.close().map_err(OpenError::Io)?;
    std::fs::rename(&fresh, path).map_err(OpenError::from_io)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new("."))).map_err(OpenError::from_io)?;
    directory.sync_all().map_err(OpenError::from_io)
}

/// The state from its rows and the log. What is newer than every state row becomes recent history
/// again; what is older is replayed without, and is due for the next checkpoint.
fn recover(
    loaded: Loaded,
    head: &Head,
    options: &Options,
    checkpoint: &mut Checkpoint,
) -> Result<State, OpenError> {
    let Loaded { mut entries, log } = loaded;
    let goal = head.checkpoint_goal.max(head.checkpoint);
    let mut log = log.into_iter().peekable();
    while let Some((revision, changes)) = log.next_if(|(revision, _)| *revision <= goal) {
        for change in changes {
            match change {
                Logged::Put { key, value } => {
                    checkpoint.replayed(key.clone(), key.0.len() + value.len());
                    entries.insert(key, Stored::new(value, revision));
                }
                Logged::Delete { key, .. } => {
                    entries.remove(&key);
                    checkpoint.replayed(key, 0);
                }
            }
        }
    }
    let mut state = State::new(&options.hub, goal.min(head.revision), entries);
    for (revision, changes) in log {
        let events = changes
            .into_iter()
            .map(|change| replay(&state, revision, change))
            .collect::<Result<Vec<_>, _>>()?;
        checkpoint.forgotten(&state.apply(&events, revision));
    }
    checkpoint.forgotten(&state.compact(head.compacted));
    Ok(state)
}

/// The event of a logged change, with the previous value from the state that it changes.
fn replay(state: &State, revision: Revision, change: Logged) -> Result<Arc<Event>, OpenError> {
    let known = |key: Key| match state.get_key_value(&key) {
        Some((known, stored)) => (known.clone(), Some(stored.value.clone())),
        None => (key, None),
    };
    let (key, change) = match change {
        Logged::Put { key, value } => {
            let (key, previous) = known(key);
            (key, Change::Put { value, previous })
        }
        Logged::Delete { key, last } => {
            let (key, previous) = known(key);
            let previous = previous.ok_or_else(|| {
                OpenError::Damaged(format!("revision {revision} deletes what is not there"))
            })?;
            let last = last.unwrap_or_else(|| previous.clone());
            (key, Change::Delete { last, previous })
        }
    };
    Ok(Arc::new(Event { revision, key, change }))
}

impl Backend for RedbStore {
    fn embedded(&self) -> &Embedded {
        &self.embedded
    }

    async fn write(&self, ops: Vec<Op>) -> Result<Committed, CommitError> {
        let (reply, answer) = oneshot::channel();
        let bytes = size(&ops);
        self.ask(Request::Commit { ops, bytes, reply }, answer).await
    }

    fn say_vital(&self, vital: Vital) {
        // The first one stays.
        let _ = self.vital.set(vital);
    }

    async fn forget(&self, revision: Revision) -> Result<(), CommitError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Compact { revision, reply }, answer).await
    }

    async fn end(&self) {
        // Waits for room in the queue, unlike a commit. The answer's channel goes with a request that
        // found none.
        let mut answer = None;
        let make = || {
            let (reply, receiver) = oneshot::channel();
            answer = Some(receiver);
            Request::Close { reply }
        };
        if self.queue.push_patiently(make).await
            && let Some(answer) = answer
        {
            let _ = answer.await;
        }
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // The thread has answered, so it is about to end; joining it frees the lock file.
            let _ = thread.join();
        }
    }
}
