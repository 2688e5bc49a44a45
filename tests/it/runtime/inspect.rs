//! Profiles and core dumps of real guests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use serde_json::Value;
use wasmfleet::runtime::CoreDumps;

use super::clients::{connect, handler, request};
use super::harness::{Harness, PATIENCE, wat};

/// The names of the functions on the stacks of a profile's samples. Checks the form on the way, as
/// the Firefox profiler reads it (processed-profile-format.md, version 55).
pub fn functions(profile: &[u8]) -> Vec<String> {
    let profile: Value = serde_json::from_slice(profile).expect("JSON");
    let meta = &profile["meta"];
    assert_eq!(meta["preprocessedProfileVersion"], 55);
    assert!(meta["interval"].as_f64().is_some_and(|millis| millis > 0.0), "{meta}");
    for list in ["categories", "markerSchema"] {
        assert!(meta[list].is_array(), "{meta}");
    }
    let [thread] = profile["threads"].as_array().expect("threads").as_slice() else {
        panic!("one thread: {}", profile["threads"]);
    };
    let numbers = |table: &str, column: &str| -> Vec<Option<usize>> {
        let (table, length) = (&thread[table], thread[table]["length"].as_u64());
        let column = table[column].as_array().expect("a column");
        assert_eq!(length, Some(column.len() as u64), "all columns of a table are as long");
        column.iter().map(|one| one.as_u64().map(|n| n as usize)).collect()
    };
    let strings = thread["stringArray"].as_array().expect("strings");
    let (stacks, prefixes) = (numbers("stackTable", "frame"), numbers("stackTable", "prefix"));
    let (functions, names) = (numbers("frameTable", "func"), numbers("funcTable", "name"));
    let mut found = Vec::new();
    for stack in numbers("samples", "stack") {
        let mut next = stack;
        while let Some(stack) = next {
            let function = functions[stacks[stack].expect("a frame")].expect("a function");
            let name = &strings[names[function].expect("a name")];
            found.push(name.as_str().expect("text").to_owned());
            next = prefixes[stack];
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_names_the_functions_that_ran() {
    let harness = Harness::new();
    let module = wat(r#"(module (memory (export "memory") 1)
        (func $hot (local $i i32)
          (loop $again
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $i) (i32.const 1000000)))))
        (func (export "_start") (loop $for_ever (call $hot) (br $for_ever))))"#);
    let (spec, _) = harness.spec(&module).await;
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    // A profile is of a time.
    let until = || tokio::time::sleep(Duration::from_millis(300)).boxed();
    let (first, second) =
        tokio::join!(running.container.profile(until()), running.container.profile(until()));
    let profile = match (first, second) {
        (Ok(profile), Err(error)) | (Err(error), Ok(profile)) => {
            assert!(error.to_string().contains("being made already"), "{error}");
            profile
        }
        other => panic!("one of two: {other:?}"),
    };
    let found = functions(&profile);
    let hot = found.iter().filter(|name| *name == "hot").count();
    assert!(hot > 10, "{hot} samples in: {found:?}");
    // It ends with its container.
    let endless = running.container.profile(futures::future::pending().boxed());
    let stop = async { running.container.stop(Duration::ZERO) };
    let (profile, ()) = tokio::join!(tokio::time::timeout(PATIENCE, endless), stop);
    functions(&profile.expect("in time").expect("what there is"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_of_a_handler_is_sampled() {
    let harness = Harness::new();
    let (handler, address) = super::clients::serve(&harness, &handler(u32::MAX, "")).await;
    let mut client = connect(address).await.expect("it listens");
    let asking = tokio::spawn(async move { client.send_request(request(address, "/")).await });
    let until = tokio::time::sleep(Duration::from_millis(400)).boxed();
    let profile = handler.container.profile(until).await.expect("a profile");
    let found = functions(&profile);
    assert!(found.iter().any(|name| name.contains("incoming-handler") || !name.is_empty()));
    assert!(found.len() > 10, "{found:?}");
    asking.abort();
}

#[derive(Default)]
struct Kept(Mutex<Vec<Vec<u8>>>);

impl CoreDumps for Kept {
    fn keep(&self, dump: Vec<u8>) {
        self.0.lock().expect("not poisoned").push(dump);
    }
}

/// The names of the custom sections of a module.
pub fn custom_sections(wasm: &[u8]) -> Vec<String> {
    let payloads = wasmparser::Parser::new(0).parse_all(wasm);
    let name = |payload| match payload {
        Ok(wasmparser::Payload::CustomSection(section)) => Some(section.name().to_owned()),
        Ok(_) => None,
        Err(error) => panic!("{error}"),
    };
    payloads.filter_map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_leaves_a_core_dump_where_one_is_wanted() {
    let harness = Harness::new();
    let module = wat(r#"(module (memory (export "memory") 1) (data (i32.const 8) "found me")
        (func $broken unreachable) (func (export "_start") (call $broken)))"#);
    let kept = Arc::new(Kept::default());
    let (mut spec, output) = harness.spec(&module).await;
    spec.core_dumps = Some(kept.clone());
    let exit = harness.start(spec).await.expect("it starts").exit().await;
    assert_eq!(exit.code, 134);
    let dumps = kept.0.lock().expect("not poisoned").clone();
    let [dump] = dumps.as_slice() else { panic!("{} dumps", dumps.len()) };
    assert!(output.stderr().contains(&format!("a core dump of {} bytes", dump.len())));
    let sections = custom_sections(dump);
    for wanted in ["core", "coremodules", "coreinstances", "corestack"] {
        assert!(sections.iter().any(|name| name == wanted), "{sections:?}");
    }
    assert!(dump.windows(8).any(|bytes| bytes == b"found me"), "its memory");

    // A handler's, too; nothing of a program that ends by itself.
    let kept = Arc::new(Kept::default());
    let (mut spec, _) = harness.spec(&handler(1, "unreachable")).await;
    spec.core_dumps = Some(kept.clone());
    let address = std::net::SocketAddr::new(spec.pod_ip, spec.http_ports[0]);
    let mut serving = harness.start(spec).await.expect("it starts");
    serving.started().await;
    let _ =
        super::clients::exchange(address, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            .await;
    let asked = std::time::Instant::now();
    while kept.0.lock().expect("not poisoned").is_empty() {
        assert!(asked.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    let ends =
        wat(r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 3))))"#);
    let kept = Arc::new(Kept::default());
    let (mut spec, _) = harness.spec(&ends).await;
    spec.core_dumps = Some(kept.clone());
    assert_eq!(harness.start(spec).await.expect("it starts").exit().await.code, 3);
    assert!(kept.0.lock().expect("not poisoned").is_empty());
}
