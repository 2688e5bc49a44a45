//! Scaling to zero: whether anybody could bring a target back, whether somebody waits for it, and
//! which Services lead to it. A target is scaled to zero only when every Service that leads to its
//! pods says so, since from then on connections are held instead of refused (`service_activation`).
//! Source of the condition and of what minReplicas 0 means: KEP-2021.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController, Service, ServiceSpec};

use super::Note;
use crate::api::kinds::service_activation::{AWAITED, SCALED_TO_ZERO, holds};
use crate::api::resource::Kind;
use crate::client::cache::View;
use crate::controllers::ownership::name;
use crate::controllers::selecting::selectors_of;

/// The condition that tells a target that was scaled to zero from one that a person switched off.
pub const ZERO: &str = "ScaledToZero";

pub const AT_ZERO: Note = ("ScaledToZero", "the HPA controller scaled the target to zero");
pub const GOING: Note =
    ("ScalingToZero", "connections are about to be held, then the target is scaled to zero");
pub const NOT_AT_ZERO: Note =
    ("NotScaledToZero", "the HPA controller did not scale the target to zero");
pub const NO_DOOR: Note = (
    "NoServiceToWakeIt",
    "one replica stays: no Service with a cluster IP leads to the target's pods, so that no request \
     could bring it back",
);
/// For the condition ScalingActive.
pub const WAITING: Note =
    ("ScaledToZero", "the target is at zero: the next request for it brings a replica back");
pub const LOCKED: Note =
    ("ScaleUpDisabled", "a request waits, but spec.behavior.scaleUp.selectPolicy is Disabled");

/// The Services that lead to a target's pods.
#[derive(Default)]
pub struct Doors {
    pub is_none: bool,
    /// All of them hold connections.
    pub all_hold: bool,
    /// One at which a connection waits.
    pub awaited: Option<String>,
}

impl Doors {
    pub fn of(view: &View, namespace: &str, spec: &HorizontalPodAutoscalerSpec) -> Doors {
        let mut doors = Doors { is_none: true, all_hold: true, awaited: None };
        let Some(labels) = pod_labels(view, namespace, &spec.scale_target_ref) else {
            return doors;
        };
        let near = selectors_of::<Service>(view, namespace, labels);
        for service in near.filter(|one| leads_to(one, labels)) {
            doors.is_none = false;
            doors.all_hold &= holds(service, SCALED_TO_ZERO);
            if doors.awaited.is_none() && holds(service, AWAITED) {
                doors.awaited = Some(name(&service.metadata).into());
            }
        }
        doors
    }
}

/// Whether the autoscaler has its target at zero, or is about to.
pub fn is_at_zero(autoscaler: &HorizontalPodAutoscaler) -> bool {
    let status = autoscaler.status.as_ref();
    let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == ZERO && one.status == "True")
}

/// The autoscalers of a namespace that have their target at zero, and its pods' labels.
pub fn at_zero<'v>(
    view: &'v View,
    namespace: &'v str,
) -> impl Iterator<Item = (&'v HorizontalPodAutoscaler, &'v BTreeMap<String, String>)> {
    let all = view.in_namespace::<HorizontalPodAutoscaler>(namespace).map(|one| &**one);
    all.filter(|one| is_at_zero(one) && one.metadata.deletion_timestamp.is_none()).filter_map(
        move |one| {
            let target = &one.spec.as_ref()?.scale_target_ref;
            Some((one, pod_labels(view, namespace, target)?))
        },
    )
}

/// Whether connections to a Service go to pods with these labels.
pub fn leads_to(service: &Service, labels: &BTreeMap<String, String>) -> bool {
    let Some(spec) = &service.spec else { return false };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return false;
    };
    has_address(spec) && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Only at an address of its own can a Service hold what comes.
fn has_address(spec: &ServiceSpec) -> bool {
    let address = spec.cluster_ip.as_deref().unwrap_or_default();
    spec.type_.as_deref() != Some("ExternalName") && !matches!(address, "" | "None")
}

/// The labels of the pods that a target makes; `None` for kinds whose template is not known here.
pub fn pod_labels<'v>(
    view: &'v View,
    namespace: &str,
    target: &CrossVersionObjectReference,
) -> Option<&'v BTreeMap<String, String>> {
    let version = target.api_version.as_deref().filter(|version| !version.is_empty());
    let group = version.unwrap_or("v1").split_once('/').map_or("", |(group, _)| group);
    let is = |of: (&str, &str)| of == (group, target.kind.as_str());
    let name = &target.name;
    let template: Option<&PodTemplateSpec> = if is(kind_of::<Deployment>()) {
        view.get::<Deployment>(namespace, name)?.spec.as_ref().map(|spec| &spec.template)
    } else if is(kind_of::<StatefulSet>()) {
        view.get::<StatefulSet>(namespace, name)?.spec.as_ref().map(|spec| &spec.template)
    } else if is(kind_of::<ReplicaSet>()) {
        view.get::<ReplicaSet>(namespace, name)?.spec.as_ref()?.template.as_ref()
    } else if is(kind_of::<ReplicationController>()) {
        view.get::<ReplicationController>(namespace, name)?.spec.as_ref()?.template.as_ref()
    } else {
        None
    };
    template?.metadata.as_ref()?.labels.as_ref()
}

fn kind_of<T: Kind>() -> (&'static str, &'static str) {
    (T::GROUP, T::KIND)
}
