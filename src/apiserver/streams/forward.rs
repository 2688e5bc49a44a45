//! Port-forward: connections of the client to ports of a pod, each a request of its own to the node.
//!
//! Over SPDY a client opens two streams for each connection, which a header tells belong together:
//! one for data, one for what goes wrong (k8s.io/kubelet/pkg/cri/streaming/portforward). Over
//! channels there is one connection for each port that the query names.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::Response;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bridge::{FromClient, ToClient};
use super::channels::{self, MAX_MESSAGE_BYTES};
use super::dial::{Dialled, dial};
use super::options::Options;
use super::websocket_io::WebSocketIo;
use super::wire::{self, Wire};
use super::{Connecting, until_stop};
use crate::api::ApiError;
use crate::apiserver::nodes::Tunnels;
use crate::apiserver::service::{ApiServer, Call};
use crate::apiserver::spdy::{Session, Stream};
use crate::apiserver::{Body, websocket};

/// Connections of one client at once.
const MAX_CONNECTIONS: usize = 128;
/// How long the second stream of a connection may take to come.
const PAIR_LIMIT: Duration = Duration::from_secs(30);
/// Pieces of a channel that wait for its connection; one that is slower holds up the others.
const PIECES: usize = 16;

/// Whose ports, and where they are.
#[derive(Clone)]
struct Pod {
    nodes: Arc<Tunnels>,
    node: String,
    namespace: String,
    name: String,
}

impl Pod {
    async fn connect(&self, port: u16) -> Result<Dialled, ApiError> {
        let path = format!("/portforward/{}/{}/{port}", self.namespace, self.name);
        dial(&self.nodes, &self.node, &path).await
    }
}

/// Switches, and forwards until the client leaves.
///
/// # Errors
/// 400 and 403 as for other connections; whether a port answers shows when it is used.
pub fn respond(
    server: &ApiServer,
    call: &Call,
    node: &str,
    options: &Options,
    request: Connecting<'_>,
) -> Result<Response<Body>, ApiError> {
    let wire = wire::of_ports(request.headers)?;
    if matches!(wire, Wire::Channels(_)) && options.ports.is_empty() {
        return Err(ApiError::bad_request("query parameter \"ports\" is required"));
    }
    let response = wire.accept(request.headers)?;
    let upgrade = request.upgrade.ok_or_else(websocket::no_upgrade)?;
    let pod = Pod {
        nodes: server.nodes.clone(),
        node: node.to_string(),
        namespace: call.namespace.clone(),
        name: call.name.clone(),
    };
    let (stop, place, ports) = (request.stop, request.place, options.ports.clone());
    tokio::spawn(async move {
        until_stop(stop, run(wire, upgrade, pod, ports)).await;
        drop(place);
    });
    Ok(response)
}

async fn run(wire: Wire, upgrade: OnUpgrade, pod: Pod, ports: Vec<u16>) {
    match wire {
        Wire::Spdy(_) => {
            if let Some(io) = websocket::switched(upgrade).await {
                sessions(io, pod).await;
            }
        }
        Wire::Tunneled => {
            if let Some(socket) = websocket::socket(upgrade, MAX_MESSAGE_BYTES).await {
                sessions(WebSocketIo::new(socket), pod).await;
            }
        }
        Wire::Channels(_) => {
            if let Some(socket) = websocket::socket(upgrade, MAX_MESSAGE_BYTES).await {
                let (mut reader, mut writer) = channels::split(socket);
                over_channels(&mut reader, &mut writer, pod, &ports).await;
                channels::close(reader, writer).await;
            }
        }
    }
}

/// The two streams of a connection that is not complete yet.
struct Half {
    stream: Stream,
    since: Instant,
}

async fn sessions(io: impl AsyncRead + AsyncWrite + Send + 'static, pod: Pod) {
    let mut session = Session::start(io);
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = tokio::select! {
            stream = session.accept() => stream,
            Some(_) = connections.join_next() => continue,
        };
        let Some(stream) = stream else { break };
        halves.retain(|_, half| half.since.elapsed() < PAIR_LIMIT);
        let id = match stream.header("requestid") {
            // Clients before 1.2 named none; their pairs follow each other.
            "" => stream.header("port").to_string(),
            id => id.to_string(),
        };
        let Some(half) = halves.remove(&id) else {
            if halves.len() < MAX_CONNECTIONS {
                halves.insert(id, Half { stream, since: Instant::now() });
            }
            continue;
        };
        let (error, data) = match (half.stream.header("streamtype"), stream.header("streamtype")) {
            ("error", "data") => (half.stream, stream),
            ("data", "error") => (stream, half.stream),
            // Neither is of use alone.
            _ => continue,
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let pod = pod.clone();
        connections.spawn(async move {
            forward(&pod, error, data).await;
            drop(place);
        });
    }
}

/// One connection; what goes wrong is told on the stream for errors.
async fn forward(pod: &Pod, mut error: Stream, mut data: Stream) {
    let port = data.header("port").parse().ok().filter(|port| *port > 0);
    let connected = match port {
        Some(port) => pod.connect(port).await,
        None => Err(ApiError::bad_request(format!("no port: {:?}", data.header("port")))),
    };
    let Dialled { to, mut from } = match connected {
        Ok(dialled) => dialled,
        Err(why) => {
            let _ = error.writer.send(why.message.as_bytes()).await;
            let _ = error.writer.finish().await;
            let _ = data.writer.finish().await;
            return;
        }
    };
    let up = async {
        while let Some(bytes) = data.reader.next().await {
            if to.send(bytes).await.is_err() {
                break;
            }
        }
        drop(to);
    };
    let down = async {
        while let Some(bytes) = from.next().await {
            data.writer.send(&bytes).await?;
        }
        data.writer.finish().await
    };
    // The pod's end ends it; the client's end is only the end of what it sends.
    let up = async {
        up.await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        () = up => {}
        _ = down => {}
    }
    let _ = error.writer.finish().await;
}

/// The channels of a port: data, and what goes wrong.
fn channels_of(index: usize) -> (u8, u8) {
    let first = u8::try_from(index * 2).unwrap_or(u8::MAX - 1);
    (first, first + 1)
}

async fn over_channels(
    reader: &mut channels::Reader,
    writer: &mut channels::Writer,
    pod: Pod,
    ports: &[u16],
) {
    // Each channel begins with its port, so that clients need not trust the order.
    for (index, port) in ports.iter().enumerate() {
        let (data, error) = channels_of(index);
        for channel in [data, error] {
            let text = Bytes::copy_from_slice(&port.to_le_bytes());
            if writer.send((channel, text)).await.is_err() {
                return;
            }
        }
    }
    let (out, mut outgoing) = mpsc::channel(PIECES);
    let mut inputs = Vec::new();
    let mut tasks = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let (input, pieces) = mpsc::channel(PIECES);
        inputs.push(input);
        tasks.push(one_port(pod.clone(), *port, channels_of(index), pieces, out.clone()));
    }
    drop(out);
    let up = async {
        while let Some((channel, bytes)) = reader.next().await {
            let (index, is_data) = (usize::from(channel / 2), channel % 2 == 0);
            if is_data && let Some(input) = inputs.get(index) {
                // A port that failed or ended takes nothing more.
                let _ = input.send(bytes).await;
            }
        }
    };
    let down = async {
        while let Some(frame) = outgoing.recv().await {
            if writer.send(frame).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        // Ends when all ports have.
        _ = async { tokio::join!(down, join_all(tasks)) } => {}
    }
}

async fn one_port(
    pod: Pod,
    port: u16,
    (data, error): (u8, u8),
    mut pieces: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<(u8, Bytes)>,
) {
    let Dialled { to, mut from } = match pod.connect(port).await {
        Ok(dialled) => dialled,
        Err(why) => {
            let _ = out.send((error, why.message.into())).await;
            return;
        }
    };
    let up = async {
        while let Some(bytes) = pieces.recv().await {
            if to.send(bytes).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await
    };
    let down = async {
        while let Some(bytes) = from.next().await {
            if out.send((data, bytes)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
