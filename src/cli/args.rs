//! What can be typed after `wasmctl`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  wasmctl push app.wasm hello:v1               put a component into the cluster's registry
  wasmctl apply -f web.yaml                    make the cluster be as the file says
  wasmctl get pods -A -w                       watch the pods of all namespaces
  wasmctl logs deployment/web -f               follow the logs of a workload
  wasmctl scale deployment/web --replicas=5
  wasmctl rollout undo deployment/web

The cluster is found as kubectl finds it: --kubeconfig, $KUBECONFIG, or ~/.kube/config.";

#[derive(Parser)]
#[command(name = "wasmctl", version, about = "The command line of a Wasmfleet cluster", after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Which cluster, as whom, and where.
#[derive(Args)]
pub struct Connection {
    /// The kubeconfig file to use
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace to work in [default: the context's, or `default`]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Create or change objects so that they are as files say
    Apply(FileArgs),
    /// Create objects from files; an object that exists is an error
    Create(FileArgs),
    /// Show objects
    Get(GetArgs),
    /// Show objects in detail, with their events
    Describe(SelectArgs),
    /// Delete objects by files, by names, or by labels
    Delete(DeleteArgs),
    /// Print the logs of a pod's container
    Logs(LogsArgs),
    /// Set the number of replicas
    Scale(ScaleArgs),
    /// Follow or change the rollout of a Deployment
    Rollout(RolloutArgs),
    /// Run one pod of an image
    Run(RunArgs),
    /// Change a workload: `set image`
    Set(SetArgs),
    /// Put a Wasm module or component into the cluster's registry
    Push(PushArgs),
    /// List the images of the cluster's registry
    Images,
    /// List the kinds that the server serves
    ApiResources,
    /// Show the versions of wasmctl and of the server
    Version,
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
}

#[derive(Args)]
pub struct FileArgs {
    /// YAML or JSON files, folders of them, or - for stdin
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub filename: Vec<String>,
    /// Let the server check everything, and store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the objects instead of what happened: json, yaml or name
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
}

/// Objects by type, name and label, as kubectl takes them: `pods`, `pods a b`, `pod/a svc/b`,
/// `pods,services`, `all`.
#[derive(Args)]
pub struct SelectArgs {
    /// TYPE [NAME…], TYPE/NAME…, or TYPE,TYPE
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Vec<String>,
    /// Only objects with these labels, e.g. app=web,tier!=test
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

#[derive(Args)]
pub struct GetArgs {
    #[command(flatten)]
    pub select: SelectArgs,
    /// wide, json, yaml, name, or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
    /// Go on printing changes
    #[arg(short, long)]
    pub watch: bool,
    /// Only objects with these field values, e.g. status.phase=Running
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
    /// Show labels as the last column
    #[arg(long)]
    pub show_labels: bool,
    /// Print no header line
    #[arg(long)]
    pub no_headers: bool,
    /// Objects that do not exist are no error
    #[arg(long)]
    pub ignore_not_found: bool,
}

#[derive(Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    pub select: SelectArgs,
    /// Delete the objects of these files
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Vec<String>,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
    /// Seconds that pods get to end
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<i64>,
    /// Delete at once, with a grace period of 0
    #[arg(long)]
    pub force: bool,
    /// What becomes of dependents: background, foreground or orphan
    #[arg(long, default_value = "background", value_name = "HOW")]
    pub cascade: String,
    /// Do not wait until the objects are gone
    #[arg(long)]
    pub no_wait: bool,
    /// Objects that do not exist are no error
    #[arg(long)]
    pub ignore_not_found: bool,
}

#[derive(Args)]
pub struct LogsArgs {
    /// A pod's name, or TYPE/NAME of a workload
    #[arg(value_name = "POD | TYPE/NAME", required_unless_present = "selector")]
    pub what: Option<String>,
    /// Pods with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "what")]
    pub selector: Option<String>,
    /// The container [default: the pod's only or first one]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Go on printing as lines come
    #[arg(short, long)]
    pub follow: bool,
    /// The log of the container's last run before this one
    #[arg(short, long)]
    pub previous: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Only lines younger than this, e.g. 90s, 5m, 2h
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
    pub since: Option<u64>,
    /// Begin each line with its time
    #[arg(long)]
    pub timestamps: bool,
    /// Begin each line with its pod (always with several pods)
    #[arg(long)]
    pub prefix: bool,
}

#[derive(Args)]
pub struct ScaleArgs {
    /// TYPE/NAME, e.g. deployment/web
    #[arg(value_name = "TYPE/NAME", required = true)]
    pub what: Vec<String>,
    /// The number of replicas to have
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub replicas: i32,
    /// Only if there are so many now
    #[arg(long, value_name = "N")]
    pub current_replicas: Option<i32>,
}

#[derive(Args)]
pub struct RolloutArgs {
    #[command(subcommand)]
    pub action: RolloutAction,
}

#[derive(Subcommand)]
pub enum RolloutAction {
    /// Wait until a rollout is complete, telling how far it is
    Status {
        #[arg(value_name = "TYPE/NAME", required = true)]
        what: Vec<String>,
        /// Give up after this time, e.g. 90s or 5m
        #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
        timeout: Option<u64>,
    },
    /// List the revisions that can be gone back to
    History {
        #[arg(value_name = "TYPE/NAME", required = true)]
        what: Vec<String>,
        /// Show the pod template of one revision
        #[arg(long, value_name = "N")]
        revision: Option<i64>,
    },
    /// Go back to an earlier revision
    Undo {
        #[arg(value_name = "TYPE/NAME", required = true)]
        what: Vec<String>,
        /// The revision [default: the one before]
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        to_revision: i64,
    },
    /// Replace all pods by new ones of the same template
    Restart {
        #[arg(value_name = "TYPE/NAME", required = true)]
        what: Vec<String>,
    },
    /// Hold changes of the template back
    Pause {
        #[arg(value_name = "TYPE/NAME", required = true)]
        what: Vec<String>,
    },
    /// Roll held changes out
    Resume {
        #[arg(value_name = "TYPE/NAME", required = true)]
        what: Vec<String>,
    },
}

#[derive(Args)]
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
    /// Only print the manifest
    #[arg(long)]
    pub dry_run: bool,
    /// Arguments for the program
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

#[derive(Args)]
pub struct SetArgs {
    #[command(subcommand)]
    pub what: SetWhat,
}

#[derive(Subcommand)]
pub enum SetWhat {
    /// Change the images of a workload's containers
    Image {
        /// TYPE/NAME, e.g. deployment/web
        #[arg(value_name = "TYPE/NAME")]
        what: String,
        /// CONTAINER=IMAGE; * stands for every container
        #[arg(value_name = "CONTAINER=IMAGE", required = true)]
        images: Vec<String>,
    },
}

#[derive(Args)]
pub struct PushArgs {
    /// A .wasm file: a component, or a preview 1 module
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The image's name and tag, e.g. hello:v1
    #[arg(value_name = "NAME:TAG")]
    pub image: String,
}

/// `90`, `90s`, `5m`, `2h`, `1h30m` as seconds.
fn parse_seconds(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let span: jiff::Span =
        text.parse().map_err(|_| format!("{text:?} is no duration; write 90s, 5m or 2h"))?;
    let total = span.total(jiff::Unit::Second).map_err(|e| e.to_string())?;
    if total < 0.0 {
        return Err("a duration cannot be negative".into());
    }
    Ok(total as u64)
}
