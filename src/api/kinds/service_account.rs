//! ServiceAccount (core/v1).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::Value;

use crate::api::resource::{DEFAULT_META, Kind, KindMeta, Subresource};
use crate::api::table::{self, Column};

impl Kind for ServiceAccount {
    const META: KindMeta = KindMeta {
        singular: "serviceaccount",
        short_names: &["sa"],
        subresources: &[Subresource {
            name: "token",
            group: "authentication.k8s.io",
            version: "v1",
            kind: "TokenRequest",
            verbs: &["create"],
        }],
        delete_returns_object: true,
        ..DEFAULT_META
    };

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Secrets", "string", "The number of secrets that pods may use."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let secrets = self.secrets.as_ref().map_or(0, Vec::len);
        vec![table::name(&self.metadata), secrets.into(), table::age(&self.metadata, now)]
    }
}
