//! What verbs about workloads take.

use clap::{Args, Subcommand};

use super::{Outcome, parse_seconds};
use crate::cli::autoscale::{cpu_target, memory_target};

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
pub struct AutoscaleArgs {
    /// TYPE/NAME or TYPE NAME, e.g. deployment/web
    #[arg(value_name = "TYPE/NAME", required = true)]
    pub what: Vec<String>,
    /// The fewest replicas [default: the server's, 1]; 0 stops the pods while nobody asks for them
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub min: Option<i32>,
    /// The most replicas
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub max: i32,
    /// What the pods are to use on average: a share of what they ask for (70%), or a number of each
    /// (500m, or 500) [default: 80%, if nothing is said of memory either]
    #[arg(long, value_name = "TARGET", value_parser = cpu_target)]
    pub cpu: Option<serde_json::Value>,
    /// The same of memory: 70%, 200Mi, or 200
    #[arg(long, value_name = "TARGET", value_parser = memory_target)]
    pub memory: Option<serde_json::Value>,
    /// The older form of --cpu=N%
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "cpu")]
    pub cpu_percent: Option<i32>,
    /// The autoscaler's name [default: that of what it scales]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub outcome: Outcome,
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
    /// Hold changes of the template of a Deployment back
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
