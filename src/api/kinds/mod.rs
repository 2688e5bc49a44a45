//! One file a kind: defaults, validation, selectable fields, subresources and print columns over
//! k8s-openapi's type. To add a kind: write its file, add its line here.
//!
//! Beside the kinds, the parts that several share: pod specs (`pod_*`, `container_validation`,
//! `volume_validation`…), templates and workloads, labels, amounts of resources, single values.

use super::resource::KindInfo;
use k8s_openapi::api::{apps::v1 as apps, coordination::v1 as coordination};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};

mod config_map;
mod deployment;
mod endpoint_slice;
mod event;
mod lease;
pub mod namespace;
mod node;
mod pod;
mod replica_set;
mod secret;
pub mod service;
mod service_account;

mod checks;
mod container_validation;
pub mod labels;
pub mod pod_columns;
mod pod_defaults;
mod pod_field_rows;
pub mod pod_fields;
mod pod_template;
mod pod_update;
mod pod_validation;
mod pod_warnings;
mod probe_validation;
pub mod resources;
mod scheduling_validation;
mod service_validation;
mod volume_validation;
mod workload;

pub use pod_field_rows::POD_SPEC;

/// Every built-in kind, in the order that discovery shows.
pub fn all() -> Vec<KindInfo> {
    vec![
        KindInfo::of::<core::Namespace>(),
        KindInfo::of::<core::Node>(),
        KindInfo::of::<core::Pod>(),
        KindInfo::of::<core::Service>(),
        KindInfo::of::<core::ConfigMap>(),
        KindInfo::of::<core::Secret>(),
        KindInfo::of::<core::ServiceAccount>(),
        KindInfo::of::<core::Event>(),
        KindInfo::of::<discovery::EndpointSlice>(),
        KindInfo::of::<coordination::Lease>(),
        KindInfo::of::<apps::Deployment>(),
        KindInfo::of::<apps::ReplicaSet>(),
    ]
}
