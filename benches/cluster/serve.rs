//! `wasmtime serve` beside us: the same component, the same client, in the same run.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use anyhow::Context;

/// The program to measure beside us, where it is neither what scripts/setup-benches.sh brings nor in
/// the PATH.
const VARIABLE: &str = "WASMFLEET_BENCH_WASMTIME";
const BROUGHT: &str = "target/tools/bin/wasmtime";
/// What the servers may use while they are measured, and what the clients.
const SERVERS_CORE: u8 = 0;
const CLIENTS_CORE: u8 = 1;

pub struct Serve {
    child: Child,
    pub address: SocketAddr,
}

impl Serve {
    /// Serves one of the built guests, with an instance for so many requests (its default without
    /// it); `None` if there is no `wasmtime`.
    pub fn start(guest: &str, reuse: Option<u32>) -> anyhow::Result<Option<Serve>> {
        let program = program();
        let version = Command::new(&program).arg("--version").output();
        let Ok(version) = version else {
            eprintln!(
                "wasmtime is not installed: its figures are missing; scripts/setup-benches.sh"
            );
            return Ok(None);
        };
        eprint!("beside {}", String::from_utf8_lossy(&version.stdout));
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/guests/built");
        // It begins with all cores, and so with as many threads, wherever this program is by now.
        let mut command = Command::new("taskset");
        command.arg("--cpu-list").arg(format!("0-{}", cores() - 1)).arg(&program);
        // It is told its address, so it cannot take a free one by itself.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        command.args(["serve", "-S", "cli", "--addr", &address.to_string()]);
        if let Some(count) = reuse {
            command.args(["--max-instance-reuse-count", &count.to_string()]);
        }
        let child = command
            .arg(built.join(guest))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("wasmtime serve")?;
        Ok(Some(Serve { child, address }))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn program() -> OsString {
    let brought = Path::new(env!("CARGO_MANIFEST_DIR")).join(BROUGHT);
    std::env::var_os(VARIABLE).unwrap_or_else(|| match brought.exists() {
        true => brought.into(),
        false => "wasmtime".into(),
    })
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Puts all threads of servers on one core, and those of this program on another; `false` where
/// there is one only.
pub fn part(servers: &[u32]) -> anyhow::Result<bool> {
    if cores() < 2 {
        return Ok(false);
    }
    for pid in servers {
        pin(*pid, SERVERS_CORE)?;
    }
    pin(std::process::id(), CLIENTS_CORE)?;
    Ok(true)
}

/// Asked once, before this program keeps to one of them.
fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn pin(pid: u32, core: u8) -> anyhow::Result<()> {
    let mut taskset = Command::new("taskset");
    taskset.args(["--all-tasks", "--cpu-list", "--pid", &core.to_string(), &pid.to_string()]);
    let status = taskset.stdout(Stdio::null()).status().context("taskset (util-linux)")?;
    anyhow::ensure!(status.success(), "taskset ended with {status}");
    Ok(())
}
