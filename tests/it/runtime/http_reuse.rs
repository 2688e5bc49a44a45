//! Instances of a handler that serve more than one request, where a container asks for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::clients::{body, connect, handler_that, request};
use super::harness::{Harness, PATIENCE, Running, built};

/// Writes into the first byte of its answer how many requests its instance has had.
const COUNT: &str =
    "(i32.store (i32.const 4000) (i32.add (i32.load (i32.const 4000)) (i32.const 1)))
    (i32.store8 (i32.const 16) (i32.add (i32.const 48) (i32.load (i32.const 4000))))";

async fn serve(harness: &Harness, wasm: &[u8], requests: u32) -> (Running, SocketAddr) {
    let (mut spec, _) = harness.spec(wasm).await;
    spec.requests_per_instance = requests;
    let address = SocketAddr::new(spec.pod_ip, spec.http_ports[0]);
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    (running, address)
}

/// The first bytes of the answers to so many requests, one after the other.
async fn answers(address: SocketAddr, count: usize) -> String {
    let mut client = connect(address).await.expect("it listens");
    let mut firsts = String::new();
    for _ in 0..count {
        client.ready().await.expect("it is kept");
        let response = client.send_request(request(address, "/")).await.expect("answers");
        if !response.status().is_success() {
            firsts.push('x');
        }
        let text = body(response).await.expect("a body");
        firsts.extend(text.chars().take(1));
    }
    firsts
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_serves_as_many_requests_as_its_container_asks_for() {
    let harness = Harness::new();
    let wasm = handler_that(COUNT, 1, "");
    let (fresh, address) = serve(&harness, &wasm, 1).await;
    assert_eq!(answers(address, 4).await, "1111");
    assert_eq!(fresh.container.usage().instances, 0);
    let (reused, address) = serve(&harness, &wasm, 3).await;
    assert_eq!(answers(address, 8).await, "12312312");
    // The last one rests, and its memory counts.
    let usage = reused.container.usage();
    assert_eq!((usage.instances, usage.requests, usage.failed_requests), (1, 8, 0));
    assert!(usage.memory_bytes >= 64 << 10, "{usage:?}");
}

/// Handlers of WASI 0.3, which have no places in the pool, are spared the mapping so.
#[tokio::test(flavor = "multi_thread")]
async fn instances_of_wasi_0_3_rest_and_serve_again() {
    let harness = Harness::new();
    let (reused, address) = serve(&harness, built!("rust-http-p3.wasm"), 100).await;
    for round in 1..=3 {
        assert_eq!(answers(address, 4).await, "hhhh");
        let began = Instant::now();
        // It rests once it has ended what it does after its answer; another one may serve meanwhile.
        while !(1..=4).contains(&reused.container.usage().instances) {
            assert!(began.elapsed() < PATIENCE, "{round}: {:?}", reused.container.usage());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(reused.container.usage().failed_requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_failed_serves_nobody_else() {
    let harness = Harness::new();
    let trap_at_two = format!(
        "{COUNT} (if (i32.eq (i32.load (i32.const 4000)) (i32.const 2)) (then unreachable))"
    );
    let (reused, address) = serve(&harness, &handler_that(&trap_at_two, 1, ""), 100).await;
    // The failure's own text begins with `t`.
    assert_eq!(answers(address, 4).await, "1xt1xt");
    assert_eq!(reused.container.usage().failed_requests, 2);
    assert_eq!(reused.container.usage().instances, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_rest_give_way_and_end_with_their_container() {
    let harness = Harness::new();
    let (mut spec, _) = harness.spec(&handler_that(COUNT, 1, "")).await;
    spec.requests_per_instance = 100;
    // Room for two of them.
    spec.memory_limit_bytes = 2 * ((64 << 10) + (128 << 10)) + (32 << 10);
    let address = SocketAddr::new(spec.pod_ip, spec.http_ports[0]);
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    let clients = (0..8).map(|_| answers(address, 20));
    for firsts in futures::future::join_all(clients).await {
        assert!(!firsts.contains('x'), "{firsts}");
    }
    assert!(running.container.usage().instances <= 2);
    running.container.stop(std::time::Duration::ZERO);
    running.exit().await;
    assert_eq!(running.container.usage().memory_bytes, 0, "all is given back");
}
