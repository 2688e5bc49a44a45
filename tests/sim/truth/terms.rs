//! Leaders take turns: no write of a term comes after the next one began, and none is of no term.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::api::coordination::v1::Lease;
use parking_lot::Mutex;
use wasmfleet::api::ObjectKey;
use wasmfleet::client::cache::{Changed, parse_revision};
use wasmfleet::client::election;

use super::Truth;

/// What is known of the terms of all leases.
#[derive(Default)]
pub struct Terms {
    leases: Mutex<BTreeMap<String, BTreeMap<i32, Term>>>,
    violations: Mutex<Vec<String>>,
    refused: AtomicU64,
}

#[derive(Default)]
struct Term {
    /// Where it began, once that is known.
    began: Option<u64>,
    /// The newest revision that was written in it.
    wrote: u64,
}

impl Terms {
    pub fn start(truth: &Truth) -> Arc<Terms> {
        let terms = Arc::new(Terms::default());
        let weak = Arc::downgrade(&terms);
        truth.cache.listen(Box::new(move |change| {
            if let Some(terms) = weak.upgrade() {
                terms.look(change);
            }
        }));
        terms
    }

    fn look(&self, change: &Changed) {
        let (_, Some(lease)) = change.typed::<Lease>() else { return };
        let ObjectKey { namespace, name } = &change.key;
        let number = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
        let (true, Some(number)) = (namespace == election::NAMESPACE, number) else { return };
        let text = lease.metadata.resource_version.as_deref();
        let revision = parse_revision(text.unwrap_or_default());
        let mut leases = self.leases.lock();
        let terms = leases.entry(name.to_string()).or_default();
        terms.entry(number).or_default().began.get_or_insert(revision);
        self.check(name, terms);
    }

    /// A write of a term was committed.
    pub fn wrote(&self, lease: &str, number: i32, revision: u64) {
        let mut leases = self.leases.lock();
        let terms = leases.entry(lease.into()).or_default();
        let term = terms.entry(number).or_default();
        term.wrote = term.wrote.max(revision);
        self.check(lease, terms);
    }

    /// A write of a term that was over was refused.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub fn violate(&self, text: String) {
        self.violations.lock().push(text);
    }

    fn check(&self, lease: &str, terms: &BTreeMap<i32, Term>) {
        let mut wrote = (0, 0);
        for (number, term) in terms {
            let (before, revision) = wrote;
            if let Some(began) = term.began.filter(|began| *began < revision) {
                self.violate(format!(
                    "{lease}: term {before} wrote revision {revision}, after {number} began at \
                     {began}"
                ));
            }
            if term.wrote > revision {
                wrote = (*number, term.wrote);
            }
        }
    }

    /// How many terms were seen.
    pub fn count(&self) -> usize {
        self.leases.lock().values().map(BTreeMap::len).sum()
    }

    pub fn refusals(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }
}
