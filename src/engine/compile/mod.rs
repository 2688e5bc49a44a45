//! Compiles WebAssembly to native code, in bounds.
//!
//! Reading and compiling a program work on an attacker's bytes before any sandbox exists (types in
//! types overflow the stack of whoever validates them), so both run in a child process that can be
//! killed: this program again, with a hidden subcommand (see [`child`]). Tests and small tools may
//! compile in their own process. How many compile at once is bounded here; what is kept of the result
//! is the cache's affair.

pub mod child;
#[cfg(not(feature = "compiler"))]
mod disabled;
#[cfg(feature = "compiler")]
mod enabled;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::target::Target;
use crate::artifact::{Inspection, check_imports};

pub use child::child_main;
#[cfg(not(feature = "compiler"))]
pub use disabled::compile_here;
#[cfg(not(feature = "compiler"))]
use disabled::compile_unchecked;
#[cfg(feature = "compiler")]
use enabled::compile_unchecked;
#[cfg(feature = "compiler")]
pub use enabled::{compile_here, has_compiler_for};

/// Whether this program has a compiler.
pub const AVAILABLE: bool = cfg!(feature = "compiler");

/// Where compiling happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompilerPlace {
    /// In this process: no limit of memory or time holds. For tests.
    InProcess,
    /// In a child process; the path is of a program that calls [`child_main`] when its first
    /// argument is [`child::SUBCOMMAND`].
    ChildProcess(PathBuf),
}

/// Processor time of one compile, in seconds: ten times what the largest programs of real toolchains
/// need.
const CPU_SECONDS: u64 = 120;

/// By the clock it may take three times its processor time, and half a minute: it has the lowest
/// priority, and gets little of a busy machine.
fn wall_limit(cpu_seconds: u64) -> Duration {
    Duration::from_secs(3 * cpu_seconds + 30)
}

/// Bounds of compilation.
#[derive(Clone, Debug)]
pub struct Options {
    pub place: CompilerPlace,
    /// How many artifacts are compiled at once; at least 1.
    pub concurrency: usize,
    /// Address space that a child process may take for compiling, in bytes.
    pub memory_limit_bytes: u64,
    /// Processor time of a child process, in seconds, over all of its threads.
    pub cpu_limit_seconds: u64,
    /// Time after which a child is killed, whatever it does.
    pub wall_limit: Duration,
}

impl Options {
    /// Limits with room for the largest programs that real toolchains make (a Python component
    /// needs 12 CPU seconds and 350 MB) and not much more.
    pub fn new(place: CompilerPlace) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            place,
            concurrency: cores,
            memory_limit_bytes: 2 << 30,
            cpu_limit_seconds: CPU_SECONDS,
            wall_limit: wall_limit(CPU_SECONDS),
        }
    }

    /// Other limits of processor time: the first, and the time after which a child is killed.
    pub fn limit_cpu(&mut self, seconds: u64) {
        self.cpu_limit_seconds = seconds;
        self.wall_limit = wall_limit(seconds);
    }
}

/// Why there is no compiled code; the message is for the artifact's author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("{0}")]
    Invalid(String),
    /// A limit of [`Options`] was hit.
    #[error("{0}")]
    Limit(String),
    #[error("{0}")]
    Internal(String),
}

/// What a child does.
#[derive(Clone, Copy, Debug)]
enum Work {
    /// The link check, without code.
    Check,
    /// The link check, and code for this very machine or another one.
    Compile(Option<Target>),
}

impl Work {
    /// For messages.
    fn doing(self) -> &'static str {
        match self {
            Work::Check => "checking",
            Work::Compile(_) => "compiling",
        }
    }
}

/// [`check_imports`] in this thread.
fn check_here(wasm: &[u8]) -> Result<Inspection, CompileError> {
    check_imports(wasm).map_err(|error| CompileError::Invalid(error.to_string()))
}

/// Compiles artifacts, a bounded number at a time.
pub struct Compiler {
    options: Options,
    permits: Semaphore,
}

impl Compiler {
    pub fn new(options: Options) -> Self {
        let permits = Semaphore::new(options.concurrency.max(1));
        Self { options, permits }
    }

    /// Native code for `wasm`, a module or a component, for an engine with our settings on this very
    /// machine. Waits until a compiler is free. Cancelling kills a child process.
    ///
    /// # Errors
    /// When the artifact does not compile or exceeds a limit.
    pub async fn compile(&self, wasm: Bytes) -> Result<Vec<u8>, CompileError> {
        self.compile_for(wasm, None).await
    }

    /// [`Compiler::compile`] for another machine.
    ///
    /// # Errors
    /// As there, and when there is no compiler for that machine.
    pub async fn compile_for(
        &self,
        wasm: Bytes,
        target: Option<Target>,
    ) -> Result<Vec<u8>, CompileError> {
        let internal = |error: &dyn std::fmt::Display| CompileError::Internal(error.to_string());
        let _permit = self.permits.acquire().await.map_err(|error| internal(&error))?;
        match &self.options.place {
            CompilerPlace::InProcess => {
                tokio::task::spawn_blocking(move || compile_here(&wasm, target, true))
                    .await
                    .map_err(|error| internal(&format!("the compiler failed: {error}")))?
            }
            CompilerPlace::ChildProcess(program) => {
                child::run_child(program, &self.options, wasm, Work::Compile(target)).await
            }
        }
    }

    /// The link check of a program, in the same bounds.
    ///
    /// # Errors
    /// When the program cannot run here, or exceeds a limit.
    pub async fn check(&self, wasm: Bytes) -> Result<Inspection, CompileError> {
        let internal = |error: &dyn std::fmt::Display| CompileError::Internal(error.to_string());
        let _permit = self.permits.acquire().await.map_err(|error| internal(&error))?;
        match &self.options.place {
            CompilerPlace::InProcess => tokio::task::spawn_blocking(move || check_here(&wasm))
                .await
                .map_err(|error| internal(&error))?,
            CompilerPlace::ChildProcess(program) => {
                let json = child::run_child(program, &self.options, wasm, Work::Check).await?;
                serde_json::from_slice(&json).map_err(|error| internal(&error))
            }
        }
    }
}
