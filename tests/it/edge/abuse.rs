//! Peers that keep the server waiting, or give it work for nothing: each is cut off, and who behaves
//! notices nothing. Over real sockets with short limits; the tests wait for ends and not for times.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use wasmfleet::apiserver::listener::Limits;
use wasmfleet::apiserver::{Body, User};

use super::connections::{LIMIT, Served, get, served_within, text, who};

const SHORT: Duration = Duration::from_millis(300);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `GET https://a/` in HPACK's static table.
const GET_ROOT: &[u8] = &[0x82, 0x84, 0x87, 0x41, 1, b'a'];

fn limits() -> Limits {
    Limits { drain_timeout: Duration::from_secs(2), ..Limits::default() }
}

/// Reads until the server closes; fails the test if it does not.
async fn closed(mut io: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut all = Vec::new();
    let reading = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match io.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => all.extend_from_slice(&buffer[..read]),
            }
        }
    };
    tokio::time::timeout(LIMIT, reading).await.expect("the server closes the connection");
    all
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Kind and payload of each frame that came whole.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let (kind, end) = (bytes[3], 9 + length);
        if bytes.len() < end {
            break;
        }
        all.push((kind, bytes[9..end].to_vec()));
        bytes = &bytes[end..];
    }
    all
}

/// An HTTP/2 connection on which frames are written by hand.
async fn raw(server: &Served) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
    let mut io = server.connect(None, "h2").await;
    io.write_all(PREFACE).await.unwrap();
    io.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    io
}

/// Sends the same again and again until the connection is closed; what came back.
async fn flood(server: &Served, first: &[u8], again: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let most = 200_000 * super::bombs::scale() as u32;
    let (mut reader, mut writer) = tokio::io::split(raw(server).await);
    let reading = tokio::spawn(async move { closed(&mut reader).await });
    writer.write_all(first).await.unwrap();
    for n in 0..most {
        if writer.write_all(&again(n)).await.is_err() {
            return reading.await.unwrap();
        }
    }
    let _ = writer.flush().await;
    reading.await.unwrap()
}

/// One request by somebody who behaves.
async fn still_serves(server: &Served) {
    let io = TokioIo::new(server.connect(Some(&User::node("n1")), "h2").await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://127.0.0.1/").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(text(sender.send_request(request).await.unwrap()).await, "system:node:n1");
}

#[tokio::test]
async fn slow_beginnings_are_cut_off() {
    let limits = Limits {
        handshake_timeout: SHORT,
        first_request_timeout: SHORT,
        header_read_timeout: LIMIT,
        ..limits()
    };
    let server = served_within(limits, who).await;
    let silent = TcpStream::connect(server.address).await.unwrap();
    let mut hello = TcpStream::connect(server.address).await.unwrap();
    hello.write_all(&[0x16, 3, 1]).await.unwrap();
    let nothing = server.connect(None, "http/1.1").await;
    let mut half = server.connect(None, "http/1.1").await;
    half.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx: ").await.unwrap();
    let no_preface = server.connect(None, "h2").await;
    let settings_only = raw(&server).await;
    let mut half_head = raw(&server).await;
    half_head.write_all(&frame(HEADERS, END_STREAM, 1, &GET_ROOT[..3])).await.unwrap();
    tokio::join!(
        closed(silent),
        closed(hello),
        closed(nothing),
        closed(half),
        closed(no_preface),
        closed(settings_only),
        closed(half_head)
    );
    still_serves(&server).await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_after_its_first_request() {
    let limits = Limits { first_request_timeout: SHORT, stall_timeout: SHORT, ..limits() };
    let server = served_within(limits, who).await;
    let io = TokioIo::new(server.connect(None, "http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(text(sender.send_request(get("/")).await.unwrap()).await, "nobody");
    let slow = server.connect(None, "http/1.1").await;
    closed(slow).await;
    // That took longer than the limit.
    assert_eq!(text(sender.send_request(get("/")).await.unwrap()).await, "nobody");
}

/// Answers without an end, as fast as they are taken; tells when one is given up.
fn endless(
    gone: mpsc::UnboundedSender<()>,
) -> impl Fn(Option<User>, Request<Incoming>) -> futures::future::Ready<Response<Body>>
+ Clone
+ Send
+ Sync
+ 'static {
    struct Told(mpsc::UnboundedSender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    move |_, _| {
        let told = Told(gone.clone());
        let frames = futures::stream::repeat_with(move || {
            let _ = &told;
            Ok::<_, io::Error>(Frame::data(Bytes::from_static(&[b'x'; 300_000])))
        });
        futures::future::ready(Response::new(BodyExt::boxed(StreamBody::new(frames))))
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let limits = Limits { write_timeout: SHORT, ..limits() };
    let (gone, mut wait) = mpsc::unbounded_channel();
    let server = served_within(limits, endless(gone)).await;
    let mut io = server.connect(None, "http/1.1").await;
    io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::timeout(LIMIT, wait.recv()).await.expect("the answer is given up");
    drop(io);
}

/// It reads its socket, and keeps the window of its stream shut.
#[tokio::test]
async fn a_shut_window_is_cut_off() {
    let limits = Limits { first_request_timeout: SHORT, stall_timeout: SHORT, ..limits() };
    for window in [0u8, 1] {
        let (gone, mut wait) = mpsc::unbounded_channel();
        let server = served_within(limits.clone(), endless(gone)).await;
        let mut io = raw(&server).await;
        let shut = [0, 4, 0, 0, 0, window];
        io.write_all(&frame(SETTINGS, 0, 0, &shut)).await.unwrap();
        io.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, GET_ROOT)).await.unwrap();
        let (_, end) = tokio::join!(closed(io), tokio::time::timeout(LIMIT, wait.recv()));
        end.expect("the answer is given up");
    }
}

/// A quiet watch waits for events: nobody is late.
#[tokio::test]
async fn a_quiet_watch_is_no_stall() {
    let limits = Limits { first_request_timeout: SHORT, stall_timeout: SHORT, ..limits() };
    let server = served_within(limits, |_, _| async {
        let first = futures::stream::once(async {
            Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"event")))
        });
        let later = futures::stream::once(async {
            tokio::time::sleep(4 * SHORT).await;
            Ok::<_, io::Error>(Frame::data(Bytes::from_static(b" another")))
        });
        Response::new(BodyExt::boxed(StreamBody::new(first.chain(later))))
    })
    .await;
    for alpn in ["http/1.1", "h2"] {
        let io = TokioIo::new(server.connect(None, alpn).await);
        let request = get("https://127.0.0.1/");
        let response = if alpn == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!(text(response).await, "event another", "{alpn}");
    }
}

#[tokio::test]
async fn floods_of_frames_end_their_connection() {
    let server = served_within(limits(), who).await;
    let get = |stream: u32| frame(HEADERS, END_STREAM | END_HEADERS, stream, GET_ROOT);
    let ping = frame(PING, 0, 0, &[0; 8]);
    flood(&server, &[], |_| ping.clone()).await;
    let settings = frame(SETTINGS, 0, 0, &[]);
    flood(&server, &[], |_| settings.clone()).await;
    // Empty pieces of one body, and of one head.
    let post = frame(HEADERS, END_HEADERS, 1, &[0x83, 0x84, 0x87, 0x41, 1, b'a']);
    let empty = frame(0, 0, 1, &[]);
    flood(&server, &post, |_| empty.clone()).await;
    let open = frame(HEADERS, END_STREAM, 1, GET_ROOT);
    let piece = frame(CONTINUATION, 0, 1, &[]);
    flood(&server, &open, |_| piece.clone()).await;
    // A header that goes on and on.
    let literal = [&[0, 1, b'x', 100][..], &[b'y'; 100]].concat();
    let more = frame(CONTINUATION, 0, 1, &literal);
    flood(&server, &open, |_| more.clone()).await;
    // Rapid reset (CVE-2023-44487).
    let reset = |n: u32| [get(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat();
    let told = flood(&server, &[], reset).await;
    assert!(frames(&told).iter().any(|(kind, _)| *kind == GOAWAY), "it is told to go away");
    still_serves(&server).await;
}

/// More streams than are allowed are refused one by one.
#[tokio::test]
async fn streams_are_bounded() {
    let limits = Limits { max_concurrent_streams: 4, ..limits() };
    let server = served_within(limits, |_, _| std::future::pending()).await;
    let mut io = raw(&server).await;
    for n in 0..6 {
        let stream = 2 * n + 1;
        io.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, stream, GET_ROOT)).await.unwrap();
    }
    io.write_all(&frame(PING, 0, 0, b"finished")).await.unwrap();
    let mut all = Vec::new();
    let mut refused = 0;
    while !frames(&all).iter().any(|(kind, payload)| *kind == PING && payload == b"finished") {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(LIMIT, io.read(&mut buffer)).await.unwrap().unwrap();
        assert_ne!(read, 0, "the connection stays");
        all.extend_from_slice(&buffer[..read]);
    }
    // REFUSED_STREAM: the client may send them again elsewhere.
    for (_, payload) in frames(&all).iter().filter(|(kind, _)| *kind == RST_STREAM) {
        assert_eq!(payload[..], [0, 0, 0, 7]);
        refused += 1;
    }
    assert_eq!(refused, 2);
}

#[tokio::test]
async fn headers_are_bounded() {
    let server = served_within(limits(), who).await;
    // HTTP/1 looks at its limit between reads, and so goes beyond it by one read.
    let long = "x".repeat(300 << 10);
    let mut io = server.connect(None, "http/1.1").await;
    let _ =
        io.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n").as_bytes()).await;
    let answer = String::from_utf8(closed(io).await).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut io = server.connect(None, "http/1.1").await;
    let many = "a: b\r\n".repeat(1000);
    let _ = io.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n").as_bytes()).await;
    let answer = String::from_utf8(closed(io).await).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let io = TokioIo::new(server.connect(None, "h2").await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://127.0.0.1/").header("x", long);
    match sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await {
        Ok(response) => assert_eq!(response.status(), 431),
        Err(error) => assert!(!error.is_user(), "{error}"),
    }
    still_serves(&server).await;
}

/// Neither handshakes that do not end nor peers without a certificate take all sockets.
#[tokio::test]
async fn a_crowd_leaves_a_socket_for_who_has_a_certificate() {
    let limits = Limits { max_connections: 8, first_request_timeout: LIMIT, ..limits() };
    let server = served_within(limits, who).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    still_serves(&server).await;
    let mut strangers = Vec::new();
    for _ in 0..20 {
        if let Ok(io) = server.try_connect(None, "h2").await {
            strangers.push(io);
        }
    }
    still_serves(&server).await;
    still_serves(&server).await;
    drop(silent);
}
