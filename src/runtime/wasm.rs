//! The runtime on wasmtime: engine, code and the threads that guests run on.
//!
//! Guests have a tokio runtime of their own, so that no guest's time is taken from the control
//! plane's threads. One engine serves the process; its epoch is advanced by the ticker.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use wasmtime::Engine;

use super::code::{CodeCache, Slot};
use super::container::{Clock, Process, Reporter};
use super::exec::Again;
use super::floor::Share;
use super::host::{Linkers, Sandbox};
use super::http::HttpContainer;
use super::http_guest::Handler;
use super::http_limits::HttpLimits;
use super::meter::{Meter, Ticker};
use super::outgoing::{ApiAccess, Tls};
use super::policy::IpRange;
use super::pool::Pool;
use super::prepared::{Code, PreparedCode};
use super::stacks::Stacks;
use super::{Container, ContainerSpec, PrepareError, Prepared, Runtime, RuntimeEvent, StartError};
use crate::base::rest;
use crate::engine;
use crate::engine::compile::{self, CompileError, CompilerPlace};
use crate::engine::supply::{self, Native, Runner, Supply};

/// Threads for guests' blocking system calls (files), at most.
const MAX_BLOCKING_THREADS: usize = 64;
/// Turns of a thread after which it looks at sockets and timers. A busy guest's turn is as long as
/// the epoch (2 ms): tokio's own 61 of them would let a request wait for more than 100 ms.
const EVENT_INTERVAL: u32 = 4;

/// What a [`WasmRuntime`] is given.
#[derive(Clone)]
pub struct Options {
    /// Threads that guests run on; at least 1.
    pub worker_threads: usize,
    pub compiler: compile::Options,
    /// Where compiled code is kept; `None`: in memory only.
    pub cache_directory: Option<PathBuf>,
    pub cache_max_bytes: u64,
    /// The control plane that compiles; `None`: everything is compiled here.
    pub server: Option<supply::Server>,
    /// The times that bound requests to HTTP handlers.
    pub http: HttpLimits,
    /// Addresses of the cluster's pods and Services: what guests may connect to.
    pub cluster: Vec<IpRange>,
    /// How guests reach the API server, if they may.
    pub api: Option<ApiAccess>,
    /// The wall clock, for the times in events.
    pub clock: Clock,
}

impl Options {
    /// One thread a core, 1 GiB of disk cache, the ranges of every cluster on this machine.
    pub fn new(compiler: CompilerPlace, cache_directory: Option<PathBuf>, clock: Clock) -> Self {
        Self {
            worker_threads: std::thread::available_parallelism().map_or(1, usize::from),
            compiler: compile::Options::new(compiler),
            cache_directory,
            cache_max_bytes: 1 << 30,
            server: None,
            http: HttpLimits::default(),
            cluster: vec![IpRange::ALL_PODS, IpRange::ALL_SERVICES],
            api: None,
            clock,
        }
    }
}

/// Why there is no runtime; for the operator.
#[derive(Debug, thiserror::Error)]
pub enum NewRuntimeError {
    #[error("the engine cannot be made: {0}")]
    Engine(String),
    #[error("the directory for compiled code: {0}")]
    Cache(std::io::Error),
    #[error("threads for guests: {0}")]
    Threads(std::io::Error),
}

/// Runs containers with wasmtime.
pub struct WasmRuntime {
    inner: Arc<Inner>,
    ticker: Arc<Ticker>,
    tls: Tls,
    http: HttpLimits,
    cluster: Arc<[IpRange]>,
    worker_threads: usize,
    clock: Clock,
    again: Arc<Again>,
    /// `None` only while it is dropped.
    threads: Option<tokio::runtime::Runtime>,
}

struct Inner {
    again: Arc<Again>,
    linkers: Linkers,
    code: CodeCache,
    supply: Supply,
}

/// What code is made of.
enum Origin {
    /// Only what is here already.
    Kept,
    /// Somebody else compiles it, for whom is to run it.
    Named(Runner),
    Program(Bytes),
}

impl WasmRuntime {
    /// # Errors
    /// When the engine, the cache directory or the threads cannot be made.
    pub fn new(options: Options) -> Result<Arc<Self>, NewRuntimeError> {
        let not_made = |error: wasmtime::Error| NewRuntimeError::Engine(format!("{error:#}"));
        let mut config = engine::config();
        config.with_host_stack(Arc::new(Stacks::default()));
        let engine = Engine::new(&config).map_err(not_made)?;
        let linkers = Linkers::new(&engine).map_err(not_made)?;
        let supply = Supply::open(supply::Options {
            compiler: options.compiler,
            directory: options.cache_directory,
            max_bytes: options.cache_max_bytes,
            server: options.server,
        })
        .map_err(NewRuntimeError::Cache)?;
        let worker_threads = options.worker_threads.max(1);
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(worker_threads)
            .event_interval(EVENT_INTERVAL)
            .max_blocking_threads(MAX_BLOCKING_THREADS)
            .thread_name("guest")
            .on_thread_park(rest::before_waiting)
            .enable_all()
            .build()
            .map_err(NewRuntimeError::Threads)?;
        let pool = Pool::new();
        let pool = pool.inspect_err(|error| tracing::debug!(%error, "there is no pool")).ok();
        let engines: Vec<&Engine> =
            [&engine].into_iter().chain(pool.as_ref().map(|pool| &pool.engine)).collect();
        let ticker =
            Arc::new(Ticker::start(&engines, worker_threads).map_err(NewRuntimeError::Threads)?);
        let code = CodeCache::default();
        let (guests, clock) = (threads.handle().clone(), options.clock.clone());
        let again = Arc::new(Again { engine, pool, guests, clock });
        Ok(Arc::new(Self {
            inner: Arc::new(Inner { again: again.clone(), linkers, code, supply }),
            again,
            ticker,
            tls: Tls::new(options.api),
            http: options.http,
            cluster: options.cluster.into(),
            worker_threads,
            clock: options.clock,
            threads: Some(threads),
        }))
    }

    /// The code of a digest, made by whoever comes first. The work goes on when the caller does
    /// not wait for it.
    async fn code(
        &self,
        digest: &str,
        origin: Origin,
    ) -> Result<Option<Arc<PreparedCode>>, PrepareError> {
        let internal = |error: &dyn std::fmt::Display| PrepareError::Internal(error.to_string());
        let slot = self.inner.code.slot(digest);
        if let Some(code) = self.inner.code.get(&slot) {
            return Ok(Some(code));
        }
        if let Some(error) = slot.failure() {
            return Err(error);
        }
        let making = slot.making.clone().lock_owned().await;
        let (inner, digest) = (self.inner.clone(), digest.to_owned());
        let made = self.again.guests.spawn(async move {
            let _making = making;
            inner.make(&slot, &digest, origin).await
        });
        made.await.map_err(|error| internal(&error))?
    }
}

impl Inner {
    async fn make(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        digest: &str,
        origin: Origin,
    ) -> Result<Option<Arc<PreparedCode>>, PrepareError> {
        if let Some(code) = self.code.get(slot) {
            return Ok(Some(code));
        }
        // Whoever made it before us may have failed.
        if let Some(error) = slot.failure() {
            return Err(error);
        }
        let (inner, its_digest) = (self.clone(), digest.to_owned());
        let kept = blocking(move || inner.kept_code(&its_digest)).await?;
        let made = match (kept, origin) {
            (Some(code), _) => Ok(Some(code)),
            (None, Origin::Kept) => Ok(None),
            (None, Origin::Named(runner)) => self.fetch(digest, &runner).await,
            (None, Origin::Program(wasm)) => self.compile(digest, wasm).await.map(Some),
        };
        let Some(code) = made.inspect_err(|error| slot.remember(error))? else { return Ok(None) };
        let code = Arc::new(code);
        self.code.put(slot, &code);
        Ok(Some(code))
    }

    fn kept_code(&self, digest: &str) -> Option<PreparedCode> {
        let native = self.supply.kept(digest)?;
        let loaded = self.load(&native);
        loaded
            .inspect_err(|error| {
                tracing::warn!(digest, %error, "kept code does not load");
                self.supply.forget(digest);
            })
            .ok()
    }

    fn load(&self, native: &Native) -> Result<PreparedCode, PrepareError> {
        let Again { engine, pool, .. } = &*self.again;
        // SAFETY: the supply gives only what the compiler gave this moment, and files whose seal holds.
        unsafe { PreparedCode::load(engine, &self.linkers, pool.as_ref(), native) }
    }

    async fn fetch(
        self: &Arc<Self>,
        digest: &str,
        runner: &Runner,
    ) -> Result<Option<PreparedCode>, PrepareError> {
        let fetched = self.supply.fetch(digest, runner).await.map_err(of_compiler)?;
        let Some(native) = fetched else { return Ok(None) };
        let inner = self.clone();
        blocking(move || inner.load(&native)).await?.map(Some)
    }

    async fn compile(
        self: &Arc<Self>,
        digest: &str,
        wasm: Bytes,
    ) -> Result<PreparedCode, PrepareError> {
        let (bytes, its_digest) = (wasm.clone(), digest.to_owned());
        blocking(move || {
            if format!("sha256:{}", hex::encode(Sha256::digest(&bytes))) == its_digest {
                return Ok(());
            }
            let message = format!("the artifact is not what its digest {its_digest} names");
            Err(PrepareError::Internal(message))
        })
        .await??;
        let native = self.supply.make(digest, wasm).await.map_err(of_compiler)?;
        let inner = self.clone();
        blocking(move || inner.load(&native)).await?
    }
}

fn of_compiler(error: CompileError) -> PrepareError {
    match error {
        CompileError::Invalid(message) => PrepareError::InvalidModule(message),
        CompileError::Limit(message) => PrepareError::CompileLimit(message),
        CompileError::Internal(message) => PrepareError::Internal(message),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PrepareError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| PrepareError::Internal(error.to_string()))
}

#[async_trait::async_trait]
impl Runtime for WasmRuntime {
    async fn prepare(&self, digest: &str, wasm: Bytes) -> Result<Arc<dyn Prepared>, PrepareError> {
        match self.code(digest, Origin::Program(wasm)).await? {
            Some(code) => Ok(code),
            None => Err(PrepareError::Internal("no code was made".to_owned())),
        }
    }

    async fn prepared(&self, digest: &str) -> Option<Arc<dyn Prepared>> {
        match self.code(digest, Origin::Kept).await {
            Ok(Some(code)) => Some(code),
            Ok(None) | Err(_) => None,
        }
    }

    async fn fetched(
        &self,
        digest: &str,
        runner: &Runner,
    ) -> Result<Option<Arc<dyn Prepared>>, PrepareError> {
        let code = self.code(digest, Origin::Named(runner.clone())).await?;
        Ok(code.map(|code| code as Arc<dyn Prepared>))
    }

    async fn start(
        &self,
        spec: ContainerSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Box<dyn Container>, StartError> {
        let artifact = spec.artifact.clone();
        let Some(prepared) = artifact.as_any().downcast_ref::<PreparedCode>() else {
            return Err(StartError::Internal("the code is another runtime's".to_owned()));
        };
        if self.threads.is_none() {
            return Err(StartError::Internal("the runtime is going down".to_owned()));
        }
        let reporter = Reporter { id: spec.id.clone(), events, clock: self.clock.clone() };
        let share = Share::new(spec.cpu_request_millicores, self.worker_threads);
        let meter = Meter::new(self.ticker.clone(), spec.cpu_limit_millicores, share);
        let meter = Arc::new(meter);
        let sandbox = sandbox(spec, self.tls.clone(), self.cluster.clone()).await?;
        sandbox.signals.connect(&reporter);
        let again = self.again.clone();
        let handler = match &prepared.code {
            Code::P2Http(plain, pooled) => Handler::P2(plain.clone(), pooled.clone()),
            Code::P3Http(pre) => Handler::P3(pre.clone()),
            Code::Command(_) => {
                let Some(command) = prepared.command.clone() else {
                    return Err(StartError::Internal("a command without a command".to_owned()));
                };
                let guest = command.start(&again.engine, &sandbox)?;
                return Ok(Box::new(Process::spawn(again, sandbox, meter, reporter, guest)));
            }
        };
        HttpContainer::spawn(again, sandbox, meter, reporter, handler, self.http)
            .map(|container| Box::new(container) as Box<dyn Container>)
    }
}

/// Opens the mounts, which may block on the disk.
async fn sandbox(
    spec: ContainerSpec,
    tls: Tls,
    cluster: Arc<[IpRange]>,
) -> Result<Arc<Sandbox>, StartError> {
    if spec.mounts.is_empty() {
        return Sandbox::new(spec, tls, cluster).map(Arc::new);
    }
    let made = tokio::task::spawn_blocking(move || Sandbox::new(spec, tls, cluster)).await;
    made.map_err(|error| StartError::Internal(error.to_string()))?.map(Arc::new)
}

impl Drop for WasmRuntime {
    fn drop(&mut self) {
        // Dropped from async code as well, where waiting for the threads would panic.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}
