//! HTTP requests to a pod's own address, through its Service, and to `wasmtime serve` with the same
//! component, with a small closed-loop client of ours over kept-alive connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wasmfleet::client::DeleteOptions;

use crate::cluster::Cluster;
use crate::serve::{self, Serve};
use crate::stats;

const NAMESPACE: &str = "default";
/// What `http:v1` is.
const GUEST: &str = "rust-http-p2.wasm";
const REUSE_ANNOTATION: &str = "wasmfleet.dev/max-instance-reuse-count";
const REUSE_COUNT: u32 = 1000;
const CONNECTIONS: usize = 8;
const COLD_REQUESTS: usize = 1000;
const ROUND: Duration = Duration::from_secs(2);
/// Direct and through the Service take turns.
const ROUNDS: usize = 5;
const LIMIT: Duration = Duration::from_secs(30);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

pub async fn through_service_and_direct(cluster: &Cluster) -> anyhow::Result<Value> {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 8080}]}}))?;
    cluster.client.create(&pod("web", json!({}))?).await?;
    let service = cluster.client.create(&service).await?;
    let ip = service.spec.and_then(|s| s.cluster_ip).context("cluster IP")?;
    let through: SocketAddr = format!("{ip}:8080").parse()?;
    wait_answer(through).await?;
    let direct = address_of(cluster, "web").await?;

    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (figures, address) in figures.iter_mut().zip([direct, through]) {
            figures.push(round(cluster.pid(), address).await?);
        }
    }
    let cold = cold(direct).await?;
    let beside_fresh = beside(cluster, direct, None).await?;
    let reused = pod("web-reuse", json!({REUSE_ANNOTATION: REUSE_COUNT.to_string()}))?;
    cluster.client.create(&reused).await?;
    let reusing = address_of(cluster, "web-reuse").await?;
    wait_answer(reusing).await?;
    let beside_reused = beside(cluster, reusing, Some(REUSE_COUNT)).await?;
    cluster.client.delete::<Service>(NAMESPACE, "web", &DeleteOptions::default()).await?;
    for pod in ["web", "web-reuse"] {
        cluster.client.delete::<Pod>(NAMESPACE, pod, &DeleteOptions::default()).await?;
    }
    let [direct, through] = figures.map(median);
    Ok(json!({
        "direct": {"requests_per_second": direct.0, "cpu_us_a_request": direct.1},
        "through_service": {"requests_per_second": through.0, "cpu_us_a_request": through.1},
        "service_to_direct_ratio": through.0 / direct.0,
        "cold_request": cold,
        "beside_wasmtime_serve": {"fresh_instances": beside_fresh, "reused_instances": beside_reused},
    }))
}

fn pod(name: &str, annotations: Value) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name},
            "annotations": annotations},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "http:v1",
            "ports": [{"containerPort": 8080}]}]}}))?)
}

/// Where a pod listens, once it has an address.
async fn address_of(cluster: &Cluster, pod: &str) -> anyhow::Result<SocketAddr> {
    let work = async {
        loop {
            let pod: Pod = cluster.client.get(NAMESPACE, pod).await?;
            if let Some(ip) = pod.status.and_then(|status| status.pod_ip) {
                return anyhow::Ok(format!("{ip}:8080").parse()?);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, work).await.with_context(|| format!("{pod}'s address"))?
}

/// Both servers on one core, the clients on another.
async fn beside(
    cluster: &Cluster,
    direct: SocketAddr,
    reuse: Option<u32>,
) -> anyhow::Result<Value> {
    let Some(serve) = Serve::start(GUEST, reuse)? else { return Ok(Value::Null) };
    wait_answer(serve.address).await?;
    let on_one_core = serve::part(&[cluster.pid(), serve.pid()])?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(round(cluster.pid(), direct).await?);
        theirs.push(round(serve.pid(), serve.address).await?);
    }
    let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(o, t)| o.0 / t.0).collect();
    ratios.sort_by(f64::total_cmp);
    let (ours, theirs) = (median(ours), median(theirs));
    Ok(json!({
        "on_one_core": on_one_core,
        "requests_per_second": {"wasmfleet": ours.0, "wasmtime_serve": theirs.0},
        "cpu_us_a_request": {"wasmfleet": ours.1, "wasmtime_serve": theirs.1},
        "ratios_of_requests_per_second": ratios,
    }))
}

/// Requests to a pod that has no instance, one after the other, each with its own connection.
async fn cold(address: SocketAddr) -> anyhow::Result<Value> {
    let mut times = Vec::with_capacity(COLD_REQUESTS);
    for _ in 0..COLD_REQUESTS {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        request(&mut stream, &mut vec![0; 4096]).await?;
        times.push(begin.elapsed());
    }
    Ok(stats::latencies(times))
}

fn median(mut rounds: Vec<(f64, f64)>) -> (f64, f64) {
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    rounds[rounds.len() / 2]
}

async fn wait_answer(address: SocketAddr) -> anyhow::Result<()> {
    let work = async {
        loop {
            if let Ok(mut stream) = TcpStream::connect(address).await
                && request(&mut stream, &mut vec![0; 4096]).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, work).await.with_context(|| format!("waiting for {address}"))
}

/// Requests a second, and CPU time of the server a request in microseconds.
async fn round(server: u32, address: SocketAddr) -> anyhow::Result<(f64, f64)> {
    let cpu = stats::cpu_micros(server)?;
    let begin = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut buffer = vec![0; 4096];
            let mut count = 0u64;
            while begin.elapsed() < ROUND {
                request(&mut stream, &mut buffer).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut count = 0;
    while let Some(client) = clients.join_next().await {
        count += client??;
    }
    let cpu = (stats::cpu_micros(server)? - cpu) as f64;
    Ok((count as f64 / begin.elapsed().as_secs_f64(), cpu / count as f64))
}

/// One request and its whole answer, by its Content-Length.
async fn request(stream: &mut TcpStream, buffer: &mut [u8]) -> anyhow::Result<()> {
    stream.write_all(REQUEST).await?;
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        anyhow::ensure!(read > 0, "the connection was closed");
        filled += read;
        let text = String::from_utf8_lossy(&buffer[..filled]).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        anyhow::ensure!(head.starts_with("http/1.1 200"), "the answer is {head}");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let length: usize = length.context("no content-length")?.trim().parse()?;
        if body.len() >= length {
            return Ok(());
        }
    }
}
