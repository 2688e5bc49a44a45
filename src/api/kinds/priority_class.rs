//! PriorityClass (scheduling.k8s.io/v1).

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

/// Users' classes end here; above are the system's (pkg/apis/scheduling).
pub const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;
/// The classes that every cluster has, and their values.
pub const SYSTEM_CLASSES: &[(&str, i32)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
const POLICIES: &[&str] = &["PreemptLowerPriority", "Never"];
const PREEMPT: &str = "PreemptLowerPriority";

impl Kind for PriorityClass {
    const META: KindMeta = KindMeta {
        singular: "priorityclass",
        short_names: &["pc"],
        generation: Generation::Spec,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        self.preemption_policy.get_or_insert_with(|| PREEMPT.into());
    }

    fn validate(&self, errors: &mut Errors) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name.starts_with("system-") {
            let system = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name);
            let why = match system {
                None => format!("{name} is not a known system priority class"),
                Some((_, value)) if *value != self.value => {
                    format!("value of {name} PriorityClass must be {value}")
                }
                Some(_) if self.global_default == Some(true) => {
                    format!("globalDefault of {name} PriorityClass must be false")
                }
                Some(_) => String::new(),
            };
            if !why.is_empty() {
                let path = Path::new("metadata");
                let detail = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. \
                     error: {why}"
                );
                errors.forbidden(&path.child("name"), &detail);
            }
        } else if self.value > HIGHEST_USER_PRIORITY {
            let detail = format!(
                "maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
            );
            errors.forbidden(&Path::new("value"), &detail);
        }
        let policy = self.preemption_policy.as_deref().unwrap_or_default();
        checks::one_of(errors, &Path::new("preemptionPolicy"), policy, POLICIES);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if self.value != old.value {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        let policy = Path::new("preemptionPolicy");
        checks::immutable(errors, &policy, &self.preemption_policy, &old.preemption_policy);
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Value", "integer", "The priority of pods of the class."),
            Column::new("Global-Default", "boolean", "Whether pods without a class get it."),
            table::AGE,
            Column::new("PreemptionPolicy", "string", "Whether such pods preempt others."),
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(&self.metadata),
            self.value.into(),
            self.global_default.unwrap_or_default().into(),
            table::age(&self.metadata, now),
            self.preemption_policy.clone().unwrap_or_else(|| PREEMPT.into()).into(),
        ]
    }
}
