//! Processes: exit codes, arguments, environment, files, traps, kills.

use std::time::{Duration, Instant};

use wasmfleet::runtime::{ExitReason, Mount, PrepareError};

use super::harness::{Harness, built, text, wat};

#[tokio::test(flavor = "multi_thread")]
async fn every_exit_code_of_a_module_survives() {
    let harness = Harness::new();
    let (exit, _) = harness.run(&text!("p1-exit7.wat")).await;
    assert_eq!((exit.code, exit.reason), (7, ExitReason::Error));
    assert!(exit.started_at <= exit.finished_at);
    for code in [0, 1, 125, 126, 137, 255] {
        let module = wat(&format!(
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                 (memory (export "memory") 1)
                 (func (export "_start") (call $exit (i32.const {code}))))"#
        ));
        assert_eq!(harness.run(&module).await.0.code, code);
    }
    let (exit, output) = harness.run(&text!("p1-hello.wat")).await;
    assert_eq!((exit.code, exit.reason), (0, ExitReason::Completed));
    assert_eq!(output.stdout(), "hello from wat\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_each_generation_get_arguments_and_environment() {
    let harness = Harness::new();
    for wasm in [
        built!("rust-cmd-p1.wasm"),
        built!("rust-cmd-p2.wasm"),
        built!("rust-cmd-std-p2.wasm"),
        built!("rust-cmd-p3.wasm"),
    ] {
        let (exit, output) = harness.run_with(wasm, &["one", "two words"], &[]).await;
        assert_eq!(exit.code, 0, "{output} {exit:?}");
        assert!(output.contains("arg[0]=guest\narg[1]=one\narg[2]=two words\n"), "{output}");
        assert!(output.contains("env COLOR=blue\n"), "{output}");
    }
    for wasm in [built!("rust-cmd-p1.wasm"), built!("rust-cmd-p2.wasm")] {
        assert_eq!(harness.run_with(wasm, &["exit=42"], &[]).await.0.code, 42);
    }
    assert_eq!(harness.run_with(built!("rust-cmd-p2.wasm"), &["fail"], &[]).await.0.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_seen_and_read_only_is_held() {
    let harness = Harness::new();
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("greeting"), "from the host\n").expect("writes");
    let mount = |read_only| Mount {
        host_path: directory.path().to_owned(),
        sub_path: "".into(),
        guest_path: "/data".to_owned(),
        read_only,
    };
    for wasm in [built!("rust-cmd-p1.wasm"), built!("rust-cmd-std-p2.wasm")] {
        let (exit, output) = harness.run_with(wasm, &["cat=/data/greeting"], &[mount(true)]).await;
        assert_eq!(exit.code, 0, "{output}");
        assert!(output.contains("from the host\n"), "{output}");
        let (exit, _) = harness.run_with(wasm, &["write=/data/new"], &[mount(true)]).await;
        assert_ne!(exit.code, 0, "a read-only mount was written");
        assert!(!directory.path().join("new").exists());
        let (exit, output) = harness.run_with(wasm, &["write=/data/new"], &[mount(false)]).await;
        assert_eq!(exit.code, 0, "{output}");
        std::fs::remove_file(directory.path().join("new")).expect("it was written");
        let (exit, _) =
            harness.run_with(wasm, &["cat=/data/../../etc/passwd"], &[mount(true)]).await;
        assert_ne!(exit.code, 0, "a path escaped its mount");
    }
    let (mut spec, _) = harness.spec(built!("rust-cmd-p1.wasm")).await;
    spec.mounts = vec![Mount { host_path: "/nonexistent/x".into(), ..mount(true) }];
    let error = harness.start(spec).await.err().expect("no such directory");
    assert!(error.to_string().contains("cannot mount /data"), "{error}");
}

/// Two containers of a pod share a volume: one mounts all of it and puts a link in the place of the
/// directory that the other mounts by its subPath.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_made_by_a_guest_does_not_open_the_host() {
    let harness = Harness::new();
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(directory.path().join("d")).expect("made");
    let mount = |sub_path: &str, guest_path: &str| Mount {
        host_path: directory.path().to_owned(),
        sub_path: sub_path.into(),
        guest_path: guest_path.to_owned(),
        read_only: false,
    };
    let attack = wat(r#"(module
        (import "wasi_snapshot_preview1" "path_remove_directory"
          (func $remove (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_symlink"
          (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "d../../../../../../../..")
        (func (export "_start")
          (if (call $remove (i32.const 3) (i32.const 0) (i32.const 1)) (then unreachable))
          (if (call $symlink (i32.const 1) (i32.const 23) (i32.const 3) (i32.const 0) (i32.const 1))
            (then unreachable))))"#);
    let (exit, output) = harness.run_with(&attack, &[], &[mount("", "/data")]).await;
    assert_eq!(exit.code, 0, "the link is made: {output}");
    assert!(directory.path().join("d").is_symlink());
    let (mut spec, _) = harness.spec(built!("rust-cmd-p1.wasm")).await;
    spec.args.push("cat=/d/etc/passwd".to_owned());
    spec.mounts = vec![mount("d", "/d")];
    let error = harness.start(spec).await.err().expect("it leads out of the volume");
    assert!(error.to_string().contains("cannot mount /d"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_reported_with_its_frames() {
    let harness = Harness::new();
    let module = wat(r#"(module (memory (export "memory") 1)
        (func $broken unreachable) (func (export "_start") (call $broken)))"#);
    let (exit, output) = harness.run(&module).await;
    assert_eq!((exit.code, exit.reason), (134, ExitReason::Error));
    assert!(exit.message.contains("unreachable"), "{}", exit.message);
    assert!(exit.message.contains("broken"), "{}", exit.message);
    assert!(output.stderr().contains("unreachable"), "the trap is in the log");
    let recursive = wat(r#"(module (memory (export "memory") 1)
        (func $deep (call $deep)) (func (export "_start") (call $deep)))"#);
    let (exit, _) = harness.run(&recursive).await;
    assert_eq!(exit.code, 134);
    assert!(exit.message.contains("stack"), "{}", exit.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn sleeping_and_spinning_guests_are_killed_at_once() {
    let harness = Harness::new();
    for wasm in [text!("p1-sleep.wat"), text!("p1-spin.wat")] {
        let (spec, _) = harness.spec(&wasm).await;
        let mut running = harness.start(spec).await.expect("it starts");
        running.started().await;
        let asked = Instant::now();
        running.container.stop(Duration::from_secs(30));
        let exit = running.exit().await;
        assert_eq!((exit.code, exit.reason), (137, ExitReason::Error));
        // The aim is 10 ms; a machine full of other tests gets more.
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        assert!(running.events.recv().await.is_none(), "nothing comes after the exit");
    }
    // Dropping the handle kills as well.
    let (spec, _) = harness.spec(&text!("p1-spin.wat")).await;
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    drop(std::mem::replace(&mut running.container, Box::new(Gone)));
    assert_eq!(running.exit().await.code, 137);
}

struct Gone;
impl wasmfleet::runtime::Container for Gone {
    fn stop(&self, _: Duration) {}
    fn usage(&self) -> wasmfleet::runtime::Usage {
        wasmfleet::runtime::Usage::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_refused_with_its_name() {
    let harness = Harness::new();
    let refused = |wasm: Vec<u8>| {
        let runtime = &harness;
        async move {
            match runtime.prepare(&wasm).await {
                Err(PrepareError::InvalidModule(message)) => message,
                other => panic!("{:?}", other.map(|_| ())),
            }
        }
    };
    assert!(refused(b"#!/bin/sh".to_vec()).await.contains("not a WebAssembly"));
    let missing = wat(r#"(module (import "env" "spell" (func)) (func (export "_start")))"#);
    assert!(refused(missing.clone()).await.contains("env::spell"));
    assert!(refused(missing).await.contains("env::spell"), "also the second time");
    let cut = built!("rust-cmd-p2.wasm");
    assert!(refused(cut[..cut.len() / 2].to_vec()).await.contains("not valid"));
    // An interface of ours, but a function that our version of it lacks.
    let newer = wat(r#"(component (import "wasi:random/random@0.2.99" (instance
             (export "get-lucky" (func (result u64)))))
           (instance $run) (export "wasi:cli/run@0.2.0" (instance $run)))"#);
    assert!(refused(newer).await.contains("get-lucky"));
}
