//! HTTP handlers that end: no request is lost, and nothing goes on for ever.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use http::StatusCode;
use tokio::net::{TcpListener, TcpStream};
use wasmfleet::engine::compile::CompilerPlace;
use wasmfleet::runtime::{ExitReason, HttpLimits, LogSink, LogStream, Options};

use super::clients::{Client, body, connect, handler, request, serve};
use super::harness::{Harness, PATIENCE, built, http_component};

fn options() -> Options {
    Options::new(CompilerPlace::InProcess, None, Arc::new(jiff::Timestamp::now))
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
    let endless_at = SocketAddr::new(spec.pod_ip, spec.http_ports[0]);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_handler_serves_and_sends_its_clients_away() {
    let harness = Harness::new();
    let (mut running, address) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let mut kept = connect(address).await.expect("it listens");
    running.container.drain();
    for _ in 0..2 {
        let mut new = connect(address).await.expect("it still listens");
        for client in [&mut kept, &mut new] {
            let response = client.send_request(request(address, "/")).await.expect("answers");
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["connection"], "close");
            body(response).await.expect("whole");
        }
        kept = connect(address).await.expect("it still listens");
    }
    drop(kept);
    running.container.stop(PATIENCE);
    assert_eq!(running.exit().await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_as_soon_as_no_connection_is_left() {
    let hour = Duration::from_secs(3600);
    let http = HttpLimits { linger: hour, ..HttpLimits::default() };
    let harness = Harness::with(Options { http, ..options() });
    let (mut running, address) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let mut client = connect(address).await.expect("it listens");
    running.container.stop(hour * 4);
    let response = client.send_request(request(address, "/")).await.expect("answers");
    assert_eq!(response.headers()["connection"], "close");
    body(response).await.expect("whole");
    assert_eq!(running.exit().await.code, 0);
}

/// One container takes another's place behind a proxy of connections, as in a rolling update.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_container_loses_no_request() {
    let harness = Harness::new();
    let (mut old, old_at) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let (_new, new_at) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let service = listener.local_addr().expect("an address");
    let endpoint = Arc::new(Mutex::new(old_at));
    let proxy = tokio::spawn(carry(listener, endpoint.clone()));

    let load = Arc::new(Load::default());
    let mut clients = Vec::new();
    for milliseconds in [0, 0, 20, 100, 300, 600, 700, 800] {
        let think = Duration::from_millis(milliseconds);
        clients.push(tokio::spawn(keeps_its_connection(service, think, load.clone())));
        clients.push(tokio::spawn(connects_anew(service, think / 10, load.clone())));
    }
    load.more(60).await;
    old.container.drain();
    load.more(60).await;
    *endpoint.lock().expect("not poisoned") = new_at;
    load.more(10).await;
    old.container.stop(Duration::from_secs(3));
    let exit = old.exit().await;
    assert_eq!((exit.code, exit.reason), (0, ExitReason::Completed), "{exit:?}");
    load.more(60).await;
    load.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request was lost");
    }
    proxy.abort();
}

#[derive(Default)]
struct Load {
    answered: AtomicUsize,
    over: AtomicBool,
}

impl Load {
    /// Waits for this many answers more.
    async fn more(&self, count: usize) {
        let wanted = self.answered.load(Ordering::Relaxed) + count;
        let answers = async {
            while self.answered.load(Ordering::Relaxed) < wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, answers).await.expect("answers come");
    }

    /// Whether the connection may be used again.
    async fn one(&self, client: &mut Client, address: SocketAddr) -> bool {
        let response = client.send_request(request(address, "/")).await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK);
        let closes = response.headers().get("connection").is_some_and(|it| it == "close");
        body(response).await.expect("whole");
        self.answered.fetch_add(1, Ordering::Relaxed);
        !closes
    }
}

async fn keeps_its_connection(address: SocketAddr, think: Duration, load: Arc<Load>) {
    while !load.over.load(Ordering::Relaxed) {
        let mut client = connect(address).await.expect("it listens");
        while client.ready().await.is_ok() && load.one(&mut client, address).await {
            if load.over.load(Ordering::Relaxed) {
                return;
            }
            tokio::time::sleep(think).await;
        }
    }
}

async fn connects_anew(address: SocketAddr, think: Duration, load: Arc<Load>) {
    while !load.over.load(Ordering::Relaxed) {
        let mut client = connect(address).await.expect("it listens");
        load.one(&mut client, address).await;
        tokio::time::sleep(think).await;
    }
}

/// Carries bytes to the endpoint that is the current one when a connection is made.
async fn carry(listener: TcpListener, endpoint: Arc<Mutex<SocketAddr>>) {
    loop {
        let (mut client, _) = listener.accept().await.expect("accepts");
        let address = *endpoint.lock().expect("not poisoned");
        tokio::spawn(async move {
            let mut server = TcpStream::connect(address).await.expect("the endpoint listens");
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

/// A log that holds its writer, when it is shut.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_shut: bool,
    waits: bool,
}

impl Gate {
    fn set(&self, is_shut: bool) {
        self.state.lock().expect("not poisoned").is_shut = is_shut;
        self.changed.notify_all();
    }

    fn wait_for_a_writer(&self) {
        let state = self.state.lock().expect("not poisoned");
        let waited = self.changed.wait_timeout_while(state, PATIENCE, |state| !state.waits);
        assert!(waited.expect("not poisoned").0.waits, "somebody writes");
    }
}

impl LogSink for Gate {
    fn write(&self, _: LogStream, _: &[u8]) {
        let mut state = self.state.lock().expect("not poisoned");
        state.waits = state.is_shut;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| state.is_shut).expect("not poisoned"));
    }
}

/// What reached the machine before the listener was closed is answered, whether the server's
/// threads had seen it or not.
#[test]
fn what_waits_in_the_kernel_is_answered() {
    let now = Duration::ZERO;
    let http = HttpLimits { linger: now, first_byte: now, ..HttpLimits::default() };
    let harness = Harness::with(Options { worker_threads: 1, http, ..options() });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let gate = Arc::new(Gate::default());
    let (mut running, address) = runtime.block_on(async {
        let (mut spec, _) = harness.spec(built!("rust-http-wstd.wasm")).await;
        spec.logs = gate.clone();
        let address = SocketAddr::new(spec.pod_ip, spec.http_ports[0]);
        let mut running = harness.start(spec).await.expect("it starts");
        running.started().await;
        (running, address)
    });
    let connect = || {
        let stream = std::net::TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    };
    let ask = |stream: &mut std::net::TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").expect("it is taken");
    };
    let answer = |stream: &mut std::net::TcpStream| {
        let (mut text, mut bytes) = (String::new(), [0; 1024]);
        while !text.ends_with("GET /\n") && !text.ends_with("0\r\n\r\n") {
            let count = stream.read(&mut bytes).expect("it is not reset");
            assert!(count > 0, "it is not closed: {text:?}");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        text
    };
    let mut kept: Vec<_> = (0..4).map(|_| connect()).collect();
    for stream in &mut kept {
        ask(stream);
        answer(stream);
    }
    // From here on the server's only thread stands still.
    gate.set(true);
    let mut holds = connect();
    ask(&mut holds);
    gate.wait_for_a_writer();
    running.container.stop(PATIENCE);
    let new = (0..8).map(|_| connect());
    let mut all: Vec<_> = kept.into_iter().chain(new).collect();
    all.iter_mut().for_each(ask);
    gate.set(false);
    for stream in all.iter_mut().chain([&mut holds]) {
        let text = answer(stream);
        assert!(text.contains("connection: close"), "{text}");
    }
    let exit = runtime.block_on(running.exit());
    assert_eq!((exit.code, exit.reason), (0, ExitReason::Completed), "{exit:?}");
}
