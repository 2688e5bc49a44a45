//! What a profile tells its plugins: the arguments of `pluginConfig`, as upstream's types spell them
//! (kubescheduler.config.k8s.io/v1, `…Args`).

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::scheduler::framework::MAX_SCORE;
use crate::scheduler::plugins::Settings;
use crate::scheduler::plugins::node_resources_fit::Ignored;
use crate::scheduler::plugins::pod_topology_spread::Defaults;
use crate::scheduler::plugins::resource_strategy::{Kind, Resource, Strategy};

/// The highest score of a point, and of a weight of a resource.
const MOST_SHAPE_SCORE: i64 = 10;
const MOST_UTILIZATION: i64 = 100;
const MOST_WEIGHT: i64 = 100;
/// Resources, points or constraints that a list may have.
const MOST_LISTED: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FitArgs {
    #[serde(default)]
    ignored_resources: Vec<String>,
    #[serde(default)]
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<ScoringStrategy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringStrategy {
    r#type: Option<String>,
    #[serde(default)]
    resources: Vec<ResourceSpec>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourceSpec {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ratio {
    #[serde(default)]
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpreadArgs {
    #[serde(default)]
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PreemptionArgs {
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InterPodAffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: Option<bool>,
}

/// Takes in what a plugin is told.
pub fn read(plugin: &str, args: Value, settings: &mut Settings, at: &str) -> Result<(), String> {
    let at = format!("{at}.args");
    let args = match args {
        Value::Null => Map::new(),
        Value::Object(map) => map,
        _ => return Err(format!("{at}: must be an object")),
    };
    match plugin {
        "NodeResourcesFit" => {
            let args: FitArgs = typed("NodeResourcesFitArgs", args, &at)?;
            settings.ignored =
                Ignored { names: args.ignored_resources, groups: args.ignored_resource_groups };
            if let Some(given) = args.scoring_strategy {
                settings.strategy = strategy(given, &format!("{at}.scoringStrategy"))?;
            }
        }
        "PodTopologySpread" => {
            let args: SpreadArgs = typed("PodTopologySpreadArgs", args, &at)?;
            settings.spread = spread(args, &at)?;
        }
        "DefaultPreemption" => {
            let args: PreemptionArgs = typed("DefaultPreemptionArgs", args, &at)?;
            let wanted = &mut settings.preemption;
            let (percent, least) = (wanted.percent, wanted.least);
            let number = |given: Option<i64>, default: usize, most: i64, field: &str| match given {
                None => Ok(default),
                Some(number) => usize::try_from(number)
                    .ok()
                    .filter(|_| number <= most)
                    .ok_or_else(|| format!("{at}.{field}: must be from 0 to {most}")),
            };
            let percentage = args.min_candidate_nodes_percentage;
            wanted.percent = number(percentage, percent, 100, "minCandidateNodesPercentage")?;
            let absolute = args.min_candidate_nodes_absolute;
            wanted.least = number(absolute, least, 1_000_000, "minCandidateNodesAbsolute")?;
            if wanted.percent == 0 && wanted.least == 0 {
                return Err(format!("{at}: one of percentage and absolute must be more than 0"));
            }
        }
        "InterPodAffinity" => {
            let args: InterPodAffinityArgs = typed("InterPodAffinityArgs", args, &at)?;
            if args.hard_pod_affinity_weight.is_some_and(|weight| weight != 1) {
                let why = "required terms of pods that are there weigh 1, as by default";
                return Err(format!("{at}.hardPodAffinityWeight: {why}; leave it out"));
            }
            if args.ignore_preferred_terms_of_existing_pods == Some(true) {
                let field = "ignorePreferredTermsOfExistingPods";
                return Err(format!("{at}.{field}: they always count; leave it out"));
            }
        }
        other => {
            return Err(format!(
                "{at}: {other} takes no arguments here; those that do are NodeResourcesFit, \
                 PodTopologySpread, DefaultPreemption and InterPodAffinity"
            ));
        }
    }
    Ok(())
}

/// The arguments, whose type may be named.
fn typed<T: DeserializeOwned>(
    kind: &str,
    mut args: Map<String, Value>,
    at: &str,
) -> Result<T, String> {
    let version = args.remove("apiVersion");
    if version.is_some_and(|version| version != *super::VERSION) {
        return Err(format!("{at}.apiVersion: must be {}", super::VERSION));
    }
    if args.remove("kind").is_some_and(|given| given != *kind) {
        return Err(format!("{at}.kind: must be {kind}"));
    }
    serde_json::from_value(Value::Object(args)).map_err(|e| format!("{at}: {e}"))
}

fn strategy(given: ScoringStrategy, at: &str) -> Result<Strategy, String> {
    let kind = given.r#type.as_deref().unwrap_or("LeastAllocated");
    let is_ratio = kind == "RequestedToCapacityRatio";
    if given.requested_to_capacity_ratio.is_some() && !is_ratio {
        return Err(format!("{at}.requestedToCapacityRatio: it is of another type than {kind}"));
    }
    let kind = match kind {
        "LeastAllocated" => Kind::LeastAllocated,
        "MostAllocated" => Kind::MostAllocated,
        "RequestedToCapacityRatio" => {
            let points = given.requested_to_capacity_ratio.map(|ratio| ratio.shape);
            let at = format!("{at}.requestedToCapacityRatio.shape");
            Kind::RequestedToCapacityRatio(shape(&points.unwrap_or_default(), &at)?)
        }
        other => {
            let known = "LeastAllocated, MostAllocated and RequestedToCapacityRatio";
            return Err(format!("{at}.type: no strategy {other:?}; there are {known}"));
        }
    };
    if given.resources.len() > MOST_LISTED {
        return Err(format!("{at}.resources: at most {MOST_LISTED}"));
    }
    let mut resources = Vec::new();
    for (n, one) in given.resources.iter().enumerate() {
        let weight = one.weight.filter(|weight| *weight != 0).unwrap_or(1);
        if one.name.is_empty() || !(1..=MOST_WEIGHT).contains(&weight) {
            let why = format!("a name, and a weight from 1 to {MOST_WEIGHT}");
            return Err(format!("{at}.resources[{n}]: must have {why}"));
        }
        let resource = Resource::named(&one.name);
        if resources.iter().any(|(known, _)| *known == resource) {
            return Err(format!("{at}.resources[{n}]: {} is there twice", one.name));
        }
        resources.push((resource, weight));
    }
    if resources.is_empty() {
        // Upstream's, which knows no places; ours counts them where nobody says otherwise.
        resources = vec![(Resource::Cpu, 1), (Resource::Memory, 1)];
    }
    Ok(Strategy { kind, resources })
}

fn shape(points: &[Point], at: &str) -> Result<Vec<(i64, i64)>, String> {
    if points.is_empty() || points.len() > MOST_LISTED {
        return Err(format!("{at}: must have from 1 to {MOST_LISTED} points"));
    }
    let mut last = None;
    let mut shape = Vec::new();
    for (n, Point { utilization, score }) in points.iter().enumerate() {
        if !(0..=MOST_UTILIZATION).contains(utilization) || last >= Some(*utilization) {
            let why = format!("must be from 0 to {MOST_UTILIZATION}, and more than the one before");
            return Err(format!("{at}[{n}].utilization: {why}"));
        }
        if !(0..=MOST_SHAPE_SCORE).contains(score) {
            return Err(format!("{at}[{n}].score: must be from 0 to {MOST_SHAPE_SCORE}"));
        }
        last = Some(*utilization);
        let at = utilization * (MAX_SCORE / MOST_UTILIZATION);
        shape.push((at, score * (MAX_SCORE / MOST_SHAPE_SCORE)));
    }
    Ok(shape)
}

fn spread(args: SpreadArgs, at: &str) -> Result<Defaults, String> {
    let list = args.default_constraints;
    let kind = args.defaulting_type.as_deref().unwrap_or("System");
    let at = format!("{at}.defaultConstraints");
    match kind {
        "System" if list.is_empty() => return Ok(Defaults::System),
        "System" => return Err(format!("{at}: needs defaultingType: List")),
        "List" => {}
        other => {
            let known = "System and List";
            return Err(format!("{at}: no defaultingType {other:?}; there are {known}"));
        }
    }
    if list.len() > MOST_LISTED {
        return Err(format!("{at}: at most {MOST_LISTED}"));
    }
    let mut known = std::collections::BTreeSet::new();
    for (n, one) in list.iter().enumerate() {
        let at = format!("{at}[{n}]");
        if one.max_skew <= 0 || one.topology_key.is_empty() {
            return Err(format!("{at}: must have a maxSkew of more than 0, and a topologyKey"));
        }
        if !matches!(&*one.when_unsatisfiable, "DoNotSchedule" | "ScheduleAnyway") {
            let why = "must be DoNotSchedule or ScheduleAnyway";
            return Err(format!("{at}.whenUnsatisfiable: {why}"));
        }
        if one.label_selector.is_some() || one.match_label_keys.is_some() {
            let why = "which pods belong together, their Services and controllers tell";
            return Err(format!("{at}.labelSelector: {why}; leave it out"));
        }
        if !known.insert((&one.topology_key, &one.when_unsatisfiable)) {
            return Err(format!(
                "{at}: the same topologyKey and whenUnsatisfiable are there twice"
            ));
        }
    }
    Ok(Defaults::List(list))
}
