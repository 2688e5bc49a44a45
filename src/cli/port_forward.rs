//! `wasmctl port-forward`: connections to ports of this machine, brought to a pod. Each has a
//! WebSocket of its own, so that no slow one holds up the others.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::Message;

use super::args::{LogsArgs, PortForwardArgs};
use super::session::Session;
use super::{logs, printer, selection};

const PROTOCOL: &str = "v4.channel.k8s.io";
/// The channels of a connection's only port.
const DATA: u8 = 0;
const ERROR: u8 = 1;
/// Each channel begins with its port.
const PORT_BYTES: usize = 2;
/// Connections at once on one port; more wait to be accepted.
const MAX_CONNECTIONS: usize = 128;
const READ_BYTES: usize = 32 << 10;

pub async fn run(session: &Session, args: &PortForwardArgs) -> anyhow::Result<()> {
    let of_pod = LogsArgs { what: Some(args.what.clone()), ..LogsArgs::default() };
    let (pod, _) = logs::first(session, &of_pod).await?;
    let mut forwards = FuturesUnordered::new();
    for text in &args.ports {
        let (local, port) = parse(text)?;
        let target = target(session, &args.what, port).await?;
        let listener = TcpListener::bind(SocketAddr::new(args.address, local)).await;
        let listener = listener.with_context(|| format!("cannot listen on port {local}"))?;
        let address = listener.local_addr()?;
        printer::line(&format!("Forwarding from {address} -> {target}"))?;
        let path = format!(
            "/api/v1/namespaces/{}/pods/{pod}/portforward?ports={target}",
            session.namespace
        );
        forwards.push(forward(session, listener, path));
    }
    tokio::select! {
        Some(ended) = forwards.next() => ended,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

/// `8080`, `8888:8080` or `:8080`: the port of this machine (0: any) and the pod's or Service's.
fn parse(text: &str) -> anyhow::Result<(u16, u16)> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| {
        let number: u16 = text.parse().with_context(|| format!("{text:?} is no port"))?;
        if number == 0 {
            bail!("port 0 is none");
        }
        Ok(number)
    };
    Ok((if local.is_empty() { 0 } else { number(local)? }, number(remote)?))
}

/// The pod's port behind a Service's.
async fn target(session: &Session, what: &str, port: u16) -> anyhow::Result<u16> {
    if !what.contains('/') {
        return Ok(port);
    }
    let selected = selection::named(session, std::slice::from_ref(&what.to_string())).await?;
    let one = selected.first().context("nothing selected")?;
    if one.resource.kind != "Service" {
        return Ok(port);
    }
    let service = session.get_json(&one.path(Some(&session.namespace))).await?;
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let found = ports.into_iter().flatten().find(|one| one["port"] == port);
    let found = found.with_context(|| format!("{} has no port {port}", one.title()))?;
    match &found["targetPort"] {
        Value::Number(number) => {
            let number = number.as_u64().and_then(|number| u16::try_from(number).ok());
            number.context("the Service's targetPort is no port")
        }
        Value::String(name) => named_port(session, &service, name).await,
        _ => Ok(port),
    }
}

/// A container's port by its name, as a Service may have it.
async fn named_port(session: &Session, service: &Value, name: &str) -> anyhow::Result<u16> {
    let args = LogsArgs {
        selector: Some(logs::selector_text(&service["spec"]["selector"])),
        ..LogsArgs::default()
    };
    let pods = logs::pods(session, &args).await?;
    let containers = pods.first().and_then(|pod| pod.pointer("/spec/containers"));
    let containers = containers.and_then(Value::as_array).into_iter().flatten();
    let mut ports = containers.flat_map(|one| one["ports"].as_array().into_iter().flatten());
    let found = ports.find(|port| port["name"] == name).and_then(|p| p["containerPort"].as_u64());
    found
        .and_then(|port| u16::try_from(port).ok())
        .with_context(|| format!("no container has a port {name:?}"))
}

async fn forward(session: &Session, listener: TcpListener, path: String) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if places.available_permits() > 0 => {
                let (stream, _) = accepted.context("no more connections can be accepted")?;
                let place = places.clone().try_acquire_owned();
                let path = &path;
                connections.push(async move {
                    let result = connection(session, stream, path).await;
                    drop(place);
                    result
                });
            }
            Some(ended) = connections.next() => {
                if let Err(error) = ended {
                    printer::note(&format!("error: {}", printer::error_text(&error)));
                }
            }
        }
    }
}

async fn connection(session: &Session, mut stream: TcpStream, path: &str) -> anyhow::Result<()> {
    let (socket, _) = session.remote.websocket(path, &[PROTOCOL]).await?;
    let (mut to_pod, mut from_pod) = socket.split();
    let (mut reader, mut writer) = stream.split();
    let up = async {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = reader.read(&mut buffer).await?;
            if read == 0 {
                // The protocol has no end of one direction: what still comes is waited for.
                return std::future::pending::<anyhow::Result<()>>().await;
            }
            let mut message = BytesMut::with_capacity(1 + read);
            message.put_u8(DATA);
            message.put_slice(&buffer[..read]);
            to_pod.send(Message::Binary(message.freeze())).await?;
        }
    };
    let down = async {
        let mut begun = [false; 2];
        while let Some(message) = from_pod.next().await {
            let mut bytes = match message.context("the connection was lost")? {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                _ => continue,
            };
            if bytes.is_empty() {
                continue;
            }
            let channel = bytes.split_to(1)[0];
            if let Some(begun) = begun.get_mut(usize::from(channel))
                && !std::mem::replace(begun, true)
            {
                bytes = bytes.slice(PORT_BYTES.min(bytes.len())..);
            }
            take(channel, bytes, &mut writer).await?;
        }
        Ok(())
    };
    tokio::select! {
        result = up => result,
        result = down => result,
    }
}

async fn take(
    channel: u8,
    bytes: Bytes,
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> anyhow::Result<()> {
    match channel {
        DATA => Ok(writer.write_all(&bytes).await?),
        ERROR if !bytes.is_empty() => bail!("{}", String::from_utf8_lossy(&bytes)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_their_three_forms() {
        assert_eq!(parse("8080").unwrap(), (8080, 8080));
        assert_eq!(parse("8888:80").unwrap(), (8888, 80));
        assert_eq!(parse(":80").unwrap(), (0, 80));
        for bad in ["", "x", "0", "1:0", "70000", "1:2:3"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
