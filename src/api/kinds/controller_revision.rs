//! ControllerRevision (apps/v1): what StatefulSets and DaemonSets keep of their templates.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::Value;

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

impl Kind for ControllerRevision {
    const META: KindMeta = KindMeta { singular: "controllerrevision", ..DEFAULT_META };

    fn validate(&self, errors: &mut Errors) {
        checks::nonnegative(errors, &Path::new("revision"), self.revision);
    }

    fn validate_create(&self, errors: &mut Errors) {
        match &self.data {
            None => errors.required(&Path::new("data"), "data is mandatory"),
            Some(data) if data.0.is_null() => {
                errors.required(&Path::new("data"), "data is mandatory");
            }
            Some(data) if !data.0.is_object() => {
                errors.required(&Path::new("data"), "data must be a valid JSON object");
            }
            Some(_) => {}
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if self.data != old.data {
            errors.invalid(&Path::new("data"), &self.data, "field is immutable");
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Controller", "string", "The object that the revision is of."),
            Column::new("Revision", "string", "The number of the revision."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let mut owners = self.metadata.owner_references.iter().flatten();
        let controller = owners.find(|owner| owner.controller == Some(true));
        let controller = controller.map_or("<none>".into(), |owner| {
            let group = owner.api_version.split_once('/').map(|(group, _)| format!(".{group}"));
            let kind = owner.kind.to_lowercase();
            format!("{kind}{}/{}", group.unwrap_or_default(), owner.name)
        });
        vec![
            table::name(&self.metadata),
            controller.into(),
            self.revision.into(),
            table::age(&self.metadata, now),
        ]
    }
}
