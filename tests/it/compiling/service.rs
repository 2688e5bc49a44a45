//! The service of a control plane: who waits, who goes first, what is kept.

use wasmfleet::engine::compile::CompileError;
use wasmfleet::engine::service::{Program, ServiceError};
use wasmfleet::engine::target::Target;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_share_one_compile() {
    let bench = Bench::new("", |_| {});
    let wasm = program(1);
    let path = bench.file("p.wasm", &wasm);
    bench.run();
    let ask = || {
        let (service, digest, path) = (bench.service.clone(), digest(&wasm), path.clone());
        async move { service.code(&digest, here(), Program::Kept(path), PATIENCE).await }
    };
    let all = futures::future::join_all((0..20).map(|_| ask())).await;
    let lengths: Vec<u64> = all.into_iter().map(|file| file.expect("code").code_bytes()).collect();
    assert!(lengths.iter().all(|length| *length == lengths[0] && *length > 0));
    ask().await.expect("kept");
    assert_eq!(bench.starts(), 1);
    assert_eq!(bench.service.stats().compiled, 1);

    // What is damaged is made again.
    let directory = bench.dir.path().join("code");
    let file = std::fs::read_dir(&directory).expect("reads").next().expect("one").expect("one");
    let mut content = std::fs::read(file.path()).expect("reads");
    content[100] ^= 1;
    std::fs::write(file.path(), content).expect("writes");
    ask().await.expect("made again");
    assert_eq!(bench.starts(), 2);
    // Another kind of machine is another compile.
    let older = Target::named(here().triple(), "v1").expect("a target");
    if older != here() {
        let program = Program::Kept(path.clone());
        bench.service.code(&digest(&wasm), older, program, PATIENCE).await.expect("code");
        assert_eq!(bench.starts(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_goes_before_what_was_pushed() {
    // Without the file `go` the compiler hangs.
    let hang = Bench::new("[ -e \"$(dirname \"$0\")/go\" ] || sleep 3600", |_| {});
    let (pushed, waited) = (program(1), program(2));
    let (pushed_path, waited_path) = (hang.file("1.wasm", &pushed), hang.file("2.wasm", &waited));
    hang.service.prefetch(&digest(&pushed), &pushed_path);
    assert_eq!(hang.service.stats().waiting, 0, "nobody asked for any machine yet");
    let first = program(3);
    let path = hang.file("3.wasm", &first);
    std::fs::write(hang.dir.path().join("go"), "").expect("writes");
    hang.run();
    let code = hang.service.code(&digest(&first), here(), Program::Kept(path), PATIENCE).await;
    code.expect("code");
    std::fs::remove_file(hang.dir.path().join("go")).expect("removes");

    hang.service.prefetch(&digest(&pushed), &pushed_path);
    hang.until("it is compiled ahead", |stats| stats.running == 1).await;
    while hang.starts() < 2 {
        tokio::task::yield_now().await;
    }
    std::fs::write(hang.dir.path().join("go"), "").expect("writes");
    let program = Program::Kept(waited_path);
    let code = hang.service.code(&digest(&waited), here(), program, PATIENCE).await;
    code.expect("code");
    assert_eq!(hang.service.stats().preempted, 1, "the child that worked ahead was killed");
    hang.until("what was pushed follows", |stats| stats.compiled == 3).await;
    let program = Program::Kept("/does/not/exist".into());
    let code = hang.service.code(&digest(&pushed), here(), program, PATIENCE).await;
    code.expect("compiled ahead: nothing was read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_takes_long_lets_others_by_and_comes_to_its_end() {
    // Without the file `go` the compiler hangs.
    let hang = Bench::new("[ -e \"$(dirname \"$0\")/go\" ] || sleep 3600", |options| {
        options.slice = Duration::from_millis(50);
    });
    hang.run();
    let ask = |number: u32| {
        let wasm = program(number);
        let path = hang.file(&format!("{number}.wasm"), &wasm);
        let service = hang.service.clone();
        async move { service.code(&digest(&wasm), here(), Program::Kept(path), PATIENCE).await }
    };
    let (long, small) = (tokio::spawn(ask(1)), tokio::spawn(ask(2)));
    hang.until("each has its slice", |stats| stats.preempted >= 2).await;
    std::fs::write(hang.dir.path().join("go"), "").expect("writes");
    small.await.expect("no panic").expect("code");
    long.await.expect("no panic").expect("code");
    assert_eq!(hang.service.stats().failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_bounded_and_verdicts_remembered() {
    let bench = Bench::new("", |options| options.max_urgent = 2);
    let wait = Duration::ZERO;
    let ask = |number: u32, target| {
        let wasm = program(number);
        let path = bench.file(&format!("{number}.wasm"), &wasm);
        let service = bench.service.clone();
        async move { service.code(&digest(&wasm), target, Program::Kept(path), wait).await.err() }
    };
    assert_eq!(ask(1, here()).await, Some(ServiceError::Pending));
    assert_eq!(ask(2, here()).await, Some(ServiceError::Pending));
    assert_eq!(ask(3, here()).await, Some(ServiceError::Busy));
    assert_eq!(ask(2, here()).await, Some(ServiceError::Pending), "it waits already");
    let other = match here().triple() {
        "aarch64-unknown-linux-gnu" => Target::named("x86_64-unknown-linux-gnu", "v1"),
        _ => Target::named("aarch64-unknown-linux-gnu", "v1"),
    };
    if cfg!(not(feature = "all-arch")) {
        let unable = ask(4, other.expect("a target")).await;
        assert!(matches!(unable, Some(ServiceError::Unable(text)) if text.contains("all-arch")));
    }
    bench.run();
    bench.until("all are compiled", |stats| stats.compiled == 2).await;
    let starts = bench.starts();
    let (bad, path) = (b"\0asm\x01\0\0\0\xff", bench.file("bad.wasm", b"\0asm\x01\0\0\0\xff"));
    for _ in 0..3 {
        let program = Program::Kept(path.clone());
        let code = bench.service.code(&digest(bad), here(), program, PATIENCE).await;
        assert!(matches!(code.err(), Some(ServiceError::Compile(CompileError::Invalid(_)))));
    }
    assert_eq!(bench.starts(), starts + 1, "what is wrong with it stays wrong");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(feature = "all-arch")]
async fn code_for_another_architecture_is_its_own() {
    let bench = Bench::new("", |_| {});
    bench.run();
    let wasm = program(1);
    let path = bench.file("p.wasm", &wasm);
    for triple in ["aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"] {
        let target = Target::named(triple, "v1").expect("a target");
        let program = Program::Kept(path.clone());
        let file = bench.service.code(&digest(&wasm), target, program, PATIENCE).await;
        let elf = std::fs::read(file.expect("code").path()).expect("reads");
        // e_machine of the ELF header.
        let machine = if triple.starts_with("aarch64") { 183 } else { 62 };
        assert_eq!(u16::from_le_bytes([elf[18], elf[19]]), machine);
    }
}
