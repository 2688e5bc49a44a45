//! Objects in, plan as text out: each controller's decisions, without a server or time passing.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Map, Value, json};
use wasmfleet::api::{Kind, ObjectKey};
use wasmfleet::client::cache::Cache;
use wasmfleet::controllers::{self, Controller, Options, Plan, Write};

/// The time of all plans.
const NOW: &str = "2026-01-01T01:00:00Z";

/// A cache fed by hand.
struct Objects {
    cache: Arc<Cache>,
    by_kind: BTreeMap<String, Vec<Value>>,
}

impl Objects {
    /// Kind, name and further fields of each object; all in `default`, with a uid that is the name.
    fn new(objects: &[Value]) -> Objects {
        let cache = Cache::new();
        controllers::keep_by_hand(&cache);
        let mut by_kind: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for object in objects {
            let mut object = object.clone();
            let kind = object["kind"].as_str().unwrap().to_string();
            let meta = object["metadata"].as_object_mut().unwrap();
            let uid = json!(format!("{}-uid", meta["name"].as_str().unwrap()));
            meta.entry("uid").or_insert(uid);
            meta.entry("resourceVersion").or_insert(json!("5"));
            meta.entry("creationTimestamp").or_insert(json!("2026-01-01T00:00:00Z"));
            if !matches!(kind.as_str(), "Node" | "Namespace") {
                meta.entry("namespace").or_insert(json!("default"));
            }
            by_kind.entry(kind).or_default().push(object);
        }
        let objects = Objects { cache, by_kind };
        objects.fill::<Deployment>();
        objects.fill::<ReplicaSet>();
        objects.fill::<Pod>();
        objects.fill::<Node>();
        objects.fill::<Lease>();
        objects.fill::<Namespace>();
        objects.fill::<ConfigMap>();
        objects.fill::<Secret>();
        objects.fill::<Service>();
        objects.fill::<EndpointSlice>();
        objects
    }

    fn fill<T: Kind>(&self) {
        let values = self.by_kind.get(T::KIND).cloned().unwrap_or_default();
        let items = values.into_iter().map(|value| serde_json::from_value(value).unwrap());
        self.cache.replace::<T>(items.collect(), 5);
    }

    /// What a controller plans about a key.
    fn plan(&self, controller: &str, key: &str) -> Plan {
        self.plan_by(&*named(controller), key)
    }

    fn plan_by(&self, controller: &dyn Controller, key: &str) -> Plan {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let now: Timestamp = NOW.parse().unwrap();
        controller.reconcile(&self.cache.view(), &ObjectKey::new(namespace, name), now)
    }

    /// A plan, one line a write: creations with their object, updates with what they change.
    fn text(&self, plan: &Plan) -> String {
        let mut lines: Vec<String> = plan.writes.iter().map(|write| self.line(write)).collect();
        lines.extend(plan.notices.iter().map(|n| format!("event {}: {}", n.reason, n.message)));
        lines.extend(plan.again_after.map(|wait| format!("again after {wait:?}")));
        lines.join("\n")
    }

    fn line(&self, write: &Write) -> String {
        match write {
            Write::Create { object, .. } => {
                let mut value = object.clone().into_value();
                value
                    .as_object_mut()
                    .unwrap()
                    .retain(|key, _| key != "apiVersion" && key != "kind");
                format!("{write} {value}")
            }
            Write::Update { target, object } => {
                let key = ObjectKey::new(
                    target.namespace.as_deref().unwrap_or_default(),
                    target.name.as_deref().unwrap_or_default(),
                );
                let view = self.cache.view();
                let old = view.object(&target.resource, &key).unwrap().erased().into_value();
                format!("{write} {}", changes(&old, &object.clone().into_value()))
            }
            _ => write.to_string(),
        }
    }

    fn check(&self, controller: &str, key: &str, wanted: &str) {
        let plan = self.plan(controller, key);
        assert_eq!(self.text(&plan), outdent(wanted));
    }
}

fn named(name: &str) -> Arc<dyn Controller> {
    let options = Options { ca_certificates: "PEM".into(), ..Options::default() };
    let all = controllers::all(&options);
    all.into_iter().find(|one| one.name() == name).unwrap()
}

/// The collector of a resource.
fn collector(resource: &str) -> Arc<dyn Controller> {
    let all = controllers::all(&Options::default());
    let mut collectors = all.into_iter().filter(|one| one.name() == "generic-garbage-collector");
    collectors.find(|one| one.reads()[0].resource == resource).unwrap()
}

/// The merge patch between two values; lists are values.
fn changes(old: &Value, new: &Value) -> Value {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return new.clone() };
    let mut patch = Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) => {
                patch.insert(key.clone(), changes(before, value));
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

fn outdent(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

fn template(version: u32) -> Value {
    json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": format!("v{version}")}]}})
}

fn web(replicas: i32, version: u32, rolling: Value) -> Value {
    json!({"kind": "Deployment", "metadata": {"name": "web", "generation": 1,
            "annotations": {"deployment.kubernetes.io/revision": version.to_string()}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "template": template(version)}})
}

/// A ReplicaSet of `web` with so many replicas asked for and available.
fn set(version: u32, replicas: i32, available: i32, desired: i32, most: i32) -> Value {
    let mut template = template(version);
    template["metadata"]["labels"]["pod-template-hash"] = json!(format!("h{version}"));
    json!({"kind": "ReplicaSet",
        "metadata": {"name": format!("web-h{version}"), "generation": 1,
            "labels": {"app": "web", "pod-template-hash": format!("h{version}")},
            "annotations": {
                "deployment.kubernetes.io/revision": version.to_string(),
                "deployment.kubernetes.io/desired-replicas": desired.to_string(),
                "deployment.kubernetes.io/max-replicas": most.to_string()},
            "ownerReferences": [owner("apps/v1", "Deployment", "web")],
            "creationTimestamp": format!("2026-01-01T00:0{version}:00Z")},
        "spec": {"replicas": replicas, "template": template, "selector": {"matchLabels":
            {"app": "web", "pod-template-hash": format!("h{version}")}}},
        "status": {"replicas": replicas, "readyReplicas": available,
            "availableReplicas": available, "observedGeneration": 1}})
}

fn owner(api_version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": format!("{name}-uid"),
        "controller": true, "blockOwnerDeletion": true})
}

fn pod(name: &str, node: &str, ready: &str) -> Value {
    json!({"kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web", "pod-template-hash": "h1"},
            "ownerReferences": [owner("apps/v1", "ReplicaSet", "web-h1")]},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "v1",
            "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": "127.64.0.9", "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:30:00Z"}]}})
}

/// The sizes that a Deployment's plan gives, as `web-h1 3→2`.
fn sizes(objects: &[Value]) -> Vec<String> {
    let objects = Objects::new(objects);
    let plan = objects.plan("deployment-controller", "default/web");
    let events = plan.notices.iter().filter(|notice| notice.reason == "ScalingReplicaSet");
    events.map(|notice| notice.message.clone()).collect()
}

#[test]
fn a_deployment_creates_its_replica_set() {
    let mut deployment = web(3, 1, json!({"maxSurge": "25%", "maxUnavailable": "25%"}));
    deployment["spec"]["progressDeadlineSeconds"] = json!(600);
    let objects = Objects::new(&[deployment]);
    let plan = objects.plan("deployment-controller", "default/web");
    let Write::Create { object, .. } = &plan.writes[0] else { panic!("{plan:?}") };
    let name = object.name().to_string();
    let hash = name.strip_prefix("web-").unwrap();
    assert_eq!(hash.len(), 10);
    assert_eq!(object.at(&["spec", "replicas"]), Some(&json!(3)));
    assert_eq!(object.labels()["pod-template-hash"], hash);
    let path = ["spec", "template", "metadata", "labels", "pod-template-hash"];
    assert_eq!(object.at(&path), Some(&json!(hash)));
    assert_eq!(
        object.at(&["spec", "selector", "matchLabels", "pod-template-hash"]),
        Some(&json!(hash))
    );
    assert_eq!(
        serde_json::to_value(object.annotations()).unwrap(),
        json!({"deployment.kubernetes.io/desired-replicas": "3",
            "deployment.kubernetes.io/max-replicas": "4",
            "deployment.kubernetes.io/revision": "1"})
    );
    assert!(matches!(plan.writes[1], Write::Then));
    let status = objects.line(&plan.writes[2]);
    for text in ["NewReplicaSetCreated", "MinimumReplicasUnavailable", "\"observedGeneration\":1"] {
        assert!(status.contains(text), "{status}");
    }
    assert_eq!(plan.notices[0].message, format!("Scaled up replica set {name} from 0 to 3"));
}

#[test]
fn a_taken_hash_counts_as_a_collision() {
    let first = Objects::new(&[web(3, 1, json!({}))]);
    let plan = first.plan("deployment-controller", "default/web");
    let Write::Create { object, .. } = &plan.writes[0] else { panic!("{plan:?}") };
    let mut other = set(9, 1, 1, 1, 1);
    other["metadata"]["name"] = json!(object.name());
    other["metadata"]["ownerReferences"] = json!([owner("apps/v1", "Deployment", "other")]);
    let objects = Objects::new(&[web(3, 1, json!({})), other]);
    objects.check(
        "deployment-controller",
        "default/web",
        r#"update deployments.apps default/web status {"status":{"collisionCount":1}}"#,
    );
}

#[test]
fn a_rolling_update_goes_step_by_step() {
    let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
    let step = |old: Value, new: Value| sizes(&[web(3, 2, rolling.clone()), old, new]);
    let scaled = |set: &str, from: i32, to: i32| {
        let way = if to > from { "up" } else { "down" };
        vec![format!("Scaled {way} replica set {set} from {from} to {to}")]
    };
    assert_eq!(step(set(1, 3, 3, 3, 4), set(2, 0, 0, 3, 4)), scaled("web-h2", 0, 1));
    // The new pod is not available yet: nothing goes.
    assert_eq!(step(set(1, 3, 3, 3, 4), set(2, 1, 0, 3, 4)), Vec::<String>::new());
    assert_eq!(step(set(1, 3, 3, 3, 4), set(2, 1, 1, 3, 4)), scaled("web-h1", 3, 2));
    assert_eq!(step(set(1, 2, 2, 3, 4), set(2, 1, 1, 3, 4)), scaled("web-h2", 1, 2));
    // The old ReplicaSet still has the pod that it is to give up: no third new one yet.
    let mut slow = set(1, 1, 1, 3, 4);
    slow["status"]["replicas"] = json!(2);
    assert_eq!(step(slow, set(2, 2, 2, 3, 4)), Vec::<String>::new());
    let mut unseen = set(1, 1, 1, 3, 4);
    unseen["metadata"]["generation"] = json!(2);
    assert_eq!(step(unseen, set(2, 2, 2, 3, 4)), Vec::<String>::new());
    assert_eq!(step(set(1, 1, 1, 3, 4), set(2, 3, 3, 3, 4)), scaled("web-h1", 1, 0));
}

#[test]
fn what_is_not_available_goes_first() {
    // Two broken pods of version 2 make room for version 3, and the good ones of version 1 stay.
    let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
    let mut newest = set(3, 0, 0, 3, 4);
    newest["metadata"]["generation"] = json!(1);
    let got = sizes(&[web(3, 3, rolling), set(1, 3, 3, 3, 4), set(2, 1, 0, 3, 4), newest]);
    assert_eq!(got, ["Scaled down replica set web-h2 from 1 to 0"]);
}

#[test]
fn percentages_round_up_for_surge_and_down_for_unavailable() {
    // 25 % of 10: 3 more, 2 fewer.
    let rolling = json!({"maxSurge": "25%", "maxUnavailable": "25%"});
    let got = sizes(&[web(10, 2, rolling.clone()), set(1, 10, 10, 10, 13), set(2, 0, 0, 10, 13)]);
    assert_eq!(got, ["Scaled up replica set web-h2 from 0 to 3"]);
    let got = sizes(&[web(10, 2, rolling), set(1, 10, 10, 10, 13), set(2, 3, 0, 10, 13)]);
    assert_eq!(got, ["Scaled down replica set web-h1 from 10 to 8"]);
}

#[test]
fn a_resized_rollout_is_scaled_in_proportion() {
    // 10 (+3) becomes 20 (+5), half way through: 8 and 5 get their shares of 12 more.
    let rolling = json!({"maxSurge": "25%", "maxUnavailable": "25%"});
    let got = sizes(&[web(20, 2, rolling), set(1, 8, 8, 10, 13), set(2, 5, 0, 10, 13)]);
    assert_eq!(
        got,
        ["Scaled up replica set web-h1 from 8 to 15", "Scaled up replica set web-h2 from 5 to 10"]
    );
}

#[test]
fn a_paused_deployment_is_scaled_but_not_rolled() {
    let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
    let mut paused = web(3, 2, rolling.clone());
    paused["spec"]["paused"] = json!(true);
    assert_eq!(sizes(&[paused, set(1, 3, 3, 3, 4)]), Vec::<String>::new());
    let mut paused = web(5, 2, rolling);
    paused["spec"]["paused"] = json!(true);
    let got = sizes(&[paused, set(1, 3, 3, 3, 4)]);
    assert_eq!(got, ["Scaled up replica set web-h1 from 3 to 5"]);
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut deployment = web(2, 2, json!(null));
    deployment["spec"]["strategy"] = json!({"type": "Recreate"});
    let old = pod("web-h1-a", "n1", "True");
    let got = sizes(&[deployment.clone(), set(1, 2, 2, 2, 2), old.clone()]);
    assert_eq!(got, ["Scaled down replica set web-h1 from 2 to 0"]);
    assert_eq!(sizes(&[deployment.clone(), set(1, 0, 0, 2, 2), old]), Vec::<String>::new());
    let got = sizes(&[deployment, set(1, 0, 0, 2, 2)]);
    assert!(got[0].ends_with("from 0 to 2"), "{got:?}");
}

#[test]
fn a_rollback_gives_the_old_set_a_new_revision() {
    let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
    let mut deployment = web(3, 1, rolling);
    deployment["metadata"]["annotations"] = json!({"deployment.kubernetes.io/revision": "2"});
    let objects = Objects::new(&[deployment, set(1, 0, 0, 3, 4), set(2, 3, 3, 3, 4)]);
    objects.check(
        "deployment-controller",
        "default/web",
        r#"
        update deployments.apps default/web status {"metadata":{"annotations":{"deployment.kubernetes.io/revision":"3"}}}
        update replicasets.apps default/web-h1 {"metadata":{"annotations":{"deployment.kubernetes.io/revision":"3","deployment.kubernetes.io/revision-history":"1"}}}
        "#,
    );
}

#[test]
fn a_rollout_that_stands_still_runs_into_its_deadline() {
    let mut deployment = web(3, 1, json!({"maxSurge": 1, "maxUnavailable": 0}));
    deployment["spec"]["progressDeadlineSeconds"] = json!(60);
    let since = |time: &str| {
        json!([{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
            "lastUpdateTime": time, "lastTransitionTime": time}])
    };
    let counts = json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3,
        "unavailableReplicas": 3});
    deployment["status"] = counts.clone();
    deployment["status"]["conditions"] = since("2026-01-01T00:58:00Z");
    let objects = Objects::new(&[deployment.clone(), set(1, 3, 0, 3, 4)]);
    let text = objects.text(&objects.plan("deployment-controller", "default/web"));
    assert!(text.contains("ProgressDeadlineExceeded"), "{text}");
    deployment["status"]["conditions"] = since("2026-01-01T00:59:30Z");
    let objects = Objects::new(&[deployment, set(1, 3, 0, 3, 4)]);
    let text = objects.text(&objects.plan("deployment-controller", "default/web"));
    assert!(text.contains("again after 31s"), "{text}");
}

#[test]
fn a_replica_set_adopts_releases_and_fills_up() {
    let mut orphan = pod("orphan", "n1", "True");
    orphan["metadata"]["ownerReferences"] = json!([]);
    let mut stranger = pod("stranger", "n1", "True");
    stranger["metadata"]["labels"] = json!({"app": "other"});
    let objects = Objects::new(&[set(1, 3, 3, 3, 4), orphan, stranger]);
    let text = objects.text(&objects.plan("replicaset-controller", "default/web-h1"));
    assert!(
        text.contains(r#"update pods default/orphan {"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","blockOwnerDeletion":true,"controller":true,"kind":"ReplicaSet","name":"web-h1","uid":"web-h1-uid"}]}}"#),
        "{text}"
    );
    assert!(
        text.contains(r#"update pods default/stranger {"metadata":{"ownerReferences":[]}}"#),
        "{text}"
    );
    assert!(!text.contains("create"), "it counts only what it has claimed: {text}");
    let objects = Objects::new(&[set(1, 2, 2, 3, 4), pod("a", "n1", "True")]);
    let plan = objects.plan("replicaset-controller", "default/web-h1");
    let creates = plan.writes.iter().filter(|write| matches!(write, Write::Create { .. }));
    assert_eq!(creates.count(), 1);
    let text = objects.text(&plan);
    assert!(text.contains(r#""generateName":"web-h1-""#), "{text}");
}

#[test]
fn a_replica_set_gives_up_the_least_useful_pods() {
    let pending = |name: &str| {
        let mut pod = pod(name, "", "False");
        pod["status"] = json!({"phase": "Pending"});
        pod["spec"]["nodeName"] = json!(null);
        pod
    };
    let mut cheap = pod("cheap", "n2", "True");
    cheap["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": "-5"});
    let crowd = [pod("crowd-1", "n1", "True"), pod("crowd-2", "n1", "True")];
    let mut young = pod("young", "n3", "True");
    young["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:59:00Z");
    let mut all = vec![pending("unassigned"), pod("unready", "n4", "False"), cheap, young];
    all.push(pod("good", "n5", "True"));
    all.extend(crowd);
    let given_up = |replicas: i32| {
        let mut objects = all.clone();
        objects.push(set(1, replicas, 7, 3, 4));
        let objects = Objects::new(&objects);
        let plan = objects.plan("replicaset-controller", "default/web-h1");
        let deletes = plan.writes.iter().filter_map(|write| match write {
            Write::Delete { target, .. } => target.name.clone(),
            _ => None,
        });
        deletes.collect::<Vec<_>>()
    };
    assert_eq!(given_up(1), ["unassigned", "unready", "cheap", "crowd-1", "crowd-2", "young"]);
    assert_eq!(given_up(7), Vec::<String>::new());
}

#[test]
fn endpoints_follow_readiness_and_stay_in_their_slice() {
    let service = json!({"kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "127.128.0.1",
            "ports": [{"name": "h", "port": 80, "targetPort": "http", "protocol": "TCP"}]}});
    let objects = Objects::new(&[service.clone(), pod("a", "n1", "True")]);
    objects.check(
        "endpointslice-controller",
        "default/web",
        r#"create endpointslices.discovery.k8s.io default/* {"addressType":"IPv4","endpoints":[{"addresses":["127.64.0.9"],"conditions":{"ready":true,"serving":true,"terminating":false},"nodeName":"n1","targetRef":{"kind":"Pod","name":"a","namespace":"default","uid":"a-uid"}}],"metadata":{"generateName":"web-","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"web"},"namespace":"default","ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Service","name":"web","uid":"web-uid"}]},"ports":[{"name":"h","port":8080,"protocol":"TCP"}]}"#,
    );
    let endpoint = |name: &str, ready: bool| {
        json!({"addresses": ["127.64.0.9"], "nodeName": "n1",
            "conditions": {"ready": ready, "serving": ready, "terminating": false},
            "targetRef": {"kind": "Pod", "name": name, "namespace": "default",
                "uid": format!("{name}-uid")}})
    };
    let slice = json!({"kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "ownerReferences": [owner("v1", "Service", "web")],
            "labels": {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "web"}},
        "endpoints": [endpoint("gone", true), endpoint("a", true)],
        "ports": [{"name": "h", "port": 8080, "protocol": "TCP"}]});
    let wanted = json!({"endpoints": [endpoint("a", false), endpoint("b", true)]});
    let objects = Objects::new(&[
        service.clone(),
        slice.clone(),
        pod("a", "n1", "False"),
        pod("b", "n1", "True"),
    ]);
    objects.check(
        "endpointslice-controller",
        "default/web",
        &format!("update endpointslices.discovery.k8s.io default/web-1 {wanted}"),
    );
    // Without pods one empty slice stays.
    let objects = Objects::new(&[service, slice]);
    objects.check(
        "endpointslice-controller",
        "default/web",
        r#"update endpointslices.discovery.k8s.io default/web-1 {"endpoints":[]}"#,
    );
}

#[test]
fn many_endpoints_are_cut_into_slices() {
    let service = json!({"kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    let mut all = vec![service];
    all.extend((0..250).map(|n| pod(&format!("p{n:03}"), "n1", "True")));
    let objects = Objects::new(&all);
    let plan = objects.plan("endpointslice-controller", "default/web");
    let counts: Vec<usize> = plan
        .writes
        .iter()
        .map(|write| match write {
            Write::Create { object, .. } => {
                object.at(&["endpoints"]).unwrap().as_array().unwrap().len()
            }
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(counts, [100, 100, 50]);
}

#[test]
fn a_dependent_goes_only_after_its_owner_is_surely_gone() {
    let objects = Objects::new(&[pod("a", "n1", "True")]);
    let plan = objects.plan_by(&*collector("pods"), "default/a");
    assert_eq!(
        objects.text(&plan),
        "check absence of replicasets.apps default/web-h1\nthen\ndelete pods default/a"
    );
    let Write::Delete { options, .. } = &plan.writes[2] else { panic!("{plan:?}") };
    assert_eq!(options.uid.as_deref(), Some("a-uid"));
    assert_eq!(options.resource_version.as_deref(), Some("5"));
    // A kind that is not kept here is never taken for absent.
    let mut custom = pod("a", "n1", "True");
    custom["metadata"]["ownerReferences"] = json!([owner("example.com/v1", "Widget", "w")]);
    let objects = Objects::new(&[custom]);
    assert!(objects.plan_by(&*collector("pods"), "default/a").is_empty());
    // One owner lives: only the other reference goes.
    let mut shared = pod("a", "n1", "True");
    let other = owner("v1", "ConfigMap", "gone");
    shared["metadata"]["ownerReferences"] =
        json!([owner("apps/v1", "ReplicaSet", "web-h1"), other]);
    let objects = Objects::new(&[shared, set(1, 1, 1, 1, 1)]);
    let text = objects.text(&objects.plan_by(&*collector("pods"), "default/a"));
    assert!(text.contains("check absence of configmaps default/gone\nthen\nupdate pods"), "{text}");
}

#[test]
fn a_foreground_deletion_waits_for_its_dependents() {
    let mut owner_set = set(1, 0, 0, 0, 0);
    owner_set["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
    owner_set["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    let objects = Objects::new(&[owner_set.clone(), pod("a", "n1", "True")]);
    assert!(objects.plan_by(&*collector("replicasets"), "default/web-h1").is_empty());
    let plan = objects.plan_by(&*collector("pods"), "default/a");
    assert_eq!(objects.text(&plan), "delete pods default/a");
    let objects = Objects::new(&[owner_set]);
    let plan = objects.plan_by(&*collector("replicasets"), "default/web-h1");
    assert_eq!(
        objects.text(&plan),
        r#"update replicasets.apps default/web-h1 {"metadata":{"finalizers":[]}}"#
    );
}

#[test]
fn a_circle_of_owners_does_not_block() {
    let map = |name: &str, other: &str, deleting: bool| {
        let mut map = json!({"kind": "ConfigMap", "metadata": {"name": name,
            "ownerReferences": [owner("v1", "ConfigMap", other)]}});
        if deleting {
            map["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
            map["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
        }
        map
    };
    let objects = Objects::new(&[map("a", "b", true), map("b", "a", false)]);
    let text = objects.text(&objects.plan_by(&*collector("configmaps"), "default/b"));
    assert!(text.contains(r#""blockOwnerDeletion":false"#), "{text}");
}

#[test]
fn a_namespace_loses_its_pods_first_and_then_the_rest() {
    let namespace = json!({"kind": "Namespace",
        "metadata": {"name": "default", "deletionTimestamp": "2026-01-01T00:59:00Z"},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"}});
    let secret = json!({"kind": "Secret", "metadata": {"name": "s"}});
    let both = Objects::new(&[namespace.clone(), secret.clone(), pod("a", "n1", "True")]);
    let text = both.text(&both.plan("namespace-controller", "default"));
    assert!(text.starts_with("delete pods default/a\nupdate namespaces default status"), "{text}");
    assert!(text.contains("Some resources are remaining: pods has 1 resource instances"), "{text}");
    let rest = Objects::new(&[namespace.clone(), secret]);
    let text = rest.text(&rest.plan("namespace-controller", "default"));
    assert!(text.starts_with("delete secrets default/s\n"), "{text}");
    let empty = Objects::new(&[namespace]);
    let text = empty.text(&empty.plan("namespace-controller", "default"));
    assert!(text.contains("delete events default/*"), "{text}");
    let end = "then\nupdate namespaces default finalize {\"spec\":{\"finalizers\":[]}}";
    assert!(text.ends_with(end), "{text}");
}

#[test]
fn a_namespace_gets_its_account_and_the_ca() {
    let objects = Objects::new(&[json!({"kind": "Namespace", "metadata": {"name": "team"}})]);
    objects.check(
        "serviceaccount-controller",
        "team",
        r#"create serviceaccounts team/* {"metadata":{"name":"default","namespace":"team"}}"#,
    );
    let text = objects.text(&objects.plan("root-ca-certificate-publisher-controller", "team"));
    assert!(text.contains(r#"{"data":{"ca.crt":"PEM"},"metadata""#), "{text}");
}

fn node(name: &str, ready: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name}, "spec": {},
        "status": {"conditions": [{"type": "Ready", "status": ready}]}})
}

#[tokio::test(start_paused = true)]
async fn a_quiet_node_is_lost_and_a_cordoned_one_is_tainted() {
    let lease =
        json!({"kind": "Lease", "metadata": {"name": "n1", "namespace": "kube-node-lease"}});
    let objects = Objects::new(&[node("n1", "True"), lease]);
    objects.check("node-lifecycle-controller", "n1", "again after 40s");
    tokio::time::advance(std::time::Duration::from_secs(41)).await;
    let text = objects.text(&objects.plan("node-lifecycle-controller", "n1"));
    assert!(text.contains("Kubelet stopped posting node status."), "{text}");
    assert!(text.ends_with("event NodeNotReady: Node n1 status is now: NodeNotReady"), "{text}");
    let mut lost = node("n1", "Unknown");
    lost["spec"]["unschedulable"] = json!(true);
    let objects = Objects::new(&[lost, pod("a", "n1", "True")]);
    let text = objects.text(&objects.plan("node-lifecycle-controller", "n1"));
    for key in ["unreachable", "unschedulable"] {
        assert!(text.contains(&format!("node.kubernetes.io/{key}")), "{text}");
    }
    assert!(text.contains("update pods default/a status"), "{text}");
}

#[test]
fn pods_leave_a_tainted_node_when_their_toleration_is_over() {
    let mut lost = node("n1", "Unknown");
    lost["spec"]["taints"] = json!([{"key": "node.kubernetes.io/unreachable",
        "effect": "NoExecute", "timeAdded": "2026-01-01T00:58:00Z"}]);
    let tolerating = |name: &str, seconds: Value| {
        let mut pod = pod(name, "n1", "False");
        pod["spec"]["tolerations"] = json!([{"key": "node.kubernetes.io/unreachable",
            "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        pod
    };
    let all = [
        lost.clone(),
        node("n2", "True"),
        pod("none", "n1", "False"),
        tolerating("long", json!(300)),
        tolerating("over", json!(60)),
        tolerating("ever", Value::Null),
    ];
    let objects = Objects::new(&all);
    let plan = objects.plan("taint-eviction-controller", "n1");
    let text = objects.text(&plan);
    assert!(text.contains("then\ndelete pods default/none\ndelete pods default/over\n"), "{text}");
    assert!(text.ends_with("again after 180s"), "{text}");
    assert!(!text.contains("ever"), "{text}");
    // Two of three nodes are lost: that is no reason to evict.
    let braked = [lost, node("n2", "Unknown"), node("n3", "True"), pod("none", "n1", "False")];
    Objects::new(&braked).check("taint-eviction-controller", "n1", "again after 10s");
}

#[test]
fn each_node_gets_a_block_of_its_own() {
    let mut first = node("a", "True");
    first["spec"]["podCIDR"] = json!("127.64.0.0/20");
    let objects = Objects::new(&[first, node("b", "True"), node("c", "True")]);
    objects.check(
        "node-ipam-controller",
        "nodes",
        r#"
        update nodes b {"spec":{"podCIDR":"127.64.16.0/20","podCIDRs":["127.64.16.0/20"]}}
        update nodes c {"spec":{"podCIDR":"127.64.32.0/20","podCIDRs":["127.64.32.0/20"]}}
        "#,
    );
}

#[test]
fn a_pod_of_a_missing_node_goes_after_a_live_check() {
    let objects =
        Objects::new(&[pod("a", "n1", "True"), pod("b", "n2", "True"), node("n2", "True")]);
    objects.check(
        "pod-garbage-collector-controller",
        "default/a",
        "check absence of nodes n1\nthen\ndelete pods default/a",
    );
    objects.check("pod-garbage-collector-controller", "default/b", "");
}
