//! Runs a process: a preview 1 module or a `wasi:cli/run` component, from instantiation to its
//! exit code.
//!
//! It says how a guest ended; who is told, and when it is killed, is `container`'s.

use std::sync::Arc;

use wasmtime::{Engine, InstancePre};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre as P2CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as P3CommandPre;

use super::host::{HostState, ModuleState, Sandbox};
use super::{StartError, core_dump};

/// What a guest's `main` came to: `Ok(code)`, or the error that ended it.
pub type Outcome = wasmtime::Result<i32>;

/// A command, not yet started; cheap to clone. The store is made when it runs, on the guests' threads.
#[derive(Clone)]
pub enum Command {
    Preview1(InstancePre<ModuleState>),
    P2(P2CommandPre<HostState>),
    P3(P3CommandPre<HostState>),
}

impl Command {
    /// Makes the store; the future runs the guest to its end.
    ///
    /// # Errors
    /// When the sandbox cannot be made (a missing mount).
    pub fn start(
        self,
        engine: &Engine,
        sandbox: &Arc<Sandbox>,
    ) -> Result<futures::future::BoxFuture<'static, Outcome>, StartError> {
        let sandbox = sandbox.clone();
        Ok(match self {
            Self::Preview1(pre) => {
                let mut store = sandbox.module_store(engine)?;
                Box::pin(async move {
                    let result = run_preview1(&mut store, pre).await;
                    exit_code(dumped(&mut store, &sandbox, result))
                })
            }
            Self::P2(pre) => {
                let mut store = sandbox.store(engine)?;
                Box::pin(async move {
                    let result = run_p2(&mut store, pre).await;
                    exit_code(dumped(&mut store, &sandbox, result))
                })
            }
            Self::P3(pre) => {
                let mut store = sandbox.store(engine)?;
                Box::pin(async move {
                    let result = run_p3(&mut store, pre).await;
                    exit_code(dumped(&mut store, &sandbox, result))
                })
            }
        })
    }
}

/// The same result; of a trap a core dump is kept where it is wanted.
fn dumped<S: 'static, T>(
    store: &mut wasmtime::Store<S>,
    sandbox: &Sandbox,
    result: wasmtime::Result<T>,
) -> wasmtime::Result<T> {
    result.inspect_err(|error| core_dump::keep(store, sandbox, error))
}

async fn run_preview1(
    store: &mut wasmtime::Store<ModuleState>,
    pre: InstancePre<ModuleState>,
) -> wasmtime::Result<Result<(), ()>> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
    start.call_async(&mut *store, ()).await?;
    Ok(Ok(()))
}

async fn run_p2(
    store: &mut wasmtime::Store<HostState>,
    pre: P2CommandPre<HostState>,
) -> wasmtime::Result<Result<(), ()>> {
    let command = pre.instantiate_async(&mut *store).await?;
    command.wasi_cli_run().call_run(store).await
}

async fn run_p3(
    store: &mut wasmtime::Store<HostState>,
    pre: P3CommandPre<HostState>,
) -> wasmtime::Result<Result<(), ()>> {
    let command = pre.instantiate_async(&mut *store).await?;
    store
        .run_concurrent(async |accessor| {
            let result = command.wasi_cli_run().call_run(accessor).await?;
            // What the guest still writes to its streams after `run` returned is not lost.
            std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            Ok(result)
        })
        .await?
}

/// `exit` arrives as an error that carries the code.
fn exit_code(result: wasmtime::Result<Result<(), ()>>) -> Outcome {
    match result {
        Ok(Ok(())) => Ok(0),
        Ok(Err(())) => Ok(1),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => Ok(exit.0 & 0xff),
            None => Err(error),
        },
    }
}
