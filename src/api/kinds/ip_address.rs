//! IPAddress (networking.k8s.io/v1): who has an address. Those of Services are given out by
//! `apiserver/admission/cluster_ip.rs`, which keeps keys and no objects for them.
//!
//! Upstream: pkg/apis/networking/validation/validation.go.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ParentReference};
use serde_json::Value;

use super::{checks, workload};
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta, NameRule};
use crate::api::table::{self, Column};

impl Kind for IPAddress {
    const META: KindMeta = KindMeta {
        singular: "ipaddress",
        short_names: &["ip"],
        name_rule: NameRule::Address,
        ..DEFAULT_META
    };

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let path = path.child("parentRef");
        let Some(spec) = &self.spec else { return errors.required(&path, "") };
        validate_parent(errors, &path, &spec.parent_ref);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::new("spec");
        let parent = |address: &Self| address.spec.clone().unwrap_or_default().parent_ref;
        checks::immutable(errors, &path.child("parentRef"), &parent(self), &parent(old));
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("IPAddress")]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("ParentRef", "string", "The object that has the address."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let parent = self.spec.as_ref().map(|spec| parent_cell(&spec.parent_ref));
        vec![
            table::name(&self.metadata),
            checks::or_none(parent.as_deref()).into(),
            table::age(&self.metadata, now),
        ]
    }
}

fn validate_parent(errors: &mut Errors, path: &Path, parent: &ParentReference) {
    if let Some(group) = parent.group.as_deref().filter(|group| !group.is_empty()) {
        checks::dns_subdomain(errors, &path.child("group"), group);
    }
    checks::path_segment(errors, &path.child("resource"), &parent.resource);
    checks::path_segment(errors, &path.child("name"), &parent.name);
    if let Some(namespace) = parent.namespace.as_deref().filter(|name| !name.is_empty()) {
        let messages = names::is_path_segment(namespace);
        names::report(errors, &path.child("namespace"), namespace, messages);
    }
}

/// `services/default/web`.
fn parent_cell(parent: &ParentReference) -> String {
    let group = parent.group.as_deref().filter(|group| !group.is_empty());
    let group = group.map(|group| format!(".{group}")).unwrap_or_default();
    let namespace = parent.namespace.as_deref().filter(|name| !name.is_empty());
    let namespace = namespace.map(|name| format!("{name}/")).unwrap_or_default();
    format!("{}{group}/{namespace}{}", parent.resource, parent.name).to_lowercase()
}
