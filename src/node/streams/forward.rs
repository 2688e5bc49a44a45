//! `port-forward`: one connection to a port of a pod, its bytes as they are.

use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::{Aborted, Pieces};
use crate::api::ApiError;
use crate::api::error::Reason;
use crate::node::Node;

/// Pods are on this machine: who does not answer at once will not.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 32 << 10;

/// Connects; what is answered is what the pod sends.
///
/// # Errors
/// When there is no such pod, it has no address yet, or nothing listens on the port (502).
pub async fn forward(
    node: &Node,
    [namespace, pod, port]: [&str; 3],
    body: Incoming,
) -> Result<Pieces, ApiError> {
    let number: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        ApiError::bad_request(format!("{port:?} is no port: it must be from 1 to 65535"))
    })?;
    let entry = node.pod(namespace, pod)?;
    let Some(ip) = entry.ip() else {
        let text = format!("pod {pod} has no address: nothing of it runs");
        return Err(ApiError::bad_request(text));
    };
    let failed = |why: String| {
        let text = format!(
            "error forwarding port {number} to pod {}, uid : failed to connect to {ip}:{number} \
             inside the pod: {why}",
            entry.uid
        );
        ApiError::new(502, Reason::InternalError, text)
    };
    let connected = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect((ip, number))).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(format!("no answer within {CONNECT_LIMIT:?}"))),
    };
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let sending = Aborted(tokio::spawn(send(body, writer)));
    let pieces = futures::stream::unfold(Some((reader, sending)), |state| async {
        let (mut reader, sending) = state?;
        match read(&mut reader).await {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => Some((Ok(bytes.freeze()), Some((reader, sending)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(pieces.boxed())
}

async fn read(reader: &mut OwnedReadHalf) -> std::io::Result<BytesMut> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    reader.read_buf(&mut buffer).await?;
    Ok(buffer)
}

/// The client's bytes; its end is the end of what the pod reads.
async fn send(mut body: Incoming, mut writer: OwnedWriteHalf) {
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data()
            && writer.write_all(&data).await.is_err()
        {
            return;
        }
    }
    let _ = writer.shutdown().await;
}
