//! A Deployment under steady load: healed, scaled and rolled to a new version without a request
//! that fails.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::cluster::tools::has;
use crate::cluster::{Space, guests, http, until};

/// What one client saw.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    answers: AtomicU64,
    by_new: AtomicU64,
    failures: std::sync::Mutex<Vec<String>>,
}

impl Load {
    fn note(&self, result: Result<http::Response, String>, new: &str) -> bool {
        match result {
            Ok(response) if response.status == 200 => {
                self.answers.fetch_add(1, Ordering::Relaxed);
                if response.body.contains(new) {
                    self.by_new.fetch_add(1, Ordering::Relaxed);
                }
                response.keep_alive
            }
            Ok(response) => {
                self.fail(format!("{}: {}", response.status, response.body));
                false
            }
            Err(error) => {
                self.fail(error);
                false
            }
        }
    }

    fn fail(&self, what: String) {
        self.failures.lock().expect("not poisoned").push(what);
    }

    /// A connection for each request.
    fn one_by_one(&self, url: &str, new: &str) {
        while !self.stop.load(Ordering::Relaxed) {
            self.note(http::Connection::open(url).and_then(|mut c| c.get("/")), new);
        }
    }

    /// Requests over a connection that is kept, with a pause between them as browsers and
    /// connection pools make it.
    fn kept_alive(&self, url: &str, new: &str, pause: Duration) {
        let mut connection = None;
        while !self.stop.load(Ordering::Relaxed) {
            let result = match connection.take() {
                Some(connection) => Ok(connection),
                None => http::Connection::open(url),
            };
            match result {
                Ok(mut open) => {
                    if self.note(open.get("/"), new) {
                        connection = Some(open);
                    }
                }
                Err(error) => self.fail(error),
            }
            std::thread::sleep(pause);
        }
    }
}

#[test]
fn a_rolling_update_under_load_fails_no_request() {
    let space = Space::new("rolling");
    space.apply(&guests::deployment("web", "hello:v1", 3));
    space.apply(&guests::service("web"));
    space.rolled_out("deployment/web");
    let url = space.service_url("web");
    until("an answer", || http::get(&url));
    // The two versions are told apart by the guest's own words.
    let new = "hello from c";
    let load = Load::default();
    std::thread::scope(|scope| {
        scope.spawn(|| load.one_by_one(&url, new));
        scope.spawn(|| load.kept_alive(&url, new, Duration::ZERO));
        scope.spawn(|| load.kept_alive(&url, new, Duration::from_millis(60)));
        // Stops the clients however the block ends.
        let _guard = Stop(&load);
        until("load", || match load.answers.load(Ordering::Relaxed) {
            n if n > 50 => Ok(()),
            n => Err(format!("{n} answers")),
        });
        for image in ["hello:v2", "hello:v1", "hello:v2"] {
            space.wasmctl(&format!("set image deployment/web main={image}")).ok();
            space.rolled_out("deployment/web");
        }
        space.wasmctl("scale deployment/web --replicas=1").ok();
        space.rolled_out("deployment/web");
    });
    let failures = load.failures.into_inner().expect("not poisoned");
    let answers = load.answers.load(Ordering::Relaxed);
    assert!(failures.is_empty(), "{} of {answers} failed: {:?}", failures.len(), &failures[..1]);
    assert!(answers > 100, "{answers} answers");
    let by_new = load.by_new.load(Ordering::Relaxed);
    assert!(by_new > 0 && by_new < answers, "{by_new} of {answers} by the new version");
}

struct Stop<'a>(&'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_pod_that_is_deleted_is_replaced() {
    let space = Space::new("heal");
    space.apply(&guests::deployment("web", "hello:v1", 2));
    space.rolled_out("deployment/web");
    let names = space.value("pods", ".items[*].metadata.name");
    let victim = names.split(' ').next().expect("a pod").to_string();
    space.wasmctl(&format!("delete pod {victim}")).ok();
    space.wait_value("deployment/web", ".status.readyReplicas", "2");
    assert!(!space.value("pods", ".items[*].metadata.name").contains(&victim));
}

#[test]
fn revisions_are_kept_paused_and_gone_back_to() {
    let space = Space::new("revisions");
    let image = ".spec.template.spec.containers[0].image";
    space.apply(&guests::deployment("web", "hello:v1", 2));
    space.rolled_out("deployment/web");
    space.wasmctl("set image deployment/web main=hello:v2").ok();
    space.rolled_out("deployment/web");
    // Every step is told: 0 → 2, then up by one and down by one in turn.
    until("events of every step", || {
        let words = "get events --field-selector reason=ScalingReplicaSet -o name";
        match space.wasmctl(words).ok().lines().count() {
            5 => Ok(()),
            _ => Err(space.wasmctl("get events").stdout),
        }
    });
    let history = space.wasmctl("rollout history deployment/web").ok();
    assert!(history.lines().count() >= 4 && history.contains("2 "), "{history}");
    space.wasmctl("rollout undo deployment/web").ok();
    space.rolled_out("deployment/web");
    assert_eq!(space.value("deployment/web", image), "hello:v1");
    let images = ".items[*].spec.containers[0].image";
    space.wait_value("pods", images, "hello:v1 hello:v1");
    // A pause holds a change back until it is over.
    space.wasmctl("rollout pause deployment/web").ok();
    space.wasmctl("set image deployment/web main=hello:v2").ok();
    space.wait_value("deployment/web", ".status.observedGeneration", &{
        space.value("deployment/web", ".metadata.generation")
    });
    assert_eq!(space.value("pods", images), "hello:v1 hello:v1");
    space.wasmctl("rollout resume deployment/web").ok();
    space.rolled_out("deployment/web");
    space.wait_value("pods", images, "hello:v2 hello:v2");
    space.wasmctl("rollout undo deployment/web --to-revision=3").ok();
    space.rolled_out("deployment/web");
    assert_eq!(space.value("deployment/web", image), "hello:v1");
}

/// A workload of this kind, of servers.
fn set_of(kind: &str, image: &str) -> String {
    let own = match kind {
        "StatefulSet" => "replicas: 2, serviceName: web",
        _ => "minReadySeconds: 0",
    };
    format!(
        "apiVersion: apps/v1
kind: {kind}
metadata: {{name: web, annotations: {{kubernetes.io/change-cause: 'to {image}'}}}}
spec:
  {{{own}, selector: {{matchLabels: {{of: {kind}}}}}, template: {{
    metadata: {{labels: {{of: {kind}}}}},
    spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: '{image}'}}]}}}}}}
"
    )
}

#[test]
fn sets_are_followed_and_go_back() {
    let space = Space::new("rollout-sets");
    let image = ".spec.template.spec.containers[0].image";
    for kind in ["StatefulSet", "DaemonSet"] {
        let what = format!("{}/web", kind.to_lowercase());
        space.apply(&set_of(kind, "hello:v1"));
        space.rolled_out(&what);
        space.apply(&set_of(kind, "hello:v2"));
        let told = space.wasmctl(&format!("rollout status {what} --timeout 90s")).ok();
        let done = if kind == "DaemonSet" { "successfully rolled out" } else { "update complete" };
        has(&told, &[done]);
        let images =
            space.value(&format!("pods -l of={kind}"), ".items[*].spec.containers[0].image");
        assert_eq!(images, "hello:v2 hello:v2");
        let history = space.wasmctl(&format!("rollout history {what}")).ok();
        has(&history, &["REVISION", "1 ", "hello:v1", "2 ", "hello:v2"]);
        let first = space.wasmctl(&format!("rollout history {what} --revision=1")).ok();
        has(&first, &["with revision #1", "image: hello:v1"]);
        let undone = space.wasmctl(&format!("rollout undo {what}")).ok();
        has(&undone, &["rolled back"]);
        space.rolled_out(&what);
        assert_eq!(space.value(&what, image), "hello:v1");
        let again = space.wasmctl(&format!("rollout undo {what} --to-revision=3")).ok();
        has(&again, &["skipped rollback"]);
        space.wasmctl(&format!("rollout undo {what} --to-revision=9")).fails();
        let before = space.value(&format!("pods -l of={kind}"), ".items[*].metadata.uid");
        space.wasmctl(&format!("rollout restart {what}")).ok();
        space.rolled_out(&what);
        let after = space.value(&format!("pods -l of={kind}"), ".items[*].metadata.uid");
        assert!(before.split(' ').all(|uid| !after.contains(uid)), "{before}; {after}");
        let told = space.wasmctl(&format!("rollout pause {what}")).fails();
        has(&told, &["cannot be paused"]);
    }
    has(&space.wasmctl("rollout status pod/none").fails(), &["none"]);
}
