//! A node program that has neither compiler nor control plane, in 64 MiB of memory.

use std::path::{Path, PathBuf};

use super::separate::{READY, Server};
use crate::cluster::tools::{has, node_program};
use crate::cluster::{Program, guests, http, until};

const MEMORY_BYTES: u64 = 64 << 20;

/// A group of processes whose memory the kernel bounds; removed when it is dropped.
struct Group {
    dir: PathBuf,
}

impl Group {
    /// In the first hierarchy that lets us: version 2, or version 1's memory controller.
    fn new() -> Option<Group> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let name = format!("wasmfleet-test-{}", std::process::id());
        own.lines().find_map(|line| {
            let [_, controllers, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else {
                return None;
            };
            let (root, file) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max"),
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                _ => return None,
            };
            let dir = Path::new(root).join(path.trim_start_matches('/')).join(&name);
            std::fs::create_dir(&dir).ok()?;
            let group = Group { dir };
            std::fs::write(group.dir.join(file), MEMORY_BYTES.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes are reaped a moment after they ended.
        until("a group without processes", || {
            std::fs::remove_dir(&self.dir).map_err(|error| error.to_string())
        });
    }
}

/// Peak and present resident bytes of a process.
fn resident(pid: &str) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a field");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") << 10
    };
    (field("VmHWM:"), field("VmRSS:"))
}

#[test]
fn a_node_without_compiler_works_in_64_mib() {
    let Some(program) = node_program() else { return };
    let server = Server::start_with(&[]);
    let group = Group::new();
    let pid_file = server.dir.path().join("pid");
    let enter = match &group {
        Some(group) => format!("echo $$ >'{}/cgroup.procs' && ", group.dir.display()),
        // Its peak is looked at in the end.
        None => String::new(),
    };
    let script = format!("{enter}echo $$ >'{}' && exec \"$0\" \"$@\"", pid_file.display());
    let words = server.node_args("small", &server.token());
    let mut args = vec!["-c", script.as_str(), program.to_str().expect("UTF-8")];
    args.extend(words.iter().map(String::as_str));
    let mut node = Program::start("sh", &args, None);
    node.wait_line("ready");
    server.wait("node small", READY, "True");
    let pid = std::fs::read_to_string(&pid_file).expect("written").trim().to_string();
    let idle = resident(&pid).1;

    for (image, file) in [("hello:v1", "rust-http-p2.wasm"), ("tool:v1", "rust-cmd-p1.wasm")] {
        server.wasmctl(&format!("push {} {image}", guests::path(file).display()));
    }
    // An HTTP component with a readiness probe.
    server.wasmctl_with("apply -f -", &guests::deployment("web", "hello:v1", 1)).ok();
    server.wasmctl("rollout status deployment/web --timeout 90s");
    let ip = server.wasmctl("get pods -l app=web -o jsonpath={.items[0].status.podIP}");
    until("an answer", || http::get(&format!("http://{ip}:8080/")));
    // A preview 1 command, its log, and a second run of it in its sandbox.
    let tool = guests::job_pod("tool", "tool:v1", &["sleep=600000"]);
    server.wasmctl_with("apply -f -", &tool).ok();
    server.wait("pod tool", ".status.phase", "Running");
    until("its log", || {
        let log = server.wasmctl("logs tool");
        if log.contains("arg[1]=sleep=600000") { Ok(()) } else { Err(log) }
    });
    let again = server.wasmctl("exec tool -- tool hello");
    has(&again, &["arg[1]=hello"]);
    server.wasmctl("delete pod tool --grace-period=1");
    server.wasmctl("delete deployment web");
    until("the pods are gone", || {
        let left = server.wasmctl("get pods -o name");
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    let (peak, rest) = resident(&pid);
    let bound = if group.is_some() { "a cgroup of 64 MiB" } else { "no bound but its peak" };
    println!("{bound}: idle {idle} B, peak {peak} B, at the end {rest} B");
    assert!(peak <= MEMORY_BYTES, "a peak of {peak} bytes");
    assert!(node.terminate().success());
    drop(node);
}
