//! Exponential back-off by key, without a clock: the caller tells the time.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Doubles from `first` to `most`; forgets a key that was quiet for twice `most`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub first: Duration,
    pub most: Duration,
}

/// The waits of many keys.
#[derive(Debug)]
pub struct Backoff<K> {
    limits: Limits,
    entries: HashMap<K, (Duration, Timestamp)>,
}

impl<K: Hash + Eq + Clone> Backoff<K> {
    pub fn new(limits: Limits) -> Backoff<K> {
        Backoff { limits, entries: HashMap::new() }
    }

    /// Records a failure and returns how long to wait before the next try.
    pub fn next(&mut self, key: &K, now: Timestamp) -> Duration {
        let wait = match self.entries.get(key) {
            Some((last, at)) if !self.expired(*at, now) => (*last * 2).min(self.limits.most),
            _ => self.limits.first,
        };
        self.entries.insert(key.clone(), (wait, now));
        wait
    }

    /// Forgets a key after a success.
    pub fn forget(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// Drops the keys that were quiet for long, so that memory follows what fails now.
    pub fn sweep(&mut self, now: Timestamp) {
        let limits = self.limits;
        self.entries.retain(|_, (_, at)| !expired(limits, *at, now));
    }

    fn expired(&self, at: Timestamp, now: Timestamp) -> bool {
        expired(self.limits, at, now)
    }
}

fn expired(limits: Limits, at: Timestamp, now: Timestamp) -> bool {
    let quiet = SignedDuration::try_from(limits.most * 2).unwrap_or(SignedDuration::MAX);
    now.duration_since(at) > quiet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_most_and_forgets() {
        let limits = Limits { first: Duration::from_secs(1), most: Duration::from_secs(5) };
        let mut backoff = Backoff::new(limits);
        let now = Timestamp::UNIX_EPOCH;
        let waits: Vec<u64> = (0..4).map(|_| backoff.next(&"a", now).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5]);
        backoff.forget(&"a");
        assert_eq!(backoff.next(&"a", now).as_secs(), 1);
        let later = now + SignedDuration::from_secs(11);
        assert_eq!(backoff.next(&"a", later).as_secs(), 1);
        backoff.sweep(later + SignedDuration::from_secs(11));
        assert!(backoff.entries.is_empty());
    }
}
