//! Pods of a folder: they run whatever the API says, which shows them as mirrors.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use wasmfleet::node::StaticPodSource;
use wasmfleet::runtime::fake::{FakeEnd, Script};

use super::harness::Rig;

const RUNS: &str = "Running ready c:running/0";
const MIRROR: &str = "kubernetes.io/config.mirror";

struct Folder {
    rig: Rig,
    path: PathBuf,
    /// Lives as long as the test.
    _dir: tempfile::TempDir,
}

impl Folder {
    async fn start(files: &[(&str, String)]) -> Folder {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_path_buf();
        for (name, text) in files {
            std::fs::write(path.join(name), text).unwrap();
        }
        let source = StaticPodSource { path: path.clone(), period: Duration::from_secs(20) };
        let rig = Rig::with(|options| options.static_pods = Some(source)).await;
        Folder { rig, path, _dir: dir }
    }

    /// As editors do it: at once.
    fn write(&self, name: &str, text: &str) {
        let new = self.path.join(".new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path.join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path.join(name)).unwrap();
    }

    /// Waits until the API has a mirror that is as wanted, by its summary, and another one than `old`.
    async fn mirror(&self, name: &str, wanted: &str, old: Option<&Pod>) -> Arc<Pod> {
        let old = old.and_then(|old| old.metadata.uid.clone());
        let is_wanted = |pod: &Pod| {
            super::harness::summary(pod) == wanted && (old.is_none() || pod.metadata.uid != old)
        };
        self.rig.pod(name, is_wanted).await
    }
}

fn file(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
         spec: {{containers: [{{name: c, image: \"{image}\"}}]}}\n"
    )
}

fn annotation(pod: &Pod, name: &str) -> String {
    pod.metadata.annotations.as_ref().and_then(|map| map.get(name)).cloned().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_file_is_a_pod_and_the_api_has_its_mirror() {
    let folder = Folder::start(&[("web.yaml", file("web", "hello:v1"))]).await;
    let mirror = folder.mirror("web-n1", RUNS, None).await;
    let runs = folder.rig.running();
    assert_eq!((runs.pod_name.as_str(), runs.namespace.as_str()), ("web-n1", "default"));
    assert_eq!(annotation(&mirror, MIRROR), runs.pod_uid);
    assert_eq!(annotation(&mirror, "kubernetes.io/config.hash"), runs.pod_uid);
    assert_eq!(annotation(&mirror, "kubernetes.io/config.source"), "file");
    assert!(annotation(&mirror, "kubernetes.io/config.seen").starts_with("2026-01-01T"));
    let owner = &mirror.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.name.as_str(), owner.controller),
        ("Node", "n1", Some(true))
    );
    let spec = mirror.spec.as_ref().unwrap();
    assert_eq!(
        (spec.node_name.as_deref(), spec.service_account_name.as_deref()),
        (Some("n1"), None)
    );

    // Whoever deletes it deletes a mirror, gracefully or not.
    folder.rig.delete("web-n1", None).await;
    let second = folder.mirror("web-n1", RUNS, Some(&mirror)).await;
    folder.rig.delete("web-n1", Some(0)).await;
    let third = folder.mirror("web-n1", RUNS, Some(&second)).await;
    assert_eq!(folder.rig.running().id, runs.id, "it runs on");

    // Another content is another pod.
    folder.write("web.yaml", &file("web", "hello:v2"));
    let fourth = folder.mirror("web-n1", RUNS, Some(&third)).await;
    let now = folder.rig.running();
    assert_ne!(now.pod_uid, runs.pod_uid);
    assert_eq!(annotation(&fourth, MIRROR), now.pod_uid);
    // The same content is the same pod, as is one with another comment.
    folder.write("web.yaml", &format!("# said\n{}", file("web", "hello:v2")));
    folder.write(
        "other.json",
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"},
        "spec": {"containers": [{"name": "c", "image": "hello:v3"}]}}"#,
    );
    folder.mirror("other-n1", RUNS, None).await;
    assert_eq!(folder.rig.runtime.running().len(), 2);
    assert!(folder.rig.runtime.running().iter().any(|one| one.id == now.id));

    folder.remove("web.yaml");
    folder.rig.gone("web-n1").await;
    assert_eq!(folder.rig.running().pod_name, "other-n1");
}

#[tokio::test(start_paused = true)]
async fn bad_files_are_told_and_disturb_nothing() {
    let secret = file("secret", "hello:v1").replace("spec: {", "spec: {serviceAccountName: x, ");
    let files = [
        ("a.yaml", "kind: [".to_string()),
        ("b.yaml", secret),
        ("web.yaml", file("web", "hello:v1")),
        (".hidden.yaml", file("hidden", "hello:v1")),
    ];
    let folder = Folder::start(&files).await;
    folder.mirror("web-n1", RUNS, None).await;
    let told = || -> Vec<String> {
        let notices = folder.rig.notices.lock();
        let bad = notices.iter().filter(|notice| notice.reason == "InvalidStaticPod");
        bad.map(|notice| notice.message.clone()).collect()
    };
    assert_eq!(told().len(), 2, "{:?}", told());
    assert!(told()[1].contains("b.yaml: static pods may not reference serviceaccounts"));
    assert_eq!(folder.rig.told("InvalidStaticPod").await.regarding.kind.as_deref(), Some("Node"));
    assert_eq!(folder.rig.running().pod_name, "web-n1");
    // One that is spoilt keeps its pod, one that is mended gets one.
    let id = folder.rig.running().id;
    folder.write("web.yaml", "kind: Pod");
    folder.write("b.yaml", &file("b", "hello:v1"));
    folder.mirror("b-n1", RUNS, None).await;
    assert!(folder.rig.runtime.running().iter().any(|one| one.id == id));
    assert_eq!(told().len(), 3, "{:?}", told());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_again_finds_its_static_pods() {
    let once = file("once", "once").replace("spec: {", "spec: {restartPolicy: Never, ");
    let mut folder = Folder::start(&[("web.yaml", file("web", "hello:v1"))]).await;
    let script = Script::ends(Duration::from_millis(1), FakeEnd::Exit(0));
    folder.rig.runtime.script("sha256:once", script);
    let mirror = folder.mirror("web-n1", RUNS, None).await;
    let done = "Succeeded unready c:Completed=0/0";
    folder.write("once.yaml", &once);
    folder.rig.pod_is("once-n1", done).await;
    folder.rig.restart_agent().await;
    let again = folder.mirror("web-n1", "Running ready c:running/1", None).await;
    assert_eq!(again.metadata.uid, mirror.metadata.uid);
    let ip = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    assert_eq!(ip(&again), ip(&mirror), "it keeps its address");
    folder.rig.pod_is("once-n1", done).await;
    folder.rig.restart_agent().await;
    folder.mirror("web-n1", "Running ready c:running/2", None).await;
    let still = folder.rig.pod("once-n1", |_| true).await;
    assert_eq!(super::harness::summary(&still), done);

    // What went while the agent was away leaves no mirror behind, and runs no more.
    folder.rig.stop_agent().await;
    folder.remove("web.yaml");
    folder.rig.start_agent();
    folder.rig.gone("web-n1").await;
    assert!(folder.rig.runtime.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_the_api_keeps_its_name() {
    let folder = Folder::start(&[]).await;
    let spec = serde_json::json!({"containers": [{"name": "c", "image": "hello:v1"}]});
    folder.rig.create("web-n1", spec).await;
    folder.mirror("web-n1", RUNS, None).await;
    let id = folder.rig.running().id;
    folder.write("web.yaml", &file("web", "hello:v2"));
    let told = folder.rig.told("FailedStaticPod").await;
    assert!(told.message.contains("default/web-n1"), "{}", told.message);
    assert_eq!(folder.rig.running().id, id);
    // Its turn comes when the name is free.
    folder.rig.delete("web-n1", Some(0)).await;
    let mirror = folder.rig.pod("web-n1", |pod| !annotation(pod, MIRROR).is_empty()).await;
    folder.rig.pod("web-n1", |pod| super::harness::summary(pod) == RUNS).await;
    assert_eq!(annotation(&mirror, MIRROR), folder.rig.running().pod_uid);
}

#[tokio::test(start_paused = true)]
async fn without_the_api_static_pods_run_and_others_wait_for_it() {
    let mut folder = Folder::start(&[("web.yaml", file("web", "hello:v1"))]).await;
    folder.mirror("web-n1", RUNS, None).await;
    let spec = serde_json::json!({"containers": [{"name": "c", "image": "hello:v1"}]});
    folder.rig.create("other", spec).await;
    folder.rig.pod_is("other", RUNS).await;
    folder.rig.stop_agent().await;
    folder.rig.line.is_cut.store(true, Ordering::Relaxed);
    folder.rig.notices.lock().clear();
    folder.rig.start_agent();
    folder.rig.told("Started").await;
    assert_eq!(folder.rig.running().pod_name, "web-n1");
    // Its file counts now as ever.
    let before = folder.rig.running();
    folder.write("web.yaml", &file("web", "hello:v2"));
    let runs = folder.rig.until(|_| {
        let mut running = folder.rig.runtime.running();
        running.retain(|one| one.pod_uid != before.pod_uid);
        running.pop()
    });
    let runs = runs.await;
    assert_eq!(runs.pod_name, "web-n1");

    folder.rig.line.is_cut.store(false, Ordering::Relaxed);
    let other = folder.rig.pod_is("other", "Running ready c:running/1").await;
    let is_new = |pod: &Pod| annotation(pod, MIRROR) == runs.pod_uid;
    folder.rig.pod("web-n1", is_new).await;
    let mirror = folder.mirror("web-n1", RUNS, None).await;
    let ip = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    assert_ne!(ip(&mirror), ip(&other));
    let again: Vec<_> = folder.rig.runtime.running().into_iter().map(|one| one.id).collect();
    assert!(again.len() == 2 && again.contains(&runs.id), "{again:?}");
}
