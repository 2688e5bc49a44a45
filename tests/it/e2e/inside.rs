//! `wasmctl`'s verbs that reach into a pod, and look into its program.

use std::path::Path;

use crate::cluster::tools::has;
use crate::cluster::{Program, Space, WASMCTL, guests, http, until};
use crate::runtime::inspect::{custom_sections, functions};

const BOX: &str = "apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: conf, configMap: {name: conf}}
  containers:
  - name: main
    image: tool:v1
    args: [sleep=100000]
    stdin: true
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: conf, mountPath: /conf}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {a: '1'}
";

fn ready(space: &Space, pod: &str) {
    let path = ".status.conditions[?(@.type==\"Ready\")].status";
    space.wait_value(&format!("pod {pod}"), path, "True");
}

#[test]
fn exec_runs_the_program_once_more() {
    let space = Space::new("i-exec");
    space.apply(BOX);
    ready(&space, "box");
    let told = space.wasmctl("exec box -- tool hello exit=5");
    assert_eq!(told.code, 5, "{}", told.told());
    has(&told.stdout, &["arg[0]=tool", "arg[1]=hello"]);
    has(&told.stderr, &["done 5"]);
    let told = space.wasmctl_with("exec -i box -c main -- tool stdin", "one\ntwo\n");
    has(&told.ok(), &["in: one", "in: two"]);
    let none = space.wasmctl("exec box -- sh");
    assert_eq!(none.code, 127, "{}", none.told());
    has(&space.wasmctl("exec box -c other -- tool").fails(), &["container other is not valid"]);
}

#[test]
fn attach_has_the_input_of_a_container() {
    let space = Space::new("i-attach");
    let reader = guests::job_pod("reader", "tool:v1", &["ready", "stdin"]);
    space.apply(&reader.replace("args:", "stdin: true, stdinOnce: true, args:"));
    ready(&space, "reader");
    let told = space.wasmctl_with("attach -i reader", "some words\n");
    has(&told.ok(), &["arg[1]=ready", "in: some words"]);
    space.wait_value("pod reader", ".status.phase", "Succeeded");
}

#[test]
fn ports_are_forwarded() {
    let space = Space::new("i-forward");
    space.apply(&guests::deployment("web", "hello:v1", 1));
    space.apply(&guests::service("web"));
    space.rolled_out("deployment/web");
    let kubeconfig = format!("--kubeconfig={}", space.cluster.kubeconfig().display());
    let words = [&kubeconfig, "-n", &space.name, "port-forward", "service/web", ":80"];
    let forward = Program::start(WASMCTL, &words, None);
    let line = forward.wait_line("Forwarding from 127.0.0.1:");
    let port = line.split(['>', ' ']).find_map(|word| word.strip_prefix("127.0.0.1:"));
    let url = format!("http://127.0.0.1:{}", port.expect("a port"));
    for _ in 0..3 {
        let mut connection = http::Connection::open(&url).expect("connects");
        assert!(connection.get("/").expect("answers").body.contains("hello"));
    }
}

#[test]
fn files_are_copied_both_ways() {
    let space = Space::new("i-cp");
    space.apply(BOX);
    ready(&space, "box");
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(path("tree/deep")).expect("made");
    std::fs::write(path("tree/deep/one"), "1").expect("written");
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(path("tree/large"), &large).expect("written");
    let tree = path("tree").display().to_string();
    space.wasmctl(&format!("cp {tree} box:/scratch")).ok();
    has(&space.wasmctl("exec box -- tool cat=/scratch/tree/deep/one").ok(), &["1"]);
    space.wasmctl(&format!("cp {tree}/deep/one box:/scratch/renamed -c main")).ok();
    has(&space.wasmctl("exec box -- tool cat=/scratch/renamed").ok(), &["1"]);
    let back = path("back").display().to_string();
    space.wasmctl(&format!("cp box:/scratch/tree {back}")).ok();
    assert_eq!(std::fs::read(path("back/large")).expect("copied"), large);
    assert_eq!(std::fs::read(path("back/deep/one")).expect("copied"), b"1");
    std::fs::create_dir(path("into")).expect("made");
    space.wasmctl(&format!("cp box:/scratch/renamed {}", path("into").display())).ok();
    assert_eq!(std::fs::read(path("into/renamed")).expect("copied"), b"1");
    let told = space.wasmctl(&format!("cp {tree}/large box:/conf/a")).fails();
    has(&told, &["Read-only file system"]);
    has(&space.wasmctl("cp box:/nowhere x").fails(), &["/nowhere"]);
    has(&space.wasmctl("cp a b").fails(), &["exactly one of both"]);
}

#[test]
fn top_tells_what_is_used() {
    let space = Space::new("i-top");
    space.apply(&guests::job_pod("spin", "spin:v1", &[]));
    ready(&space, "spin");
    let told = until("what it uses", || {
        let told = space.wasmctl("top pods --containers --sort-by cpu").ok();
        let line = told.lines().find(|line| line.starts_with("spin")).unwrap_or_default();
        let milli = line.split_whitespace().nth(2).and_then(|cell| cell.strip_suffix('m'));
        let used = milli.and_then(|milli| milli.parse::<u32>().ok()).unwrap_or(0);
        if used > 50 { Ok(told.clone()) } else { Err(told.clone()) }
    });
    has(&told, &["POD    NAME   CPU(cores)   MEMORY(bytes)"]);
    has(&space.wasmctl("top pods -A").ok(), &["NAMESPACE", "i-top"]);
    has(&space.wasmctl("top pod spin --no-headers").ok(), &["spin"]);
    let nodes = space.wasmctl("top nodes").ok();
    has(&nodes, &["CPU(%)", "MEMORY(%)", "node-1", "node-2"]);
    has(&space.wasmctl("top pod nobody").fails(), &["not found"]);
    space.wasmctl("delete pod spin --now --no-wait").ok();
}

#[test]
fn a_profile_opens_in_the_firefox_profiler() {
    let space = Space::new("i-profile");
    let text = r#"(module (memory (export "memory") 1)
        (func $where_it_is_hot (local $i i32)
          (loop $again
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const 1000000)))))
        (func (export "_start") (loop $for_ever (call $where_it_is_hot) (br $for_ever))))"#;
    space.cluster.push(&guests::assembled("profiled", text), "profiled:v1");
    space.apply(&guests::job_pod("hot", "profiled:v1", &[]));
    ready(&space, "hot");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("out.json");
    let told = space.wasmctl(&format!("profile hot --seconds 1 -o {}", file.display())).ok();
    has(&told, &["out.json written", "profiler.firefox.com"]);
    let found = functions(&std::fs::read(&file).expect("written"));
    let hot = found.iter().filter(|name| *name == "where_it_is_hot").count();
    assert!(hot > 10, "{hot} samples: {found:?}");
    has(&space.wasmctl("profile hot --seconds 3600").fails(), &["from 1 to 300"]);
    has(&space.wasmctl("profile nobody").fails(), &["not found"]);
    space.wasmctl("delete pod hot --now --no-wait").ok();
}

#[test]
fn a_trap_is_told_and_leaves_a_core_dump() {
    let space = Space::new("i-trap");
    let text = r#"(module (memory (export "memory") 1)
        (func $guilty unreachable) (func (export "_start") (call $guilty)))"#;
    space.cluster.push(&guests::assembled("trapping", text), "trapping:v1");
    let pod = guests::job_pod("trap", "trapping:v1", &[]);
    let annotated = "metadata: {annotations: {wasmfleet.dev/core-dump: 'true'}, name:";
    space.apply(&pod.replace("metadata: {name:", annotated));
    assert_eq!(space.exit_code("trap"), 134);
    // The function's name, where people look.
    has(&space.wasmctl("describe pod trap").ok(), &["unreachable", "guilty"]);
    has(&space.wasmctl("logs trap").ok(), &["unreachable", "guilty", "a core dump of"]);
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("core");
    until("the dump", || {
        let told = space.wasmctl(&format!("core-dump trap -o {}", file.display()));
        if told.code == 0 { Ok(()) } else { Err(told.told()) }
    });
    let sections = custom_sections(&std::fs::read(&file).expect("written"));
    assert!(sections.iter().any(|name| name == "corestack"), "{sections:?}");
    // Nobody asked for one here.
    space.apply(&guests::job_pod("quiet", "trapping:v1", &[]));
    assert_eq!(space.exit_code("quiet"), 134);
    has(&space.wasmctl("core-dump quiet").fails(), &["no annotation wasmfleet.dev/core-dump"]);
    assert!(!Path::new("quiet.coredump").exists());
}
