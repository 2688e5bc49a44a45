//! The real kubectl in three versions: streams that go on. Up to 1.29 it speaks SPDY for all of
//! them, up to 1.30 for port-forward, then WebSocket with SPDY inside.

use std::path::Path;
use std::process::Command;

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

const COPIED: &str = "apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  containers:
  - name: main
    image: tool:v1
    args: [sleep=100000]
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: conf, mountPath: /conf}
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: conf, configMap: {name: kube-root-ca.crt}}
";

#[test]
fn files_are_copied_to_and_from_volumes() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = dir.path().display();
    std::fs::create_dir_all(dir.path().join("tree/deep")).expect("made");
    let long = "x".repeat(120);
    let text = "line\n".repeat(100_000);
    std::fs::write(dir.path().join("tree/deep").join(&long), &text).expect("written");
    std::fs::write(dir.path().join("tree/empty"), "").expect("written");
    for (version, kubectl, space) in spaces("k-cp") {
        space.apply(COPIED);
        run(kubectl, &space, "wait pod/box --for=condition=Ready --timeout=90s", "").ok();
        run(kubectl, &space, &format!("cp {here}/tree box:/scratch"), "").ok();
        // The guest sees what was brought.
        let told = run(kubectl, &space, "exec box -- tool write=/scratch/tree/new", "").ok();
        has(&told, &["arg[1]=write=/scratch/tree/new"]);
        let back = dir.path().join(version);
        let words = format!("cp box:/scratch/tree {}", back.display());
        run(kubectl, &space, &words, "").ok();
        let read = |name: &str| std::fs::read_to_string(back.join(name)).expect("a file");
        assert_eq!(read(&format!("deep/{long}")), text, "{version}");
        assert_eq!((read("empty").as_str(), read("new").as_str()), ("", "written by the guest\n"));
        let one = format!("cp {here}/tree/empty box:/scratch/renamed");
        run(kubectl, &space, &one, "").ok();
        run(kubectl, &space, "exec box -- test -f /scratch/renamed", "").ok();
        // Nowhere else is anything written, nor read.
        let words = format!("cp {here}/tree/empty box:/conf/file");
        has(&run(kubectl, &space, &words, "").fails(), &["Read-only file system"]);
        let words = format!("cp {here}/tree/empty box:/etc/file");
        has(&run(kubectl, &space, &words, "").fails(), &["only the volumes of a container"]);
        let out = dir.path().join("passwd").display().to_string();
        let told = run(kubectl, &space, &format!("cp box:/etc/passwd {out}"), "");
        has(&told.stdout, &["tar: /etc/passwd: Cannot open", "Exiting with failure status"]);
        told.fails();
        assert!(!Path::new(&out).exists());
        let told = run(kubectl, &space, "exec box -- tar cf - /etc/passwd", "").fails();
        has(&told, &["tar: /etc/passwd: Cannot open"]);
    }
}

#[test]
fn links_are_copied_as_links_and_lead_out_of_no_volume() {
    let dir = tempfile::tempdir().expect("a directory");
    let (here, tree) = (dir.path().display(), dir.path().join("tree"));
    std::fs::create_dir_all(&tree).expect("made");
    std::fs::write(tree.join("real"), "what it is\n").expect("written");
    for (target, name) in [("real", "inside"), ("/etc", "absolute"), ("../../../../etc", "up")] {
        std::os::unix::fs::symlink(target, tree.join(name)).expect("a link");
    }
    std::fs::hard_link(tree.join("real"), tree.join("same")).expect("a link");
    // GNU tar packs a file with two names once, and the other name as a link to it.
    let packing = Command::new("tar").args(["-cf", "-", "tree"]).current_dir(dir.path()).output();
    let packed = String::from_utf8(packing.expect("tar is there").stdout).expect("all of it text");
    // More than an archive of ours has.
    let deep = dir.path().join("deep");
    std::fs::create_dir_all((0..70).fold(deep, |path, _| path.join("d"))).expect("made");
    for (version, kubectl, space) in spaces("k-links") {
        space.apply(COPIED);
        run(kubectl, &space, "wait pod/box --for=condition=Ready --timeout=90s", "").ok();
        // Links are made, and again in the place of those that are there.
        for _ in 0..2 {
            run(kubectl, &space, &format!("cp {here}/tree box:/scratch"), "").ok();
        }
        run(kubectl, &space, "exec -i box -- tar -xf - -C /scratch", &packed).ok();
        for name in ["inside", "real", "same"] {
            let words = format!("exec box -- tool cat=/scratch/tree/{name}");
            has(&run(kubectl, &space, &words, "").ok(), &["what it is"]);
        }
        for out in ["absolute", "up"] {
            let told =
                run(kubectl, &space, &format!("exec box -- test -e /scratch/tree/{out}"), "");
            assert_eq!(told.code, 1, "{version}: {}", told.told());
            let words = format!("cp {here}/tree/real box:/scratch/tree/{out}/passwd");
            has(&run(kubectl, &space, &words, "").fails(), &["passwd: Cannot open"]);
            let words = format!("exec box -- tool cat=/scratch/tree/{out}/passwd");
            run(kubectl, &space, &words, "").fails();
        }
        // kubectl makes no links here, and says so.
        let back = dir.path().join(version);
        let told = run(kubectl, &space, &format!("cp box:/scratch/tree {}", back.display()), "");
        let lines = ["skipping symlink", "inside\" -> \"real\"", "absolute\" -> \"/etc\""];
        has(&told.stderr, &lines);
        told.ok();
        assert!(back.join("real").is_file() && back.join("inside").symlink_metadata().is_err());
        // Both names come as files of their own.
        let same = std::fs::read_to_string(back.join("same")).expect("a file");
        assert_eq!(same, "what it is\n", "{version}");
        // What is left out fails the copy, though the rest comes.
        run(kubectl, &space, &format!("cp {here}/deep box:/scratch"), "").ok();
        let told = run(kubectl, &space, &format!("cp box:/scratch/deep {}", back.display()), "");
        has(&told.stdout, &["more than 64 directories in each other"]);
        told.fails();
        assert!(back.join("d/d").is_dir(), "{version}");
    }
}

#[test]
fn a_proxy_reaches_pods_and_services() {
    for (version, kubectl, space) in spaces("k-proxy") {
        space.apply(&guests::deployment("web", "hello:v1", 1));
        space.apply(&guests::service("web"));
        let ready = "wait deployment/web --for=condition=Available --timeout=90s";
        run(kubectl, &space, ready, "").ok();
        let pod = run(kubectl, &space, "get pods -o jsonpath={.items[0].metadata.name}", "").ok();
        let root = format!("/api/v1/namespaces/{}", space.name);
        for target in
            [format!("pods/{pod}"), format!("pods/http:{pod}:8080"), "services/web:80".into()]
        {
            let words = format!("get --raw {root}/{target}/proxy/some/path");
            let told = until("an answer through the proxy", || {
                let told = run(kubectl, &space, &words, "");
                (told.code == 0).then(|| told.stdout.clone()).ok_or_else(|| told.told())
            });
            assert!(told.contains("/some/path"), "{version} {target}: {told}");
        }
        let told = run(kubectl, &space, &format!("get --raw {root}/pods/{pod}:81/proxy/"), "");
        has(&told.fails(), &["error trying to reach service"]);
        let told = run(kubectl, &space, &format!("get --raw {root}/services/web:99/proxy/"), "");
        has(&told.fails(), &["no service port"]);
    }
}
