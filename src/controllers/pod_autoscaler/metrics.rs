//! One metric of an autoscaler: which of the measurements it means, how many replicas it asks for,
//! and what the status tells of it. What nobody measures here is told as such.
//! Source: horizontal.go, computeReplicasForMetric, and metrics/client.go.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
    PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use super::replicas::{self, Count, Goal, Question, Sample, Samples, Tolerances};
use crate::api::kinds::resource_metrics::{PodMetrics, REQUESTS, Usage};
use crate::api::quantity::Quantity;
use crate::controllers::ask::Answer;
use crate::controllers::ownership::name;

/// What an autoscaler looks at.
pub struct Scene<'a> {
    pub namespace: &'a str,
    /// That there should be now.
    pub replicas: i32,
    pub pods: &'a [&'a Pod],
    pub told: Result<Vec<PodMetrics>, String>,
    pub tolerances: Tolerances,
    pub now: Timestamp,
}

/// What a metric asks for.
pub struct Measured {
    pub replicas: i32,
    pub name: String,
    pub status: MetricStatus,
}

/// Why a metric asks for nothing.
pub struct Failure {
    pub reason: &'static str,
    pub why: String,
    /// What stands before `why` where several metrics are told of.
    pub context: String,
}

/// The measurements in an answer of metrics.k8s.io.
pub fn read(answer: &Answer) -> Result<Vec<PodMetrics>, String> {
    let told = answer.result.as_ref().map_err(ToString::to_string);
    let read = told.and_then(|list| {
        let each = list.iter().map(|raw| raw.decode().map_err(|error| error.to_string()));
        each.collect::<Result<Vec<PodMetrics>, String>>()
    });
    let list =
        read.map_err(|why| format!("unable to fetch metrics from resource metrics API: {why}"))?;
    if list.is_empty() {
        return Err("no metrics returned from resource metrics API".into());
    }
    Ok(list)
}

pub fn measure(spec: &MetricSpec, scene: &Scene) -> Result<Measured, Failure> {
    if let Some(metric) = &spec.resource {
        let resource = &metric.name;
        let measured = of_resource(scene, resource, None, &metric.target);
        let (count, name) = measured.map_err(|why| Failure {
            reason: "FailedGetResourceMetric",
            why,
            context: format!("failed to get {resource} resource metric value: "),
        })?;
        let resource = ResourceMetricStatus { name: resource.clone(), current: current(&count) };
        let status = MetricStatus { resource: Some(resource), ..of_type(spec) };
        return Ok(Measured { replicas: count.replicas, name, status });
    }
    if let Some(metric) = &spec.container_resource {
        let (resource, container) = (&metric.name, &metric.container);
        let measured = of_resource(scene, resource, Some(container), &metric.target);
        let (count, name) = measured.map_err(|why| Failure {
            reason: "FailedGetContainerResourceMetric",
            why,
            context: format!("failed to get {container} container metric value: "),
        })?;
        let of_container = ContainerResourceMetricStatus {
            name: resource.clone(),
            container: container.clone(),
            current: current(&count),
        };
        let status = MetricStatus { container_resource: Some(of_container), ..of_type(spec) };
        return Ok(Measured { replicas: count.replicas, name, status });
    }
    if let Some(metric) = &spec.pods
        && metric.metric.name == REQUESTS
        && metric.metric.selector.is_none()
    {
        let fail = |why: String| Failure {
            reason: "FailedGetPodsMetric",
            why: format!("unable to get metric {REQUESTS}: {why}"),
            context: "failed to get pods metric value: ".into(),
        };
        let count = of_requests(scene, &metric.target).map_err(fail)?;
        let pods = PodsMetricStatus { metric: metric.metric.clone(), current: current(&count) };
        let status = MetricStatus { pods: Some(pods), ..of_type(spec) };
        let name = format!("pods metric {REQUESTS}");
        return Ok(Measured { replicas: count.replicas, name, status });
    }
    Err(unmeasured(spec, scene.namespace))
}

fn of_type(spec: &MetricSpec) -> MetricStatus {
    MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() }
}

fn current(count: &Count) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: count.percent,
        average_value: Some(QuantityText(Quantity::from_milli(count.average_milli).to_string())),
        value: None,
    }
}

/// The replicas that a resource asks for, and the metric's name for people.
fn of_resource(
    scene: &Scene,
    resource: &str,
    container: Option<&str>,
    target: &MetricTarget,
) -> Result<(Count, String), String> {
    let question = scene.question(Some(resource));
    let samples = || {
        let samples = samples(scene, resource, container);
        let samples = samples
            .map_err(|why| format!("unable to get metrics for resource {resource}: {why}"))?;
        scene.check_pods().map(|()| samples)
    };
    let what = if container.is_some() { "container resource" } else { "resource" };
    if let Some(milli) = target.average_value.as_ref().and_then(milli) {
        let count = samples()
            .and_then(|samples| replicas::count(&question, &Goal::Average { milli }, &samples));
        let count = count.map_err(|why| format!("failed to get {resource} usage: {why}"))?;
        return Ok((count, format!("{resource} resource")));
    }
    let Some(percent) = target.average_utilization else {
        let why = "invalid resource metric source: neither an average utilization target nor an \
                   average value (usage) target was set";
        return Err(why.into());
    };
    let count = samples().and_then(|samples| {
        let requests = replicas::requests(scene.pods, resource, container)?;
        replicas::count(&question, &Goal::Utilization { percent, requests }, &samples)
    });
    let count = count.map_err(|why| format!("failed to get {resource} utilization: {why}"))?;
    Ok((count, format!("{resource} {what} utilization (percentage of request)")))
}

/// The replicas that the requests of HTTP handlers ask for.
fn of_requests(scene: &Scene, target: &MetricTarget) -> Result<Count, String> {
    let told = scene.told.as_ref().map_err(Clone::clone)?;
    let milli = target.average_value.as_ref().and_then(milli).ok_or("there is no target")?;
    scene.check_pods()?;
    let mut samples = Samples::new();
    for pod in told {
        // Of a pod's containers one at most has its port, and others are no handlers.
        let rates = pod.containers.iter().filter_map(|one| amount(&one.usage, REQUESTS));
        if let Some(milli) = rates.reduce(i64::saturating_add) {
            samples.insert(name(&pod.metadata).into(), scene.sample(pod, milli));
        }
    }
    replicas::count(&scene.question(None), &Goal::Average { milli }, &samples)
}

impl<'a> Scene<'a> {
    fn question<'q>(&'q self, resource: Option<&'q str>) -> Question<'q> {
        Question {
            resource,
            pods: self.pods,
            replicas: self.replicas,
            tolerances: self.tolerances,
            now: self.now,
        }
    }

    fn check_pods(&self) -> Result<(), String> {
        match self.pods.is_empty() {
            true => Err("no pods returned by selector while calculating replica count".into()),
            false => Ok(()),
        }
    }

    fn sample(&self, pod: &PodMetrics, milli: i64) -> Sample {
        let at = pod.timestamp.as_ref().map_or(self.now, |time| time.0);
        Sample { milli, at, window: pod.window.parse().unwrap_or(SignedDuration::ZERO) }
    }
}

/// In thousandths.
fn amount(usage: &Usage, resource: &str) -> Option<i64> {
    let amount = Quantity::parse(&usage.get(resource)?.0).ok()?;
    Some(amount.milli())
}

fn milli(text: &QuantityText) -> Option<i64> {
    Quantity::parse(&text.0).ok().map(|amount| amount.milli()).filter(|milli| *milli > 0)
}

/// What the pods were measured at; those with a container that was not are left out.
fn samples(scene: &Scene, resource: &str, container: Option<&str>) -> Result<Samples, String> {
    let told = scene.told.as_ref().map_err(Clone::clone)?;
    let mut samples = Samples::new();
    for pod in told {
        let milli = match container {
            None => pod
                .containers
                .iter()
                .map(|one| amount(&one.usage, resource))
                .try_fold(0_i64, |sum, one| one.map(|milli| sum.saturating_add(milli))),
            Some(container) => {
                let found = pod.containers.iter().find(|one| one.name == container);
                let found = found.ok_or_else(|| {
                    let (namespace, pod) = (scene.namespace, name(&pod.metadata));
                    format!(
                        "failed to get container metrics: container {container} not present in \
                         metrics for pod {namespace}/{pod}"
                    )
                })?;
                amount(&found.usage, resource)
            }
        };
        if let (Some(milli), false) = (milli, pod.containers.is_empty()) {
            samples.insert(name(&pod.metadata).into(), scene.sample(pod, milli));
        }
    }
    Ok(samples)
}

/// A metric of an API that this cluster does not have.
fn unmeasured(spec: &MetricSpec, namespace: &str) -> Failure {
    let none = |api: &str| format!("no {api} metrics API ({api}.metrics.k8s.io) registered");
    if let Some(metric) = &spec.external {
        let name = &metric.metric.name;
        let none = none("external");
        return Failure {
            reason: "FailedGetExternalMetric",
            why: format!(
                "unable to get external metric {namespace}/{name}: unable to fetch metrics from \
                 external metrics API: {none}"
            ),
            context: format!("failed to get {name} external metric value: "),
        };
    }
    let none = none("custom");
    let from = format!("unable to fetch metrics from custom metrics API: {none}");
    if let Some(metric) = &spec.object {
        let (of, object) = (&metric.metric.name, &metric.described_object);
        let (kind, object) = (&object.kind, &object.name);
        return Failure {
            reason: "FailedGetObjectMetric",
            why: format!("unable to get metric {of}: {kind} on {namespace} {object}/{from}"),
            context: "failed to get object metric value: ".into(),
        };
    }
    if let Some(metric) = &spec.pods {
        return Failure {
            reason: "FailedGetPodsMetric",
            why: format!("unable to get metric {}: {from}", metric.metric.name),
            context: "failed to get pods metric value: ".into(),
        };
    }
    Failure {
        reason: "InvalidMetricSourceType",
        why: format!("unknown metric source type {:?}", spec.type_),
        context: String::new(),
    }
}
