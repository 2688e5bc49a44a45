//! One file a kind: defaults, validation, selectable fields, subresources and print columns over
//! k8s-openapi's type. To add a kind: write its file, add its line here.
//!
//! Beside the kinds, the parts that several share: pod specs (`pod_*`, `container_validation`,
//! `volume_validation`…), templates and workloads, labels, amounts of resources, single values.

use super::resource::KindInfo;
use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::api::{apps::v1 as apps, coordination::v1 as coordination};
use k8s_openapi::api::{authentication::v1 as authentication, authorization::v1 as authorization};
use k8s_openapi::api::{batch::v1 as batch, node::v1 as node_api, policy::v1 as policy};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use k8s_openapi::api::{rbac::v1 as rbac_api, scheduling::v1 as scheduling};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions;

pub mod config_map;
mod controller_revision;
mod cron_job;
mod custom_resource_definition;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod event;
mod job;
mod lease;
mod limit_range;
mod mutating_webhook_configuration;
pub mod namespace;
mod node;
mod pod;
pub mod pod_disruption_budget;
mod pod_template_kind;
pub mod priority_class;
mod rbac;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod reviews;
mod runtime_class;
mod secret;
pub mod service;
mod service_account;
mod stateful_set;
mod validating_webhook_configuration;

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
pub mod quota_usage;
pub mod resources;
mod scheduling_validation;
mod service_validation;
mod volume_validation;
pub mod webhook;
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
        KindInfo::of::<apps::StatefulSet>(),
        KindInfo::of::<apps::DaemonSet>(),
        KindInfo::of::<apps::ControllerRevision>(),
        KindInfo::of::<core::ReplicationController>(),
        KindInfo::of::<core::PodTemplate>(),
        KindInfo::of::<core::ResourceQuota>(),
        KindInfo::of::<core::LimitRange>(),
        KindInfo::of::<batch::Job>(),
        KindInfo::of::<batch::CronJob>(),
        KindInfo::of::<policy::PodDisruptionBudget>(),
        KindInfo::of::<scheduling::PriorityClass>(),
        KindInfo::of::<node_api::RuntimeClass>(),
        KindInfo::of::<rbac_api::Role>(),
        KindInfo::of::<rbac_api::ClusterRole>(),
        KindInfo::of::<rbac_api::RoleBinding>(),
        KindInfo::of::<rbac_api::ClusterRoleBinding>(),
        KindInfo::of::<extensions::CustomResourceDefinition>(),
        KindInfo::of::<admission::MutatingWebhookConfiguration>(),
        KindInfo::of::<admission::ValidatingWebhookConfiguration>(),
        KindInfo::review::<authentication::SelfSubjectReview>(),
        KindInfo::review::<authentication::TokenReview>(),
        KindInfo::review::<authorization::SubjectAccessReview>(),
        KindInfo::review::<authorization::LocalSubjectAccessReview>(),
        KindInfo::review::<authorization::SelfSubjectAccessReview>(),
        KindInfo::review::<authorization::SelfSubjectRulesReview>(),
    ]
}
