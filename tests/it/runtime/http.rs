//! HTTP handlers: served on the pod's address, isolated by request, stopped without loss.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use wasmfleet::runtime::ExitReason;

use super::harness::{Harness, PATIENCE, Running, built, http_component};

type Client = SendRequest<Empty<Bytes>>;

async fn connect(address: SocketAddr) -> std::io::Result<Client> {
    let stream = TcpStream::connect(address).await?;
    let (client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok(client)
}

fn request(address: SocketAddr, path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(path).header("host", address.to_string());
    request.body(Empty::new()).expect("a request")
}

async fn body(response: Response<hyper::body::Incoming>) -> Result<String, hyper::Error> {
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn serve(harness: &Harness, wasm: &[u8]) -> (Running, SocketAddr) {
    let (spec, _) = harness.spec(wasm).await;
    let address = SocketAddr::new(spec.pod_ip, spec.http_port);
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    (running, address)
}

/// A handler that counts to `steps` and then answers, in the text guests' world.
fn handler(steps: u32, then: &str) -> Vec<u8> {
    let template = r#"(module
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-response" (func $response (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-response.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[static]response-outparam.set" (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $write (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[static]outgoing-body.finish" (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[resource-drop]incoming-request" (func $drop-request (param i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush" (func $write-flush (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop-stream (param i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (data (i32.const 16) "hello from wat http\0a")
  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $req i32) (param $out i32)
    (local $resp i32) (local $ob i32) (local $s i32) (local $i i32)
    (loop $count
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $count (i32.lt_u (local.get $i) (i32.const STEPS))))
    (call $drop-request (local.get $req))
    (local.set $resp (call $response (call $fields)))
    (call $body (local.get $resp) (i32.const 256))
    (local.set $ob (i32.load (i32.const 260)))
    (call $set (local.get $out) (i32.const 0) (local.get $resp) (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $write (local.get $ob) (i32.const 256))
    (local.set $s (i32.load (i32.const 260)))
    (call $write-flush (local.get $s) (i32.const 16) (i32.const 20) (i32.const 512))
    THEN
    (call $drop-stream (local.get $s))
    (call $finish (local.get $ob) (i32.const 0) (i32.const 0) (i32.const 512))))"#;
    http_component(&template.replace("STEPS", &steps.to_string()).replace("THEN", then))
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_of_both_generations_answer() {
    let harness = Harness::new();
    for (wasm, says) in [
        (built!("rust-http-p2.wasm"), "hello from rust wasip2 http: Method::Get /a?b=c\n"),
        (built!("rust-http-p3.wasm"), "hello from rust wasi 0.3 http: Method::Get /a?b=c\n"),
        (include_bytes!("../guests/wat-p2-http.wasm").as_slice(), "hello from wat http\n"),
    ] {
        let (mut running, address) = serve(&harness, wasm).await;
        let mut client = connect(address).await.expect("it listens");
        for _ in 0..3 {
            client.ready().await.expect("the connection is kept");
            let response = client.send_request(request(address, "/a?b=c")).await.expect("answers");
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(body(response).await.expect("whole"), says);
        }
        assert!(running.container.usage().cpu_micros > 0);
        // The client has its answer a little before the instance is gone.
        let gone = async {
            while running.container.usage().memory_bytes > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("no instance between requests");
        drop(client);
        running.container.stop(PATIENCE);
        let exit = running.exit().await;
        assert_eq!((exit.code, exit.reason), (0, ExitReason::Completed), "{exit:?}");
        assert!(connect(address).await.is_err(), "it no longer listens");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_spoken_with_prior_knowledge() {
    let harness = Harness::new();
    let (_running, address) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let stream = TcpStream::connect(address).await.expect("it listens");
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("a handshake");
    tokio::spawn(connection);
    let answers = (0..16).map(|_| {
        let mut client = client.clone();
        let uri = format!("http://{address}/x");
        async move {
            let request = Request::get(uri).body(Empty::<Bytes>::new()).expect("a request");
            body(client.send_request(request).await.expect("answers")).await.expect("whole")
        }
    });
    for answer in futures::future::join_all(answers).await {
        assert_eq!(answer, "hello from rust wasip2 http: Method::Get /x\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_request_hurts_no_other() {
    let harness = Harness::new();
    let traps = http_component(
        r#"(module (memory (export "memory") 1)
             (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
             (func (export "wasi:http/incoming-handler@0.2.0#handle") (param i32 i32)
               unreachable))"#,
    );
    let (spec, output) = harness.spec(&traps).await;
    let address = SocketAddr::new(spec.pod_ip, spec.http_port);
    let mut running = harness.start(spec).await.expect("it starts");
    let mut client = connect(address).await.expect("it listens");
    for _ in 0..2 {
        client.ready().await.expect("the connection is kept");
        let response = client.send_request(request(address, "/")).await.expect("answers");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        body(response).await.expect("whole");
    }
    assert!(output.stderr().contains("unreachable"), "{}", output.stderr());
    running.container.stop(Duration::ZERO);
    running.exit().await;

    // A guest that fails in the middle of its body must not look as if it had finished.
    let (_running, address) = serve(&harness, &handler(1, "unreachable")).await;
    let mut client = connect(address).await.expect("it listens");
    let whole = match client.send_request(request(address, "/")).await {
        Ok(response) => body(response).await.is_ok(),
        Err(_) => false,
    };
    assert!(!whole, "half a body was sent as a whole one");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_the_containers_error() {
    let harness = Harness::new();
    let (_running, address) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let (mut spec, _) = harness.spec(built!("rust-http-p2.wasm")).await;
    spec.pod_ip = address.ip();
    let error = harness.start(spec).await.err().expect("the port is taken");
    assert!(error.to_string().contains("cannot listen on"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_loses_no_request_under_load() {
    let harness = Harness::new();
    let (mut running, address) = serve(&harness, &handler(300_000, "")).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(load(address, answered.clone()))).collect();
    while answered.load(Ordering::Relaxed) < 100 {
        tokio::task::yield_now().await;
    }
    running.container.stop(PATIENCE);
    for client in clients {
        client.await.expect("no request was lost");
    }
    let exit = running.exit().await;
    assert_eq!((exit.code, exit.reason), (0, ExitReason::Completed), "{exit:?}");
}

/// Sends one request after another over one kept connection, until a response ends it.
async fn load(address: SocketAddr, answered: Arc<AtomicUsize>) {
    let mut client = connect(address).await.expect("it listens");
    // A connection closed while no request was on it has lost none.
    while client.ready().await.is_ok() {
        let response = client.send_request(request(address, "/")).await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK);
        let closes = response.headers().get("connection").is_some_and(|it| it == "close");
        assert_eq!(body(response).await.expect("whole"), "hello from wat http\n");
        answered.fetch_add(1, Ordering::Relaxed);
        if closes {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grace_period_ends_what_does_not_end() {
    let harness = Harness::new();
    let (mut running, address) = serve(&harness, &handler(u32::MAX, "(br 0)")).await;
    let endless = http_component(
        r#"(module (memory (export "memory") 1)
             (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
             (func (export "wasi:http/incoming-handler@0.2.0#handle") (param i32 i32)
               (loop $l (br $l))))"#,
    );
    running.container.stop(Duration::ZERO);
    running.exit().await;
    let (spec, _) = harness.spec(&endless).await;
    let endless_at = SocketAddr::new(spec.pod_ip, spec.http_port);
    assert_ne!(endless_at, address);
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    let mut client = connect(endless_at).await.expect("it listens");
    let pending = tokio::spawn(async move {
        client.send_request(request(endless_at, "/")).await.map(|response| response.status())
    });
    while running.container.usage().cpu_micros == 0 {
        tokio::task::yield_now().await;
    }
    running.container.stop(Duration::from_millis(300));
    let exit = running.exit().await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::Error), "{exit:?}");
    let answer = pending.await.expect("no panic");
    assert!(!matches!(answer, Ok(StatusCode::OK)), "{answer:?}");
}
