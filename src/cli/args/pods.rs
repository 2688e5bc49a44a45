//! What verbs that reach into pods take.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Outcome, parse_seconds};

#[derive(Args, Default)]
pub struct LogsArgs {
    /// A pod's name, or TYPE/NAME of a workload, whose pods are read all
    #[arg(value_name = "POD | TYPE/NAME", required_unless_present = "selector")]
    pub what: Option<String>,
    /// The container
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    pub in_container: Option<String>,
    /// Pods with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "what")]
    pub selector: Option<String>,
    /// The container [default: the pod's only or first one]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// All containers of the pods
    #[arg(long, conflicts_with_all = ["container", "in_container"])]
    pub all_containers: bool,
    /// Go on printing as lines come
    #[arg(short, long)]
    pub follow: bool,
    /// The log of the container's last run before this one
    #[arg(short, long)]
    pub previous: bool,
    /// Only the last lines; -1 for all
    #[arg(long, value_name = "LINES", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..))]
    pub tail: Option<i64>,
    /// Only lines younger than this, e.g. 90s, 5m, 2h
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
    pub since: Option<u64>,
    /// Only lines after this time, e.g. 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "since")]
    pub since_time: Option<String>,
    /// Begin each line with its time
    #[arg(long)]
    pub timestamps: bool,
    /// Begin each line with its pod and container (always with several)
    #[arg(long)]
    pub prefix: bool,
}

#[derive(Args)]
pub struct ExecArgs {
    /// The pod, or TYPE/NAME: a pod of that workload
    #[arg(value_name = "POD")]
    pub what: String,
    /// The container [default: the pod's only or first one]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Pass what is typed, or a file, to its input
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Its streams are a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The program's name, as the container is started by, and arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Args)]
pub struct AttachArgs {
    /// The pod, or TYPE/NAME: a pod of that workload
    #[arg(value_name = "POD")]
    pub what: String,
    /// The container [default: the pod's only or first one]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Pass what is typed, or a file, to its input (the container needs `stdin: true`)
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Its streams are a terminal (the container needs `tty: true`)
    #[arg(short = 't', long)]
    pub tty: bool,
}

#[derive(Args)]
pub struct PortForwardArgs {
    /// The pod, or TYPE/NAME: a pod of that workload or Service
    #[arg(value_name = "POD")]
    pub what: String,
    /// Ports of this machine and of the pod: 8080, 8888:8080, or :8080 for any free one
    #[arg(value_name = "[LOCAL:]PORT", required = true)]
    pub ports: Vec<String>,
    /// The address of this machine to listen on
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub address: std::net::IpAddr,
}

#[derive(Args)]
#[command(mut_arg("dry_run", |arg| arg.help(
    "Only print the manifest (client), or let the server check and store nothing (server)"
)))]
#[command(mut_arg("output", |arg| arg.help(
    "Print the object instead of what happened: json, yaml or name"
)))]
pub struct RunArgs {
    /// The pod's name
    pub name: String,
    /// The image, e.g. hello:v1
    #[arg(long)]
    pub image: String,
    /// The port that the component serves
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Environment variables, NAME=VALUE
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Labels, NAME=VALUE [default: run=NAME]
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
    /// Always, OnFailure or Never
    #[arg(long, default_value = "Always", value_name = "POLICY")]
    pub restart: String,
    /// Wait until the pod ended, print its log, and end with its exit code
    #[arg(long)]
    pub wait: bool,
    /// Delete the pod after it ended (with --wait)
    #[arg(long, requires = "wait")]
    pub rm: bool,
    #[command(flatten)]
    pub outcome: Outcome,
    /// Arguments for the program
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

#[derive(Args)]
pub struct CpArgs {
    /// A path of this machine, or [NAMESPACE/]POD:PATH
    #[arg(value_name = "FROM")]
    pub from: String,
    /// The same; exactly one of both is in a pod. `-` writes a tar archive to standard output
    #[arg(value_name = "TO")]
    pub to: String,
    /// The container [default: the pod's only or first one]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
}

#[derive(Args)]
pub struct TopArgs {
    #[command(subcommand)]
    pub what: TopWhat,
}

#[derive(Subcommand)]
pub enum TopWhat {
    /// What the pods of each node use
    #[command(visible_alias = "node")]
    Nodes {
        #[arg(value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        common: TopCommon,
    },
    /// What each pod uses
    #[command(visible_alias = "pod")]
    Pods {
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// Each container
        #[arg(long)]
        containers: bool,
        /// Pods of all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        #[command(flatten)]
        common: TopCommon,
    },
}

#[derive(Args)]
pub struct TopCommon {
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "name")]
    pub selector: Option<String>,
    /// The most of this first: cpu or memory
    #[arg(long, value_name = "RESOURCE", value_parser = ["cpu", "memory"])]
    pub sort_by: Option<String>,
    /// Print no header line
    #[arg(long)]
    pub no_headers: bool,
}

#[derive(Args)]
pub struct WhyArgs {
    /// The pod, or TYPE/NAME: a pod of that workload
    #[arg(value_name = "POD")]
    pub what: String,
    /// Nodes that are shown one by one
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub nodes: usize,
    /// json or yaml: the server's answer
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
}

#[derive(Args)]
pub struct ProfileArgs {
    /// The pod, or TYPE/NAME: a pod of that workload
    #[arg(value_name = "POD")]
    pub what: String,
    /// The container [default: the pod's only or first one]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// How long, e.g. 10s or 1m; five minutes at most
    #[arg(long, value_name = "DURATION", default_value = "10", value_parser = parse_seconds)]
    pub seconds: u64,
    /// The file to write [default: POD-profile.json]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Args)]
pub struct CoreDumpArgs {
    /// The pod, or TYPE/NAME: a pod of that workload
    #[arg(value_name = "POD")]
    pub what: String,
    /// The container [default: the pod's only or first one]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// The file to write [default: POD.coredump]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
