//! What verbs about objects of any kind take.

use clap::Args;

use super::{Outcome, Trial, parse_duration, parse_seconds};

#[derive(Args)]
#[command(mut_arg("dry_run", |arg| arg.default_missing_value("server").help(
    "Store nothing: let the server check everything (server), or send nothing (client)"
)))]
#[command(mut_arg("output", |arg| arg.help(
    "Print the objects instead of what happened: json, yaml or name"
)))]
pub struct FileArgs {
    /// YAML or JSON files, folders of them, or - for stdin
    #[arg(short, long = "filename", value_name = "FILE", required = true, value_delimiter = ',')]
    pub filename: Vec<String>,
    /// Read the folders in folders too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    #[command(flatten)]
    pub outcome: Outcome,
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
    pub simple: Option<crate::cli::generate::Simple>,
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
    /// The nodes, by name
    #[arg(value_name = "NODE", required_unless_present = "selector")]
    pub nodes: Vec<String>,
    /// Nodes with these labels
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "nodes")]
    pub selector: Option<String>,
}

#[derive(Args)]
pub struct DrainArgs {
    #[command(flatten)]
    pub which: NodeArgs,
    /// Only pods with these labels leave
    #[arg(long, value_name = "LABELS")]
    pub pod_selector: Option<String>,
    /// Leave pods of DaemonSets where they are
    #[arg(long)]
    pub ignore_daemonsets: bool,
    /// Let pods leave that have data in an emptyDir, which is lost
    #[arg(long)]
    pub delete_emptydir_data: bool,
    /// Let pods leave that no controller makes anew
    #[arg(long)]
    pub force: bool,
    /// Delete pods, whatever their disruption budgets say
    #[arg(long)]
    pub disable_eviction: bool,
    /// Seconds that pods get to end [default: their own]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub grace_period: Option<i64>,
    /// Stop waiting after this time, e.g. 90s or 5m [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
    pub timeout: Option<u64>,
}

#[derive(Args)]
pub struct TaintArgs {
    /// node NAME… or node/NAME…, then KEY=VALUE:EFFECT to add, KEY:EFFECT- or KEY- to remove
    #[arg(value_name = "node [NAME] | KEY=VALUE:EFFECT | KEY-", required = true)]
    pub words: Vec<String>,
    /// Replace a taint of the same key and effect
    #[arg(long)]
    pub overwrite: bool,
    /// All nodes
    #[arg(long, conflicts_with = "selector")]
    pub all: bool,
    /// Nodes with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
}

/// Objects that exist, by files, names or labels, or all of a type.
#[derive(Args)]
pub struct TargetArgs {
    #[command(flatten)]
    pub select: SelectArgs,
    /// The objects of these files
    #[arg(short, long = "filename", value_name = "FILE", value_delimiter = ',')]
    pub filename: Vec<String>,
    /// Read the folders in folders too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
    /// Only objects with these field values, e.g. status.phase=Running
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
}

#[derive(Args)]
pub struct WaitArgs {
    #[command(flatten)]
    pub targets: TargetArgs,
    /// create, delete, condition=NAME[=VALUE], or jsonpath='{PATH}'[=VALUE]
    #[arg(long = "for", value_name = "WHAT", default_value = "", hide_default_value = true)]
    pub wanted: String,
    /// Give up after this time, e.g. 90s or 5m; 0 looks once, less than that waits for a week
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s",
          allow_hyphen_values = true)]
    pub timeout: jiff::SignedDuration,
    /// Print the objects instead of what happened: json, yaml or name
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
}

#[derive(Args)]
#[command(mut_arg("dry_run", |arg| arg.default_missing_value("server").help(
    "Delete nothing: let the server check (server), or send nothing (client)"
)))]
pub struct DeleteArgs {
    #[command(flatten)]
    pub targets: TargetArgs,
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
    #[command(flatten)]
    pub trial: Trial,
}
