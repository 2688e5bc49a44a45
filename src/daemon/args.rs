//! What can be typed after `wasmfleet`. Defaults that depend on the machine are filled in here, so
//! that the rooms get plain options.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::node::{Capacity, Thresholds};

const ABOUT: &str = "Kubernetes for WebAssembly: the Kubernetes API, scheduler, controllers, node \
                     agent and service proxy in one program";

/// Of `server` and `node`, which belong together.
pub(super) const SERVER_EXAMPLES: &str = "\
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
    #[cfg(feature = "control-plane")]
    #[command(flatten)]
    ControlPlane(super::control_plane_args::Command),
    /// A node agent that joins a control plane and runs its pods
    #[command(after_help = SERVER_EXAMPLES)]
    Node(NodeArgs),
    /// Compiles a module from stdin to stdout, within limits (started by this program)
    #[cfg(feature = "compiler")]
    #[command(hide = true)]
    Compile,
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
    /// Compile programs on this node, and ask the control plane for none of its code
    #[cfg(feature = "compiler")]
    #[arg(long)]
    pub compile_here: bool,
    #[command(flatten)]
    pub tuning: NodeTuning,
    #[command(flatten)]
    pub log: LogArgs,
}

impl NodeArgs {
    /// Whether the node compiles for itself; without a compiler it cannot.
    pub fn compile_here(&self) -> bool {
        #[cfg(feature = "compiler")]
        {
            self.compile_here
        }
        #[cfg(not(feature = "compiler"))]
        {
            false
        }
    }
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
