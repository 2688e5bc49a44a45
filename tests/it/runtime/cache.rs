//! Compiled code: made once, kept on disk, never trusted when it changed, made in a child.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmfleet::engine::compile::{self, CompilerPlace, child};
use wasmfleet::runtime::{Options, PrepareError, Runtime};

use super::harness::{Harness, built, digest, text};

fn options(place: CompilerPlace, cache: &Path) -> Options {
    Options::new(place, Some(cache.to_owned()), Arc::new(jiff::Timestamp::now))
}

#[tokio::test(flavor = "multi_thread")]
async fn code_comes_from_disk_and_changed_code_is_compiled_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = || Harness::with(options(CompilerPlace::InProcess, directory.path()));
    let wasm = text!("p1-exit7.wat");
    assert_eq!(open().run(&wasm).await.0.code, 7);

    let harness = open();
    let prepared = harness.runtime.prepared(&digest(&wasm)).await;
    assert!(prepared.is_some(), "known without its bytes");
    assert!(harness.runtime.prepared(&digest(b"another")).await.is_none());

    let file = std::fs::read_dir(directory.path()).expect("the cache").next();
    let path = file.expect("one file").expect("an entry").path();
    let good = std::fs::read(&path).expect("the code");
    let mut bad = good.clone();
    *bad.last_mut().expect("not empty") ^= 0x80;
    std::fs::write(&path, &bad).expect("writes");
    let harness = open();
    assert!(harness.runtime.prepared(&digest(&wasm)).await.is_none(), "changed code is no code");
    assert_eq!(harness.run(&wasm).await.0.code, 7);
    assert_eq!(std::fs::read(&path).expect("the code"), good, "it was compiled again");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_prepares_share_one_code() {
    let harness = Harness::new();
    let wasm = built!("rust-cmd-p2.wasm");
    let all = futures::future::join_all((0..8).map(|_| harness.prepare(wasm))).await;
    let all: Vec<_> = all.into_iter().map(|code| code.expect("compiles")).collect();
    assert!(all.iter().all(|code| Arc::ptr_eq(code, &all[0])), "each made its own");
    let wrong = harness.runtime.prepare(&digest(b"other"), wasm.into()).await;
    assert!(matches!(wrong, Err(PrepareError::Internal(_))), "bytes of another digest");
}

/// Not a test of its own: the program that the tests below start as the compiler. Run without
/// the compiler's streams it does nothing.
#[test]
fn compiler_child() {
    let Ok(mut output) = std::fs::OpenOptions::new().write(true).open("/dev/fd/3") else { return };
    if std::env::args().any(|arg| arg == "--nocapture") {
        let code = child::run(&mut std::io::stdin().lock(), &mut output);
        std::process::exit(code);
    }
}

/// A script that starts this test program as the compiler.
fn compiler(directory: &Path, command: &str) -> CompilerPlace {
    let path = directory.join("compiler");
    let mut file = std::fs::File::create(&path).expect("a file");
    writeln!(file, "#!/bin/sh\n{command}").expect("writes");
    drop(file);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    CompilerPlace::ChildProcess(path)
}

fn this_program(directory: &Path) -> CompilerPlace {
    let program = std::env::current_exe().expect("this program");
    let test = "runtime::cache::compiler_child";
    let command =
        format!("exec '{}' --exact {test} --nocapture 3>&1 1>/dev/null", program.display());
    compiler(directory, &command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_process_compiles() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = directory.path().join("cache");
    let harness = Harness::with(options(this_program(directory.path()), &cache));
    let (exit, _) = harness.run_with(built!("rust-cmd-p2.wasm"), &["exit=3"], &[]).await;
    assert_eq!(exit.code, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_beyond_its_limits_is_ended() {
    let directory = tempfile::tempdir().expect("a directory");
    let compile = async |place, change: &dyn Fn(&mut compile::Options)| {
        let mut options = compile::Options::new(place);
        change(&mut options);
        let wasm = built!("rust-cmd-std-p2.wasm");
        compile::Compiler::new(options).compile(wasm.into()).await.map(|code| code.len())
    };
    let limit = |result| matches!(result, Err(compile::CompileError::Limit(_)));
    let memory = |options: &mut compile::Options| options.memory_limit_bytes = 4 << 20;
    let result = compile(this_program(directory.path()), &memory).await;
    assert!(result.is_err(), "4 MiB beyond what it begins with are too few");
    let asked = Instant::now();
    let wall = |options: &mut compile::Options| options.wall_limit = Duration::from_millis(200);
    let hangs = compiler(directory.path(), "exec sleep 3600");
    assert!(limit(compile(hangs, &wall).await));
    assert!(asked.elapsed() < Duration::from_secs(30), "it was killed");
    let crashes = compiler(directory.path(), "kill -9 $$");
    assert!(limit(compile(crashes, &|_| {}).await));
    let fails = compiler(directory.path(), "echo bad >&2; exit 65");
    let invalid = compile(fails, &|_| {}).await;
    assert!(matches!(invalid, Err(compile::CompileError::Invalid(text)) if text == "bad"));
}
