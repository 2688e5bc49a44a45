//! `wasmfleet up`: the demo, the lines that scripts wait for, a clean stop, a start on the same
//! directory, and what stands in its way.

use std::net::TcpListener;

use crate::cluster::tools::has;
use crate::cluster::{Cluster, Program, Range, WASMFLEET, guests, http, until};

#[test]
fn the_demo_answers_and_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let args = ["up", "--demo", "--once", "--listen", "127.0.0.1:0", "--data-dir"];
    let mut args = args.to_vec();
    args.push(data.to_str().expect("UTF-8"));
    let range = Range::take();
    let ranges = range.options();
    args.extend(ranges.iter().map(String::as_str));
    let mut program = Program::start(WASMFLEET, &args, Some(dir.path()));
    let status = program.wait_end();
    let told = program.stdout();
    assert!(status.success(), "{status}\n{told}\n{}", program.stderr());
    let kubeconfig = data.canonicalize().expect("made").join("kubeconfig");
    has(&told, &["3/3 replicas ready", "\nhello ", "wasmctl get pods", "\nready\n"]);
    has(&told, &[&data.display().to_string(), &kubeconfig.display().to_string()]);
    // The demo again, on what it left: nothing stands in its way.
    let mut program = Program::start(WASMFLEET, &args, Some(dir.path()));
    let status = program.wait_end();
    assert!(status.success(), "{status}\n{}\n{}", program.stdout(), program.stderr());
}

#[test]
fn a_demo_that_is_cut_off_did_not_succeed() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let args = ["up", "--demo", "--once", "--listen", "127.0.0.1:0", "--data-dir"];
    let mut args = args.to_vec();
    args.push(data.to_str().expect("UTF-8"));
    let mut program = Program::start(WASMFLEET, &args, Some(dir.path()));
    program.wait_line("data directory");
    let status = program.terminate();
    assert_eq!(status.code(), Some(1), "{}", program.stderr());
    has(&program.stderr(), &["error: ", "signal"]);
}

#[test]
fn started_again_it_brings_every_workload_back() {
    let mut cluster = Cluster::start(2);
    cluster.push(&guests::path("rust-http-p2.wasm"), "hello:v1");
    cluster.apply(&guests::deployment("web", "hello:v1", 3));
    cluster.apply(&guests::service("web"));
    cluster.wasmctl("rollout status deployment/web --timeout 90s").ok();
    let names = |cluster: &Cluster| cluster.wasmctl("get pods -o name").ok();
    let before = names(&cluster);
    let uids = "get pods -o jsonpath={.items[*].metadata.uid}";
    let uids_before = cluster.wasmctl(uids).ok();
    let url = cluster.service_url("default", "web");
    until("an answer", || http::get(&url));

    let status = cluster.program().terminate();
    assert!(status.success(), "SIGTERM ends it cleanly: {status}\n{}", cluster.program().log());
    assert!(http::get(&url).is_err(), "nothing is left behind that answers");
    cluster.start_again();
    until("an answer after the restart", || http::get(&url));
    assert_eq!(names(&cluster), before, "the same pods");
    assert_eq!(cluster.wasmctl(uids).ok(), uids_before);

    // The same without a chance to say goodbye.
    cluster.program().kill();
    cluster.start_again();
    until("an answer after a kill", || http::get(&url));
    assert_eq!(cluster.wasmctl(uids).ok(), uids_before);
}

#[test]
fn what_stands_in_the_way_is_told_in_one_line() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = held.local_addr().expect("an address").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_string();
    std::fs::write(dir.path().join("file"), "").expect("written");
    let fails = |args: &[&str]| {
        let mut program = Program::start(WASMFLEET, args, Some(dir.path()));
        let status = program.wait_end();
        assert!(!status.success(), "{args:?}");
        assert_eq!(program.stdout(), "", "nothing was promised: {args:?}");
        let told = program.stderr();
        assert!(told.starts_with("error: ") && told.lines().count() == 1, "{args:?}: {told}");
        told
    };

    let told = fails(&["up", "--data-dir", &path("a"), "--listen", &port]);
    has(&told, &["cannot listen on", &port, "--listen", "in use"]);
    let told = fails(&["up", "--data-dir", &path("file/below"), "--listen", "127.0.0.1:0"]);
    has(&told, &["the data directory", "cannot be used", "--data-dir"]);

    let config = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
                  profiles: [{plugins: {bind: {disabled: [{name: DefaultBinder}]}}}]\n";
    std::fs::write(dir.path().join("scheduler.yaml"), config).expect("written");
    let file = path("scheduler.yaml");
    let told = fails(&["up", "--data-dir", &path("c"), "--scheduler-config", &file]);
    has(&told, &[&file, "profiles[0].plugins.bind:", "multiPoint"]);

    let cluster = Cluster::start(1);
    let data = cluster.data_dir();
    let data = data.to_str().expect("UTF-8");
    let told = fails(&["up", "--data-dir", data, "--listen", "127.0.0.1:0"]);
    has(&told, &[data, "is in use by process"]);
    let told = fails(&["up", "--data-dir", &path("b"), "--log", "nonsense=loud"]);
    has(&told, &["--log", "nonsense=loud"]);
}

#[test]
fn a_store_that_is_damaged_is_not_served() {
    let mut cluster = Cluster::start(1);
    cluster.program().terminate();
    let file = cluster.data_dir().join("store/state.redb");
    let size = std::fs::metadata(&file).expect("the store").len();
    std::fs::write(&file, vec![0x5a; size as usize]).expect("overwritten");
    let data = cluster.data_dir();
    let args = ["up", "--listen", "127.0.0.1:0", "--cluster-cidr", "127.96.0.0/14"];
    let more = ["--service-cidr", "127.136.0.0/16", "--data-dir", data.to_str().expect("UTF-8")];
    let args = [&args[..], &more].concat();
    let mut program = Program::start(WASMFLEET, &args, None);
    assert!(!program.wait_end().success());
    has(&program.stderr(), &["error: ", "state.redb"]);
}
