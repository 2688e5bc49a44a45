//! Joins a client's streams of a command to the node's: frames go both ways until the command's
//! outcome came, or the client left.

use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::dial::{Dialled, FromNode};
use super::options::Options;
use super::wire::Wire;
use super::{channels, spdy};
use crate::apiserver::websocket;
use crate::base::frames::{self, Decoder, Frame};

/// How long a client may take to open the streams that it said it has (upstream's
/// DefaultStreamCreationTimeout).
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// How often a silent client is asked, so that the system notices one that is gone.
const PING_PERIOD: Duration = Duration::from_secs(30);

/// What a client sends.
pub trait FromClient: Send {
    /// The next frame; `None` when the client left.
    fn next(&mut self) -> impl Future<Output = Option<Frame>> + Send;
}

/// What a client gets.
pub trait ToClient: Send {
    /// # Errors
    /// When the client left.
    fn send(&mut self, frame: Frame) -> impl Future<Output = std::io::Result<()>> + Send;

    /// Asks whether the client is there, where nobody else does.
    fn ping(&mut self) -> impl Future<Output = std::io::Result<()>> + Send {
        std::future::ready(Ok(()))
    }
}

/// Runs a command's streams to their end.
pub async fn run(wire: Wire, upgrade: OnUpgrade, options: Options, node: Dialled) {
    match wire {
        Wire::Channels(_) | Wire::Tunneled => {
            let Some(socket) = websocket::socket(upgrade, channels::MAX_MESSAGE_BYTES).await else {
                return;
            };
            let (mut reader, mut writer) = channels::split(socket);
            join(&mut reader, &mut writer, node, wire.tells_status()).await;
            channels::close(reader, writer).await;
        }
        Wire::Spdy(_) => {
            let Some(io) = websocket::switched(upgrade).await else { return };
            let opening = spdy::Client::open(io, &options);
            let Ok(Some(client)) = timeout(OPEN_LIMIT, opening).await else { return };
            let spdy::Client { session, mut reader, mut writer } = client;
            join(&mut reader, &mut writer, node, wire.tells_status()).await;
            writer.finish().await;
            session.finish().await;
        }
    }
}

async fn join(
    reader: &mut impl FromClient,
    writer: &mut impl ToClient,
    node: Dialled,
    tells_status: bool,
) {
    let Dialled { to, from } = node;
    let up = async {
        while let Some((channel, bytes)) = reader.next().await {
            if to.send(frames::encode(channel, &bytes)).await.is_err() {
                // The node wants no more: its answer is about to end.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = up => {}
        _ = down(from, writer, tells_status) => {}
    }
}

/// The node's frames to the client; the outcome is the last.
async fn down(
    mut from: FromNode,
    writer: &mut impl ToClient,
    tells_status: bool,
) -> std::io::Result<()> {
    let mut decoder = Decoder::default();
    loop {
        let bytes = match timeout(PING_PERIOD, from.next()).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(_) => {
                writer.ping().await?;
                continue;
            }
        };
        decoder.push(&bytes);
        while let Some((channel, bytes)) = decoder.take().map_err(std::io::Error::other)? {
            if channel != frames::ERROR {
                writer.send((channel, bytes)).await?;
            } else {
                let told = if tells_status { Some(bytes) } else { as_text(&bytes) };
                return match told {
                    Some(told) => writer.send((frames::ERROR, told)).await,
                    None => Ok(()),
                };
            }
        }
    }
    let status = json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": "the node or its tunnel went away",
    });
    let bytes = Bytes::from(status.to_string());
    let told = if tells_status { bytes } else { as_text(&bytes).unwrap_or_default() };
    writer.send((frames::ERROR, told)).await
}

/// The outcome as the first versions tell it: nothing of a success, else a message.
fn as_text(status: &[u8]) -> Option<Bytes> {
    let status: Value = serde_json::from_slice(status).ok()?;
    let failed = status["status"] != "Success";
    failed.then(|| Bytes::from(status["message"].as_str().unwrap_or("failed").to_string()))
}
