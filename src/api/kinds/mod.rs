//! One file a kind: defaults, validation, selectable fields, subresources and print columns over
//! k8s-openapi's type. To add a kind: write its file, add its line here.

mod config_map;

use super::resource::KindInfo;
use k8s_openapi::api::core::v1 as core;

/// Every built-in kind, in the order that discovery shows.
pub fn all() -> Vec<KindInfo> {
    vec![KindInfo::of::<core::ConfigMap>()]
}
