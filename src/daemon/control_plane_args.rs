//! What can be typed after `wasmfleet` where it has a control plane.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::args::{LogArgs, NodeTuning};
use super::local_node;
use crate::base::ids::Ids;
use crate::engine::compile;
use crate::scheduler;

/// Of `server` and `node`, which belong together.
const SERVER_EXAMPLES: &str = "\
Example:
  wasmfleet server --data-dir cp --listen 127.0.0.1:6443
  wasmfleet node --server https://127.0.0.1:6443 --token-file cp/join-token --data-dir n1 --name n1";

const UP_EXAMPLES: &str = "\
Examples:
  wasmfleet up --demo            a cluster with a first workload; Ctrl-C stops it
  wasmfleet up --demo --once     the same, ending after the first answer (for scripts)
  wasmfleet up --data-dir d --kubeconfig d/kubeconfig --listen 127.0.0.1:0 --nodes 3

`ready` is printed on a line of its own once the API answers and every node is Ready; logs go to
stderr. Started again with the same data directory, it brings every workload back.";

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "a process has one")]
pub enum Command {
    /// A whole cluster on this machine: control plane and nodes, no root needed
    #[command(after_help = UP_EXAMPLES)]
    Up(UpArgs),
    /// A control plane: API server, controllers, scheduler
    #[command(after_help = SERVER_EXAMPLES)]
    Server(ServerArgs),
}

impl Command {
    pub fn log(&self) -> &LogArgs {
        match self {
            Command::Up(args) => &args.server.log,
            Command::Server(args) => &args.log,
        }
    }
}

#[derive(Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// How many nodes run in this process
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub nodes: u32,
    #[command(flatten)]
    pub node: NodeTuning,
    /// Push the bundled component, apply the hello example, and call it
    #[arg(long)]
    pub demo: bool,
    /// With --demo: end after the answer, with exit code 0
    #[arg(long, requires = "demo")]
    pub once: bool,
}

#[derive(Args)]
pub struct ServerArgs {
    /// Where the cluster's state, keys and artifacts are kept
    /// [default: $XDG_DATA_HOME/wasmfleet, or ~/.local/share/wasmfleet]
    #[arg(long, value_name = "DIR", env = "WASMFLEET_DATA_DIR", hide_env_values = true)]
    pub data_dir: Option<PathBuf>,
    /// Where the administrator's kubeconfig is written [default: DATA_DIR/kubeconfig]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The address of the API server; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Addresses of pods; a block of it is given to each node
    /// [default: the first free part of 127.64.0.0/10]
    #[arg(long, value_name = "CIDR", requires = "service_cidr")]
    pub cluster_cidr: Option<String>,
    /// Addresses of Services [default: the matching part of 127.128.0.0/12]
    #[arg(long, value_name = "CIDR", requires = "cluster_cidr")]
    pub service_cidr: Option<String>,
    /// Seconds without a heartbeat after which a node counts as lost. Nodes are told, and send theirs
    /// three times as often at least; simulated ones are not (--heartbeat-seconds)
    #[arg(long, default_value_t = 40, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..))]
    pub node_grace_seconds: u64,
    /// Seconds for which watches and paged lists can go on from an older state
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u64).range(10..=86400))]
    pub history_seconds: u64,
    /// Seconds for which Events are kept after their last write
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u64).range(10..=31_536_000))]
    pub event_ttl_seconds: u64,
    /// Seconds after a signal to stop in which requests are still served, though not ready any more
    #[arg(long, default_value_t = 0, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=8))]
    pub shutdown_delay_seconds: u64,
    /// The scheduler's configuration: a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) as
    /// kube-scheduler's --config has it. What is not supported in it is refused
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    #[command(flatten)]
    pub compile: CompileArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

impl ServerArgs {
    /// What the scheduler's configuration says, the defaults without one.
    pub fn scheduler(&self) -> anyhow::Result<scheduler::Options> {
        let mut options = scheduler::Options {
            // Unlike any other's, also that of this program before it was started again.
            id: Ids::from_system().uid(),
            ..scheduler::Options::default()
        };
        let Some(path) = &self.scheduler_config else { return Ok(options) };
        let what = || format!("the scheduler's configuration {}", path.display());
        let text = std::fs::read_to_string(path).with_context(what)?;
        // First as YAML, which refuses keys that are there twice.
        let yaml: serde_yaml::Value = serde_yaml::from_str(&text).with_context(what)?;
        let document = serde_json::to_value(yaml).with_context(what)?;
        let read = scheduler::config::parse(document);
        let read = read.map_err(anyhow::Error::msg).with_context(what)?;
        options.profiles = Arc::new(read.profiles);
        options.back_off = read.back_off;
        Ok(options)
    }
}

/// The bounds of compiling, which happens in processes of its own.
#[derive(Args, Clone)]
pub struct CompileArgs {
    /// Programs that are compiled at the same time [default: half of the cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub compilers: Option<u32>,
    /// Memory that compiling one program may take, in MiB of address space
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    #[arg(value_parser = clap::value_parser!(u64).range(128..=65536))]
    pub compile_memory_mib: u64,
    /// Processor time that compiling one program may take, in seconds; by the clock it may be three
    /// times as long, and half a minute
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub compile_cpu_seconds: u64,
}

impl CompileArgs {
    pub fn options(&self) -> anyhow::Result<compile::Options> {
        let mut options = local_node::compiler()?;
        options.memory_limit_bytes = self.compile_memory_mib << 20;
        options.limit_cpu(self.compile_cpu_seconds);
        if let Some(compilers) = self.compilers {
            options.concurrency = compilers as usize;
        }
        Ok(options)
    }
}
