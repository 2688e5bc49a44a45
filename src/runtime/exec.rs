//! One more run of a container's program beside it: `exec`.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use wasmtime::Engine;

use super::container::{Clock, Process, Reporter};
use super::host::Sandbox;
use super::meter::Meter;
use super::pool::Pool;
use super::prepared::PreparedCode;
use super::{Container, ExecSpec, RuntimeEvent, StartError};

/// What it takes to run a guest; one for all containers of a runtime.
pub struct Again {
    pub engine: Engine,
    /// Places for instances of handlers, where the address space has room for them.
    pub pool: Option<Pool>,
    /// The guests' threads.
    pub guests: Handle,
    pub clock: Clock,
}

/// See [`Container::exec`].
pub fn exec(
    again: &Arc<Again>,
    sandbox: &Arc<Sandbox>,
    meter: &Arc<Meter>,
    spec: ExecSpec,
    events: mpsc::Sender<RuntimeEvent>,
) -> Result<Box<dyn Container>, StartError> {
    let code = sandbox.spec.artifact.as_any().downcast_ref::<PreparedCode>();
    let Some(command) = code.and_then(|code| code.command.clone()) else {
        let message = "the program serves HTTP and exports no command (wasi:cli/run), so that \
                       there is nothing to run";
        return Err(StartError::Container(message.to_owned()));
    };
    let reporter = Reporter { id: spec.id.clone(), events, clock: again.clock.clone() };
    let sandbox = Arc::new(sandbox.beside(spec));
    let guest = command.start(&again.engine, &sandbox)?;
    let process = Process::spawn_beside(again.clone(), sandbox, meter.clone(), reporter, guest);
    Ok(Box::new(process))
}
