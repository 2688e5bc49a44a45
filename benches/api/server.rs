//! The control plane on a fresh directory, and ways to it.

use std::net::SocketAddr;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::client::ConfigExt;

use crate::connection::Connection;
use crate::launch::launch;
use crate::stats;

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    tls: rustls::ClientConfig,
    anonymous: rustls::ClientConfig,
    _dir: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> anyhow::Result<Server> {
        let dir = tempfile::tempdir()?;
        let (child, config) = launch(dir.path(), &["server"]).await?;
        let tls = config.rustls_client_config()?;
        let mut nobody = config.clone();
        nobody.auth_info = Default::default();
        let anonymous = nobody.rustls_client_config()?;
        let authority = config.cluster_url.authority().context("the URL has no host")?;
        let address = authority.as_str().parse()?;
        Ok(Server { child, address, tls, anonymous, _dir: dir })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The settings of a TLS client with the administrator's certificate.
    pub fn tls(&self, protocol: &str) -> Arc<rustls::ClientConfig> {
        let mut tls = self.tls.clone();
        tls.alpn_protocols = vec![protocol.into()];
        Arc::new(tls)
    }

    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.address, self.tls("http/1.1")).await
    }

    /// A connection without a client certificate.
    pub async fn connect_anonymously(&self) -> anyhow::Result<Connection> {
        let mut tls = self.anonymous.clone();
        tls.alpn_protocols = vec!["http/1.1".into()];
        Connection::open(self.address, Arc::new(tls)).await
    }

    pub async fn connect_all(&self, count: usize) -> anyhow::Result<Vec<Connection>> {
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push(self.connect().await?);
        }
        Ok(connections)
    }

    /// Makes a namespace and waits until pods can be created in it.
    pub async fn make_namespace(&self, name: &str) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        let body = format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}");
        let made = connection.post("/api/v1/namespaces", body.as_bytes()).await?;
        anyhow::ensure!(made.status == 201, "the namespace was answered {}", made.status);
        let path = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        for _ in 0..1000 {
            if connection.get(&path).await?.status == 200 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::bail!("{name} gets no service account")
    }

    /// Waits until the process uses next to no CPU.
    pub async fn quiet(&self) -> anyhow::Result<()> {
        quiet(self.pid()).await
    }
}

/// Waits until a process uses less than 2 % of a core, half a minute at most.
pub async fn quiet(pid: u32) -> anyhow::Result<()> {
    for _ in 0..30 {
        let before = stats::cpu_micros(pid)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        if stats::cpu_micros(pid)? - before <= 20_000 {
            return Ok(());
        }
    }
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
