//! Scaling to zero and back: the number that is written, what Services tell, and in which order.

use super::autoscalers::{Bench, autoscaler, busy, conditions, events, message, status, written};
use super::*;

const ACTIVATION: &str = "service-activation-controller";
const ZERO: &str = "wasmfleet.dev/ScaledToZero";
const AWAITED: &str = "wasmfleet.dev/Awaited";

/// With the policies that are the default.
fn down(window_seconds: i32) -> Value {
    let all = json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]);
    json!({"scaleDown": {"stabilizationWindowSeconds": window_seconds, "selectPolicy": "Max",
        "policies": all}})
}

fn by_requests(spec: Value) -> Value {
    let target = json!({"type": "AverageValue", "averageValue": "5"});
    let name = json!({"name": "http_requests_per_second"});
    let mut whole = json!({"minReplicas": 0, "maxReplicas": 5,
        "metrics": [{"type": "Pods", "pods": {"metric": name, "target": target}}],
        "behavior": down(0)});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    whole
}

/// An autoscaler that has its target at zero, or is about to.
fn at_zero(spec: Value) -> Value {
    let mut one = autoscaler("web", by_requests(spec));
    one["status"]["conditions"] = json!([{"type": "ScaledToZero", "status": "True",
        "reason": "ScaledToZero", "lastTransitionTime": NOW}]);
    one
}

/// A Service with these conditions.
fn door(kinds: &[&str]) -> Value {
    let condition = |kind: &&str| {
        json!({"type": kind, "status": "True", "reason": "R", "message": "m",
            "lastTransitionTime": NOW})
    };
    let conditions: Vec<Value> = kinds.iter().map(condition).collect();
    json!({"kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "127.128.0.9", "ports": [{"port": 80}]},
        "status": {"conditions": conditions}})
}

fn quiet(replicas: i32) -> Bench {
    let mut bench = Bench::new(replicas, &[("a", "1m", "1Mi"), ("b", "1m", "1Mi")]);
    bench.requests = Some("0");
    bench
}

fn with(autoscaler: Value, services: &[Value]) -> Objects {
    let mut all = vec![autoscaler, web(2, 1, json!({})), busy("a"), busy("b")];
    all.extend(services.iter().cloned());
    Objects::new(&all)
}

fn zero_of(plan: &Plan) -> String {
    let found = conditions(plan).into_iter().find(|one| one.starts_with("ScaledToZero"));
    found.unwrap_or_default()
}

/// From the moment on that the pods are gone no connection may be refused: so at first the Services
/// must hold what comes.
#[test]
fn a_target_without_requests_goes_to_zero_once_its_services_hold_connections() {
    let fresh = autoscaler("web", by_requests(json!({})));
    let plan = quiet(2).look(&with(fresh.clone(), &[door(&[])]), 0);
    assert_eq!(written(&plan), None);
    assert_eq!(zero_of(&plan), "ScaledToZero True ScalingToZero");
    assert!(plan.notices.is_empty());
    let plan = quiet(2).look(&with(at_zero(json!({})), &[door(&[]), other_door()]), 0);
    assert_eq!(written(&plan), None, "its Service holds nothing yet");
    let plan = quiet(2).look(&with(at_zero(json!({})), &[door(&[ZERO]), other_door()]), 0);
    assert_eq!(written(&plan), Some(0));
    assert_eq!(events(&plan), ["SuccessfulRescale: New size: 0; reason: All metrics below target"]);
    assert_eq!(zero_of(&plan), "ScaledToZero True ScaledToZero");
    assert_eq!(status(&plan)["desiredReplicas"], 0);
    // Requests that come meanwhile keep the pods.
    let mut busy = quiet(2);
    busy.requests = Some("1");
    let plan = busy.look(&with(at_zero(json!({})), &[door(&[ZERO])]), 0);
    assert_eq!(written(&plan), Some(1));
    assert_eq!(zero_of(&plan), "ScaledToZero False NotScaledToZero");
    let plan = quiet(2).look(&with(at_zero(json!({})), &[door(&[ZERO, AWAITED])]), 0);
    assert_eq!(written(&plan), Some(1), "a connection waits");
}

/// Of other pods, and one without an address at which something could be held.
fn other_door() -> Value {
    let mut other = door(&[]);
    other["metadata"]["name"] = json!("other");
    other["spec"]["selector"] = json!({"app": "other"});
    other
}

#[test]
fn a_window_is_waited_for_before_zero() {
    let objects = with(at_zero(json!({"behavior": null})), &[door(&[ZERO])]);
    let bench = quiet(2);
    let held = bench.look(&objects, 0);
    assert_eq!(
        (written(&held), zero_of(&held)),
        (None, "ScaledToZero False NotScaledToZero".into())
    );
    assert_eq!(written(&bench.look(&objects, 301)), Some(0));
}

#[test]
fn nothing_goes_to_zero_that_no_request_could_bring_back() {
    let mut headless = door(&[]);
    headless["spec"]["clusterIP"] = json!("None");
    for services in [vec![], vec![other_door()], vec![headless]] {
        let plan = quiet(2).look(&with(autoscaler("web", by_requests(json!({}))), &services), 0);
        assert_eq!(written(&plan), Some(1));
        assert_eq!(zero_of(&plan), "ScaledToZero False NoServiceToWakeIt");
    }
}

#[test]
fn a_connection_that_waits_brings_one_replica_at_once() {
    let bench = Bench::new(0, &[]);
    let plan = bench.look(&with(at_zero(json!({})), &[door(&[ZERO])]), 0);
    assert_eq!((written(&plan), plan.again_after), (None, Some(Duration::from_secs(15))));
    assert_eq!(conditions(&plan)[2], "ScalingActive True ScaledToZero");
    let told = "the target is at zero: the next request for it brings a replica back";
    assert_eq!(message(&plan, "ScalingActive"), told);

    // Neither a window of scaling up nor a percentage of nothing holds it back.
    let up = json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 600,
        "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]});
    let mut slow = down(60);
    slow["scaleUp"] = up;
    let slow = json!({"behavior": slow});
    let objects = with(at_zero(slow), &[door(&[ZERO, AWAITED])]);
    let mut bench = Bench::new(0, &[]);
    let plan = bench.look(&objects, 0);
    assert_eq!(written(&plan), Some(1));
    let why = "a connection to Service web waits for a pod";
    assert_eq!(events(&plan), [format!("SuccessfulRescale: New size: 1; reason: {why}")]);
    assert_eq!(zero_of(&plan), "ScaledToZero False NotScaledToZero");
    bench.settle(&objects, Ok(()));
    // Then it has the window of scaling down.
    bench = Bench { controller: bench.controller, ..quiet(1) };
    let window = json!({"behavior": down(60)});
    let served = with(at_zero(window), &[door(&[ZERO])]);
    assert_eq!(written(&bench.look(&served, 15)), None);
    assert_eq!(written(&bench.look(&served, 75)), Some(0));
}

#[test]
fn a_target_that_a_person_switched_off_stays_off() {
    let fresh = autoscaler("web", by_requests(json!({})));
    let plan = Bench::new(0, &[]).look(&with(fresh, &[door(&[ZERO, AWAITED])]), 0);
    assert_eq!(written(&plan), None);
    assert!(conditions(&plan).contains(&"ScalingActive False ScalingDisabled".into()));
    let off = json!({"selectPolicy": "Disabled"});
    let locked = at_zero(json!({"behavior": {"scaleUp": off}}));
    let plan = Bench::new(0, &[]).look(&with(locked, &[door(&[ZERO, AWAITED])]), 0);
    assert_eq!(written(&plan), None);
    assert!(conditions(&plan).contains(&"ScalingLimited True ScaleUpDisabled".into()));
    // One that it scaled to zero comes back when it may not be there any more.
    let plan = Bench::new(0, &[]).look(&with(at_zero(json!({"minReplicas": 2})), &[]), 0);
    assert_eq!(written(&plan), Some(2));
    assert_eq!(zero_of(&plan), "ScaledToZero False NotScaledToZero");
}

#[test]
fn a_service_tells_that_its_pods_are_at_zero() {
    let objects = with(at_zero(json!({})), &[door(&[])]);
    let text = objects.text(&objects.plan(ACTIVATION, "default/web"));
    let told = "HorizontalPodAutoscaler web scales the pods to zero; connections wait for one";
    assert!(text.starts_with("update services default/web status"), "{text}");
    assert!(text.contains(ZERO) && text.contains(told), "{text}");
    with(at_zero(json!({})), &[door(&[ZERO])]).check(ACTIVATION, "default/web", "");
    with(at_zero(json!({})), &[door(&[ZERO, AWAITED])]).check(ACTIVATION, "default/web", "");
    let mut all = door(&["example.com/Else"]);
    all["spec"]["clusterIP"] = json!("None");
    with(at_zero(json!({})), &[all]).check(ACTIVATION, "default/web", "");
    // Nobody scales it any more.
    let orphan = with(autoscaler("web", by_requests(json!({}))), &[door(&[ZERO, "example.com/E"])]);
    let text = orphan.text(&orphan.plan(ACTIVATION, "default/web"));
    assert!(!text.contains(ZERO) && text.contains("example.com/E"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_service_holds_connections_until_a_pod_is_ready() {
    let awake = autoscaler("web", by_requests(json!({})));
    let slice = |ready: bool| {
        json!({"kind": "EndpointSlice", "addressType": "IPv4", "metadata": {"name": "web-1",
            "ownerReferences": [owner("v1", "Service", "web")],
            "labels": {"kubernetes.io/service-name": "web"}}, "ports": [],
            "endpoints": [{"addresses": ["127.64.0.2"], "conditions": {"ready": ready}}]})
    };
    let coming = with(awake.clone(), &[door(&[ZERO, AWAITED]), slice(false)]);
    coming.check(ACTIVATION, "default/web", "again after 60s");
    tokio::time::advance(Duration::from_secs(61)).await;
    let text = coming.text(&coming.plan(ACTIVATION, "default/web"));
    assert!(text.contains(r#"{"status":{"conditions":null}}"#), "{text}");
    assert!(text.ends_with("none became ready in time"), "{text}");
    let ready = with(awake, &[door(&[ZERO, AWAITED]), slice(true)]);
    let gone = r#"update services default/web status {"status":{"conditions":null}}"#;
    ready.check(ACTIVATION, "default/web", gone);
    // A pod that still serves while its target goes to zero: nobody waits.
    let going = with(at_zero(json!({})), &[door(&[ZERO, AWAITED]), slice(true)]);
    let text = going.text(&going.plan(ACTIVATION, "default/web"));
    assert!(text.contains(ZERO) && !text.contains(AWAITED), "{text}");
}
