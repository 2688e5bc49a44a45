//! What can be typed after `wasmctl`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::remote::Query;

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
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,
    /// The namespace to work in [default: the context's, or `default`]
    #[arg(short, long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub namespace: Option<String>,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Create or change objects so that they are as files say
    Apply(ApplyArgs),
    /// Create objects from files, or a simple one from arguments; one that exists is an error
    Create(CreateArgs),
    /// Show objects
    Get(GetArgs),
    /// Show objects in detail, with their events
    Describe(SelectArgs),
    /// Set or remove labels
    Label(LabelArgs),
    /// Set or remove annotations
    Annotate(LabelArgs),
    /// Keep new pods off a node
    Cordon(NodeArgs),
    /// Let new pods onto a node again
    Uncordon(NodeArgs),
    /// Delete objects by files, by names, or by labels
    Delete(DeleteArgs),
    /// Print the logs of a pod's container
    Logs(LogsArgs),
    /// Run a container's program once more, in its sandbox, with other arguments
    Exec(ExecArgs),
    /// Connect to the streams of a container that runs
    Attach(AttachArgs),
    /// Forward ports of this machine to ports of a pod
    PortForward(PortForwardArgs),
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
    /// Show what a program is: kind, imports, exports, size, and what made it
    Inspect(InspectArgs),
    /// List the kinds that the server serves
    ApiResources,
    /// Show the versions of wasmctl and of the server
    Version,
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
}

/// What a command does instead of storing something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DryRun {
    None,
    /// Nothing is sent.
    Client,
    /// The server checks, and stores nothing.
    Server,
}

impl DryRun {
    /// What follows the word of what was done.
    pub fn suffix(self) -> &'static str {
        match self {
            DryRun::None => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        }
    }

    pub fn add_to(self, query: &mut Query) {
        query.add("dryRun", if self == DryRun::Server { "All" } else { "" });
    }
}

#[derive(Args)]
pub struct FileArgs {
    /// YAML or JSON files, folders of them, or - for stdin
    #[arg(short, long = "filename", value_name = "FILE", required = true, value_delimiter = ',')]
    pub filename: Vec<String>,
    /// Read the folders in folders too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Store nothing: let the server check everything (server), or send nothing (client)
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_value = "none",
          default_missing_value = "server", value_name = "HOW", hide_possible_values = true,
          hide_default_value = true)]
    pub dry_run: DryRun,
    /// Print the objects instead of what happened: json, yaml or name
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
}

#[derive(Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    pub files: FileArgs,
    /// Not supported yet
    #[arg(long, hide = true)]
    pub server_side: bool,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct CreateArgs {
    #[command(flatten)]
    pub files: FileArgs,
    #[command(subcommand)]
    pub simple: Option<super::generate::Simple>,
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
    /// wide, json, yaml, name, jsonpath=TEMPLATE, or custom-columns=NAME:PATH,…
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
    /// Go on printing changes
    #[arg(short, long)]
    pub watch: bool,
    /// Print changes only, not what is there
    #[arg(long)]
    pub watch_only: bool,
    /// Only objects with these field values, e.g. status.phase=Running
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
    /// Sort by a field, e.g. .metadata.creationTimestamp
    #[arg(long, value_name = "PATH", conflicts_with_all = ["watch", "watch_only"])]
    pub sort_by: Option<String>,
    /// Show these labels as columns
    #[arg(short = 'L', long, value_name = "LABELS", value_delimiter = ',')]
    pub label_columns: Vec<String>,
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
pub struct LabelArgs {
    /// TYPE NAME… or TYPE/NAME…, then KEY=VALUE to set, or KEY- to remove
    #[arg(value_name = "TYPE[/NAME] | KEY=VALUE | KEY-", required = true)]
    pub words: Vec<String>,
    /// Replace values that are there
    #[arg(long)]
    pub overwrite: bool,
    /// All objects of the type in the namespace
    #[arg(long, conflicts_with = "selector")]
    pub all: bool,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
}

#[derive(Args)]
pub struct NodeArgs {
    #[arg(value_name = "NODE", required_unless_present = "selector")]
    pub nodes: Vec<String>,
    /// Nodes with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "nodes")]
    pub selector: Option<String>,
}

#[derive(Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    pub select: SelectArgs,
    /// Delete the objects of these files
    #[arg(short, long = "filename", value_name = "FILE", value_delimiter = ',')]
    pub filename: Vec<String>,
    /// Read the folders in folders too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
    /// Seconds that pods get to end
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, conflicts_with = "now")]
    pub grace_period: Option<i64>,
    /// Give pods one second to end
    #[arg(long, conflicts_with = "force")]
    pub now: bool,
    /// Delete at once, with a grace period of 0
    #[arg(long)]
    pub force: bool,
    /// What becomes of dependents: background, foreground or orphan
    #[arg(long, default_value = "background", value_name = "HOW")]
    pub cascade: String,
    /// Wait until the objects are gone
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL",
          hide_possible_values = true)]
    pub wait: bool,
    /// The same as --wait=false
    #[arg(long)]
    pub no_wait: bool,
    /// Stop waiting after this time, e.g. 90s or 5m [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
    pub timeout: Option<u64>,
    /// Objects that do not exist are no error
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL",
          hide_possible_values = true, hide_default_value = true)]
    pub ignore_not_found: bool,
    /// Print names only: name
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
    /// Delete nothing: let the server check (server), or send nothing (client)
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_value = "none",
          default_missing_value = "server", value_name = "HOW", hide_possible_values = true,
          hide_default_value = true)]
    pub dry_run: DryRun,
}

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
pub struct ScaleArgs {
    /// TYPE/NAME or TYPE NAME, e.g. deployment/web
    #[arg(value_name = "TYPE/NAME", required = true)]
    pub what: Vec<String>,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
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
        #[arg(value_name = "TYPE[/NAME]", required = true)]
        what: Vec<String>,
        /// Give up after this time, e.g. 90s or 5m
        #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
        timeout: Option<u64>,
        /// Tell how far it is and do not wait (--watch=false)
        #[arg(short, long, num_args = 0..=1, require_equals = true, default_value = "true",
              default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL",
              hide_possible_values = true)]
        watch: bool,
    },
    /// List the revisions that can be gone back to
    History {
        #[arg(value_name = "TYPE[/NAME]", required = true)]
        what: Vec<String>,
        /// Show the pod template of one revision
        #[arg(long, value_name = "N")]
        revision: Option<i64>,
    },
    /// Go back to an earlier revision
    Undo {
        #[arg(value_name = "TYPE[/NAME]", required = true)]
        what: Vec<String>,
        /// The revision [default: the one before]
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
        to_revision: i64,
    },
    /// Replace all pods by new ones of the same template
    Restart {
        #[arg(value_name = "TYPE[/NAME]", required = true)]
        what: Vec<String>,
    },
    /// Hold changes of the template back
    Pause {
        #[arg(value_name = "TYPE[/NAME]", required = true)]
        what: Vec<String>,
    },
    /// Roll held changes out
    Resume {
        #[arg(value_name = "TYPE[/NAME]", required = true)]
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
    /// Only print the manifest (client), or let the server check and store nothing (server)
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_value = "none",
          default_missing_value = "client", value_name = "HOW", hide_possible_values = true,
          hide_default_value = true)]
    pub dry_run: DryRun,
    /// Print the object instead of what happened: json, yaml or name
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
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
        /// TYPE/NAME or TYPE NAME, e.g. deployment/web, then CONTAINER=IMAGE; * stands for every
        /// container
        #[arg(value_name = "TYPE/NAME | CONTAINER=IMAGE", required = true, num_args = 2..)]
        words: Vec<String>,
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

#[derive(Args)]
pub struct InspectArgs {
    /// A .wasm file, or an image of the cluster's registry, e.g. hello:v1
    #[arg(value_name = "FILE|NAME:TAG")]
    pub what: String,
    /// Print as json, yaml, or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn switches_that_kubectl_gives_values() {
        let delete = |words: &[&str]| match Cli::try_parse_from(
            [&["wasmctl", "delete", "pod", "a"], words].concat(),
        )
        .map(|cli| cli.verb)
        {
            Ok(Verb::Delete(args)) => args,
            Ok(_) => panic!("another verb"),
            Err(error) => panic!("{error}"),
        };
        assert!(delete(&[]).wait && delete(&["--wait"]).wait && !delete(&["--wait=false"]).wait);
        assert!(delete(&["--ignore-not-found"]).ignore_not_found);
        assert!(!delete(&["--ignore-not-found=false"]).ignore_not_found);
        assert_eq!(delete(&["--grace-period=-1"]).grace_period, Some(-1));
        assert_eq!(delete(&["--dry-run=client"]).dry_run, DryRun::Client);
        assert_eq!(delete(&["--cascade=orphan"]).cascade, "orphan");
        assert_eq!(delete(&["--dry-run"]).select.what, ["pod", "a"]);
    }

    #[test]
    fn durations_are_seconds() {
        assert_eq!(parse_seconds("90"), Ok(90));
        assert_eq!(parse_seconds("1h30m"), Ok(5400));
        assert!(parse_seconds("soon").unwrap_err().contains("is no duration"));
    }
}
