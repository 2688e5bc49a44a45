//! What changed of nodes and counts since a cycle looked last, so that what it found out is mended
//! rather than found out anew.

use std::collections::VecDeque;

use super::topology::Tallies;

/// Changes that are kept; who is further behind begins anew. Some megabytes.
const KEPT: usize = 1 << 16;

#[derive(Clone, Debug)]
pub enum Change {
    /// What is taken of a node, or kept there for nominees; by its index.
    Taken(u32),
    /// What else filters and scores read of a node.
    Renewed(u32),
    /// A pod is counted on a node by these tallies, or no more.
    Counted { tallies: Tallies, node: u32, is_there: bool },
}

/// The newest changes.
#[derive(Clone, Default)]
pub struct Changes {
    /// How many were dropped.
    dropped: u64,
    kept: VecDeque<Change>,
    generation: u64,
}

/// A place between two changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    generation: u64,
    next: u64,
}

impl Changes {
    pub fn add(&mut self, change: Change) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
            self.dropped += 1;
        }
        self.kept.push_back(change);
    }

    /// Everything is different: nodes came or went, or the domains that they are in.
    pub fn begin_anew(&mut self) {
        self.generation += 1;
        self.dropped += self.kept.len() as u64;
        self.kept.clear();
    }

    /// Counts how often everything was different.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The place after the newest change.
    pub fn position(&self) -> Position {
        Position { generation: self.generation, next: self.dropped + self.kept.len() as u64 }
    }

    /// The changes after a place; `None` if they are not known any more.
    pub fn since(&self, position: Position) -> Option<impl Iterator<Item = &Change>> {
        let skipped = position.next.checked_sub(self.dropped)?;
        let skipped = usize::try_from(skipped).ok()?;
        (position.generation == self.generation).then(|| self.kept.range(skipped..))
    }
}
