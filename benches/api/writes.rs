//! Durable creates through the whole path, beside etcd's puts of the same bytes.

use std::time::Duration;

use crate::connection::Connection;
use crate::etcd::{Client, Etcd, Transport};
use crate::load::{self, Clients, Operation, Rounds};
use crate::report::{Report, number};
use crate::server::Server;

const CLIENTS: [usize; 3] = [1, 16, 256];
const ROUNDS: usize = 5;
const LENGTH: Duration = Duration::from_secs(2);
/// Of a ConfigMap's one value.
const VALUE_BYTES: usize = 1024;
const PATH: &str = "/api/v1/namespaces/default/configmaps";

struct Create {
    connection: Connection,
    name: String,
    count: usize,
}

struct Put {
    client: Client,
    name: String,
    count: usize,
    value: Vec<u8>,
}

fn config_map(name: &str) -> Vec<u8> {
    format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"{name}\",\
         \"labels\":{{\"bench\":\"writes\"}}}},\"data\":{{\"value\":\"{}\"}}}}",
        "x".repeat(VALUE_BYTES)
    )
    .into_bytes()
}

#[async_trait::async_trait]
impl Operation for Create {
    async fn run(&mut self) -> anyhow::Result<()> {
        self.count += 1;
        let body = config_map(&format!("{}-{}", self.name, self.count));
        let answer = self.connection.post(PATH, &body).await?;
        anyhow::ensure!(answer.status == 201, "a create was answered {}", answer.status);
        Ok(())
    }
}

#[async_trait::async_trait]
impl Operation for Put {
    async fn run(&mut self) -> anyhow::Result<()> {
        self.count += 1;
        let key = format!("/registry/configmaps/default/{}-{}", self.name, self.count);
        self.client.put(key.as_bytes(), &self.value).await
    }
}

/// With [`CLIENTS`] unless other counts are asked for.
pub async fn measure(report: &mut Report, counts: &[usize]) -> anyhow::Result<()> {
    let counts = if counts.is_empty() { &CLIENTS[..] } else { counts };
    beside(report, Transport::Plain, counts).await?;
    // What is encrypted on one side only makes no fair ratio: once more as Kubernetes would have it.
    let most = [counts.iter().copied().max().unwrap_or_default()];
    beside(report, Transport::Tls, &most).await
}

async fn beside(report: &mut Report, transport: Transport, counts: &[usize]) -> anyhow::Result<()> {
    let server = Server::start().await?;
    let etcd = Etcd::start(transport).await?;
    if etcd.is_none() && transport == Transport::Tls {
        return Ok(());
    }
    // What is stored of one: etcd is given the same bytes.
    let stored = server.connect().await?.post(PATH, &config_map("first")).await?.body.to_vec();
    for &count in counts {
        let mut ours: Clients = Vec::new();
        for (n, connection) in server.connect_all(count).await?.into_iter().enumerate() {
            let name = format!("w{count}-{n}");
            ours.push(Box::new(Create { connection, name, count: 0 }));
        }
        let mut peer = None;
        if let Some(etcd) = &etcd {
            let mut clients: Clients = Vec::new();
            for (n, client) in etcd.connect_all(count).await?.into_iter().enumerate() {
                let (name, value) = (format!("w{count}-{n}"), stored.clone());
                clients.push(Box::new(Put { client, name, count: 0, value }));
            }
            peer = Some((etcd.pid(), clients));
        }
        let (ours, peer) = load::turns(ROUNDS, LENGTH, (server.pid(), ours), peer).await?;
        rows(report, transport, count, &ours, peer.as_ref());
    }
    Ok(())
}

fn rows(
    report: &mut Report,
    transport: Transport,
    count: usize,
    ours: &Rounds,
    peer: Option<&Rounds>,
) {
    let aim = match (transport, count) {
        (Transport::Plain, 256) => ["≥ 5,000 and 2 × etcd (long aim 15,000, 3 ×)", "≤ 60"],
        _ => ["", ""],
    };
    let clients = match transport {
        Transport::Plain => format!("{count} clients"),
        Transport::Tls => format!("{count} clients, etcd over TLS too"),
    };
    let mut row = |what: &str, of: fn(&load::Round) -> f64, aim: &str| {
        let ratio = load::ratios(ours, peer, of);
        let peer = peer.map(|peer| number(peer.median(of)));
        report.row(&format!("{what}, {clients}"), number(ours.median(of)), peer, ratio, aim);
    };
    row("durable writes/s", |round| round.per_second, aim[0]);
    row("CPU µs a write", |round| round.cpu_micros, aim[1]);
    row("(generator's CPU µs)", |round| round.generator_cpu_micros, "");
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let what = format!("{name} ms a write, {clients}");
        let peer = peer.map(|peer| peer.percentile(share));
        report.compare(&what, ours.percentile(share), peer, "");
    }
}
