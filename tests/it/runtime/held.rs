//! What the host holds for a guest beside its memory counts against the container's limit.

use std::time::{Duration, Instant};

use wasmfleet::runtime::ExitReason;

use super::harness::{Harness, PATIENCE, world};

const WIT: &str = include_str!("../guests/held.wit");
const GENERATIONS: [&str; 2] = ["0.2.0", "0.3.0"];

fn component(kind: &str, version: &str, core: &str) -> Vec<u8> {
    let generation = if version == "0.2.0" { "p2" } else { "p3" };
    world(WIT, &format!("{kind}-{generation}"), &core.replace("VERSION", version))
}

/// A command that has fields of 60,000 bytes made: `$make`, `$drop` and `$clone` are there for its body.
fn fields(version: &str, body: &str) -> Vec<u8> {
    let core = r#"(module
  (import "wasi:http/types@VERSION" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@VERSION" "[method]fields.append" (func $append (param i32 i32 i32 i32 i32 i32)))
  (import "wasi:http/types@VERSION" "[method]fields.clone" (func $clone (param i32) (result i32)))
  (import "wasi:http/types@VERSION" "[resource-drop]fields" (func $drop (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "x")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (func $make (result i32) (local $f i32)
    (local.set $f (call $fields))
    (call $append (local.get $f) (i32.const 16) (i32.const 1) (i32.const 65536) (i32.const 60000) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then unreachable))
    (local.get $f))
  (func (export "wasi:cli/run@VERSION#run") (result i32) (local $i i32) (local $f i32)
    (memory.fill (i32.const 65536) (i32.const 97) (i32.const 60000))
    BODY
    (i32.const 0)))"#;
    component("fields", version, &core.replace("BODY", body))
}

const LIMIT_BYTES: u64 = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_a_guest_keeps_count_against_its_limit() {
    let harness = Harness::new();
    let bodies = [
        "(loop $more (drop (call $make)) (br $more))",
        "(local.set $f (call $make)) (loop $more (drop (call $clone (local.get $f))) (br $more))",
    ];
    for version in GENERATIONS {
        for body in bodies {
            let (mut spec, output) = harness.spec(&fields(version, body)).await;
            spec.memory_limit_bytes = LIMIT_BYTES;
            let mut running = harness.start(spec).await.expect("it starts");
            let exit = running.exit().await;
            assert_eq!(
                (exit.code, exit.reason),
                (137, ExitReason::OomKilled),
                "{version}: {exit:?}"
            );
            assert!(exit.message.contains("out of memory"), "{exit:?} {}", output.stderr());
            assert_eq!(running.container.usage().memory_bytes, 0, "all is given back");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_a_guest_drops_do_not() {
    let harness = Harness::new();
    let body = "(loop $more
        (call $drop (call $make))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $i) (i32.const 3000))))";
    for version in GENERATIONS {
        let (mut spec, _) = harness.spec(&fields(version, body)).await;
        spec.memory_limit_bytes = LIMIT_BYTES;
        let exit = harness.start(spec).await.expect("it starts").exit().await;
        assert_eq!(exit.code, 0, "{version}: {exit:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_seen() {
    let harness = Harness::new();
    let body = "(loop $more
        (drop (call $make))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $more (i32.lt_u (local.get $i) (i32.const 60))))
        (loop $for_ever (br $for_ever))";
    let (mut spec, _) = harness.spec(&fields("0.2.0", body)).await;
    spec.memory_limit_bytes = LIMIT_BYTES;
    let mut running = harness.start(spec).await.expect("it starts");
    let began = Instant::now();
    // Sixty times 60,000 bytes, and two pages of its own.
    while running.container.usage().memory_bytes < 60 * 60_000 + (128 << 10) {
        assert!(began.elapsed() < PATIENCE, "{:?}", running.container.usage());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(running.container.usage().memory_bytes < 6 << 20);
    running.container.stop(Duration::ZERO);
    running.exit().await;
    assert_eq!(running.container.usage().memory_bytes, 0);
}
