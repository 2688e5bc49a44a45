//! Which plugins a profile has, and where: `plugins` with its sets of enabled and disabled ones.
//! A set of one point goes before `multiPoint`, as upstream has it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::scheduler::plugins::{Choice, PLUGINS};

/// The plugin of the point postFilter.
const PREEMPTION: &str = "DefaultPreemption";
/// What every profile has: part of the queue, of other plugins, or of how pods are bound.
const ALWAYS: &[&str] =
    &["DefaultBinder", "GangScheduling", "PrioritySort", "SchedulingGates", "VolumeRestrictions"];
/// Upstream's, without a meaning here: switched off they are switched off.
const NOT_HERE: &[&str] = &[
    "AzureDiskLimits",
    "CinderLimits",
    "DynamicResources",
    "EBSLimits",
    "GCEPDLimits",
    "NodeDeclaredFeatures",
    "NodeVolumeLimits",
];
const ALL: &str = "*";
/// More than any sensible sum of weights needs, and far from overflowing one.
const MOST_WEIGHT: i64 = 1_000_000;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Points {
    #[serde(default)]
    multi_point: Set,
    #[serde(default)]
    filter: Set,
    #[serde(default)]
    post_filter: Set,
    #[serde(default)]
    score: Set,
    #[serde(default)]
    pre_enqueue: Set,
    #[serde(default)]
    queue_sort: Set,
    #[serde(default)]
    pre_filter: Set,
    #[serde(default)]
    pre_score: Set,
    #[serde(default)]
    reserve: Set,
    #[serde(default)]
    permit: Set,
    #[serde(default)]
    pre_bind: Set,
    #[serde(default)]
    bind: Set,
    #[serde(default)]
    post_bind: Set,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Set {
    #[serde(default)]
    enabled: Vec<Plugin>,
    #[serde(default)]
    disabled: Vec<Plugin>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Plugin {
    name: String,
    weight: Option<i64>,
}

/// What a profile wants of every plugin.
pub struct Chosen {
    plugins: BTreeMap<&'static str, Choice>,
    preempts: bool,
}

impl Chosen {
    pub fn of(&self, plugin: &str) -> Choice {
        self.plugins.get(plugin).copied().unwrap_or(Choice::ALL)
    }

    pub fn preempts(&self) -> bool {
        self.preempts
    }
}

/// Reads `plugins`, which stands at `at`.
pub fn read(plugins: Option<Value>, at: &str) -> Result<Chosen, String> {
    let points: Points = match plugins {
        None | Some(Value::Null) => Points::default(),
        Some(value) => serde_json::from_value(value).map_err(|e| format!("{at}: {e}"))?,
    };
    let elsewhere: [(&str, &Set); 9] = [
        ("preEnqueue", &points.pre_enqueue),
        ("queueSort", &points.queue_sort),
        ("preFilter", &points.pre_filter),
        ("preScore", &points.pre_score),
        ("reserve", &points.reserve),
        ("permit", &points.permit),
        ("preBind", &points.pre_bind),
        ("bind", &points.bind),
        ("postBind", &points.post_bind),
    ];
    for (point, set) in elsewhere {
        if !set.enabled.is_empty() || !set.disabled.is_empty() {
            return Err(format!(
                "{at}.{point}: plugins are chosen at multiPoint, filter, score and postFilter; what \
                 they do at other points comes with them"
            ));
        }
    }
    let mut chosen = Chosen { plugins: BTreeMap::new(), preempts: true };
    let sets = [
        ("multiPoint", &points.multi_point),
        ("filter", &points.filter),
        ("score", &points.score),
        ("postFilter", &points.post_filter),
    ];
    for (point, set) in sets {
        chosen.apply(point, set, &format!("{at}.{point}"))?;
    }
    Ok(chosen)
}

impl Chosen {
    fn apply(&mut self, point: &str, set: &Set, at: &str) -> Result<(), String> {
        for plugin in &set.disabled {
            if plugin.name == ALL {
                PLUGINS.iter().for_each(|row| self.switch(row.name, point, false, None));
                self.preempts &= !is_of(PREEMPTION, point);
                continue;
            }
            if ALWAYS.contains(&plugin.name.as_str()) {
                let why = "is part of every profile, and cannot be disabled";
                return Err(format!("{at}.disabled: {} {why}", plugin.name));
            }
            if NOT_HERE.contains(&plugin.name.as_str()) {
                continue;
            }
            let name = known(&plugin.name, point, &format!("{at}.disabled"))?;
            self.switch(name, point, false, None);
        }
        for (n, plugin) in set.enabled.iter().enumerate() {
            let at = format!("{at}.enabled[{n}]");
            if plugin.weight.is_some_and(|weight| !(0..=MOST_WEIGHT).contains(&weight)) {
                return Err(format!("{at}.weight: must be from 1 to {MOST_WEIGHT}"));
            }
            if ALWAYS.contains(&plugin.name.as_str()) {
                continue;
            }
            let name = known(&plugin.name, point, &at)?;
            // Upstream's: who enables without a weight says 1.
            let weight = plugin.weight.filter(|weight| *weight > 0).unwrap_or(1);
            self.switch(name, point, true, Some(weight));
        }
        Ok(())
    }

    fn switch(&mut self, name: &'static str, point: &str, is_on: bool, weight: Option<i64>) {
        if name == PREEMPTION {
            self.preempts = is_on;
            return;
        }
        let choice = self.plugins.entry(name).or_insert(Choice::ALL);
        if matches!(point, "multiPoint" | "filter") {
            choice.filters = is_on;
        }
        if matches!(point, "multiPoint" | "score") {
            choice.scores = is_on;
            choice.weight = weight.or(choice.weight);
        }
    }
}

/// Whether a plugin is asked at a point.
fn is_of(name: &str, point: &str) -> bool {
    if name == PREEMPTION {
        return matches!(point, "multiPoint" | "postFilter");
    }
    let Some(row) = PLUGINS.iter().find(|row| row.name == name) else { return false };
    match point {
        "multiPoint" => true,
        "filter" => row.filter.is_some() || row.domains.is_some(),
        "score" => row.score.is_some() || row.domains.is_some(),
        _ => false,
    }
}

/// The plugin of a name, if it is asked at a point.
fn known(name: &str, point: &str, at: &str) -> Result<&'static str, String> {
    let all = PLUGINS.iter().map(|row| row.name).chain([PREEMPTION]);
    let Some(known) = all.clone().find(|one| *one == name) else {
        let all: Vec<&str> = all.collect();
        if NOT_HERE.contains(&name) {
            return Err(format!("{at}: {name} is not done here; leave it out"));
        }
        return Err(format!("{at}: no plugin {name:?}; there are {}", all.join(", ")));
    };
    match is_of(name, point) {
        true => Ok(known),
        false => Err(format!("{at}: {name} is no plugin of the point {point}")),
    }
}
