//! The built program as a child process, and a client to it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use wasmfleet::client::remote::Remote;
use wasmfleet::client::{Client, ListOptions};
use wasmfleet::images::layout::Interfaces;
use wasmfleet::images::push;

use crate::{program, stats};

/// From exec to `ready`.
const START_LIMIT: Duration = Duration::from_secs(60);
const STARTS: usize = 5;
/// Idle figures are read after this rest.
const REST: Duration = Duration::from_secs(10);

pub struct Cluster {
    child: Child,
    pub remote: Remote,
    pub client: Client,
    _dir: tempfile::TempDir,
}

impl Cluster {
    pub async fn start() -> anyhow::Result<Cluster> {
        let dir = tempfile::tempdir()?;
        let (child, remote) = launch(dir.path().to_path_buf()).await?;
        let client = Client::new(Arc::new(remote.clone()), "bench");
        Ok(Cluster { child, remote, client, _dir: dir })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, and CPU time used while nothing happens.
    pub async fn idle(&self) -> anyhow::Result<Value> {
        tokio::time::sleep(REST).await;
        let before = stats::cpu_micros(self.pid())?;
        tokio::time::sleep(REST).await;
        let used = stats::cpu_micros(self.pid())? - before;
        let rss = stats::rss_bytes(self.pid())?;
        let share = used as f64 / REST.as_micros() as f64;
        Ok(json!({"rss_mb": rss as f64 / 1e6, "cpu_share_of_a_core": share, "nodes": 2}))
    }

    pub async fn push_guests(&self) -> anyhow::Result<()> {
        let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/guests/built");
        for (image, file) in [("http:v1", "rust-http-p2.wasm"), ("tcp:v1", "rust-tcp-p2.wasm")] {
            let wasm = std::fs::read(built.join(file)).with_context(|| file.to_string())?;
            push::push(&self.remote, &image.parse()?, wasm.into(), Interfaces::default()).await?;
        }
        Ok(())
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        terminate(&mut self.child)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Already ended after `stop`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn terminate(child: &mut Child) -> anyhow::Result<()> {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "the cluster ended with {status}");
    Ok(())
}

/// Starts `wasmfleet up` and waits for its line `ready`.
async fn launch(dir: PathBuf) -> anyhow::Result<(Child, Remote)> {
    let kubeconfig = dir.join("kubeconfig");
    let mut child = Command::new(program::path())
        .args(["up", "--listen", "127.0.0.1:0", "--nodes", "2", "--data-dir"])
        .arg(dir.join("data"))
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("stdout")?;
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut ready = Some(ready);
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line == "ready"
                && let Some(ready) = ready.take()
            {
                // The receiver is gone when the wait has timed out.
                let _ = ready.send(());
            }
        }
    });
    let started = tokio::time::timeout(START_LIMIT, is_ready).await;
    if !matches!(started, Ok(Ok(()))) {
        let _ = child.kill();
        let _ = child.wait();
        anyhow::bail!("the cluster did not get ready in {START_LIMIT:?}");
    }
    Ok((child, connect(&kubeconfig).await?))
}

async fn connect(kubeconfig: &std::path::Path) -> anyhow::Result<Remote> {
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
    Ok(Remote::new(config)?)
}

/// From exec to the first answered list, and to `ready`: on a fresh directory and on a used one.
pub async fn start_times() -> anyhow::Result<Value> {
    let (mut fresh, mut again) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let dir = tempfile::tempdir()?;
        for times in [&mut fresh, &mut again] {
            let begin = Instant::now();
            let (mut child, remote) = launch(dir.path().to_path_buf()).await?;
            let client = Client::new(Arc::new(remote), "bench");
            client.list::<k8s_openapi::api::core::v1::Node>(None, &ListOptions::default()).await?;
            times.push(begin.elapsed());
            terminate(&mut child)?;
        }
    }
    Ok(json!({"exec_to_ready_and_first_answer_fresh": stats::latencies(fresh),
        "on_a_used_directory": stats::latencies(again)}))
}
