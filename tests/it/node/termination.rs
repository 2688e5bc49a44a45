//! Termination messages of all containers of a pod.

use std::fs;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use serde_json::{Value, json};
use wasmfleet::runtime::ContainerSpec;
use wasmfleet::runtime::fake::{FakeEnd, Script};

use super::harness::Rig;

/// Writes where a container's message is looked for.
fn leave(spec: &ContainerSpec, dir: &str, file: &str, words: &str) {
    let mount = spec.mounts.iter().find(|mount| mount.guest_path == dir).unwrap();
    assert!(!mount.read_only);
    fs::write(mount.host_path.join(&mount.sub_path).join(file), words).unwrap();
}

fn message(state: &Option<ContainerState>) -> Option<String> {
    state.as_ref()?.terminated.as_ref()?.message.clone()
}

fn statuses(pod: &Pod) -> Vec<ContainerStatus> {
    let status = pod.status.clone().unwrap();
    let inits = status.init_container_statuses.into_iter().flatten();
    inits.chain(status.container_statuses.into_iter().flatten()).collect()
}

fn container(name: &str, over: Value) -> Value {
    let mut container = json!({"name": name, "image": "words"});
    container.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    container
}

#[tokio::test(start_paused = true)]
async fn each_container_has_a_message_of_its_own() {
    let rig = Rig::start().await;
    let spec = json!({"restartPolicy": "Never",
        "volumes": [{"name": "data", "emptyDir": {}}],
        "initContainers": [container("init", json!({})),
            container("side", json!({"restartPolicy": "Always"}))],
        "containers": [container("main", json!({"terminationMessagePath": "/data/deep/why",
            "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "here"}]}))]});
    rig.create("a", spec).await;
    rig.pod_is("a", "Pending unready init:running/0 side:PodInitializing/0 main:PodInitializing/0")
        .await;
    let init = rig.running();
    leave(&init, "/dev", "termination-log", "prepared");
    assert!(rig.runtime.finish(&init.id, FakeEnd::Exit(0)));
    rig.pod_is("a", "Running ready init:Completed=0/0 side:running/0 main:running/0").await;
    let running = rig.runtime.running();
    let of = |name: &str| running.iter().find(|one| one.container_name == name).unwrap();
    leave(of("side"), "/dev", "termination-log", "told to stop");
    let main = of("main");
    let data = &main.mounts.iter().find(|mount| mount.guest_path == "/data").unwrap();
    assert!(main.mounts.iter().all(|mount| mount.guest_path != "/data/deep"));
    fs::create_dir(data.host_path.join(&data.sub_path).join("deep")).unwrap();
    leave(main, "/data", "deep/why", &format!("{}!", "x".repeat(5000)));
    assert!(rig.runtime.finish(&main.id, FakeEnd::Exit(3)));
    let ended = "Failed unready init:Completed=0/0 side:Error=137/0 main:Error=3/0";
    let pod = rig.pod_is("a", ended).await;
    let statuses = statuses(&pod);
    let told: Vec<String> =
        statuses.iter().map(|one| message(&one.state).unwrap_or_default()).collect();
    assert_eq!(told[0], "prepared");
    assert!(told[1].ends_with(": told to stop"), "{told:?}");
    assert_eq!(told[2], format!("{}!", "x".repeat(4095)), "its last bytes");
}

#[tokio::test(start_paused = true)]
async fn a_failure_without_a_message_is_told_by_the_log() {
    let rig = Rig::start().await;
    let logs = |text: String| Script { logs: text, ..Script::runs() };
    let lines: String = (0..200).map(|line| format!("line {line}\n")).collect();
    rig.runtime.script_argument("sha256:words", "lines", logs(lines));
    rig.runtime.script_argument("sha256:words", "long", logs("y".repeat(9000)));
    let policy = |argument: &str| json!({"terminationMessagePolicy": "FallbackToLogsOnError", "args": [argument]});
    let mut told = Vec::new();
    for (name, argument, end) in [
        ("lines", "lines", FakeEnd::Exit(1)),
        ("long", "long", FakeEnd::Exit(1)),
        ("good", "lines", FakeEnd::Exit(0)),
        ("trap", "long", FakeEnd::Trap("trap: unreachable".into())),
    ] {
        let spec =
            json!({"restartPolicy": "Never", "containers": [container("c", policy(argument))]});
        rig.create(name, spec).await;
        rig.pod_is(name, "Running ready c:running/0").await;
        assert!(rig.runtime.finish(&rig.running().id, end));
        let ended = |pod: &Pod| message(&statuses(pod)[0].state).is_some() || name == "good";
        let done = |pod: &Pod| {
            pod.status.as_ref().is_some_and(|status| {
                status
                    .phase
                    .as_deref()
                    .is_some_and(|phase| phase == "Failed" || phase == "Succeeded")
            })
        };
        let pod = rig.pod(name, |pod| done(pod) && ended(pod)).await;
        told.push(message(&statuses(&pod)[0].state));
    }
    let last: Vec<String> = (120..200).map(|line| format!("line {line}")).collect();
    assert_eq!(told[0].as_deref(), Some(&*last.join("\n")));
    assert_eq!(told[1].as_deref(), Some(&*"y".repeat(2048)));
    assert_eq!(told[2], None);
    assert_eq!(told[3], Some(format!("trap: unreachable: {}", "y".repeat(2048))));
}

#[tokio::test(start_paused = true)]
async fn each_attempt_begins_without_a_message_and_handlers_get_no_file_unasked() {
    let rig = Rig::start().await;
    rig.create("a", json!({"containers": [container("c", json!({}))]})).await;
    rig.pod_is("a", "Running ready c:running/0").await;
    let first = rig.running();
    leave(&first, "/dev", "termination-log", "first");
    assert!(rig.runtime.finish(&first.id, FakeEnd::Exit(1)));
    let pod = rig.pod_is("a", "Running ready c:running/1").await;
    assert_eq!(message(&statuses(&pod)[0].last_state).as_deref(), Some("first"));
    assert!(rig.runtime.finish(&rig.running().id, FakeEnd::Exit(1)));
    let pod = rig.pod_is("a", "Running ready c:running/2").await;
    assert_eq!(message(&statuses(&pod)[0].last_state), None);
    rig.delete("a", None).await;
    rig.gone("a").await;
    let pod_dir = first.mounts.last().unwrap().host_path.parent().unwrap().to_path_buf();
    assert!(!pod_dir.exists());

    rig.runtime.script("sha256:web", Script::serves());
    let handler = |over: Value| {
        let mut container = container("c", over);
        container["image"] = "web".into();
        json!({"terminationGracePeriodSeconds": 0, "containers": [container]})
    };
    for (name, path, mounts) in [("b", "/dev/termination-log", 0), ("c", "/words/last", 1)] {
        rig.create(name, handler(json!({"terminationMessagePath": path}))).await;
        rig.pod_is(name, "Running ready c:running/0").await;
        assert_eq!(rig.running().mounts.len(), mounts, "{path}");
        rig.delete(name, Some(0)).await;
        rig.gone(name).await;
    }
    rig.create(
        "d",
        json!({"containers": [container("c", json!({"terminationMessagePath": "x/.."}))]}),
    )
    .await;
    rig.pod_is("d", "Pending unready c:CreateContainerConfigError/0").await;
}
