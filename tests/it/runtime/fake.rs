//! The fake runtime keeps the contract of the real one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use wasmfleet::runtime::fake::{FakeEnd, FakeRuntime, PrepareFailure, Script};
use wasmfleet::runtime::{
    ArtifactKind, ContainerSpec, ExitReason, PrepareError, Prepared, Runtime, RuntimeEvent,
};

use super::harness::{NoNames, Output, Running, pod_ip};

fn runtime() -> Arc<FakeRuntime> {
    FakeRuntime::new(Arc::new(|| jiff::Timestamp::UNIX_EPOCH))
}

async fn start(runtime: &FakeRuntime, digest: &str, args: &[&str]) -> Running {
    let artifact = runtime.prepare(digest, Bytes::new()).await.expect("prepares");
    let id = format!("{digest}-{}", runtime.started().len());
    let spec = ContainerSpec {
        id: id.clone(),
        namespace: "default".to_owned(),
        pod_name: "pod".to_owned(),
        pod_uid: "uid".to_owned(),
        container_name: "main".to_owned(),
        artifact,
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: Vec::new(),
        mounts: Vec::new(),
        pod_ip: pod_ip(),
        http_ports: vec![8080],
        memory_limit_bytes: 1 << 20,
        cpu_limit_millicores: None,
        cpu_request_millicores: None,
        logs: Arc::new(Output::default()),
        stdin: None,
        tty: false,
        names: Arc::new(NoNames),
        allowed_hosts: Vec::new(),
        core_dumps: None,
        requests_per_instance: 1,
        workload: Arc::default(),
    };
    let (sender, events) = mpsc::channel(4);
    let container = runtime.start(spec, sender).await.expect("starts");
    Running { container, events, id }
}

#[tokio::test]
async fn scripts_decide_how_containers_end() {
    let runtime = runtime();
    let soon = Duration::from_millis(1);
    runtime.script("exits", Script::ends(soon, FakeEnd::Exit(3)));
    runtime.script("hogs", Script::ends(soon, FakeEnd::OutOfMemory));
    runtime.script_argument("exits", "crash", Script::ends(soon, FakeEnd::Trap("oh".to_owned())));
    let exit = start(&runtime, "exits", &[]).await.exit().await;
    assert_eq!((exit.code, exit.reason), (3, ExitReason::Error));
    assert_eq!(exit.finished_at, jiff::Timestamp::UNIX_EPOCH, "the clock that was given");
    let exit = start(&runtime, "exits", &["app", "crash"]).await.exit().await;
    assert_eq!((exit.code, exit.message.as_str()), (134, "oh"));
    let exit = start(&runtime, "hogs", &[]).await.exit().await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled));
    assert_eq!(runtime.started().len(), 3);
    assert!(runtime.running().is_empty());
    assert_eq!(runtime.times_prepared("exits"), 1, "prepared once, used twice");
}

#[tokio::test]
async fn what_is_open_runs_until_it_is_stopped_or_finished() {
    let runtime = runtime();
    runtime.script("web", Script::serves());
    let mut process = start(&runtime, "app", &[]).await;
    process.started().await;
    assert_eq!(runtime.running().len(), 1);
    process.container.stop(Duration::from_secs(30));
    assert_eq!(process.exit().await.code, 137, "a process hears no signal");
    let mut server = start(&runtime, "web", &[]).await;
    server.container.stop(Duration::from_secs(30));
    assert_eq!(server.exit().await.code, 0, "a server finishes");
    let mut process = start(&runtime, "app", &[]).await;
    assert!(runtime.finish(&process.id, FakeEnd::Exit(0)));
    let exit = process.exit().await;
    assert_eq!((exit.code, exit.reason), (0, ExitReason::Completed));
    assert!(!runtime.finish(&process.id, FakeEnd::Exit(0)), "it is gone");
    let Running { container, mut events, .. } = start(&runtime, "app", &[]).await;
    drop(container);
    let mut last = None;
    while let Some(event) = events.recv().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(RuntimeEvent::Exited { exit, .. }) if exit.code == 137));
}

#[tokio::test]
async fn preparing_can_fail() {
    let runtime = runtime();
    let bad = PrepareFailure::InvalidModule("no entry".to_owned());
    runtime.script("bad", Script::fails_prepare(bad));
    let error = runtime.prepare("bad", Bytes::new()).await.err().expect("fails");
    assert!(matches!(error, PrepareError::InvalidModule(text) if text == "no entry"));
    assert!(runtime.prepared("good").await.is_none());
    let kind = |code: Arc<dyn Prepared>| code.kind();
    let made = runtime.prepare("good", Bytes::new()).await.map(kind);
    assert_eq!(made.ok(), Some(ArtifactKind::Command));
    assert!(runtime.prepared("good").await.is_some());
}
