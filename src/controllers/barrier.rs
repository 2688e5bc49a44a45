//! The read-your-writes barrier: a key is not reconciled until the cache shows its own last writes.
//!
//! ```text
//!            written          taken, not seen yet            the table moved, all seen
//!   (none) ──────────▶ needs ─────────────────────▶ parked ─────────────────────────────▶ marked
//!                        │ taken, all seen            │ patience over: list again; twice: give up
//!                        ▼                            ▼
//!                    reconciled                    taken again
//! ```
//!
//! A write is seen when the table of its resource has reached the revision that the write returned;
//! a deletion when the object is gone, replaced or marked as deleting. It knows no controllers and
//! makes no calls.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::base::planted::planted;
use crate::client::cache::View;

/// How long a key waits for its writes to be seen before its tables are listed again; after twice
/// as long it waits no more (a store restored from a backup never reaches the revision).
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What one controller's keys wait for.
#[derive(Default)]
pub struct Barrier {
    state: Mutex<State>,
    /// Whether a key is parked or about to be: set before the view is taken that decides it, so
    /// that whoever moved a table after that view sees it. Most barriers hold nothing up.
    holds: AtomicBool,
}

#[derive(Default)]
struct State {
    needs: HashMap<ObjectKey, Needs>,
    /// In an order, as they are released in it.
    parked: BTreeSet<ObjectKey>,
}

/// What must be seen before a key is reconciled again.
#[derive(Default, Debug)]
pub struct Needs {
    revisions: HashMap<Gvr, u64>,
    deletions: Vec<(Gvr, ObjectKey, String)>,
    /// Resources of creations that failed without an answer: they may have happened. The driver
    /// asks how far the store is and replaces them by a revision.
    pub doubted: BTreeSet<Gvr>,
    since: Option<Instant>,
}

/// Whether a key may be reconciled.
#[derive(Debug, PartialEq, Eq)]
pub enum Check {
    Ready,
    /// [`Barrier::released`] names the key once its writes are seen.
    Parked,
    /// These tables should be listed again; the key is parked.
    Late(Vec<Gvr>),
    /// These resources may have been written to: ask for their revision first.
    Doubted(Vec<Gvr>),
}

impl Needs {
    /// A write of `resource` returned `revision`.
    pub fn revision(&mut self, resource: Gvr, revision: u64) {
        let needed = self.revisions.entry(resource).or_default();
        *needed = revision.max(*needed);
    }

    /// The object with this uid was deleted.
    pub fn deletion(&mut self, resource: Gvr, key: ObjectKey, uid: String) {
        self.deletions.push((resource, key, uid));
    }

    fn is_empty(&self) -> bool {
        self.revisions.is_empty() && self.deletions.is_empty() && self.doubted.is_empty()
    }

    /// Forgets what the view shows.
    fn prune(&mut self, view: &View) {
        self.revisions.retain(|resource, revision| view.revision(resource) < *revision);
        self.deletions.retain(|(resource, key, uid)| {
            view.object(resource, key).is_some_and(|object| {
                let meta = object.meta();
                meta.uid.as_deref() == Some(uid) && meta.deletion_timestamp.is_none()
            })
        });
    }

    fn late(&self) -> Vec<Gvr> {
        let deletions = self.deletions.iter().map(|(resource, _, _)| resource);
        let mut late: Vec<Gvr> = self.revisions.keys().chain(deletions).cloned().collect();
        late.sort();
        late.dedup();
        late
    }
}

impl Barrier {
    /// Adds what a key's writes returned. Resources that the cache does not keep must be left out
    /// by the caller: they are never seen.
    pub fn add(&self, key: &ObjectKey, needs: Needs, now: Instant) {
        if needs.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        let entry = state.needs.entry(key.clone()).or_default();
        for (resource, revision) in needs.revisions {
            entry.revision(resource, revision);
        }
        entry.deletions.extend(needs.deletions);
        entry.doubted.extend(needs.doubted);
        entry.since = Some(now);
    }

    /// Replaces a doubt by the revision that must be seen.
    pub fn resolve(&self, key: &ObjectKey, resource: &Gvr, revision: u64) {
        if let Some(needs) = self.state.lock().needs.get_mut(key) {
            needs.doubted.remove(resource);
            needs.revision(resource.clone(), revision);
        }
    }

    /// Whether a key may be reconciled on a view taken now. The view is taken while the barrier is
    /// locked, so that no progress is missed between looking and parking.
    pub fn check<'a>(
        &self,
        key: &ObjectKey,
        now: Instant,
        view: impl FnOnce() -> View<'a>,
    ) -> Check {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.parked.remove(key);
        if planted("own writes are not waited for") {
            state.needs.remove(key);
        }
        let Some(needs) = state.needs.get_mut(key) else { return Check::Ready };
        if !needs.doubted.is_empty() {
            return Check::Doubted(needs.doubted.iter().cloned().collect());
        }
        self.holds.store(true, Ordering::SeqCst);
        needs.prune(&view());
        let waited = now.saturating_duration_since(needs.since.unwrap_or(now));
        if needs.is_empty() || waited >= PATIENCE * 2 {
            if !needs.is_empty() {
                tracing::warn!(%key, ?needs, "own writes were never seen; going on without");
            }
            state.needs.remove(key);
            self.holds.store(!state.parked.is_empty(), Ordering::SeqCst);
            return Check::Ready;
        }
        state.parked.insert(key.clone());
        if waited >= PATIENCE { Check::Late(needs.late()) } else { Check::Parked }
    }

    /// The parked keys whose writes are all seen now; they are parked no more.
    pub fn released<'a>(&self, view: impl FnOnce() -> View<'a>) -> Vec<ObjectKey> {
        if !self.holds.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let mut state = self.state.lock();
        let state = &mut *state;
        let view = view();
        let mut released = Vec::new();
        state.parked.retain(|key| {
            let waits = state.needs.get_mut(key).is_some_and(|needs| {
                needs.prune(&view);
                !needs.is_empty()
            });
            if !waits {
                released.push(key.clone());
            }
            waits
        });
        self.holds.store(!state.parked.is_empty(), Ordering::SeqCst);
        released
    }
}
