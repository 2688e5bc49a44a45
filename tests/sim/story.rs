//! A story: what happens in a simulated cluster, step by step, as data. It is made of a seed, can be
//! printed, and parts of it can be left out.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use wasmfleet::api::Kind;
use wasmfleet::api::resource::Gvr;
use wasmfleet::client::{Propagation, Target};

use super::fakes::Link;
use super::pausable::Pause;
use super::themes::{THEMES, Theme};
use super::truth::sets::Bounds;

/// What happens in one simulated cluster.
#[derive(Clone)]
pub struct Story {
    /// Decides, beside the steps, where faults strike and how long things take.
    pub seed: u64,
    pub theme: &'static Theme,
    pub nodes: usize,
    pub steps: Vec<Step>,
}

#[derive(Clone)]
pub struct Step {
    /// The time that passes before it.
    pub wait: Duration,
    pub what: What,
}

/// A kind that stories have objects of.
#[derive(Clone, Copy)]
pub struct Sort {
    pub resource: Resource,
    pub api_version: &'static str,
    pub kind: &'static str,
}

/// Tells the resource.
type Resource = fn() -> Gvr;

pub const fn sort<T: Kind>() -> Sort {
    Sort { resource: Gvr::of::<T>, api_version: T::API_VERSION, kind: T::KIND }
}

pub const DEPLOYMENT: Sort = sort::<Deployment>();
pub const STATEFUL_SET: Sort = sort::<StatefulSet>();
pub const DAEMON_SET: Sort = sort::<DaemonSet>();
pub const JOB: Sort = sort::<Job>();
pub const CRON_JOB: Sort = sort::<CronJob>();
pub const POD: Sort = sort::<Pod>();
pub const SERVICE: Sort = sort::<Service>();
pub const BUDGET: Sort = sort::<PodDisruptionBudget>();
pub const NODE: Sort = sort::<Node>();
pub const PRIORITY_CLASS: Sort = sort::<PriorityClass>();

impl Sort {
    /// An object of the namespace `default`, or of none.
    pub fn target(&self, name: Option<&str>) -> Target {
        let resource = (self.resource)();
        let namespace = resource.namespaced.then(|| "default".to_string());
        Target { resource, namespace, name: name.map(str::to_string), subresource: None }
    }
}

/// One of the pods with a label `app`, whichever there are when its turn comes.
#[derive(Clone, Debug)]
pub struct Pick {
    pub app: &'static str,
    pub turn: usize,
}

#[derive(Clone)]
pub enum What {
    Create(Sort, Value),
    Patch(Sort, &'static str, Value),
    Delete(Sort, &'static str, Propagation),
    /// Asks for the eviction of a pod, as a drain does.
    Evict(Pick),
    DeletePod(Pick),
    /// Its containers ended in error.
    FailPod(Pick),
    /// It is unready until the end.
    Sicken(Pick),
    /// By number.
    Link(usize, Link),
    AddNode(&'static str),
    DeleteNode(usize),
    /// The API, the store and watches misbehave, or do so no more.
    Faults(bool),
    Crash,
    /// The control plane crashes after each so many writes; 0: no more.
    CrashEvery(u64),
    Outage(Duration),
    /// The store forgets its history.
    Compact,
    /// All watches end.
    EndWatches,
    /// The clock is set forward or back, in seconds.
    Jump(i64),
    /// A second process runs, and leads when the first one does not.
    SecondLeader(bool),
    /// Whoever leads is stopped, or cannot renew.
    Pause(Pause),
    /// Whoever was stopped goes on.
    Resume,
    /// Without faults, until everything is as asked.
    Rest,
    /// How many pods of `db` there are, and how many may be unavailable from now on.
    Bounds(Option<Bounds>),
    /// On how many nodes `agent` must serve from now on.
    LeastDaemons(Option<usize>),
    /// All Deployments have their pods, though not all nodes are there.
    ExpectServing,
    /// Nobody is on the way out.
    ExpectNobodyLeaves,
    /// The ready pods, and no others, are behind their Services.
    ExpectEndpoints,
}

impl Story {
    /// The story of a seed: themes take turns.
    pub fn of(seed: u64) -> Story {
        let at = usize::try_from(seed).unwrap_or(0) % THEMES.len();
        Story::themed(&THEMES[at], seed)
    }

    pub fn themed(theme: &'static Theme, seed: u64) -> Story {
        let random = StdRng::seed_from_u64(seed ^ 0x5702);
        let mut writer = Writer { random, steps: Vec::new() };
        (theme.write)(&mut writer);
        Story { seed, theme, nodes: theme.nodes, steps: writer.steps }
    }
}

/// Writes a story.
pub struct Writer {
    pub random: StdRng,
    steps: Vec<Step>,
}

impl Writer {
    /// What happens at once.
    pub fn now(&mut self, what: What) {
        self.steps.push(Step { wait: Duration::ZERO, what });
    }

    /// What happens after exactly so many seconds.
    pub fn after(&mut self, seconds: u64, what: What) {
        self.steps.push(Step { wait: Duration::from_secs(seconds), what });
    }

    pub fn after_millis(&mut self, millis: u64, what: What) {
        self.steps.push(Step { wait: Duration::from_millis(millis), what });
    }

    /// What happens within so many seconds.
    pub fn within(&mut self, seconds: u64, what: What) {
        let most = Duration::from_secs(seconds);
        let wait = self.random.random_range(Duration::ZERO..most);
        // Whole milliseconds are enough, and read better.
        let wait = Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(0));
        self.steps.push(Step { wait, what });
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    pub fn pick(&mut self, app: &'static str) -> Pick {
        Pick { app, turn: self.random.random_range(0..64) }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, seed, nodes) = (self.theme.name, self.seed, self.nodes);
        writeln!(f, "seed {seed}, theme {name}, {nodes} nodes, {} steps:", self.steps.len())?;
        for step in &self.steps {
            writeln!(f, "  +{:>8.3} s  {}", step.wait.as_secs_f64(), step.what)?;
        }
        Ok(())
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Create(sort, value) => write!(f, "create {} {value}", sort.kind),
            What::Patch(sort, name, value) => write!(f, "patch {} {name} {value}", sort.kind),
            What::Delete(sort, name, how) => write!(f, "delete {} {name}, {how:?}", sort.kind),
            What::Evict(pick) => write!(f, "evict {pick:?}"),
            What::DeletePod(pick) => write!(f, "delete pod {pick:?}"),
            What::FailPod(pick) => write!(f, "fail pod {pick:?}"),
            What::Sicken(pick) => write!(f, "sicken pod {pick:?}"),
            What::Link(node, link) => write!(f, "node {node}: {link:?}"),
            What::AddNode(name) => write!(f, "add node {name}"),
            What::DeleteNode(node) => write!(f, "delete node {node}"),
            What::Faults(on) => write!(f, "faults {}", if *on { "on" } else { "off" }),
            What::Crash => write!(f, "crash"),
            What::CrashEvery(writes) => write!(f, "crash after each {writes} writes (0: never)"),
            What::Outage(time) => write!(f, "no API for {time:?}"),
            What::Compact => write!(f, "compact"),
            What::EndWatches => write!(f, "end all watches"),
            What::Jump(seconds) => write!(f, "clock jumps {seconds} s"),
            What::SecondLeader(on) => write!(f, "second leader {}", if *on { "on" } else { "off" }),
            What::Pause(pause) => write!(f, "pause the leader: {pause:?}"),
            What::Resume => write!(f, "resume"),
            What::Rest => write!(f, "faults off, rest"),
            What::Bounds(bounds) => write!(f, "bounds of db: {bounds:?}"),
            What::LeastDaemons(least) => write!(f, "daemons on at least {least:?} nodes"),
            What::ExpectServing => write!(f, "expect that all serve"),
            What::ExpectNobodyLeaves => write!(f, "expect that nobody leaves"),
            What::ExpectEndpoints => write!(f, "expect that the ready are behind their Services"),
        }
    }
}
