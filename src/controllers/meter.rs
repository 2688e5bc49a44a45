//! What is counted of one controller. Several loops of one name (the garbage collector's, one a
//! kind) share a meter, so that names stay unique where the numbers are shown.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::api::{ApiError, ObjectKey};
use crate::base::durations::{Distribution, Durations};
use crate::client::controller_status::ControllerStatus;

#[derive(Default)]
pub(super) struct Meter {
    pub(super) reconciles: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) panics: AtomicU64,
    /// Writes that succeeded.
    pub(super) writes: AtomicU64,
    /// Plans that waited for their pace.
    pub(super) held: AtomicU64,
    /// From a key's mark to its turn.
    pub(super) waited: Durations,
    /// From there to the end of its writes.
    pub(super) worked: Durations,
    last_run: Mutex<Option<Timestamp>>,
    last_error: Mutex<Option<(Timestamp, String)>>,
}

/// How one controller fares.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub controller: &'static str,
    /// Keys that wait now.
    pub waiting: usize,
    /// Keys that come again at a time of their own.
    pub later: usize,
    /// Keys that were put into the queue.
    pub adds: u64,
    pub reconciles: u64,
    pub failures: u64,
    pub conflicts: u64,
    pub panics: u64,
    pub writes: u64,
    /// Plans that waited since they would have written the same once more, or too often.
    pub held: u64,
    /// From a key's mark to its turn.
    pub waited: Distribution,
    /// From there to the end of its writes.
    pub worked: Distribution,
    /// Of the last reconciles, in seconds.
    pub p50_seconds: Option<f64>,
    pub p99_seconds: Option<f64>,
    pub last_run: Option<Timestamp>,
    pub last_error: Option<(Timestamp, String)>,
}

impl Meter {
    pub(super) fn run(&self, now: Timestamp) {
        self.reconciles.fetch_add(1, Ordering::Relaxed);
        *self.last_run.lock() = Some(now);
    }

    pub(super) fn error(&self, key: &ObjectKey, error: &ApiError, now: Timestamp) {
        *self.last_error.lock() = Some((now, format!("{key}: {error}")));
    }

    /// Without what the queues tell.
    pub(super) fn stats(&self, controller: &'static str) -> Stats {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let quantile = |part| self.worked.quantile(part).map(|took| took.as_secs_f64());
        Stats {
            controller,
            reconciles: count(&self.reconciles),
            failures: count(&self.failures),
            conflicts: count(&self.conflicts),
            panics: count(&self.panics),
            writes: count(&self.writes),
            held: count(&self.held),
            waited: self.waited.distribution(),
            worked: self.worked.distribution(),
            p50_seconds: quantile(0.5),
            p99_seconds: quantile(0.99),
            last_run: *self.last_run.lock(),
            last_error: self.last_error.lock().clone(),
            ..Stats::default()
        }
    }
}

impl Stats {
    /// Times that a key came again after a failure or a conflict.
    pub fn retries(&self) -> u64 {
        self.failures + self.conflicts
    }

    /// As the page about controllers shows it.
    pub fn page(&self) -> ControllerStatus {
        let time = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        ControllerStatus {
            name: self.controller.into(),
            queue: self.waiting,
            later: self.later,
            reconciles: self.reconciles,
            writes: self.writes,
            retries: self.retries(),
            failures: self.failures,
            conflicts: self.conflicts,
            panics: self.panics,
            held: self.held,
            last_run: self.last_run.map(time),
            last_error: self.last_error.as_ref().map(|(_, text)| text.clone()),
            last_error_time: self.last_error.as_ref().map(|(at, _)| time(*at)),
            p50_seconds: self.p50_seconds,
            p99_seconds: self.p99_seconds,
        }
    }
}
