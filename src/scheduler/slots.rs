//! What a pod asks about the domains of a node: for each of its rules a slot, which has the number
//! of the pods that the rule counts in every domain. Filled once from the tallies of nodes, then
//! kept up by changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::framework::{FilterPlugin, Framework};
use super::plugins::node_affinity::NodeAffinity;
use super::plugins::taint_toleration::TaintToleration;
use super::pod_info::PodInfo;
use super::snapshot::{NodeInfo, Snapshot};
use super::topology::TallyId;
use super::topology::domains::{Domains, NONE};

/// More domains than these are looked at by their numbers rather than one by one.
const FEW_DOMAINS: usize = 64;

/// One rule of a pod about domains, and what it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// The label of nodes whose values are the domains.
    pub key: String,
    /// What is counted, each with a weight.
    pub counted: Vec<(TallyId, i64)>,
    /// Which nodes matter; all of them without.
    pub eligible: Option<Eligible>,
    pub rule: Rule,
}

/// The nodes that matter for spreading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Eligible {
    /// The labels that they need.
    pub keys: Vec<String>,
    /// They match the pod's node selector and affinity.
    pub by_affinity: bool,
    /// The pod tolerates their taints.
    pub by_taints: bool,
}

/// What is asked of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// At most so many more than in the domain with the fewest.
    Spread { most_skew: i64, least_domains: usize, own: i64 },
    /// The fewer, the better; without the label a node is the worst if it is needed.
    SpreadSoftly { most_skew: i64, needs_key: bool },
    /// There must be some; or none anywhere, if the pod itself is what it wants to be near.
    Near { is_own: bool },
    /// There must be none.
    Apart,
    /// No pod there forbids it.
    Welcome,
    /// The more, the better.
    Like,
}

/// What one slot tells of a node.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    pub rule: &'a Rule,
    /// The number in the node's domain; `None` without the label.
    pub count: Option<i64>,
    /// The least number of any domain that matters.
    pub least: i64,
    /// How many domains matter.
    pub domains: usize,
    /// The number in all domains.
    pub total: i64,
}

/// Why domains refuse a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objection {
    pub reason: &'static str,
    /// Whether pods that leave the node may change that.
    pub is_resolvable: bool,
}

/// The slots of a pod, filled.
#[derive(Clone, Default)]
pub struct Slots {
    list: Vec<Filled>,
    /// Which of them are whose, by the index of the plugin.
    ranges: Vec<std::ops::Range<usize>>,
}

#[derive(Clone)]
struct Filled {
    slot: Slot,
    domains: Arc<Domains>,
    /// By domain.
    counts: Vec<i64>,
    total: i64,
    /// Which nodes matter; empty if all do.
    eligible: Vec<bool>,
    /// How many nodes that matter a domain has.
    eligible_nodes: Vec<u32>,
    eligible_domains: usize,
    /// The numbers of domains that matter, with how often each is there; for `least` alone.
    order: BTreeMap<i64, u32>,
}

/// What each plugin asks about a pod.
pub fn ask(pod: &PodInfo, snapshot: &mut Snapshot, framework: &Framework) -> Vec<Vec<Slot>> {
    framework.domains.iter().map(|plugin| plugin.slots(pod, snapshot)).collect()
}

impl Rule {
    /// Whether it refuses nodes.
    pub fn is_hard(&self) -> bool {
        !matches!(self, Rule::SpreadSoftly { .. } | Rule::Like)
    }
}

impl Eligible {
    fn has(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        self.keys.iter().all(|key| node.labels.contains_key(key))
            && (!self.by_affinity || NodeAffinity.filter(pod, node).is_ok())
            && (!self.by_taints || FilterPlugin::filter(&TaintToleration, pod, node).is_ok())
    }
}

impl Filled {
    fn of(slot: Slot, pod: &PodInfo, snapshot: &mut Snapshot) -> Filled {
        let domains = snapshot.domains(&slot.key);
        let eligible = slot.eligible.as_ref().map(|eligible| {
            snapshot.nodes().iter().map(|node| eligible.has(pod, node)).collect::<Vec<_>>()
        });
        let count = domains.members.len();
        let mut filled = Filled {
            domains,
            counts: vec![0; count],
            total: 0,
            eligible: eligible.unwrap_or_default(),
            eligible_nodes: vec![0; count],
            eligible_domains: 0,
            order: BTreeMap::new(),
            slot,
        };
        for (tally, weight) in &filled.slot.counted.clone() {
            for (node, pods) in snapshot.topology.by_node(*tally) {
                filled.add(node, weight * i64::from(pods));
            }
        }
        for (node, domain) in (0..).zip(&filled.domains.of_node) {
            if *domain != NONE && filled.is_eligible(node) {
                filled.eligible_nodes[*domain as usize] += 1;
            }
        }
        for (domain, nodes) in filled.eligible_nodes.iter().enumerate() {
            if *nodes > 0 {
                filled.eligible_domains += 1;
                *filled.order.entry(filled.counts[domain]).or_default() += 1;
            }
        }
        filled
    }

    fn is_eligible(&self, node: u32) -> bool {
        self.eligible.get(node as usize).is_none_or(|is| *is)
    }

    fn domain(&self, node: u32) -> Option<usize> {
        let domain = self.domains.of_node.get(node as usize).filter(|domain| **domain != NONE);
        domain.map(|domain| *domain as usize)
    }

    /// Adds to the number of a node's domain. Answers the domain if that is another number now.
    fn add(&mut self, node: u32, number: i64) -> Option<usize> {
        let domain = self.domain(node).filter(|_| number != 0 && self.is_eligible(node))?;
        let before = self.counts[domain];
        self.counts[domain] += number;
        self.total += number;
        if self.eligible_nodes[domain] > 0 {
            if let Some(times) = self.order.get_mut(&before) {
                *times -= 1;
                if *times == 0 {
                    self.order.remove(&before);
                }
            }
            *self.order.entry(before + number).or_default() += 1;
        }
        Some(domain)
    }

    /// How much a pod adds which these tallies count.
    fn weight(&self, tallies: &[TallyId]) -> i64 {
        let counted = self.slot.counted.iter().filter(|(tally, _)| tallies.contains(tally));
        counted.map(|(_, weight)| weight).sum()
    }

    fn has_many_domains(&self) -> bool {
        self.counts.len() > FEW_DOMAINS
    }

    /// What it tells of a node in a domain, if `more` were added there.
    fn found(&self, domain: Option<usize>, more: i64) -> Found<'_> {
        Found {
            rule: &self.slot.rule,
            count: domain.map(|domain| self.counts[domain] + more),
            least: self.least(domain, more),
            domains: self.eligible_domains,
            total: self.total + more,
        }
    }

    fn least(&self, domain: Option<usize>, more: i64) -> i64 {
        let first = || self.order.first_key_value().map_or(0, |(count, _)| *count);
        let Some(domain) = domain.filter(|domain| more != 0 && self.eligible_nodes[*domain] > 0)
        else {
            return first();
        };
        let own = self.counts[domain];
        let others = self.order.iter().find(|(count, times)| **count != own || **times > 1);
        others.map_or(own + more, |(count, _)| (own + more).min(*count))
    }
}

impl Slots {
    /// Fills what plugins ask.
    pub fn fill(asked: Vec<Vec<Slot>>, pod: &PodInfo, snapshot: &mut Snapshot) -> Slots {
        let mut slots = Slots::default();
        for of_plugin in asked {
            let first = slots.list.len();
            slots.list.extend(of_plugin.into_iter().map(|slot| Filled::of(slot, pod, snapshot)));
            slots.ranges.push(first..slots.list.len());
        }
        slots
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether some of them refuse nodes.
    pub fn are_hard(&self) -> bool {
        self.list.iter().any(|filled| filled.slot.rule.is_hard())
    }

    /// Whether these are the slots that plugins ask for.
    pub fn are(&self, asked: &[Vec<Slot>]) -> bool {
        let own = self.ranges.iter().map(|range| self.list[range.clone()].iter());
        own.len() == asked.len()
            && own.zip(asked).all(|(own, asked)| {
                own.len() == asked.len() && own.zip(asked).all(|(own, one)| own.slot == *one)
            })
    }

    /// Counts a pod in or out. Adds the nodes whose [`Slots::sign`] that changed.
    pub fn count(
        &mut self,
        tallies: &[TallyId],
        node: u32,
        is_there: bool,
        changed: &mut Vec<u32>,
    ) {
        for filled in &mut self.list {
            let weight = filled.weight(tallies);
            let number = if is_there { weight } else { -weight };
            let Some(domain) = filled.add(node, number) else { continue };
            if filled.has_many_domains() {
                changed.extend(&filled.domains.members[domain]);
            }
        }
    }

    /// What of a node decides what slots tell: nodes with the same are looked at once. Of few
    /// domains that is the domain, whose number may change at any time; of many it is the number.
    pub fn sign(&self, node: u32, sign: &mut Vec<i64>) {
        for filled in &self.list {
            sign.push(match filled.domain(node) {
                None => i64::MIN,
                Some(domain) if filled.has_many_domains() => filled.counts[domain],
                Some(domain) => domain as i64,
            });
        }
    }

    /// What all slots tell of the nodes with a sign.
    pub fn look<'a>(&'a self, sign: &[i64], found: &mut Vec<Found<'a>>) {
        found.clear();
        for (filled, sign) in self.list.iter().zip(sign) {
            let domain = usize::try_from(*sign).ok().filter(|_| !filled.has_many_domains());
            let mut one = filled.found(domain, 0);
            if *sign != i64::MIN && filled.has_many_domains() {
                one.count = Some(*sign);
            }
            found.push(one);
        }
    }

    /// What all slots tell of one node.
    pub fn look_at<'a>(&'a self, node: u32, found: &mut Vec<Found<'a>>) {
        found.clear();
        found.extend(self.list.iter().map(|filled| filled.found(filled.domain(node), 0)));
    }

    /// What plugins asked for.
    pub fn asked(&self) -> Vec<Vec<Slot>> {
        let of = |range: &std::ops::Range<usize>| {
            self.list[range.clone()].iter().map(|filled| filled.slot.clone()).collect()
        };
        self.ranges.iter().map(of).collect()
    }

    /// What one plugin asked for.
    pub fn asked_by(&self, plugin: usize) -> Vec<&Slot> {
        let range = self.ranges.get(plugin).cloned().unwrap_or_default();
        self.list[range].iter().map(|filled| &filled.slot).collect()
    }

    /// Why a node is refused as it is, or once the nominees are there to which the pod leaves it;
    /// with the plugin's index.
    pub fn refuse_node(
        &self,
        snapshot: &Snapshot,
        framework: &Framework,
        index: usize,
        pod: &PodInfo,
    ) -> Option<(usize, Objection)> {
        let node = u32::try_from(index).unwrap_or(NONE);
        let beside = || self.refuse(framework, node, &self.of_nominees(snapshot, index, pod)?);
        self.refuse(framework, node, &[]).or_else(beside)
    }

    /// What the nominees add to each slot to which a pod leaves a node, if there are some.
    pub fn of_nominees(
        &self,
        snapshot: &Snapshot,
        index: usize,
        pod: &PodInfo,
    ) -> Option<Vec<i64>> {
        if self.list.is_empty() || !snapshot.has_nominees_before(index, pod) {
            return None;
        }
        let node = u32::try_from(index).unwrap_or(NONE);
        let mut more = vec![0; self.list.len()];
        for nominee in snapshot.nominees_before(index, pod) {
            let tallies = snapshot.topology.tallies_of(&nominee.footprint);
            let weights = self.weights(&tallies, node, true);
            more.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight);
        }
        Some(more)
    }

    /// The part of what was found that a plugin asked for.
    pub fn of<'a, 'b>(&self, plugin: usize, found: &'a [Found<'b>]) -> &'a [Found<'b>] {
        found.get(self.ranges[plugin].clone()).unwrap_or_default()
    }

    /// How much a pod adds to each slot that would come to a node, or leave it.
    pub fn weights(&self, tallies: &[TallyId], node: u32, is_there: bool) -> Vec<i64> {
        let weight = |filled: &Filled| match filled.is_eligible(node) {
            true if is_there => filled.weight(tallies),
            true => -filled.weight(tallies),
            false => 0,
        };
        self.list.iter().map(weight).collect()
    }

    /// Why a node is refused, if `more` were added to each slot there; with the plugin's index.
    pub fn refuse(
        &self,
        framework: &Framework,
        node: u32,
        more: &[i64],
    ) -> Option<(usize, Objection)> {
        if self.list.is_empty() {
            return None;
        }
        let more = more.iter().copied().chain(std::iter::repeat(0));
        let found = self.list.iter().zip(more);
        let found: Vec<Found<'_>> =
            found.map(|(filled, more)| filled.found(filled.domain(node), more)).collect();
        self.object(framework, &found)
    }

    /// The first objection of a plugin to what was found, with the plugin's index.
    pub fn object(&self, framework: &Framework, found: &[Found<'_>]) -> Option<(usize, Objection)> {
        let mut plugins = framework.domains.iter().enumerate();
        plugins.find_map(|(n, plugin)| Some((n, plugin.object(self.of(n, found))?)))
    }
}
