//! From a commit to 1,000 watchers that all see it, beside etcd's watches of the same bytes. Events
//! come at a fixed rate, whatever the answers take.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::connection::{self, Connection};
use crate::etcd::{Client, Etcd, Transport};
use crate::report::{Report, number};
use crate::server::Server;
use crate::stats;

/// As of 50 programs with 20 watches each, over one HTTP/2 connection a program.
const CONNECTIONS: usize = 50;
const WATCHES_OF_EACH: usize = 20;
const WATCHERS: usize = CONNECTIONS * WATCHES_OF_EACH;
/// Events a second.
const RATES: [usize; 2] = [10, 50];
const LENGTH: Duration = Duration::from_secs(6);
const WRITERS: usize = 8;
/// After the last write, all events are to be there within this time.
const LIMIT: Duration = Duration::from_secs(30);
/// Stands before an event's number, which has as many digits.
const MARK: &[u8] = b"\"seq\":\"";
const DIGITS: usize = 6;

/// When an event's write was sent, and when it was acknowledged.
#[derive(Default)]
struct Times {
    sent: OnceLock<Instant>,
    acknowledged: OnceLock<Instant>,
}

type Arrivals = Vec<(usize, Instant)>;

/// What came of one rate.
struct Outcome {
    /// From the writer's acknowledgement (0 where a watcher was first), in milliseconds: p50, p99.
    after: [f64; 2],
    /// From when the write was sent, the flush to disk included.
    whole: [f64; 2],
    /// Of the server process, for each event that a watcher was sent.
    cpu_micros: f64,
}

pub async fn measure(report: &mut Report) -> anyhow::Result<()> {
    for rate in RATES {
        let ours = ours(rate).await?;
        let peer = etcd(rate).await?;
        let aim = if rate == RATES[0] { "≤ 10 (long aim 5)" } else { "" };
        for (index, name) in ["p50", "p99"].iter().enumerate() {
            let what = format!("{name} ms commit to watcher, 1,000 watchers, {rate} events/s");
            let theirs = peer.as_ref().map(|peer| peer.after[index]);
            report.compare(&what, ours.after[index], theirs, if index == 1 { aim } else { "" });
            let what = format!("{name} ms from before the write");
            let theirs = peer.as_ref().map(|peer| peer.whole[index]);
            report.compare(&what, ours.whole[index], theirs, "");
        }
        let theirs = peer.as_ref().map(|peer| number(peer.cpu_micros));
        let ratio =
            peer.as_ref().map_or("-".into(), |peer| number(ours.cpu_micros / peer.cpu_micros));
        report.row("CPU µs an event sent", number(ours.cpu_micros), theirs, ratio, "");
    }
    Ok(())
}

async fn ours(rate: usize) -> anyhow::Result<Outcome> {
    let server = Server::start().await?;
    server.make_namespace("watched").await?;
    let path = "/api/v1/namespaces/watched/configmaps";
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = connection::tls(server.address, server.tls("h2")).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(1 << 20).initial_connection_window_size(16 << 20);
        let (mut sender, work) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(work);
        for _ in 0..WATCHES_OF_EACH {
            let uri = format!("https://{}{path}?watch=true", server.address);
            sender.ready().await?;
            let request = Request::get(uri).body(Empty::<Bytes>::new())?;
            let answer = sender.send_request(request).await?;
            anyhow::ensure!(answer.status() == 200, "a watch was answered {}", answer.status());
            streams.push(answer.into_body());
        }
    }
    let mut writers = Vec::new();
    for connection in server.connect_all(WRITERS).await? {
        writers.push(Writer::Ours(Box::new(connection), path));
    }
    run(server.pid(), rate, streams, 1, writers).await
}

async fn etcd(rate: usize) -> anyhow::Result<Option<Outcome>> {
    let Some(etcd) = Etcd::start(Transport::Plain).await? else { return Ok(None) };
    let prefix = "/registry/configmaps/watched/";
    let mut streams = Vec::new();
    for mut client in etcd.connect_all(CONNECTIONS).await? {
        streams.push(client.watch(prefix.as_bytes(), WATCHES_OF_EACH).await?);
    }
    let clients = etcd.connect_all(WRITERS).await?.into_iter();
    let writers = clients.map(|client| Writer::Etcd(client, prefix)).collect();
    // Nothing tells that a watch has begun but its first message; those are small and soon there.
    crate::server::quiet(etcd.pid()).await?;
    run(etcd.pid(), rate, streams, WATCHES_OF_EACH, writers).await.map(Some)
}

enum Writer {
    Ours(Box<Connection>, &'static str),
    Etcd(Client, &'static str),
}

impl Writer {
    async fn write(&mut self, number: usize) -> anyhow::Result<()> {
        let seq = format!("{number:0DIGITS$}");
        let body =
            format!("{{\"metadata\":{{\"name\":\"e{seq}\"}},\"data\":{{\"seq\":\"{seq}\"}}}}");
        match self {
            Writer::Ours(connection, path) => {
                let answer = connection.post(path, body.as_bytes()).await?;
                anyhow::ensure!(answer.status == 201, "a create was answered {}", answer.status);
            }
            Writer::Etcd(client, prefix) => {
                // As long as the stored object.
                let value = format!("{body}{:250}", "");
                client.put(format!("{prefix}e{seq}").as_bytes(), value.as_bytes()).await?;
            }
        }
        Ok(())
    }
}

/// Writes at the rate while all streams are read; each stream shows each event `copies` times.
async fn run(
    pid: u32,
    rate: usize,
    streams: Vec<Incoming>,
    copies: usize,
    writers: Vec<Writer>,
) -> anyhow::Result<Outcome> {
    let total = rate * LENGTH.as_secs() as usize;
    let times: Arc<[Times]> = (0..total).map(|_| Times::default()).collect();
    let used = stats::cpu_micros(pid)?;
    let (stop, stopped) = watch::channel(());
    let mut readers = JoinSet::new();
    for stream in streams {
        readers.spawn(read(stream, total * copies, stopped.clone()));
    }
    let begin = tokio::time::Instant::now();
    let mut tasks = JoinSet::new();
    for (first, mut writer) in writers.into_iter().enumerate() {
        let times = times.clone();
        tasks.spawn(async move {
            for number in (first..total).step_by(WRITERS) {
                let due = begin + Duration::from_secs_f64(number as f64 / rate as f64);
                tokio::time::sleep_until(due).await;
                // Each is set once.
                let _ = times[number].sent.set(Instant::now());
                writer.write(number).await?;
                let _ = times[number].acknowledged.set(Instant::now());
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let (mut after, mut whole) = (Vec::new(), Vec::new());
    let gather = async {
        while let Some(arrivals) = readers.join_next().await {
            for (number, arrived) in arrivals?? {
                let times = times.get(number).context("no such event")?;
                let since = |time: &OnceLock<Instant>| {
                    time.get().map(|time| arrived.saturating_duration_since(*time))
                };
                after.push(since(&times.acknowledged).context("not acknowledged")?);
                whole.push(since(&times.sent).context("not sent")?);
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, gather).await.context("events are missing")??;
    drop(stop);
    let used = (stats::cpu_micros(pid)? - used) as f64;
    anyhow::ensure!(after.len() == total * WATCHERS, "{} events came", after.len());
    after.sort();
    whole.sort();
    let at = |times: &[Duration]| [0.5, 0.99].map(|share| stats::percentile(times, share));
    Ok(Outcome { after: at(&after), whole: at(&whole), cpu_micros: used / after.len() as f64 })
}

/// Reads a stream until it has shown so many events.
async fn read(
    mut stream: Incoming,
    count: usize,
    mut stopped: watch::Receiver<()>,
) -> anyhow::Result<Arrivals> {
    let mut arrivals = Vec::with_capacity(count);
    // What may be the beginning of an event's mark and number.
    let mut rest: Vec<u8> = Vec::new();
    while arrivals.len() < count {
        let frame = tokio::select! {
            frame = stream.frame() => frame,
            _ = stopped.changed() => break,
        };
        let frame = frame.context("a watch ended")??;
        let Some(data) = frame.data_ref() else { continue };
        let now = Instant::now();
        rest.extend_from_slice(data);
        let mut from = 0;
        while let Some(at) = find(&rest[from..]) {
            let start = from + at + MARK.len();
            let Some(digits) = rest.get(start..start + DIGITS) else { break };
            arrivals.push((std::str::from_utf8(digits)?.parse()?, now));
            from = start + DIGITS;
        }
        let keep = rest.len().saturating_sub(MARK.len() + DIGITS).max(from);
        rest.drain(..keep);
    }
    Ok(arrivals)
}

fn find(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == MARK[1]) {
        let start = (from + at).checked_sub(1);
        if let Some(start) = start
            && bytes[start..].starts_with(MARK)
        {
            return Some(start);
        }
        from += at + 1;
    }
    None
}
