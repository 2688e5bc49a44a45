//! etcd as a child process, and the little of its gRPC API that the figures need: the messages are
//! written by hand (etcd's api/etcdserverpb/rpc.proto), so that no protoc is needed.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http::Request;
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::certificates::Certificates;
use crate::connection::tls;

const START_LIMIT: Duration = Duration::from_secs(30);
/// A gRPC message's head: not compressed, and its length.
const HEAD_BYTES: usize = 5;
/// More than a list of the objects of these figures needs.
const QUOTA_BYTES: u64 = 4 << 30;

/// How etcd is spoken to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Plain,
    /// As Kubernetes does: both sides show a certificate.
    Tls,
}

pub struct Etcd {
    child: Child,
    address: SocketAddr,
    /// What clients show and expect; `None` in plain text.
    certificates: Option<Certificates>,
    _dir: tempfile::TempDir,
}

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// One HTTP/2 connection, which clients may share.
#[derive(Clone)]
pub struct Client(SendRequest<Body>);

pub fn is_installed() -> bool {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

impl Etcd {
    /// `None` if it is not installed.
    pub async fn start(transport: Transport) -> anyhow::Result<Option<Etcd>> {
        if !is_installed() {
            return Ok(None);
        }
        let dir = tempfile::tempdir()?;
        let [address, peers] = [free_address()?, free_address()?];
        let scheme = if transport == Transport::Tls { "https" } else { "http" };
        let (clients, peers) = (format!("{scheme}://{address}"), format!("http://{peers}"));
        let mut command = Command::new("etcd");
        let certificates = match transport {
            Transport::Plain => None,
            Transport::Tls => Some(Certificates::write(dir.path())?),
        };
        if let Some(certificates) = &certificates {
            command.arg("--trusted-ca-file").arg(&certificates.authority);
            command.arg("--cert-file").arg(&certificates.certificate);
            command.arg("--key-file").arg(&certificates.key).arg("--client-cert-auth");
        }
        let child = command
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}"), "--logger", "zap"])
            .args(["--log-level", "error", "--quota-backend-bytes", &QUOTA_BYTES.to_string()])
            .stdout(Stdio::null())
            .spawn()?;
        let etcd = Etcd { child, address, certificates, _dir: dir };
        tokio::time::timeout(START_LIMIT, etcd.wait_for_a_write()).await.context("etcd's start")?;
        Ok(Some(etcd))
    }

    async fn wait_for_a_write(&self) {
        loop {
            if let Ok(mut client) = self.connect().await
                && client.put(b"started", b"").await.is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn connect(&self) -> anyhow::Result<Client> {
        match &self.certificates {
            Some(certificates) => {
                Client::over(tls(self.address, certificates.client.clone()).await?).await
            }
            None => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                Client::over(stream).await
            }
        }
    }

    /// Clients of which each has a connection, as ours have.
    pub async fn connect_all(&self, count: usize) -> anyhow::Result<Vec<Client>> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(self.connect().await?);
        }
        Ok(clients)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// etcd is told its addresses, so it cannot take a free one by itself.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Client {
    async fn over<S>(stream: S) -> anyhow::Result<Client>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(8 << 20).initial_connection_window_size(16 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Client(sender))
    }

    /// KV.Put: PutRequest { key = 1, value = 2 }.
    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        let mut message = message();
        field(&mut message, 1, key);
        field(&mut message, 2, value);
        self.call("/etcdserverpb.KV/Put", message).await.map(drop)
    }

    /// KV.Range: RangeRequest { key = 1, range_end = 2 }; linearizable. Answers with the bytes.
    pub async fn range(&mut self, key: &[u8], end: &[u8]) -> anyhow::Result<usize> {
        let mut message = message();
        field(&mut message, 1, key);
        if !end.is_empty() {
            field(&mut message, 2, end);
        }
        self.call("/etcdserverpb.KV/Range", message).await.map(|answer| answer.len())
    }

    async fn call(&mut self, path: &str, message: BytesMut) -> anyhow::Result<Bytes> {
        let body = Full::new(sealed(message)).boxed();
        let answer = self.open(path, body).await?.collect().await?;
        let status = answer.trailers().and_then(|trailers| trailers.get("grpc-status"));
        let status = status.context("an answer without a status")?;
        anyhow::ensure!(status == "0", "{path} was answered {status:?}");
        Ok(answer.to_bytes())
    }

    async fn open(&mut self, path: &str, body: Body) -> anyhow::Result<Incoming> {
        self.0.ready().await?;
        let request = Request::post(format!("http://etcd{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)?;
        Ok(self.0.send_request(request).await?.into_body())
    }

    /// Watch.Watch: one stream with `count` watches of a prefix, as etcd's own client makes it:
    /// WatchRequest { create_request = 1: { key = 1, range_end = 2 } }.
    pub async fn watch(&mut self, prefix: &[u8], count: usize) -> anyhow::Result<Incoming> {
        let mut create = BytesMut::new();
        field(&mut create, 1, prefix);
        field(&mut create, 2, &after(prefix));
        let mut request = message();
        field(&mut request, 1, &create);
        let frame = sealed(request);
        let frames = std::iter::repeat_n(frame, count).map(|frame| Ok(Frame::data(frame)));
        let frames = futures::stream::iter(frames).chain(futures::stream::pending());
        self.open("/etcdserverpb.Watch/Watch", BodyExt::boxed(StreamBody::new(frames))).await
    }
}

/// The end of a prefix's range.
pub fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn message() -> BytesMut {
    let mut message = BytesMut::with_capacity(2048);
    message.put_bytes(0, HEAD_BYTES);
    message
}

fn sealed(mut message: BytesMut) -> Bytes {
    let length = (message.len() - HEAD_BYTES) as u32;
    message[1..HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
    message.freeze()
}

/// A field of bytes (wire type 2).
fn field(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    out.put_u8(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
    out.put_slice(bytes);
}
