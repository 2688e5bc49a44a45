//! ConfigMap (core/v1).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

impl Kind for ConfigMap {
    const META: KindMeta = KindMeta { singular: "configmap", short_names: &["cm"], ..DEFAULT_META };

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if old.immutable == Some(true) && self.immutable != Some(true) {
            let detail = "field is immutable when `immutable` is set";
            errors.forbidden(&Path::new("immutable"), detail);
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[table::NAME, Column::new("Data", "integer", "The number of keys."), table::AGE];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let count = self.data.as_ref().map_or(0, |d| d.len())
            + self.binary_data.as_ref().map_or(0, |d| d.len());
        vec![table::name(&self.metadata), Value::from(count), table::age(&self.metadata, now)]
    }
}
