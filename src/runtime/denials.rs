//! What a container was refused of the network: all of it is counted, and some of it is told, so that
//! who wonders why a program cannot connect finds the reason. A guest may try as often as it likes:
//! what is told is bounded, and what is counted costs a few instructions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::told::Told;
use super::workload::Platform;

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
    told: Mutex<Told<Denial>>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::told::{BURST, QUIET, REFILL};

    #[derive(Default)]
    struct Listener(Mutex<Vec<Denial>>);

    impl Platform for Listener {
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
