//! Pods that get the same answers share the work. A class has what every node says to such a pod:
//! filters and scores run once a node, and again only for nodes that changed. Nodes that the same
//! domains are asked about are in one group, in the order of their own scores, so that a decision
//! looks at the best of each group:
//!
//! ```text
//!   group (zone a, 3 on the host): 41 of 5000 nodes, the best first ─┐
//!   group (zone a, 4 on the host): …                                 ├─▶ objections, scores of domains
//!   group (zone b, 3 on the host): …                                 ┘    ─▶ the best of all
//! ```
//!
//! P pods of a class on N nodes cost O(N + P (G + log N)) with G groups, and after that only what
//! changed since. Classes outlive a cycle ([`Classes`]).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::changes::{Change, Position};
use super::framework::{Framework, MAX_SCORE};
use super::pod_info::PodInfo;
use super::slots::{Found, Slot, Slots};
use super::snapshot::Snapshot;

/// Nodes that the kept classes may know together: some 50 MB.
const KEPT_NODES: usize = 500_000;
const MOST_KEPT: usize = 64;
/// Groups without nodes that may be there beside those with nodes.
const EMPTY_GROUPS: usize = 64;
/// Begins the sign of a node that is looked at alone.
const ALONE: i64 = i64::MIN + 1;

/// What all nodes say to pods that want the same and mean the same to others.
#[derive(Clone)]
pub struct Class {
    /// One of the pods.
    pod: PodInfo,
    pub slots: Slots,
    position: Position,
    nodes: Vec<Seen>,
    groups: Vec<Group>,
    by_sign: HashMap<Box<[i64]>, usize>,
}

/// What a node says.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// The filters that look at no pods have no objection.
    admits: bool,
    fits: bool,
    /// The scores that do not change as pods are placed.
    fixed: i64,
    total: i64,
    pods: i64,
    /// Which of the node's entries counts.
    stamp: u32,
}

#[derive(Clone, Default)]
struct Group {
    sign: Box<[i64]>,
    /// The best first; entries that do not count any more are dropped when they come up.
    best: BinaryHeap<Entry>,
}

/// A node that can run the pods; the greatest is the best. Equal ones take turns: the one with fewer
/// pods is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    total: i64,
    pods: Reverse<i64>,
    node: Reverse<u32>,
    stamp: u32,
}

/// A group that domains do not object to.
struct Open {
    entry: Entry,
    /// What each plugin says of its domains, not normalized.
    scores: Vec<Option<i64>>,
}

impl Class {
    /// Asks every node.
    pub fn of(
        pod: &PodInfo,
        slots: Slots,
        snapshot: &mut Snapshot,
        framework: &Framework,
    ) -> Class {
        let count = snapshot.nodes().len();
        let mut class = Class {
            pod: pod.clone(),
            slots,
            position: snapshot.changes.position(),
            nodes: vec![Seen::default(); count],
            groups: Vec::new(),
            by_sign: HashMap::new(),
        };
        for node in (0..).take(count) {
            class.renew(node, snapshot, framework);
        }
        class
    }

    /// Whether a pod belongs to it, which asks this of its domains.
    fn is_of(&self, pod: &PodInfo, asked: &[Vec<Slot>]) -> bool {
        self.pod.wants == pod.wants && self.slots.are(asked)
    }

    /// Takes in what changed since it was looked at last.
    pub fn catch_up(&mut self, snapshot: &mut Snapshot, framework: &Framework) {
        let Some(changes) = snapshot.changes.since(self.position) else {
            let slots = Slots::fill(self.slots.asked(), &self.pod, snapshot);
            *self = Class::of(&self.pod, slots, snapshot, framework);
            return;
        };
        let (mut taken, mut renewed, mut moved) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes {
            match change {
                Change::Taken(node) => taken.push(*node),
                Change::Renewed(node) => renewed.push(*node),
                Change::Counted { tallies, node, is_there } => {
                    self.slots.count(tallies, *node, *is_there, &mut moved);
                }
            }
        }
        self.position = snapshot.changes.position();
        for node in renewed {
            self.renew(node, snapshot, framework);
        }
        for node in taken {
            self.refit(node, snapshot, framework);
        }
        for node in moved {
            self.regroup(node, snapshot);
        }
    }

    fn renew(&mut self, node: u32, snapshot: &Snapshot, framework: &Framework) {
        let info = snapshot.for_pod(node as usize, &self.pod);
        let seen = &mut self.nodes[node as usize];
        seen.admits = framework.admits(&self.pod, &info);
        seen.fixed = if seen.admits { framework.fixed_score(&self.pod, &info) } else { 0 };
        seen.fits = false;
        seen.stamp = seen.stamp.wrapping_add(1);
        self.refit(node, snapshot, framework);
    }

    fn refit(&mut self, node: u32, snapshot: &Snapshot, framework: &Framework) {
        let seen = &mut self.nodes[node as usize];
        if !seen.admits {
            return;
        }
        let info = snapshot.for_pod(node as usize, &self.pod);
        seen.fits = framework.still_fits(&self.pod, &info);
        seen.pods = info.pods;
        if seen.fits {
            seen.total = seen.fixed + framework.moving_score(&self.pod, &info);
        }
        self.regroup(node, snapshot);
    }

    /// Puts a node into the group that it is in now.
    fn regroup(&mut self, node: u32, snapshot: &Snapshot) {
        let seen = &mut self.nodes[node as usize];
        seen.stamp = seen.stamp.wrapping_add(1);
        if !seen.fits {
            return;
        }
        let mut sign = Vec::with_capacity(4);
        if !self.slots.is_empty() && snapshot.has_nominees_before(node as usize, &self.pod) {
            // What domains say with those nominees there is true of this node alone.
            sign.extend([ALONE, i64::from(node)]);
        } else {
            self.slots.sign(node, &mut sign);
        }
        let group = match self.by_sign.get(&sign[..]) {
            Some(group) => *group,
            None => {
                let sign: Box<[i64]> = sign.into();
                self.groups.push(Group { sign: sign.clone(), best: BinaryHeap::new() });
                self.by_sign.insert(sign, self.groups.len() - 1);
                self.groups.len() - 1
            }
        };
        let (pods, stamp) = (Reverse(seen.pods), seen.stamp);
        let entry = Entry { total: seen.total, pods, node: Reverse(node), stamp };
        self.groups[group].best.push(entry);
    }

    /// Drops entries that do not count, and groups without nodes where they are many.
    fn tidy(&mut self) {
        let mut empty = 0;
        for group in &mut self.groups {
            let is_old = |entry: &Entry| self.nodes[entry.node.0 as usize].stamp != entry.stamp;
            while group.best.peek().is_some_and(is_old) {
                group.best.pop();
            }
            // Old entries below the best are dropped once they are the most of all.
            if group.best.len() > 2 * self.nodes.len() + EMPTY_GROUPS {
                group.best.retain(|entry| !is_old(entry));
            }
            empty += usize::from(group.best.is_empty());
        }
        if empty > EMPTY_GROUPS && 2 * empty > self.groups.len() {
            self.groups.retain(|group| !group.best.is_empty());
            let signs = self.groups.iter().enumerate();
            self.by_sign = signs.map(|(n, group)| (group.sign.clone(), n)).collect();
        }
    }

    /// The best node for one of the pods, by its index.
    pub fn best(&mut self, snapshot: &Snapshot, framework: &Framework) -> Option<usize> {
        self.tidy();
        let entries = self.groups.iter().filter_map(|group| Some((group, *group.best.peek()?)));
        if self.slots.is_empty() {
            let best = entries.map(|(_, entry)| entry).max();
            return best.map(|entry| entry.node.0 as usize);
        }
        let mut found = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        for (group, entry) in entries {
            if group.sign[..].first() == Some(&ALONE) {
                let node = entry.node.0;
                let refused = self.slots.refuse_node(snapshot, framework, node as usize, &self.pod);
                if refused.is_some() {
                    continue;
                }
                self.slots.look_at(node, &mut found);
            } else {
                self.slots.look(&group.sign, &mut found);
            }
            if self.slots.object(framework, &found).is_none() {
                open.push(Open { entry, scores: self.scores(framework, &found) });
            }
        }
        let ranges = ranges(&open, framework.domains.len());
        let rank = |one: &Open| {
            let plugins = framework.domains.iter().zip(&one.scores).zip(&ranges);
            let scores = plugins.map(|((plugin, score), range)| match (score, range) {
                (Some(score), Some((least, most))) => {
                    let normal = plugin.normalize(*score, *least, *most);
                    plugin.weight() * normal.clamp(0, MAX_SCORE)
                }
                _ => 0,
            });
            let total = one.entry.total + scores.sum::<i64>();
            Entry { total, ..one.entry }
        };
        open.iter().map(rank).max().map(|entry| entry.node.0 as usize)
    }

    fn scores(&self, framework: &Framework, found: &[Found<'_>]) -> Vec<Option<i64>> {
        let plugins = framework.domains.iter().enumerate();
        plugins.map(|(n, plugin)| plugin.score(self.slots.of(n, found))).collect()
    }
}

/// The least and the greatest score that each plugin gives.
fn ranges(open: &[Open], plugins: usize) -> Vec<Option<(i64, i64)>> {
    let range = |plugin: usize| {
        let scores = open.iter().filter_map(|one| one.scores[plugin]);
        scores.fold(None, |range: Option<(i64, i64)>, score| {
            let (least, most) = range.unwrap_or((score, score));
            Some((least.min(score), most.max(score)))
        })
    };
    (0..plugins).map(range).collect()
}

/// The classes of the pods that came last. They belong to one snapshot and one framework.
#[derive(Default)]
pub struct Classes {
    /// The newest last.
    kept: Vec<Class>,
}

impl Classes {
    /// Takes the class of a pod out, if it is there; it is to be put back.
    pub fn take(&mut self, pod: &PodInfo, asked: &[Vec<Slot>]) -> Option<Class> {
        let at = self.kept.iter().rposition(|class| class.is_of(pod, asked))?;
        Some(self.kept.remove(at))
    }

    pub fn put(&mut self, class: Class) {
        let most = (KEPT_NODES / class.nodes.len().max(1)).clamp(1, MOST_KEPT);
        let surplus = (self.kept.len() + 1).saturating_sub(most);
        self.kept.drain(..surplus);
        self.kept.push(class);
    }

    pub fn clear(&mut self) {
        self.kept.clear();
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}
