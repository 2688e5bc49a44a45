//! CSINode (storage.k8s.io/v1).

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver};
use serde_json::Value;

use super::{checks, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// Longest name that a driver may have for a node, in bytes (the CSI specification's).
const NODE_ID_MAX_BYTES: usize = 192;

impl Kind for CSINode {
    const META: KindMeta = KindMeta {
        singular: "csinode",
        delete_returns_object: true,
        unconditional_update: false,
        ..DEFAULT_META
    };

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let path = path.child("drivers");
        let mut names = BTreeSet::new();
        for (i, driver) in self.spec.drivers.iter().enumerate() {
            let path = path.index(i);
            validate_driver(errors, &path, driver);
            if !names.insert(&driver.name) {
                errors.duplicate(&path.child("name"), &driver.name);
            }
        }
    }

    /// Drivers come and go, and do not change.
    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::new("spec");
        for new in &self.spec.drivers {
            let before = old.spec.drivers.iter().find(|driver| driver.name == new.name);
            // How much they may hold does.
            let same = |before: &CSINodeDriver| {
                let allocatable = new.allocatable.clone();
                CSINodeDriver { allocatable, ..before.clone() } == *new
            };
            if !before.is_none_or(same) {
                errors.invalid(&path.child("drivers"), new, "field is immutable");
            }
        }
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("CSINode")]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Drivers", "integer", "How many drivers run on the node."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(&self.metadata),
            self.spec.drivers.len().into(),
            table::age(&self.metadata, now),
        ]
    }
}

fn validate_driver(errors: &mut Errors, path: &Path, driver: &CSINodeDriver) {
    checks::driver_name(errors, &path.child("name"), &driver.name);
    let id = path.child("nodeID");
    if driver.node_id.is_empty() {
        errors.required(&id, "");
    } else if driver.node_id.len() > NODE_ID_MAX_BYTES {
        let detail = format!("must be {NODE_ID_MAX_BYTES} characters or less");
        errors.invalid(&id, &driver.node_id, &detail);
    }
    if let Some(count) = driver.allocatable.as_ref().and_then(|room| room.count) {
        let path = path.child("allocatable");
        checks::nonnegative(errors, &path.child("count"), count);
    }
    // Upstream names the driver for its keys.
    let mut seen = BTreeSet::new();
    for key in driver.topology_keys.iter().flatten() {
        if key.is_empty() {
            errors.required(path, "");
        }
        if !seen.insert(key) {
            errors.duplicate(path, key);
        }
        checks::qualified_name(errors, path, key);
    }
}
