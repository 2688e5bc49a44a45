//! A wall clock on virtual time that somebody sets forward and back.

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use wasmfleet::base::clock::{Clock, VirtualClock};

/// Follows virtual time, at a distance that jumps.
pub struct JumpingClock {
    inner: VirtualClock,
    offset: Mutex<SignedDuration>,
}

impl JumpingClock {
    /// Must be called inside a tokio runtime.
    pub fn new(start: Timestamp) -> JumpingClock {
        JumpingClock { inner: VirtualClock::new(start), offset: Mutex::default() }
    }

    /// Sets the clock forward, or back where `seconds` are negative.
    pub fn jump(&self, seconds: i64) {
        *self.offset.lock() += SignedDuration::from_secs(seconds);
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        let now = self.inner.now();
        now.checked_add(*self.offset.lock()).unwrap_or(now)
    }
}
