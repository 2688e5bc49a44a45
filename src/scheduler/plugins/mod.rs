//! The plugins, one file each. To add one: write its file, add its row here.

mod balanced_allocation;
mod image_locality;
mod inter_pod_affinity;
pub(super) mod node_affinity;
mod node_name;
mod node_ports;
pub mod node_resources_fit;
mod node_unschedulable;
pub mod pod_topology_spread;
pub mod resource_strategy;
pub(super) mod taint_toleration;
mod volume_binding;
mod volume_zone;
mod wasm_features;

use super::framework::{
    Candidates, DomainPlugin, FilterPlugin, Framework, Partly, ScorePlugin, Weighted,
};
use node_resources_fit::{Ignored, NodeResourcesFit};
use pod_topology_spread::{Defaults, PodTopologySpread};
use resource_strategy::Strategy;

/// What plugins may be told (`pluginConfig`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub ignored: Ignored,
    pub strategy: Strategy,
    pub spread: Defaults,
    pub preemption: Candidates,
}

/// Makes a plugin as a profile wants it.
type Make<P> = fn(&Settings) -> Box<P>;

/// A plugin by the name that kube-scheduler's configuration calls it, and what it does.
pub struct Row {
    pub name: &'static str,
    pub filter: Option<Make<dyn FilterPlugin>>,
    pub score: Option<Make<dyn ScorePlugin>>,
    /// Filters and scores by what is counted in domains.
    pub domains: Option<Make<dyn DomainPlugin>>,
}

/// What a profile wants of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub filters: bool,
    pub scores: bool,
    /// Without it the plugin's own.
    pub weight: Option<i64>,
}

impl Choice {
    pub const ALL: Choice = Choice { filters: true, scores: true, weight: None };
}

const fn filter(name: &'static str, filter: Make<dyn FilterPlugin>) -> Row {
    Row { name, filter: Some(filter), score: None, domains: None }
}

const fn score(name: &'static str, score: Make<dyn ScorePlugin>) -> Row {
    Row { name, filter: None, score: Some(score), domains: None }
}

const fn domains(name: &'static str, domains: Make<dyn DomainPlugin>) -> Row {
    Row { name, filter: None, score: None, domains: Some(domains) }
}

/// Every plugin; filters from cheap to dear.
pub const PLUGINS: &[Row] = &[
    filter("NodeUnschedulable", |_| Box::new(node_unschedulable::NodeUnschedulable)),
    filter("NodeName", |_| Box::new(node_name::NodeName)),
    Row {
        score: Some(|_| Box::new(taint_toleration::TaintToleration)),
        ..filter("TaintToleration", |_| Box::new(taint_toleration::TaintToleration))
    },
    Row {
        score: Some(|_| Box::new(node_affinity::NodeAffinity)),
        ..filter("NodeAffinity", |_| Box::new(node_affinity::NodeAffinity))
    },
    filter("WasmFeatures", |_| Box::new(wasm_features::WasmFeatures)),
    filter("NodePorts", |_| Box::new(node_ports::NodePorts)),
    Row {
        score: Some(|settings| Box::new(settings.strategy.clone())),
        ..filter("NodeResourcesFit", |settings| {
            Box::new(NodeResourcesFit { ignored: settings.ignored.clone() })
        })
    },
    filter("VolumeBinding", |_| Box::new(volume_binding::VolumeBinding)),
    filter("VolumeZone", |_| Box::new(volume_zone::VolumeZone)),
    score("NodeResourcesBalancedAllocation", |_| Box::new(balanced_allocation::BalancedAllocation)),
    score("ImageLocality", |_| Box::new(image_locality::ImageLocality)),
    domains("PodTopologySpread", |settings| {
        Box::new(PodTopologySpread { defaults: settings.spread.clone() })
    }),
    domains("InterPodAffinity", |_| Box::new(inter_pod_affinity::InterPodAffinity)),
];

/// The default set.
pub fn default_framework() -> Framework {
    framework(|_| Choice::ALL, &Settings::default())
}

/// The set of a profile.
pub fn framework(choose: impl Fn(&str) -> Choice, settings: &Settings) -> Framework {
    let (mut filters, mut scores, mut of_domains) = (Vec::new(), Vec::new(), Vec::new());
    for row in PLUGINS {
        let Choice { filters: may_filter, scores: may_score, weight } = choose(row.name);
        if let Some(filter) = row.filter.filter(|_| may_filter) {
            filters.push(filter(settings));
        }
        if let Some(score) = row.score.filter(|_| may_score) {
            let plugin = score(settings);
            match weight.filter(|weight| *weight != plugin.weight()) {
                None => scores.push(plugin),
                Some(weight) => {
                    scores.push(Box::new(Weighted { plugin, weight }) as Box<dyn ScorePlugin>);
                }
            }
        }
        if let Some(plugin) = row.domains.filter(|_| may_filter || may_score) {
            let plugin = plugin(settings);
            let own = plugin.weight();
            let is_whole = may_filter && may_score && weight.is_none_or(|weight| weight == own);
            of_domains.push(match is_whole {
                true => plugin,
                false => {
                    let scores = may_score.then(|| weight.unwrap_or(own));
                    Box::new(Partly { plugin, filters: may_filter, scores })
                }
            });
        }
    }
    Framework { filters, scores, domains: of_domains, preemption: settings.preemption }
}
