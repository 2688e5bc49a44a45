//! Which state rows are to be written, piece by piece.
//!
//! The log alone would grow for ever. So the keys of events that left the ring are remembered, and
//! when enough of them came together their state rows are brought up to date: a checkpoint. It is
//! written in pieces of sorted keys that ride in the transactions of ordinary commits, so that no
//! commit waits long; where no commits come, the log does not grow either. Between pieces the rows
//! are of mixed age. That does no harm: the log is replayed from the last complete checkpoint, and
//! replaying a put or a deletion over its own later outcome ends in the same state.
//!
//! Rows are written as they were at the ring's floor, not as they are now: so the log always holds
//! the ring's events, and after a restart watches go on where they were.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::disk::Rows;
use super::record::Head;
use crate::store::state::State;
use crate::store::{Event, Key, Revision};

/// A checkpoint begins when events of this many revisions left the ring since the last one…
pub(super) const CHECKPOINT_REVISIONS: u64 = 20_000;
/// …or events of this many bytes.
pub(super) const CHECKPOINT_BYTES: usize = 32 * 1024 * 1024;
/// How many state rows one transaction writes, besides twice the number of its events: so a
/// checkpoint always ends before the next one is due.
const PIECE_KEYS: usize = 256;
/// How many bytes of state rows one transaction writes (the first row always fits), besides twice
/// those of its log rows.
const PIECE_BYTES: usize = 1024 * 1024;
/// How many log rows one transaction removes.
const TRIM_REVISIONS: u64 = 4096;

pub(super) struct Checkpoint {
    every_revisions: u64,
    every_bytes: usize,
    /// The keys whose state rows are older than the ring's floor.
    dirty: BTreeSet<Key>,
    /// The size of the events that made them so.
    dirty_bytes: usize,
    running: Option<Running>,
}

/// A checkpoint under way.
struct Running {
    /// Once all its keys are written, the state rows hold everything up to here.
    target: Revision,
    /// The keys to be written, the last one first.
    keys: Vec<Key>,
}

/// How much of the checkpoint a transaction may take.
pub(super) struct Room {
    keys: usize,
    bytes: usize,
}

impl Room {
    pub(super) fn beside(events: usize, log_bytes: usize) -> Room {
        Room { keys: PIECE_KEYS + 2 * events, bytes: PIECE_BYTES + 2 * log_bytes }
    }
}

/// What a transaction takes of the checkpoint.
pub(super) struct Piece {
    keys: usize,
}

impl Checkpoint {
    pub(super) fn new(every_revisions: u64, every_bytes: usize) -> Checkpoint {
        Checkpoint {
            every_revisions,
            every_bytes,
            dirty: BTreeSet::new(),
            dirty_bytes: 0,
            running: None,
        }
    }

    /// Notes events that left the ring.
    pub(super) fn forgotten(&mut self, events: &[Arc<Event>]) {
        for event in events {
            self.dirty_bytes += event.key.0.len() + event.value().len();
            self.dirty.insert(event.key.clone());
        }
    }

    /// Notes a change that was replayed below the ring's floor.
    pub(super) fn replayed(&mut self, key: Key, bytes: usize) {
        self.dirty_bytes += bytes;
        self.dirty.insert(key);
    }

    /// Whether pieces of a checkpoint are still to be written.
    pub(super) fn is_due(&self, head: &Head) -> bool {
        self.running.is_some() || head.trimmed < head.checkpoint
    }

    /// Begins a checkpoint, unless one is under way or there is nothing to do.
    pub(super) fn begin(&mut self, floor: Revision) {
        if self.running.is_some() || self.dirty.is_empty() {
            return;
        }
        let keys = std::mem::take(&mut self.dirty).into_iter().rev().collect();
        self.dirty_bytes = 0;
        self.running = Some(Running { target: floor, keys });
    }

    /// Adds the next piece to a transaction, if any is due.
    pub(super) fn piece(
        &mut self,
        state: &State,
        room: Room,
        rows: &mut Rows,
        head: &mut Head,
    ) -> Piece {
        let floor = state.floor();
        let revisions = floor.saturating_sub(head.checkpoint);
        if revisions >= self.every_revisions || self.dirty_bytes >= self.every_bytes {
            self.begin(floor);
        }
        rows.trim = head.checkpoint.min(head.trimmed + TRIM_REVISIONS);
        let Some(running) = &self.running else { return Piece { keys: 0 } };
        let mut bytes = 0;
        for key in running.keys.iter().rev().take(room.keys) {
            let stored = state.at(key, floor).cloned();
            bytes += stored.as_ref().map_or(0, |stored| stored.value.len());
            rows.state.push((key.clone(), stored));
            if bytes >= room.bytes {
                break;
            }
        }
        head.checkpoint_goal = head.checkpoint_goal.max(floor);
        if rows.state.len() == running.keys.len() {
            head.checkpoint = running.target;
        }
        Piece { keys: rows.state.len() }
    }

    /// The piece is durable.
    pub(super) fn written(&mut self, piece: Piece) {
        if let Some(running) = &mut self.running {
            running.keys.truncate(running.keys.len().saturating_sub(piece.keys));
            if running.keys.is_empty() {
                self.running = None;
            }
        }
    }
}
