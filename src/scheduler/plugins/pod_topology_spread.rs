//! `spec.topologySpreadConstraints`: pods that a selector selects are spread over the domains of a
//! label of nodes. Pods without constraints are spread softly over hosts and zones with those of
//! their Services and their controller.
//! Source: KEP-895, KEP-3022 (minDomains), KEP-3094 (policies), KEP-3243 (matchLabelKeys);
//! k8s.io/kubernetes pkg/scheduler/framework/plugins/podtopologyspread.

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::api::selector::Selector;
use crate::scheduler::framework::{DomainPlugin, MAX_SCORE, Wake};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::slots::{Eligible, Found, Objection, Rule, Slot};
use crate::scheduler::snapshot::Snapshot;
use crate::scheduler::topology::Counted;
use crate::scheduler::topology::matcher::{self, Matcher, Part, Spaces};

pub struct PodTopologySpread {
    pub defaults: Defaults,
}

/// What pods without constraints are spread by, where Services or controllers tell which belong
/// together.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Defaults {
    /// Softly over hosts and zones.
    #[default]
    System,
    /// Constraints without selectors, as a profile lists them.
    List(Vec<TopologySpreadConstraint>),
}

const TOO_MANY: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str =
    "node(s) didn't match pod topology spread constraints (missing required label)";

/// The key and the most skew of the system's constraints.
const DEFAULTS: [(&str, i32); 2] =
    [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)];

/// The parts of a pod that a score counts in.
const PARTS: f64 = 1_000.0;

/// A constraint with what it selects.
struct Constraint<'a> {
    key: &'a str,
    most_skew: i32,
    selector: Selector,
    /// As a user wrote it; the system's have none.
    own: Option<&'a TopologySpreadConstraint>,
}

impl Constraint<'_> {
    fn is_hard(&self) -> bool {
        self.own.is_some_and(|own| own.when_unsatisfiable == "DoNotSchedule")
    }
}

fn constraints<'a>(
    pod: &'a PodInfo,
    snapshot: &Snapshot,
    defaults: &'a Defaults,
) -> Vec<Constraint<'a>> {
    if pod.wants.spread.is_empty() {
        let Some(selector) = snapshot.defaults.selector(pod) else { return Vec::new() };
        let of = |key, most_skew, own| {
            let selector = selector.clone();
            Constraint { key, most_skew, selector, own }
        };
        return match defaults {
            Defaults::System => DEFAULTS.iter().map(|(key, skew)| of(*key, *skew, None)).collect(),
            Defaults::List(list) => {
                list.iter().map(|own| of(&own.topology_key, own.max_skew, Some(own))).collect()
            }
        };
    }
    let own = |own: &'a TopologySpreadConstraint| {
        let keys = own.match_label_keys.as_ref();
        let selector = matcher::selector(own.label_selector.as_ref(), &pod.labels, keys, None);
        Constraint { key: &own.topology_key, most_skew: own.max_skew, selector, own: Some(own) }
    };
    pod.wants.spread.iter().map(own).collect()
}

/// The nodes that matter to a constraint: those with the keys of all that are as hard as it.
fn eligible(
    constraint: &Constraint<'_>,
    all: &[Constraint<'_>],
    pod: &PodInfo,
) -> Option<Eligible> {
    let policy = |policy: Option<&String>, default: bool| match policy {
        Some(policy) => policy == "Honor",
        None => default,
    };
    let own = constraint.own;
    let wants = &pod.wants;
    let selects = !wants.node_selector.is_empty() || wants.required_affinity.is_some();
    // Nodes without zones are still spread over hosts where nobody asked for zones.
    let needed = all.iter().filter(|one| {
        own.is_some() && one.is_hard() == constraint.is_hard() && one.key != constraint.key
    });
    let eligible = Eligible {
        keys: needed.map(|one| one.key.to_string()).collect(),
        by_affinity: selects && policy(own.and_then(|own| own.node_affinity_policy.as_ref()), true),
        by_taints: policy(own.and_then(|own| own.node_taints_policy.as_ref()), false),
    };
    (eligible != Eligible::default()).then_some(eligible)
}

impl DomainPlugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn slots(&self, pod: &PodInfo, snapshot: &mut Snapshot) -> Vec<Slot> {
        let all = constraints(pod, snapshot, &self.defaults);
        let mut slots = Vec::with_capacity(all.len());
        for one in &all {
            let most_skew = one.most_skew.into();
            let rule = match one.is_hard() {
                true => Rule::Spread {
                    most_skew,
                    least_domains: one
                        .own
                        .and_then(|own| own.min_domains)
                        .and_then(|least| usize::try_from(least).ok())
                        .unwrap_or(1),
                    own: one.selector.matches(&pod.labels).into(),
                },
                false => Rule::SpreadSoftly { most_skew, needs_key: one.own.is_some() },
            };
            let spaces = Spaces::one(&pod.key.namespace);
            let parts = vec![Part { spaces, selector: one.selector.clone() }];
            let matcher = Matcher { parts, counts_ending: false };
            let tally = snapshot.topology.tally(Counted::Matching(matcher));
            slots.push(Slot {
                key: one.key.into(),
                counted: vec![(tally, 1)],
                eligible: eligible(one, &all, pod),
                rule,
            });
        }
        slots
    }

    fn object(&self, found: &[Found<'_>]) -> Option<Objection> {
        found.iter().find_map(|one| {
            let Rule::Spread { most_skew, least_domains, own } = one.rule else { return None };
            let Some(count) = one.count else {
                return Some(Objection { reason: NO_LABEL, is_resolvable: false });
            };
            let least = if one.domains < *least_domains { 0 } else { one.least };
            let is_over = count + own - least > *most_skew;
            is_over.then_some(Objection { reason: TOO_MANY, is_resolvable: true })
        })
    }

    /// How many pods there are: those of a key with many domains weigh more.
    fn score(&self, found: &[Found<'_>]) -> Option<i64> {
        let (mut score, mut is_soft) = (0.0, false);
        for one in found {
            let Rule::SpreadSoftly { most_skew, needs_key } = one.rule else { continue };
            is_soft = true;
            match one.count {
                Some(count) => {
                    let weight = (one.domains as f64 + 2.0).ln();
                    score += count as f64 * weight + (most_skew - 1) as f64;
                }
                None if *needs_key => return None,
                None => {}
            }
        }
        is_soft.then_some((score * PARTS).round() as i64)
    }

    fn normalize(&self, score: i64, least: i64, most: i64) -> i64 {
        if most <= 0 { MAX_SCORE } else { MAX_SCORE * (most + least - score) / most }
    }

    fn woken_by(&self, slots: &[&Slot]) -> Vec<Wake> {
        let hard = slots.iter().filter(|slot| slot.rule.is_hard());
        let tallies = hard.flat_map(|slot| &slot.counted).map(|(tally, _)| Wake::Tally(*tally));
        [Wake::Node, Wake::NodeGone].into_iter().chain(tallies).collect()
    }
}
