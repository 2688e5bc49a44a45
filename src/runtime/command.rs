//! Runs a process: a preview 1 module or a `wasi:cli/run` component, from instantiation to its
//! exit code.
//!
//! It says how a guest ended; who is told, and when it is killed, is `container`'s.

use std::sync::Arc;

use wasmtime::{Engine, InstancePre};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre as P2CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as P3CommandPre;

use super::StartError;
use super::host::{HostState, ModuleState, Sandbox};

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
        Ok(match self {
            Self::Preview1(pre) => {
                let store = sandbox.module_store(engine)?;
                Box::pin(async move { exit_code(run_preview1(store, pre).await) })
            }
            Self::P2(pre) => {
                let store = sandbox.store(engine)?;
                Box::pin(async move { exit_code(run_p2(store, pre).await) })
            }
            Self::P3(pre) => {
                let store = sandbox.store(engine)?;
                Box::pin(async move { exit_code(run_p3(store, pre).await) })
            }
        })
    }
}

async fn run_preview1(
    mut store: wasmtime::Store<ModuleState>,
    pre: InstancePre<ModuleState>,
) -> wasmtime::Result<Result<(), ()>> {
    let instance = pre.instantiate_async(&mut store).await?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    start.call_async(&mut store, ()).await?;
    Ok(Ok(()))
}

async fn run_p2(
    mut store: wasmtime::Store<HostState>,
    pre: P2CommandPre<HostState>,
) -> wasmtime::Result<Result<(), ()>> {
    let command = pre.instantiate_async(&mut store).await?;
    command.wasi_cli_run().call_run(&mut store).await
}

async fn run_p3(
    mut store: wasmtime::Store<HostState>,
    pre: P3CommandPre<HostState>,
) -> wasmtime::Result<Result<(), ()>> {
    let command = pre.instantiate_async(&mut store).await?;
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
