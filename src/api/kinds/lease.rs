//! Lease (coordination.k8s.io/v1): node heartbeats and leader election.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// Of those that have no domain of their own.
const STRATEGIES: &[&str] = &["OldestEmulationVersion"];

impl Kind for Lease {
    const META: KindMeta = KindMeta { singular: "lease", ..DEFAULT_META };

    fn validate(&self, errors: &mut Errors) {
        let Some(lease) = &self.spec else { return };
        let spec = Path::new("spec");
        if let Some(seconds) = lease.lease_duration_seconds.filter(|s| *s <= 0) {
            let path = spec.child("leaseDurationSeconds");
            errors.invalid(&path, seconds, "must be greater than 0");
        }
        let transitions = spec.child("leaseTransitions");
        checks::nonnegative_if_set(errors, &transitions, lease.lease_transitions);
        let strategy = lease.strategy.as_deref().unwrap_or_default();
        // Upstream names the field twice.
        let at = spec.child("strategy");
        let at = at.child("strategy");
        if strategy.contains('/') {
            checks::qualified_name(errors, &at, strategy);
        } else if lease.strategy.is_some() && !STRATEGIES.contains(&strategy) {
            errors.not_supported(&at, strategy, STRATEGIES);
        }
        let preferred = lease.preferred_holder.as_deref().unwrap_or_default();
        if strategy.is_empty() && !preferred.is_empty() {
            let detail = "may only be specified if `strategy` is defined";
            errors.forbidden(&spec.child("preferredHolder"), detail);
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Holder", "string", "The identity of the current holder of the lease."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let holder = self.spec.as_ref().and_then(|s| s.holder_identity.clone());
        vec![
            table::name(&self.metadata),
            holder.unwrap_or_default().into(),
            table::age(&self.metadata, now),
        ]
    }
}
