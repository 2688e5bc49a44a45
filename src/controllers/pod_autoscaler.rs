//! HorizontalPodAutoscaler: as many replicas as what is measured of the pods asks for, within
//! bounds, written through the target's `scale`.
//!
//! ```text
//!   scale of the target ─▶ pods measured ─▶ replicas by each metric ─▶ stabilized, limited ─▶ scale
//!                          (metrics.rs)     (replicas.rs), the most    (limits.rs, memory.rs)
//! ```
//!
//! Here is in which order that goes; one look at one autoscaler, and what its status tells of it, is
//! in `pass`.
//!
//! With `minReplicas: 0` a target without requests goes to zero, and a connection that a proxy holds
//! brings it back at once ([`zero`]).
//!
//! Every 15 s it asks for the scale and for the measurements; it knows no kinds of targets. What it
//! recommended and did within the last windows it remembers by itself, as upstream does, and
//! forgets when the process ends: then the present number is the first recommendation.
//! Source: k8s.io/kubernetes pkg/controller/podautoscaler/horizontal.go.

mod limits;
mod memory;
mod metrics;
mod pass;
mod replicas;
mod scale;
pub mod zero;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use parking_lot::Mutex;

use self::memory::{Memory, Rescale};
use self::pass::Pass;
use self::scale::{Scale, Wanted, least, target};
use self::zero::Doors;
use super::ask::{Answer, Ask};
use super::ownership::uid;
use super::plan::Outcome;
use super::{Controller, Plan};
use crate::api::kinds::resource_metrics::PodMetrics;
use crate::api::kinds::service_activation::{AWAITED, SCALED_TO_ZERO, holds};
use crate::api::resource::Gvr;
use crate::api::{ApiError, ObjectKey};
use crate::client::Target;
use crate::client::cache::{Changed, View};

/// How often an autoscaler is looked at (`--horizontal-pod-autoscaler-sync-period`).
const PERIOD: Duration = Duration::from_secs(15);
const SCALE: &str = "scale";

const ABLE: &str = "AbleToScale";
const ACTIVE: &str = "ScalingActive";
const LIMITED: &str = "ScalingLimited";

/// A reason and a message.
type Note = (&'static str, &'static str);

#[derive(Default)]
pub struct PodAutoscaler {
    memories: Mutex<BTreeMap<ObjectKey, Memory>>,
}

impl Controller for PodAutoscaler {
    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler"
    }

    /// A new spec is looked at soon; a status is its own. So is a connection that waits, and a
    /// Service that holds connections from now on.
    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<Service>() {
            return self.autoscalers_of(change, view);
        }
        if change.resource != Gvr::of::<HorizontalPodAutoscaler>() {
            return Vec::new();
        }
        let same = match change.typed::<HorizontalPodAutoscaler>() {
            (Some(old), Some(new)) => {
                old.spec == new.spec && uid(&old.metadata) == uid(&new.metadata)
            }
            _ => false,
        };
        if same { Vec::new() } else { vec![change.key.clone()] }
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<HorizontalPodAutoscaler>()]
    }

    /// The target's scale, and then the measurements, where they decide.
    fn asks(&self, view: &View, key: &ObjectKey, answers: &[Answer]) -> Vec<Ask> {
        let Some(autoscaler) = view.get_key::<HorizontalPodAutoscaler>(key) else {
            return Vec::new();
        };
        let Some(spec) = &autoscaler.spec else { return Vec::new() };
        match answers {
            [] => target(view, key, spec).map(Ask::One).into_iter().collect(),
            [scale] => match Scale::read(scale) {
                Ok(scale) if scale.is_by_metrics(autoscaler) && !scale.selector.is_empty() => {
                    let target = Target::all::<PodMetrics>(Some(&key.namespace));
                    vec![Ask::All { target, label_selector: scale.selector }]
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        self.decide(view, key, &[], now)
    }

    fn decide(&self, view: &View, key: &ObjectKey, answers: &[Answer], now: Timestamp) -> Plan {
        let mut memories = self.memories.lock();
        let Some(autoscaler) = view.get_key::<HorizontalPodAutoscaler>(key) else {
            memories.remove(key);
            return Plan::nothing();
        };
        let Some(spec) = &autoscaler.spec else { return Plan::nothing() };
        let mut pass = Pass::new(autoscaler, spec, now);
        let target = match target(view, key, spec) {
            Ok(target) => target,
            Err(why) => return pass.without_scale(&why),
        };
        // Whoever wanted another target meanwhile is looked at again for that.
        let asked = Ask::One(target.clone());
        let Some(answer) = answers.first().filter(|answer| answer.ask == asked) else {
            return Plan::nothing();
        };
        let scale = match Scale::read(answer) {
            Ok(scale) => scale,
            Err(why) => {
                if answer.result.as_ref().is_err_and(ApiError::is_not_found) {
                    pass.zero(zero::NOT_AT_ZERO, false);
                }
                return pass.without_scale(&why);
            }
        };
        let text = "the HPA controller was able to get the target's current scale";
        pass.condition(ABLE, true, "SucceededGetScale", text);
        let memory = memories.entry(key.clone()).or_default();
        memory.begin(uid(&autoscaler.metadata), scale.replicas, now);
        let doors = match least(spec) == 0 || zero::is_at_zero(autoscaler) {
            true => Doors::of(view, &key.namespace, spec),
            false => Doors::default(),
        };
        let wanted = match Wanted::without_metrics(&scale, autoscaler, spec) {
            Some(Wanted { is_at_zero: true, .. }) => pass.awaited(&doors, memory),
            Some(wanted) => wanted,
            None => {
                let pods = match pass.pods(view, key, &scale, &mut memories) {
                    Ok(pods) => pods,
                    Err(why) => return pass.without_metrics(scale.replicas, &why),
                };
                let Some(told) = answers.get(1) else { return Plan::nothing() };
                let recommended = match pass.recommend(key, &scale, &pods, told) {
                    Ok(recommended) => recommended,
                    Err(why) => return pass.without_metrics(scale.replicas, &why),
                };
                let memory = memories.entry(key.clone()).or_default();
                let wanted = pass.within_limits(&scale, recommended, memory);
                if wanted.replicas == 0 {
                    pass.towards_zero(&scale, &doors, wanted)
                } else {
                    wanted
                }
            }
        };
        let memory = memories.entry(key.clone()).or_default();
        pass.rescale(target, scale, wanted, memory)
    }

    fn settle(&self, view: &View, key: &ObjectKey, outcomes: &[Outcome], now: Timestamp) -> Plan {
        let mut memories = self.memories.lock();
        let rescale =
            memories.get_mut(key).and_then(|memory| Some((memory.pending.take()?, memory)));
        let Some((rescale, memory)) = rescale else { return Plan::nothing() };
        let mut outcomes = outcomes.iter();
        let written = outcomes.find(|one| one.target.subresource.as_deref() == Some(SCALE));
        let Some(written) = written else { return Plan::nothing() };
        let autoscaler = view.get_key::<HorizontalPodAutoscaler>(key);
        let spec = autoscaler.and_then(|autoscaler| autoscaler.spec.as_ref());
        match (&written.result, autoscaler, spec) {
            (Ok(()), ..) => memory.rescaled(&rescale),
            // Somebody else wrote: the new scale is decided on in a moment.
            (Err(error), ..) if error.is_conflict() => {}
            (Err(error), Some(autoscaler), Some(spec)) => {
                let mut pass = Pass::new(autoscaler, spec, now);
                let Rescale { from, to, why, .. } = rescale;
                let told = format!("New size: {to}; reason: {why}; error: {error}");
                pass.warn("FailedRescale", told);
                let told =
                    format!("the HPA controller was unable to update the target scale: {error}");
                pass.condition(ABLE, false, "FailedUpdateScale", &told);
                pass.status.current_replicas = Some(from);
                return pass.end();
            }
            _ => {}
        }
        Plan::nothing()
    }
}

impl PodAutoscaler {
    /// Those whose target a Service leads to, when it begins to hold connections or holds one.
    fn autoscalers_of(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        let (old, new) = change.typed::<Service>();
        let told = |service: Option<&Service>| {
            service.map(|one| (holds(one, SCALED_TO_ZERO), holds(one, AWAITED))).unwrap_or_default()
        };
        let Some(service) = new.filter(|_| told(new) != told(old) && told(new) != (false, false))
        else {
            return Vec::new();
        };
        let near = zero::at_zero(view, &change.key.namespace);
        let near = near.filter(|(_, labels)| zero::leads_to(service, labels));
        near.map(|(autoscaler, _)| ObjectKey::of(&autoscaler.metadata)).collect()
    }
}
