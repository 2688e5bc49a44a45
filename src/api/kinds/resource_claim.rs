//! ResourceClaim (resource.k8s.io/v1).
//!
//! Upstream: pkg/apis/resource/validation/validation.go.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimStatus};
use serde_json::Value;

use super::scheduling_validation::validate_node_selector;
use super::{checks, devices, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// Most users of an allocated claim.
const MAX_CONSUMERS: usize = 256;

impl Kind for ResourceClaim {
    const META: KindMeta = KindMeta {
        singular: "resourceclaim",
        status: true,
        delete_returns_object: true,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        devices::default_claim(&mut self.spec);
        self.status.get_or_insert_default();
    }

    fn validate_create(&self, errors: &mut Errors) {
        devices::validate_claim(errors, &Path::new("spec"), &self.spec);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        checks::immutable(errors, &Path::new("spec"), &self.spec, &old.spec);
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let before = old.status.clone().unwrap_or_default();
        let deleted = self.metadata.deletion_timestamp.is_some();
        let names = devices::request_names(&self.spec);
        validate_status(errors, &status, &before, deleted, &names);
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("ResourceClaim")]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("State", "string", "Whether it is allocated, reserved, deleted."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let deleted = self.metadata.deletion_timestamp.is_some();
        let allocated = status.allocation.is_some();
        let reserved = status.reserved_for.iter().flatten().next().is_some();
        let states = [
            ("deleted", deleted),
            ("pending", !deleted && !allocated),
            ("allocated", allocated),
            ("reserved", allocated && reserved),
        ];
        let states: Vec<&str> = states.iter().filter(|(_, set)| *set).map(|(s, _)| *s).collect();
        let state = states.join(",");
        vec![table::name(&self.metadata), state.into(), table::age(&self.metadata, now)]
    }
}

fn validate_status(
    errors: &mut Errors,
    status: &ResourceClaimStatus,
    old: &ResourceClaimStatus,
    deleted: bool,
    names: &devices::RequestNames,
) {
    let path = Path::new("status");
    let at = path.child("reservedFor");
    let consumers = status.reserved_for.as_deref().unwrap_or_default();
    if consumers.len() > MAX_CONSUMERS {
        errors.too_many(&at, consumers.len(), MAX_CONSUMERS);
    }
    let mut uids = BTreeSet::new();
    for (i, consumer) in consumers.iter().enumerate() {
        let at = at.index(i);
        let parts =
            [("resource", &consumer.resource), ("name", &consumer.name), ("uid", &consumer.uid)];
        for (field, _) in parts.into_iter().filter(|(_, text)| text.is_empty()) {
            errors.required(&at.child(field), "");
        }
        if !uids.insert(&consumer.uid) {
            errors.duplicate(&at, &consumer.uid);
        }
    }
    if !consumers.is_empty() {
        let known: BTreeSet<&String> = old.reserved_for.iter().flatten().map(|c| &c.uid).collect();
        if status.allocation.is_none() {
            errors.forbidden(&at, "may not be specified when `allocated` is not set");
        } else if deleted && !uids.is_subset(&known) {
            let detail = "new entries may not be added while `deallocationRequested` or \
                          `deletionTimestamp` are set";
            errors.forbidden(&at, detail);
        }
    }
    let at = path.child("allocation");
    match (&status.allocation, &old.allocation) {
        (Some(new), Some(old)) => checks::immutable(errors, &at, new, old),
        (Some(new), None) => {
            if let Some(selector) = &new.node_selector {
                validate_node_selector(errors, &at.child("nodeSelector"), selector);
            }
            let results = new.devices.as_ref().and_then(|devices| devices.results.as_deref());
            devices::validate_results(errors, &at, results.unwrap_or_default(), names);
        }
        (None, _) => {}
    }
}
