//! What can be typed after `wasmfleet`. Defaults that depend on the machine are filled in here, so
//! that the rooms get plain options.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::node::{Capacity, Thresholds};

const ABOUT: &str = "Kubernetes for WebAssembly: the Kubernetes API, scheduler, controllers, node \
                     agent and service proxy in one program";

const UP_EXAMPLES: &str = "\
Examples:
  wasmfleet up --demo            a cluster with a first workload; Ctrl-C stops it
  wasmfleet up --demo --once     the same, ending after the first answer (for scripts)
  wasmfleet up --data-dir d --kubeconfig d/kubeconfig --listen 127.0.0.1:0 --nodes 3

`ready` is printed on a line of its own once the API answers and every node is Ready; logs go to
stderr. Started again with the same data directory, it brings every workload back.";

const SERVER_EXAMPLES: &str = "\
Example:
  wasmfleet server --data-dir cp --listen 127.0.0.1:6443
  wasmfleet node --server https://127.0.0.1:6443 --token-file cp/join-token --data-dir n1 --name n1";

#[derive(Parser)]
#[command(name = "wasmfleet", version, about = ABOUT, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// A whole cluster on this machine: control plane and nodes, no root needed
    #[command(after_help = UP_EXAMPLES)]
    Up(UpArgs),
    /// A control plane: API server, controllers, scheduler
    #[command(after_help = SERVER_EXAMPLES)]
    Server(ServerArgs),
    /// A node agent that joins a control plane and runs its pods
    #[command(after_help = SERVER_EXAMPLES)]
    Node(NodeArgs),
    /// Compiles a module from stdin to stdout, within limits (started by the node agent)
    #[command(hide = true)]
    Compile,
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
    /// Seconds without a heartbeat after which a node counts as lost
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
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Args)]
pub struct NodeArgs {
    /// The API server's URL
    #[arg(long, value_name = "URL")]
    pub server: String,
    /// The join token (needed once; the certificate is kept in the data directory)
    #[arg(long, value_name = "TOKEN", env = "WASMFLEET_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds the join token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// The node's name [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where the node keeps its certificate, artifacts, volumes and logs
    /// [default: $XDG_DATA_HOME/wasmfleet-node, or ~/.local/share/wasmfleet-node]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub tuning: NodeTuning,
    #[command(flatten)]
    pub log: LogArgs,
}

/// What a node offers, and how often it reports.
#[derive(Args, Clone)]
pub struct NodeTuning {
    /// The most pods on a node
    #[arg(
        long,
        default_value_t = Capacity::DEFAULT_PODS,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=4000)
    )]
    pub max_pods: u32,
    /// Seconds between a node's heartbeats
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub heartbeat_seconds: u64,
    /// Mirrors, credentials and certificates of other registries (the format of k3s' registries.yaml)
    #[arg(long, value_name = "FILE")]
    pub registries: Option<PathBuf>,
    /// A directory of this machine that pods may mount, as hostPath or as a local PersistentVolume made
    /// by hand; may be given more than once. Without it, pods see only volumes that were made here
    #[arg(long, value_name = "DIR")]
    pub host_path: Vec<PathBuf>,
    /// When memory or the data directory's disk are low: new pods stay away then, and with a low disk
    /// those leave that wrote more than they asked for
    /// [default: memory.available<100Mi, and nodefs.available below 10% and 1Gi]
    #[arg(long, value_name = "SIGNAL<AMOUNT,…")]
    pub eviction_hard: Option<Thresholds>,
    /// Percent of the disk in use from which on images that were not used for longest are removed
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub image_gc_high: u8,
    /// Percent of the disk in use at which that ends
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=99))]
    pub image_gc_low: u8,
}

#[derive(Args, Clone)]
pub struct LogArgs {
    /// What is logged to stderr: error, warn, info, debug, or filters such as `wasmfleet::node=debug`
    #[arg(
        long,
        default_value = "warn",
        value_name = "FILTER",
        env = "WASMFLEET_LOG",
        hide_env_values = true
    )]
    pub log: String,
}

/// The data directory that a user did not name.
pub fn default_data_dir(name: &str) -> Option<PathBuf> {
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share"));
    Some(base.or_else(home)?.join(name))
}
