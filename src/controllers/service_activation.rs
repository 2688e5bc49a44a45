//! Service activation: a Service whose pods an autoscaler has at zero says so, so that proxies hold
//! connections until a pod is back instead of refusing them. The autoscaler decides about replicas
//! (`pod_autoscaler/zero.rs`), a proxy tells that it holds one ([`AWAITED`]); all else about the two
//! conditions is written here.
//!
//! ```text
//!   at zero ──▶ ScaledToZero ──a connection──▶ + Awaited ──a pod is ready──▶ neither
//!                                                  └──none came in a minute──▶ neither
//! ```

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::ownership::{name, uid};
use super::pod_autoscaler::zero;
use super::slices::{self, MANAGER};
use super::{Controller, Plan};
use crate::api::ObjectKey;
use crate::api::kinds::service_activation::{AWAITED, SCALED_TO_ZERO, condition, holds};
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

/// A target that was brought back has so long to become ready; then connections are refused again,
/// as those of every Service without a ready pod.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct ServiceActivationController;

impl Controller for ServiceActivationController {
    fn name(&self) -> &'static str {
        "service-activation-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        let key = &change.key;
        if change.resource == Gvr::of::<Service>() {
            let (_, new) = change.typed::<Service>();
            let concerns = |service: &Service| is_marked(service) || leads_to_zero(view, service);
            return new.filter(|new| concerns(new)).map(|_| key.clone()).into_iter().collect();
        }
        if change.resource == Gvr::of::<HorizontalPodAutoscaler>() {
            let (old, new) = change.typed::<HorizontalPodAutoscaler>();
            let was = old.is_some_and(zero::is_at_zero);
            let is = new.is_some_and(zero::is_at_zero);
            let target = |one: Option<&HorizontalPodAutoscaler>| {
                one.and_then(|one| Some(one.spec.as_ref()?.scale_target_ref.clone()))
            };
            let moved = old.is_some() && target(old) != target(new);
            if was == is && !(is && moved) {
                return Vec::new();
            }
            let near = view.in_namespace::<Service>(&key.namespace);
            let near = near.filter(|one| is_marked(one) || leads_to_zero(view, one));
            return near.map(|one| ObjectKey::of(&one.metadata)).collect();
        }
        // A pod that is ready ends the wait.
        let services = slices::services_of(change, MANAGER).unwrap_or_default();
        let marked = |key: &ObjectKey| view.get_key::<Service>(key).is_some_and(|s| is_marked(s));
        services.into_iter().filter(marked).collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Service>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(service) = view.get_key::<Service>(key) else { return plan };
        if service.metadata.deletion_timestamp.is_some() {
            return plan;
        }
        let (marked, awaited) = (holds(service, SCALED_TO_ZERO), holds(service, AWAITED));
        let is_ready = has_ready_endpoint(view, service);
        let at_zero = autoscaler_at_zero(view, service);
        let quiet = view.unchanged_for::<Service>(&key.namespace, &key.name).unwrap_or_default();
        let left = PATIENCE.saturating_sub(quiet);
        // Scaled up again, and on its way.
        let comes = marked && awaited && at_zero.is_none() && !is_ready;
        if comes && !left.is_zero() {
            plan.again_after(left);
            return plan;
        }
        let keep = |kind: &str| match kind {
            SCALED_TO_ZERO => at_zero.is_some(),
            AWAITED => at_zero.is_some() && awaited && !is_ready,
            _ => true,
        };
        let status = service.status.as_ref();
        let before = status.and_then(|status| status.conditions.clone()).unwrap_or_default();
        let mut after: Vec<Condition> =
            before.iter().filter(|one| keep(&one.type_)).cloned().collect();
        if let Some(autoscaler) = at_zero
            && !marked
        {
            let by = name(&autoscaler.metadata);
            let told = format!(
                "HorizontalPodAutoscaler {by} scales the pods to zero; connections wait for one"
            );
            after.retain(|one| one.type_ != SCALED_TO_ZERO);
            after.push(condition(SCALED_TO_ZERO, "NoRequests", &told, now));
        }
        if comes {
            let told = "a connection waited for a pod, and none became ready in time";
            plan.notices.push(Notice::warning(&**service, "NotActivated", told));
        }
        if after != before {
            let mut changed = Service::clone(service);
            changed.status.get_or_insert_default().conditions =
                Some(after).filter(|list| !list.is_empty());
            plan.update_status(&changed);
        }
        plan
    }
}

fn is_marked(service: &Service) -> bool {
    holds(service, SCALED_TO_ZERO) || holds(service, AWAITED)
}

fn leads_to_zero(view: &View, service: &Service) -> bool {
    autoscaler_at_zero(view, service).is_some()
}

/// An autoscaler that has pods of the Service at zero, or is about to.
fn autoscaler_at_zero<'v>(
    view: &'v View,
    service: &'v Service,
) -> Option<&'v HorizontalPodAutoscaler> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let mut all = zero::at_zero(view, namespace);
    all.find(|(_, labels)| zero::leads_to(service, labels)).map(|(autoscaler, _)| autoscaler)
}

fn has_ready_endpoint(view: &View, service: &Service) -> bool {
    let mut slices = view.owned_by::<EndpointSlice>(uid(&service.metadata));
    let ready = |endpoint: &Endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
    };
    slices.any(|slice| slice.endpoints.iter().any(ready))
}
