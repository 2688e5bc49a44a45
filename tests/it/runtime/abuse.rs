//! Guests that take what they can: each is refused or ended with a reason, at its own cost. What a
//! whole node makes of them is in `e2e/abuse.rs`.

use std::time::{Duration, Instant};

use wasmfleet::runtime::{ExitReason, PrepareError};

use super::clients::{exchange, serve};
use super::harness::{Harness, PATIENCE, http_component, text, wat, world};

const WASI: &str = "wasi_snapshot_preview1";

/// What becomes of a module whose `_start` has this body.
async fn ends(harness: &Harness, parts: &str, body: &str) -> (i32, ExitReason, String) {
    let module = wat(&format!("(module {parts} (func (export \"_start\") {body}))"));
    let (spec, _) = harness.spec(&module).await;
    let mut running = harness.start(spec).await.expect("it starts");
    let exit = running.exit().await;
    assert_eq!(running.container.usage().memory_bytes, 0, "its memory is given back");
    (exit.code, exit.reason, exit.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_memories_have_an_end() {
    let harness = Harness::new();
    // A refused growth is -1 to the program, as the specification has it; nothing else happens.
    let huge = "(table $t 1 funcref) (memory (export \"memory\") 1)";
    for wanted in ["0x7fffffff", "0xffffffff", "0x00200000"] {
        let body = format!(
            "(if (i32.ne (table.grow $t (ref.null func) (i32.const {wanted})) (i32.const -1)) \
             (then unreachable))"
        );
        let (code, reason, message) = ends(&harness, huge, &body).await;
        assert_eq!((code, reason), (0, ExitReason::Completed), "{wanted}: {message}");
    }
    // Sixteen memories are the most of a store: of one module, which is refused, and of the modules of
    // a component.
    let module = format!("(module {} (func (export \"_start\")))", "(memory 1)".repeat(17));
    match harness.prepare(&wat(&module)).await {
        Err(PrepareError::InvalidModule(why)) => assert!(why.contains("17 memories"), "{why}"),
        other => panic!("{:?}", other.err()),
    }
    let component = format!(
        r#"(component
          (core module $m {} (func (export "run") (result i32) i32.const 0))
          (core instance (instantiate $m)) (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $r (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $r)))"#,
        "(memory 1)".repeat(9)
    );
    let (spec, _) = harness.spec(&wat(&component)).await;
    let exit = harness.start(spec).await.expect("it starts").exit().await;
    assert_eq!((exit.code, exit.reason), (134, ExitReason::Error));
    assert!(exit.message.contains("memory"), "{exit:?}");
    // All of them count against one limit.
    let parts = "(memory (export \"memory\") 1) (memory $b 1) (memory $c 1)";
    let body = "(loop $more
        (drop (memory.grow $b (i32.const 64))) (drop (memory.grow $c (i32.const 64))) (br $more))";
    let (code, reason, _) = ends(&harness, parts, body).await;
    assert_eq!((code, reason), (137, ExitReason::OomKilled));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_beyond_the_address_space_is_refused() {
    let harness = Harness::new();
    for text in [
        "(module (table i64 0x8000000000000000 funcref) (func (export \"_start\")))",
        "(module (table 0xffffffff funcref) (memory (export \"memory\") 1)
            (func (export \"_start\")))",
    ] {
        let Ok(module) = wat::parse_str(text) else { continue };
        match harness.prepare(&module).await {
            Err(PrepareError::InvalidModule(why)) => assert!(!why.is_empty()),
            Err(other) => panic!("{other}"),
            Ok(_) => {
                let (spec, _) = harness.spec(&module).await;
                let exit = harness.start(spec).await.expect("it starts").exit().await;
                assert_ne!(exit.code, 0, "{exit:?}");
            }
        }
    }
}

/// Threads are switched off, whatever a program says it needs.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_switched_off_is_refused_at_load() {
    let harness = Harness::new();
    for text in [
        "(module (memory 1 2 shared) (func (export \"_start\")))",
        "(module (import \"wasi\" \"thread-spawn\" (func (param i32) (result i32)))
            (memory (export \"memory\") 1) (func (export \"_start\")))",
    ] {
        match harness.prepare(&wat(text)).await {
            Err(PrepareError::InvalidModule(why)) => assert!(!why.is_empty()),
            other => panic!("{text}: {:?}", other.err()),
        }
    }
}

/// The arguments that a program passes may be anything.
#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_make_no_sense_are_errors() {
    let harness = Harness::new();
    let imports = format!(
        "(import \"{WASI}\" \"random_get\" (func $random (param i32 i32) (result i32)))
         (import \"{WASI}\" \"fd_write\" (func $write (param i32 i32 i32 i32) (result i32)))
         (import \"{WASI}\" \"path_open\" (func $open
            (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
         (memory (export \"memory\") 1) (data (i32.const 64) \"\\ff\\fe\\80\")"
    );
    let errors = [
        // More random bytes than there is memory, and at its very end.
        "(call $random (i32.const 0) (i32.const 0x7fffffff))",
        "(call $random (i32.const 65535) (i32.const 2))",
        // Lists of buffers that are nowhere, or endless.
        "(call $write (i32.const 1) (i32.const 65530) (i32.const 9) (i32.const 0))",
        "(call $write (i32.const 1) (i32.const 0) (i32.const 0x0fffffff) (i32.const 0))",
        // A name that is no UTF-8, of a directory that is none.
        "(call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 3) (i32.const 0)
            (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 16))",
    ];
    for call in errors {
        // An error code is as good as a trap; success is not.
        let body = format!("(if (i32.eqz {call}) (then (loop $for_ever (br $for_ever))))");
        let module = wat(&format!("(module {imports} (func (export \"_start\") {body}))"));
        let (spec, _) = harness.spec(&module).await;
        let mut running = harness.start(spec).await.expect("it starts");
        let exit = running.exit().await;
        assert!(matches!(exit.code, 0 | 134 | 137), "{call}: {exit:?}");
        assert!(!exit.message.contains("host function failed"), "a panic: {exit:?}");
    }
    // Empty and overlapping buffers are fine.
    let fine = "(i32.store (i32.const 0) (i32.const 128)) (i32.store (i32.const 4) (i32.const 0))
        (i32.store (i32.const 8) (i32.const 0)) (i32.store (i32.const 12) (i32.const 16))
        (if (call $write (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 8))
            (then unreachable))";
    let (code, _, message) = ends(&harness, &imports, fine).await;
    assert_eq!(code, 0, "{message}");
}

/// A handler that makes fields without end, or fields without measure, in the text guests' world.
fn greedy(setup: &str, body: &str) -> Vec<u8> {
    let template = r#"(module
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-response" (func $response (param i32) (result i32)))
  (memory (export "memory") 1)
  SETUP
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $req i32) (param $out i32)
    BODY))"#;
    http_component(&template.replace("SETUP", setup).replace("BODY", body))
}

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_holds_so_many_resources_and_no_more() {
    let harness = Harness::new();
    let wasm = greedy("", "(loop $more (drop (call $fields)) (br $more))");
    let (endless, address) = serve(&harness, &wasm).await;
    let (fine, other) = serve(&harness, super::harness::built!("rust-http-p2.wasm")).await;
    let begun = Instant::now();
    for _ in 0..50 {
        let answer = exchange(address, REQUEST).await;
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    }
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(endless.container.usage().failed_requests, 50);
    // All of it is given back.
    while endless.container.usage().memory_bytes > 0 {
        assert!(begun.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    assert!(exchange(other, REQUEST).await.contains("hello"));
    drop((endless, fine));
}

/// A command that hands something to the host.
fn hands_over(body: &str) -> Vec<u8> {
    let template = r#"(module
  (import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[static]fields.from-list" (func $list (param i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]fields.append"
    (func $append (param i32 i32 i32 i32 i32 i32)))
  (memory (export "memory") 300)
  (data (i32.const 16) "x")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (func (export "wasi:cli/run@0.2.0#run") (result i32) (local $f i32) (local $i i32)
    BODY))"#;
    world(include_str!("../guests/fields.wit"), "p2", &template.replace("BODY", body))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_to_the_host_has_a_measure() {
    let harness = Harness::new();
    // A TiB of random bytes; a million fields in one list.
    for body in [
        "(call $random (i64.const 0x10000000000) (i32.const 64)) (i32.const 0)",
        "(call $list (i32.const 1024) (i32.const 1000000) (i32.const 19000000)) (i32.const 1)",
    ] {
        let begun = Instant::now();
        let (exit, _) = harness.run(&hands_over(body)).await;
        assert_ne!(exit.code, 0, "{body}: {exit:?}");
        assert!(!exit.message.contains("host function failed"), "a panic: {exit:?}");
        assert!(begun.elapsed() < PATIENCE);
    }
    // Fields of a KiB each, until they are refused: long before two thousand.
    let body = "(memory.fill (i32.const 65536) (i32.const 97) (i32.const 1024))
        (local.set $f (call $fields))
        (loop $more
          (call $append (local.get $f) (i32.const 16) (i32.const 1) (i32.const 65536)
            (i32.const 1024) (i32.const 64))
          (if (i32.load8_u (i32.const 64)) (then (return (i32.const 1))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $i) (i32.const 2000))))
        (i32.const 0)";
    let (exit, _) = harness.run(&hands_over(body)).await;
    assert_ne!(exit.code, 0, "two MiB of fields were taken: {exit:?}");
    assert!(!exit.message.contains("host function failed"), "a panic: {exit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guest_is_gone_at_once_and_leaves_nothing() {
    let harness = Harness::new();
    // Two threads' worth of guests that never call the host, four times over.
    let mut spinning = Vec::new();
    for _ in 0..8 {
        let (spec, _) = harness.spec(&text!("p1-spin.wat")).await;
        let mut running = harness.start(spec).await.expect("it starts");
        running.started().await;
        spinning.push(running);
    }
    let asked = Instant::now();
    for running in &spinning {
        running.container.stop(Duration::ZERO);
    }
    for running in &mut spinning {
        assert_eq!(running.exit().await.code, 137);
        assert_eq!(running.container.usage().memory_bytes, 0);
    }
    // The aim is 10 ms each; a machine full of other tests gets more.
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

/// A tenth of a core is a tenth of a core, beside neighbours that take all they get and request
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_a_core_is_kept_beside_busy_neighbours() {
    let harness = Harness::new();
    let mut neighbours = Vec::new();
    for _ in 0..30 {
        let (spec, _) = harness.spec(&text!("p1-spin.wat")).await;
        let mut running = harness.start(spec).await.expect("it starts");
        running.started().await;
        neighbours.push(running);
    }
    let (mut spec, _) = harness.spec(&text!("p1-spin.wat")).await;
    spec.cpu_limit_millicores = Some(100);
    spec.cpu_request_millicores = Some(100);
    let mut limited = harness.start(spec).await.expect("it starts");
    limited.started().await;
    // Shares of time are what is measured; the best of some windows, for the machine may be busy.
    let mut nearest = f64::MAX;
    for _ in 0..6 {
        let (began, before) = (Instant::now(), limited.container.usage().cpu_micros);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let used = (limited.container.usage().cpu_micros - before) as f64;
        let share = used / began.elapsed().as_micros() as f64;
        if (share - 0.1).abs() < (nearest - 0.1).abs() {
            nearest = share;
        }
        if (nearest - 0.1).abs() <= 0.02 {
            break;
        }
    }
    assert!((0.08..=0.12).contains(&nearest), "a guest limited to 0.1 cores used {nearest:.3}");
}
