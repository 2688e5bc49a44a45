//! Ordered bytes with revisions: where the cluster's state lives.
//!
//! The store knows keys and bytes, never kinds. One `u64` counter, the revision, counts commits
//! for the whole store; the API shows it as `resourceVersion`. A commit is acknowledged only after
//! it is durable (for durable backends), and every commit is seen by every watcher in order.
//!
//! A stored value carries its own revision in its text (`"resourceVersion":"17"`), yet the revision
//! is known only to the single writer. So a [`Value`] may have a splice point: the writer inserts
//! the decimal revision there, and the stored bytes are the very bytes that readers are sent.

pub mod conformance;
mod embedded;
mod failure;
pub mod hub;
pub mod memory;
pub mod redb;
mod ring;
mod stage;
mod state;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

pub use self::state::Note;

/// The counter of commits. 0 is the empty store; the first commit has revision 1.
pub type Revision = u64;

/// A key: opaque ordered bytes. Use [`Key::new`], whose parts cannot run into each other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(pub Bytes);

/// The value of a put. `splice_at` is the byte offset at which the writer inserts the decimal
/// revision of this commit; `None` stores the bytes as they are.
#[derive(Clone, Debug)]
pub struct Value {
    pub bytes: Bytes,
    pub splice_at: Option<usize>,
}

/// What a write requires of the key's present state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// The key must not exist.
    Absent,
    /// The key's last change must have this revision.
    Revision(Revision),
    /// The key may have any state.
    Any,
}

/// One change of one key; a commit is one or more of them, all or none.
///
/// Every expectation of a commit is tested against the state before the commit, and a key may be
/// changed by one operation of a commit only: a second change of it is a
/// [`CommitError::Conflict`]. A commit without changes (checks only) takes no revision of its own
/// and returns the present one.
#[derive(Clone, Debug)]
pub enum Op {
    Put {
        key: Key,
        value: Value,
        expect: Expect,
    },
    /// Deleting a key that does not exist is a [`CommitError::Conflict`].
    /// `last` is the value that watchers see with the deletion (its splice point takes the
    /// revision of the deletion); `None` sends the stored value.
    Delete {
        key: Key,
        expect: Expect,
        last: Option<Value>,
    },
    /// Requires a state of the key and changes nothing.
    Check {
        key: Key,
        expect: Expect,
    },
}

/// A stored value with the revision of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    pub value: Bytes,
    pub revision: Revision,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Put; `previous` is the value that it replaced, if any.
    Put { value: Bytes, previous: Option<Bytes> },
    /// Deleted; `last` is the final value that watchers are shown, `previous` the stored one.
    Delete { last: Bytes, previous: Bytes },
}

/// One event of a watch. Events of one commit share its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: Revision,
    pub key: Key,
    pub change: Change,
}

/// What a successful commit made.
#[derive(Clone, Debug)]
pub struct Committed {
    pub revision: Revision,
    /// The stored bytes of each `Put` (spliced), or the final bytes of each `Delete`, in the order
    /// of the operations (`Check` gives none).
    pub values: Vec<Bytes>,
}

/// Part of a key range, read at one revision.
#[derive(Clone, Debug)]
pub struct Page {
    /// The revision that was read.
    pub revision: Revision,
    pub entries: Vec<Entry>,
    /// Whether more entries follow the last one.
    pub more: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// An expectation did not hold for the operation with this index. `current` is the key's
    /// present entry, if it has one. Nothing was written.
    #[error("operation {op} expected another state of the key")]
    Conflict { op: usize, current: Option<Entry> },
    /// The disk has no room left and nothing was written; reads and watches go on, deletions too for
    /// a while, and every later write tries the disk anew.
    #[error("no space left in the store: {0}")]
    NoSpace(String),
    /// The queue of waiting commits is full; try again later.
    #[error("too many writes are waiting")]
    Overloaded,
    /// The store failed and takes no more writes (after a failed fsync, for instance).
    #[error("the store takes no more writes: {0}")]
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The revision asked for is older than the oldest one kept.
    #[error("revision {asked} was compacted; the oldest kept is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    /// The revision asked for has not been reached.
    #[error("revision {asked} is in the future; the newest is {current}")]
    Future { asked: Revision, current: Revision },
    #[error("the store cannot be read: {0}")]
    Failed(String),
}

/// Finds an event's tags: opaque bytes that tell apart which watches of a prefix it concerns. `None`
/// where that is not known. Called by the writer for the events of prefixes that have watches with
/// tags: must be quick, and must not block.
pub type TagsOf = Box<dyn Fn(&Event) -> Option<Vec<Bytes>> + Send + Sync>;

/// Whether a put goes on while the disk is full, like every deletion; see [`Store::set_vital`]. Given
/// its key and its value, the latter without the revision.
pub type Vital = Box<dyn Fn(&Key, &[u8]) -> bool + Send + Sync>;

/// What [`Store::visit`] calls: with the key, the value, the revision of its last change, and what
/// earlier readers noted of this value.
pub type Visit<'a> = dyn FnMut(&Key, &Bytes, Revision, &Note) -> ControlFlow<()> + 'a;

/// A stream of events, in order, without gaps.
pub struct Watch {
    pub(crate) receiver: hub::Receiver,
}

/// Why a watch ended.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum WatchEnd {
    /// The watcher fell too far behind; begin again from the last revision seen.
    #[error("the watcher was too slow")]
    TooSlow,
    #[error("the store was closed")]
    Closed,
}

/// Ordered bytes with revisions. Every backend passes [`conformance`].
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest committed (and for durable backends, durable) revision.
    fn revision(&self) -> Revision;

    /// The newest entry of a key. Always sees every acknowledged commit. Does not block on disk.
    fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError>;

    /// The entries whose keys start with `prefix` and are greater than `after`, in key order,
    /// at most `limit` (0: all), at revision `at` (`None`: the newest).
    fn list(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, ReadError>;

    /// Visits what [`Store::list`] would list, without making anything of it, for as long as
    /// `visit` goes on. Returns the revision that was read. Writers wait meanwhile: a visit should
    /// break after some thousand entries, and go on with another call.
    fn visit(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        at: Option<Revision>,
        visit: &mut Visit<'_>,
    ) -> Result<Revision, ReadError>;

    /// How many keys start with `prefix` and are greater than `after`, at revision `at` (`None`:
    /// the newest). It visits all of them: lists do not count by themselves.
    fn count(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        at: Option<Revision>,
    ) -> Result<u64, ReadError>;

    /// Commits all operations or none, and returns when the commit is durable and visible.
    async fn commit(&self, ops: Vec<Op>) -> Result<Committed, CommitError>;

    /// Every event with a revision greater than `from` on keys that start with `prefix`, exactly
    /// once and in order. `from` = [`Store::revision`] gives only what comes.
    fn watch(&self, prefix: &Key, from: Revision) -> Result<Watch, ReadError>;

    /// [`Store::watch`] for a watcher that needs only the events with `tag`, so that others need not
    /// wake it. It may be handed others too: those of before it began, and those of unknown tags.
    fn watch_tagged(&self, prefix: &Key, tag: &Bytes, from: Revision) -> Result<Watch, ReadError>;

    /// Sets how tags are found, from the next event on; until then they are unknown.
    fn set_tags_of(&self, tags_of: TagsOf);

    /// Sets which puts go on while the disk is full. A store that has no disk does without.
    fn set_vital(&self, vital: Vital);

    /// Forgets history before `revision`: reads and watches from earlier revisions fail with
    /// [`ReadError::Compacted`]. The present state stays. A revision beyond the newest counts as
    /// the newest; one that is forgotten already changes nothing.
    async fn compact(&self, revision: Revision) -> Result<(), CommitError>;

    /// Waits for everything that was accepted and closes the store: watches end with
    /// [`WatchEnd::Closed`], commits fail, the present state stays readable.
    async fn close(&self);

    /// Why the store takes no more writes, since something failed that only a new start can mend
    /// (a failed fsync, for instance). A full disk and a close in good order are no failures.
    fn failure(&self) -> Option<String>;

    /// Waits for [`Store::failure`], for ever if there is none. Whoever serves a store ends then.
    async fn failed(&self) -> String;
}

/// A store that anyone in the process may hold.
pub type SharedStore = Arc<dyn Store>;

impl Key {
    /// A key of parts, each followed by a terminator that no part can contain: every part's bytes
    /// are escaped (0x00 → 0x00 0xFF) and closed with 0x00 0x00, so that the order of keys is the
    /// order of their parts and no name can escape its namespace or resource.
    pub fn new(parts: &[&str]) -> Key {
        let mut bytes = Vec::with_capacity(parts.iter().map(|p| p.len() + 2).sum());
        for part in parts {
            for byte in part.as_bytes() {
                bytes.push(*byte);
                if *byte == 0 {
                    bytes.push(0xFF);
                }
            }
            bytes.extend_from_slice(&[0, 0]);
        }
        Key(Bytes::from(bytes))
    }

    /// The key that is the prefix of every key.
    pub fn everything() -> Key {
        Key(Bytes::new())
    }

    /// The parts that [`Key::new`] was given; `None` for bytes that it did not make.
    pub fn parts(&self) -> Option<Vec<String>> {
        let mut parts = Vec::new();
        let mut part = Vec::new();
        let mut bytes = self.0.iter().copied();
        while let Some(byte) = bytes.next() {
            match byte {
                0 => match bytes.next()? {
                    0 => parts.push(String::from_utf8(std::mem::take(&mut part)).ok()?),
                    0xFF => part.push(0),
                    _ => return None,
                },
                byte => part.push(byte),
            }
        }
        part.is_empty().then_some(parts)
    }

    pub fn starts_with(&self, prefix: &Key) -> bool {
        self.0.starts_with(&prefix.0)
    }

    /// The least key above all that start with this one; `None` if there is none above.
    pub(super) fn end(&self) -> Option<Key> {
        let last = self.0.iter().rposition(|byte| *byte != 0xFF)?;
        let mut bytes = self.0[..=last].to_vec();
        bytes[last] += 1;
        Some(Key(Bytes::from(bytes)))
    }
}

impl Op {
    pub fn key(&self) -> &Key {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } | Op::Check { key, .. } => key,
        }
    }
}

impl Value {
    /// Bytes to be stored as they are.
    pub fn plain(bytes: impl Into<Bytes>) -> Value {
        Value { bytes: bytes.into(), splice_at: None }
    }

    /// The bytes to store at `revision`: always a copy of exactly their own size, so that a stored
    /// value never keeps the larger buffer alive from which it was cut. A splice point beyond the
    /// end counts as the end.
    pub fn at(&self, revision: Revision) -> Bytes {
        let Some(offset) = self.splice_at else { return Bytes::copy_from_slice(&self.bytes) };
        let (head, tail) = self.bytes.split_at(offset.min(self.bytes.len()));
        let digits = revision.to_string();
        let mut out = Vec::with_capacity(self.bytes.len() + digits.len());
        out.extend_from_slice(head);
        out.extend_from_slice(digits.as_bytes());
        out.extend_from_slice(tail);
        Bytes::from(out)
    }
}

impl Event {
    /// The bytes after the event: the new value, or the last one of a deleted key.
    pub fn value(&self) -> &Bytes {
        match &self.change {
            Change::Put { value, .. } => value,
            Change::Delete { last, .. } => last,
        }
    }
}

impl Watch {
    /// The next batch of events (never empty). Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<Event>, WatchEnd> {
        self.receiver.next().await
    }

    /// The newest revision up to which every event was returned by [`Watch::next`], no older than
    /// any commit that was acknowledged before the call; `None` while events wait, or after the
    /// watch's end.
    pub fn caught_up(&self) -> Option<Revision> {
        self.receiver.caught_up()
    }
}
