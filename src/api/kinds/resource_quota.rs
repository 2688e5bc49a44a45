//! ResourceQuota (v1).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use serde_json::Value;

use super::{checks, quota_usage};
use crate::api::field::{Errors, Path};
use crate::api::quantity::Quantity;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

impl Kind for ResourceQuota {
    const META: KindMeta = KindMeta {
        singular: "resourcequota",
        short_names: &["quota"],
        status: true,
        delete_returns_object: true,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        self.spec.get_or_insert_default();
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let Some(spec) = &self.spec else { return };
        let path = Path::new("spec");
        validate_amounts(errors, &path.child("hard"), spec.hard.as_ref());
        let scopes = path.child("scopes");
        for (i, scope) in spec.scopes.iter().flatten().enumerate() {
            if !SCOPES.contains(&scope.as_str()) {
                errors.invalid(&scopes.index(i), scope, "unsupported scope");
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let scopes = |quota: &Self| quota.spec.as_ref().and_then(|spec| spec.scopes.clone());
        let path = Path::new("spec");
        checks::immutable(errors, &path.child("scopes"), &scopes(self), &scopes(old));
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let Some(status) = &self.status else { return };
        let path = Path::new("status");
        validate_amounts(errors, &path.child("hard"), status.hard.as_ref());
        validate_amounts(errors, &path.child("used"), status.used.as_ref());
    }

    fn warnings(&self) -> Vec<String> {
        let hard = self.spec.iter().flat_map(|spec| spec.hard.iter().flatten());
        let unknown = hard.filter(|(name, _)| quota_usage::counted_by(name).is_none());
        let told = |name: &String| format!("spec.hard[{name}]: is not counted, and bounds nothing");
        unknown.map(|(name, _)| told(name)).collect()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Request", "string", "What is used of requests and counts."),
            Column::new("Limit", "string", "What is used of limits."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let status = self.status.clone().unwrap_or_default();
        let (hard, used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, most) in &hard {
            let used = used.get(name).map_or("0", |used| used.0.as_str());
            let cell = format!("{name}: {used}/{}", most.0);
            if name.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
        }
        vec![
            table::name(&self.metadata),
            requests.join(", ").into(),
            limits.join(", ").into(),
            table::age(&self.metadata, now),
        ]
    }
}

fn validate_amounts(
    errors: &mut Errors,
    path: &Path,
    amounts: Option<&BTreeMap<String, RawQuantity>>,
) {
    for (name, amount) in amounts.into_iter().flatten() {
        let path = path.key(name);
        checks::qualified_name(errors, &path, name);
        match Quantity::parse(&amount.0) {
            Ok(found) if found.value() >= 0 => {}
            Ok(_) => errors.invalid(&path, &amount.0, "must be greater than or equal to 0"),
            Err(error) => errors.invalid(&path, &amount.0, &error.to_string()),
        }
    }
}
