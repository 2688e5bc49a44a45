//! GET of one object, beside etcd's linearizable read of one key.

use std::time::Duration;

use anyhow::Context;

use crate::connection::{Connection, get};
use crate::etcd::{Client, Etcd, Transport};
use crate::load::{self, Clients, Operation};
use crate::report::{Report, number};
use crate::server::Server;

const CLIENTS: usize = 16;
const ROUNDS: usize = 5;
const LENGTH: Duration = Duration::from_secs(2);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PATH: &str = "/api/v1/namespaces/default/configmaps/one";
const KEY: &[u8] = b"/registry/configmaps/default/one";

/// Who may read, by a role that is bound to its group.
const BINDING: &str = r#"{"metadata":{"name":"readers"},"roleRef":{"kind":"ClusterRole","name":"view",
    "apiGroup":"rbac.authorization.k8s.io"},"subjects":[{"kind":"ServiceAccount","name":"default",
    "namespace":"default"}]}"#;

struct Get {
    connection: Connection,
    request: Vec<u8>,
}
struct Range(Client);

#[async_trait::async_trait]
impl Operation for Get {
    async fn run(&mut self) -> anyhow::Result<()> {
        let answer = self.connection.send(&self.request).await?;
        anyhow::ensure!(answer.status == 200, "a GET was answered {}", answer.status);
        Ok(())
    }
}

#[async_trait::async_trait]
impl Operation for Range {
    async fn run(&mut self) -> anyhow::Result<()> {
        self.0.range(KEY, b"").await.map(drop)
    }
}

pub async fn measure(report: &mut Report) -> anyhow::Result<()> {
    let server = Server::start().await?;
    let etcd = Etcd::start(Transport::Plain).await?;
    let body = format!("{{\"metadata\":{{\"name\":\"one\"}},\"data\":{{\"v\":\"{:01024}\"}}}}", 0);
    let stored = server.connect().await?.post(MAPS, body.as_bytes()).await?.body.to_vec();
    let mut ours: Clients = Vec::new();
    for connection in server.connect_all(CLIENTS).await? {
        ours.push(Box::new(Get { connection, request: get(PATH, "") }));
    }
    let mut peer = None;
    if let Some(etcd) = &etcd {
        etcd.connect().await?.put(KEY, &stored).await?;
        let clients = etcd.connect_all(CLIENTS).await?;
        let clients: Clients = clients.into_iter().map(|c| Box::new(Range(c)) as _).collect();
        peer = Some((etcd.pid(), clients));
    }
    let (ours, peer) = load::turns(ROUNDS, LENGTH, (server.pid(), ours), peer).await?;
    let mut row = |what: &str, of: fn(&load::Round) -> f64, aim: &str| {
        let ratio = load::ratios(&ours, peer.as_ref(), of);
        let peer = peer.as_ref().map(|peer| number(peer.median(of)));
        report.row(what, number(ours.median(of)), peer, ratio, aim);
    };
    row("CPU µs a GET of 1 KiB", |round| round.cpu_micros, "≤ 30 (long aim 15)");
    row("(generator's CPU µs)", |round| round.generator_cpu_micros, "");
    row("GETs/s, 16 clients", |round| round.per_second, "");
    let clients = with_tokens(&server).await?;
    let (ours, _) = load::turns(ROUNDS, LENGTH, (server.pid(), clients), None).await?;
    let cpu = ours.median(|round| round.cpu_micros);
    report.compare("CPU µs a GET with a service account's token and role", cpu, None, "≤ 30");
    Ok(())
}

/// Clients as pods are: with a token, and what a role allows.
async fn with_tokens(server: &Server) -> anyhow::Result<Clients> {
    let mut admin = server.connect().await?;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let bound = admin.post(bindings, BINDING.as_bytes()).await?.status;
    anyhow::ensure!(bound == 201, "the binding was answered {bound}");
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer: serde_json::Value =
        serde_json::from_slice(admin.post(path, b"{\"spec\":{}}").await?.body)?;
    let token = answer["status"]["token"].as_str().context("no token")?;
    let request = get(PATH, &format!("Authorization: Bearer {token}\r\n"));
    let mut clients: Clients = Vec::new();
    for _ in 0..CLIENTS {
        let connection = server.connect_anonymously().await?;
        clients.push(Box::new(Get { connection, request: request.clone() }));
    }
    Ok(clients)
}
