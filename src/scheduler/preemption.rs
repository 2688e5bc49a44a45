//! What is done for a pod that no node takes: where pods of lower priority leave, it may fit. Pure.
//!
//! ```text
//!   nodes whose refusal leaving pods may resolve ─▶ all of lower priority taken as gone
//!     ├─ it does not fit ─▶ no candidate, and why
//!     └─ it fits ─▶ put back as many as still fit, the most important first, of those whose budget
//!                   would be exceeded before all others; the rest are the node's victims
//!   the best candidate: the fewest budgets exceeded, the lowest most important victim, the smallest
//!     sum of priorities, the fewest victims, the latest start
//! ```
//!
//! Source: k8s.io/kubernetes pkg/scheduler/framework/preemption and plugins/defaultpreemption.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use jiff::Timestamp;

use super::framework::{Framework, Reasons, Refusal};
use super::nominees::Displaced;
use super::pod_info::PodInfo;
use super::slots::Slots;
use super::snapshot::{NodeInfo, Placed, Snapshot};
use crate::api::ObjectKey;

/// Nodes that one cycle looks at in this way: some 50 ms. Pods that come later wait for the next.
pub const DRY_RUNS_A_CYCLE: usize = 20_000;

/// A profile without the plugin DefaultPreemption.
pub const OFF: &str = "not done by this scheduler's profile.";
pub const NEVER: &str = "not eligible due to preemptionPolicy=Never.";
pub const UNDER_WAY: &str = "not eligible due to a terminating pod on the nominated node.";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NO_HELP: &str = "Preemption is not helpful for scheduling";

/// Room that is made for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    pub node: String,
    /// The most important first. Those that are leaving already are told of no more.
    pub victims: Vec<Victim>,
    /// Nominees of lower priority, who lose the node.
    pub displaced: Vec<Displaced>,
}

/// A pod that goes so that another one fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    pub key: ObjectKey,
    pub uid: String,
    pub priority: i32,
    /// Where it is.
    pub node: Arc<str>,
    /// A pod that was not started yet counts as the youngest.
    started: Option<Timestamp>,
    /// It is leaving already.
    pub is_leaving: bool,
}

/// What became of the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Preempt(Preemption),
    /// No room is made, in the words of an event. `hopeless`: nor will what was begun come to an
    /// end, so that the pod is a nominee no more.
    Nothing {
        text: String,
        hopeless: bool,
    },
    /// This cycle has done enough.
    Later,
}

/// What a node would cost.
#[derive(Clone)]
pub struct Candidate {
    pub victims: Vec<Victim>,
    /// How many of them exceed a budget.
    exceeding: usize,
}

/// What was found out about nodes, by their indexes.
pub type Known = BTreeMap<usize, Result<Candidate, Reasons>>;

/// The less, the better.
type Rank = (usize, i32, i64, usize, Reverse<Timestamp>);

/// The search for pods that want the same. Since one decision changes one node, what was found out
/// about the others holds for the next pod.
pub struct Search<'a> {
    framework: &'a Framework,
    /// What the pods ask of domains.
    slots: &'a Slots,
    /// The nodes whose refusal leaving pods may resolve.
    resolvable: &'a [usize],
    /// Pods of a priority below this one may go.
    below: i32,
    pub known: Known,
    dry_runs: &'a mut usize,
}

impl<'a> Search<'a> {
    /// `dry_runs` is how many nodes may still be looked at.
    pub fn new(
        framework: &'a Framework,
        slots: &'a Slots,
        resolvable: &'a [usize],
        below: i32,
        dry_runs: &'a mut usize,
    ) -> Search<'a> {
        Search { framework, slots, resolvable, below, known: Known::new(), dry_runs }
    }

    /// Finds room for a pod that all nodes refused, and counts it as made.
    pub fn preempt(&mut self, pod: &PodInfo, snapshot: &mut Snapshot) -> Outcome {
        if let Err(text) = self.may_preempt(pod, snapshot) {
            return Outcome::Nothing { text: text.into(), hopeless: false };
        }
        if *self.dry_runs == 0 {
            return Outcome::Later;
        }
        let Some((index, candidate)) = self.best(pod, snapshot) else {
            return Outcome::Nothing { text: self.why_not(snapshot), hopeless: true };
        };
        let node = snapshot.nodes()[index].name.to_string();
        let uids = candidate.victims.iter().map(|victim| victim.uid.as_str());
        let (displaced, charged) = snapshot.nominate(pod, &node, uids);
        if charged {
            self.known.clear();
        } else {
            self.known.remove(&index);
        }
        Outcome::Preempt(Preemption { node, victims: candidate.victims, displaced })
    }

    fn may_preempt(&self, pod: &PodInfo, snapshot: &Snapshot) -> Result<(), &'static str> {
        if !self.framework.preemption.wanted {
            return Err(OFF);
        }
        if pod.wants.never_preempts {
            return Err(NEVER);
        }
        let Some(nominated) = snapshot.nominated_index(&pod.uid) else { return Ok(()) };
        // On a node that refuses it for good it waits for nothing.
        let node = &snapshot.nodes()[nominated].name;
        let mut lower = snapshot.residents_below(node, pod.wants.priority);
        if self.resolvable.contains(&nominated) && lower.any(|(_, one)| one.is_preempted) {
            return Err(UNDER_WAY);
        }
        Ok(())
    }

    /// The best among enough candidates. Where to begin differs from pod to pod, so that not the
    /// same nodes are asked each time.
    pub fn best(&mut self, pod: &PodInfo, snapshot: &Snapshot) -> Option<(usize, Candidate)> {
        let count = self.resolvable.len();
        let wanted = self.framework.preemption;
        let enough = (count * wanted.percent / 100).max(wanted.least);
        let begin = if count > enough { offset(&pod.uid, count) } else { 0 };
        let (mut found, mut best): (usize, Option<(Rank, usize)>) = (0, None);
        for at in 0..count {
            let index = self.resolvable[(begin + at) % count];
            let known = self.known.entry(index).or_insert_with(|| {
                *self.dry_runs = self.dry_runs.saturating_sub(1);
                WhatIf::of(pod, index, snapshot, self.framework, self.slots).victims(self.below)
            });
            let Ok(candidate) = known else { continue };
            found += 1;
            let rank = candidate.rank();
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, index));
            }
            let keeps_budgets = best.is_some_and(|((exceeding, ..), _)| exceeding == 0);
            if found >= enough && keeps_budgets {
                break;
            }
        }
        let (_, index) = best?;
        Some((index, self.known.get(&index)?.as_ref().ok()?.clone()))
    }

    /// Why no node is a candidate, in the words of an event.
    fn why_not(&self, snapshot: &Snapshot) -> String {
        let nodes = snapshot.nodes().len();
        let mut refusal = Refusal { nodes, ..Refusal::default() };
        for reasons in self.known.values().filter_map(|known| known.as_ref().err()) {
            refusal.add("", false, reasons.clone(), &[]);
        }
        if nodes > self.resolvable.len() {
            *refusal.reasons.entry(NO_HELP.into()).or_default() += nodes - self.resolvable.len();
        }
        refusal.message()
    }
}

fn offset(uid: &str, count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    usize::try_from(hasher.finish() % count as u64).unwrap_or(0)
}

impl Candidate {
    fn rank(&self) -> Rank {
        let highest = self.victims.first().map_or(i32::MIN, |victim| victim.priority);
        // Each weighs more than nothing, so that few of a negative priority are better than many.
        let weigh = |victim: &Victim| i64::from(victim.priority) + i64::from(i32::MAX) + 1;
        let sum = self.victims.iter().map(weigh).sum();
        let of_highest = self.victims.iter().filter(|victim| victim.priority == highest);
        let started = of_highest.map(Victim::since).min().unwrap_or(Timestamp::MAX);
        (self.exceeding, highest, sum, self.victims.len(), Reverse(started))
    }
}

impl Victim {
    pub fn of(uid: &str, placed: &Placed) -> Victim {
        Victim {
            key: placed.key.clone(),
            uid: uid.into(),
            priority: placed.priority,
            node: placed.node.clone(),
            started: placed.started,
            is_leaving: placed.is_ending || placed.is_preempted,
        }
    }

    fn since(&self) -> Timestamp {
        self.started.unwrap_or(Timestamp::MAX)
    }
}

/// A node and a pod as they would be.
struct WhatIf<'a> {
    snapshot: &'a Snapshot,
    framework: &'a Framework,
    slots: &'a Slots,
    index: usize,
    node: NodeInfo,
    pod: PodInfo,
    /// What is more in each slot than there is; less, where pods left.
    more: Vec<i64>,
    /// What nominees add to that, if there are some.
    of_nominees: Option<Vec<i64>>,
}

impl<'a> WhatIf<'a> {
    fn of(
        pod: &PodInfo,
        index: usize,
        snapshot: &'a Snapshot,
        framework: &'a Framework,
        slots: &'a Slots,
    ) -> WhatIf<'a> {
        WhatIf {
            snapshot,
            framework,
            slots,
            index,
            node: snapshot.for_pod(index, pod).into_owned(),
            pod: pod.clone(),
            more: Vec::new(),
            of_nominees: slots.of_nominees(snapshot, index, pod),
        }
    }

    fn remove(&mut self, placed: &Placed) {
        self.node.give_back(&placed.requests, &placed.ports);
        self.count(placed, false);
    }

    fn put_back(&mut self, placed: &Placed) {
        self.node.take(&placed.requests, &placed.ports);
        self.count(placed, true);
    }

    fn count(&mut self, placed: &Placed, is_there: bool) {
        if !placed.claims.is_empty() && !self.pod.volumes.alone.is_empty() {
            Arc::make_mut(&mut self.pod.volumes).count(&placed.claims, is_there);
        }
        if self.slots.is_empty() {
            return;
        }
        let tallies = self.snapshot.topology.tallies(placed.kind);
        let node = u32::try_from(self.index).unwrap_or(u32::MAX);
        let weights = self.slots.weights(&tallies, node, is_there);
        self.more.resize(weights.len(), 0);
        self.more.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight);
    }

    /// Why the pod does not fit.
    fn refuse(&self) -> Option<Reasons> {
        if let Some((_, reasons)) = self.framework.refuse(&self.pod, &self.node) {
            return Some(reasons);
        }
        let node = u32::try_from(self.index).unwrap_or(u32::MAX);
        let mut refused = self.slots.refuse(self.framework, node, &self.more);
        if let (None, Some(of_nominees)) = (refused, &self.of_nominees) {
            let mut more = of_nominees.clone();
            more.iter_mut().zip(&self.more).for_each(|(sum, one)| *sum += one);
            refused = self.slots.refuse(self.framework, node, &more);
        }
        refused.map(|(_, objection)| vec![objection.reason.into()])
    }

    /// The victims of the node, or why it is no candidate.
    fn victims(mut self, below: i32) -> Result<Candidate, Reasons> {
        let snapshot = self.snapshot;
        let name = &snapshot.nodes()[self.index].name;
        let lower = snapshot.residents_below(name, below);
        let mut lower: Vec<(&str, &Placed)> = lower.map(|(uid, placed)| (&**uid, placed)).collect();
        if lower.is_empty() {
            return Err(vec![NO_VICTIMS.into()]);
        }
        lower.iter().for_each(|(_, placed)| self.remove(placed));
        if let Some(reasons) = self.refuse() {
            return Err(reasons);
        }
        // The most important first: of the same priority, who runs longest.
        let since = |placed: &Placed| placed.started.unwrap_or(Timestamp::MAX);
        lower.sort_by_key(|(uid, placed)| (Reverse(placed.priority), since(placed), *uid));
        // A pod that leaves already was counted by its budgets.
        let staying = lower.iter().filter(|(_, one)| !one.is_ending && !one.is_preempted);
        let exceeded = snapshot.budgets.exceeded(staying.map(|(_, one)| (&one.key, &*one.labels)));
        let mut exceeded = exceeded.into_iter();
        let with_budget = lower.into_iter().map(|(uid, one)| {
            let is_counted = !one.is_ending && !one.is_preempted;
            (uid, one, is_counted && exceeded.next().unwrap_or(false))
        });
        let (first, then): (Vec<_>, Vec<_>) = with_budget.partition(|(_, _, exceeds)| *exceeds);
        let mut victims = Vec::new();
        let mut exceeding = 0;
        for (uid, placed, exceeds) in first.into_iter().chain(then) {
            self.put_back(placed);
            if self.refuse().is_some() {
                self.remove(placed);
                exceeding += usize::from(exceeds);
                victims.push(Victim::of(uid, placed));
            }
        }
        if victims.is_empty() {
            // It fits as it is: then it was not refused for what leaving pods resolve.
            return Err(vec![NO_HELP.into()]);
        }
        victims.sort_by_key(|one| (Reverse(one.priority), one.since(), one.uid.clone()));
        Ok(Candidate { victims, exceeding })
    }
}
