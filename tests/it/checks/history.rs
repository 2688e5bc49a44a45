//! What clients did and what watchers saw.

use std::collections::BTreeMap;

/// A resource version; 0 where there is none.
pub type Version = u64;

/// A moment on one monotonic clock, in nanoseconds.
pub type Moment = u64;

/// What a client asked for. Contents are unique, so that each tells which write made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Get,
    Create { content: u64 },
    Update { content: u64, expected: Version },
    Delete { expected: Version },
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The object as it is now (for a deletion: its last version).
    Done { version: Version, content: u64 },
    /// There is no such object.
    Absent,
    /// It exists already, or is not of the version expected (any more).
    Refused,
    /// Nobody knows: the connection or the server ended.
    Unknown,
}

/// One request of one client about one object.
#[derive(Clone, Debug)]
pub struct Operation {
    pub key: String,
    pub request: Request,
    pub called: Moment,
    pub returned: Moment,
    pub outcome: Outcome,
}

/// A version of an object in the order of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub version: Version,
    /// `None`: it was deleted at this version.
    pub content: Option<u64>,
}

/// All versions of all objects, oldest first.
pub type States = BTreeMap<String, Vec<State>>;

/// What a watcher was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Event {
        kind: Kind,
        key: String,
        version: Version,
        content: u64,
    },
    Bookmark(Version),
    /// The stream ended and was begun again from the last version seen.
    Resumed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Added,
    Modified,
    Deleted,
}

/// One watcher of a collection.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// The version that it began after.
    pub from: Version,
    /// It asked only for objects whose content is even.
    pub even_only: bool,
    pub seen: Vec<Seen>,
}

/// The versions that a watcher of everything saw.
pub fn states(watcher: &Watcher) -> States {
    let mut states = States::new();
    for seen in &watcher.seen {
        if let Seen::Event { kind, key, version, content } = seen {
            let content = (*kind != Kind::Deleted).then_some(*content);
            states.entry(key.clone()).or_default().push(State { version: *version, content });
        }
    }
    states
}
