//! Control loops: what should happen. Each controller is a pure function from a view, a key and
//! the time to a [`Plan`]; `driver` owns waking, writing, back-off and the read-your-writes barrier.
//!
//! A controller takes only a key, never the event; the same state gives the same plan; it never
//! retries. To add one: write its file, add its line to the list.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::resource::Gvr;
use crate::api::{Object, ObjectKey};
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;
use crate::client::{DeleteOptions, Patch, Target};

/// One control loop.
pub trait Controller: Send + Sync + 'static {
    /// For logs, metrics and the field manager.
    fn name(&self) -> &'static str;

    /// The keys that a change makes dirty. Called for every change of a kept kind; must be cheap
    /// for kinds that the controller does not care about. The view already shows the change.
    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey>;

    /// The resources that it reads; used for the first pass and for documentation.
    fn reads(&self) -> Vec<Gvr>;

    /// What should be done about a key. Pure: no I/O, no clock, no randomness (names that must be
    /// unique are derived from content or left to `generateName`).
    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan;
}

/// What a controller wants done. Writes are performed in order of their groups; within a group
/// side by side. The first failed group ends the plan, and the key comes again after a back-off.
#[derive(Default, Debug)]
pub struct Plan {
    pub writes: Vec<Write>,
    pub notices: Vec<Notice>,
    /// Look again after this time even if nothing changes.
    pub again_after: Option<Duration>,
}

/// One write. Writes with a stale precondition fail with a conflict and are planned anew.
#[derive(Debug)]
pub enum Write {
    Create {
        target: Target,
        object: Object,
    },
    /// A whole object with the resource version that it was read at.
    Update {
        target: Target,
        object: Object,
    },
    Patch {
        target: Target,
        patch: Patch,
    },
    Delete {
        target: Target,
        options: DeleteOptions,
    },
    /// Waits for the writes before it.
    Then,
}
