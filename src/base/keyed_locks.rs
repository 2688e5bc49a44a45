//! One lock a key, for work that must be done once though many ask for it. Keys that nobody holds
//! or waits for take no memory.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// Locks by key; share it by reference.
#[derive(Default)]
pub struct KeyedLocks {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Holds one key; frees it when dropped.
pub struct KeyedGuard<'a> {
    // Dropped before the place, which counts who else has the lock.
    _held: OwnedMutexGuard<()>,
    _place: Place<'a>,
}

/// Somebody holds or waits for a key.
struct Place<'a> {
    locks: &'a KeyedLocks,
    key: String,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut locks = self.locks.locks.lock();
        // The map and this place have it: nobody else does.
        if Arc::strong_count(&self.lock) <= 2 {
            locks.remove(&self.key);
        }
    }
}

impl KeyedLocks {
    /// Waits until the key is free, in the order of asking. Cancel-safe.
    pub async fn lock(&self, key: &str) -> KeyedGuard<'_> {
        let lock = self.locks.lock().entry(key.to_string()).or_default().clone();
        let place = Place { locks: self, key: key.to_string(), lock };
        let held = place.lock.clone().lock_owned().await;
        KeyedGuard { _held: held, _place: place }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_left() {
        let locks = KeyedLocks::default();
        let first = locks.lock("a").await;
        let other = locks.lock("b").await;
        let mut second = Box::pin(locks.lock("a"));
        assert!(second.as_mut().now_or_never().is_none());
        drop(locks.lock("a").now_or_never());
        drop((first, other));
        drop(second.await);
        assert!(locks.locks.lock().is_empty());
    }
}
