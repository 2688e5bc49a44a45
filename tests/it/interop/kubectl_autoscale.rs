//! The real kubectl: an autoscaler follows the requests that HTTP handlers get.

use crate::cluster::tools::has;
use crate::cluster::{Space, guests, http, until};

/// With no window, so that the number falls as soon as the requests stop.
const AUTOSCALER: &str = "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  minReplicas: 1
  maxReplicas: 3
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  metrics:
  - type: Pods
    pods:
      metric: {name: http_requests_per_second}
      target: {type: AverageValue, averageValue: \"5\"}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 0}
";

#[test]
fn requests_bring_replicas_and_their_end_takes_them() {
    let Some(space) = Space::with_kubectl("autoscale") else { return };
    space.apply(&guests::deployment("web", "hello:v1", 1));
    space.apply(&guests::service("web"));
    space.rolled_out("deployment/web");
    let url = space.service_url("web");
    until("an answer", || http::get(&url));
    let applied = space.kubectl_with("apply -f -", AUTOSCALER, &[]).ok();
    has(&applied, &["horizontalpodautoscaler.autoscaling/web created"]);
    let replicas = || space.value("deployment/web", ".spec.replicas");
    until("more replicas under load", || {
        for _ in 0..20 {
            http::get(&url)?;
        }
        match replicas().as_str() {
            "3" => Ok(()),
            other => Err(format!("{other}: {}", space.kubectl("describe hpa web").stdout)),
        }
    });
    until("one replica without load", || match replicas().as_str() {
        "1" => Ok(()),
        other => Err(format!("{other}: {}", space.kubectl("describe hpa web").stdout)),
    });
    let told = until("what became of it", || {
        let told = space.kubectl("describe hpa web").ok();
        // Events are written a little later.
        match told.contains("New size: 1") {
            true => Ok(told),
            false => Err(told),
        }
    });
    let words: Vec<&str> = told.split_whitespace().collect();
    let events = [
        "New size: 3; reason: pods metric http_requests_per_second above target",
        "New size: 1; reason: All metrics below target",
    ];
    let rest = [
        "\"http_requests_per_second\" on pods:",
        "AbleToScale True",
        "ScalingActive True ValidMetricFound the HPA was able to successfully calculate a replica \
         count from pods metric http_requests_per_second",
        "SuccessfulRescale",
        "horizontal-pod-autoscaler",
    ];
    has(&words.join(" "), &[&events[..], &rest[..]].concat());
    let row = space.kubectl("get hpa web").ok();
    has(&row, &["REFERENCE", "TARGETS", "MINPODS", "MAXPODS", "Deployment/web", "/5"]);
}
