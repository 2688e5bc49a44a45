//! Leader election by a Lease, as client-go's `tools/leaderelection` does it, and the fence that a
//! term's writes carry. [`Elector`] decides, without clock or I/O; [`run`] asks the API for it, and
//! [`gate`] is what a loop waits at.
//!
//! ```text
//!              none, released, our own of before, or silent for its duration
//!   follower ────────────────────────────────────────────────────────────────▶ leader: a new term
//!      ▲                                                                          │ renews
//!      └── another holds it, or no renewal came through within the deadline ◀─────┘
//! ```
//!
//! A holder's silence is measured by our own monotonic clock, from when we saw the lease change
//! last: no machine's wall clock decides anything. A term of ours is over on our own clock before
//! anybody else can have waited for as long as the lease asks; and where the clock stood still
//! meanwhile (a paused process), the API refuses what a finished term still wants ([`Fence`]).

pub mod gate;
pub mod run;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::Instant;

pub use gate::{Fenced, Gate};
pub use run::Election;

/// Where the leases of the control plane's parts are.
pub const NAMESPACE: &str = "kube-system";
/// The lease of the controllers, and that of the scheduler, named as upstream's.
pub const CONTROLLERS: &str = "kube-controller-manager";
pub const SCHEDULER: &str = "kube-scheduler";

/// The reason in the details of a refusal because of a [`Fence`].
pub const LOST: &str = "LeaseLost";

/// The times of an election. `lease > deadline > renew >= retry`.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Others wait for so long after the last renewal that they saw.
    pub lease: Duration,
    /// A leader that could not renew for so long leads no more.
    pub deadline: Duration,
    /// A follower looks this often, and a leader whose renewal failed tries again.
    pub retry: Duration,
    /// A leader renews this often. client-go's does at each retry; here a renewal is a flush of
    /// the disk, which an idle cluster should not hear all the time.
    pub renew: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        let seconds = Duration::from_secs;
        Timing { lease: seconds(30), deadline: seconds(20), retry: seconds(2), renew: seconds(10) }
    }
}

/// One term: what a write of its leader carries, so that it is committed only while the lease says
/// that the term lasts. The API server tests it in the commit itself.
#[derive(Debug)]
pub struct Fence {
    pub namespace: String,
    pub name: String,
    /// Of the Lease: one that was deleted and made anew begins to count anew.
    pub uid: String,
    pub holder: String,
    /// `spec.leaseTransitions`: one more for each term.
    pub transitions: i32,
    /// The revision at which the term began: what earlier leaders wrote came before.
    pub began: u64,
    /// The newest revision of the Lease of which it is known that the term lasts.
    seen: AtomicU64,
}

impl PartialEq for Fence {
    fn eq(&self, other: &Fence) -> bool {
        let parts = |fence: &Fence| (fence.transitions, fence.began);
        let texts = |fence: &Fence| {
            [&fence.namespace, &fence.name, &fence.uid, &fence.holder].map(String::clone)
        };
        parts(self) == parts(other) && texts(self) == texts(other)
    }
}

impl Eq for Fence {}

impl Fence {
    /// The term that a lease tells of.
    pub fn of(lease: &Lease) -> Fence {
        let (meta, spec) = (&lease.metadata, lease.spec.as_ref());
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let began = meta.resource_version.as_deref().map(super::cache::parse_revision);
        Fence {
            namespace: text(&meta.namespace),
            name: text(&meta.name),
            uid: text(&meta.uid),
            holder: spec.map(|spec| text(&spec.holder_identity)).unwrap_or_default(),
            transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or_default(),
            began: began.unwrap_or_default(),
            seen: AtomicU64::new(0),
        }
    }

    /// Whether the term lasts, by the lease as it is at a revision. `read` is called only where that
    /// is not known.
    pub fn lasts(&self, revision: u64, read: impl FnOnce() -> Option<Lease>) -> bool {
        if self.seen.load(Ordering::Relaxed) == revision {
            return true;
        }
        let lasts = read().is_some_and(|lease| self.is_of(&lease));
        if lasts {
            self.seen.store(revision, Ordering::Relaxed);
        }
        lasts
    }

    fn is_of(&self, lease: &Lease) -> bool {
        let now = Fence::of(lease);
        (&now.uid, &now.holder, now.transitions) == (&self.uid, &self.holder, self.transitions)
    }
}

/// What an elector wants done.
#[derive(Debug, PartialEq)]
pub enum Step {
    Create(Lease),
    /// Of the version that was read: who is second gets a conflict.
    Update(Lease),
    /// Another holds the lease.
    Wait,
}

/// Who follows and leads over one lease. Pure: it is told what was read, and the time.
pub struct Elector {
    name: String,
    identity: String,
    timing: Timing,
    /// The version of the lease that was seen last, and since when.
    seen: Option<((String, String), Instant)>,
    term: Option<(Arc<Fence>, Instant)>,
}

impl Elector {
    /// `identity` must be of this process, or of one that has ended.
    pub fn new(name: &str, identity: String, timing: Timing) -> Elector {
        Elector { name: name.into(), identity, timing, seen: None, term: None }
    }

    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The term that lasts, and until when, unless a renewal comes.
    pub fn term(&self, now: Instant) -> Option<(Arc<Fence>, Instant)> {
        self.term.clone().filter(|(_, until)| now < *until)
    }

    /// What is to be done about the lease as it was read just now. `wall` is written for people.
    pub fn step(&mut self, found: Option<&Lease>, now: Instant, wall: Timestamp) -> Step {
        let Some(lease) = found else {
            (self.seen, self.term) = (None, None);
            let metadata = ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(NAMESPACE.into()),
                ..ObjectMeta::default()
            };
            let spec = LeaseSpec { lease_transitions: Some(0), ..LeaseSpec::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            return Step::Create(self.held(&lease, true, wall));
        };
        let meta = &lease.metadata;
        let version = (meta.uid.clone(), meta.resource_version.clone());
        let version = (version.0.unwrap_or_default(), version.1.unwrap_or_default());
        let since = match &self.seen {
            Some((known, since)) if *known == version => *since,
            _ => now,
        };
        self.seen = Some((version, since));
        if self.term.as_ref().is_some_and(|(fence, _)| fence.is_of(lease)) {
            return Step::Update(self.held(lease, false, wall));
        }
        self.term = None;
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let seconds = spec.lease_duration_seconds.unwrap_or_default();
        let lasts = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        let is_free = holder.is_empty() || holder == self.identity;
        if !is_free && now.saturating_duration_since(since) < lasts {
            return Step::Wait;
        }
        let mut lease = lease.clone();
        let transitions = &mut lease.spec.get_or_insert_default().lease_transitions;
        // Upstream's counter overflows as well; what was written by hand may be anything.
        *transitions = Some(transitions.unwrap_or_default().wrapping_add(1).max(0));
        Step::Update(self.held(&lease, true, wall))
    }

    /// The write of a step succeeded. The time is that of before it was asked for.
    pub fn wrote(&mut self, answer: &Lease, asked: Instant) -> Arc<Fence> {
        let until = asked + self.timing.deadline;
        let fence = match &self.term {
            Some((fence, _)) if fence.is_of(answer) => fence.clone(),
            _ => Arc::new(Fence::of(answer)),
        };
        self.term = Some((fence.clone(), until));
        fence
    }

    /// How long until the next look.
    pub fn wait(&self, wrote: bool) -> Duration {
        if wrote { self.timing.renew } else { self.timing.retry }
    }

    /// The lease without a holder, if the term is ours (client-go's `ReleaseOnCancel`): whoever
    /// waits for it need not wait for its duration.
    pub fn release(&mut self, found: &Lease, wall: Timestamp) -> Option<Lease> {
        let (fence, _) = self.term.take()?;
        fence.is_of(found).then(|| {
            let mut lease = self.held(found, true, wall);
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            lease
        })
    }

    fn held(&self, lease: &Lease, is_new: bool, wall: Timestamp) -> Lease {
        let mut lease = lease.clone();
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.identity.clone());
        let seconds = self.timing.lease.as_secs().max(1);
        spec.lease_duration_seconds = Some(i32::try_from(seconds).unwrap_or(i32::MAX));
        spec.renew_time = Some(MicroTime(wall));
        if is_new {
            spec.acquire_time = Some(MicroTime(wall));
        }
        lease
    }
}

#[cfg(test)]
#[path = "election/tests.rs"]
mod tests;
