//! The scheduler's configuration, in kube-scheduler's spelling: what it changes, and what is refused.

use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wasmfleet::base::clock::VirtualClock;
use wasmfleet::client::Client;
use wasmfleet::client::cache::Cache;
use wasmfleet::client::event::Notice;
use wasmfleet::scheduler::config::{self, Configuration};
use wasmfleet::scheduler::cycle;
use wasmfleet::scheduler::framework::Frameworks;
use wasmfleet::scheduler::pod_info::PodInfo;
use wasmfleet::scheduler::snapshot::Snapshot;
use wasmfleet::scheduler::{Options, Scheduler};

use super::{Slow, line, merge, node, pod, requests};

fn document(more: Value) -> Value {
    let mut document = json!({"apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration"});
    merge(&mut document, more);
    document
}

fn read(more: Value) -> Result<Configuration, String> {
    config::parse(document(more))
}

/// One profile.
fn profile(more: Value) -> Configuration {
    read(json!({"profiles": [more]})).unwrap()
}

/// What it says of one profile.
fn refused(more: Value) -> String {
    read(json!({"profiles": [more]})).unwrap_err()
}

fn fit(strategy: Value) -> Value {
    json!({"pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": strategy}}]})
}

/// Where pods of a tenth of a node go, one after the other, on three nodes.
fn places(configuration: &Configuration, pods: usize) -> Vec<String> {
    let mut snapshot = Snapshot::default();
    for name in ["a", "b", "c"] {
        snapshot.set_node(&node(name, json!({})));
    }
    let pods = (0..pods).map(|n| PodInfo::of(&pod(&format!("p{n}"), requests("200m"))));
    let decisions = cycle::schedule(pods.collect(), &mut snapshot, &configuration.profiles);
    let place = |text: String| text.split_once(" → ").map_or(text.clone(), |(_, node)| node.into());
    decisions.into_iter().map(line).map(place).collect()
}

fn different(places: &[String]) -> usize {
    places.iter().collect::<std::collections::BTreeSet<_>>().len()
}

#[test]
fn strategies_spread_or_fill() {
    let least = profile(json!({}));
    assert_eq!(different(&places(&least, 6)), 3);
    let most = profile(fit(json!({"type": "MostAllocated"})));
    let found = places(&most, 12);
    assert_eq!((different(&found[..10]), different(&found[10..])), (1, 1), "{found:?}");
    let shape = json!([{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]);
    let ratio = json!({"type": "RequestedToCapacityRatio",
        "resources": [{"name": "cpu", "weight": 3}], "requestedToCapacityRatio": {"shape": shape}});
    assert_eq!(different(&places(&profile(fit(ratio)), 10)), 1);
}

#[test]
fn a_pod_chooses_its_profile() {
    let most = fit(json!({"type": "MostAllocated"}));
    let mut packing = json!({"schedulerName": "packing"});
    merge(&mut packing, most);
    let both =
        read(json!({"profiles": [{"schedulerName": "default-scheduler"}, packing]})).unwrap();
    assert_eq!(both.profiles.names().collect::<Vec<_>>(), ["default-scheduler", "packing"]);
    let mut snapshot = Snapshot::default();
    for name in ["a", "b"] {
        snapshot.set_node(&node(name, json!({})));
    }
    let mut decide = |name: &str, scheduler: &str| {
        let mut spec = requests("200m");
        merge(&mut spec, json!({"schedulerName": scheduler}));
        let pod = PodInfo::of(&pod(name, spec));
        line(cycle::schedule(vec![pod], &mut snapshot, &both.profiles).remove(0))
    };
    assert_eq!(decide("first", "default-scheduler"), "first → a");
    assert_eq!(decide("second", "packing"), "second → a");
    assert_eq!(decide("third", "default-scheduler"), "third → b");
}

#[test]
fn plugins_are_switched_off_and_weighed() {
    let framework = |plugins: Value| {
        let configuration = profile(json!({"plugins": plugins}));
        let pod = PodInfo::of(&pod("p", json!({})));
        let framework = configuration.profiles.of(&pod);
        let filters = framework.filters.iter().map(|one| one.name().to_string());
        let scores = framework.scores.iter().map(|one| (one.name().to_string(), one.weight()));
        let domains = framework.domains.iter().map(|one| (one.name().to_string(), one.weight()));
        let preempts = framework.preemption.wanted;
        (filters.collect::<Vec<_>>(), scores.chain(domains).collect::<Vec<_>>(), preempts)
    };
    let (filters, scores, preempts) = framework(json!({}));
    assert!(preempts && filters.contains(&"TaintToleration".into()), "{filters:?}");
    let has = |scores: &[(String, i64)], name: &str, weight: i64| {
        scores.contains(&(name.to_string(), weight))
    };
    assert!(has(&scores, "PodTopologySpread", 2) && has(&scores, "NodeAffinity", 2), "{scores:?}");

    let (filters, scores, preempts) = framework(json!({
        "filter": {"disabled": [{"name": "TaintToleration"}]},
        "score": {"disabled": [{"name": "*"}], "enabled": [{"name": "ImageLocality", "weight": 7},
            {"name": "PodTopologySpread"}]},
        "postFilter": {"disabled": [{"name": "DefaultPreemption"}]}}));
    assert!(!filters.contains(&"TaintToleration".into()) && !preempts, "{filters:?}");
    let weighed: Vec<_> = scores.iter().filter(|(_, weight)| *weight > 0).collect();
    assert_eq!(weighed.len(), 2, "{scores:?}");
    assert!(has(&scores, "ImageLocality", 7) && has(&scores, "PodTopologySpread", 1), "{scores:?}");

    let all = framework(json!({}));
    let absent = json!([{"name": "NodeVolumeLimits"}, {"name": "DynamicResources"}]);
    assert_eq!(framework(json!({"multiPoint": {"disabled": absent}})), all);
    let (filters, ..) = framework(json!({"multiPoint": {"disabled": [{"name": "VolumeZone"}]}}));
    assert!(all.0.contains(&"VolumeZone".into()) && !filters.contains(&"VolumeZone".into()));

    let (filters, scores, _) = framework(json!({
        "multiPoint": {"disabled": [{"name": "*"}],
            "enabled": [{"name": "NodeResourcesFit", "weight": 3}, {"name": "PrioritySort"}]}}));
    assert_eq!((filters, scores.len()), (vec!["NodeResourcesFit".to_string()], 1));
}

/// Constraints of a profile are those of pods that have none.
#[test]
fn default_constraints_are_a_profiles() {
    let constraint =
        json!({"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"});
    let args = json!({"defaultingType": "List", "defaultConstraints": [constraint]});
    let spread = profile(json!({"pluginConfig": [{"name": "PodTopologySpread", "args": args}]}));
    let mut snapshot = Snapshot::default();
    for (name, rack) in [("a", "1"), ("b", "2")] {
        snapshot.set_node(&node(name, json!({"metadata": {"labels": {"rack": rack}}})));
    }
    let key = wasmfleet::api::ObjectKey::new("n", "s");
    let labels = [("app".to_string(), "x".to_string())].into();
    snapshot.defaults.set_service(&key, Some(&labels));
    // Only one of the racks is open to them: a second pod would be one too many there.
    let wanted = |name: &str| {
        let mut one = pod(
            name,
            json!({"nodeSelector": {"kubernetes.io/hostname": "a"},
            "tolerations": []}),
        );
        one.metadata.labels = Some(labels.clone());
        PodInfo::of(&one)
    };
    let pods = vec![wanted("p"), wanted("q")];
    let lines: Vec<String> =
        cycle::schedule(pods, &mut snapshot, &spread.profiles).into_iter().map(line).collect();
    assert_eq!(lines, ["p → a", "q → a"], "only nodes that they may go to matter");
    let everywhere = |name: &str| {
        let mut one = pod(name, requests("1m"));
        one.metadata.labels = Some(labels.clone());
        PodInfo::of(&one)
    };
    let pods = vec![everywhere("r"), everywhere("s")];
    let lines: Vec<String> =
        cycle::schedule(pods, &mut snapshot, &spread.profiles).into_iter().map(line).collect();
    assert_eq!(lines, ["r → b", "s → b"], "two are on the other rack");
}

#[test]
fn back_offs_are_set() {
    let set = read(json!({"podInitialBackoffSeconds": 2, "podMaxBackoffSeconds": 60})).unwrap();
    assert_eq!((set.back_off.first.as_secs(), set.back_off.most.as_secs()), (2, 60));
    let one = read(json!({"podInitialBackoffSeconds": 9})).unwrap();
    assert_eq!((one.back_off.first.as_secs(), one.back_off.most.as_secs()), (9, 10));
    let why = read(json!({"podInitialBackoffSeconds": 30, "podMaxBackoffSeconds": 3})).unwrap_err();
    assert!(why.starts_with("podMaxBackoffSeconds:") && why.ends_with("it is 3"), "{why}");
    let why = read(json!({"podInitialBackoffSeconds": 30})).unwrap_err();
    assert!(why.starts_with("podMaxBackoffSeconds:") && why.ends_with("it is 10"), "{why}");
}

#[test]
fn what_is_not_supported_is_refused_by_its_name() {
    let whole = [
        (json!({"kind": "Configuration"}), "it is a Configuration of"),
        (json!({"apiVersion": "kubescheduler.config.k8s.io/v1beta3"}), "v1beta3"),
        (json!({"colour": 1}), "unknown field `colour`"),
        (json!({"leaderElection": {"leaderElect": true}}), "leaderElection:"),
        (json!({"leaderElection": {}}), "leaderElection:"),
        (json!({"clientConnection": {"kubeconfig": "f"}}), "clientConnection:"),
        (json!({"extenders": [{"urlPrefix": "http://e"}]}), "extenders:"),
        (json!({"percentageOfNodesToScore": 30}), "percentageOfNodesToScore:"),
        (json!({"parallelism": 16}), "parallelism:"),
        (json!({"profiles": [{}, {}]}), "profiles[0].schedulerName:"),
        (
            json!({"profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}]}),
            "profiles[1].schedulerName:",
        ),
    ];
    let empty = config::parse(Value::Null).unwrap_err();
    assert!(empty.starts_with("it is empty, and must be a KubeSchedulerConfiguration"), "{empty}");
    for (more, begin) in whole {
        let why = read(more).unwrap_err();
        assert!(why.contains(begin), "{begin}: {why}");
    }
    let config = |name: &str, args: Value| json!({"pluginConfig": [{"name": name, "args": args}]});
    let shape = |points: Value| {
        fit(
            json!({"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {"shape": points}}),
        )
    };
    let parts = [
        (json!({"color": 1}), "profiles[0]: unknown field `color`"),
        (json!({"plugins": {"filter": {"disabled": [{"name": "Nodes"}]}}}), "no plugin \"Nodes\""),
        (
            json!({"plugins": {"score": {"enabled": [{"name": "NodePorts"}]}}}),
            "NodePorts is no plugin of the point score",
        ),
        (json!({"plugins": {"bind": {"disabled": [{"name": "*"}]}}}), "profiles[0].plugins.bind:"),
        (
            json!({"plugins": {"filter": {"enabled": [{"name": "NodeVolumeLimits"}]}}}),
            "NodeVolumeLimits is not done here",
        ),
        (
            json!({"plugins": {"multiPoint": {"disabled": [{"name": "DefaultBinder"}]}}}),
            "cannot be disabled",
        ),
        (
            json!({"plugins": {"score": {"enabled": [{"name": "ImageLocality", "weight": -1}]}}}),
            "profiles[0].plugins.score.enabled[0].weight:",
        ),
        (config("VolumeBinding", json!({"bindTimeoutSeconds": 5})), "takes no arguments here"),
        (config("NodeResourcesFit", json!({"kind": "Other"})), ".args.kind: must be"),
        (config("InterPodAffinity", json!({"hardPodAffinityWeight": 5})), "hardPodAffinityWeight:"),
        (config("DefaultPreemption", json!({"minCandidateNodesPercentage": 101})), "from 0 to 100"),
        (fit(json!({"type": "Best"})), "no strategy \"Best\""),
        (fit(json!({"resources": [{"name": "cpu", "weight": 101}]})), "resources[0]:"),
        (fit(json!({"resources": [{"name": "cpu"}, {"name": "cpu"}]})), "is there twice"),
        (shape(json!([])), "must have from 1"),
        (shape(json!([{"utilization": 5, "score": 11}])), "shape[0].score:"),
        (
            shape(json!([{"utilization": 5, "score": 1}, {"utilization": 5, "score": 2}])),
            "shape[1].utilization:",
        ),
        (
            config(
                "PodTopologySpread",
                json!({"defaultConstraints": [
                {"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}]}),
            ),
            "needs defaultingType: List",
        ),
        (
            config(
                "PodTopologySpread",
                json!({"defaultingType": "List", "defaultConstraints": [
                {"maxSkew": 0, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}]}),
            ),
            "defaultConstraints[0]:",
        ),
    ];
    for (more, part) in parts {
        let why = refused(more);
        assert!(why.contains(part), "{part}: {why}");
    }
}

/// The document's examples are what it says they are.
#[test]
fn the_documents_examples_are_read() {
    let text = include_str!("../../../docs/scheduling.md");
    let blocks: Vec<&str> = text.split("```yaml\n").skip(1).collect();
    let yaml = |n: usize| blocks[n].split_once("```").unwrap().0;
    let document: Value = serde_yaml::from_str(yaml(0)).unwrap();
    let read = config::parse(document).unwrap();
    assert_eq!(read.profiles.names().collect::<Vec<_>>(), ["default-scheduler", "packing"]);
    let registry = wasmfleet::api::registry::Registry::builtin();
    for text in yaml(1).split("---\n") {
        let object: Value = serde_yaml::from_str(text).unwrap();
        let (version, kind) = (&object["apiVersion"], &object["kind"]);
        let info = registry.by_kind(version.as_str().unwrap(), kind.as_str().unwrap()).unwrap();
        let create = wasmfleet::api::resource::Operation::Create;
        let draft = info.rules.decode(object, None, create).unwrap();
        assert_eq!(draft.unknown, Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_profile_tells_by_its_own_name() {
    let read = read(json!({"profiles": [{"schedulerName": "default-scheduler"},
        {"schedulerName": "packing"}]}));
    let options = Options { profiles: Arc::new(read.unwrap().profiles), ..Options::default() };
    let api = Slow { gate: Semaphore::new(1), bound: Mutex::default(), fails: Mutex::default() };
    let cache = Cache::new();
    cache.add::<Node>();
    cache.add::<Pod>();
    let clock = Arc::new(VirtualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let tell = Arc::new(move |profile: &str, notice: Notice| {
        let _ = sender.send((profile.to_string(), notice.reason.to_string()));
    });
    let client = Client::new(Arc::new(api), "test");
    let scheduler = Scheduler::new(client, &cache, clock, tell, options);
    cache.replace(vec![pod("p", json!({"schedulerName": "packing"}))], 1);
    let running = tokio::spawn(async move { scheduler.run().await });
    let wanted = ("packing".to_string(), "FailedScheduling".to_string());
    assert_eq!(told.recv().await.unwrap(), wanted);
    running.abort();
}
