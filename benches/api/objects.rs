//! 100,000 pods: what each costs in memory, and what lists of them cost.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::connection::Connection;
use crate::etcd::{self, Etcd, Transport};
use crate::report::{Report, median};
use crate::server::{self, Server};
use crate::stats;

const NAMESPACES: usize = 10;
const PODS_OF_EACH: usize = 10_000;
const CLIENTS: usize = 64;
const LISTS: usize = 7;
/// After which what nobody asked for is no longer held decoded.
const REST: Duration = Duration::from_secs(200);

fn pod(name: &str) -> Vec<u8> {
    // Another scheduler's: nothing happens to it.
    format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"{name}\",\
         \"labels\":{{\"app\":\"web\",\"tier\":\"front\"}}}},\"spec\":{{\
         \"schedulerName\":\"nobody\",\"containers\":[{{\"name\":\"web\",\
         \"image\":\"registry.example.com/shop/web:v1\",\"ports\":[{{\"containerPort\":8080}}],\
         \"env\":[{{\"name\":\"LOG\",\"value\":\"info\"}}],\
         \"resources\":{{\"requests\":{{\"cpu\":\"100m\",\"memory\":\"64Mi\"}}}}}}]}}}}"
    )
    .into_bytes()
}

fn pods_of(namespace: usize) -> String {
    format!("/api/v1/namespaces/load-{namespace}/pods")
}

pub async fn measure(report: &mut Report) -> anyhow::Result<()> {
    let server = Server::start().await?;
    let etcd = Etcd::start(Transport::Plain).await?;
    for n in 0..NAMESPACES {
        server.make_namespace(&format!("load-{n}")).await?;
    }
    let begin = (stats::rss_bytes(server.pid())?, stats::cpu_micros(server.pid())?);
    let bytes = create_all(&server).await?;
    server.quiet().await?;
    let total = NAMESPACES * PODS_OF_EACH;
    let a_pod = bytes as f64 / total as f64;
    let ours = (stats::rss_bytes(server.pid())? - begin.0) as f64 / total as f64;
    let cpu = (stats::cpu_micros(server.pid())? - begin.1) as f64 / total as f64;
    let loaded = Instant::now();
    let mut peer = None;
    if let Some(etcd) = &etcd {
        let before = stats::rss_bytes(etcd.pid())?;
        put_all(etcd, a_pod as usize).await?;
        server::quiet(etcd.pid()).await?;
        peer = Some((stats::rss_bytes(etcd.pid())? - before) as f64 / total as f64);
    }
    let aim = format!("≤ {:.0} (1.3 × its {a_pod:.0} bytes of JSON)", 1.3 * a_pod);
    report.compare("resident bytes a pod, 100,000 pods", ours, peer, &aim);
    report.compare("… as a multiple of its JSON", ours / a_pod, peer.map(|p| p / a_pod), "≤ 1.3");
    report.compare("CPU µs a pod created, then cached", cpu, None, "");
    tokio::time::sleep(REST.saturating_sub(loaded.elapsed())).await;
    let rested = (stats::rss_bytes(server.pid())? - begin.0) as f64 / total as f64;
    report.compare("… resident bytes a pod after a rest", rested, peer, &aim);
    report.compare("… as a multiple of its JSON", rested / a_pod, peer.map(|p| p / a_pod), "≤ 1.3");
    lists(report, &server, etcd.as_ref()).await
}

/// Creates all pods and answers with the sum of their stored bytes.
async fn create_all(server: &Server) -> anyhow::Result<usize> {
    let mut tasks = JoinSet::new();
    for (client, mut connection) in server.connect_all(CLIENTS).await?.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut bytes = 0;
            for n in (client..NAMESPACES * PODS_OF_EACH).step_by(CLIENTS) {
                let path = pods_of(n % NAMESPACES);
                let answer = connection.post(&path, &pod(&format!("web-{n:06}"))).await?;
                anyhow::ensure!(answer.status == 201, "a create was answered {}", answer.status);
                bytes += answer.body.len();
            }
            Ok(bytes)
        });
    }
    let mut bytes = 0;
    while let Some(done) = tasks.join_next().await {
        bytes += done??;
    }
    Ok(bytes)
}

async fn put_all(etcd: &Etcd, bytes: usize) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for (first, mut client) in etcd.connect_all(CLIENTS).await?.into_iter().enumerate() {
        tasks.spawn(async move {
            let value = vec![b'x'; bytes];
            for n in (first..NAMESPACES * PODS_OF_EACH).step_by(CLIENTS) {
                let key = format!("/registry/pods/load-{}/web-{n:06}", n % NAMESPACES);
                client.put(key.as_bytes(), &value).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn lists(report: &mut Report, server: &Server, etcd: Option<&Etcd>) -> anyhow::Result<()> {
    let mut connection = server.connect().await?;
    let (mut times, mut cpu) = (Vec::new(), Vec::new());
    let (mut peer_times, mut peer_cpu) = (Vec::new(), Vec::new());
    let mut client = match etcd {
        Some(etcd) => Some((etcd.pid(), etcd.connect().await?)),
        None => None,
    };
    for n in 0..LISTS {
        let (time, used) = list(server, &mut connection, &pods_of(n)).await?;
        times.push(time);
        cpu.push(used / PODS_OF_EACH as f64);
        if let Some((pid, client)) = &mut client {
            let prefix = format!("/registry/pods/load-{n}/");
            let (begin, used) = (Instant::now(), stats::cpu_micros(*pid)?);
            client.range(prefix.as_bytes(), &etcd::after(prefix.as_bytes())).await?;
            peer_times.push(millis(begin.elapsed()));
            peer_cpu.push((stats::cpu_micros(*pid)? - used) as f64 / PODS_OF_EACH as f64);
        }
    }
    let peer = |values: Vec<f64>| etcd.map(|_| median(values));
    report.compare("ms a LIST of 10,000 pods", median(times), peer(peer_times), "≤ 250");
    report.compare("CPU µs a listed pod", median(cpu), peer(peer_cpu), "");
    let (mut times, mut cpu) = (Vec::new(), Vec::new());
    for _ in 0..LISTS {
        let path = "/api/v1/pods?labelSelector=app%3Dnothing";
        let (time, used) = list(server, &mut connection, path).await?;
        times.push(time);
        cpu.push(used / (NAMESPACES * PODS_OF_EACH) as f64);
    }
    report.compare("ms a LIST of 100,000 with a selector of none", median(times), None, "≤ 20");
    report.compare("CPU µs a pod looked at", median(cpu), None, "");
    Ok(())
}

/// Milliseconds, and microseconds of CPU.
async fn list(
    server: &Server,
    connection: &mut Connection,
    path: &str,
) -> anyhow::Result<(f64, f64)> {
    let (begin, used) = (Instant::now(), stats::cpu_micros(server.pid())?);
    let answer = connection.get(path).await?;
    anyhow::ensure!(answer.status == 200, "a LIST was answered {}", answer.status);
    Ok((millis(begin.elapsed()), (stats::cpu_micros(server.pid())? - used) as f64))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
