//! Nodes whose control plane compiles for them.

use std::path::{Path, PathBuf};

use super::separate::{READY, Server};
use crate::cluster::tools::has;
use crate::cluster::{guests, until};
use crate::compiling::bombs;

/// Files of code in a directory.
fn code_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|end| end == "code")).collect()
}

/// One pod of an image on each node.
fn on_each_node(image: &str) -> String {
    guests::deployment("web", image, 1)
        .replace("kind: Deployment", "kind: DaemonSet")
        .replace("  replicas: 1\n", "")
}

#[test]
fn a_program_is_compiled_once_for_all_nodes() {
    let server = Server::start_with(&[]);
    let _first = server.node_with("n1", &[]);
    let _second = server.node_with("n2", &[]);
    let _third = server.node_with("n3", &["--compile-here"]);
    for node in ["node n1", "node n2", "node n3"] {
        server.wait(node, READY, "True");
    }
    server.wasmctl(&format!("push {} hello:v1", guests::path("rust-http-p2.wasm").display()));
    server.wasmctl_with("apply -f -", &on_each_node("hello:v1")).ok();
    server.wait("daemonset web", ".status.numberReady", "3");
    let made = code_in(&server.dir.path().join("server/code"));
    assert_eq!(made.len(), 1, "{made:?}");
    let made = std::fs::read(&made[0]).expect("reads");
    let kept = |node: &str| {
        let files = code_in(&server.dir.path().join(node).join("compiled"));
        assert_eq!(files.len(), 1, "{files:?}");
        std::fs::read(&files[0]).expect("reads")
    };
    assert!(kept("n1") == made && kept("n2") == made, "each has the control plane's file");
    assert!(kept("n3") != made, "it compiled for itself");
    // Who has the code has the image: nobody is asked for it.
    let pod = guests::job_pod("again", "hello:v1", &[])
        .replace("spec:\n", "spec:\n  nodeName: n1\n")
        .replace("{name: main", "{name: main, imagePullPolicy: Never");
    server.wasmctl_with("apply -f -", &pod).ok();
    server.wait("pod again", READY, "True");
    // The program itself came to the one that compiles only.
    let images = |node: &str| {
        let blobs = server.dir.path().join(node).join("images/blobs");
        std::fs::read_dir(blobs).expect("reads").count()
    };
    assert_eq!((images("n1"), images("n2"), images("n3")), (0, 0, 1));
}

#[test]
fn what_costs_the_compiler_too_much_is_told() {
    let server = Server::start_with(&["--compile-memory-mib", "256", "--compile-cpu-seconds", "1"]);
    let _node = server.node_with("n1", &[]);
    server.wait("node n1", READY, "True");
    let bomb = guests::written("bomb", &bombs::large_command(3_000));
    server.wasmctl(&format!("push {} bomb:v1", bomb.display()));
    let pod = guests::job_pod("bomb", "bomb:v1", &[]);
    server.wasmctl_with("apply -f -", &pod).ok();
    let waiting = ".status.containerStatuses[0].state.waiting";
    server.wait("pod bomb", &format!("{waiting}.reason"), "CompileLimit");
    let message = server.wasmctl(&format!("get pod bomb -o jsonpath={{{waiting}.message}}"));
    has(&message, &["compiling exceeded", "1 s of processor time"]);
    until("an event", || {
        let told = server.wasmctl("describe pod bomb");
        if told.contains("Failed") && told.contains("compiling") { Ok(()) } else { Err(told) }
    });
    // What would overflow the stack of a server's thread does so in a child, if at all.
    let deep = guests::written("deep", &bombs::deep_types(2_000));
    let _pushed_or_not = server.wasmctl_with(&format!("push {} deep:v1", deep.display()), "");
    // The next one is taken and compiled all the same.
    server.wasmctl(&format!("push {} exit7:v1", guests::path("p1-exit7.wat").display()));
    server.wasmctl_with("apply -f -", &guests::job_pod("small", "exit7:v1", &[])).ok();
    let code = ".status.containerStatuses[0].state.terminated.exitCode";
    server.wait("pod small", code, "7");
}
