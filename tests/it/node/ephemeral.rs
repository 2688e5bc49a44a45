//! Ephemeral containers: added to a pod that runs, beside its others, and never started again.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerState, Pod};
use serde_json::json;
use wasmfleet::api::Gvr;
use wasmfleet::client::{Patch, Target, WriteOptions};
use wasmfleet::runtime::fake::{FakeEnd, Script};

use super::harness::Rig;

async fn add(rig: &Rig, pod: &str, container: serde_json::Value) {
    let target = Target {
        resource: Gvr::new("", "v1", "pods", true),
        namespace: Some("default".into()),
        name: Some(pod.into()),
        subresource: Some("ephemeralcontainers".into()),
    };
    let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": [container]}}));
    rig.api.patch(&target, patch, &WriteOptions::default()).await.unwrap();
}

fn state(pod: &Pod) -> Option<ContainerState> {
    let statuses = pod.status.as_ref()?.ephemeral_container_statuses.as_ref()?;
    statuses.first()?.state.clone()
}

#[tokio::test(start_paused = true)]
async fn one_runs_beside_the_others_and_once() {
    let rig = Rig::start().await;
    rig.runtime.script("sha256:debugger", Script::runs());
    let volumes = json!([{"name": "scratch", "emptyDir": {}}]);
    let main = json!({"name": "web", "image": "hello",
        "volumeMounts": [{"name": "scratch", "mountPath": "/data"}]});
    rig.create("a", json!({"containers": [main], "volumes": volumes})).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    let debug = json!({"name": "debug", "image": "debugger", "args": ["look"],
        "targetContainerName": "web"});
    add(&rig, "a", debug).await;
    let pod = rig.pod("a", |pod| state(pod).is_some_and(|s| s.running.is_some())).await;
    // It says nothing about whether the pod is ready.
    assert_eq!(super::harness::summary(&pod), "Running ready web:running/0");
    let running = rig.runtime.running();
    let one = running.iter().find(|spec| spec.container_name == "debug").unwrap();
    assert_eq!(one.args, ["debugger", "look"]);
    let web = running.iter().find(|spec| spec.container_name == "web").unwrap();
    assert_eq!(one.pod_ip, web.pod_ip);
    assert_eq!(one.mounts[0], web.mounts[0], "its target's volumes are there");
    assert_ne!(one.mounts[1], web.mounts[1], "and a message of its own");
    assert!(rig.node.read_log("default", "a", "debug", "").is_ok());

    let id = one.id.clone();
    assert!(rig.runtime.finish(&id, FakeEnd::Exit(3)));
    let pod = rig.pod("a", |pod| state(pod).is_some_and(|s| s.terminated.is_some())).await;
    assert_eq!(state(&pod).unwrap().terminated.unwrap().exit_code, 3);
    assert_eq!(super::harness::summary(&pod), "Running ready web:running/0");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let started = rig.runtime.started().into_iter().filter(|one| *one == id).count();
    assert_eq!((started, rig.runtime.running().len()), (1, 1), "it is not started again");
}

#[tokio::test(start_paused = true)]
async fn the_pod_ends_without_it() {
    let rig = Rig::start().await;
    rig.runtime.script("sha256:debugger", Script::runs());
    let spec = json!({"restartPolicy": "Never",
        "containers": [{"name": "job", "image": "work"}]});
    rig.create("a", spec).await;
    rig.pod_is("a", "Running ready job:running/0").await;
    add(&rig, "a", json!({"name": "debug", "image": "debugger"})).await;
    rig.pod("a", |pod| state(pod).is_some_and(|s| s.running.is_some())).await;
    let running = rig.runtime.running();
    let job = running.iter().find(|spec| spec.container_name == "job").unwrap().id.clone();
    rig.runtime.finish(&job, FakeEnd::Exit(0));
    let pod = rig.pod_is("a", "Succeeded unready job:Completed=0/0").await;
    assert!(state(&pod).unwrap().terminated.is_some(), "it ended with the pod");
    assert!(rig.runtime.running().is_empty());
}

/// Many pods that crash: what is written of each is bounded by its back-off, not by how fast
/// it crashes.
#[tokio::test(start_paused = true)]
async fn a_storm_of_crashes_writes_no_more_than_its_back_off() {
    const PODS: usize = 200;
    let rig = Rig::with(|options| options.capacity.pods = 1000).await;
    rig.runtime.script_default(Script::ends(Duration::ZERO, FakeEnd::Exit(1)));
    for n in 0..PODS {
        rig.create(&format!("p{n}"), json!({"containers": [{"name": "c", "image": "x"}]})).await;
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    // 10, 20, 40, 80, 160 and 300 seconds: six or seven attempts in ten minutes.
    let attempts = rig.runtime.started().len();
    assert!((PODS * 5..=PODS * 8).contains(&attempts), "{attempts} attempts");
    let written = rig.pod_events.lock().len();
    // Of each attempt after a wait one: how it ended. The creation, and the first two attempts,
    // between which there is no wait, are told as they go.
    let most = 6 * PODS + attempts;
    assert!(written <= most, "{written} changes of {PODS} pods in {attempts} attempts");
}
