//! Garbage collection and the end of namespaces over any kind, custom resources among them: the
//! real controllers over the API in the process.

use std::sync::Arc;
use std::time::Duration;

use wasmfleet::base::Tasks;
use wasmfleet::client::cache::Cache;
use wasmfleet::client::recorder::Recorder;
use wasmfleet::controllers::driver::DriverOptions;
use wasmfleet::controllers::{self, Driver};

use super::*;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
const TEAMS: &str = "/apis/example.com/v1/teams";
const SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
/// Virtual time for what controllers do, and after which nothing more is expected.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const REST: Duration = Duration::from_secs(30);

/// A cluster with two kinds of its users, one of which the controllers learn of while they run.
pub async fn start() -> (Cluster, Tasks) {
    let cluster = Cluster::new().await;
    cluster.post(DEFINITIONS, &definition("teams", "Team", "Cluster")).await.expect(201);
    let (tasks, cache) = (Tasks::default(), Cache::new());
    let api = cluster.server.api(User::system("kube-controller-manager"));
    let clock = Arc::new(VirtualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let recorder = Recorder::new(api.clone(), "controllers", clock.clone());
    recorder.run(&tasks);
    let servers = [(); 3].map(|()| cluster.server.clone());
    let [namespaced, others, described] = servers;
    let options = controllers::Options {
        namespaced: Arc::new(move || controllers::namespaced(&namespaced.registry())),
        others: Arc::new(move || controllers::others(&others.registry())),
        ..controllers::Options::default()
    };
    let all = controllers::all(&options);
    let driver =
        Driver::new(api.clone(), cache.clone(), clock, recorder, all, DriverOptions::default());
    controllers::keep(&cache, &api, &tasks);
    let describe = Arc::new(move || controllers::described(&described.registry()));
    cache.keep_metadata(api, describe, cluster.server.registry_changes(), &tasks);
    driver.run(&tasks);
    cache.wait_synced().await;
    cluster.post(DEFINITIONS, &definition("widgets", "Widget", "Namespaced")).await.expect(201);
    (cluster, tasks)
}

fn definition(plural: &str, kind: &str, scope: &str) -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object",
        "x-kubernetes-preserve-unknown-fields": true}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": schema});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {"group": "example.com", "scope": scope,
            "names": {"plural": plural, "kind": kind},
            "versions": [version("v1", true), version("v1beta1", false)]}})
}

fn owned(kind: &str, name: &str, owner: &Value, api_version: &str) -> Value {
    let version = if kind == "ConfigMap" { "v1" } else { "example.com/v1" };
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "ownerReferences": [{
        "apiVersion": api_version, "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true}]}})
}

fn bare(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": kind, "metadata": {"name": name}})
}

/// Waits in virtual time until an answer is as wanted.
pub async fn until(cluster: &Cluster, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = cluster.get(path).await;
        if wanted(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "{path}: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

pub async fn gone(cluster: &Cluster, path: &str) {
    until(cluster, path, |answer| answer.code == 404).await;
}

pub async fn events(cluster: &Cluster, reason: &str) -> Vec<String> {
    let events = cluster.get("/api/v1/events").await.expect(200);
    let items = events["items"].as_array().unwrap().iter();
    let found = items.filter(|event| event["reason"] == reason);
    found.map(|event| event["message"].as_str().unwrap().to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn owners_and_dependents_are_of_any_kind() {
    let (cluster, tasks) = start().await;
    let team = cluster.post(TEAMS, &bare("Team", "t")).await.expect(201);
    // A reference may name any version that is served.
    let widget = owned("Widget", "w", &team, "example.com/v1beta1");
    let widget = cluster.post(WIDGETS, &widget).await.expect(201);
    let map = owned("ConfigMap", "m", &widget, "example.com/v1");
    let map = cluster.post(MAPS, &map).await.expect(201);
    let mut set = deployment("s");
    set["metadata"]["ownerReferences"] =
        owned("x", "x", &map, "v1")["metadata"]["ownerReferences"].clone();
    set["spec"]["serviceName"] = json!("s");
    cluster.post(SETS, &set).await.expect(201);
    let free = cluster.post(WIDGETS, &bare("Widget", "free")).await.expect(201);
    tokio::time::sleep(REST).await;
    for path in [format!("{WIDGETS}/w"), format!("{MAPS}/m"), format!("{SETS}/s")] {
        cluster.get(&path).await.expect(200);
    }
    cluster.delete(&format!("{TEAMS}/t"), &json!({})).await.expect(200);
    for path in [format!("{WIDGETS}/w"), format!("{MAPS}/m"), format!("{SETS}/s")] {
        gone(&cluster, &path).await;
    }
    let left = cluster.get(&format!("{WIDGETS}/free")).await.expect(200);
    assert_eq!(version(&left), version(&free));
    tasks.shut_down(PATIENCE).await;
}

#[tokio::test(start_paused = true)]
async fn custom_owners_wait_for_dependents_or_leave_them() {
    let (cluster, tasks) = start().await;
    let path = format!("{WIDGETS}/w");
    let widget = cluster.post(WIDGETS, &bare("Widget", "w")).await.expect(201);
    let mut map = owned("ConfigMap", "m", &widget, "example.com/v1");
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post(MAPS, &map).await.expect(201);
    tokio::time::sleep(REST).await;
    cluster.delete(&path, &json!({"propagationPolicy": "Foreground"})).await.expect(200);
    until(&cluster, &format!("{MAPS}/m"), |answer| {
        !answer.json()["metadata"]["deletionTimestamp"].is_null()
    })
    .await;
    tokio::time::sleep(REST).await;
    let waiting = cluster.get(&path).await.expect(200);
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let release = json!({"metadata": {"finalizers": null}});
    cluster.merge(&format!("{MAPS}/m"), &release).await.expect(200);
    gone(&cluster, &format!("{MAPS}/m")).await;
    gone(&cluster, &path).await;

    let widget = cluster.post(WIDGETS, &bare("Widget", "w")).await.expect(201);
    let other = owned("Widget", "other", &widget, "example.com/v1");
    for (collection, object) in
        [(MAPS, owned("ConfigMap", "m", &widget, "example.com/v1")), (WIDGETS, other)]
    {
        cluster.post(collection, &object).await.expect(201);
    }
    tokio::time::sleep(REST).await;
    cluster.delete(&path, &json!({"propagationPolicy": "Orphan"})).await.expect(200);
    gone(&cluster, &path).await;
    tokio::time::sleep(REST).await;
    for path in [format!("{MAPS}/m"), format!("{WIDGETS}/other")] {
        let left = cluster.get(&path).await.expect(200);
        let owners = left["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
        assert_eq!(owners, 0, "{left}");
    }
    tasks.shut_down(PATIENCE).await;
}

#[tokio::test(start_paused = true)]
async fn owners_in_other_namespaces_are_told_of() {
    const REASON: &str = "OwnerRefInvalidNamespace";
    let (cluster, tasks) = start().await;
    let namespace = json!({"metadata": {"name": "other"}});
    cluster.post("/api/v1/namespaces", &namespace).await.expect(201);
    let elsewhere = "/apis/example.com/v1/namespaces/other/widgets";
    let widget = cluster.post(elsewhere, &bare("Widget", "w")).await.expect(201);
    tokio::time::sleep(REST).await;
    let map = owned("ConfigMap", "m", &widget, "example.com/v1");
    cluster.post(MAPS, &map).await.expect(201);
    gone(&cluster, &format!("{MAPS}/m")).await;
    let uid = widget["metadata"]["uid"].as_str().unwrap();
    let told = |namespace: &str| {
        format!(
            "ownerRef [example.com/v1/Widget, namespace: {namespace}, name: w, uid: {uid}] does \
             not exist in namespace {namespace:?}"
        )
    };
    tokio::time::sleep(REST).await;
    assert_eq!(events(&cluster, REASON).await, [told("default")]);
    // What has no namespace can have no owner that has one: it stays.
    cluster.post(TEAMS, &owned("Team", "t", &widget, "example.com/v1")).await.expect(201);
    tokio::time::sleep(REST).await;
    cluster.get(&format!("{TEAMS}/t")).await.expect(200);
    let all = events(&cluster, REASON).await;
    assert!(all.contains(&told("")), "{all:?}");
    tasks.shut_down(PATIENCE).await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_tells_what_holds_it() {
    let (cluster, tasks) = start().await;
    let path = "/api/v1/namespaces/n";
    cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await.expect(201);
    let mut held = bare("Widget", "w");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let widgets = "/apis/example.com/v1/namespaces/n/widgets";
    cluster.post(widgets, &held).await.expect(201);
    tokio::time::sleep(REST).await;
    cluster.delete(path, &json!({})).await.expect(200);
    let is_held = |answer: &Answer| {
        let conditions = answer.json()["status"]["conditions"].clone();
        let remaining = conditions.as_array().into_iter().flatten();
        let mut held = remaining.filter(|one| one["type"] == "NamespaceFinalizersRemaining");
        held.any(|one| one["status"] == "True")
    };
    let answer = until(&cluster, path, is_held).await.json();
    let conditions = answer["status"]["conditions"].as_array().unwrap();
    let told: Vec<String> = conditions
        .iter()
        .map(|one| {
            let part = |field: &str| one[field].as_str().unwrap();
            format!("{} {} {}: {}", part("type"), part("status"), part("reason"), part("message"))
        })
        .collect();
    let expected = [
        "NamespaceDeletionDiscoveryFailure False ResourcesDiscovered: All resources successfully \
         discovered",
        "NamespaceDeletionGroupVersionParsingFailure False ParsedGroupVersions: All legacy kube \
         types successfully parsed",
        "NamespaceDeletionContentFailure False ContentDeleted: All content successfully deleted, \
         may be waiting on finalization",
        "NamespaceContentRemaining True SomeResourcesRemain: Some resources are remaining: \
         widgets.example.com has 1 resource instances",
        "NamespaceFinalizersRemaining True SomeFinalizersRemain: Some content in the namespace has \
         finalizers remaining: example.com/hold in 1 resource instances",
    ];
    assert_eq!(told, expected);
    let release = json!({"metadata": {"finalizers": null}});
    cluster.merge(&format!("{widgets}/w"), &release).await.expect(200);
    gone(&cluster, path).await;
    tasks.shut_down(PATIENCE).await;
}

/// References that are corrupt: to a kind or a version that nobody serves, or to another uid.
#[tokio::test(start_paused = true)]
async fn a_corrupt_reference_takes_at_most_its_own_object() {
    let (cluster, tasks) = start().await;
    let team = cluster.post(TEAMS, &bare("Team", "t")).await.expect(201);
    let mut kind = owned("ConfigMap", "kind", &team, "example.com/v1");
    kind["metadata"]["ownerReferences"][0]["kind"] = json!("Taem");
    let version = owned("ConfigMap", "version", &team, "example.com/v9");
    let mut uid = owned("ConfigMap", "uid", &team, "example.com/v1");
    uid["metadata"]["ownerReferences"][0]["uid"] = json!("11111111-1111-1111-1111-111111111111");
    let fine = owned("ConfigMap", "fine", &team, "example.com/v1");
    for map in [kind, version, uid, fine] {
        cluster.post(MAPS, &map).await.expect(201);
    }
    gone(&cluster, &format!("{MAPS}/uid")).await;
    tokio::time::sleep(REST).await;
    for name in ["kind", "version", "fine"] {
        cluster.get(&format!("{MAPS}/{name}")).await.expect(200);
    }
    cluster.get(&format!("{TEAMS}/t")).await.expect(200);
    tasks.shut_down(PATIENCE).await;
}

/// What owns others goes with its definition, and takes them along.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_definition_is_the_end_of_what_its_objects_own() {
    let (cluster, tasks) = start().await;
    let team = cluster.post(TEAMS, &bare("Team", "t")).await.expect(201);
    cluster.post(MAPS, &owned("ConfigMap", "m", &team, "example.com/v1")).await.expect(201);
    tokio::time::sleep(REST).await;
    cluster.delete(&format!("{DEFINITIONS}/teams.example.com"), &json!({})).await.expect(200);
    gone(&cluster, &format!("{MAPS}/m")).await;
    tasks.shut_down(PATIENCE).await;
}
