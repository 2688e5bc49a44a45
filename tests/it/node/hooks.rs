//! Lifecycle hooks: real requests and what is told of them.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::harness::Rig;

fn hooked(lifecycle: &Value) -> Value {
    json!({"terminationGracePeriodSeconds": 20, "restartPolicy": "Never",
        "containers": [{"name": "web", "image": "hello", "lifecycle": lifecycle}]})
}

/// The first line of the next request, which is answered.
async fn request(listener: &TcpListener, answer: &str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = [0; 1024];
    let count = stream.read(&mut bytes).await.unwrap();
    let head = String::from_utf8_lossy(&bytes[..count]).into_owned();
    assert!(head.contains("user-agent: kube-lifecycle/") && head.contains("x-why: test"), "{head}");
    let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
    head.lines().next().unwrap_or_default().to_string()
}

#[tokio::test]
async fn http_hooks_ask_the_pod_itself() {
    let rig = Rig::start().await;
    // The address that the node's first pod gets.
    let listener = TcpListener::bind("127.64.1.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let get = |path: &str| {
        let headers = json!([{"name": "X-Why", "value": "test"}]);
        json!({"httpGet": {"path": path, "port": port, "httpHeaders": headers}})
    };
    let lifecycle = json!({"postStart": get("/up"), "preStop": get("/down")});
    rig.create("a", hooked(&lifecycle)).await;
    // Any answer is good enough.
    assert_eq!(request(&listener, "500 No").await, "GET /up HTTP/1.1");
    rig.pod_is("a", "Running ready web:running/0").await;
    rig.delete("a", None).await;
    assert_eq!(request(&listener, "404 No").await, "GET /down HTTP/1.1");
    rig.gone("a").await;
    let told = rig.reasons();
    assert!(told.contains(&"Killing".into()) && !told.iter().any(|reason| reason.contains("Hook")));
}

#[tokio::test(start_paused = true)]
async fn a_failed_post_start_hook_ends_the_container() {
    let rig = Rig::start().await;
    let lifecycle = json!({"postStart": {"httpGet": {"path": "/", "port": 1}}});
    rig.create("a", hooked(&lifecycle)).await;
    rig.pod_is("a", "Failed unready web:Error=137/0").await;
    let told = rig.told("FailedPostStartHook").await;
    let text = "PostStartHook failed: Get \"http://127.64.1.2:1/\": ";
    assert!(told.message.starts_with(text), "{}", told.message);
    assert_eq!(rig.told("Killing").await.message, "FailedPostStartHook");
}

#[tokio::test(start_paused = true)]
async fn what_a_pre_stop_hook_comes_to_does_not_matter() {
    let rig = Rig::start().await;
    let lifecycle = json!({"postStart": {"sleep": {"seconds": 3}},
        "preStop": {"httpGet": {"path": "/", "port": 1}}});
    let began = rig.clock.now();
    rig.create("a", hooked(&lifecycle)).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    assert!(rig.clock.now().duration_since(began).as_secs() >= 3, "it slept");
    rig.delete("a", None).await;
    rig.gone("a").await;
    let told = rig.told("FailedPreStopHook").await;
    assert!(told.message.starts_with("PreStopHook failed: Get "), "{}", told.message);
    assert!(!rig.has_told("FailedPostStartHook"));
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_hook_has_the_grace_period_at_most() {
    let rig = Rig::start().await;
    rig.create("a", hooked(&json!({"preStop": {"sleep": {"seconds": 20}}}))).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    let began = rig.clock.now();
    rig.delete("a", Some(5)).await;
    rig.clock.sleep(Duration::from_secs(4)).await;
    assert_eq!(rig.runtime.running().len(), 1, "its hook is under way");
    rig.gone("a").await;
    assert!((5..20).contains(&rig.clock.now().duration_since(began).as_secs()));
    assert!(rig.runtime.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn commands_are_the_containers_own_program() {
    let rig = Rig::start().await;
    let lifecycle = json!({"postStart": {"exec": {"command": ["hello", "exit=0"]}},
        "preStop": {"exec": {"command": ["hello", "exit=3"]}}});
    let mut spec = hooked(&lifecycle);
    spec["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["hello"]}});
    rig.create("a", spec).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    rig.delete("a", None).await;
    rig.gone("a").await;
    let told = rig.told("FailedPreStopHook").await;
    let text = "PreStopHook failed: command \"hello\" exited with 3: ";
    assert!(told.message.starts_with(text), "{}", told.message);
    let mut spec = hooked(&json!({}));
    let probe = json!({"exec": {"command": ["hello", "exit=1"]}, "failureThreshold": 1});
    spec["containers"][0]["livenessProbe"] = probe;
    spec["restartPolicy"] = json!("Always");
    rig.create("b", spec).await;
    rig.pod("b", |pod| super::harness::summary(pod).ends_with("/1")).await;
    let told = rig.told("Unhealthy").await;
    let text = "Liveness probe failed: command \"hello\" exited with 1: ";
    assert!(told.message.starts_with(text), "{}", told.message);
}
