//! The operator of `examples/operator`, a program of its own: what its users see.

use crate::cluster::tools::{has, operator};
use crate::cluster::{Program, Space, until};

fn site(name: &str, replicas: u32) -> String {
    format!(
        "apiVersion: examples.wasmfleet.dev/v1
kind: Site
metadata: {{name: {name}}}
spec: {{image: 'hello:v1', replicas: {replicas}}}
"
    )
}

#[test]
fn an_operator_keeps_its_sites() {
    let Some(operator) = operator() else { return };
    let space = Space::new("operator");
    let kubeconfig = space.cluster.kubeconfig();
    let env = [("KUBECONFIG", kubeconfig.to_str().expect("UTF-8"))];
    let start = || {
        let program = Program::start_with(operator, &[], None, &env);
        program.wait_line("running; Sites are defined");
        program
    };
    let mut program = start();
    space.apply(&site("a", 2));
    space.wait_value("site a", ".status.ready", "2");
    assert_eq!(
        space.value("site a", ".metadata.finalizers"),
        r#"["examples.wasmfleet.dev/directory"]"#
    );
    assert_eq!(space.value("site a", ".status.observedGeneration"), "1");
    has(&space.wasmctl("get sites").ok(), &["IMAGE", "READY", "hello:v1"]);
    has(&space.wasmctl("get sites --field-selector=spec.image=hello:v1 -o name").ok(), &["/a"]);
    assert_eq!(space.value("configmap sites", ".data"), r#"{"a":"hello:v1"}"#);
    let kind = space.value("deployment a", ".metadata.ownerReferences[0].kind");
    assert_eq!(kind, "Site");

    // A user scales the Site; another manager's label on the child stays through it.
    space.wasmctl("label deployment a team=blue").ok();
    space.wasmctl("scale site a --replicas=3").ok();
    space.wait_value("site a", ".status.ready", "3");
    assert_eq!(space.value("deployment a", ".metadata.labels.team"), "blue");
    // What somebody else makes of a child is put right.
    space.wasmctl("scale deployment a --replicas=0").ok();
    space.wait_value("deployment a", ".spec.replicas", "3");
    let refused = space.wasmctl_with("apply -f -", &site("b", 101)).fails();
    has(&refused, &["spec.replicas", "100"]);

    // Started again it finds what there is, and goes on with what happened meanwhile.
    program.kill();
    space.apply(&site("c", 1));
    space.wasmctl("scale site a --replicas=1").ok();
    let _program = start();
    space.wait_value("site c", ".status.ready", "1");
    space.wait_value("site a", ".status.ready", "1");
    // A Site that goes takes its own entry along, and waits until that is done.
    space.wasmctl("delete site a").ok();
    assert_eq!(space.value("configmap sites", ".data"), r#"{"c":"hello:v1"}"#);
    space.wasmctl("delete site c").ok();
    // What they own goes with them: the operator deletes nothing of it.
    for what in ["sites", "deployments", "pods"] {
        let get = format!("get {what} -o name");
        until(&format!("no {what} are left"), || match space.wasmctl(&get).ok() {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        });
    }
}
