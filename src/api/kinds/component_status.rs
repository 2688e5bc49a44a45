//! ComponentStatus (core/v1): computed by `apiserver/computed.rs`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ComponentStatus;
use serde_json::Value;

use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

impl Kind for ComponentStatus {
    const META: KindMeta = KindMeta {
        singular: "componentstatus",
        short_names: &["cs"],
        deprecation: "v1 ComponentStatus is deprecated in v1.19+",
        computed: true,
        ..DEFAULT_META
    };

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Status", "string", "Whether the component is well."),
            Column::new("Message", "string", "What it says of itself."),
            Column::new("Error", "string", "Why it could not be asked."),
        ];
        COLUMNS
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let mut conditions = self.conditions.iter().flatten();
        let healthy = conditions.find(|one| one.type_ == "Healthy").cloned().unwrap_or_default();
        let status = match healthy.status.as_str() {
            "True" => "Healthy",
            "False" => "Unhealthy",
            _ => "Unknown",
        };
        vec![
            table::name(&self.metadata),
            status.into(),
            healthy.message.unwrap_or_default().into(),
            healthy.error.unwrap_or_default().into(),
        ]
    }
}
