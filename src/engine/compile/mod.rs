//! Compiles WebAssembly to native code, in bounds.
//!
//! Compiling is the one step that works on an attacker's bytes before any sandbox exists, so it
//! runs in a child process that can be killed: this program again, with a hidden subcommand (see
//! [`child`]). Tests and small tools may compile in their own process. How many compile at once is
//! bounded here; what is kept of the result is the cache's affair.

pub mod child;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use wasmtime::Engine;

pub use child::child_main;

/// Where compiling happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompilerPlace {
    /// In this process: no limit of memory or time holds. For tests.
    InProcess,
    /// In a child process; the path is of a program that calls [`child_main`] when its first
    /// argument is [`child::SUBCOMMAND`].
    ChildProcess(PathBuf),
}

/// Bounds of compilation.
#[derive(Clone, Debug)]
pub struct Options {
    pub place: CompilerPlace,
    /// How many artifacts are compiled at once; at least 1.
    pub concurrency: usize,
    /// Address space of a child process, in bytes.
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
            cpu_limit_seconds: 120,
            wall_limit: Duration::from_secs(180),
        }
    }
}

/// Why there is no compiled code; the message is for the artifact's author.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("{0}")]
    Invalid(String),
    /// A limit of [`Options`] was hit.
    #[error("{0}")]
    Limit(String),
    #[error("{0}")]
    Internal(String),
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

    /// Native code for `wasm`, a module or a component, for an engine with our settings.
    /// Waits until a compiler is free. Cancelling kills a child process.
    ///
    /// # Errors
    /// When the artifact does not compile or exceeds a limit.
    pub async fn compile(&self, wasm: Bytes) -> Result<Vec<u8>, CompileError> {
        let internal = |error: &dyn std::fmt::Display| CompileError::Internal(error.to_string());
        let _permit = self.permits.acquire().await.map_err(|error| internal(&error))?;
        match &self.options.place {
            CompilerPlace::InProcess => {
                tokio::task::spawn_blocking(move || compile_here(&wasm, true))
                    .await
                    .map_err(|error| internal(&format!("the compiler failed: {error}")))?
            }
            CompilerPlace::ChildProcess(program) => {
                child::compile(program, &self.options, wasm).await
            }
        }
    }
}

/// Compiles in this thread (and, with `parallel`, on all cores).
pub fn compile_here(wasm: &[u8], parallel: bool) -> Result<Vec<u8>, CompileError> {
    let mut config = super::config();
    config.parallel_compilation(parallel);
    let engine =
        Engine::new(&config).map_err(|error| CompileError::Internal(format!("{error:#}")))?;
    let compiled = if wasmparser::Parser::is_component(wasm) {
        engine.precompile_component(wasm)
    } else {
        engine.precompile_module(wasm)
    };
    compiled.map_err(|error| CompileError::Invalid(format!("does not compile: {error:#}")))
}
