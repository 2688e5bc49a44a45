//! The present state of a store in memory, with enough of the past to read it at a recent revision.
//!
//! Owns the ordered map of entries, the ring of recent events, and for each event in the ring that
//! replaced or removed something, what that was. It knows nothing of locks, disks or watchers. The
//! oldest readable revision is the ring's floor: an event that leaves the ring takes the older state
//! of its key along.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::hub::HubOptions;
use super::ring::Ring;
use super::{Change, Entry, Event, Key, ReadError, Revision};

/// A value with the revision of its last change; the key stands in the map.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) value: Bytes,
    pub(super) revision: Revision,
    pub(super) note: Note,
}

/// What a reader noted of a value, so that the next one need not look at it; 0 is nothing. It goes
/// with the value.
#[derive(Debug, Default)]
pub struct Note(AtomicU64);

impl Clone for Note {
    fn clone(&self) -> Note {
        Note(AtomicU64::new(self.get()))
    }
}

impl Note {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, note: u64) {
        self.0.store(note, Ordering::Relaxed);
    }
}

impl Stored {
    pub(super) fn new(value: Bytes, revision: Revision) -> Stored {
        Stored { value, revision, note: Note::default() }
    }

    pub(super) fn entry(&self, key: &Key) -> Entry {
        Entry { key: key.clone(), value: self.value.clone(), revision: self.revision }
    }
}

/// The state that a key had until the change at revision `until`.
struct Older {
    until: Revision,
    stored: Stored,
}

pub(super) struct State {
    revision: Revision,
    entries: BTreeMap<Key, Stored>,
    ring: Ring,
    /// For each event in the ring the state before it, oldest first; a key that was not there has
    /// none.
    older: BTreeMap<Key, VecDeque<Older>>,
}

impl State {
    /// A state as of `revision`, before which nothing can be read.
    pub(super) fn new(
        options: &HubOptions,
        revision: Revision,
        entries: BTreeMap<Key, Stored>,
    ) -> State {
        State { revision, entries, ring: Ring::new(options, revision), older: BTreeMap::new() }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that can be read.
    pub(super) fn floor(&self) -> Revision {
        self.ring.floor()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Stored> {
        self.entries.get(key)
    }

    pub(super) fn get_key_value(&self, key: &Key) -> Option<(&Key, &Stored)> {
        self.entries.get_key_value(key)
    }

    pub(super) fn readable(&self, at: Revision) -> Result<(), ReadError> {
        if at > self.revision {
            return Err(ReadError::Future { asked: at, current: self.revision });
        }
        if at < self.floor() {
            return Err(ReadError::Compacted { asked: at, oldest: self.floor() });
        }
        Ok(())
    }

    /// The state of a key at a readable revision.
    pub(super) fn at(&self, key: &Key, at: Revision) -> Option<&Stored> {
        choose(self.entries.get(key), self.older.get(key), at)
    }

    /// Calls `visit` for the entries whose keys lie after `after` and start with `prefix`, in
    /// order, as they were at a readable revision, until it breaks.
    pub(super) fn visit(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        at: Revision,
        mut visit: impl FnMut(&Key, &Stored) -> ControlFlow<()>,
    ) {
        let from = match after {
            Some(after) if after.starts_with(prefix) => Bound::Excluded(after),
            Some(after) if after > prefix => return,
            _ => Bound::Included(prefix),
        };
        // The end is found once, so that no key need be looked at.
        let end = prefix.end();
        let range = (from, end.as_ref().map_or(Bound::Unbounded, Bound::Excluded));
        let present = self.entries.range::<Key, _>(range);
        if at >= self.revision {
            for (key, stored) in present {
                if visit(key, stored).is_break() {
                    return;
                }
            }
            return;
        }
        let mut present = present.peekable();
        let mut older = self.older.range::<Key, _>(range).peekable();
        loop {
            let (key, stored) = match (present.peek(), older.peek()) {
                (None, None) => return,
                (Some((key, _)), Some((old, _))) if key == old => {
                    let key = *key;
                    let now = present.next().map(|(_, stored)| stored);
                    (key, choose(now, older.next().map(|(_, versions)| versions), at))
                }
                (Some((key, _)), other) if other.is_none_or(|(old, _)| key < old) => {
                    (*key, choose(present.next().map(|(_, stored)| stored), None, at))
                }
                _ => match older.next() {
                    Some((key, versions)) => (key, choose(None, Some(versions), at)),
                    None => return,
                },
            };
            if let Some(stored) = stored
                && visit(key, stored).is_break()
            {
                return;
            }
        }
    }

    /// The recent events on `prefix` with `from < revision ≤ through`.
    pub(super) fn events_between(
        &self,
        prefix: &Key,
        from: Revision,
        through: Revision,
    ) -> Vec<Arc<Event>> {
        self.ring.between(prefix, from, through)
    }

    /// Applies the events of whole commits, the last of which has `revision`. Returns the events
    /// that left the ring for it.
    pub(super) fn apply(&mut self, events: &[Arc<Event>], revision: Revision) -> Vec<Arc<Event>> {
        for event in events {
            let before = match &event.change {
                Change::Put { value, .. } => {
                    let stored = Stored::new(value.clone(), event.revision);
                    self.entries.insert(event.key.clone(), stored)
                }
                Change::Delete { .. } => self.entries.remove(&event.key),
            };
            if let Some(stored) = before {
                let older = Older { until: event.revision, stored };
                let versions = self.older.entry(event.key.clone());
                versions.or_insert_with(|| VecDeque::with_capacity(1)).push_back(older);
            }
            self.ring.push(event.clone());
        }
        self.revision = revision;
        let mut gone = Vec::new();
        while self.ring.is_over_bounds()
            && let Some(oldest) = self.ring.oldest()
        {
            self.forget(oldest, &mut gone);
        }
        gone
    }

    /// Forgets everything before `revision`, and returns the events that left the ring.
    pub(super) fn compact(&mut self, revision: Revision) -> Vec<Arc<Event>> {
        let revision = revision.min(self.revision);
        let mut gone = Vec::new();
        self.forget(revision, &mut gone);
        self.ring.raise_floor(revision);
        gone
    }

    fn forget(&mut self, through: Revision, gone: &mut Vec<Arc<Event>>) {
        while let Some(event) = self.ring.pop_through(through) {
            let replaced = match &event.change {
                Change::Put { previous, .. } => previous.is_some(),
                Change::Delete { .. } => true,
            };
            if replaced && let Some(versions) = self.older.get_mut(&event.key) {
                versions.pop_front();
                if versions.is_empty() {
                    self.older.remove(&event.key);
                }
            }
            gone.push(event);
        }
    }
}

/// A key's state at a revision: the present one if nothing changed since, else the state that
/// lasted until the first later change. What came later than the revision was not there.
fn choose<'a>(
    present: Option<&'a Stored>,
    older: Option<&'a VecDeque<Older>>,
    at: Revision,
) -> Option<&'a Stored> {
    let lasted = older.and_then(|versions| versions.iter().find(|version| version.until > at));
    let stored = lasted.map(|version| &version.stored).or(present);
    stored.filter(|stored| stored.revision <= at)
}
