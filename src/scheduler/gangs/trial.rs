//! The trial of a gang: pods are taken away on a snapshot, those of the gang get their places, and all
//! of it is taken back. What is left is who would have to go.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::scheduler::budgets::Budgets;
use crate::scheduler::framework::Frameworks;
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::preemption::{Candidate, Victim};
use crate::scheduler::slots;
use crate::scheduler::snapshot::{Placed, Snapshot};

/// Nodes that one trial looks at for victims: some half a second. Only gangs of hundreds of pods with
/// rules about domains need more among thousands of nodes.
pub const MOST_LOOKS: usize = 200_000;
/// Nodes that cost as much to look at, where it is only asked whether leaving pods may help.
const SHORT_LOOKS: usize = 10;

/// How pods are decided on.
pub enum Mode {
    /// Each for itself; pods of lower priority leave for it.
    Alone,
    /// A gang takes what is free.
    Gang,
    /// A gang takes what pods of lower priority have, and it is taken back.
    Trial(Trial),
}

impl Mode {
    /// Counts a pod that got a place.
    pub fn count(&mut self) {
        if let Mode::Trial(trial) = self {
            trial.lacking = trial.lacking.saturating_sub(1);
        }
    }

    /// Whether nobody else need be looked at.
    pub fn is_enough(&self) -> bool {
        matches!(self, Mode::Trial(trial) if trial.lacking == 0)
    }
}

/// What is changed in a trial.
pub struct Trial {
    /// Pods of a priority below this one may go.
    pub below: i32,
    /// How many pods still need a place.
    lacking: usize,
    /// Nodes that may still be looked at.
    pub looks: usize,
    gone: Vec<(Arc<str>, Placed)>,
    /// As they were.
    budgets: Budgets,
}

impl Trial {
    pub fn new(below: i32, needed: usize, snapshot: &Snapshot) -> Trial {
        let budgets = snapshot.budgets.clone();
        Trial { below, lacking: needed, looks: MOST_LOOKS, gone: Vec::new(), budgets }
    }

    /// Counts nodes that are asked something short.
    pub fn count_short(&mut self, nodes: usize) {
        self.looks = self.looks.saturating_sub(nodes / SHORT_LOOKS);
    }

    /// Takes the victims of a node away. Answers whether a budget was charged.
    pub fn take_away(&mut self, candidate: &Candidate, snapshot: &mut Snapshot) -> bool {
        let mut charged = false;
        for victim in &candidate.victims {
            let Some((uid, placed)) = snapshot.take_away(&victim.uid) else { continue };
            charged |= !victim.is_leaving && snapshot.budgets.charge(&placed.key, &placed.labels);
            self.gone.push((uid, placed));
        }
        charged
    }

    pub fn take_back(self, snapshot: &mut Snapshot) {
        for (uid, placed) in self.gone {
            snapshot.put_back(&uid, placed);
        }
        snapshot.budgets = self.budgets;
    }

    /// Brings those back beside whom the gang fits all the same: those who would exceed their
    /// budgets before others, and the more important before the less important ones.
    pub fn spare(&mut self, places: &Places<'_>, snapshot: &mut Snapshot) {
        let mut gone = std::mem::take(&mut self.gone);
        let since = |placed: &Placed| placed.started.unwrap_or(Timestamp::MAX);
        gone.sort_by_key(|(uid, one)| (Reverse(one.priority), since(one), uid.clone()));
        let is_counted = |placed: &Placed| !placed.is_ending && !placed.is_preempted;
        let counted = gone.iter().filter(|(_, one)| is_counted(one));
        let exceeded = self.budgets.exceeded(counted.map(|(_, one)| (&one.key, &*one.labels)));
        let mut exceeded = exceeded.into_iter();
        let with_budget = gone.into_iter().map(|(uid, one)| {
            let exceeds = is_counted(&one) && exceeded.next().unwrap_or(false);
            (uid, one, exceeds)
        });
        let (first, then): (Vec<_>, Vec<_>) = with_budget.partition(|(_, _, exceeds)| *exceeds);
        for (uid, placed, _) in first.into_iter().chain(then) {
            if places.depend_on(&placed, snapshot) {
                self.gone.push((uid, placed));
                continue;
            }
            let node = placed.node.clone();
            snapshot.put_back(&uid, placed);
            if !places.suit(&node, snapshot) {
                self.gone.extend(snapshot.take_away(&uid));
            }
        }
    }

    /// Who has to go.
    pub fn victims(&self) -> Vec<Victim> {
        let mut victims: Vec<Victim> =
            self.gone.iter().map(|(uid, placed)| Victim::of(uid, placed)).collect();
        victims.sort_by_key(|one| (Reverse(one.priority), one.uid.clone()));
        victims
    }
}

/// Where the pods of a gang are in a trial.
pub struct Places<'a> {
    frameworks: &'a dyn Frameworks,
    by_node: BTreeMap<&'a str, Vec<&'a PodInfo>>,
    /// Whether some of them ask something of domains that may refuse a node.
    have_rules: bool,
    /// Whether some of them mount a claim that one pod alone may use.
    are_alone: bool,
}

impl<'a> Places<'a> {
    pub fn of(
        places: &'a [(PodInfo, String)],
        frameworks: &'a dyn Frameworks,
        snapshot: &mut Snapshot,
    ) -> Places<'a> {
        let mut by_node: BTreeMap<&str, Vec<&PodInfo>> = BTreeMap::new();
        let (mut have_rules, mut are_alone) = (false, false);
        for (pod, node) in places {
            by_node.entry(node).or_default().push(pod);
            are_alone |= !pod.volumes.alone.is_empty();
            let asked = slots::ask(pod, snapshot, frameworks.of(pod));
            have_rules |= asked.iter().flatten().any(|slot| slot.rule.is_hard());
        }
        Places { frameworks, by_node, have_rules, are_alone }
    }

    /// Whether it may matter to them elsewhere than on its node that a pod is gone.
    fn depend_on(&self, placed: &Placed, snapshot: &Snapshot) -> bool {
        (self.have_rules && !snapshot.topology.tallies(placed.kind).is_empty())
            || (self.are_alone && !placed.claims.is_empty())
    }

    /// Whether a node takes those of them that are there.
    fn suit(&self, node: &str, snapshot: &Snapshot) -> bool {
        let Some(index) = snapshot.index_of(node) else { return false };
        let mut pods = self.by_node.get(node).into_iter().flatten();
        pods.all(|pod| {
            let mut info = snapshot.for_pod(index, pod).into_owned();
            info.give_back(&pod.wants.requests, &pod.wants.ports);
            self.frameworks.of(pod).refuse(pod, &info).is_none()
        })
    }
}
