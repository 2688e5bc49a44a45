//! A kept-alive HTTP/1.1 connection over TLS that costs the load generator little: requests are
//! bytes, and of an answer only status and length are read.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

/// A GET with more lines in its head, each with its end.
pub fn get(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: bench\r\n{more}\r\n").into_bytes()
}

pub async fn tls(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = rustls::pki_types::ServerName::from(address.ip());
    Ok(TlsConnector::from(config).connect(name, stream).await?)
}

impl Connection {
    pub async fn open(
        address: SocketAddr,
        config: Arc<rustls::ClientConfig>,
    ) -> anyhow::Result<Connection> {
        Ok(Connection { stream: tls(address, config).await?, buffer: vec![0; 16 << 10] })
    }

    pub async fn get(&mut self, path: &str) -> anyhow::Result<Answer<'_>> {
        self.send(&get(path, "")).await
    }

    pub async fn post(&mut self, path: &str, body: &[u8]) -> anyhow::Result<Answer<'_>> {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        let mut request = head.into_bytes();
        request.extend_from_slice(body);
        self.send(&request).await
    }

    /// Sends a whole request and reads the whole answer.
    pub async fn send(&mut self, request: &[u8]) -> anyhow::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let (status, body) = loop {
            filled += self.read(filled).await?;
            if let Some(head) = head(&self.buffer[..filled])? {
                break head;
            }
        };
        if self.buffer.len() < body.end {
            self.buffer.resize(body.end, 0);
        }
        while filled < body.end {
            filled += self.read(filled).await?;
        }
        Ok(Answer { status, body: &self.buffer[body] })
    }

    async fn read(&mut self, filled: usize) -> anyhow::Result<usize> {
        anyhow::ensure!(filled < self.buffer.len(), "the head is too long");
        let read = self.stream.read(&mut self.buffer[filled..]).await?;
        anyhow::ensure!(read > 0, "the connection was closed");
        Ok(read)
    }
}

/// The status, and where the body lies, once the head is complete.
fn head(bytes: &[u8]) -> anyhow::Result<Option<(u16, Range<usize>)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end])?;
    let status = head.get(9..12).context("no status")?.parse()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("no content-length")?.parse()?;
    Ok(Some((status, end + 4..end + 4 + length)))
}
