//! The compiler's child process: both ends of it.
//!
//! The parent writes two limits, what is to be done and the WebAssembly to the child's standard input; the
//! child limits itself, checks and compiles, writes the code to its standard output and exits. It reads no
//! file and no argument but the subcommand's name; its environment is a bound on its threads. Its standard
//! input stays open: the end of it is the end of the parent, which the child does not survive.
//! It has the lowest priority for the CPU, and is the first to go where the machine is out of memory.
//! Of the disk it has none, because it does not touch it.
//!
//! ```text
//!   stdin:  memory limit u64 LE | CPU limit u64 LE | work, 64 bytes, zeros at its end
//!           | length u64 LE | WebAssembly … open until the child has ended
//!   stdout: native code … EOF, or what the check found as JSON        exit 0
//!   stderr: a message for the author     exit 65 (bad artifact), other (the compiler failed)
//! ```

use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use rustix::process::{Signal, getpid, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

use super::{CompileError, Options, Target, Work, check_here, compile_here, compile_unchecked};
use crate::artifact::inspect::MAX_ARTIFACT_BYTES;
use crate::base::confine::{ARENA_RESERVE, confine};

/// The hidden subcommand with which a program becomes the compiler.
pub const SUBCOMMAND: &str = "compile";

/// `EX_DATAERR` of sysexits.h: the artifact is at fault.
const EXIT_INVALID: i32 = 65;
const EXIT_INTERNAL: i32 = 70;

/// Native code that a parent takes at most.
const MAX_CODE_BYTES: u64 = 1 << 30;
/// Of the child's messages, what a parent keeps.
const MAX_MESSAGE_BYTES: u64 = 4 << 10;
/// The two limits.
const LIMITS_BYTES: usize = 16;
/// `check`, or to compile for `<triple> <cpu>`, or, where it is empty, for this very machine.
const WORK_BYTES: usize = 64;
const CHECK: &str = "check";
const LENGTH_BYTES: usize = 8;
const HEADER_BYTES: usize = LIMITS_BYTES + WORK_BYTES + LENGTH_BYTES;
/// The stack of the thread that waits for the parent's end, and does nothing else.
const WATCH_STACK_BYTES: usize = 128 << 10;
/// Processor time of a link check, in seconds, whatever a compile may take: ten times what the largest
/// artifact needs. A program that is too much for the compiler is still taken by the registry, for
/// nodes that compile for themselves.
const CHECK_CPU_SECONDS: u64 = 30;
/// Threads of one compile. Each takes address space (a stack, and the allocator's arena of 64 MiB
/// or more), which is bounded: one for each core of a large machine would leave none to compile in.
const MAX_THREADS: usize = 4;

/// A module of two functions that do nothing.
const TWO_FUNCTIONS: &[u8] =
    b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x03\x02\0\0\x0a\x07\x02\x02\0\x0b\x02\0\x0b";

/// The child's whole life: reads standard input, writes standard output; the caller exits with
/// the code returned.
pub fn child_main() -> i32 {
    let (read, is_read) = std::sync::mpsc::channel();
    // Begun before there are limits: it is no part of what they are for.
    let watch = std::thread::Builder::new().name("parent".into()).stack_size(WATCH_STACK_BYTES);
    let watching = watch.spawn(move || {
        if is_read.recv().is_ok() {
            end_with_parent();
        }
    });
    if let Err(error) = watching {
        let _ = writeln!(std::io::stderr(), "{error}");
        return EXIT_INTERNAL;
    }
    let told = || {
        let _ = read.send(());
    };
    run_and_tell(&mut std::io::stdin(), &mut std::io::stdout().lock(), &told)
}

/// Waits for the end of standard input, of which all that matters was read. Not by
/// `PR_SET_PDEATHSIG`, which tells of the end of the thread that started this process.
fn end_with_parent() {
    let mut rest = [0; 512];
    while std::io::stdin().read(&mut rest).is_ok_and(|count| count > 0) {}
    // No destructor has anything to do here, and other threads are in the middle of their work.
    let _ = kill_process(getpid(), Signal::KILL);
}

/// [`child_main`] over any pair of streams, without an eye on the parent.
pub fn run(input: &mut dyn Read, output: &mut dyn Write) -> i32 {
    run_and_tell(input, output, &|| {})
}

fn run_and_tell(input: &mut dyn Read, output: &mut dyn Write, all_read: &dyn Fn()) -> i32 {
    match compile_stream(input, output, all_read) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            match error {
                CompileError::Invalid(_) => EXIT_INVALID,
                CompileError::Limit(_) | CompileError::Internal(_) => EXIT_INTERNAL,
            }
        }
    }
}

fn compile_stream(
    input: &mut dyn Read,
    output: &mut dyn Write,
    all_read: &dyn Fn(),
) -> Result<(), CompileError> {
    let internal = |error: std::io::Error| CompileError::Internal(error.to_string());
    let mut header = [0_u8; HEADER_BYTES];
    input.read_exact(&mut header).map_err(internal)?;
    let (limits, rest) = header.split_at(LIMITS_BYTES);
    let (work, length) = rest.split_at(WORK_BYTES);
    let (memory, cpu) = limits.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    confine(number(memory), number(cpu)).map_err(internal)?;
    let work = read_work(work)?;
    if let Work::Compile(target) = work {
        // Starts the compiler's threads while there is room for their stacks: later, a program that
        // took all of it would look like a fault of ours.
        let _ = compile_unchecked(TWO_FUNCTIONS, target, true);
    }
    // What is larger than it may be is refused by the check.
    let length = number(length).min(MAX_ARTIFACT_BYTES as u64 + 1);
    let mut wasm = Vec::new();
    input.take(length).read_to_end(&mut wasm).map_err(internal)?;
    if (wasm.len() as u64) < length {
        return Err(internal(std::io::ErrorKind::UnexpectedEof.into()));
    }
    all_read();
    let made = match work {
        Work::Compile(target) => compile_here(&wasm, target, true)?,
        Work::Check => serde_json::to_vec(&check_here(&wasm)?).map_err(|e| internal(e.into()))?,
    };
    output.write_all(&made).and_then(|()| output.flush()).map_err(internal)
}

fn read_work(bytes: &[u8]) -> Result<Work, CompileError> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\0');
    match text {
        "" => return Ok(Work::Compile(None)),
        CHECK => return Ok(Work::Check),
        _ => {}
    }
    let (triple, cpu) = text.split_once(' ').unwrap_or((text, ""));
    let target = Target::named(triple, cpu);
    target.map(|t| Work::Compile(Some(t))).map_err(|e| CompileError::Internal(e.to_string()))
}

/// What the limits of a compile leave to this work.
fn bounds(options: &Options, work: Work) -> Options {
    let mut bounds = options.clone();
    if let Work::Check = work {
        bounds.limit_cpu(CHECK_CPU_SECONDS);
    }
    bounds
}

/// Works on `wasm` in a child running `program`; the child dies with the returned future.
pub(super) async fn run_child(
    program: &Path,
    options: &Options,
    wasm: Bytes,
    work: Work,
) -> Result<Vec<u8>, CompileError> {
    let options = &bounds(options, work);
    let mut child = Command::new(program)
        .arg(SUBCOMMAND)
        .env_clear()
        .env("RAYON_NUM_THREADS", threads().to_string())
        .env("MALLOC_ARENA_MAX", MAX_THREADS.to_string())
        .env(ARENA_RESERVE.0, ARENA_RESERVE.1)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            CompileError::Internal(format!("cannot start the compiler {program:?}: {error}"))
        })?;
    match tokio::time::timeout(options.wall_limit, converse(&mut child, options, wasm, work)).await
    {
        Ok(result) => result,
        Err(_) => {
            let _ = child.kill().await;
            let seconds = options.wall_limit.as_secs();
            Err(CompileError::Limit(format!("{} took longer than {seconds} s", work.doing())))
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

async fn converse(
    child: &mut Child,
    options: &Options,
    wasm: Bytes,
    work: Work,
) -> Result<Vec<u8>, CompileError> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(CompileError::Internal("the compiler has no pipes".to_owned()));
    };
    let mut header = [0_u8; HEADER_BYTES];
    header[..8].copy_from_slice(&options.memory_limit_bytes.to_le_bytes());
    header[8..LIMITS_BYTES].copy_from_slice(&options.cpu_limit_seconds.to_le_bytes());
    let text = match work {
        Work::Check => CHECK.to_owned(),
        Work::Compile(target) => target.map(|target| target.to_string()).unwrap_or_default(),
    };
    // All targets of the table fit.
    let length = text.len().min(WORK_BYTES);
    header[LIMITS_BYTES..LIMITS_BYTES + length].copy_from_slice(&text.as_bytes()[..length]);
    header[HEADER_BYTES - LENGTH_BYTES..].copy_from_slice(&(wasm.len() as u64).to_le_bytes());
    let send = async move {
        // A child that dies early closes its end; its exit status says why, not this error.
        let _ = stdin.write_all(&header).await;
        let _ = stdin.write_all(&wasm).await;
        stdin
    };
    let (open, code, message): (ChildStdin, _, _) =
        tokio::join!(send, take(stdout, MAX_CODE_BYTES), take(stderr, MAX_MESSAGE_BYTES));
    let status = child.wait().await.map_err(|error| CompileError::Internal(error.to_string()))?;
    drop(open);
    let message = String::from_utf8_lossy(&message).trim().to_owned();
    judge(status, message, options, work).map(|()| code)
}

/// Reads all, keeps the first `most` bytes, so that a writer never blocks.
async fn take(mut stream: impl AsyncRead + Unpin, most: u64) -> Vec<u8> {
    let mut kept = Vec::new();
    let _ = (&mut stream).take(most).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    kept
}

fn judge(
    status: std::process::ExitStatus,
    message: String,
    options: &Options,
    work: Work,
) -> Result<(), CompileError> {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(EXIT_INVALID), _) => Err(CompileError::Invalid(message)),
        (Some(code), _) => {
            Err(CompileError::Internal(format!("the compiler exited with {code}: {message}")))
        }
        // An allocation that fails and a stack that overflows abort the child; the CPU limit kills it,
        // and so does a system that is out of memory. The artifact may fit another time: a limit is no verdict on it.
        (None, signal) => Err(CompileError::Limit(format!(
            "{} exceeded {} MiB of memory, {} s of processor time or the stack (signal {}); \
             --compile-memory-mib and --compile-cpu-seconds allow more",
            work.doing(),
            options.memory_limit_bytes >> 20,
            options.cpu_limit_seconds,
            signal.unwrap_or(0),
        ))),
    }
}
