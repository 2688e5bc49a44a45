//! What a container was refused of the network: all of it is counted, and some of it is told, so that
//! who wonders why a program cannot connect finds the reason. A guest may try as often as it likes:
//! what is told is bounded, and what is counted costs a few instructions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::workload::Platform;

/// Refusals that are told at once, and how long it takes until one more may be.
const BURST: u32 = 5;
const REFILL: Duration = Duration::from_secs(60);
/// The same place is not told of again within this time.
const QUIET: Duration = Duration::from_secs(600);
/// Places that are remembered as told; with [`BURST`] and [`REFILL`] no more come within [`QUIET`].
const MAX_TOLD: usize = 16;

/// A connection, a datagram or a look-up that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// A name or an address.
    pub host: String,
    /// None of a look-up.
    pub port: Option<u16>,
    /// Whether listing the host would allow it.
    pub can_be_listed: bool,
}

/// Of one container; its instances share it.
#[derive(Default)]
pub struct Denials {
    count: AtomicU64,
    platform: Option<Arc<dyn Platform>>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// Tellings of the burst that were used, and when the last was given back.
    used: u32,
    refilled_at: Option<Instant>,
    places: VecDeque<(Denial, Instant)>,
}

impl Denials {
    /// Tells the platform.
    pub fn to(platform: Arc<dyn Platform>) -> Denials {
        Denials { platform: Some(platform), ..Denials::default() }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub fn note(&self, host: &dyn std::fmt::Display, port: Option<u16>, can_be_listed: bool) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let Some(platform) = &self.platform else { return };
        let denial = {
            let mut told = self.told.lock();
            let now = Instant::now();
            if !told.has_room(now) {
                return;
            }
            let denial = Denial { host: host.to_string(), port, can_be_listed };
            if !told.is_new(&denial, now) {
                return;
            }
            denial
        };
        platform.denied(denial);
    }
}

impl Told {
    fn has_room(&mut self, now: Instant) -> bool {
        let since = *self.refilled_at.get_or_insert(now);
        let back = now.duration_since(since).as_secs() / REFILL.as_secs();
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        if back > 0 {
            self.used = self.used.saturating_sub(back);
            self.refilled_at = Some(now);
        }
        self.used < BURST
    }

    /// Remembers it, and counts it as told.
    fn is_new(&mut self, denial: &Denial, now: Instant) -> bool {
        self.places.retain(|(_, at)| now.duration_since(*at) < QUIET);
        if self.places.iter().any(|(told, _)| told == denial) {
            return false;
        }
        if self.places.len() >= MAX_TOLD {
            self.places.pop_front();
        }
        self.places.push_back((denial.clone(), now));
        self.used += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::workload::{Bucket, Changes, WriteError};

    #[derive(Default)]
    struct Listener(Mutex<Vec<Denial>>);

    #[async_trait::async_trait]
    impl Platform for Listener {
        async fn token(&self, _: &str) -> Result<String, String> {
            Err(String::new())
        }

        async fn read(&self, _: &str) -> Result<Bucket, String> {
            Err(String::new())
        }

        async fn write(&self, _: &str, _: Option<&str>, _: Changes) -> Result<(), WriteError> {
            Err(WriteError::Conflict)
        }

        fn denied(&self, denial: Denial) {
            self.0.lock().push(denial);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_is_counted_and_little_is_told() {
        let listener = Arc::new(Listener::default());
        let denials = Denials::to(listener.clone());
        for _ in 0..1000 {
            denials.note(&"example.com", Some(443), true);
        }
        assert_eq!((denials.count(), listener.0.lock().len()), (1000, 1));
        for port in 0..1000 {
            denials.note(&"example.com", Some(port), true);
        }
        assert_eq!((denials.count(), listener.0.lock().len()), (2000, BURST as usize));
        tokio::time::advance(REFILL * 2).await;
        for port in 0..1000 {
            denials.note(&"example.com", Some(port), true);
        }
        assert_eq!(listener.0.lock().len(), BURST as usize + 2);
        tokio::time::advance(QUIET).await;
        denials.note(&"example.com", Some(443), true);
        let first = Denial { host: "example.com".into(), port: Some(443), can_be_listed: true };
        assert_eq!(listener.0.lock().last(), Some(&first), "told again after a while");
    }
}
