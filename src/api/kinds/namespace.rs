//! Namespace (core/v1).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceSpec, NamespaceStatus};
use serde_json::Value;

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta, NameRule, Subresource};
use crate::api::table::{self, Column};

/// The finalizer that the namespace controller removes once the namespace is empty.
pub const KUBERNETES_FINALIZER: &str = "kubernetes";
/// The label that repeats the name, so that selectors can name a namespace.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Kind for Namespace {
    const META: KindMeta = KindMeta {
        singular: "namespace",
        short_names: &["ns"],
        status: true,
        subresources: &[Subresource {
            name: "finalize",
            group: "",
            version: "v1",
            kind: "Namespace",
            verbs: &["update"],
        }],
        delete_collection: false,
        name_rule: NameRule::Label,
        selectable: &["status.phase"],
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        // With generateName the name comes later; the defaults run again after it.
        if let Some(name) = self.metadata.name.clone().filter(|n| !n.is_empty()) {
            self.metadata.labels.get_or_insert_default().insert(NAME_LABEL.into(), name);
        }
        let status = self.status.get_or_insert_default();
        if status.phase.as_deref().unwrap_or_default().is_empty() {
            status.phase = Some("Active".into());
        }
    }

    fn prepare_create(&mut self) {
        let finalizers = self.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == KUBERNETES_FINALIZER) {
            finalizers.push(KUBERNETES_FINALIZER.into());
        }
        let phase = Some("Active".into());
        self.status = Some(NamespaceStatus { phase, ..NamespaceStatus::default() });
    }

    /// `spec.finalizers` change through `/finalize` only.
    fn prepare_update(&mut self, old: &Self) {
        self.spec = old.spec.clone();
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = Path::new("spec");
        let path = spec.child("finalizers");
        for finalizer in finalizers(&self.spec) {
            checks::qualified_name(errors, &path, finalizer);
            let standard = crate::api::meta::STANDARD_FINALIZERS.contains(&finalizer.as_str());
            if !finalizer.contains('/') && !standard {
                errors.invalid(&path, finalizer, crate::api::meta::UNKNOWN_FINALIZER);
            }
        }
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let phase = phase(self);
        let (expected, detail) = match self.metadata.deletion_timestamp {
            None => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
            Some(_) => {
                ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
            }
        };
        if phase != expected {
            // Upstream writes the field's name with a capital.
            errors.invalid(&Path::new("status").child("Phase"), phase, detail);
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Status", "string", "The status of the namespace"),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![table::name(&self.metadata), phase(self).into(), table::age(&self.metadata, now)]
    }

    fn field(&self, field: &str) -> String {
        match field {
            "status.phase" => phase(self).into(),
            _ => String::new(),
        }
    }
}

fn phase(namespace: &Namespace) -> &str {
    namespace.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn finalizers(spec: &Option<NamespaceSpec>) -> &[String] {
    spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default()
}
