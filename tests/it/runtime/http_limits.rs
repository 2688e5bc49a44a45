//! What bounds HTTP handlers and their clients: times, and memory that requests share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use wasmfleet::engine::compile::CompilerPlace;
use wasmfleet::runtime::{HttpLimits, Options};

use super::clients::{body, connect, exchange, handler, request, rest_of};
use super::harness::{Harness, Output, PATIENCE, Running, built};

const SOON: Duration = Duration::from_millis(200);

/// Loops for ever after the response is begun.
const LOOPS: &str = "(loop $l (br $l))";
/// Writes for ever.
const FLOODS: &str = "(loop $l
    (call $write-flush (local.get $s) (i32.const 0) (i32.const 4096) (i32.const 512)) (br $l))";
/// Completes its response and loops for ever.
const LINGERS: &str = "(call $drop-stream (local.get $s))
    (call $finish (local.get $ob) (i32.const 0) (i32.const 0) (i32.const 512))
    (loop $l (br $l))";

async fn serve(http: HttpLimits, wasm: &[u8]) -> (Harness, Running, SocketAddr, Arc<Output>) {
    let clock = Arc::new(jiff::Timestamp::now);
    let options = Options { http, ..Options::new(CompilerPlace::InProcess, None, clock) };
    let harness = Harness::with(options);
    let (spec, output) = harness.spec(wasm).await;
    let address = SocketAddr::new(spec.pod_ip, spec.http_ports[0]);
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    (harness, running, address, output)
}

/// Waits until an instance holds memory, or none does.
async fn holds_memory(running: &Running, wanted: bool) {
    let held = async {
        while (running.container.usage().memory_bytes > 0) != wanted {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, held).await.expect("an instance comes and goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_may_be_idle_but_not_slow() {
    let http = HttpLimits { request_head: SOON, ..HttpLimits::default() };
    let (_harness, _running, address, _) = serve(http, built!("rust-http-p2.wasm")).await;
    let mut kept = connect(address).await.expect("it listens");
    let response = kept.send_request(request(address, "/")).await.expect("answers");
    body(response).await.expect("whole");
    let idle = TcpStream::connect(address).await.expect("it listens");
    let answer = exchange(address, "GET / HTTP/1.1\r\nhost:").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "a head that is not completed: {answer}");
    // Both were idle for longer than that.
    let response = kept.send_request(request(address, "/")).await.expect("answers");
    body(response).await.expect("whole");
    let mut idle = idle;
    idle.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("it is taken");
    assert!(rest_of(&mut idle).await.starts_with("HTTP/1.0 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_end_at_last() {
    let http = HttpLimits { idle: SOON, ..HttpLimits::default() };
    let (_harness, _running, address, _) = serve(http, built!("rust-http-p2.wasm")).await;
    assert_eq!(exchange(address, "").await, "");
    let answer = exchange(address, "GET / HTTP/1.1\r\nhost: web\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let stream = TcpStream::connect(address).await.expect("it listens");
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("a handshake");
    let connection = tokio::spawn(connection);
    let get = Request::get(format!("http://{address}/")).body(Empty::<Bytes>::new());
    let response = client.send_request(get.expect("a request")).await.expect("answers");
    body(response).await.expect("whole");
    let ended = tokio::time::timeout(PATIENCE, connection).await.expect("it is ended");
    ended.expect("no panic").expect("in good order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_its_time() {
    let http = HttpLimits {
        response_head: SOON,
        silent_guest: SOON,
        background: SOON,
        ..HttpLimits::default()
    };
    let get = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n";
    let (_harness, running, address, output) = serve(http, &handler(u32::MAX, "")).await;
    let answer = exchange(address, get).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert_eq!(output.stderr(), "the handler did not respond within 200ms\n");
    holds_memory(&running, false).await;

    let http = HttpLimits { response_head: PATIENCE, ..http };
    let (_harness, running, address, output) = serve(http, &handler(1, LOOPS)).await;
    let answer = exchange(address, get).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!answer.ends_with("0\r\n\r\n"), "it is no complete response: {answer}");
    assert_eq!(output.stderr(), "the handler wrote nothing of its response for 200ms\n");
    holds_memory(&running, false).await;

    let (_harness, running, address, output) = serve(http, &handler(1, LINGERS)).await;
    let answer = exchange(address, get).await;
    assert!(answer.ends_with("hello from wat http\n"), "{answer}");
    holds_memory(&running, false).await;
    let told = async {
        while output.stderr().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told");
    assert_eq!(output.stderr(), "the handler still ran 200ms after its response\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_holds_no_instance() {
    let http = HttpLimits { stalled_client: SOON, ..HttpLimits::default() };
    let (_harness, running, address, _) = serve(http, &handler(1, FLOODS)).await;
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.expect("it is taken");
    holds_memory(&running, true).await;
    holds_memory(&running, false).await;
    drop(stream);

    let stream = TcpStream::connect(address).await.expect("it listens");
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("a handshake");
    tokio::spawn(connection);
    let get = Request::get(format!("http://{address}/")).body(Empty::<Bytes>::new());
    let response = client.send_request(get.expect("a request")).await.expect("answers");
    assert_eq!(response.status(), StatusCode::OK);
    // The connection lives on, and what comes next shows that the body was given up.
    holds_memory(&running, false).await;
    assert!(body(response).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_memory_that_others_hold() {
    // Three of these fit into the 64 MiB of a container at once.
    let grows = handler(1, "(drop (memory.grow (i32.const 255)))");
    let (_harness, _running, address, output) = serve(HttpLimits::default(), &grows).await;
    let clients = (0..24).map(|_| async move {
        let mut client = connect(address).await.expect("it listens");
        for _ in 0..4 {
            client.ready().await.expect("the connection is kept");
            let response = client.send_request(request(address, "/")).await.expect("answers");
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(body(response).await.expect("whole"), "hello from wat http\n");
        }
    });
    futures::future::join_all(clients).await;
    assert_eq!(output.stderr(), "");

    let hogs = handler(1, "(drop (memory.grow (i32.const 1100)))");
    let (_harness, _running, address, output) = serve(HttpLimits::default(), &hogs).await;
    let mut client = connect(address).await.expect("it listens");
    let whole = match client.send_request(request(address, "/")).await {
        Ok(response) => body(response).await.is_ok(),
        Err(_) => false,
    };
    assert!(!whole);
    assert!(output.stderr().starts_with("out of memory"), "{}", output.stderr());
}
