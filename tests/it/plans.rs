//! Objects in, plan as text out: each controller's decisions, without a server or time passing.

mod autoscalers;
mod budgets;
mod collector;
mod deployments;
mod endpoints;
mod jobs;
mod nodes;
mod nonsense;
mod quotas;
mod replicas;
mod roles;
mod sets;
mod volumes;
mod zero;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::scheduling::v1alpha1::Workload;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Map, Value, json};
use wasmfleet::api::error::Cause;
use wasmfleet::api::{ApiError, Kind, Object, ObjectKey};
use wasmfleet::client::cache::Cache;
use wasmfleet::client::{Patch, Target};
use wasmfleet::controllers::{self, Action, Controller, Options, Outcome, Plan, Write};

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
            if !matches!(
                kind.as_str(),
                "Node" | "Namespace" | "ClusterRole" | "PersistentVolume" | "StorageClass"
            ) {
                meta.entry("namespace").or_insert(json!("default"));
            }
            by_kind.entry(kind).or_default().push(object);
        }
        let objects = Objects { cache, by_kind };
        objects.fill::<Deployment>();
        objects.fill::<ReplicaSet>();
        objects.fill::<ReplicationController>();
        objects.fill::<Pod>();
        objects.fill::<StatefulSet>();
        objects.fill::<DaemonSet>();
        objects.fill::<ControllerRevision>();
        objects.fill::<Job>();
        objects.fill::<CronJob>();
        objects.fill::<Node>();
        objects.fill::<Lease>();
        objects.fill::<Namespace>();
        objects.fill::<ConfigMap>();
        objects.fill::<Secret>();
        objects.fill::<Service>();
        objects.fill::<Endpoints>();
        objects.fill::<EndpointSlice>();
        objects.fill::<PodDisruptionBudget>();
        objects.fill::<HorizontalPodAutoscaler>();
        objects.fill::<ResourceQuota>();
        objects.fill::<ClusterRole>();
        objects.fill::<PersistentVolume>();
        objects.fill::<PersistentVolumeClaim>();
        objects.fill::<StorageClass>();
        objects.fill::<Workload>();
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
            Write::Patch { patch: Patch::Merge(patch), .. } => {
                let mut patch = patch.clone();
                let meta = patch["metadata"].as_object_mut().unwrap();
                // A patch of what was read, and of no other version of it.
                assert!(meta.remove("uid").is_some_and(|uid| uid.is_string()));
                assert!(meta.remove("resourceVersion").is_some_and(|version| version.is_string()));
                format!("{write} {patch}")
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

#[test]
fn a_replica_set_adopts_releases_and_fills_up() {
    let mut orphan = pod("orphan", "n1", "True");
    orphan["metadata"]["ownerReferences"] = json!([]);
    let mut stranger = pod("stranger", "n1", "True");
    stranger["metadata"]["labels"] = json!({"app": "other"});
    let objects = Objects::new(&[set(1, 3, 3, 3, 4), orphan, stranger]);
    let text = objects.text(&objects.plan("replicaset-controller", "default/web-h1"));
    assert!(
        text.contains(r#"patch pods default/orphan {"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","blockOwnerDeletion":true,"controller":true,"kind":"ReplicaSet","name":"web-h1","uid":"web-h1-uid"}]}}"#),
        "{text}"
    );
    assert!(
        text.contains(r#"patch pods default/stranger {"metadata":{"ownerReferences":[]}}"#),
        "{text}"
    );
    assert!(!text.contains("create"), "it counts only what it has claimed: {text}");
    let live = "check presence of replicasets.apps default/web-h1\nthen\npatch pods default/orphan";
    assert!(text.contains(live), "who adopts must be there to stay: {text}");
    let objects = Objects::new(&[set(1, 2, 2, 3, 4), pod("a", "n1", "True")]);
    let plan = objects.plan("replicaset-controller", "default/web-h1");
    let creates = plan.writes.iter().filter(|write| matches!(write, Write::Create { .. }));
    assert_eq!(creates.count(), 1);
    let text = objects.text(&plan);
    assert!(text.contains(r#""generateName":"web-h1-""#), "{text}");
}

/// A quota may refuse every pod; rollouts wait for the status nevertheless.
#[test]
fn a_status_is_written_before_pods_are_created() {
    let mut unseen = set(1, 20, 3, 3, 4);
    unseen["metadata"]["generation"] = json!(2);
    let objects = Objects::new(&[unseen, pod("a", "n1", "True")]);
    let plan = objects.plan("replicaset-controller", "default/web-h1");
    assert_eq!(plan.writes.len(), 20);
    assert_eq!(plan.writes[0].to_string(), "update replicasets.apps default/web-h1 status");
    assert!(matches!(plan.writes[1], Write::Create { .. }), "{}", plan.writes[1]);
}

/// Of a pod that could not be created its ReplicaSet tells, unless its namespace is on its way out.
#[test]
fn refused_pods_are_told_where_that_helps() {
    let objects = Objects::new(&[set(1, 3, 0, 3, 4)]);
    let key = ObjectKey::new("default", "web-h1");
    let told = |reason: &str| {
        let target = Target::all::<Pod>(Some("default"));
        let cause = Cause { reason: reason.into(), ..Cause::default() };
        let error = ApiError::forbidden(&target.resource, "", "no").cause(cause);
        let outcome = Outcome { action: Action::Create, target, result: Err(error) };
        let controller = named("replicaset-controller");
        let now: Timestamp = NOW.parse().unwrap();
        objects.text(&controller.settle(&objects.cache.view(), &key, &[outcome], now))
    };
    assert_eq!(told("NamespaceTerminating"), "");
    let text = told("Quota");
    assert!(text.contains("ReplicaFailure") && text.contains("event FailedCreate"), "{text}");
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

/// A pass over many endpoints is dear: the next one waits a little, and sees more changes at once.
#[tokio::test(start_paused = true)]
async fn the_slices_of_a_large_service_are_written_at_a_pace() {
    let service = json!({"kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    let endpoint = |n: usize| json!({"addresses": [format!("127.65.0.{n}")]});
    let slice = |s: usize| {
        json!({"kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("web-{s}"),
                "ownerReferences": [owner("v1", "Service", "web")],
                "labels": {"endpointslice.kubernetes.io/managed-by":
                    "endpointslice-controller.k8s.io", "kubernetes.io/service-name": "web"}},
            "endpoints": (0..100).map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}]})
    };
    let mut all = vec![service, pod("a", "n1", "True")];
    all.extend((0..5).map(slice));
    let objects = Objects::new(&all);
    tokio::time::advance(Duration::from_millis(10)).await;
    objects.check("endpointslice-controller", "default/web", "again after 40ms");
    tokio::time::advance(Duration::from_millis(40)).await;
    let plan = objects.plan("endpointslice-controller", "default/web");
    assert_eq!(plan.writes.len(), 5, "{}", objects.text(&plan));
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
