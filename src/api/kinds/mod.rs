//! One file a kind: defaults, validation, selectable fields, subresources and print columns over
//! k8s-openapi's type. To add a kind: write its file, add its line here.
//!
//! Beside the kinds, the parts that several share: pod specs (`pod_*`, `container_validation`,
//! `volume_validation`…), templates and workloads, labels, amounts of resources, single values.

use super::resource::KindInfo;
use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::api::{apps::v1 as apps, coordination::v1 as coordination};
use k8s_openapi::api::{authentication::v1 as authentication, authorization::v1 as authorization};
use k8s_openapi::api::{autoscaling::v1 as autoscaling_v1, autoscaling::v2 as autoscaling};
use k8s_openapi::api::{batch::v1 as batch, node::v1 as node_api, policy::v1 as policy};
use k8s_openapi::api::{certificates::v1 as certificates, flowcontrol::v1 as flowcontrol};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, events::v1 as events};
use k8s_openapi::api::{networking::v1 as networking, resource::v1 as resource};
use k8s_openapi::api::{
    rbac::v1 as rbac_api, scheduling::v1 as scheduling, scheduling::v1alpha1 as scheduling_alpha,
    storage::v1 as storage_api,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;

pub mod admission_policy;
mod admission_policy_binding;
mod api_service;
pub mod certificate_signing_request;
mod component_status;
mod conditions;
pub mod config_map;
mod controller_revision;
mod cron_job;
mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
mod custom_resource_definition;
mod daemon_set;
mod deployment;
mod device_class;
mod endpoint_slice;
mod endpoints;
mod event;
mod event_v1;
pub mod flow_schema;
mod horizontal_pod_autoscaler;
mod horizontal_pod_autoscaler_v1;
pub mod ingress;
mod ingress_class;
mod ip_address;
mod job;
mod lease;
mod limit_range;
pub mod mutating_admission_policy;
mod mutating_webhook_configuration;
pub mod namespace;
mod network_policy;
mod node;
pub mod persistent_volume;
pub mod persistent_volume_claim;
mod persistent_volume_sources;
mod pod;
pub mod pod_disruption_budget;
mod pod_template_kind;
pub mod priority_class;
pub mod priority_level_configuration;
mod rbac;
mod replica_set;
mod replication_controller;
mod resource_claim;
mod resource_claim_template;
mod resource_quota;
mod resource_slice;
mod reviews;
mod runtime_class;
mod secret;
pub mod service;
mod service_account;
mod service_addresses;
pub mod service_cidr;
pub mod stateful_set;
pub mod storage_class;
pub mod validating_admission_policy;
mod validating_admission_policy_binding;
mod validating_webhook_configuration;
mod volume_attachment;
mod volume_attributes_class;
mod workload_kind;

mod autoscaling_validation;
pub mod binders;
mod checks;
mod container_validation;
mod devices;
pub mod ephemeral_containers;
mod flow_control;
mod job_policies;
pub mod labels;
mod name_service_validation;
pub mod node_features;
pub mod node_labels;
pub mod pod_columns;
mod pod_defaults;
mod pod_field_rows;
pub mod pod_fields;
pub mod pod_grants;
pub mod pod_references;
pub mod pod_room;
mod pod_selected;
mod pod_template;
mod pod_update;
mod pod_validation;
mod pod_warnings;
mod probe_validation;
pub mod program_names;
pub mod quota_usage;
pub mod resource_metrics;
pub mod resources;
mod scheduling_gates;
mod scheduling_validation;
mod security_validation;
pub mod service_activation;
mod service_validation;
pub mod static_pod;
pub mod storage;
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
        KindInfo::of::<core::Endpoints>(),
        KindInfo::of::<core::ConfigMap>(),
        KindInfo::of::<core::Secret>(),
        KindInfo::of::<core::ServiceAccount>(),
        KindInfo::of::<core::Event>(),
        KindInfo::shape_of::<events::Event, core::Event>(event_v1::SHAPE),
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
        KindInfo::of::<scheduling_alpha::Workload>(),
        KindInfo::of::<node_api::RuntimeClass>(),
        KindInfo::of::<core::ComponentStatus>(),
        KindInfo::of::<core::PersistentVolume>(),
        KindInfo::of::<core::PersistentVolumeClaim>(),
        KindInfo::of::<storage_api::StorageClass>(),
        KindInfo::of::<storage_api::CSIDriver>(),
        KindInfo::of::<storage_api::CSINode>(),
        KindInfo::of::<storage_api::CSIStorageCapacity>(),
        KindInfo::of::<storage_api::VolumeAttachment>(),
        KindInfo::of::<storage_api::VolumeAttributesClass>(),
        KindInfo::of::<networking::Ingress>(),
        KindInfo::of::<networking::IngressClass>(),
        KindInfo::of::<networking::NetworkPolicy>(),
        KindInfo::of::<networking::IPAddress>(),
        KindInfo::of::<networking::ServiceCIDR>(),
        KindInfo::of::<autoscaling::HorizontalPodAutoscaler>(),
        KindInfo::shape_of::<
            autoscaling_v1::HorizontalPodAutoscaler,
            autoscaling::HorizontalPodAutoscaler,
        >(horizontal_pod_autoscaler_v1::SHAPE),
        KindInfo::of::<certificates::CertificateSigningRequest>(),
        KindInfo::of::<flowcontrol::FlowSchema>(),
        KindInfo::of::<flowcontrol::PriorityLevelConfiguration>(),
        KindInfo::of::<resource::DeviceClass>(),
        KindInfo::of::<resource::ResourceClaim>(),
        KindInfo::of::<resource::ResourceClaimTemplate>(),
        KindInfo::of::<resource::ResourceSlice>(),
        KindInfo::of::<rbac_api::Role>(),
        KindInfo::of::<rbac_api::ClusterRole>(),
        KindInfo::of::<rbac_api::RoleBinding>(),
        KindInfo::of::<rbac_api::ClusterRoleBinding>(),
        KindInfo::of::<extensions::CustomResourceDefinition>(),
        KindInfo::of::<APIService>(),
        KindInfo::of::<admission::MutatingWebhookConfiguration>(),
        KindInfo::of::<admission::ValidatingWebhookConfiguration>(),
        KindInfo::of::<admission::ValidatingAdmissionPolicy>(),
        KindInfo::of::<admission::ValidatingAdmissionPolicyBinding>(),
        KindInfo::of::<mutating_admission_policy::MutatingAdmissionPolicy>(),
        KindInfo::of::<mutating_admission_policy::MutatingAdmissionPolicyBinding>(),
        KindInfo::of::<resource_metrics::NodeMetrics>(),
        KindInfo::of::<resource_metrics::PodMetrics>(),
        KindInfo::review::<authentication::SelfSubjectReview>(),
        KindInfo::review::<authentication::TokenReview>(),
        KindInfo::review::<authorization::SubjectAccessReview>(),
        KindInfo::review::<authorization::LocalSubjectAccessReview>(),
        KindInfo::review::<authorization::SelfSubjectAccessReview>(),
        KindInfo::review::<authorization::SelfSubjectRulesReview>(),
    ]
}
