//! Scaling to zero, and back on the first request: control plane and node in processes of their own,
//! with kubectl where it is there.

use std::time::Instant;

use super::separate::{READY, Server};
use crate::cluster::tools::{self, has};
use crate::cluster::{guests, http, until};

/// With no window, so that the test need not wait five minutes. The pods have readiness probes, which
/// are no requests.
const AUTOSCALER: &str = "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  minReplicas: 0
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
fn a_deployment_sleeps_without_requests_and_wakes_for_one() {
    let server = Server::start_with(&[]);
    let _node = server.node_with("n1", &[]);
    server.wait("node n1", READY, "True");
    let push = format!("push {} hello:v1", guests::path("rust-http-p2.wasm").display());
    server.wasmctl(&push);
    server.wasmctl_with("apply -f -", &guests::deployment("web", "hello:v1", 1)).ok();
    let door = |name: &str| guests::service(name).replace("port: 80,", "port: 8080,");
    server.wasmctl_with("apply -f -", &door("web")).ok();
    server.wasmctl_with("apply -f -", &door("empty")).ok();
    server.wasmctl("rollout status deployment/web --timeout 90s");
    let url = |name: &str| {
        let ip = server.wasmctl(&format!("get service {name} -o jsonpath={{.spec.clusterIP}}"));
        format!("http://{ip}:8080/")
    };
    let (web, empty) = (url("web"), url("empty"));
    until("an answer through the Service", || http::get(&web));
    let kubeconfig = server.dir.path().join("server/kubeconfig");
    let kubectl = |words: &str, stdin: &str| {
        let program = tools::kubectl()?;
        Some(tools::run(program, words, stdin, &kubeconfig, server.dir.path(), &[]).ok())
    };
    if let Some(told) = kubectl("apply -f -", AUTOSCALER) {
        has(&told, &["horizontalpodautoscaler.autoscaling/web created"]);
    } else {
        server.wasmctl_with("apply -f -", AUTOSCALER).ok();
    }
    server.wait("deployment web", ".spec.replicas", "0");
    server.wait("pods", ".items[*].metadata.name", "");
    let path = ".status.conditions[?(@.type==\"wasmfleet.dev/ScaledToZero\")].status";
    server.wait("service web", path, "True");

    // The held request is answered by the new pod; others are refused as ever.
    let begin = Instant::now();
    let body = http::get(&web).expect("the first request is held and answered");
    println!("from the request to its answer: {:?}", begin.elapsed());
    assert!(body.starts_with("hello"), "{body}");
    assert!(http::get(&empty).is_err(), "nobody scaled that to zero");
    server.wait("deployment web", ".status.readyReplicas", "1");
    server.wait("service web", ".status.conditions", "");
    if let Some(told) = kubectl("describe hpa web", "") {
        let words = told.split_whitespace().collect::<Vec<_>>().join(" ");
        has(&words, &["Min replicas: 0", "ScaledToZero False NotScaledToZero"]);
        until("what became of it", || {
            let told = kubectl("describe hpa web", "").unwrap_or_default();
            let events = [
                "New size: 0; reason: All metrics below target",
                "New size: 1; reason: a connection to Service web waits for a pod",
            ];
            // Events are written a little later.
            if events.iter().all(|one| told.contains(one)) { Ok(()) } else { Err(told) }
        });
    }
    // And again.
    server.wait("deployment web", ".spec.replicas", "0");
    server.wait("pods", ".items[*].metadata.name", "");
    http::get(&web).expect("it wakes as often as it is asked");
}
