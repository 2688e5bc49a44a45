//! Programs that are made to cost a compiler more than they are worth. Each ends within the limits,
//! with a reason, and harms nobody but its own compiler.

use std::time::Instant;

use wasmfleet::engine::compile::{CompileError, Compiler};

use super::*;
use crate::cluster::WASMCTL;

const MEMORY_BYTES: u64 = 512 << 20;
const CPU_SECONDS: u64 = 3;
/// The wall limit, and what a busy machine takes to kill and to reap.
const ENDED: Duration = Duration::from_secs(60);

fn leb(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        out.push(if value == 0 { byte } else { byte | 0x80 });
        if value == 0 {
            return;
        }
    }
}

/// A section of a module.
fn section(id: u8, count: usize, items: &[u8]) -> Vec<u8> {
    let mut number = Vec::new();
    leb(count, &mut number);
    let mut out = vec![id];
    leb(number.len() + items.len(), &mut out);
    [out, number, items.to_vec()].concat()
}

fn module(sections: &[Vec<u8>]) -> Vec<u8> {
    [b"\0asm\x01\0\0\0".to_vec(), sections.concat()].concat()
}

/// A function's body around instructions, with locals of type i64.
fn body(locals: usize, code: &[u8]) -> Vec<u8> {
    let mut inner = Vec::new();
    leb(1, &mut inner);
    leb(locals, &mut inner);
    inner.push(0x7e);
    inner.extend_from_slice(code);
    inner.push(0x0b);
    let mut out = Vec::new();
    leb(inner.len(), &mut out);
    out.extend(inner);
    out
}

/// Types: one without parameters and results.
fn types() -> Vec<u8> {
    section(1, 1, &[0x60, 0, 0])
}

/// The section that exports function 0 as what runs.
fn start() -> Vec<u8> {
    section(7, 1, &[&[6][..], b"_start", &[0, 0]].concat())
}

fn functions(count: usize, body: &[u8]) -> Vec<u8> {
    let bodies = section(10, count, &body.repeat(count));
    module(&[types(), section(3, count, &vec![0; count]), start(), bodies])
}

/// 50 MB of functions.
fn many_functions() -> Vec<u8> {
    let arithmetic = [0x20, 0, 0x42, 1, 0x7c, 0x21, 0].repeat(70);
    functions(100_000, &body(1, &arithmetic))
}

/// A command that runs, with this many functions: what passes every check but the compiler's bounds.
pub fn large_command(count: usize) -> Vec<u8> {
    functions(count, &body(1, &[0x20, 0, 0x42, 1, 0x7c, 0x21, 0].repeat(200)))
}

fn many_imports() -> Vec<u8> {
    let one = [1, b'm', 1, b'f', 0, 0];
    module(&[types(), section(2, 1_000_000, &one.repeat(1_000_000)), start()])
}

/// Blocks in blocks, a million deep.
fn deep_blocks() -> Vec<u8> {
    let deep = 1_000_000;
    functions(1, &body(0, &[[2, 0x40].repeat(deep), vec![0x0b; deep]].concat()))
}

/// Types of components in types of components, in a component that says that it is a command.
pub fn deep_types(deep: usize) -> Vec<u8> {
    let types = [[0x41, 1, 1].repeat(deep - 1), vec![0x41, 0]].concat();
    let name = b"wasi:cli/run@0.2.6";
    let mut export = vec![0];
    leb(name.len(), &mut export);
    export.extend(name);
    // Instance 0, which has nothing in it, without a type.
    export.extend([5, 0, 0]);
    let header = b"\0asm\x0d\0\x01\0".to_vec();
    [header, section(7, 1, &types), section(5, 1, &[1, 0]), section(11, 1, &export)].concat()
}

/// Many values that all live across many branches: what costs a register allocator most.
fn long_lives() -> Vec<u8> {
    let (locals, rounds) = (6_000, 40_000);
    let mut code = Vec::new();
    for round in 0..rounds {
        let local = round * 7919 % locals;
        // if (local == 0) { local = local + another } around a loop's head
        code.extend([0x03, 0x40, 0x20]);
        leb(local, &mut code);
        code.extend([0x50, 0x04, 0x40, 0x20]);
        leb((local + 1) % locals, &mut code);
        code.push(0x20);
        leb(local, &mut code);
        code.extend([0x7c, 0x21]);
        leb(local, &mut code);
        code.extend([0x0c, 1, 0x0b, 0x0b]);
    }
    functions(1, &body(locals, &code))
}

/// `wasmctl` reads in a process of its own, too.
#[test]
fn a_program_that_is_too_deep_is_told_by_wasmctl() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("deep.wasm");
    let inspect = || {
        let output = std::process::Command::new(WASMCTL).arg("inspect").arg(&file).output();
        let output = output.expect("wasmctl runs");
        let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into());
        (output.status.code(), told)
    };
    std::fs::write(&file, deep_types(200_000)).expect("written");
    let (code, [_, told]): (_, [String; 2]) = inspect();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("deep.wasm") && told.contains("the stack"), "{told}");
    std::fs::write(&file, large_command(10)).expect("written");
    let (code, [found, told]) = inspect();
    assert_eq!(code, Some(0), "{told}");
    assert!(found.contains("_start"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn module_bombs_end_at_the_limits() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut options = compile::Options::new(compiler(dir.path(), ""));
    options.memory_limit_bytes = MEMORY_BYTES;
    options.cpu_limit_seconds = CPU_SECONDS;
    options.wall_limit = Duration::from_secs(30);
    let limited = Compiler::new(options);
    type Bomb = (&'static str, fn() -> Vec<u8>, bool);
    let bombs: [Bomb; 5] = [
        ("50 MB of functions", many_functions, true),
        ("a million imports", many_imports, false),
        ("a million blocks in one another", deep_blocks, false),
        ("20,000 types in one another", || deep_types(20_000), true),
        ("lives that cross each other", long_lives, true),
    ];
    for (name, make, must_exceed) in bombs {
        let wasm = bytes::Bytes::from(make());
        let began = Instant::now();
        let result = limited.compile_for(wasm, Some(here())).await;
        let took = began.elapsed();
        eprintln!("{name}: {took:?}, {:?}", result.as_ref().map(Vec::len));
        assert!(took < ENDED, "{name} took {took:?}");
        match result {
            Err(CompileError::Limit(text)) => {
                assert!(text.contains("compiling"), "{name}: {text}");
            }
            // Refused for what it is, or cheaper than it looks.
            Err(CompileError::Invalid(_)) | Ok(_) if !must_exceed => {}
            other => panic!("{name}: {:?}", other.map(|code| code.len())),
        }
    }
    // Reading alone is enough for some, so that this happens in a child, too.
    let deep = limited.check(deep_types(200_000).into()).await.expect_err("it is too deep");
    assert!(matches!(&deep, CompileError::Limit(text) if text.contains("the stack")), "{deep}");
    let found = limited.check(program(0).into()).await.expect("it can run");
    assert_eq!(found.entry, "_start");
    // A check costs little, and has its own bound: what is too much to compile is still checked.
    let mut options = compile::Options::new(compiler(dir.path(), ""));
    options.limit_cpu(1);
    let found = Compiler::new(options).check(large_command(6_000).into()).await;
    assert_eq!(found.expect("it can run").entry, "_start");
    // The next one is not worse off.
    let code = limited.compile_for(program(0).into(), Some(here())).await;
    assert!(!code.expect("compiles").is_empty());
}

/// A compiler whose server was killed has nobody to compile for.
#[test]
fn a_compiler_does_not_outlive_its_server() {
    use std::io::{Read, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    let wasm = large_command(20_000);
    let mut child = Command::new(crate::cluster::WASMFLEET)
        .arg("compile")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let (memory, cpu, work) = (2u64 << 30, 600u64, [0; 64]);
    let length = wasm.len() as u64;
    let header = [&memory.to_le_bytes()[..], &cpu.to_le_bytes(), &work, &length.to_le_bytes()];
    stdin.write_all(&header.concat()).expect("it is taken");
    stdin.write_all(&wasm).expect("it is taken");
    // All but what a pipe holds has been read.
    drop(stdin);
    let mut code = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut code).expect("it ends");
    let status = child.wait().expect("it ends");
    assert_eq!((status.signal(), code.len()), (Some(9), 0), "{status:?}");
}
