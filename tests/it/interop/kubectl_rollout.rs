//! The real kubectl: rollouts, scaling and watching.

use crate::cluster::tools::has;
use crate::cluster::{Space, guests};

#[test]
fn rollouts_are_followed_undone_paused_and_restarted() {
    let Some(space) = Space::with_kubectl("k-rollout") else { return };
    let kubectl = |words: &str| space.kubectl(words).ok();
    let done = || kubectl("rollout status deployment/web --timeout=90s");
    space.kubectl_with("apply -f -", &guests::deployment("web", "hello:v1", 2), &[]).ok();
    has(&done(), &["deployment \"web\" successfully rolled out"]);
    kubectl("set image deployment/web main=hello:v2");
    kubectl("annotate deployment/web kubernetes.io/change-cause=two");
    done();
    has(&kubectl("rollout history deployment/web"), &["REVISION", "1", "2", "two"]);
    has(&kubectl("rollout history deployment/web --revision=1"), &["hello:v1"]);
    kubectl("rollout undo deployment/web");
    done();
    let image = "get deployment web -o jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(kubectl(image), "hello:v1");
    kubectl("rollout undo deployment/web --to-revision=2");
    done();
    assert_eq!(kubectl(image), "hello:v2");
    kubectl("rollout pause deployment/web");
    kubectl("set env deployment/web A=b");
    has(&space.kubectl("rollout restart deployment/web").fails(), &["paused"]);
    kubectl("rollout resume deployment/web");
    done();
    kubectl("rollout restart deployment/web");
    done();
    kubectl("set resources deployment/web --limits=memory=96Mi");
    done();
    kubectl("scale deployment/web --replicas=4");
    kubectl("wait deployment/web --for=jsonpath={.status.readyReplicas}=4 --timeout=90s");
    kubectl("scale --replicas=1 --current-replicas=4 deployment/web");
    done();
    has(&space.kubectl("scale --replicas=1 --current-replicas=9 deployment/web").fails(), &["9"]);
    let rs = kubectl("get rs -o jsonpath={.items[0].metadata.name}");
    kubectl(&format!("scale rs/{rs} --replicas=0"));
}

#[test]
fn a_watch_shows_changes_as_they_come() {
    let Some(space) = Space::with_kubectl("k-watch") else { return };
    // The watch ends by itself once the pod is over; no clock is read.
    space.apply(&guests::job_pod("p", "tool:v1", &["sleep=300"]));
    let watched = space.kubectl("get pods --watch --request-timeout=4s").stdout;
    has(&watched, &["NAME", "p "]);
    has(&watched, &["Completed"]);
    let events =
        space.kubectl("get pods --watch --output-watch-events --request-timeout=2s").stdout;
    has(&events, &["EVENT", "ADDED"]);
}
