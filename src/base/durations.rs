//! How long something took: counts by upstream's buckets for Prometheus, and the last few exactly,
//! for a person who looks now.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Upper bounds in seconds, from 10 ns to 1,000 s (k8s.io/component-base/metrics/prometheus/workqueue).
const BOUNDS: [f64; 12] =
    [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0];
/// The durations that are kept exactly.
const RECENT: usize = 256;

/// Durations of one thing; shared by `Arc`.
#[derive(Debug, Default)]
pub struct Durations {
    /// The last one is of those beyond all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
    /// In microseconds; what took longer than they can tell took 71 minutes.
    recent: Mutex<VecDeque<u32>>,
}

/// What was counted: for a histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// In seconds.
    pub sum: f64,
    pub count: u64,
    /// The upper bound and the count of each bucket alone; the last bound is `f64::INFINITY`.
    pub buckets: Vec<(f64, u64)>,
}

impl Durations {
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
        let mut recent = self.recent.lock();
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// Of the last 256: the least duration that so much of them (0.5, 0.99) did not exceed.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let mut recent: Vec<u32> = self.recent.lock().iter().copied().collect();
        recent.sort_unstable();
        let rank = (part.clamp(0.0, 1.0) * recent.len() as f64).ceil() as usize;
        recent.get(rank.max(1) - 1).map(|micros| Duration::from_micros((*micros).into()))
    }

    pub fn distribution(&self) -> Distribution {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
        Distribution { sum, count, buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_last_and_counts_of_all() {
        let durations = Durations::default();
        assert_eq!(durations.quantile(0.5), None);
        durations.observe(Duration::from_secs(5000));
        for millis in 1..=RECENT as u64 {
            durations.observe(Duration::from_millis(millis));
        }
        assert_eq!(durations.quantile(0.5), Some(Duration::from_millis(128)));
        assert_eq!(durations.quantile(0.99), Some(Duration::from_millis(254)));
        assert_eq!(durations.quantile(0.0), Some(Duration::from_millis(1)));
        let all = durations.distribution();
        assert_eq!(all.count, RECENT as u64 + 1);
        assert_eq!(all.buckets.last(), Some(&(f64::INFINITY, 1)));
        assert_eq!(all.buckets[5], (1e-3, 1));
        assert!((all.sum - 5032.896).abs() < 1e-6, "{}", all.sum);
    }
}
