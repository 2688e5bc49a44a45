//! `spec.affinity.podAffinity` and `podAntiAffinity`: a pod near other pods, or apart from them; and
//! what the terms of those that are there already say about it.
//! Source: k8s.io/kubernetes pkg/scheduler/framework/plugins/interpodaffinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodAffinityTerm;

use crate::scheduler::framework::{DomainPlugin, MAX_SCORE, Wake};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::slots::{Found, Objection, Rule, Slot};
use crate::scheduler::snapshot::Snapshot;
use crate::scheduler::topology::matcher::{self, Effect, Matcher, Part};
use crate::scheduler::topology::{Counted, TallyId};

pub struct InterPodAffinity;

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const NOT_APART: &str = "node(s) didn't match pod anti-affinity rules";
const NOT_WELCOME: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// What is counted for each topology key, with weights.
type ByKey = BTreeMap<String, BTreeMap<TallyId, i64>>;

fn part(term: &PodAffinityTerm, pod: &PodInfo) -> Part {
    matcher::part(term, &pod.key.namespace, &pod.labels)
}

fn tally(parts: Vec<Part>, snapshot: &mut Snapshot) -> TallyId {
    let matcher = Matcher { parts, counts_ending: true };
    snapshot.topology.tally(Counted::Matching(matcher))
}

/// Pods near which it must be match all the terms.
fn near(pod: &PodInfo, snapshot: &mut Snapshot) -> Vec<Slot> {
    let required = &pod.wants.near.required;
    if required.is_empty() {
        return Vec::new();
    }
    let parts: Vec<Part> = required.iter().map(|term| part(term, pod)).collect();
    let tally = tally(parts.clone(), snapshot);
    let is_own = snapshot.topology.selects(&parts, &pod.key.namespace, &pod.labels);
    let slot = |term: &PodAffinityTerm| Slot {
        key: term.topology_key.clone(),
        counted: vec![(tally, 1)],
        eligible: None,
        rule: Rule::Near { is_own },
    };
    required.iter().map(slot).collect()
}

fn apart(pod: &PodInfo, snapshot: &mut Snapshot) -> Vec<Slot> {
    let slot = |term: &PodAffinityTerm| Slot {
        key: term.topology_key.clone(),
        counted: vec![(tally(vec![part(term, pod)], snapshot), 1)],
        eligible: None,
        rule: Rule::Apart,
    };
    pod.wants.apart.required.iter().map(slot).collect()
}

/// What those that are there say about it, and what it likes itself.
fn others(pod: &PodInfo, snapshot: &mut Snapshot) -> Vec<Slot> {
    let (mut forbidding, mut liking) = (ByKey::new(), ByKey::new());
    // Its own terms are carried by those of its kind that are placed before it.
    for term in pod.footprint().terms {
        snapshot.topology.tally(Counted::Carrying(term));
    }
    for (id, term) in snapshot.topology.terms_about(&pod.key.namespace, &pod.labels) {
        let (by_key, weight) = match term.effect {
            Effect::Forbids => (&mut forbidding, 1),
            Effect::Weighs(weight) => (&mut liking, weight.into()),
        };
        by_key.entry(term.key.clone()).or_default().insert(id, weight);
    }
    let preferred = pod.wants.near.preferred.iter().map(|(weight, term)| (*weight, term));
    let avoided = pod.wants.apart.preferred.iter().map(|(weight, term)| (-*weight, term));
    for (weight, term) in preferred.chain(avoided) {
        let tally = tally(vec![part(term, pod)], snapshot);
        let weights = liking.entry(term.topology_key.clone()).or_default();
        *weights.entry(tally).or_default() += i64::from(weight);
    }
    let slots = |by_key: ByKey, rule: Rule| {
        by_key.into_iter().map(move |(key, counted)| Slot {
            key,
            counted: counted.into_iter().collect(),
            eligible: None,
            rule: rule.clone(),
        })
    };
    slots(forbidding, Rule::Welcome).chain(slots(liking, Rule::Like)).collect()
}

impl DomainPlugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn slots(&self, pod: &PodInfo, snapshot: &mut Snapshot) -> Vec<Slot> {
        let mut slots = near(pod, snapshot);
        slots.extend(apart(pod, snapshot));
        slots.extend(others(pod, snapshot));
        slots
    }

    fn object(&self, found: &[Found<'_>]) -> Option<Objection> {
        let near = || found.iter().filter(|one| matches!(one.rule, Rule::Near { .. }));
        let has_keys = near().all(|one| one.count.is_some());
        let has_pods = near().all(|one| one.count.is_some_and(|count| count > 0));
        // The first of those that want to be near each other may go anywhere.
        let is_first = near().all(|one| one.total == 0 && *one.rule == Rule::Near { is_own: true });
        let is_near = has_keys && (has_pods || is_first);
        if !is_near {
            return Some(Objection { reason: NOT_NEAR, is_resolvable: false });
        }
        let is_there = |rule: Rule| {
            found.iter().any(|one| *one.rule == rule && one.count.is_some_and(|count| count > 0))
        };
        if is_there(Rule::Apart) {
            return Some(Objection { reason: NOT_APART, is_resolvable: true });
        }
        let forbidden = is_there(Rule::Welcome);
        forbidden.then_some(Objection { reason: NOT_WELCOME, is_resolvable: true })
    }

    /// The sum of the weights of the terms that speak for the node, less of those against it.
    fn score(&self, found: &[Found<'_>]) -> Option<i64> {
        let mut liked = found.iter().filter(|one| *one.rule == Rule::Like).peekable();
        liked.peek()?;
        Some(liked.filter_map(|one| one.count).sum())
    }

    fn normalize(&self, score: i64, least: i64, most: i64) -> i64 {
        if most <= least { 0 } else { MAX_SCORE * (score - least) / (most - least) }
    }

    fn woken_by(&self, slots: &[&Slot]) -> Vec<Wake> {
        let hard = slots.iter().filter(|slot| slot.rule.is_hard());
        let tallies = hard.flat_map(|slot| &slot.counted).map(|(tally, _)| Wake::Tally(*tally));
        [Wake::Node, Wake::Namespace].into_iter().chain(tallies).collect()
    }
}
