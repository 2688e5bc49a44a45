//! The built program as a control plane and as simulators of nodes, in processes of their own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::client::ConfigExt;
use serde_json::json;
use wasmfleet::api::Object;
use wasmfleet::client::remote::Remote;
use wasmfleet::client::{Api, Target, WriteOptions};

use crate::connection::Connection;
use crate::launch::launch;
use crate::templates::{CAPACITY, NAMED_CAPACITY, NAMED_SIMULATOR, SIMULATOR, TEAM, ZONE};
use crate::workloads::Nodes;
use crate::{program, stats};

/// For registering nodes, or for an account in a new namespace.
const LIMIT: Duration = Duration::from_secs(300);

pub struct Rig {
    server: Child,
    simulators: Vec<Child>,
    pub remote: Remote,
    address: SocketAddr,
    url: String,
    tls: Arc<rustls::ClientConfig>,
    dir: tempfile::TempDir,
}

/// What processes have used until now, in microseconds of CPU.
#[derive(Clone, Copy)]
pub struct Used {
    pub server: u64,
    pub simulators: u64,
}

impl Rig {
    pub async fn start() -> anyhow::Result<Rig> {
        let dir = tempfile::tempdir()?;
        let args = ["server", "--node-grace-seconds", "4"];
        let (server, config) = launch(dir.path(), &args).await?;
        let mut tls = config.rustls_client_config()?;
        tls.alpn_protocols = vec!["http/1.1".into()];
        let authority = config.cluster_url.authority().context("the URL has no host")?;
        let address = authority.as_str().parse()?;
        let url = config.cluster_url.to_string();
        let remote = Remote::new(config)?;
        let tls = Arc::new(tls);
        let rig = Rig { server, simulators: Vec::new(), remote, address, url, tls, dir };
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": "bench-high"}, "value": 10});
        let target = Target::all::<k8s_openapi::api::scheduling::v1::PriorityClass>(None);
        rig.remote.create(&target, Object::from_value(class)?, &WriteOptions::default()).await?;
        Ok(rig)
    }

    /// Registers the nodes of a workload.
    pub async fn add_nodes(&mut self, nodes: Nodes) -> anyhow::Result<()> {
        if nodes.count > 0 {
            let zones = format!("{ZONE}=zone-{{i%{}}}", nodes.zones.max(1));
            let labels: &[&str] = if nodes.zones > 0 { &["--labels", &zones] } else { &[] };
            self.simulate(SIMULATOR, nodes.count, CAPACITY, labels).await?;
        }
        if nodes.named {
            self.simulate(NAMED_SIMULATOR, 1, NAMED_CAPACITY, &[]).await?;
        }
        Ok(())
    }

    /// Starts a simulator and waits until its nodes are there; answers its place among them.
    pub async fn simulate(
        &mut self,
        name: &str,
        count: usize,
        capacity: &str,
        more: &[&str],
    ) -> anyhow::Result<usize> {
        let mut child = Command::new(program::path())
            .args(["node", "--simulate", &count.to_string(), "--name", name])
            .args(["--capacity", capacity, "--heartbeat-seconds", "1", "--server", &self.url])
            .arg("--token-file")
            .arg(self.dir.path().join("data/join-token"))
            .arg("--data-dir")
            .arg(self.dir.path().join(name))
            .args(more)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("stdout")?;
        self.simulators.push(child);
        let ready = tokio::task::spawn_blocking(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line == "ready")
        });
        let ready = tokio::time::timeout(LIMIT, ready).await;
        anyhow::ensure!(matches!(ready, Ok(Ok(true))), "{name} did not register its nodes");
        Ok(self.simulators.len() - 1)
    }

    /// Ends a simulator as a machine that is switched off.
    pub fn kill(&mut self, simulator: usize) -> anyhow::Result<()> {
        let child = self.simulators.get_mut(simulator).context("no such simulator")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Makes a namespace that others select by its label, and waits until it takes pods.
    pub async fn make_namespace(&self, name: &str) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        let labels = json!({TEAM.0: TEAM.1});
        let body = json!({"metadata": {"name": name, "labels": labels}}).to_string();
        let made = connection.post("/api/v1/namespaces", body.as_bytes()).await?.status;
        anyhow::ensure!(matches!(made, 201 | 409), "the namespace was answered {made}");
        let path = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        let begin = std::time::Instant::now();
        while connection.get(&path).await?.status != 200 {
            anyhow::ensure!(begin.elapsed() < LIMIT, "{name} gets no service account");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.address, self.tls.clone()).await
    }

    pub fn used(&self) -> anyhow::Result<Used> {
        let mut simulators = 0;
        for child in &self.simulators {
            simulators += stats::cpu_micros(child.id()).unwrap_or_default();
        }
        Ok(Used { server: stats::cpu_micros(self.server.id())?, simulators })
    }

    /// Resident bytes of the server, and of all simulators.
    pub fn resident(&self) -> anyhow::Result<(u64, u64)> {
        let mut simulators = 0;
        for child in &self.simulators {
            simulators += stats::rss_bytes(child.id()).unwrap_or_default();
        }
        Ok((stats::rss_bytes(self.server.id())?, simulators))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in self.simulators.iter_mut().chain([&mut self.server]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
