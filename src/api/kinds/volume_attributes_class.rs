//! VolumeAttributesClass (storage.k8s.io/v1).

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use serde_json::Value;

use super::{storage, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

impl Kind for VolumeAttributesClass {
    const META: KindMeta = KindMeta {
        singular: "volumeattributesclass",
        short_names: &["vac"],
        delete_returns_object: true,
        ..DEFAULT_META
    };

    fn validate(&self, errors: &mut Errors) {
        storage::validate_provisioner(errors, &Path::new("driverName"), &self.driver_name);
        let path = Path::new("parameters");
        if self.parameters.as_ref().is_none_or(|parameters| parameters.is_empty()) {
            errors.required(&path, "must contain at least one key/value pair");
        }
        storage::validate_parameters(errors, &path, self.parameters.as_ref());
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if self.driver_name != old.driver_name {
            errors.forbidden(&Path::new("driverName"), "updates to driverName are forbidden.");
        }
        if self.parameters != old.parameters {
            errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
        }
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("VolumeAttributesClass")]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("DriverName", "string", "The driver that the class is for."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(&self.metadata),
            self.driver_name.clone().into(),
            table::age(&self.metadata, now),
        ]
    }
}
