//! The time, real or virtual. Waiting is always through tokio's timer, so a paused tokio runtime
//! moves waits and, with [`VirtualClock`], the wall clock together.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

/// Tells the wall-clock time and waits.
#[async_trait::async_trait]
pub trait Clock: Send + Sync + 'static {
    /// The wall-clock time.
    fn now(&self) -> Timestamp;

    /// Waits; in tests on virtual time.
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A clock that everyone in the process may hold.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A wall clock that follows tokio's (possibly paused) timer from a fixed start.
pub struct VirtualClock {
    start: Timestamp,
    origin: tokio::time::Instant,
}

impl VirtualClock {
    /// Must be called inside a tokio runtime.
    pub fn new(start: Timestamp) -> VirtualClock {
        VirtualClock { start, origin: tokio::time::Instant::now() }
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let passed = self.origin.elapsed();
        self.start
            .checked_add(jiff::SignedDuration::try_from(passed).unwrap_or_default())
            .unwrap_or(self.start)
    }
}
