//! What an agent that starts again makes of the pods that it finds, and of what others wrote.

use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use wasmfleet::runtime::fake::{FakeEnd, Script};

use super::harness::{Rig, summary};

fn one(image: &str) -> serde_json::Value {
    json!({"containers": [{"name": "web", "image": image}]})
}

fn policy(policy: &str) -> serde_json::Value {
    json!({"restartPolicy": policy, "containers": [{"name": "web", "image": "hello:v1"}]})
}

fn ip(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_brings_its_pods_back() {
    let mut rig = Rig::start().await;
    rig.create("a", one("hello:v1")).await;
    let pod = rig.pod_is("a", "Running ready web:running/0").await;
    rig.runtime.script("sha256:once", Script::ends(Duration::from_millis(1), FakeEnd::Exit(0)));
    let once = json!({"restartPolicy": "Never", "containers": [{"name": "web", "image": "once"}]});
    rig.create("done", once).await;
    rig.pod_is("done", "Succeeded unready web:Completed=0/0").await;
    rig.create("never", policy("Never")).await;
    rig.pod_is("never", "Running ready web:running/0").await;
    let ip = pod.status.as_ref().unwrap().pod_ip.clone();
    rig.restart_agent().await;
    let pod = rig.pod_is("a", "Running ready web:running/1").await;
    assert_eq!(pod.status.as_ref().unwrap().pod_ip, ip, "it keeps its address");
    rig.pod_is("never", "Failed unready web:ContainerStatusUnknown=137/0").await;
    let done = rig.pod("done", |_| true).await;
    assert_eq!(summary(&done), "Succeeded unready web:Completed=0/0");
}

#[tokio::test(start_paused = true)]
async fn addresses_stay_with_their_pods_and_running_pods_are_never_pending() {
    let mut rig = Rig::start().await;
    let names = ["a", "b", "c"];
    let mut before = Vec::new();
    for name in names {
        rig.create(name, one("hello:v1")).await;
        before.push(ip(&*rig.pod_is(name, "Running ready web:running/0").await));
    }
    rig.stop_agent().await;
    let told = rig.pod_events.lock().len();
    rig.create("0-new", one("hello:v1")).await;
    rig.start_agent();
    for (name, before) in names.iter().zip(&before) {
        let pod = rig.pod_is(name, "Running ready web:running/1").await;
        assert_eq!(ip(&pod), *before);
    }
    let new = ip(&*rig.pod_is("0-new", "Running ready web:running/0").await);
    assert!(!before.contains(&new), "{new} is another pod's");
    let events = rig.pod_events.lock()[told..].to_vec();
    assert!(!events.iter().any(|event| event.starts_with("Pending unready web")), "{events:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_deleted_meanwhile_leaves_nothing_behind() {
    let mut rig = Rig::start().await;
    let spec = json!({"volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [{"name": "web", "image": "hello:v1",
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]});
    rig.create("a", spec).await;
    let pod = rig.pod_is("a", "Running ready web:running/0").await;
    let dir = rig.dir.path().join("pods").join(pod.metadata.uid.as_deref().unwrap());
    assert!(dir.exists());
    rig.stop_agent().await;
    rig.delete("a", None).await;
    rig.start_agent();
    rig.gone("a").await;
    assert!(!dir.exists());
}

/// As the control plane does to the pods of a node that it cannot hear.
#[tokio::test(start_paused = true)]
async fn a_status_that_others_overwrote_is_told_again() {
    let rig = Rig::start().await;
    rig.create("a", one("hello:v1")).await;
    let mut pod = (*rig.pod_is("a", "Running ready web:running/0").await).clone();
    for condition in pod.status.as_mut().unwrap().conditions.iter_mut().flatten() {
        if condition.type_ == "Ready" {
            condition.status = "False".into();
        }
    }
    rig.client.update_status(&pod).await.unwrap();
    rig.pod_is("a", "Running unready web:running/0").await;
    let began = rig.clock.now();
    rig.pod_is("a", "Running ready web:running/0").await;
    let took = Duration::try_from(rig.clock.now().duration_since(began)).unwrap();
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

/// A slow API is asked by few at once, however many pods a node has.
#[tokio::test(start_paused = true)]
async fn few_statuses_are_on_their_way_at_once() {
    const PODS: usize = 90;
    let rig = Rig::start().await;
    rig.line.is_slow.send_replace(true);
    for n in 0..PODS {
        rig.create(&format!("p{n}"), one("hello:v1")).await;
    }
    let on_the_way = || rig.line.on_the_way.load(Ordering::Relaxed);
    let (mut most, began) = (0, rig.clock.now());
    while rig.clock.now().duration_since(began).as_secs() < 30 {
        rig.clock.sleep(Duration::from_millis(50)).await;
        most = most.max(on_the_way());
    }
    assert_eq!(most, 64, "of {PODS}");
    rig.line.is_slow.send_replace(false);
    for n in 0..PODS {
        rig.pod_is(&format!("p{n}"), "Running ready web:running/0").await;
    }
}
