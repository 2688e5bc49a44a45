//! Pods that take what they can, on a cluster of their own: the agent survives, its memory stays
//! within what the pods may have, a neighbour is served, each ends with its reason, and all is
//! given back.

use std::time::{Duration, Instant};

use crate::cluster::tools::has;
use crate::cluster::{Cluster, guests, http, until};

/// Resident memory and open files of the program.
fn held(cluster: &mut Cluster) -> (u64, usize) {
    let pid = cluster.program().id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    (kib << 10, files)
}

fn pod(name: &str, image: &str, args: &[&str], limits: &str) -> String {
    let pod = guests::job_pod(name, image, args);
    pod.replace("args:", &format!("resources: {{limits: {{{limits}}}}}, args:"))
}

/// How long a request to the neighbour takes, the middle one of some.
fn middle(url: &str) -> Duration {
    let mut connection = http::Connection::open(url).expect("connects");
    let mut times: Vec<Duration> = (0..40)
        .map(|_| {
            let asked = Instant::now();
            assert!(connection.get("/").expect("answers").body.contains("hello"));
            asked.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

const FLOOD: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start") (local $i i32)
    ;; A line that never ends, of escape sequences and NULs.
    (loop $fill
      (i32.store8 (i32.add (i32.const 1024) (local.get $i))
        (select (i32.const 27) (i32.const 0) (i32.and (local.get $i) (i32.const 1))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $fill (i32.lt_u (local.get $i) (i32.const 65536))))
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 65536))
    (loop $for_ever
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $for_ever))))"#;

/// Opens one file again and again, and keeps all of them; it ends when it may have no more.
const OPENER: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 64) "file")
  (func (export "_start")
    (loop $more
      (br_if $more (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4)
        (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 16)))))
    unreachable))"#;

#[test]
fn a_node_outlives_its_worst_pods() {
    let mut cluster = Cluster::start(1);
    for (image, file) in guests::SHARED {
        cluster.push(&guests::path(file), image);
    }
    cluster.push(&guests::assembled("flood", FLOOD), "flood:v1");
    cluster.push(&guests::assembled("opener", OPENER), "opener:v1");
    cluster.apply(&guests::deployment("web", "hello:v1", 1));
    cluster.apply(&guests::service("web"));
    cluster.wasmctl("rollout status deployment/web --timeout 90s").ok();
    let url = cluster.service_url("default", "web");
    until("an answer", || http::get(&url));
    let quiet = middle(&url);
    let (memory_before, files_before) = held(&mut cluster);

    let mut bad = Vec::new();
    for n in 0..4 {
        bad.push(pod(&format!("spin-{n}"), "spin:v1", &[], "cpu: 200m, memory: 16Mi"));
    }
    bad.push(pod("hog", "hog:v1", &[], "memory: 32Mi"));
    bad.push(pod("flood", "flood:v1", &[], "cpu: 300m, memory: 16Mi"));
    let opener = pod("opener", "opener:v1", &[], "memory: 16Mi");
    let mount = "volumeMounts: [{name: v, mountPath: /v}], args:";
    bad.push(opener.replace("args:", mount) + "  volumes: [{name: v, emptyDir: {}}]\n");
    // Neither runs nor waits for ever.
    for (name, image) in [("late-spin", "spin:v1"), ("late-sleep", "sleep:v1")] {
        let pod = pod(name, image, &[], "cpu: 100m, memory: 16Mi");
        bad.push(pod.replace("spec:\n", "spec:\n  activeDeadlineSeconds: 1\n"));
    }
    cluster.apply(&bad.join("---\n"));

    let value = |cluster: &Cluster, pod: &str, path: &str| {
        cluster.wasmctl(&format!("get pod {pod} -o jsonpath={{{path}}}")).ok()
    };
    let wait = |cluster: &Cluster, pod: &str, path: &str, wanted: &str| {
        until(&format!("{pod}: {wanted}"), || {
            let found = value(cluster, pod, path);
            if found == wanted { Ok(()) } else { Err(found) }
        });
    };
    let reason = ".status.containerStatuses[0].state.terminated.reason";
    wait(&cluster, "hog", reason, "OOMKilled");
    for late in ["late-spin", "late-sleep"] {
        wait(&cluster, late, ".status.reason", "DeadlineExceeded");
    }
    for name in ["spin-0", "spin-3", "flood"] {
        wait(&cluster, name, ".status.phase", "Running");
    }
    // The opener ends at the most handles that it may have, and is told so.
    wait(&cluster, "opener", ".status.phase", "Failed");
    let message = ".status.containerStatuses[0].state.terminated.message";
    has(&value(&cluster, "opener", message), &["as many handles", "close what is not used"]);
    until("its files are closed", || {
        let (_, files) = held(&mut cluster);
        let more = files.saturating_sub(files_before);
        if more < 100 { Ok(()) } else { Err(format!("{more} more files")) }
    });
    let loaded = middle(&url);
    // The aim is a tenth more; a machine full of other tests gets more.
    let most = quiet.max(Duration::from_millis(5)) * 10;
    assert!(loaded < most, "a neighbour's request took {loaded:?}, and {quiet:?} before");
    // What was dropped is told, and what is printed does not drive a terminal.
    until("the marker in the log", || {
        let told = cluster.wasmctl("logs flood --tail 200");
        let marked = told.stdout.contains("bytes of output were dropped");
        if marked { Ok(()) } else { Err(format!("{} bytes", told.stdout.len())) }
    });
    let (memory, _) = held(&mut cluster);
    let grown = memory.saturating_sub(memory_before);
    // All pods together may have 200 MiB of their own, and little is used of it.
    assert!(grown < 220 << 20, "it grew by {grown} bytes");
    let logs: u64 = sizes(&cluster.data_dir().join("nodes"), "flood");
    assert!(logs < 45 << 20, "its log takes {logs} bytes");

    let names = "spin-0 spin-1 spin-2 spin-3 hog flood opener late-spin late-sleep";
    cluster.wasmctl(&format!("delete pod {names} --now")).ok();
    until("everything is given back", || {
        let (memory, files) = held(&mut cluster);
        let files = files.saturating_sub(files_before);
        let grown = memory.saturating_sub(memory_before) >> 20;
        if files < 40 && grown < 120 { Ok(()) } else { Err(format!("{files} files, {grown} MiB")) }
    });
    until("an answer", || http::get(&url));
    has(&cluster.wasmctl("get nodes").ok(), &["Ready"]);
}

/// The bytes of all files below directories whose names contain `part`.
fn sizes(dir: &std::path::Path, part: &str) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sum += sizes(&path, part);
        } else if path.to_string_lossy().contains(part) {
            sum += entry.metadata().map_or(0, |meta| meta.len());
        }
    }
    sum
}
