//! The real kubectl: quotas and limits of a namespace.

use crate::cluster::tools::has;
use crate::cluster::{Space, guests};

#[test]
fn a_quota_holds_a_deployment_back_and_gives_back_what_went() {
    let Some(space) = Space::with_kubectl("k-quota") else { return };
    let kubectl = |words: &str| space.kubectl(words).ok();
    kubectl("create quota q --hard=pods=2,count/deployments.apps=1");
    space.wait_value("quota q", ".status.hard.pods", "2");
    space.kubectl_with("apply -f -", &guests::deployment("web", "hello:v1", 3), &[]).ok();
    space.wait_value("deployment web", ".status.readyReplicas", "2");
    let failure = ".status.conditions[?(@.type==\"ReplicaFailure\")].reason";
    space.wait_value("deployment web", failure, "FailedCreate");
    has(&kubectl("describe rs"), &["exceeded quota: q, requested: pods=1, used: pods=2"]);
    let described = kubectl("describe quota q");
    let line = |name: &str| {
        let found = described.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("pods"), "pods 2 2");
    assert_eq!(line("count/deployments.apps"), "count/deployments.apps 1 1");
    has(&kubectl("get quota q"), &["pods: 2/2"]);
    has(
        &space.kubectl("create deployment other --image=hello:v1").fails(),
        &["exceeded quota: q", "count/deployments.apps=1"],
    );
    kubectl("scale deployment web --replicas=1");
    space.wait_value("quota q", ".status.used.pods", "1");
    kubectl("create configmap free --from-literal=a=b");
    kubectl("delete deployment web");
    space.wait_value("quota q", ".status.used.pods", "0");
    space.wait_value("quota q", ".status.used.count/deployments\\.apps", "0");
}
