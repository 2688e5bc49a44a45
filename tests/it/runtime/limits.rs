//! Bounds: memory, processor time, fairness between guests.

use std::time::{Duration, Instant};

use wasmfleet::runtime::ExitReason;

use super::harness::{Harness, text, wat};

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

#[tokio::test(flavor = "multi_thread")]
async fn spinning_guests_do_not_starve_a_neighbour() {
    let mut options = wasmfleet::runtime::Options::new(
        wasmfleet::engine::compile::CompilerPlace::InProcess,
        None,
        std::sync::Arc::new(jiff::Timestamp::now),
    );
    options.worker_threads = 1;
    let harness = Harness::with(options);
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
