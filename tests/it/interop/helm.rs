//! The real Helm 4: it writes its releases as protobuf and everything else by server-side apply.

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
    let told = run(&format!("install web {chart} --wait --timeout 90s")).ok();
    has(&told, &["STATUS: deployed", "REVISION: 1"]);
    let url = space.service_url("web");
    until("an answer", || http::get(&url));
    assert_eq!(space.wasmctl("get pod web-before --ignore-not-found").ok(), "", "the hook's pod");
    // Installed once is installed: another release of the name is refused.
    run(&format!("install web {chart}")).fails();

    let upgrade =
        format!("upgrade web {chart} --set image=hello:v2,replicas=3 --wait --timeout 90s");
    has(&run(&upgrade).ok(), &["REVISION: 2"]);
    assert_eq!(space.value("deployment web", image), "hello:v2");
    space.wait_value("deployment web", ".status.readyReplicas", "3");
    let history = run("history web").ok();
    has(&history, &["superseded", "deployed"]);
    has(&run("list").ok(), &["web", "deployed", "web-0.1.0"]);

    run("rollback web 1 --wait --timeout 90s").ok();
    assert_eq!(space.value("deployment web", image), "hello:v1");
    space.wait_value("deployment web", ".spec.replicas", "2");
    has(&run("get manifest web").ok(), &["kind: RoleBinding", "image: hello:v1"]);

    run("uninstall web --wait --timeout 90s").ok();
    assert_eq!(space.wasmctl("get deployment,service,secret,role -o name").ok(), "");
}
