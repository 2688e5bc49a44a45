//! The real Helm 4: it writes its releases as protobuf and everything else by server-side apply.
//! The chart has hooks, a definition with a resource of it, and a test.

use std::path::Path;

use crate::cluster::tools::{self, has};
use crate::cluster::{Space, http, until};

#[test]
fn a_chart_is_installed_upgraded_rolled_back_and_uninstalled() {
    let Some(helm) = tools::helm() else { return };
    let space = Space::new("helm");
    let run = |words: &str| {
        let words = format!("-n {} {words}", space.name);
        space.cluster.run_with(helm, &words, "", &[])
    };
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chart");
    let chart = chart.display();
    let image = ".spec.template.spec.containers[0].image";
    let level = ".spec.level";
    let told = run(&format!("install web {chart} --wait --timeout 90s")).ok();
    has(&told, &["STATUS: deployed", "REVISION: 1"]);
    let url = space.service_url("web");
    until("an answer", || http::get(&url));
    assert_eq!(space.value("gauge web", ".spec"), r#"{"level":3,"unit":"percent"}"#);
    // Hooks ran in the order of their weights, and left what their policies let them.
    let started = |pod: &str| space.value(&format!("pod {pod}"), ".status.startTime");
    assert!(started("web-first") <= started("web-after"));
    assert_eq!(space.wasmctl("get pod web-before --ignore-not-found").ok(), "", "it succeeded");
    // Installed once is installed: another release of the name is refused.
    run(&format!("install web {chart}")).fails();
    has(&run("test web").ok(), &["TEST SUITE:     web-test", "Phase:          Succeeded"]);

    // A dry run asks the server, which changes nothing.
    let changed = "--set image=hello:v2,replicas=3,level=4";
    let dry = run(&format!("upgrade web {chart} {changed} --dry-run=server")).ok();
    has(&dry, &["image: hello:v2", "level: 4"]);
    assert_eq!(space.value("deployment web", image), "hello:v1");
    let refused = run(&format!("upgrade web {chart} --set level=11 --dry-run=server"));
    assert_eq!(refused.code, 0, "what a custom resource may be is seen when it is written");
    let told = run(&format!("upgrade web {chart} {changed} --wait --timeout 90s")).ok();
    has(&told, &["REVISION: 2"]);
    assert_eq!(space.value("deployment web", image), "hello:v2");
    assert_eq!(space.value("gauge web", level), "4");
    space.wait_value("deployment web", ".status.readyReplicas", "3");
    // What the server refuses fails the release, and is told by its status.
    let refused = run(&format!("upgrade web {chart} {changed},level=11")).fails();
    has(&refused, &["spec.level in body should be less than or equal to 10"]);
    has(&run("status web").ok(), &["STATUS: failed", "REVISION: 3"]);

    // Another manager's field is not taken unless forced.
    space.wasmctl("scale deployment web --replicas=1").ok();
    let again = format!("upgrade --install web {chart} {changed}");
    has(&run(&again).fails(), &["conflict with \"wasmctl-scale\"", ".spec.replicas"]);
    run(&format!("{again} --force-conflicts --wait --timeout 90s")).ok();
    assert_eq!(space.value("deployment web", ".spec.replicas"), "3");
    let history = run("history web").ok();
    has(&history, &["superseded", "failed", "deployed"]);
    has(&run("list").ok(), &["web", "deployed", "web-0.1.0"]);

    run("rollback web 1 --wait --timeout 90s").ok();
    assert_eq!(space.value("deployment web", image), "hello:v1");
    assert_eq!(space.value("gauge web", level), "3");
    space.wait_value("deployment web", ".spec.replicas", "2");
    has(&run("get manifest web").ok(), &["kind: RoleBinding", "image: hello:v1"]);
    has(&run("get values web --all").ok(), &["image: hello:v1", "level: 3"]);
    has(&run("get hooks web").ok(), &["name: web-last", "helm.sh/hook: pre-delete"]);

    run("uninstall web --wait --timeout 90s").ok();
    assert_eq!(space.wasmctl("get deployment,service,secret,role,gauges -o name").ok(), "");
    // Definitions of a chart stay, and the pods of hooks that nothing deletes.
    has(&space.wasmctl("get crd").ok(), &["gauges.charts.example.com"]);
    assert_eq!(space.value("pod web-last", ".status.phase"), "Succeeded");
    space.wasmctl("delete crd gauges.charts.example.com").ok();
}
