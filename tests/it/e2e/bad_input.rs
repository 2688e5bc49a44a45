//! What users get wrong: each gets one clear error, and the rest of the cluster goes on.

use std::io::Write;

use crate::cluster::tools::has;
use crate::cluster::{Space, guests, until};

#[test]
fn manifests_that_are_wrong_are_told_so() {
    let space = Space::new("manifests");
    let apply = |text: &str| space.wasmctl_with("apply -f -", text).fails();
    has(&apply("apiVersion: v1\nkind: [Pod\n"), &["error: ", "line"]);
    has(&apply("just text\n"), &["error: "]);
    has(&apply(""), &["error: "]);
    let unknown = "apiVersion: example.org/v1\nkind: Wonder\nmetadata: {name: x}\n";
    has(&apply(unknown), &["Wonder", "example.org/v1"]);
    let nameless = "apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n";
    has(&apply(nameless), &["name"]);
    let invalid = guests::deployment("Bad_Name", "hello:v1", 1);
    has(&apply(&invalid), &["Bad_Name", "metadata.name", "RFC 1123"]);
    let negative = guests::deployment("web", "hello:v1", 1).replace("replicas: 1", "replicas: -1");
    has(&apply(&negative), &["spec.replicas", "greater than or equal to 0"]);
    let elsewhere = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: nowhere}\n";
    has(
        &space.cluster.run(crate::cluster::WASMCTL.as_ref(), "apply -f -", elsewhere).fails(),
        &["namespaces \"nowhere\" not found"],
    );
    has(&space.wasmctl("apply -f /does/not/exist.yaml").fails(), &["/does/not/exist.yaml"]);
    has(&space.wasmctl("get wonders").fails(), &["wonders"]);
    has(&space.wasmctl("get pod nobody").fails(), &["pods \"nobody\" not found"]);
    // As kubectl does it: nothing is stored of an object with a field that nobody knows.
    let typo = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: typo}\ndatta: {a: b}\n";
    has(&apply(typo), &["unknown field \"datta\""]);
    has(&space.wasmctl("get configmap typo").fails(), &["not found"]);
}

#[test]
fn artifacts_that_cannot_run_are_refused() {
    let space = Space::new("artifacts");
    let mut text = tempfile::NamedTempFile::new().expect("a file");
    text.write_all(b"#!/bin/sh\necho no\n").expect("written");
    let told = space.wasmctl(&format!("push {} x:v1", text.path().display())).fails();
    has(&told, &["not a WebAssembly module or component"]);
    let told = space.wasmctl("push /does/not/exist.wasm x:v1").fails();
    has(&told, &["/does/not/exist.wasm"]);
    // Common mistakes are known.
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    for (name, content, hint) in [
        (
            "x.wat",
            "(module (func (export \"_start\")))",
            "`wasm-tools parse FILE.wat -o FILE.wasm`",
        ),
        ("empty.wasm", "", "it is empty"),
        ("x.cwasm", "\x7fELF\x02\x01\x01", "it is a program for an operating system"),
        ("x.html", "<!DOCTYPE html>", "what came instead of a download"),
    ] {
        std::fs::write(at(name), content).expect("written");
        let told = space.wasmctl(&format!("push {} x:v1", at(name))).fails();
        has(&told, &[&at(name), "not a WebAssembly module or component: ", hint]);
    }
    let told = space.wasmctl(&format!("push {} x:v1", dir.path().display())).fails();
    has(&told, &["is a directory; name the .wasm file in it"]);
    let told = space.wasmctl(&format!("push x:v1 {}", at("x.wat"))).fails();
    has(&told, &["there is no file x:v1: the file comes first, `wasmctl push FILE NAME:TAG`"]);
    let wants = r#"(component
        (import "acme:billing/ledger@1.0.0" (instance (export "post" (func))))
        (core module $m (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r)))"#;
    let file = guests::assembled("wants-ledger", wants);
    let told = space.wasmctl(&format!("push {} x:v1", file.display())).fails();
    has(&told, &["acme:billing/ledger@1.0.0"]);
    let module = "(module (import \"env\" \"launch\" (func)) (func (export \"_start\")))";
    let file = guests::assembled("wants-launch", module);
    let told = space.wasmctl(&format!("push {} x:v1", file.display())).fails();
    has(&told, &["env", "launch"]);
    let module = "(module (func (export \"_start\") (result i32) (i32.const 7)))";
    let file = guests::assembled("answers", module);
    let told = space.wasmctl(&format!("push {} x:v1", file.display())).fails();
    has(&told, &["the export `_start` is (func (result i32))"]);
    let told = space.wasmctl(&format!("push {} Bad:v1", file.display())).fails();
    has(&told, &["invalid image name"]);
}

#[test]
fn a_missing_artifact_waits_and_heals() {
    let space = Space::new("missing");
    let output = space.wasmctl_with("apply -f -", &guests::job_pod("p", "later:v1", &[]));
    let waiting = ".status.containerStatuses[0].state.waiting.reason";
    if output.code == 0 {
        space.wait_value("pod p", waiting, "ImagePullBackOff");
        has(&space.wasmctl("describe pod p").ok(), &["later:v1", "ImagePullBackOff"]);
        has(&space.wasmctl("get pod p").ok(), &["ImagePullBackOff", "0/1"]);
    } else {
        panic!("a pod may come before its image: {}", output.told());
    }
    space.cluster.push(&guests::path("rust-cmd-p1.wasm"), "later:v1");
    assert_eq!(space.exit_code("p"), 0);
}

#[test]
fn what_cannot_be_scheduled_says_why() {
    let space = Space::new("pending");
    let pod = guests::job_pod("big", "tool:v1", &[]);
    space.apply(&pod.replace("args:", "resources: {requests: {memory: 900Gi}}, args:"));
    let told = guests::job_pod("picky", "tool:v1", &[]);
    space.apply(&told.replace("spec:", "spec:\n  nodeSelector: {disk: fast}"));
    let message = ".status.conditions[?(@.type==\"PodScheduled\")].message";
    let message_of = |pod: &str| {
        until("a condition", || {
            let text = space.value(&format!("pod {pod}"), message);
            if text.is_empty() { Err(text) } else { Ok(text) }
        })
    };
    has(
        &message_of("big"),
        &["0/2 nodes are available", "2 Insufficient memory", "What would help: ask for"],
    );
    has(&message_of("picky"), &["0/2 nodes are available", "2 node(s) didn't match"]);
    until("an event", || {
        let events = space.wasmctl("get events").ok();
        if events.contains("FailedScheduling") { Ok(()) } else { Err(events) }
    });
}

#[test]
fn strangers_and_the_wrong_server_are_told_apart() {
    let space = Space::new("access");
    let kubeconfig = space.cluster.kubeconfig();
    let text = std::fs::read_to_string(&kubeconfig).expect("the kubeconfig");
    let dir = tempfile::tempdir().expect("a directory");
    let with = |name: &str, text: &str, words: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        space.wasmctl(&format!("--kubeconfig {} {words}", path.display()))
    };
    let anonymous: String = text
        .lines()
        .filter(|line| !line.contains("client-certificate-data") && !line.contains("client-key"))
        .map(|line| format!("{line}\n"))
        .collect();
    has(&with("anonymous", &anonymous, "get pods").fails(), &["does not accept these credentials"]);
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let dead = held.local_addr().expect("an address");
    drop(held);
    let server = text.lines().find(|line| line.contains("server:")).expect("a server");
    let elsewhere = text.replace(server, &format!("    server: https://{dead}"));
    has(&with("elsewhere", &elsewhere, "get pods").fails(), &["error: ", &dead.to_string()]);
    has(&with("nonsense", "a: [", "get pods").fails(), &["error: ", "kubeconfig"]);
    has(&space.wasmctl("--context nobody get pods").fails(), &["nobody"]);
}
