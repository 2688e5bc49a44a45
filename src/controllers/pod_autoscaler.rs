//! HorizontalPodAutoscaler: as many replicas as what is measured of the pods asks for, within
//! bounds, written through the target's `scale`.
//!
//! ```text
//!   scale of the target ─▶ pods measured ─▶ replicas by each metric ─▶ stabilized, limited ─▶ scale
//!                          (metrics.rs)     (replicas.rs), the most    (limits.rs, memory.rs)
//! ```
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
mod replicas;
mod scale;
pub mod zero;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;

use self::memory::{Memory, Rescale};
use self::metrics::Scene;
use self::scale::{Scale, Wanted, least, target};
use self::zero::Doors;
use super::ask::{Answer, Ask};
use super::ownership::{labels, uid};
use super::plan::{Outcome, Write};
use super::selecting::selected;
use super::{Controller, Plan};
use crate::api::kinds::resource_metrics::PodMetrics;
use crate::api::kinds::service_activation::{AWAITED, SCALED_TO_ZERO, holds};
use crate::api::resource::Gvr;
use crate::api::selector::Selector;
use crate::api::{ApiError, ObjectKey};
use crate::client::Target;
use crate::client::cache::{Changed, View};
use crate::client::event::Notice;

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

/// What the metrics ask for.
struct Recommended {
    replicas: i32,
    /// The metric that asks for the most.
    metric: String,
}

/// One look at one autoscaler.
struct Pass<'a> {
    autoscaler: &'a HorizontalPodAutoscaler,
    spec: &'a HorizontalPodAutoscalerSpec,
    status: HorizontalPodAutoscalerStatus,
    metrics: Option<Vec<MetricStatus>>,
    /// What the status tells of being at zero was decided.
    told_zero: bool,
    plan: Plan,
    now: Timestamp,
}

impl<'a> Pass<'a> {
    fn new(
        autoscaler: &'a HorizontalPodAutoscaler,
        spec: &'a HorizontalPodAutoscalerSpec,
        now: Timestamp,
    ) -> Pass<'a> {
        let status = autoscaler.status.clone().unwrap_or_default();
        let (metrics, told_zero, plan) = (None, false, Plan::nothing());
        Pass { autoscaler, spec, status, metrics, told_zero, plan, now }
    }

    fn condition(&mut self, kind: &str, holds: bool, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        let value = if holds { "True" } else { "False" };
        let old = conditions.iter().position(|condition| condition.type_ == kind);
        let since = old.map(|at| &conditions[at]).filter(|condition| condition.status == value);
        let since = since.and_then(|condition| condition.last_transition_time.clone());
        let condition = HorizontalPodAutoscalerCondition {
            last_transition_time: Some(since.unwrap_or(Time(self.now))),
            message: Some(message.into()),
            reason: Some(reason.into()),
            status: value.into(),
            type_: kind.into(),
        };
        match old {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }

    fn warn(&mut self, reason: &'static str, message: impl Into<String>) {
        self.plan.notices.push(Notice::warning(self.autoscaler, reason, message));
    }

    fn without_scale(mut self, why: &str) -> Plan {
        self.warn("FailedGetScale", why);
        let told =
            format!("the HPA controller was unable to get the target's current scale: {why}");
        self.condition(ABLE, false, "FailedGetScale", &told);
        self.end()
    }

    fn without_metrics(mut self, replicas: i32, why: &str) -> Plan {
        self.warn("FailedComputeMetricsReplicas", why);
        self.zero(zero::NOT_AT_ZERO, false);
        self.status.current_replicas = Some(replicas);
        self.status.current_metrics = self.metrics.take();
        self.end()
    }

    /// The pods that the target selects, if no other autoscaler has to do with them.
    fn pods<'v>(
        &mut self,
        view: &'v View,
        key: &'v ObjectKey,
        scale: &Scale,
        memories: &mut BTreeMap<ObjectKey, Memory>,
    ) -> Result<Vec<&'v Pod>, String> {
        if scale.selector.is_empty() {
            let (why, told) =
                ("selector is required", "the HPA target's scale is missing a selector");
            self.warn("SelectorRequired", why);
            self.condition(ACTIVE, false, "InvalidSelector", told);
            return Err(why.into());
        }
        let selector = Selector::parse(&scale.selector).map_err(|error| {
            let what = "couldn't convert selector into a corresponding internal selector object";
            let why = format!("{what}: {error}");
            self.warn("InvalidSelector", why.clone());
            self.condition(ACTIVE, false, "InvalidSelector", &why);
            why
        })?;
        let pods: Vec<&Pod> = selected(view, &key.namespace, &selector).collect();
        memories.entry(key.clone()).or_default().selector = Some(selector);
        let first = ObjectKey::new(key.namespace.as_str(), "");
        let near = memories.range(first..).take_while(|(near, _)| near.namespace == key.namespace);
        let selects = |memory: &Memory| {
            let selector = memory.selector.as_ref();
            selector.is_some_and(|one| pods.iter().any(|pod| one.matches(labels(&pod.metadata))))
        };
        let rivals: Vec<String> =
            near.filter(|(_, one)| selects(one)).map(|(near, _)| near.to_string()).collect();
        if rivals.len() > 1 {
            let (text, rivals) = (&scale.selector, rivals.join(" "));
            let why =
                format!("pods by selector {text} are controlled by multiple HPAs: [{rivals}]");
            self.warn("AmbiguousSelector", why.clone());
            self.condition(ACTIVE, false, "AmbiguousSelector", &why);
            return Err(why);
        }
        Ok(pods)
    }

    /// The most that a metric asks for. One that cannot be had holds a smaller number back, and the
    /// others may still ask for more.
    fn recommend(
        &mut self,
        key: &ObjectKey,
        scale: &Scale,
        pods: &[&Pod],
        told: &Answer,
    ) -> Result<Recommended, String> {
        let scene = Scene {
            namespace: &key.namespace,
            replicas: scale.replicas,
            pods,
            told: metrics::read(told),
            tolerances: limits::tolerances(self.spec),
            now: self.now,
        };
        let specs = self.spec.metrics.as_deref().unwrap_or_default();
        let mut best: Option<Recommended> = None;
        let (mut statuses, mut failures) = (Vec::new(), Vec::new());
        for spec in specs {
            match metrics::measure(spec, &scene) {
                Ok(measured) => {
                    statuses.push(measured.status);
                    if best.as_ref().is_none_or(|best| measured.replicas > best.replicas) {
                        let (replicas, metric) = (measured.replicas, measured.name);
                        best = Some(Recommended { replicas, metric });
                    }
                }
                Err(failure) => {
                    // The status has one for each metric, in their order.
                    statuses.push(MetricStatus::default());
                    self.warn(failure.reason, failure.why.clone());
                    failures.push(failure);
                }
            }
        }
        self.metrics = best.is_some().then_some(statuses);
        let would_shrink = |best: &Recommended| best.replicas < scale.replicas;
        match (failures.first(), best) {
            (None, Some(best)) => Ok(self.found(best)),
            (Some(_), Some(best)) if !would_shrink(&best) => Ok(self.found(best)),
            (Some(first), _) => {
                let why = format!("the HPA was unable to compute the replica count: {}", first.why);
                self.condition(ACTIVE, false, first.reason, &why);
                let (failed, all, context) = (failures.len(), specs.len(), &first.context);
                let first = format!("{context}{}", first.why);
                Err(format!(
                    "invalid metrics ({failed} invalid out of {all}), first error is: {first}"
                ))
            }
            (None, None) => Err("there are no metrics".into()),
        }
    }

    fn found(&mut self, best: Recommended) -> Recommended {
        let told = format!(
            "the HPA was able to successfully calculate a replica count from {}",
            best.metric
        );
        self.condition(ACTIVE, true, "ValidMetricFound", &told);
        best
    }

    fn within_limits(
        &mut self,
        scale: &Scale,
        recommended: Recommended,
        memory: &mut Memory,
    ) -> Wanted {
        let why = match recommended.replicas.cmp(&scale.replicas) {
            std::cmp::Ordering::Greater => format!("{} above target", recommended.metric),
            _ => "All metrics below target".into(),
        };
        let (now, wanted) = (scale.replicas, recommended.replicas);
        let limited = limits::limit(self.spec, memory, now, wanted, self.now);
        let (reason, message) = limited.able;
        self.condition(ABLE, true, reason, message);
        let (reason, message) = limited.limit;
        self.condition(LIMITED, limited.is_limited, reason, message);
        Wanted { replicas: limited.replicas, why, ..Wanted::default() }
    }

    /// A target at zero: a connection that waits brings one replica.
    fn awaited(&mut self, doors: &Doors, memory: &mut Memory) -> Wanted {
        let still = Wanted { is_at_zero: true, ..Wanted::default() };
        let Some(service) = &doors.awaited else { return still };
        if !limits::wake(self.spec, memory, self.now) {
            self.condition(LIMITED, true, zero::LOCKED.0, zero::LOCKED.1);
            return still;
        }
        let why = format!("a connection to Service {service} waits for a pod");
        Wanted { replicas: 1, why, ..Wanted::default() }
    }

    /// Nothing is asked of the target any more. It goes once every Service that leads to it holds
    /// connections; if there is none, or a connection waits at one, a replica stays.
    fn towards_zero(&mut self, scale: &Scale, doors: &Doors, wanted: Wanted) -> Wanted {
        if doors.is_none {
            self.zero(zero::NO_DOOR, false);
            return Wanted { replicas: 1, ..wanted };
        }
        if doors.awaited.is_some() {
            return Wanted { replicas: 1, ..wanted };
        }
        if doors.all_hold {
            return wanted;
        }
        self.zero(zero::GOING, true);
        Wanted { replicas: scale.replicas, ..wanted }
    }

    /// Tells whether the target is at zero by our doing, of autoscalers that may do that.
    fn zero(&mut self, note: Note, holds: bool) {
        self.told_zero = true;
        let before = self.status.conditions.iter().flatten().any(|one| one.type_ == zero::ZERO);
        if least(self.spec) == 0 || before {
            self.condition(zero::ZERO, holds, note.0, note.1);
        }
    }

    /// Writes another number, if it is one, and tells all in the status.
    fn rescale(
        mut self,
        target: Target,
        scale: Scale,
        wanted: Wanted,
        memory: &mut Memory,
    ) -> Plan {
        if wanted.is_off {
            let told = "scaling is disabled since the replica count of the target is zero";
            self.condition(ACTIVE, false, "ScalingDisabled", told);
        }
        if wanted.is_at_zero {
            self.condition(ACTIVE, true, zero::WAITING.0, zero::WAITING.1);
        }
        match wanted.replicas == 0 && !wanted.is_off {
            true => self.zero(zero::AT_ZERO, true),
            false if !self.told_zero => self.zero(zero::NOT_AT_ZERO, false),
            false => {}
        }
        self.status.current_replicas = Some(scale.replicas);
        self.status.desired_replicas = wanted.replicas;
        self.status.current_metrics = self.metrics.take();
        if wanted.replicas != scale.replicas {
            let (replicas, why) = (wanted.replicas, wanted.why);
            let mut object = scale.object;
            let spec = object.fields_mut().entry("spec").or_insert_with(|| serde_json::json!({}));
            spec["replicas"] = replicas.into();
            self.plan.writes.push(Write::Update { target, object });
            self.plan.then();
            let told = format!("New size: {replicas}; reason: {why}");
            self.plan.notices.push(Notice::normal(self.autoscaler, "SuccessfulRescale", told));
            let told =
                format!("the HPA controller was able to update the target scale to {replicas}");
            self.condition(ABLE, true, "SucceededRescale", &told);
            self.status.last_scale_time = Some(Time(self.now));
            let (from, to, at) = (scale.replicas, replicas, self.now);
            memory.pending = Some(Rescale { from, to, why, at });
        }
        // A status that told of it may have been lost.
        let told = self.status.last_scale_time.as_ref().map(|time| time.0);
        self.status.last_scale_time = told.max(memory.last_rescale).map(Time);
        self.end()
    }

    fn end(mut self) -> Plan {
        self.plan.again_after(PERIOD);
        self.status.observed_generation = self.autoscaler.metadata.generation;
        if self.autoscaler.status.as_ref() != Some(&self.status) {
            let mut changed = self.autoscaler.clone();
            changed.status = Some(self.status);
            self.plan.update_status(&changed);
        }
        self.plan
    }
}
