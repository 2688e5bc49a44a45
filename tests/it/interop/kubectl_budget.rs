//! The real kubectl: disruption budgets hold a drain back.

use crate::cluster::tools::has;
use crate::cluster::{Cluster, guests, tools, until};

/// On a cluster of its own: what is done to nodes concerns every pod.
#[test]
fn a_drain_waits_for_a_budget() {
    if tools::kubectl().is_none() {
        return;
    }
    let cluster = Cluster::start(2);
    cluster.push(&guests::path("rust-http-p2.wasm"), "hello:v1");
    cluster.apply(&guests::deployment("web", "hello:v1", 4));
    cluster.wasmctl("rollout status deployment/web --timeout 90s").ok();
    let kubectl = |words: &str| cluster.kubectl(words).ok();
    kubectl("create poddisruptionbudget web --selector=app=web --min-available=4");
    let status = |path: &str| kubectl(&format!("get pdb web -o jsonpath={{.status.{path}}}"));
    until("the budget is counted", || match status("currentHealthy").as_str() {
        "4" => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(status("disruptionsAllowed"), "0");
    let held = cluster.kubectl("drain node-1 --ignore-daemonsets --timeout=2s").fails();
    has(&held, &["Cannot evict pod as it would violate the pod's disruption budget."]);
    let held = cluster.wasmctl("drain node-1 --ignore-daemonsets --timeout 2s").fails();
    has(&held, &["violate the pod's disruption budget.", "did not leave in time"]);
    let pods = "get pods -l app=web --field-selector=spec.nodeName=node-1 -o name";
    assert_eq!(kubectl(pods).lines().count(), 2, "nothing went");
    // With room for one, pods go one after the other, each once its successor is ready.
    kubectl("patch pdb web --type merge -p '{\"spec\":{\"minAvailable\":3}}'");
    kubectl("drain node-1 --ignore-daemonsets --timeout=90s");
    assert_eq!(kubectl(pods), "");
    until("all is healthy again", || match status("currentHealthy").as_str() {
        "4" => Ok(()),
        other => Err(other.to_string()),
    });
    has(&kubectl("describe pdb web"), &["Allowed disruptions:  1", "Min available:  3"]);
}
