//! Where a loop waits for its term: open while the lease is ours by our own clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Fence, LOST};
use crate::api::{ApiError, Raw};
use crate::client::SharedApi;
use crate::client::around::{Around, Write};
use crate::client::cache::Cache;

/// The term that lasts, if one does; cheap to clone.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    term: Mutex<Option<(Arc<Fence>, Instant)>>,
    /// Wakes in the order in which they wait, so that a simulation plays again as it did.
    changed: Notify,
    /// The newest beginning of a term that the cache has shown.
    shown: AtomicU64,
    /// A write was refused for the term's sake.
    doubt: Notify,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate(Arc::new(Inner {
            term: Mutex::new(None),
            changed: Notify::new(),
            shown: AtomicU64::new(0),
            doubt: Notify::new(),
        }))
    }
}

impl Gate {
    pub(super) fn set(&self, term: Option<(Arc<Fence>, Instant)>) {
        *self.0.term.lock() = term;
        self.0.changed.notify_waiters();
    }

    /// Waits until somebody doubts the term.
    pub(super) async fn doubted(&self) {
        self.0.doubt.notified().await;
    }

    /// The term that lasts at this moment.
    pub fn term(&self) -> Option<Arc<Fence>> {
        let term = self.0.term.lock();
        term.as_ref().filter(|(_, until)| Instant::now() < *until).map(|(fence, _)| fence.clone())
    }

    /// Waits for a term, and until the cache shows all that was written before it began: the
    /// decisions of a new leader see every write of those before it.
    pub async fn enter(&self, cache: &Cache) -> Arc<Fence> {
        loop {
            // Before the look, so that no change falls between.
            let changed = self.0.changed.notified();
            let Some(fence) = self.term() else {
                changed.await;
                continue;
            };
            if self.0.shown.load(Ordering::Relaxed) >= fence.began {
                return fence;
            }
            self.until_shown(&fence, cache).await;
        }
    }

    /// Waits until the cache has come to where a term began, or the term is over. What is late is
    /// listed anew, and again where no answer comes to that.
    async fn until_shown(&self, fence: &Arc<Fence>, cache: &Cache) {
        let mut ask_at = Instant::now();
        loop {
            // Before the looks, so that no change falls between.
            let (changed, progressed) = (self.0.changed.notified(), cache.progressed());
            if self.term().as_ref() != Some(fence) {
                return;
            }
            let asks = Instant::now() >= ask_at;
            if cache.has_reached(fence.began, asks) {
                self.0.shown.fetch_max(fence.began, Ordering::Relaxed);
                return;
            }
            if asks {
                ask_at = Instant::now() + super::run::CALL_LIMIT;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = progressed => {}
                () = tokio::time::sleep_until(ask_at) => {}
            }
        }
    }

    /// Tells of an error of a write: one for the term's sake makes the election look at once.
    pub fn note(&self, error: &ApiError) {
        let causes = error.details.iter().flat_map(|details| &details.causes);
        if causes.into_iter().any(|cause| cause.reason == LOST) {
            self.0.doubt.notify_one();
        }
    }
}

/// An API whose writes carry the fence of the term that was entered last: for a loop that decides
/// and performs by turns. Before the first term it refuses to write.
pub struct Fenced {
    inner: SharedApi,
    gate: Gate,
    entered: Mutex<Option<Arc<Fence>>>,
}

impl Fenced {
    pub fn new(inner: SharedApi, gate: Gate) -> Fenced {
        Fenced { inner, gate, entered: Mutex::new(None) }
    }

    /// [`Gate::enter`]; writes are of this term from now on.
    pub async fn enter(&self, cache: &Cache) {
        let fence = self.gate.enter(cache).await;
        *self.entered.lock() = Some(fence);
    }

    fn fence(&self) -> Result<Arc<Fence>, ApiError> {
        let fence = self.entered.lock().clone();
        fence.ok_or_else(|| ApiError::unavailable("this writer leads nothing yet"))
    }
}

impl Around for Fenced {
    fn inner(&self) -> SharedApi {
        self.inner.clone()
    }

    async fn write(&self, mut write: Write<'_>) -> Result<Raw, ApiError> {
        *write.what.fence() = Some(self.fence()?);
        write.perform(&*self.inner).await.inspect_err(|error| self.gate.note(error))
    }
}
