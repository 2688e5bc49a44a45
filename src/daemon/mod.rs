//! The programs put together: which parts run in a process, with which settings. The only room
//! that sees all others, and with `cli` the only one that reads flags and the environment.

mod agent;
mod args;
mod code;
mod data_dir;
mod images;
mod join;
mod local_node;
mod names;
mod ready;
mod signals;
mod simulate;

#[cfg(feature = "control-plane")]
mod control_plane;
#[cfg(feature = "control-plane")]
mod control_plane_args;
#[cfg(feature = "control-plane")]
mod demo;
#[cfg(feature = "control-plane")]
mod inner_node;
#[cfg(feature = "control-plane")]
mod lost_agents;
#[cfg(feature = "control-plane")]
mod metrics;
#[cfg(feature = "control-plane")]
mod network;
#[cfg(feature = "control-plane")]
mod up;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use args::{Cli, Command, LogArgs};

use crate::base::{Tasks, rest};

/// How long everything may take to end after a signal.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

/// Stops the tasks, and tells which of them take too long.
async fn shut_down(tasks: &Tasks) {
    let late = tasks.shut_down(SHUTDOWN_LIMIT).await;
    if !late.is_empty() {
        tracing::warn!(?late, "tasks did not stop in time");
    }
}

/// The program `wasmfleet`.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let log = match &cli.command {
        // Limits of memory and threads hold in this process: nothing else may be started in it.
        #[cfg(feature = "compiler")]
        Command::Compile => return exit_code(crate::engine::compile::child_main()),
        #[cfg(feature = "control-plane")]
        Command::ControlPlane(command) => command.log(),
        Command::Node(args) => &args.log,
    };
    if let Err(message) = start_log(log) {
        eprintln!("error: {message}");
        return ExitCode::FAILURE;
    }
    raise_descriptors();
    crate::client::remote::install_crypto();
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let runtime = match threads.enable_all().on_thread_park(rest::before_waiting).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the program's threads cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            #[cfg(feature = "control-plane")]
            Command::ControlPlane(command) => up::run_command(command).await,
            Command::Node(args) => agent::run(args).await,
            #[cfg(feature = "compiler")]
            Command::Compile => Ok(()),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Connections and guests' sockets are descriptors of this process; the soft limit, often 1,024, is
/// for programs that use select(2). Where it cannot be raised, the bounds that follow it are lower.
fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(feature = "compiler")]
fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn start_log(args: &LogArgs) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log)
        .map_err(|e| format!("--log {:?} is no filter: {e}", args.log))?;
    // Colours are for people: a log in a file stays plain.
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    log.with_writer(std::io::stderr).init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_file_descriptors_is_raised() {
        raise_descriptors();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
