//! What plugins are: filters say which nodes cannot run a pod and why, scores say which of the rest
//! is best. Plugins are pure and know only a [`PodInfo`] and a [`NodeInfo`].
//! Source of the vocabulary: KEP-624 (scheduling framework).

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::advice;
use super::pod_info::PodInfo;
use super::preemption::UNDER_WAY;
use super::resources::Amount;
use super::slots::{Found, Objection, Slot};
use super::snapshot::{NodeInfo, Snapshot};
use super::topology::TallyId;

/// The highest score that a plugin gives; fine enough that one small pod moves a large node's score.
pub const MAX_SCORE: i64 = 10_000;

/// The bytes of what is told of a refused pod, as far as advice fills them: an Event holds 1,024.
const MOST_TOLD: usize = 1_000;

/// Why one node cannot run a pod, each reason as a FailedScheduling event counts it
/// ("Insufficient cpu").
pub type Reasons = Vec<Cow<'static, str>>;

/// Says whether a node can run a pod.
pub trait FilterPlugin: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// `Err` tells everything that this plugin finds wrong with the node.
    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons>;

    /// Whether the answer for a node changes when a pod is placed on it.
    fn depends_on_pods(&self) -> bool {
        false
    }

    /// Whether pods of lower priority that leave the node may turn a refusal into a yes. Source:
    /// KEP-624's Unschedulable, as against UnschedulableAndUnresolvable.
    fn is_resolvable(&self, _pod: &PodInfo, _node: &NodeInfo) -> bool {
        false
    }

    /// The changes that can turn this plugin's refusal into a yes.
    fn woken_by(&self) -> &'static [Wake];
}

/// Says how good a node is, from 0 to [`MAX_SCORE`].
pub trait ScorePlugin: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    fn weight(&self) -> i64;

    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64;

    /// Whether the score of a node changes when a pod is placed on it.
    fn depends_on_pods(&self) -> bool {
        false
    }
}

/// Says what a pod thinks of a node's domains (its zone, its host), by the numbers of certain pods in
/// them. Knows numbers alone: which node has them makes no difference.
pub trait DomainPlugin: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    fn weight(&self) -> i64;

    /// What is to be counted for such a pod: KEP-624's PreFilter and PreScore.
    fn slots(&self, pod: &PodInfo, snapshot: &mut Snapshot) -> Vec<Slot>;

    /// Why a node is refused in whose domains that was found.
    fn object(&self, found: &[Found<'_>]) -> Option<Objection>;

    /// What speaks for such a node, or (as the plugin likes) against it; `None` where that cannot be
    /// said.
    fn score(&self, found: &[Found<'_>]) -> Option<i64>;

    /// A score as one from 0 to [`MAX_SCORE`], among scores from `least` to `most`.
    fn normalize(&self, score: i64, least: i64, most: i64) -> i64;

    /// The changes that can turn a refusal into a yes.
    fn woken_by(&self, slots: &[&Slot]) -> Vec<Wake>;
}

/// A part of a resource as a score, from 0 to [`MAX_SCORE`]; `None` where there is nothing to share.
pub fn share(part: Amount, total: Amount) -> Option<i64> {
    if total <= 0 {
        return None;
    }
    // The part is bounded first, so that the product is small enough.
    let score = part.clamp(0, total) * Amount::from(MAX_SCORE) / total;
    i64::try_from(score).ok()
}

/// What happened in the cluster, as far as refused pods care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wake {
    /// A node came, or its spec, labels or capacity changed.
    Node,
    /// A node is gone.
    NodeGone,
    /// A pod that held a place on a node is gone.
    PodGone,
    /// The number of pods changed that a tally counts.
    Tally(TallyId),
    /// The labels of a namespace changed.
    Namespace,
    /// A volume became free, or a storage class changed.
    Volume,
    /// A claim changed; see [`super::volumes::wake_of`].
    Claim(u64),
    /// A pod group or its Workload changed; see [`super::groups::GroupId::wake`].
    Group(u64),
}

/// The plugins of a profile in their order.
pub struct Framework {
    pub filters: Vec<Box<dyn FilterPlugin>>,
    pub scores: Vec<Box<dyn ScorePlugin>>,
    /// They filter after the filters, and score with the scores.
    pub domains: Vec<Box<dyn DomainPlugin>>,
    /// What is done for a pod that no node takes: KEP-624's PostFilter.
    pub preemption: Candidates,
}

/// How many nodes are looked at for one that pods could leave. Source:
/// kubescheduler.config.k8s.io DefaultPreemptionArgs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidates {
    /// Whether pods are preempted at all.
    pub wanted: bool,
    /// This part of the nodes, and so many at least.
    pub percent: usize,
    pub least: usize,
}

impl Default for Candidates {
    fn default() -> Candidates {
        Candidates { wanted: true, percent: 10, least: 100 }
    }
}

/// Where a pod's plugins come from.
pub trait Frameworks {
    fn of(&self, pod: &PodInfo) -> &Framework;

    /// The names by which pods choose theirs; those of other pods are another scheduler's.
    fn schedulers(&self) -> Vec<&str>;
}

impl Frameworks for Framework {
    fn of(&self, _: &PodInfo) -> &Framework {
        self
    }

    fn schedulers(&self) -> Vec<&str> {
        vec![super::NAME]
    }
}

/// A plugin that scores with another weight than its own.
pub struct Weighted<P> {
    pub plugin: P,
    pub weight: i64,
}

impl ScorePlugin for Weighted<Box<dyn ScorePlugin>> {
    fn name(&self) -> &'static str {
        self.plugin.name()
    }

    fn weight(&self) -> i64 {
        self.weight
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        self.plugin.score(pod, node)
    }

    fn depends_on_pods(&self) -> bool {
        self.plugin.depends_on_pods()
    }
}

/// A plugin that only filters, or only scores, or with another weight than its own.
pub struct Partly {
    pub plugin: Box<dyn DomainPlugin>,
    pub filters: bool,
    /// With which weight.
    pub scores: Option<i64>,
}

impl DomainPlugin for Partly {
    fn name(&self) -> &'static str {
        self.plugin.name()
    }

    fn weight(&self) -> i64 {
        self.scores.unwrap_or(0)
    }

    fn slots(&self, pod: &PodInfo, snapshot: &mut Snapshot) -> Vec<Slot> {
        let mut slots = self.plugin.slots(pod, snapshot);
        slots.retain(|slot| if slot.rule.is_hard() { self.filters } else { self.scores.is_some() });
        slots
    }

    fn object(&self, found: &[Found<'_>]) -> Option<Objection> {
        self.filters.then(|| self.plugin.object(found)).flatten()
    }

    fn score(&self, found: &[Found<'_>]) -> Option<i64> {
        self.scores.and_then(|_| self.plugin.score(found))
    }

    fn normalize(&self, score: i64, least: i64, most: i64) -> i64 {
        self.plugin.normalize(score, least, most)
    }

    fn woken_by(&self, slots: &[&Slot]) -> Vec<Wake> {
        self.plugin.woken_by(slots)
    }
}

/// Why no node was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    pub nodes: usize,
    /// Why no node will do, whatever they are.
    pub whole: Option<String>,
    /// Reason → number of nodes, sorted by reason.
    pub reasons: BTreeMap<Cow<'static, str>, usize>,
    /// How far its pod group came.
    pub group: Option<String>,
    /// Why no room is made for it.
    pub preemption: Option<String>,
    /// What can help.
    pub wakes: Vec<Wake>,
    /// The plugins that refused, and whether pods that leave some node may change that.
    pub plugins: BTreeMap<&'static str, bool>,
}

impl Framework {
    /// What the first filter that refuses a node says, with the index of the filter.
    pub fn refuse(&self, pod: &PodInfo, node: &NodeInfo) -> Option<(usize, Reasons)> {
        self.filters
            .iter()
            .enumerate()
            .find_map(|(n, filter)| filter.filter(pod, node).err().map(|reasons| (n, reasons)))
    }

    /// Whether a node passes the filters that look at no pods.
    pub fn admits(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let mut fixed = self.filters.iter().filter(|f| !f.depends_on_pods());
        fixed.all(|filter| filter.filter(pod, node).is_ok())
    }

    /// Whether a node passes the filters that look at its pods.
    pub fn still_fits(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let mut dependent = self.filters.iter().filter(|f| f.depends_on_pods());
        dependent.all(|filter| filter.filter(pod, node).is_ok())
    }

    /// The sum of the scores that do not change as pods are placed.
    pub fn fixed_score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        self.sum(pod, node, false)
    }

    /// The sum of the scores that change as pods are placed.
    pub fn moving_score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        self.sum(pod, node, true)
    }

    fn sum(&self, pod: &PodInfo, node: &NodeInfo, moving: bool) -> i64 {
        let plugins = self.scores.iter().filter(|s| s.depends_on_pods() == moving);
        plugins.map(|s| s.weight() * s.score(pod, node).clamp(0, MAX_SCORE)).sum()
    }
}

impl Refusal {
    /// Counts one node's refusal; `is_resolvable` says whether pods that leave the node may change it.
    pub fn add(
        &mut self,
        plugin: &'static str,
        is_resolvable: bool,
        reasons: Reasons,
        wakes: &[Wake],
    ) {
        *self.plugins.entry(plugin).or_default() |= is_resolvable;
        for reason in reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
        for wake in wakes {
            if !self.wakes.contains(wake) {
                self.wakes.push(*wake);
            }
        }
    }

    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. preemption: …`
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let why = match &self.whole {
            Some(whole) => whole.clone(),
            None => {
                let counts = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}"));
                let mut counts: Vec<String> = counts.collect();
                counts.sort();
                counts.join(", ")
            }
        };
        let mut message = format!("0/{} nodes are available: {why}.", self.nodes);
        if let Some(group) = &self.group {
            message.push_str(&format!(" {group}."));
        }
        if let Some(preemption) = &self.preemption {
            message.push_str(&format!(" preemption: {preemption}"));
        }
        message
    }

    /// What would help.
    pub fn helps(&self) -> Vec<&'static str> {
        if self.nodes == 0 {
            return vec![advice::NO_NODES];
        }
        let plugins = self.plugins.iter();
        plugins.filter_map(|(plugin, may_leave)| advice::of(plugin, *may_leave)).collect()
    }

    /// [`Refusal::message`], and what would help, or that it is done already.
    pub fn told(&self) -> String {
        let mut text = self.message();
        if !text.ends_with('.') {
            text.push('.');
        }
        if self.preemption.as_deref() == Some(UNDER_WAY) {
            text.push_str(" It waits until those pods have left.");
            return text;
        }
        let help = self.helps();
        for (n, help) in help.into_iter().enumerate() {
            let begin = if n == 0 { " What would help: " } else { "; or " };
            if text.len() + begin.len() + help.len() < MOST_TOLD {
                text.push_str(begin);
                text.push_str(help);
            }
        }
        text
    }
}
