//! APIService (apiregistration.k8s.io/v1): computed by `apiserver/computed.rs`. Nothing is served by
//! other servers.

use jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::Value;

use crate::api::resource::{DEFAULT_META, Kind, KindMeta, NameRule};
use crate::api::table::{self, Column};

impl Kind for APIService {
    const META: KindMeta = KindMeta {
        singular: "apiservice",
        categories: &["api-extensions"],
        name_rule: NameRule::PathSegment,
        computed: true,
        ..DEFAULT_META
    };

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Service", "string", "Who serves the group version."),
            Column::new("Available", "string", "Whether it is served now."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let service = self.spec.as_ref().and_then(|spec| spec.service.as_ref());
        let service = service.map_or("Local".into(), |service| {
            let part = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{}/{}", part(&service.namespace), part(&service.name))
        });
        let conditions = self.status.as_ref().and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        let available = conditions.find(|one| one.type_ == "Available");
        let available = available.map_or("Unknown".into(), |one| match one.status.as_str() {
            "True" => "True".into(),
            status => format!("{status} ({})", one.reason.clone().unwrap_or_default()),
        });
        vec![
            table::name(&self.metadata),
            service.into(),
            available.into(),
            table::age(&self.metadata, now),
        ]
    }
}
