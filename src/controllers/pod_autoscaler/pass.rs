//! One look at one autoscaler: what it finds, what that means for the target, and how the status,
//! its conditions and Events tell of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::memory::{Memory, Rescale};
use super::metrics::{self, Scene};
use super::scale::{Scale, Wanted, least};
use super::zero::{self, Doors};
use super::{ABLE, ACTIVE, LIMITED, Note, PERIOD, limits};
use crate::api::ObjectKey;
use crate::api::selector::Selector;
use crate::client::Target;
use crate::client::cache::View;
use crate::client::event::Notice;
use crate::controllers::Plan;
use crate::controllers::ask::Answer;
use crate::controllers::ownership::labels;
use crate::controllers::plan::Write;
use crate::controllers::selecting::selected;

/// What the metrics ask for.
pub(super) struct Recommended {
    replicas: i32,
    /// The metric that asks for the most.
    metric: String,
}

/// One look at one autoscaler.
pub(super) struct Pass<'a> {
    autoscaler: &'a HorizontalPodAutoscaler,
    spec: &'a HorizontalPodAutoscalerSpec,
    pub(super) status: HorizontalPodAutoscalerStatus,
    metrics: Option<Vec<MetricStatus>>,
    /// What the status tells of being at zero was decided.
    told_zero: bool,
    plan: Plan,
    now: Timestamp,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        autoscaler: &'a HorizontalPodAutoscaler,
        spec: &'a HorizontalPodAutoscalerSpec,
        now: Timestamp,
    ) -> Pass<'a> {
        let status = autoscaler.status.clone().unwrap_or_default();
        let (metrics, told_zero, plan) = (None, false, Plan::nothing());
        Pass { autoscaler, spec, status, metrics, told_zero, plan, now }
    }

    pub(super) fn condition(&mut self, kind: &str, holds: bool, reason: &str, message: &str) {
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

    pub(super) fn warn(&mut self, reason: &'static str, message: impl Into<String>) {
        self.plan.notices.push(Notice::warning(self.autoscaler, reason, message));
    }

    pub(super) fn without_scale(mut self, why: &str) -> Plan {
        self.warn("FailedGetScale", why);
        let told =
            format!("the HPA controller was unable to get the target's current scale: {why}");
        self.condition(ABLE, false, "FailedGetScale", &told);
        self.end()
    }

    pub(super) fn without_metrics(mut self, replicas: i32, why: &str) -> Plan {
        self.warn("FailedComputeMetricsReplicas", why);
        self.zero(zero::NOT_AT_ZERO, false);
        self.status.current_replicas = Some(replicas);
        self.status.current_metrics = self.metrics.take();
        self.end()
    }

    /// The pods that the target selects, if no other autoscaler has to do with them.
    pub(super) fn pods<'v>(
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
    pub(super) fn recommend(
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

    pub(super) fn within_limits(
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
    pub(super) fn awaited(&mut self, doors: &Doors, memory: &mut Memory) -> Wanted {
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
    pub(super) fn towards_zero(&mut self, scale: &Scale, doors: &Doors, wanted: Wanted) -> Wanted {
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
    pub(super) fn zero(&mut self, note: Note, holds: bool) {
        self.told_zero = true;
        let before = self.status.conditions.iter().flatten().any(|one| one.type_ == zero::ZERO);
        if least(self.spec) == 0 || before {
            self.condition(zero::ZERO, holds, note.0, note.1);
        }
    }

    /// Writes another number, if it is one, and tells all in the status.
    pub(super) fn rescale(
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

    pub(super) fn end(mut self) -> Plan {
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
