//! HTTP handlers: served on the pod's address, isolated by request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use wasmfleet::runtime::ExitReason;
use wasmfleet::runtime::workload::{Platform, Workload};

use super::clients::{body, connect, exchange, handler, request, serve};
use super::harness::{Harness, PATIENCE, built, http_component};
use crate::cluster::until_nobody_listens;

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
        until_nobody_listens(address);
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
    let request = Request::head(format!("http://{address}/x")).body(Empty::<Bytes>::new());
    let mut client = client;
    let head = client.send_request(request.expect("a request")).await.expect("answers");
    assert_eq!(head.status(), 200);
    assert_eq!(body(head).await.expect("no stream error"), "", "a body would be one");
}

/// A platform that hears of failures.
#[derive(Default)]
struct Hears(Mutex<Vec<String>>);

impl Platform for Hears {
    fn failed(&self, why: String) {
        self.0.lock().expect("not poisoned").push(why);
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
    let (mut spec, output) = harness.spec(&traps).await;
    let hears = Arc::new(Hears::default());
    spec.workload = Arc::new(Workload { platform: hears.clone(), ..Workload::default() });
    let address = SocketAddr::new(spec.pod_ip, spec.http_ports[0]);
    let mut running = harness.start(spec).await.expect("it starts");
    let mut client = connect(address).await.expect("it listens");
    for _ in 0..2 {
        client.ready().await.expect("the connection is kept");
        let response = client.send_request(request(address, "/")).await.expect("answers");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        body(response).await.expect("whole");
    }
    assert!(output.stderr().contains("unreachable"), "{}", output.stderr());
    let told = hears.0.lock().expect("not poisoned").clone();
    assert_eq!(told, ["trap: wasm trap: wasm `unreachable` instruction executed"], "once");
    running.container.stop(Duration::ZERO);
    running.exit().await;

    // A guest that fails in the middle of its body must not look as if it had finished.
    let (spec, output) = harness.spec(&handler(1, "unreachable")).await;
    let address = SocketAddr::new(spec.pod_ip, spec.http_ports[0]);
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    let mut client = connect(address).await.expect("it listens");
    let whole = match client.send_request(request(address, "/")).await {
        Ok(response) => body(response).await.is_ok(),
        Err(_) => false,
    };
    assert!(!whole, "half a body was sent as a whole one");
    assert!(output.stderr().contains("unreachable"), "the log says why: {}", output.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_served_on_all_of_its_ports() {
    let harness = Harness::new();
    let (mut spec, _) = harness.spec(built!("rust-http-p2.wasm")).await;
    spec.http_ports = vec![8080, 8081];
    let addresses = [8080, 8081].map(|port| SocketAddr::new(spec.pod_ip, port));
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    for address in addresses {
        let answer = exchange(address, "GET / HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{address}: {answer}");
    }
    running.container.stop(Duration::ZERO);
    running.exit().await;
    addresses.into_iter().for_each(until_nobody_listens);
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
async fn a_request_without_a_host_is_the_clients_error() {
    let harness = Harness::new();
    let (spec, output) = harness.spec(built!("rust-http-p3.wasm")).await;
    let address = SocketAddr::new(spec.pod_ip, spec.http_ports[0]);
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/1.1\r\nconnection: close\r\nhost: a b\r\n\r\n", "HTTP/1.1 400"),
        ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200"),
    ] {
        let answer = exchange(address, request).await;
        assert!(answer.starts_with(status), "{request}: {answer}");
    }
    assert_eq!(output.stderr(), "", "the service's log is for its own failures");
}
