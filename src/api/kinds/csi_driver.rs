//! CSIDriver (storage.k8s.io/v1).

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec};
use serde_json::Value;

use super::{checks, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

const POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
const LIFECYCLES: &[&str] = &["Persistent", "Ephemeral"];
/// How often a node's room for volumes may be asked for at most, in seconds.
const LEAST_UPDATE_SECONDS: i64 = 10;
/// Shortest and longest life of a token, in seconds.
const LEAST_EXPIRATION_SECONDS: i64 = 600;
const MOST_EXPIRATION_SECONDS: i64 = 1 << 32;

impl Kind for CSIDriver {
    const META: KindMeta = KindMeta {
        singular: "csidriver",
        delete_returns_object: true,
        unconditional_update: false,
        generation: Generation::Spec,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = &mut self.spec;
        spec.attach_required.get_or_insert(true);
        spec.pod_info_on_mount.get_or_insert(false);
        spec.storage_capacity.get_or_insert(false);
        spec.requires_republish.get_or_insert(false);
        spec.se_linux_mount.get_or_insert(false);
        spec.fs_group_policy.get_or_insert_with(|| POLICIES[2].into());
        if spec.volume_lifecycle_modes.as_ref().is_none_or(Vec::is_empty) {
            spec.volume_lifecycle_modes = Some(vec![LIFECYCLES[0].into()]);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        validate_spec(errors, &Path::new("spec"), &self.spec);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::new("spec");
        let (new, old) = (&self.spec, &old.spec);
        // Upstream calls the field so.
        let at = path.child("attachedRequired");
        checks::immutable(errors, &at, &new.attach_required, &old.attach_required);
        let at = path.child("volumeLifecycleModes");
        checks::immutable(errors, &at, &new.volume_lifecycle_modes, &old.volume_lifecycle_modes);
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("CSIDriver")]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("AttachRequired", "boolean", "Whether volumes are attached to nodes."),
            Column::new("PodInfoOnMount", "boolean", "Whether it is told whom it mounts for."),
            Column::new("StorageCapacity", "boolean", "Whether it tells what room is left."),
            Column::new("TokenRequests", "string", "The audiences of the tokens it is given."),
            Column::new("RequiresRepublish", "boolean", "Whether mounts are told again."),
            Column::new("Modes", "string", "The kinds of volumes that it makes."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = &self.spec;
        let tokens: Option<Vec<&str>> = spec
            .token_requests
            .as_ref()
            .map(|tokens| tokens.iter().map(|token| token.audience.as_str()).collect());
        let tokens = tokens.map_or("<unset>".into(), |tokens| tokens.join(","));
        let modes = spec.volume_lifecycle_modes.as_deref().unwrap_or_default().join(",");
        vec![
            table::name(&self.metadata),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or_default().into(),
            spec.storage_capacity.unwrap_or_default().into(),
            tokens.into(),
            spec.requires_republish.unwrap_or_default().into(),
            checks::or_none(Some(&modes)).into(),
            table::age(&self.metadata, now),
        ]
    }
}

fn validate_spec(errors: &mut Errors, path: &Path, spec: &CSIDriverSpec) {
    let policy = spec.fs_group_policy.as_deref().unwrap_or_default();
    if !POLICIES.contains(&policy) {
        errors.not_supported(&path.child("fsGroupPolicy"), policy, POLICIES);
    }
    let at = path.child("volumeLifecycleModes");
    for mode in spec.volume_lifecycle_modes.iter().flatten() {
        if !LIFECYCLES.contains(&mode.as_str()) {
            errors.not_supported(&at, mode, LIFECYCLES);
        }
    }
    if let Some(period) = spec.node_allocatable_update_period_seconds
        && period < LEAST_UPDATE_SECONDS
    {
        let detail = format!("must be greater than or equal to {LEAST_UPDATE_SECONDS} seconds");
        errors.invalid(&path.child("nodeAllocatableUpdatePeriodSeconds"), period, &detail);
    }
    let mut audiences = BTreeSet::new();
    let at = path.child("tokenRequests");
    for (i, token) in spec.token_requests.iter().flatten().enumerate() {
        let at = at.index(i);
        if !audiences.insert(&token.audience) {
            errors.duplicate(&at.child("audience"), &token.audience);
            continue;
        }
        let seconds = at.child("expirationSeconds");
        match token.expiration_seconds {
            Some(time) if time < LEAST_EXPIRATION_SECONDS => {
                let detail = "may not specify a duration less than 10 minutes";
                errors.invalid(&seconds, time, detail);
            }
            Some(time) if time > MOST_EXPIRATION_SECONDS => {
                let detail = "may not specify a duration larger than 2^32 seconds";
                errors.invalid(&seconds, time, detail);
            }
            _ => {}
        }
    }
}
