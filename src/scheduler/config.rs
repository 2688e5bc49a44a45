//! The configuration of the scheduler, as kube-scheduler's file of the kind KubeSchedulerConfiguration
//! (kubescheduler.config.k8s.io/v1) spells it. What this scheduler does not do is refused, and never
//! left out in silence. It knows documents only; who reads files is elsewhere.

mod args;
mod points;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::NAME;
use super::plugins::{self, Settings};
use super::profiles::Profiles;
use super::queue::LIMITS;
use crate::base::backoff::Limits;

const VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";
/// Profiles of one scheduler: each has its own share of what is kept of pods that are alike.
const MOST_PROFILES: usize = 16;
/// The longest back-off, in seconds.
const MOST_BACK_OFF: i64 = 3_600;

/// What a file says.
#[derive(Debug)]
pub struct Configuration {
    pub profiles: Profiles,
    pub back_off: Limits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    parallelism: Option<i64>,
    leader_election: Option<Value>,
    client_connection: Option<Value>,
    enable_profiling: Option<bool>,
    enable_contention_profiling: Option<bool>,
    delay_cache_until_active: Option<bool>,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    profiles: Vec<Value>,
    #[serde(default)]
    extenders: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    plugins: Option<Value>,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PluginConfig {
    name: String,
    args: Option<Value>,
}

/// Reads a configuration.
///
/// # Errors
/// Says where it is wrong, or what is not supported and what to do instead.
pub fn parse(document: Value) -> Result<Configuration, String> {
    if !document.is_object() {
        let what = if document.is_null() { "it is empty" } else { "it is no object" };
        return Err(format!("{what}, and must be a {KIND} of {VERSION}"));
    }
    let document: Document = serde_json::from_value(document).map_err(|e| e.to_string())?;
    if document.api_version != VERSION || document.kind != KIND {
        let (version, kind) = (&document.api_version, &document.kind);
        return Err(format!("it is a {kind} of {version}, and must be a {KIND} of {VERSION}"));
    }
    refuse_what_is_not_done(&document)?;
    let given = document.profiles.len();
    if given > MOST_PROFILES {
        return Err(format!("profiles: {given} are more than {MOST_PROFILES}"));
    }
    let (mut names, mut list) = (BTreeSet::new(), Vec::new());
    for (n, profile) in document.profiles.into_iter().enumerate() {
        let at = format!("profiles[{n}]");
        let (name, framework) = read_profile(profile, given, &at)?;
        if !names.insert(name.clone()) {
            return Err(format!("{at}.schedulerName: {name:?} names two profiles"));
        }
        list.push((name, framework));
    }
    let back_off =
        back_off(document.pod_initial_backoff_seconds, document.pod_max_backoff_seconds)?;
    Ok(Configuration { profiles: Profiles::new(list).unwrap_or_default(), back_off })
}

fn refuse_what_is_not_done(document: &Document) -> Result<(), String> {
    let elects = document.leader_election.as_ref().is_some_and(|election| {
        let fields = election.as_object().into_iter().flatten();
        let mut fields = fields.filter(|(key, _)| key.as_str() == "leaderElect");
        !fields.any(|(_, value)| *value == Value::Bool(false))
    });
    let refusals: [(bool, &str); 7] = [
        (
            elects,
            "leaderElection: a cluster has one control plane, and no election; say leaderElect: false",
        ),
        (
            document.client_connection.is_some(),
            "clientConnection: the scheduler is in the API server's process; leave it out",
        ),
        (
            document.parallelism.is_some(),
            "parallelism: decisions are made by one thread, which shares them among pods that are \
             alike; leave it out",
        ),
        (
            document.enable_profiling == Some(true)
                || document.enable_contention_profiling == Some(true),
            "enableProfiling: there is no profiling by HTTP; leave it out",
        ),
        (
            document.delay_cache_until_active == Some(true),
            "delayCacheUntilActive: there is no election to wait for; leave it out",
        ),
        (!document.extenders.is_empty(), "extenders: extenders by HTTP are not supported"),
        (
            !scores_all(document.percentage_of_nodes_to_score),
            "percentageOfNodesToScore: all nodes are scored; leave it out, or say 100",
        ),
    ];
    let refused = refusals.iter().find(|(refused, _)| *refused);
    refused.map_or(Ok(()), |(_, why)| Err((*why).to_string()))
}

/// 0 is upstream's word for "as it seems best".
fn scores_all(percentage: Option<i64>) -> bool {
    matches!(percentage, None | Some(0 | 100))
}

fn back_off(first: Option<i64>, most: Option<i64>) -> Result<Limits, String> {
    let seconds = |limit: Duration| i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
    let first = first.unwrap_or(seconds(LIMITS.first));
    let most = most.unwrap_or(seconds(LIMITS.most));
    if !(1..=MOST_BACK_OFF).contains(&first) {
        return Err(format!("podInitialBackoffSeconds: must be from 1 to {MOST_BACK_OFF}"));
    }
    if !(first..=MOST_BACK_OFF).contains(&most) {
        let why = "must be no less than podInitialBackoffSeconds";
        return Err(format!(
            "podMaxBackoffSeconds: {why}, and at most {MOST_BACK_OFF}; it is {most}"
        ));
    }
    let limit = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
    Ok(Limits { first: limit(first), most: limit(most) })
}

fn read_profile(
    profile: Value,
    profiles: usize,
    at: &str,
) -> Result<(String, super::framework::Framework), String> {
    let profile: Profile = serde_json::from_value(profile).map_err(|e| format!("{at}: {e}"))?;
    let name = match profile.scheduler_name {
        Some(name) if !name.is_empty() => name,
        _ if profiles == 1 => NAME.into(),
        _ => return Err(format!("{at}.schedulerName: must be given where there are many")),
    };
    if !scores_all(profile.percentage_of_nodes_to_score) {
        let field = "percentageOfNodesToScore";
        return Err(format!("{at}.{field}: all nodes are scored; leave it out, or say 100"));
    }
    let mut settings = Settings::default();
    let mut told = BTreeSet::new();
    for (n, config) in profile.plugin_config.into_iter().enumerate() {
        let at = format!("{at}.pluginConfig[{n}]");
        if !told.insert(config.name.clone()) {
            return Err(format!("{at}: {} is configured twice", config.name));
        }
        args::read(&config.name, config.args.unwrap_or(Value::Null), &mut settings, &at)?;
    }
    let chosen = points::read(profile.plugins, &format!("{at}.plugins"))?;
    settings.preemption.wanted = chosen.preempts();
    Ok((name, plugins::framework(|plugin| chosen.of(plugin), &settings)))
}
