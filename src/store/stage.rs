//! A batch of commits on their way: tested one after another, not yet visible.
//!
//! Each commit is tested against the state as the commits before it in the batch will leave it.
//! Nothing of the state changes here; the batch's events are applied once they are durable, or
//! dropped if they never become so.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::state::{State, Stored};
use super::{Change, CommitError, Committed, Event, Expect, Key, Op, Revision};

pub(super) struct Stage<'a> {
    state: &'a State,
    revision: Revision,
    overlay: HashMap<Key, Option<Stored>>,
    events: Vec<Arc<Event>>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(state: &'a State) -> Stage<'a> {
        Stage { state, revision: state.revision(), overlay: HashMap::new(), events: Vec::new() }
    }

    /// The events of all commits that succeeded, in order, and the last one's revision.
    pub(super) fn finish(self) -> (Vec<Arc<Event>>, Revision) {
        (self.events, self.revision)
    }

    pub(super) fn commit(&mut self, ops: &[Op]) -> Result<Committed, CommitError> {
        self.test(ops)?;
        let changes = ops.iter().any(|op| !matches!(op, Op::Check { .. }));
        if !changes {
            return Ok(Committed { revision: self.revision, values: Vec::new() });
        }
        self.revision += 1;
        let revision = self.revision;
        let mut values = Vec::with_capacity(ops.len());
        for op in ops {
            let (key, change) = match op {
                Op::Check { .. } => continue,
                Op::Put { key, value, expect } => {
                    let value = value.at(revision);
                    values.push(value.clone());
                    // What was tested to be absent need not be looked for again.
                    let (key, previous) = match expect {
                        Expect::Absent => (key.clone(), None),
                        _ => {
                            let previous = self.current(key).map(|stored| stored.value.clone());
                            (self.shared(key), previous)
                        }
                    };
                    (key, Change::Put { value, previous })
                }
                Op::Delete { key, last, .. } => {
                    let Some(stored) = self.current(key) else { continue };
                    let previous = stored.value.clone();
                    let last =
                        last.as_ref().map_or_else(|| previous.clone(), |last| last.at(revision));
                    values.push(last.clone());
                    (self.shared(key), Change::Delete { last, previous })
                }
            };
            self.change(key, change);
        }
        Ok(Committed { revision, values })
    }

    /// Tests every expectation against the state before this commit.
    fn test(&self, ops: &[Op]) -> Result<(), CommitError> {
        // Most commits change one key, which takes no set.
        let mut first = None;
        let mut changed = HashSet::new();
        for (index, op) in ops.iter().enumerate() {
            let (key, expect) = match op {
                Op::Put { key, expect, .. }
                | Op::Delete { key, expect, .. }
                | Op::Check { key, expect } => (key, *expect),
            };
            let current = self.current(key);
            let once = matches!(op, Op::Check { .. })
                || *first.get_or_insert(index) == index
                || ops[first.unwrap_or_default()].key() != key && changed.insert(key);
            let exists = current.is_some() || !matches!(op, Op::Delete { .. });
            let expected = match expect {
                Expect::Any => true,
                Expect::Absent => current.is_none(),
                Expect::Revision(revision) => {
                    current.is_some_and(|stored| stored.revision == revision)
                }
            };
            if !(once && exists && expected) {
                let current = current.map(|stored| stored.entry(key));
                return Err(CommitError::Conflict { op: index, current });
            }
        }
        Ok(())
    }

    /// All uses of a key share the bytes of the one in the map.
    fn shared(&self, key: &Key) -> Key {
        self.state.get_key_value(key).map_or(key, |(key, _)| key).clone()
    }

    fn current(&self, key: &Key) -> Option<&Stored> {
        match self.overlay.get(key) {
            Some(staged) => staged.as_ref(),
            None => self.state.get(key),
        }
    }

    fn change(&mut self, key: Key, change: Change) {
        let staged = match &change {
            Change::Put { value, .. } => Some(Stored::new(value.clone(), self.revision)),
            Change::Delete { .. } => None,
        };
        self.overlay.insert(key.clone(), staged);
        self.events.push(Arc::new(Event { revision: self.revision, key, change }));
    }
}
