//! HTTP/1 as it goes over the wire: what follows a request, bodies that nobody reads, and requests that
//! are none. Every client gets its answer, and is told when its connection ends.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::clients::{body_reader, exchange, rest_of, serve};
use super::harness::{Harness, PATIENCE, built};

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

/// A connection whose answers are read one by one.
struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    async fn to(address: SocketAddr) -> Wire {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        Wire { stream, read: Vec::new() }
    }

    async fn say(&mut self, bytes: &[u8]) {
        let said = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await;
        said.expect("in time").expect("it is taken");
    }

    /// Takes what comes up to the end of this.
    async fn up_to(&mut self, end: &str) -> String {
        loop {
            let at = self.read.windows(end.len()).position(|bytes| bytes == end.as_bytes());
            if let Some(at) = at {
                let text: Vec<u8> = self.read.drain(..at + end.len()).collect();
                return String::from_utf8_lossy(&text).into_owned();
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
            let count = read.expect("in time").expect("no reset");
            assert!(count > 0, "it ended after {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// The next answer, as a whole; its head.
    async fn answer(&mut self) -> String {
        let head = self.up_to("\r\n\r\n").await;
        let is_chunked = head.contains("transfer-encoding: chunked\r\n");
        self.up_to(if is_chunked { "\r\n0\r\n\r\n" } else { "\n" }).await;
        head
    }

    /// An answer of the handler, after which the connection is kept.
    async fn kept(&mut self) {
        let head = self.answer().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(!head.contains("connection: close"), "{head}");
    }

    /// The rest, until the connection ends.
    async fn rest(mut self) -> String {
        String::from_utf8_lossy(&self.read).into_owned() + &rest_of(&mut self.stream).await
    }
}

fn post(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_nobody_reads_take_no_answer_away() {
    let harness = Harness::new();
    let (_running, address) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let request = "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n";
    let mut wire = Wire::to(address).await;
    for _ in 0..20 {
        wire.say(request.as_bytes()).await;
        wire.kept().await;
    }
    // Nobody knows how much more is to come.
    wire.say(&request.as_bytes()[..request.len() - 5]).await;
    let head = wire.answer().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("connection: close"), "{head}");
    assert_eq!(wire.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_request_does_not_hold_its_answer_back() {
    let harness = Harness::new();
    let (_running, address) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let hello = post(5) + "hello";
    for (first, rest) in [
        (format!("{GET}\r\n"), GET),
        (format!("{hello}\r\n"), GET),
        (format!("{GET}GET / HTTP/1.1\r\nho"), "st: x\r\n\r\n"),
        (format!("{hello}{hello}{}he", post(5)), "llo"),
    ] {
        let mut wire = Wire::to(address).await;
        wire.say(first.as_bytes()).await;
        wire.kept().await;
        if first.matches("hello").count() > 1 {
            wire.kept().await;
        }
        wire.say(rest.as_bytes()).await;
        wire.kept().await;
    }
    let mut wire = Wire::to(address).await;
    wire.say(format!("{GET}GARBAGE\r\n\r\n").as_bytes()).await;
    wire.kept().await;
    let refusal = wire.rest().await;
    assert!(refusal.starts_with("HTTP/1.1 400 "), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_none_are_refused_in_words() {
    let harness = Harness::new();
    let (_running, address) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let headers = |count: usize| {
        let fields: String = (1..count).map(|at| format!("x-{at}: y\r\n")).collect();
        format!("GET / HTTP/1.1\r\nhost: x\r\n{fields}\r\n")
    };
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70_000));
    let lengths =
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello";
    for (request, status) in [
        (headers(101).as_str(), "431"),
        (long.as_str(), "4"),
        ("GARBAGE\r\n\r\n", "400"),
        (lengths, "400"),
        ("CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\nconnection: close\r\n\r\n", "501"),
    ] {
        let answer = exchange(address, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:.60}: {answer:?}");
    }
    let mut wire = Wire::to(address).await;
    wire.say(headers(100).as_bytes()).await;
    wire.kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_body_that_nobody_reads_keeps_its_connection() {
    let harness = Harness::new();
    let (_running, address) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let mut wire = Wire::to(address).await;
    for _ in 0..20 {
        wire.say(&[post(100_000).as_bytes(), &[b'x'; 100_000]].concat()).await;
        wire.kept().await;
    }
    for _ in 0..5 {
        wire.say(&[post(2000).as_bytes(), &[b'x'; 1000]].concat()).await;
        wire.kept().await;
        wire.say(&[b'x'; 1000]).await;
    }
    wire.say(GET.as_bytes()).await;
    wire.kept().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_that_nobody_reads_ends_its_connection_in_words() {
    let harness = Harness::new();
    let (_running, address) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let body = vec![b'x'; 3 << 20];
    for _ in 0..20 {
        let mut wire = Wire::to(address).await;
        wire.say(&[post(body.len()).as_bytes(), &body].concat()).await;
        let answer = wire.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert!(answer.contains("hello from rust"), "{answer}");
    }
    // Nor is one asked for that the client holds back.
    let mut wire = Wire::to(address).await;
    let expects = "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    wire.say(expects.as_bytes()).await;
    let answer = wire.rest().await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_read_keeps_its_connection_however_long() {
    let harness = Harness::new();
    let (_running, address) = serve(&harness, &body_reader()).await;
    let mut wire = Wire::to(address).await;
    for _ in 0..3 {
        wire.say(&[post(1 << 20).as_bytes(), &vec![b'x'; 1 << 20]].concat()).await;
        wire.kept().await;
    }
}
