//! A command's streams over WebSocket: each binary message begins with the number of its channel.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::bridge::{FromClient, ToClient};
use crate::apiserver::websocket::{self, Socket};
use crate::base::frames::Frame;

/// The longest message: clients send what they read at once, some of them whole files.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

pub struct Reader(SplitStream<Socket>);

pub struct Writer(SplitSink<Socket, Message>);

pub fn split(socket: Socket) -> (Reader, Writer) {
    let (writer, reader) = socket.split();
    (Reader(reader), Writer(writer))
}

/// Ends the connection as WebSocket has it.
pub async fn close(reader: Reader, writer: Writer) {
    if let Ok(socket) = reader.0.reunite(writer.0) {
        websocket::close(socket).await;
    }
}

impl FromClient for Reader {
    async fn next(&mut self) -> Option<Frame> {
        loop {
            // Reading also answers the client's pings.
            let mut bytes = match self.0.next().await?.ok()? {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => return None,
                _ => continue,
            };
            if !bytes.is_empty() {
                let channel = bytes.split_to(1)[0];
                return Some((channel, bytes));
            }
        }
    }
}

impl ToClient for Writer {
    async fn send(&mut self, (channel, bytes): Frame) -> io::Result<()> {
        let mut message = BytesMut::with_capacity(1 + bytes.len());
        message.put_u8(channel);
        message.put_slice(&bytes);
        self.0.send(Message::Binary(message.freeze())).await.map_err(io::Error::other)
    }

    async fn ping(&mut self) -> io::Result<()> {
        self.0.send(Message::Ping(Bytes::new())).await.map_err(io::Error::other)
    }
}
