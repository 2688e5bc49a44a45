//! The real kubectl in three versions: streams that go on. Up to 1.29 it speaks SPDY for all of
//! them, up to 1.30 for port-forward, then WebSocket with SPDY inside.

use std::path::Path;

use crate::cluster::tools::{has, kubectl_of};
use crate::cluster::{Output, Program, Space, guests, http, until};

const VERSIONS: [&str; 3] = ["1.29", "1.32", "1.35"];

fn spaces(name: &str) -> impl Iterator<Item = (&'static str, &'static Path, Space)> {
    VERSIONS.into_iter().filter_map(move |version| {
        let kubectl = kubectl_of(version)?;
        Some((version, kubectl, Space::new(&format!("{name}-{}", version.replace('.', "-")))))
    })
}

fn run(kubectl: &Path, space: &Space, words: &str, stdin: &str) -> Output {
    space.cluster.run(kubectl, &format!("-n {} {words}", space.name), stdin)
}

#[test]
fn ports_are_forwarded() {
    for (version, kubectl, space) in spaces("k-forward") {
        space.apply(&guests::deployment("web", "hello:v1", 1));
        space.apply(&guests::service("web"));
        let ready = "wait deployment/web --for=condition=Available --timeout=90s";
        run(kubectl, &space, ready, "").ok();
        let kubeconfig = format!("--kubeconfig={}", space.cluster.kubeconfig().display());
        let (program, namespace) = (kubectl.to_str().expect("UTF-8"), format!("-n{}", space.name));
        // 81 is a port at which nobody listens.
        let words = [&kubeconfig, &namespace, "port-forward", "service/web", ":80"];
        let forward = Program::start(program, &words, None);
        let line = forward.wait_line("Forwarding from 127.0.0.1:");
        let port = line.split(['>', ' ']).find_map(|word| word.strip_prefix("127.0.0.1:"));
        let url = format!("http://127.0.0.1:{}", port.expect("a port"));
        // Several connections at once, and several requests on each.
        let mut connections: Vec<_> =
            (0..8).map(|_| http::Connection::open(&url).expect("connects")).collect();
        for _ in 0..3 {
            for connection in &mut connections {
                let answer = connection.get("/").expect("answers");
                assert!(answer.body.contains("hello"), "{version}: {}", answer.body);
            }
        }
        let pod = run(kubectl, &space, "get pods -o name", "").ok();
        let words = [&kubeconfig, &namespace, "port-forward", pod.trim(), ":81"];
        let forward = Program::start(program, &words, None);
        let line = forward.wait_line("Forwarding from 127.0.0.1:");
        let port = line.split(['>', ' ']).find_map(|word| word.strip_prefix("127.0.0.1:"));
        let url = format!("http://127.0.0.1:{}", port.expect("a port"));
        let refused = http::Connection::open(&url).and_then(|mut connection| connection.get("/"));
        assert!(refused.is_err(), "{version}: somebody answers at port 81");
        until("kubectl tells why", || {
            let log = forward.log();
            log.contains("failed to connect").then_some(()).ok_or(log)
        });
    }
}

const READER: &str = "apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: 'tool:v1', args: [ready, stdin], stdin: true, stdinOnce: true}
";

#[test]
fn who_attaches_has_the_input_of_a_container() {
    for (_, kubectl, space) in spaces("k-attach") {
        space.apply(READER);
        run(kubectl, &space, "wait pod/reader --for=condition=Ready --timeout=90s", "").ok();
        let told = run(kubectl, &space, "attach -i reader", "some words\n");
        // The first who attaches also gets what was written before.
        has(&told.ok(), &["arg[1]=ready", "in: some words"]);
        // Its input ended with the client's, and so did the program.
        let succeeded = "wait pod/reader --for=jsonpath={.status.phase}=Succeeded --timeout=90s";
        run(kubectl, &space, succeeded, "").ok();
        has(&run(kubectl, &space, "logs reader", "").ok(), &["in: some words", "done 0"]);
        run(kubectl, &space, "attach reader", "").fails();
    }
}

#[test]
fn a_pod_is_run_as_a_command() {
    for (version, kubectl, space) in spaces("k-run") {
        let words = "run once --rm -i --restart=Never --image=tool:v1 --quiet --command --";
        let told = run(kubectl, &space, &format!("{words} tool stdin"), "typed\n");
        has(&told.ok(), &["in: typed"]);
        let told = run(kubectl, &space, &format!("{words} tool stdin exit=4"), "typed\n");
        assert_eq!(told.code, 4, "{version}: {}", told.told());
        let left = run(kubectl, &space, "get pods -o name", "").ok();
        assert_eq!(left, "", "{version}");
        // What a command ends with, kubectl ends with.
        let pod = "run box --image=tool:v1 --command -- tool sleep=100000";
        run(kubectl, &space, pod, "").ok();
        run(kubectl, &space, "wait pod/box --for=condition=Ready --timeout=90s", "").ok();
        for code in [0, 1, 7, 255] {
            let told = run(kubectl, &space, &format!("exec box -- tool exit={code}"), "");
            assert_eq!(told.code, code, "{version}: {}", told.told());
        }
        let none = run(kubectl, &space, "exec box -- sh", "");
        assert_eq!(none.code, 127, "{version}: {}", none.told());
        has(&none.stderr, &["no such program", "tool ARGUMENTS"]);
    }
}
