//! What can be typed after `wasmfleet`. Defaults that depend on the machine are filled in here, so
//! that the rooms get plain options.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::kinds::node_labels;
use crate::api::{names, quantity, simulated};
use crate::node::simulated::{LabelPattern, parse_capacity, parse_taint};
use crate::node::{Reserved, Thresholds};

const ABOUT: &str = "Kubernetes for WebAssembly: the Kubernetes API, scheduler, controllers, node \
                     agent and service proxy in one program";

const NODE_EXAMPLES: &str = "\
Examples:
  wasmfleet server --data-dir cp --listen 127.0.0.1:6443
  wasmfleet node --server https://127.0.0.1:6443 --token-file cp/join-token --data-dir n1 --name n1
  wasmfleet node --server https://127.0.0.1:6443 --token-file cp/join-token --simulate 5000 \
--labels topology.kubernetes.io/zone=z{i%3}

Simulated nodes answer questions of capacity: will the control plane carry so many nodes and pods, \
does a workload find room, how fast is it placed, what moves when nodes are lost. They are Nodes like \
others, but run nothing: their pods are Running and Ready after --start-delay, have addresses at which \
nobody listens (of 127.192.0.0/10), and no logs. One process keeps them all alive by one Lease; when it \
ends they are lost together, and `kubectl delete nodes -l wasmfleet.dev/simulator=sim` removes them. \
Give --name sim-… to run more than one.";

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
    /// A node agent that joins a control plane and runs its pods, or many nodes that are simulated
    #[command(after_help = NODE_EXAMPLES)]
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
    /// The node's name [default: the machine's host name; of simulated nodes: sim]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where the node keeps its certificate, artifacts, volumes and logs
    /// [default: $XDG_DATA_HOME/wasmfleet-node, or ~/.local/share/wasmfleet-node; of simulated nodes:
    /// …/wasmfleet-simulator]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Compile programs on this node, and ask the control plane for none of its code
    #[cfg(feature = "compiler")]
    #[arg(long, conflicts_with = "simulate")]
    pub compile_here: bool,
    /// End pods here that the control plane gives up and replaces, when it cannot be reached: after four
    /// heartbeats, or the server's --node-grace-seconds if those are less, and the pod's
    /// tolerationSeconds of node.kubernetes.io/unreachable. Without it they run on until this node is
    /// back, and an outage of the control plane ends none
    #[arg(long)]
    pub fence: bool,
    #[command(flatten)]
    pub tuning: NodeTuning,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(flatten)]
    pub simulated: SimulateArgs,
}

/// Of nodes that run nothing.
#[derive(Args)]
#[command(next_help_heading = "Simulated nodes")]
pub struct SimulateArgs {
    /// Stand for N nodes, NAME-0 to NAME-(N-1), that run nothing (see below)
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(simulated::MAX_NODES)),
        conflicts_with_all = [
            "max_pods",
            "system_reserved",
            "registries",
            "host_path",
            "eviction_hard",
            "pod_manifest_path",
            "image_gc_high",
            "image_gc_low",
            "fence",
        ]
    )]
    pub simulate: Option<u32>,
    /// What each has [default: cpu=32,memory=64Gi,pods=110; what is not named stays as that says]
    #[arg(long, value_name = "RESOURCE=AMOUNT,…", requires = "simulate", value_parser = parse_capacity)]
    pub capacity: Option<Amounts>,
    /// From a pod's binding until it is Running and Ready, such as 2s or 500ms
    #[arg(long, value_name = "DURATION", default_value = "0s", requires = "simulate", value_parser = parse_duration)]
    pub start_delay: Duration,
    /// From Running until a pod has Succeeded, if its restartPolicy is not Always [default: never]
    #[arg(long, value_name = "DURATION", requires = "simulate", value_parser = parse_duration)]
    pub finish_after: Option<Duration>,
}

/// Amounts by resource.
pub type Amounts = BTreeMap<String, Quantity>;

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

/// A number with its unit: ns, us, ms, s, m, h.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().map_err(|error| error.to_string())?;
    Duration::try_from(parsed).map_err(|_| format!("{text:?} is negative"))
}

fn parse_label(text: &str) -> Result<(String, LabelPattern), String> {
    let (key, value) = text.split_once('=').ok_or(format!("{text:?} is not KEY=VALUE"))?;
    if let Some(why) = names::is_qualified_name(key).first() {
        return Err(format!("{key:?} is no label's key: {why}"));
    }
    if node_labels::is_forbidden(key) {
        return Err(format!(
            "a node may not give itself the label {key:?}: of kubernetes.io and k8s.io it may have {}; \
             others are for administrators (kubectl label node)",
            node_labels::allowed()
        ));
    }
    if key == simulated::SIMULATOR_LABEL {
        return Err(format!("{key:?} is given to simulated nodes by their simulator alone"));
    }
    Ok((key.to_string(), value.parse()?))
}

/// What a node offers, and how often it reports.
#[derive(Args, Clone)]
pub struct NodeTuning {
    /// Labels of the node. In the values of simulated ones {i} is the node's number and {i%3} its rest by 3
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = parse_label)]
    pub labels: Vec<(String, LabelPattern)>,
    /// Taints that the Node is created with
    #[arg(long, value_name = "KEY=VALUE:EFFECT,…", value_delimiter = ',', value_parser = parse_taint)]
    pub taints: Vec<Taint>,
    /// The most pods on a node [default: 2000, or as many as the machine has mappings
    /// (vm.max_map_count) and address space for, if that is less]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub max_pods: Option<u32>,
    /// What of the machine's cpu and memory is not for pods, beside the memory of --eviction-hard
    /// [default: nothing]
    #[arg(long, value_name = "RESOURCE=AMOUNT,…", value_parser = parse_capacity)]
    pub system_reserved: Option<Amounts>,
    /// Seconds between a node's heartbeats, or a third of the server's --node-grace-seconds if that is
    /// less (simulated nodes do not know that)
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub heartbeat_seconds: u64,
    /// Mirrors, credentials and certificates of other registries (the format of k3s' registries.yaml)
    #[arg(long, value_name = "FILE")]
    pub registries: Option<PathBuf>,
    /// A directory of this machine that pods may mount, as hostPath or as a local PersistentVolume made
    /// by hand; may be given more than once. Without it, pods see only volumes that were made here
    #[arg(long, value_name = "DIR")]
    pub host_path: Vec<PathBuf>,
    /// A folder of static pods, each in a file, or one such file: the node runs them without the
    /// control plane, which shows them as mirrors
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Seconds between two looks at that folder; most changes are seen at once
    #[arg(
        long,
        default_value_t = 20,
        value_name = "SECONDS",
        requires = "pod_manifest_path",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub file_check_seconds: u64,
    /// When memory or the data directory's disk are low: new pods stay away then, and with a low disk
    /// those leave that wrote more than they asked for
    /// [default: memory.available<100Mi, and nodefs.available and imagefs.available below 10% and 1Gi]
    #[arg(long, value_name = "SIGNAL<AMOUNT,…")]
    pub eviction_hard: Option<Thresholds>,
    /// Percent of the disk in use from which on images that were not used for longest are removed
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub image_gc_high: u8,
    /// Percent of the disk in use at which that ends
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=99))]
    pub image_gc_low: u8,
}

impl NodeTuning {
    /// # Errors
    /// For resources of which nothing can be reserved.
    pub fn reserved(&self) -> anyhow::Result<Reserved> {
        let mut reserved = Reserved::default();
        for (name, amount) in self.system_reserved.iter().flatten() {
            let amount = quantity::Quantity::parse(&amount.0)?;
            match name.as_str() {
                "cpu" => reserved.cpu_millicores = amount.milli().unsigned_abs(),
                "memory" => reserved.memory_bytes = amount.value().unsigned_abs(),
                other => {
                    anyhow::bail!("--system-reserved {other}: only cpu and memory can be reserved")
                }
            }
        }
        Ok(reserved)
    }

    /// # Errors
    /// For taints that a Node cannot have together.
    pub fn check_taints(&self) -> anyhow::Result<()> {
        for (i, taint) in self.taints.iter().enumerate() {
            let (key, effect) = (&taint.key, &taint.effect);
            if self.taints[..i].iter().any(|one| one.key == *key && one.effect == *effect) {
                anyhow::bail!("--taints: {key} has the effect {effect} twice");
            }
        }
        Ok(())
    }

    /// # Errors
    /// For patterns that only nodes with a number have a meaning for.
    pub fn check_labels(&self) -> anyhow::Result<()> {
        let Some((key, _)) = self.labels.iter().find(|(_, value)| !value.is_plain()) else {
            return Ok(());
        };
        anyhow::bail!("--labels {key}: only simulated nodes have a number (--simulate)")
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<NodeTuning, String> {
        let usual = ["wasmfleet", "node", "--server", "https://127.0.0.1:1"];
        let parsed = Cli::try_parse_from(usual.iter().chain(more));
        match parsed.map_err(|error| error.to_string())?.command {
            Command::Node(args) => Ok(args.tuning),
            #[cfg(any(feature = "control-plane", feature = "compiler"))]
            _ => unreachable!("a node was asked for"),
        }
    }

    #[test]
    fn labels_that_the_server_would_refuse_are_refused_at_once() {
        for more in [&[][..], &["--simulate", "2"]] {
            let with = |label: &'static str| parse(&[more, &["--labels", label]].concat());
            let refused = with("kubernetes.io/foo=x").map(drop).unwrap_err();
            assert!(refused.contains("a node may not give itself the label"), "{refused}");
            assert!(with("a=b,node-role.kubernetes.io/x=").is_err());
            assert!(with("wasmfleet.dev/simulator=x").is_err());
            assert!(with("topology.kubernetes.io/zone=a,node.kubernetes.io/x=y,disk=ssd").is_ok());
        }
    }

    #[test]
    fn taints_are_told_apart_by_key_and_effect() {
        let check = |taints| parse(&["--taints", taints]).unwrap().check_taints();
        assert!(check("a=b:NoSchedule,a=c:NoExecute,b:NoSchedule").is_ok());
        let twice = check("a=b:NoSchedule,a=c:NoSchedule").unwrap_err().to_string();
        assert_eq!(twice, "--taints: a has the effect NoSchedule twice");
    }

    #[test]
    fn simulated_nodes_refuse_what_means_nothing_to_them() {
        for flag in [&["--fence"][..], &["--image-gc-high", "90"], &["--image-gc-low", "70"]] {
            assert!(parse(flag).is_ok(), "{flag:?}");
            assert!(parse(&[&["--simulate", "2"], flag].concat()).is_err(), "{flag:?}");
        }
    }
}
