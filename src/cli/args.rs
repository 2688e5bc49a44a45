//! What can be typed after `wasmctl`: the verbs here, what each takes in a file a topic.

mod objects;
mod outcome;
mod pods;
mod programs;
mod workloads;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use objects::*;
pub use outcome::*;
pub use pods::*;
pub use programs::*;
pub use workloads::*;

const EXAMPLES: &str = "\
Examples:
  wasmctl push app.wasm hello:v1               put a component into the cluster's registry
  wasmctl apply -f web.yaml                    make the cluster be as the file says
  wasmctl get pods -A -w                       watch the pods of all namespaces
  wasmctl logs deployment/web -f               follow the logs of a workload
  wasmctl scale deployment/web --replicas=5
  wasmctl autoscale deployment/web --max=10 --cpu=70%
  wasmctl rollout undo deployment/web
  wasmctl wait pod/web-0 --for=condition=Ready
  wasmctl why web-0                            why a pod waits for a node, and what would help

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
    /// Show what the scheduler thinks of a pod: each node with what refused it, or its scores
    Why(WhyArgs),
    /// Set or remove labels
    Label(LabelArgs),
    /// Set or remove annotations
    Annotate(LabelArgs),
    /// Keep new pods off a node
    Cordon(NodeArgs),
    /// Let new pods onto a node again
    Uncordon(NodeArgs),
    /// Keep new pods off nodes, and let those that are there leave, within their disruption budgets
    Drain(DrainArgs),
    /// Add or remove taints, which keep pods off nodes that do not tolerate them
    Taint(TaintArgs),
    /// Delete objects by files, by names, or by labels
    Delete(DeleteArgs),
    /// Wait until objects are as wanted: created, deleted, with a condition or a value
    Wait(WaitArgs),
    /// Print the logs of a pod's container
    Logs(LogsArgs),
    /// Run a container's program once more, in its sandbox, with other arguments
    Exec(ExecArgs),
    /// Connect to the streams of a container that runs
    Attach(AttachArgs),
    /// Forward ports of this machine to ports of a pod
    PortForward(PortForwardArgs),
    /// Copy files between this machine and the volumes of a pod's container
    Cp(CpArgs),
    /// Show what nodes or pods use: processor time and memory
    Top(TopArgs),
    /// Show how the control plane's loops fare: queues, writes, latency, last errors
    Controllers(ControllersArgs),
    /// Record where a container's program spends its time, for the Firefox profiler
    Profile(ProfileArgs),
    /// Fetch the core dump of a container's program that trapped
    CoreDump(CoreDumpArgs),
    /// Set the number of replicas
    Scale(ScaleArgs),
    /// Let an autoscaler set the number of replicas, by what the pods use
    Autoscale(AutoscaleArgs),
    /// Follow or change the rollout of a Deployment, DaemonSet or StatefulSet
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

#[derive(Args)]
pub struct ControllersArgs {
    /// Print all that the server tells instead of a table
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<ControllersOutput>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ControllersOutput {
    Json,
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

/// The same with parts of a second, and a sign.
fn parse_duration(text: &str) -> Result<jiff::SignedDuration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(jiff::SignedDuration::from_secs(seconds));
    }
    text.parse().map_err(|_| format!("{text:?} is no duration; write 90s, 5m or 500ms"))
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
        assert_eq!(delete(&["--dry-run=client"]).trial.dry_run, DryRun::Client);
        assert_eq!(delete(&["--cascade=orphan"]).cascade, "orphan");
        assert_eq!(delete(&["--dry-run"]).targets.select.what, ["pod", "a"]);
    }

    #[test]
    fn durations_are_seconds() {
        assert_eq!(parse_seconds("90"), Ok(90));
        assert_eq!(parse_seconds("1h30m"), Ok(5400));
        assert!(parse_seconds("soon").unwrap_err().contains("is no duration"));
        let millis = |text: &str| parse_duration(text).map(|span| span.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("1m30s"), Ok(90_000));
        assert_eq!(millis("-1s"), Ok(-1_000));
        assert_eq!(millis("0"), Ok(0));
        assert!(millis("soon").unwrap_err().contains("is no duration"));
    }
}
