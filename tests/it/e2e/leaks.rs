//! A thousand pods that end badly, and a thousand clients that go away: the program holds no more
//! than after the first hundred of them.

use std::io::Write;
use std::net::TcpStream;

use crate::cluster::{Cluster, guests, http, until};

const ROUNDS: usize = 10;
const PODS_A_ROUND: usize = 100;
const REQUESTS_A_ROUND: usize = 100;
/// What comes and goes by itself: connections that are kept, files of the log, arenas of memory.
const SLACK: Held = Held { files: 60, threads: 30, maps: 400, memory: 64 << 20 };

/// What a process has.
#[derive(Clone, Copy, Debug)]
struct Held {
    files: usize,
    threads: usize,
    maps: usize,
    /// Resident, in bytes.
    memory: usize,
}

impl Held {
    fn by(cluster: &mut Cluster) -> Held {
        let pid = cluster.program().id();
        let entries =
            |name: &str| std::fs::read_dir(format!("/proc/{pid}/{name}")).expect("it runs").count();
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).expect("it runs");
        let status = read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib: usize = line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("KiB");
        Held {
            files: entries("fd"),
            threads: entries("task"),
            maps: read("maps").lines().count(),
            memory: kib << 10,
        }
    }

    /// Whether it is no more than `before` and the slack.
    fn is_within(&self, before: &Held) -> bool {
        self.files <= before.files + SLACK.files
            && self.threads <= before.threads + SLACK.threads
            && self.maps <= before.maps + SLACK.maps
            && self.memory <= before.memory + SLACK.memory
    }
}

/// Opens fifty files, prints, and traps with all of them.
const TRAPPER: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4) (data (i32.const 64) "file")
  (func (export "_start") (local $i i32)
    (loop $more
      (drop (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4)
        (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 50))))
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 4))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    unreachable))"#;

fn pods() -> String {
    let kinds = [("trapper", "memory: 16Mi"), ("hog", "memory: 8Mi"), ("late", "memory: 16Mi")];
    let pod = |n: usize| {
        let (kind, limits) = kinds[n % kinds.len()];
        let (image, deadline) = match kind {
            "late" => ("sleep", "\n  activeDeadlineSeconds: 1"),
            other => (other, ""),
        };
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {kind}-{n}, labels: {{round: one}}}}
spec:
  restartPolicy: Never{deadline}
  containers:
  - name: main
    image: {image}:v1
    resources: {{limits: {{{limits}}}}}
    volumeMounts: [{{name: v, mountPath: /v}}]
  volumes: [{{name: v, emptyDir: {{}}}}]
"
        )
    };
    (0..PODS_A_ROUND).map(pod).collect::<Vec<_>>().join("---\n")
}

#[test]
fn a_thousand_bad_ends_leave_nothing_behind() {
    let mut cluster = Cluster::start(1);
    for (image, file) in guests::SHARED {
        cluster.push(&guests::path(file), image);
    }
    cluster.push(&guests::assembled("trapper", TRAPPER), "trapper:v1");
    cluster.apply(&guests::deployment("web", "hello:v1", 1));
    cluster.apply(&guests::service("web"));
    cluster.wasmctl("rollout status deployment/web --timeout 90s").ok();
    let url = cluster.service_url("default", "web");
    until("an answer", || http::get(&url));
    let pods = pods();
    let round = |cluster: &Cluster| {
        cluster.apply(&pods);
        until("all of them fail", || {
            let told =
                cluster.wasmctl("get pods -l round=one -o jsonpath={.items[*].status.phase}");
            let failed = told.ok().split_whitespace().filter(|phase| *phase == "Failed").count();
            if failed == PODS_A_ROUND { Ok(()) } else { Err(format!("{failed} failed")) }
        });
        abandon(&url);
        cluster.wasmctl("delete pods -l round=one --now").ok();
        until("all of them are gone", || {
            let left = cluster.wasmctl("get pods -l round=one -o name").ok();
            if left.trim().is_empty() { Ok(()) } else { Err(left) }
        });
    };
    round(&cluster);
    let after_one = Held::by(&mut cluster);
    for _ in 1..ROUNDS {
        round(&cluster);
    }
    let told = until("all is given back", || {
        let held = Held::by(&mut cluster);
        let told = format!("{held:?}, and {after_one:?} after one round");
        if held.is_within(&after_one) { Ok(told) } else { Err(told) }
    });
    eprintln!("{told}");
    until("an answer", || http::get(&url));
}

/// Clients that go away in the middle of a request, or before its answer.
fn abandon(url: &str) {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    for n in 0..REQUESTS_A_ROUND {
        let mut stream = TcpStream::connect(address).expect("connects");
        let whole = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
        let part = if n % 2 == 0 { &whole[..] } else { &whole[..9] };
        stream.write_all(part).expect("sent");
    }
}
