//! Autoscalers: what is asked, the number that is written, and what status and events tell.

use bytes::Bytes;
use jiff::SignedDuration;
use wasmfleet::api::Raw;
use wasmfleet::controllers::{Answer, Ask};

use super::*;

const KEY: &str = "default/web";
const CONTROLLER: &str = "horizontal-pod-autoscaler";

pub fn autoscaler(name: &str, spec: Value) -> Value {
    let mut whole = json!({"minReplicas": 1, "maxReplicas": 10,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "metrics": [cpu(50)]});
    let whole_fields = whole.as_object_mut().unwrap();
    whole_fields.extend(spec.as_object().unwrap().clone());
    json!({"kind": "HorizontalPodAutoscaler", "metadata": {"name": name}, "spec": whole,
        "status": {"desiredReplicas": 0}})
}

fn cpu(percent: i32) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": percent});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

fn memory(average: &str) -> Value {
    let target = json!({"type": "AverageValue", "averageValue": average});
    json!({"type": "Resource", "resource": {"name": "memory", "target": target}})
}

/// A pod that runs for an hour and asks for one CPU.
pub fn busy(name: &str) -> Value {
    let mut pod = pod(name, "n1", "True");
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    pod["status"]["startTime"] = json!("2026-01-01T00:00:00Z");
    pod
}

/// A controller with its memory, and what it is told.
pub struct Bench {
    pub controller: Arc<dyn Controller>,
    /// The scale, or why there is none.
    pub scale: Result<Value, ApiError>,
    /// Usage of CPU and memory by the names of pods.
    pub usage: Vec<(&'static str, &'static str, &'static str)>,
    /// Requests a second of each pod.
    pub requests: Option<&'static str>,
}

impl Bench {
    pub fn new(replicas: i32, usage: &[(&'static str, &'static str, &'static str)]) -> Bench {
        let scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {"name": "web", "namespace": "default", "resourceVersion": "7"},
            "spec": {"replicas": replicas},
            "status": {"replicas": replicas, "selector": "app=web"}});
        let (controller, usage) = (named(CONTROLLER), usage.to_vec());
        Bench { controller, scale: Ok(scale), usage, requests: None }
    }

    fn answer(&self, ask: Ask, now: Timestamp) -> Answer {
        let raw = |value: &Value| Raw(Bytes::from(value.to_string()));
        let result = match &ask {
            Ask::One(target) => {
                let path = "/apis/apps/v1/namespaces/default/deployments/web/scale";
                assert_eq!(target.path(), path);
                self.scale.clone().map(|scale| vec![raw(&scale)])
            }
            Ask::All { target, label_selector } => {
                assert_eq!(target.path(), "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods");
                assert_eq!(label_selector, "app=web");
                let pod = |(pod, cpu, memory): &(&str, &str, &str)| {
                    let mut usage = json!({"cpu": cpu, "memory": memory});
                    if let Some(requests) = self.requests {
                        usage["http_requests_per_second"] = requests.into();
                    }
                    raw(&json!({"metadata": {"name": pod}, "timestamp": now.to_string(),
                        "window": "15.02s", "containers": [{"name": "c", "usage": usage}]}))
                };
                Ok(self.usage.iter().map(pod).collect())
            }
        };
        Answer { ask, result }
    }

    /// The plan so many seconds later.
    pub fn look(&self, objects: &Objects, seconds: i64) -> Plan {
        let now: Timestamp = NOW.parse().unwrap();
        let now = now + SignedDuration::from_secs(seconds);
        let key = ObjectKey::new("default", "web");
        let mut answers = Vec::new();
        for round in 0.. {
            assert!(round < 3, "it asks on and on");
            let asked = self.controller.asks(&objects.cache.view(), &key, &answers);
            if asked.is_empty() {
                break;
            }
            answers.extend(asked.into_iter().map(|ask| self.answer(ask, now)));
        }
        self.controller.decide(&objects.cache.view(), &key, &answers, now)
    }

    pub fn settle(&self, objects: &Objects, result: Result<(), ApiError>) -> Plan {
        let target = Target::one::<Deployment>("default", "web").subresource("scale");
        let outcome = Outcome { action: Action::Update, target, result };
        let key = ObjectKey::new("default", "web");
        let now = NOW.parse().unwrap();
        self.controller.settle(&objects.cache.view(), &key, &[outcome], now)
    }
}

/// The number that is written.
pub fn written(plan: &Plan) -> Option<i64> {
    plan.writes.iter().find_map(|write| match write {
        Write::Update { target, object } if target.subresource.as_deref() == Some("scale") => {
            assert_eq!(object.resource_version(), "7", "the scale that was read, and no other");
            object.at(&["spec", "replicas"]).and_then(Value::as_i64)
        }
        _ => None,
    })
}

pub fn status(plan: &Plan) -> Value {
    let found = plan.writes.iter().find_map(|write| match write {
        Write::Update { target, object } if target.subresource.as_deref() == Some("status") => {
            object.at(&["status"]).cloned()
        }
        _ => None,
    });
    found.expect("a status is written")
}

/// Type, status and reason of the conditions.
pub fn conditions(plan: &Plan) -> Vec<String> {
    let status = status(plan);
    let conditions = status["conditions"].as_array().unwrap().iter();
    let word = |one: &Value, field: &str| one[field].as_str().unwrap().to_string();
    conditions
        .map(|one| ["type", "status", "reason"].map(|field| word(one, field)).join(" "))
        .collect()
}

pub fn message(plan: &Plan, kind: &str) -> String {
    let status = status(plan);
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    let found = conditions.find(|one| one["type"] == kind).unwrap();
    found["message"].as_str().unwrap().to_string()
}

pub fn events(plan: &Plan) -> Vec<String> {
    plan.notices.iter().map(|one| format!("{}: {}", one.reason, one.message)).collect()
}

fn objects(spec: Value) -> Objects {
    let web = web(2, 1, json!({}));
    Objects::new(&[autoscaler("web", spec), web, busy("a"), busy("b")])
}

#[test]
fn load_beyond_the_target_brings_replicas() {
    let objects = objects(json!({}));
    let bench = Bench::new(2, &[("a", "900m", "1Mi"), ("b", "1100m", "1Mi")]);
    let plan = bench.look(&objects, 0);
    assert_eq!(written(&plan), Some(4));
    assert!(matches!(plan.writes[1], Write::Then), "the status tells what was done");
    let told = "SuccessfulRescale: New size: 4; reason: cpu resource utilization (percentage of \
                request) above target";
    assert_eq!(events(&plan), [told]);
    assert_eq!(
        conditions(&plan),
        [
            "AbleToScale True SucceededRescale",
            "ScalingActive True ValidMetricFound",
            "ScalingLimited False DesiredWithinRange"
        ]
    );
    let told = "the HPA was able to successfully calculate a replica count from cpu resource \
                utilization (percentage of request)";
    assert_eq!(message(&plan, "ScalingActive"), told);
    let status = status(&plan);
    assert_eq!((&status["currentReplicas"], &status["desiredReplicas"]), (&json!(2), &json!(4)));
    assert_eq!(status["lastScaleTime"], NOW);
    let current = json!({"averageUtilization": 100, "averageValue": "1"});
    let metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": current}});
    assert_eq!(status["currentMetrics"], json!([metric]));
    assert_eq!(plan.again_after, Some(Duration::from_secs(15)));
    assert_eq!(bench.settle(&objects, Ok(())).writes.len(), 0);
}

#[test]
fn the_metric_that_asks_for_the_most_wins() {
    let metrics = json!({"metrics": [cpu(50), memory("10Mi")]});
    let objects = objects(metrics);
    let bench = Bench::new(2, &[("a", "500m", "30Mi"), ("b", "500m", "30Mi")]);
    let plan = bench.look(&objects, 0);
    // Three times as much asks for six, which is more than twice as many.
    assert_eq!(written(&plan), Some(4));
    assert_eq!(
        events(&plan),
        ["SuccessfulRescale: New size: 4; reason: memory resource above target"]
    );
    assert_eq!(conditions(&plan)[2], "ScalingLimited True ScaleUpLimit");
    assert_eq!(
        status(&plan)["currentMetrics"][1]["resource"]["current"],
        json!({"averageValue": "31457280"})
    );
}

#[test]
fn a_falling_load_is_waited_for() {
    let objects = objects(json!({}));
    let mut bench = Bench::new(2, &[("a", "500m", "1Mi"), ("b", "500m", "1Mi")]);
    assert_eq!(written(&bench.look(&objects, 0)), None);
    bench.usage = vec![("a", "100m", "1Mi"), ("b", "100m", "1Mi")];
    let held = bench.look(&objects, 15);
    assert_eq!(written(&held), None);
    assert_eq!(conditions(&held)[0], "AbleToScale True ScaleDownStabilized");
    let plan = bench.look(&objects, 301);
    assert_eq!(written(&plan), Some(1));
    assert_eq!(events(&plan), ["SuccessfulRescale: New size: 1; reason: All metrics below target"]);
}

#[test]
fn behavior_holds_the_number_back() {
    let policy = json!([{"type": "Pods", "value": 1, "periodSeconds": 60}]);
    let rules = json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": policy});
    let objects = objects(json!({"behavior": {"scaleUp": rules, "scaleDown": rules}}));
    let mut bench = Bench::new(2, &[("a", "1", "1Mi"), ("b", "1", "1Mi")]);
    assert_eq!(written(&bench.look(&objects, 0)), Some(3));
    bench.settle(&objects, Ok(()));
    bench.scale.as_mut().unwrap()["spec"]["replicas"] = json!(3);
    let held = bench.look(&objects, 15);
    assert_eq!(
        (written(&held), &*conditions(&held)[2]),
        (None, "ScalingLimited True ScaleUpLimit")
    );
    // The status of the rescale was lost, and is told again.
    assert_eq!(status(&held)["lastScaleTime"], NOW);
    assert_eq!(written(&bench.look(&objects, 61)), Some(4));
}

#[test]
fn a_target_out_of_bounds_is_brought_back_without_metrics() {
    let bench = Bench::new(20, &[]);
    let plan = bench.look(&objects(json!({})), 0);
    assert_eq!(written(&plan), Some(10));
    let told = "SuccessfulRescale: New size: 10; reason: Current number of replicas above \
                Spec.MaxReplicas";
    assert_eq!(events(&plan), [told]);
    let plan = Bench::new(1, &[]).look(&objects(json!({"minReplicas": 3})), 0);
    assert_eq!(written(&plan), Some(3));
    let off = Bench::new(0, &[]).look(&objects(json!({})), 0);
    assert_eq!((written(&off), events(&off).len()), (None, 0));
    assert_eq!(conditions(&off)[1], "ScalingActive False ScalingDisabled");
}

#[test]
fn what_is_missing_is_told() {
    let objects = objects(json!({}));
    let mut bench = Bench::new(2, &[]);
    let plan = bench.look(&objects, 0);
    let why = "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics \
               returned from resource metrics API";
    let all = "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource \
               metric value: ";
    assert_eq!(
        events(&plan),
        [
            format!("FailedGetResourceMetric: {why}"),
            format!("FailedComputeMetricsReplicas: {all}{why}")
        ]
    );
    assert_eq!(conditions(&plan)[1], "ScalingActive False FailedGetResourceMetric");
    let told = format!("the HPA was unable to compute the replica count: {why}");
    assert_eq!(message(&plan, "ScalingActive"), told);
    assert_eq!(written(&plan), None);
    assert_eq!(plan.again_after, Some(Duration::from_secs(15)));
    bench.scale = Err(ApiError::not_found(&Target::all::<Deployment>(None).resource, "web"));
    let plan = bench.look(&objects, 15);
    assert_eq!(events(&plan), ["FailedGetScale: deployments.apps \"web\" not found"]);
    assert_eq!(conditions(&plan), ["AbleToScale False FailedGetScale"]);
    let odd = json!({"apiVersion": "example.com/v1", "kind": "Odd", "name": "web"});
    let plan = bench.look(&super::autoscalers::objects(json!({"scaleTargetRef": odd})), 0);
    let told = "FailedGetScale: no matches for kind \"Odd\" in group \"example.com\"";
    assert_eq!(events(&plan), [told]);
}

#[test]
fn requests_a_second_are_a_metric_of_pods() {
    let metric = |name: &str| {
        let target = json!({"type": "AverageValue", "averageValue": "50"});
        json!({"metrics": [{"type": "Pods", "pods": {"metric": {"name": name}, "target": target}}]})
    };
    let objects = objects(metric("http_requests_per_second"));
    let mut bench = Bench::new(2, &[("a", "1m", "1Mi"), ("b", "1m", "1Mi")]);
    bench.requests = Some("90500m");
    let plan = bench.look(&objects, 0);
    assert_eq!(written(&plan), Some(4));
    let told = "SuccessfulRescale: New size: 4; reason: pods metric http_requests_per_second above \
                target";
    assert_eq!(events(&plan), [told]);
    let current = json!({"averageValue": "90500m"});
    let pods = json!({"metric": {"name": "http_requests_per_second"}, "current": current});
    assert_eq!(status(&plan)["currentMetrics"], json!([{"type": "Pods", "pods": pods}]));
    bench.requests = None;
    let plan = bench.look(&objects, 15);
    assert_eq!(conditions(&plan)[1], "ScalingActive False FailedGetPodsMetric");
    let plan = bench.look(&super::autoscalers::objects(metric("else")), 30);
    let told = "FailedGetPodsMetric: unable to get metric else: unable to fetch metrics from custom \
                metrics API: no custom metrics API (custom.metrics.k8s.io) registered";
    assert_eq!(events(&plan)[0], told);
}

/// A metric that cannot be had keeps the number from falling, and not from growing.
#[test]
fn a_failing_metric_does_not_make_the_number_fall() {
    let external = json!({"type": "External", "external": {"metric": {"name": "queue"},
        "target": {"type": "Value", "value": "5"}}});
    let objects = objects(json!({"metrics": [external, cpu(50)]}));
    let mut bench = Bench::new(2, &[("a", "1", "1Mi"), ("b", "1", "1Mi")]);
    let plan = bench.look(&objects, 0);
    assert_eq!(written(&plan), Some(4));
    let told = "FailedGetExternalMetric: unable to get external metric default/queue: unable to \
                fetch metrics from external metrics API: no external metrics API \
                (external.metrics.k8s.io) registered";
    assert_eq!(events(&plan)[0], told);
    assert_eq!(conditions(&plan)[1], "ScalingActive True ValidMetricFound");
    assert_eq!(status(&plan)["currentMetrics"][0], json!({"type": ""}));
    bench.usage = vec![("a", "1m", "1Mi"), ("b", "1m", "1Mi")];
    let plan = bench.look(&objects, 1000);
    assert_eq!(written(&plan), None);
    assert_eq!(conditions(&plan)[1], "ScalingActive False FailedGetExternalMetric");
    assert!(events(&plan)[1].contains("(1 invalid out of 2), first error is: failed to get queue"));
}

#[test]
fn containers_are_measured_by_name() {
    let metric = |container: &str| {
        let target = json!({"type": "Utilization", "averageUtilization": 50});
        let metric = json!({"name": "cpu", "container": container, "target": target});
        json!({"metrics": [{"type": "ContainerResource", "containerResource": metric}]})
    };
    let bench = Bench::new(2, &[("a", "1", "1Mi"), ("b", "1", "1Mi")]);
    let plan = bench.look(&objects(metric("c")), 0);
    assert_eq!(written(&plan), Some(4));
    assert_eq!(status(&plan)["currentMetrics"][0]["containerResource"]["container"], "c");
    let plan = Bench::new(2, &bench.usage).look(&objects(metric("x")), 0);
    assert_eq!(conditions(&plan)[1], "ScalingActive False FailedGetContainerResourceMetric");
    let told = message(&plan, "ScalingActive");
    assert!(told.contains("container x not present in metrics for pod default/a"), "{told}");
}

#[test]
fn a_scale_that_is_refused_is_told() {
    let objects = objects(json!({}));
    let bench = Bench::new(2, &[("a", "1", "1Mi"), ("b", "1", "1Mi")]);
    assert_eq!(written(&bench.look(&objects, 0)), Some(4));
    let resource = Target::all::<Deployment>(None).resource;
    let plan = bench.settle(&objects, Err(ApiError::forbidden(&resource, "web", "no")));
    assert_eq!(conditions(&plan), ["AbleToScale False FailedUpdateScale"]);
    let told = &events(&plan)[0];
    assert!(told.starts_with("FailedRescale: New size: 4; reason: cpu resource"), "{told}");
    assert_eq!(bench.settle(&objects, Ok(())).writes.len(), 0, "it is told once");
    // Somebody else was faster: that is nothing to tell.
    assert_eq!(written(&bench.look(&objects, 15)), Some(4));
    let plan = bench.settle(&objects, Err(ApiError::modified(&resource, "web")));
    assert_eq!((events(&plan).len(), plan.writes.len()), (0, 0));
}

#[test]
fn two_autoscalers_do_not_fight_over_pods() {
    let all = [autoscaler("web", json!({})), autoscaler("also", json!({}))];
    let mut other = all[1].clone();
    other["spec"]["scaleTargetRef"]["name"] = json!("web");
    let objects =
        Objects::new(&[all[0].clone(), other, web(2, 1, json!({})), busy("a"), busy("b")]);
    let bench = Bench::new(2, &[("a", "1", "1Mi"), ("b", "1", "1Mi")]);
    let (controller, view) = (&bench.controller, objects.cache.view());
    let now: Timestamp = NOW.parse().unwrap();
    let decide = |name: &str| {
        let key = ObjectKey::new("default", name);
        let first = controller.asks(&view, &key, &[]).remove(0);
        let mut answers = vec![bench.answer(first, now)];
        let second = controller.asks(&view, &key, &answers).remove(0);
        answers.push(bench.answer(second, now));
        controller.decide(&view, &key, &answers, now)
    };
    assert_eq!(written(&decide("web")), Some(4));
    let plan = decide("also");
    assert_eq!(written(&plan), None);
    assert_eq!(conditions(&plan)[1], "ScalingActive False AmbiguousSelector");
    let told =
        "pods by selector app=web are controlled by multiple HPAs: [default/also default/web]";
    assert_eq!(message(&plan, "ScalingActive"), told);
    assert_eq!(conditions(&decide("web"))[1], "ScalingActive False AmbiguousSelector");
}

#[test]
fn a_status_alone_wakes_nobody() {
    let objects = objects(json!({}));
    let plan = Bench::new(0, &[]).look(&objects, 0);
    let mut quiet = objects.by_kind["HorizontalPodAutoscaler"][0].clone();
    quiet["status"] = status(&plan);
    let objects = Objects::new(&[quiet, web(0, 1, json!({}))]);
    assert!(Bench::new(0, &[]).look(&objects, 15).writes.is_empty(), "nothing new is written");
    assert!(objects.plan(CONTROLLER, KEY).is_empty(), "nothing is decided without answers");
}
