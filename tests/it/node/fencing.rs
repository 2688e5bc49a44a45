//! An agent that is cut off: what of its pods ends, and when.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use wasmfleet::client::DeleteOptions;

use super::harness::Rig;

/// The lease holds for 40 s, and is renewed every 10.
const LEASE: Duration = Duration::from_secs(40);
const PERIOD: Duration = Duration::from_secs(10);

fn tolerates_for(seconds: Value) -> Value {
    let unreachable = json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists",
        "effect": "NoExecute", "tolerationSeconds": seconds});
    json!({"tolerations": [unreachable], "containers": [{"name": "web", "image": "hello"}]})
}

async fn three_pods(rig: &Rig) {
    for (name, seconds) in [("soon", json!(5)), ("late", json!(300)), ("ever", Value::Null)] {
        rig.create(name, tolerates_for(seconds)).await;
        rig.pod(name, |pod| {
            pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
        })
        .await;
    }
    // The Lease is there by then.
    tokio::time::sleep(PERIOD).await;
}

/// The names of the pods whose containers run.
fn running(rig: &Rig) -> Vec<String> {
    let mut names: Vec<String> =
        rig.runtime.running().into_iter().map(|spec| spec.pod_name).collect();
    names.sort();
    names
}

#[tokio::test(start_paused = true)]
async fn pods_end_when_the_control_plane_replaces_them() {
    let rig = Rig::with(|options| options.fence = true).await;
    three_pods(&rig).await;
    rig.line.is_cut.store(true, Ordering::Relaxed);
    // Up to a period may have passed since the last renewal.
    tokio::time::sleep(LEASE - PERIOD).await;
    assert_eq!(running(&rig), ["ever", "late", "soon"]);
    tokio::time::sleep(PERIOD + Duration::from_secs(6)).await;
    assert_eq!(running(&rig), ["ever", "late"], "its toleration is over");
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(running(&rig), ["ever"], "who tolerates it for ever stays");
    rig.line.is_cut.store(false, Ordering::Relaxed);
    let told = rig.pod("soon", |pod| {
        pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed")
    });
    let status = told.await.status.clone().unwrap();
    assert_eq!(status.reason.as_deref(), Some("Fenced"));
    assert!(status.message.unwrap().contains("could not renew its lease for 45s"));
    assert!(rig.has_told("Fenced"));
    // Evicted meanwhile: it goes.
    rig.client
        .delete::<k8s_openapi::api::core::v1::Pod>("default", "late", &DeleteOptions::default())
        .await
        .unwrap();
    rig.gone("late").await;
    assert_eq!(running(&rig), ["ever"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_back_in_time_keeps_its_pods() {
    let rig = Rig::with(|options| options.fence = true).await;
    three_pods(&rig).await;
    for _ in 0..5 {
        rig.line.is_cut.store(true, Ordering::Relaxed);
        tokio::time::sleep(LEASE / 2).await;
        rig.line.is_cut.store(false, Ordering::Relaxed);
        // The wait between tries is 5 s at most.
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    assert_eq!(running(&rig), ["ever", "late", "soon"]);
}

/// Who does not ask for it loses nothing by an outage of the control plane.
#[tokio::test(start_paused = true)]
async fn an_outage_ends_no_pod() {
    let rig = Rig::start().await;
    three_pods(&rig).await;
    rig.line.is_cut.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(running(&rig), ["ever", "late", "soon"]);
}
