//! How often something is told of a container that it can bring about as often as it likes: little,
//! and the same thing only once in a while.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Things that are told at once, and how long it takes until one more may be.
pub const BURST: u32 = 5;
pub const REFILL: Duration = Duration::from_secs(60);
/// The same thing is not told again within this time.
pub const QUIET: Duration = Duration::from_secs(600);
/// Things that are remembered as told; with [`BURST`] and [`REFILL`] no more come within [`QUIET`].
const MAX_TOLD: usize = 16;

/// What was told of one container.
pub struct Told<T> {
    /// Tellings of the burst that were used, and when the last was given back.
    used: u32,
    refilled_at: Option<Instant>,
    things: VecDeque<(T, Instant)>,
}

impl<T> Default for Told<T> {
    fn default() -> Told<T> {
        Told { used: 0, refilled_at: None, things: VecDeque::new() }
    }
}

impl<T: Clone + PartialEq> Told<T> {
    /// Whether anything may be told now.
    pub fn has_room(&mut self, now: Instant) -> bool {
        let since = *self.refilled_at.get_or_insert(now);
        let back = now.duration_since(since).as_secs() / REFILL.as_secs();
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        if back > 0 {
            self.used = self.used.saturating_sub(back);
            self.refilled_at = Some(now);
        }
        self.used < BURST
    }

    /// Whether this is to be told: then it is remembered, and counted as told.
    pub fn is_new(&mut self, thing: &T, now: Instant) -> bool {
        self.things.retain(|(_, at)| now.duration_since(*at) < QUIET);
        if self.things.iter().any(|(told, _)| told == thing) {
            return false;
        }
        if self.things.len() >= MAX_TOLD {
            self.things.pop_front();
        }
        self.things.push_back((thing.clone(), now));
        self.used += 1;
        true
    }
}
