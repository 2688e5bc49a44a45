//! A whole cluster as a child process, and a client to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use wasmfleet::client::remote::Remote;
use wasmfleet::client::{Client, ListOptions};
use wasmfleet::images::layout::Interfaces;
use wasmfleet::images::push;

use crate::launch::{launch, until_ready};
use crate::program;
use crate::stats;

const STARTS: usize = 5;
const NODES: usize = 2;
/// Images and the files that they are made of.
const GUESTS: [(&str, &str); 3] = [
    ("http:v1", "rust-http-p2.wasm"),
    ("tcp:v1", "rust-tcp-p2.wasm"),
    ("command:v1", "rust-cmd-p2.wasm"),
];
/// Idle figures are read after this rest.
const REST: Duration = Duration::from_secs(10);

pub struct Cluster {
    child: Child,
    /// Node agents in processes of their own.
    agents: Vec<Child>,
    pub remote: Remote,
    pub client: Client,
    dir: tempfile::TempDir,
}

impl Cluster {
    pub async fn start() -> anyhow::Result<Cluster> {
        Cluster::with_nodes(NODES).await
    }

    pub async fn with_nodes(nodes: usize) -> anyhow::Result<Cluster> {
        let dir = tempfile::tempdir()?;
        let (child, remote) = start(dir.path(), nodes).await?;
        Ok(Cluster::of(child, remote, dir))
    }

    /// A control plane and node agents that each are a process, so that each has file descriptors of
    /// its own; a node takes this many pods.
    pub async fn of_processes(nodes: usize, pods_a_node: usize) -> anyhow::Result<Cluster> {
        let dir = tempfile::tempdir()?;
        let (child, config) = launch(dir.path(), &["server"]).await?;
        let mut cluster = Cluster::of(child, Remote::new(config.clone())?, dir);
        for node in 0..nodes {
            let args = ["--max-pods", &pods_a_node.to_string()];
            let name = format!("node-{node}");
            cluster.agents.push(launch_node(cluster.dir.path(), &config, &name, &args).await?);
        }
        Ok(cluster)
    }

    fn of(child: Child, remote: Remote, dir: tempfile::TempDir) -> Cluster {
        let client = Client::new(Arc::new(remote.clone()), "bench");
        Cluster { child, agents: Vec::new(), remote, client, dir }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Of the node agents that are processes.
    pub fn agent_pids(&self) -> Vec<u32> {
        self.agents.iter().map(Child::id).collect()
    }

    /// Resident memory, and CPU time used while nothing happens.
    pub async fn idle(&self) -> anyhow::Result<Value> {
        tokio::time::sleep(REST).await;
        let before = stats::cpu_micros(self.pid())?;
        tokio::time::sleep(REST).await;
        let used = stats::cpu_micros(self.pid())? - before;
        let rss = stats::rss_bytes(self.pid())?;
        let share = used as f64 / REST.as_micros() as f64;
        Ok(json!({"rss_mb": rss as f64 / 1e6, "cpu_share_of_a_core": share, "nodes": NODES}))
    }

    pub async fn push_guests(&self) -> anyhow::Result<()> {
        let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/guests/built");
        for (image, file) in GUESTS {
            let wasm = std::fs::read(built.join(file)).with_context(|| file.to_string())?;
            push::push(&self.remote, &image.parse()?, wasm.into(), Interfaces::default()).await?;
        }
        Ok(())
    }

    /// Pushes the HTTP handler as a program that nobody has seen: with a custom section of its own.
    pub async fn push_unknown(&self, image: &str) -> anyhow::Result<()> {
        let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/guests/built");
        let mut wasm = std::fs::read(built.join(GUESTS[0].1)).context(GUESTS[0].1)?;
        // Its id, its length, the name's length, the name; so short that each length is one byte.
        let length = u8::try_from(image.len())?;
        wasm.extend([0, length + 1, length]);
        wasm.extend(image.as_bytes());
        push::push(&self.remote, &image.parse()?, wasm.into(), Interfaces::default()).await?;
        Ok(())
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        terminate(&mut self.child)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.agents.iter_mut().chain([&mut self.child]) {
            // Already ended after `stop`.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn terminate(child: &mut Child) -> anyhow::Result<()> {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "the cluster ended with {status}");
    Ok(())
}

/// Starts `wasmfleet up`.
async fn start(dir: &Path, nodes: usize) -> anyhow::Result<(Child, Remote)> {
    let (child, config) = launch(dir, &["up", "--nodes", &nodes.to_string()]).await?;
    Ok((child, Remote::new(config)?))
}

/// Starts a node agent that joins the control plane which was launched on `dir`, and waits until it is
/// ready.
async fn launch_node(
    dir: &Path,
    config: &kube::Config,
    name: &str,
    args: &[&str],
) -> anyhow::Result<Child> {
    let mut command = Command::new(program::path());
    let server = config.cluster_url.to_string();
    command.args([
        "node",
        "--server",
        server.trim_end_matches('/'),
        "--name",
        name,
        "--token-file",
    ]);
    command.arg(dir.join("data/join-token")).arg("--data-dir").arg(dir.join(name)).args(args);
    until_ready(command).await
}

/// From exec to the first answered list, and to `ready`: on a fresh directory and on a used one.
pub async fn start_times() -> anyhow::Result<Value> {
    let (mut fresh, mut again) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let dir = tempfile::tempdir()?;
        for times in [&mut fresh, &mut again] {
            let begin = Instant::now();
            let (mut child, remote) = start(dir.path(), NODES).await?;
            let client = Client::new(Arc::new(remote), "bench");
            client.list::<k8s_openapi::api::core::v1::Node>(None, &ListOptions::default()).await?;
            times.push(begin.elapsed());
            terminate(&mut child)?;
        }
    }
    Ok(json!({"exec_to_ready_and_first_answer_fresh": stats::latencies(fresh),
        "on_a_used_directory": stats::latencies(again)}))
}
