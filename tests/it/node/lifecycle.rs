//! Start, restart, end and deletion of pods.

use std::time::Duration;

use serde_json::json;
use wasmfleet::node::images::PullError;
use wasmfleet::runtime::fake::{FakeEnd, PrepareFailure, Script};

use super::harness::{Rig, summary};

fn one(image: &str) -> serde_json::Value {
    json!({"containers": [{"name": "web", "image": image}]})
}

fn policy(policy: &str) -> serde_json::Value {
    json!({"restartPolicy": policy, "containers": [{"name": "web", "image": "hello:v1"}]})
}

#[tokio::test(start_paused = true)]
async fn a_pod_starts_is_told_in_one_write_and_is_deleted() {
    let rig = Rig::start().await;
    rig.create("a", one("hello:v1")).await;
    let pod = rig.pod_is("a", "Running ready web:running/0").await;
    let status = pod.status.clone().unwrap();
    assert_eq!(status.pod_ip.as_deref(), Some("127.64.1.2"));
    assert_eq!(status.host_ip.as_deref(), Some("127.0.0.1"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(container.image_id, "hello:v1@sha256:hello:v1");
    let id = container.container_id.clone().unwrap();
    assert_eq!(id, format!("wasmtime://{}", rig.running().id));
    // Two of the slow looks at everything: nothing is told twice.
    rig.clock.sleep(Duration::from_secs(130)).await;
    assert_eq!(
        *rig.pod_events.lock(),
        ["Pending unready", "Running ready web:running/0"],
        "one write from bound to running"
    );
    let spec = rig.running();
    assert_eq!(spec.args, ["hello"]);
    assert_eq!(spec.http_ports, [8080]);
    assert_eq!(spec.pod_ip.to_string(), "127.64.1.2");

    rig.delete("a", None).await;
    rig.gone("a").await;
    assert!(rig.runtime.running().is_empty());
    assert!(rig.has_told("Killing"));
}

#[tokio::test(start_paused = true)]
async fn a_serving_pod_stays_ready_until_it_is_told_to_stop() {
    let rig = Rig::start().await;
    let mut script = Script::serves();
    script.drain_takes = Duration::from_secs(3);
    rig.runtime.script_default(script);
    rig.create("a", one("hello:v1")).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    rig.delete("a", None).await;
    let pod = rig.pod("a", |pod| pod.metadata.deletion_timestamp.is_some()).await;
    assert_eq!(summary(&pod), "Running ready web:running/0", "proxies may fall back to it");
    rig.pod_is("a", "Running unready web:running/0").await;
    assert_eq!(rig.runtime.running().len(), 1, "it finishes its requests");
    assert_eq!(rig.runtime.drained().len(), 1, "and sends its clients away");
    rig.gone("a").await;
    let events = rig.pod_events.lock().clone();
    assert_eq!(events.last().unwrap(), "Succeeded unready web:Completed=0/0");
}

#[tokio::test(start_paused = true)]
async fn a_forced_delete_kills() {
    let rig = Rig::start().await;
    rig.create("a", one("hello:v1")).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    rig.delete("a", Some(0)).await;
    rig.gone("a").await;
    // The container of a new pod of the same name is another one.
    rig.create("a", one("hello:v2")).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    rig.until(|_| (rig.runtime.running().len() == 1).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn crashes_back_off() {
    let rig = Rig::start().await;
    let script = Script::ends(Duration::from_millis(10), FakeEnd::Exit(3));
    rig.runtime.script_default(script);
    rig.create("a", one("hello:v1")).await;
    let pod = rig.pod_is("a", "Running unready web:CrashLoopBackOff/2").await;
    let status = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].clone();
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    let message = status.state.unwrap().waiting.unwrap().message.unwrap();
    assert!(message.starts_with("back-off 20s restarting failed container=web pod=a_default("));
}

#[tokio::test(start_paused = true)]
async fn policies_decide_what_an_exit_means() {
    let rig = Rig::start().await;
    let ends = |code| Script::ends(Duration::from_millis(10), FakeEnd::Exit(code));
    rig.runtime.script_default(ends(0));
    rig.create("ok", policy("Never")).await;
    rig.pod_is("ok", "Succeeded unready web:Completed=0/0").await;
    rig.create("again", policy("OnFailure")).await;
    rig.pod_is("again", "Succeeded unready web:Completed=0/0").await;
    rig.runtime.script_default(ends(7));
    rig.create("bad", policy("Never")).await;
    rig.pod_is("bad", "Failed unready web:Error=7/0").await;
    let script = Script::ends(Duration::from_millis(10), FakeEnd::OutOfMemory);
    rig.runtime.script_default(script);
    rig.create("oom", policy("Never")).await;
    rig.pod_is("oom", "Failed unready web:OOMKilled=137/0").await;
    rig.delete("oom", None).await;
    rig.gone("oom").await;
}

#[tokio::test(start_paused = true)]
async fn init_containers_go_in_order() {
    let rig = Rig::start().await;
    rig.runtime.script("sha256:init", Script::ends(Duration::from_secs(1), FakeEnd::Exit(0)));
    rig.create(
        "a",
        json!({"initContainers": [
                {"name": "one", "image": "init"},
                {"name": "side", "image": "side", "restartPolicy": "Always"},
                {"name": "two", "image": "init"}],
            "containers": [{"name": "web", "image": "hello:v1"}]}),
    )
    .await;
    rig.pod_is(
        "a",
        "Running ready one:Completed=0/0 side:running/0 two:Completed=0/0 web:running/0",
    )
    .await;
    let events = rig.pod_events.lock().join("\n");
    assert!(
        events.contains(
            "Pending unready one:running/0 side:PodInitializing/0 two:PodInitializing/0 \
             web:PodInitializing/0"
        ),
        "{events}"
    );
    rig.delete("a", None).await;
    rig.gone("a").await;
    assert!(rig.runtime.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_start_says_why() {
    let rig = Rig::start().await;
    let failed = PullError::Failed("no such image".into());
    rig.images.failures.lock().insert("missing".into(), failed);
    rig.create("pull", one("missing")).await;
    rig.pod_is("pull", "Pending unready web:ErrImagePull/0").await;
    rig.pod_is("pull", "Pending unready web:ImagePullBackOff/0").await;
    rig.images.failures.lock().clear();
    rig.pod_is("pull", "Running ready web:running/0").await;

    let invalid = PrepareFailure::InvalidModule("imports wasi:gfx".into());
    rig.runtime.script("sha256:invalid", Script::fails_prepare(invalid));
    rig.create("invalid", one("invalid")).await;
    let pod = rig.pod_is("invalid", "Pending unready web:InvalidModule/0").await;
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    let waiting = status.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.message.as_deref(), Some("imports wasi:gfx"));

    let mut script = Script::runs();
    script.start_fails = Some("port 8080 is in use".into());
    rig.runtime.script("sha256:port", script);
    rig.create("port", one("port")).await;
    rig.pod_is("port", "Running unready web:CrashLoopBackOff/1").await;
}

#[tokio::test(start_paused = true)]
async fn deadlines_end_pods() {
    let rig = Rig::start().await;
    let mut spec = one("hello:v1");
    spec["activeDeadlineSeconds"] = json!(5);
    rig.create("a", spec).await;
    rig.pod_is("a", "Failed (DeadlineExceeded) unready web:Error=137/0").await;
    let told = rig.told("DeadlineExceeded").await;
    assert_eq!(told.message, "Pod was active on the node longer than the specified deadline");
    let all = rig.reasons().into_iter().filter(|reason| *reason == "DeadlineExceeded");
    assert_eq!(all.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_served_on_so_many_ports_and_no_more() {
    let rig = Rig::start().await;
    rig.runtime.script_default(Script::serves());
    let ports: Vec<_> = (0..18).map(|n| json!({"containerPort": 8000 + n})).collect();
    let spec = json!({"containers": [{"name": "web", "image": "hello:v1", "ports": ports}]});
    rig.create("a", spec).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    assert_eq!(rig.running().http_ports, (8000..8016).collect::<Vec<u16>>());
    let told = rig.told("PortsLeftOut").await.message;
    assert!(told.ends_with("these are not: [8016, 8017]"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_image_restarts_the_container_whatever_the_policy() {
    let rig = Rig::start().await;
    rig.create("a", policy("Never")).await;
    let pod = rig.pod_is("a", "Running ready web:running/0").await;
    let mut pod = (*pod).clone();
    pod.spec.as_mut().unwrap().containers[0].image = Some("hello:v2".into());
    rig.client.update(&pod).await.unwrap();
    let pod = rig.pod_is("a", "Running ready web:running/1").await;
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    assert_eq!(status.image_id, "hello:v2@sha256:hello:v2");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_at_once_was_started() {
    let rig = Rig::start().await;
    rig.runtime.script_default(Script::ends(Duration::ZERO, FakeEnd::Exit(0)));
    rig.create("a", policy("Never")).await;
    let pod = rig.pod_is("a", "Succeeded unready web:Completed=0/0").await;
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    assert_eq!(status.image_id, "hello:v1@sha256:hello:v1");
    assert!(rig.has_told("Started"));
}

#[tokio::test(start_paused = true)]
async fn code_that_is_ready_is_not_loaded_again() {
    let rig = Rig::start().await;
    let mut script = Script::runs();
    script.prepare_takes = Duration::from_secs(5);
    rig.runtime.script_default(script);
    for name in ["a", "b", "c"] {
        rig.create(name, one("hello:v1")).await;
    }
    for name in ["a", "b", "c"] {
        rig.pod_is(name, "Running ready web:running/0").await;
    }
    rig.create("d", one("hello:v1")).await;
    rig.pod_is("d", "Running ready web:running/0").await;
    assert_eq!(*rig.images.loads.lock(), ["hello:v1"]);
}

#[tokio::test(start_paused = true)]
async fn the_steps_of_a_start_and_its_failures_are_events() {
    let rig = Rig::start().await;
    rig.runtime.script_default(Script::ends(Duration::from_secs(1), FakeEnd::Exit(1)));
    rig.create("a", one("hello:v1")).await;
    let pod = rig.pod_is("a", "Running unready web:CrashLoopBackOff/1").await;
    let uid = pod.metadata.uid.clone().unwrap();
    rig.until(|_| rig.has_told("BackOff").then_some(())).await;
    let told: Vec<String> = rig.notices.lock().iter().map(|n| n.message.clone()).collect();
    assert_eq!(
        told[..3],
        [
            "Container image \"hello:v1\" already present on machine",
            "Created container: web",
            "Started container web"
        ]
    );
    let back_off = format!("Back-off restarting failed container web in pod a_default({uid})");
    assert_eq!(told.iter().filter(|text| **text == back_off).count(), 1, "{told:#?}");
    let field = rig.notices.lock()[0].regarding.field_path.clone();
    assert_eq!(field.as_deref(), Some("spec.containers{web}"));
    let failed = PullError::Failed("no route".into());
    rig.images.failures.lock().insert("missing".into(), failed);
    rig.create("b", one("missing")).await;
    rig.pod_is("b", "Pending unready web:ImagePullBackOff/0").await;
    let told: Vec<String> = rig.notices.lock().iter().map(|n| n.message.clone()).collect();
    for text in ["Failed to pull image \"missing\": no route", "Back-off pulling image \"missing\""]
    {
        assert!(told.iter().any(|told| told == text), "{text}: {told:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_of_the_host_is_one_pods_at_a_time() {
    let rig = Rig::start().await;
    let spec = || {
        let ports = json!([{"containerPort": 80, "hostPort": 21017}]);
        json!({"containers": [{"name": "web", "image": "hello:v1", "ports": ports}]})
    };
    rig.create("a", spec()).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    rig.create("b", spec()).await;
    let pod = rig.pod_is("b", "Failed (NodePorts) unready").await;
    let message = pod.status.as_ref().and_then(|status| status.message.clone()).unwrap();
    assert!(message.starts_with("Pod was rejected: Predicate NodePorts failed"), "{message}");
    assert!(rig.has_told("NodePorts"));
    rig.delete("a", None).await;
    rig.gone("a").await;
    rig.create("c", spec()).await;
    rig.pod_is("c", "Running ready web:running/0").await;
}

#[tokio::test(start_paused = true)]
async fn a_container_is_told_of_services() {
    let rig = Rig::start().await;
    let env = json!([{"name": "KUBERNETES_SERVICE_PORT", "value": "1"},
        {"name": "URL", "value": "$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)"}]);
    rig.create("a", json!({"containers": [{"name": "web", "image": "hello:v1", "env": env}]}))
        .await;
    rig.pod_is("a", "Running ready web:running/0").await;
    let env = rig.running().env;
    let is = |name: &str, value: &str| env.contains(&(name.to_string(), value.to_string()));
    assert!(is("KUBERNETES_PORT_443_TCP", "tcp://127.128.0.1:443"), "{env:?}");
    assert!(is("URL", "127.128.0.1:1"), "its own go before: {env:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_lets_its_containers_end_well() {
    let mut rig = Rig::start().await;
    let drain_takes = Duration::from_secs(2);
    rig.runtime.script_default(Script { drain_takes, ..Script::serves() });
    rig.create("web", json!({"containers": [{"name": "c", "image": "web:v1"}]})).await;
    let runs = "Running ready c:running/0";
    rig.pod_is("web", runs).await;
    let began = tokio::time::Instant::now();
    rig.stop_agent().await;
    assert!(began.elapsed() >= drain_takes, "what is under way is finished");
    assert!(rig.runtime.running().is_empty());
    let started = rig.runtime.started().len();
    rig.pod_is("web", runs).await;
    rig.start_agent();
    rig.pod_is("web", "Running ready c:running/1").await;
    assert_eq!(rig.runtime.started().len(), started + 1);
}
