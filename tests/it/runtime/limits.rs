//! Bounds: memory, processor time, fairness between guests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wasmfleet::runtime::ExitReason;

use super::clients::{body, connect, handler, request, serve};
use super::harness::{Harness, built, text, wat};

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_hog_is_oom_killed_at_its_limit() {
    let harness = Harness::new();
    let (mut spec, _) = harness.spec(&text!("p1-hog.wat")).await;
    spec.memory_limit_bytes = 16 << 20;
    let mut running = harness.start(spec).await.expect("it starts");
    let exit = running.exit().await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled), "{exit:?}");
    assert!(exit.message.contains("16777216"), "{}", exit.message);
    assert_eq!(running.container.usage().memory_bytes, 0, "its memory is given back");
    // A memory that is too large from the start.
    let large = wat(r#"(module (memory (export "memory") 1024) (func (export "_start")))"#);
    let (mut spec, _) = harness.spec(&large).await;
    spec.memory_limit_bytes = 16 << 20;
    let exit = harness.start(spec).await.expect("it starts").exit().await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled), "{exit:?}");
    // A table of 2^32 elements is refused, and the guest goes on.
    let table = wat(r#"(module (memory (export "memory") 1) (table $t 1 funcref)
        (func (export "_start")
          (if (i32.ne (table.grow $t (ref.null func) (i32.const 0x7fffffff)) (i32.const -1))
            (then unreachable))))"#);
    assert_eq!(harness.run(&table).await.0.code, 0);
}

/// What pods are warned by when they are made is what decides here.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_runs_with_the_least_that_is_said_of_it_and_with_no_less() {
    let harness = Harness::new();
    let module = wat(r#"(module (memory 3) (memory 1) (table 100 funcref)
        (func (export "_start")))"#);
    // Twice, once for nothing, and one that nobody instantiates.
    let component = wat(r#"(component
        (core module $m (memory 2) (table 10 funcref) (func (export "run") (result i32) i32.const 0))
        (core module $other (memory 60))
        (core instance $idle (instantiate $m))
        (core instance $core (instantiate $m))
        (component $nested (core module $n (memory 1)) (core instance (instantiate $n)))
        (instance $nest (instantiate $nested))
        (func $run (result (result)) (canon lift (core func $core "run")))
        (component $cli
          (import "run" (func $in (result (result)))) (export "run" (func $in)))
        (instance $entry (instantiate $cli (with "run" (func $run))))
        (export "wasi:cli/run@0.2.6" (instance $entry)))"#);
    for (wasm, least) in [(module, 4 * (64 << 10) + 800), (component, 5 * (64 << 10) + 160)] {
        let found = wasmfleet::artifact::check_imports(&wasm).expect("it can be run");
        assert_eq!(found.least_memory_bytes, least);
        let needed = least + wasmfleet::artifact::bounds::INSTANCE_BYTES;
        for (limit, code) in [(needed, 0), (needed - 1, 137)] {
            let (mut spec, _) = harness.spec(&wasm).await;
            spec.memory_limit_bytes = limit;
            let exit = harness.start(spec).await.expect("it starts").exit().await;
            assert_eq!(exit.code, code, "{exit:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_answers_with_the_least_that_is_said_of_it_and_with_no_less() {
    let harness = Harness::new();
    let wasm = handler(1, "");
    let found = wasmfleet::artifact::check_imports(&wasm).expect("it can be run");
    let needed = found.least_memory_bytes + wasmfleet::artifact::bounds::INSTANCE_BYTES;
    for (limit, status) in [(needed, 200), (needed - 1, 503)] {
        let (mut spec, _) = harness.spec(&wasm).await;
        spec.memory_limit_bytes = limit;
        let address = SocketAddr::new(spec.pod_ip, spec.http_ports[0]);
        let mut running = harness.start(spec).await.expect("it starts");
        running.started().await;
        let mut client = connect(address).await.expect("it listens");
        let answer = client.send_request(request(address, "/")).await.expect("it answers");
        assert_eq!(answer.status(), status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spinning_guests_do_not_starve_a_neighbour() {
    let harness = with_one_thread();
    let mut spinning = Vec::new();
    for _ in 0..4 {
        let (spec, _) = harness.spec(&text!("p1-spin.wat")).await;
        let mut running = harness.start(spec).await.expect("it starts");
        running.started().await;
        spinning.push(running);
    }
    let asked = Instant::now();
    let (exit, _) = harness.run(&text!("p1-hello.wat")).await;
    assert_eq!(exit.code, 0);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    for running in &mut spinning {
        assert!(running.container.usage().cpu_micros > 0, "each had its turn");
        running.container.stop(Duration::ZERO);
        assert_eq!(running.exit().await.code, 137);
    }
}

fn with_one_thread() -> Harness {
    let place = wasmfleet::engine::compile::CompilerPlace::InProcess;
    let clock = std::sync::Arc::new(jiff::Timestamp::now);
    let mut options = wasmfleet::runtime::Options::new(place, None, clock);
    options.worker_threads = 1;
    Harness::with(options)
}

/// Sockets and timers are looked at between the turns of busy guests, not after 61 of them.
#[tokio::test(flavor = "multi_thread")]
async fn busy_guests_do_not_keep_a_request_waiting() {
    let harness = with_one_thread();
    let (handler, address) = serve(&harness, built!("rust-http-p2.wasm")).await;
    let mut spinning = Vec::new();
    for _ in 0..2 {
        let (spec, _) = harness.spec(&text!("p1-spin.wat")).await;
        let mut running = harness.start(spec).await.expect("it starts");
        running.started().await;
        spinning.push(running);
    }
    let mut client = connect(address).await.expect("it listens");
    // The best of some, for this machine may be busy itself.
    let mut best = Duration::MAX;
    for _ in 0..10 {
        client.ready().await.expect("the connection is kept");
        let asked = Instant::now();
        let response = client.send_request(request(address, "/")).await.expect("answers");
        body(response).await.expect("whole");
        best = best.min(asked.elapsed());
    }
    assert!(best < Duration::from_millis(60), "the fastest of ten requests took {best:?}");
    handler.container.stop(Duration::ZERO);
}

/// A container gets the turns of one, however many instances it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_with_many_busy_instances_leaves_a_neighbour_its_share() {
    let harness = with_one_thread();
    let (many, address) = serve(&harness, &handler(u32::MAX, "")).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = connect(address).await.expect("it listens");
        clients.push(tokio::spawn(async move {
            let _ = client.send_request(request(address, "/")).await;
        }));
    }
    let (spec, _) = harness.spec(&text!("p1-spin.wat")).await;
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    let cpu_micros = || (running.container.usage().cpu_micros, many.container.usage().cpu_micros);
    let (one_before, many_before) = cpu_micros();
    // Shares of processor time are the measure.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (one, many) = cpu_micros();
    let (one, many) = (one - one_before, many - many_before);
    let share = one as f64 / (one + many) as f64;
    assert!(share > 0.3, "one of two containers had {share:.3} of what both used");
    for client in clients {
        client.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_limit_holds() {
    let harness = Harness::new();
    let (mut spec, _) = harness.spec(&text!("p1-spin.wat")).await;
    spec.cpu_limit_millicores = Some(100);
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    let started = Instant::now();
    // The measure of the limit is real time: nothing else would show that it holds.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let used = running.container.usage().cpu_micros as f64;
    let share = used / started.elapsed().as_micros() as f64;
    assert!(share < 0.25, "a guest limited to 0.1 cores used {share:.2}");
    assert!(share > 0.005, "and it runs at all: {share:.3}");
    let asked = Instant::now();
    running.container.stop(Duration::ZERO);
    assert_eq!(running.exit().await.code, 137);
    assert!(asked.elapsed() < Duration::from_secs(2), "held back, it is killed at once, too");
}
