//! CustomResourceDefinitions and what they define.

use futures::StreamExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{Cluster, names, version};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/example.com/v1/namespaces/default/crontabs";
const OLD_TABS: &str = "/apis/example.com/v1beta1/namespaces/default/crontabs";

fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "required": ["cron"], "properties": {
            "cron": {"type": "string", "minLength": 3, "description": "When it runs."},
            "replicas": {"type": "integer", "minimum": 1, "default": 1},
            "ports": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object",
                "required": ["name"], "properties": {"name": {"type": "string"},
                "port": {"type": "integer"}}}}}},
        "status": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "selector": {"type": "string"}}}}}});
    let columns = json!([{"name": "Cron", "type": "string", "jsonPath": ".spec.cron"},
        {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"}]);
    let subresources = json!({"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"],
                "categories": ["all"]},
            "versions": [
                {"name": "v1beta1", "served": true, "storage": false, "schema": schema,
                    "deprecated": true},
                {"name": "v1", "served": true, "storage": true, "schema": schema,
                    "subresources": subresources, "additionalPrinterColumns": columns,
                    "selectableFields": [{"jsonPath": ".spec.cron"}]}]}})
}

fn tab(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "CronTab", "metadata": {"name": name},
        "spec": {"cron": "* * *"}})
}

async fn cluster() -> Cluster {
    let cluster = Cluster::new().await;
    cluster.post(DEFINITIONS, &definition()).await.expect(201);
    cluster
}

fn condition<'a>(definition: &'a Value, kind: &str) -> &'a Value {
    let all = definition["status"]["conditions"].as_array().unwrap();
    &all.iter().find(|one| one["type"] == kind).unwrap()["status"]
}

#[tokio::test]
async fn a_definition_is_established_and_shown_at_once() {
    let cluster = cluster().await;
    let path = format!("{DEFINITIONS}/crontabs.example.com");
    let stored = cluster.get(&path).await.expect(200);
    assert_eq!(stored["spec"]["names"]["listKind"], "CronTabList");
    assert_eq!(stored["spec"]["names"]["singular"], "crontab");
    assert_eq!(stored["spec"]["conversion"]["strategy"], "None");
    assert_eq!(condition(&stored, "NamesAccepted"), "True");
    assert_eq!(condition(&stored, "Established"), "True");
    assert_eq!(stored["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(stored["status"]["acceptedNames"]["plural"], "crontabs");
    let group = cluster.get("/apis/example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let list = cluster.get("/apis/example.com/v1").await.expect(200);
    let resources: Vec<&str> =
        list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(resources, ["crontabs", "crontabs/scale", "crontabs/status"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["ct"]));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = cluster.send("GET", "/apis", &[("accept", accept)], "").await.expect(200);
    assert!(all.to_string().contains("crontabs"));
    let document = cluster.get("/openapi/v3/apis/example.com/v1").await.expect(200);
    let schema = &document["components"]["schemas"]["com.example.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["cron"]["description"], "When it runs.");
    let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/crontabs/{name}"]["patch"]
        ["requestBody"]["content"];
    assert!(patch.get("application/strategic-merge-patch+json").is_none());
    assert!(cluster.get("/openapi/v3").await.text().contains("apis/example.com/v1beta1"));
}

#[tokio::test]
async fn definitions_are_validated_and_names_may_clash() {
    let cluster = cluster().await;
    let mut bad = definition();
    bad["metadata"]["name"] = "other.example.com".into();
    bad["spec"]["versions"][0]["storage"] = true.into();
    let told = cluster.post(DEFINITIONS, &bad).await.failure(422);
    assert!(told.contains("must be spec.names.plural+\".\"+spec.group"), "{told}");
    assert!(told.contains("exactly one version marked as storage version"), "{told}");
    let mut clash = definition();
    clash["metadata"]["name"] = "others.example.com".into();
    clash["spec"]["names"] = json!({"plural": "others", "kind": "CronTab"});
    cluster.post(DEFINITIONS, &clash).await.expect(201);
    let path = format!("{DEFINITIONS}/others.example.com");
    let stored = cluster.get(&path).await.expect(200);
    assert_eq!(condition(&stored, "NamesAccepted"), "False");
    assert_eq!(condition(&stored, "Established"), "False");
    assert_eq!(cluster.get("/apis/example.com/v1/others").await.code, 404);
    // The names are free when the first one is gone.
    cluster.delete(&format!("{DEFINITIONS}/crontabs.example.com"), &json!({})).await.expect(200);
    assert_eq!(cluster.get("/apis/example.com/v1/others").await.code, 200);
}

#[tokio::test]
async fn objects_are_pruned_defaulted_and_validated() {
    let cluster = cluster().await;
    let mut object = tab("a");
    object["spec"]["odd"] = 1.into();
    object["status"] = json!({"replicas": 7});
    let created = cluster.post(TABS, &object).await;
    assert!(created.header("warning").contains("unknown field \\\"spec.odd\\\""));
    let created = created.expect(201);
    assert_eq!(created["spec"], json!({"cron": "* * *", "replicas": 1}));
    assert!(created.get("status").is_none());
    assert_eq!(created["metadata"]["generation"], 1);
    let strict = cluster.post(&format!("{TABS}?fieldValidation=Strict"), &object).await;
    assert_eq!(strict.failure(400), "strict decoding error: unknown field \"spec.odd\"");
    let mut short = tab("b");
    short["spec"] = json!({"cron": "*", "replicas": 0});
    let told = cluster.post(TABS, &short).await.failure(422);
    assert_eq!(
        told,
        "CronTab.example.com \"b\" is invalid: [spec.cron: Invalid value: \"*\": spec.cron in body \
         should be at least 3 chars long, spec.replicas: Invalid value: 0: spec.replicas in body \
         should be greater than or equal to 1]"
    );
    let mut wrong = tab("c");
    wrong["metadata"]["labels"] = json!("x");
    assert_eq!(cluster.post(TABS, &wrong).await.code, 400);
}

#[tokio::test]
async fn updates_name_a_version_and_patches_merge() {
    let cluster = cluster().await;
    let created = cluster.post(TABS, &tab("a")).await.expect(201);
    let path = format!("{TABS}/a");
    let told = cluster.put(&path, &tab("a")).await.failure(422);
    assert!(
        told.ends_with(
            "metadata.resourceVersion: Invalid value: 0: must be specified for an update"
        ),
        "{told}"
    );
    let mut changed = created.clone();
    changed["spec"]["replicas"] = 3.into();
    let changed = cluster.put(&path, &changed).await.expect(200);
    assert_eq!(changed["metadata"]["generation"], 2);
    let merged =
        cluster.merge(&path, &json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
    assert_eq!(merged["metadata"]["generation"], 2);
    let media = [("content-type", "application/strategic-merge-patch+json")];
    assert_eq!(cluster.send("PATCH", &path, &media, "{}").await.code, 415);
    // Status and spec are apart.
    let patch = json!({"spec": {"replicas": 9}, "status": {"replicas": 2, "selector": "a=b"}});
    let status = cluster.merge(&format!("{path}/status"), &patch).await.expect(200);
    assert_eq!(
        (&status["spec"]["replicas"], &status["status"]["replicas"]),
        (&json!(3), &json!(2))
    );
    let scale = cluster.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!(scale["spec"]["replicas"], 3);
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
    cluster.merge(&format!("{path}/scale"), &json!({"spec": {"replicas": 5}})).await.expect(200);
    let scaled = cluster.get(&path).await.expect(200);
    assert_eq!(
        (&scaled["spec"]["replicas"], &scaled["metadata"]["generation"]),
        (&json!(5), &json!(3))
    );
}

#[tokio::test]
async fn all_versions_are_one_object() {
    let cluster = cluster().await;
    let mut old = tab("a");
    old["apiVersion"] = "example.com/v1beta1".into();
    let created = cluster.post(OLD_TABS, &old).await;
    assert!(created.header("warning").contains("example.com/v1beta1 CronTab is deprecated"));
    assert_eq!(created.expect(201)["apiVersion"], "example.com/v1beta1");
    let new = cluster.get(&format!("{TABS}/a")).await.expect(200);
    assert_eq!(new["apiVersion"], "example.com/v1");
    let list = cluster.get(OLD_TABS).await.expect(200);
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1beta1");
    assert_eq!(list["kind"], "CronTabList");
    let patched = cluster
        .merge(&format!("{OLD_TABS}/a"), &json!({"spec": {"replicas": 4}}))
        .await
        .expect(200);
    assert_eq!(patched["apiVersion"], "example.com/v1beta1");
    let watched = cluster.get(&format!("{OLD_TABS}?watch=1&timeoutSeconds=1")).await;
    assert!(watched.text().contains("\"apiVersion\":\"example.com/v1beta1\""));
}

#[tokio::test]
async fn columns_and_selectors_are_the_definitions_own() {
    let cluster = cluster().await;
    cluster.post(TABS, &tab("a")).await.expect(201);
    let mut other = tab("b");
    other["spec"]["cron"] = "daily".into();
    cluster.post(TABS, &other).await.expect(201);
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = cluster.send("GET", TABS, &accept, "").await.expect(200);
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "Cron", "Replicas"]);
    assert_eq!(table["rows"][1]["cells"], json!(["b", "daily", 1]));
    let found = cluster.get(&format!("{TABS}?fieldSelector=spec.cron%3Ddaily")).await.expect(200);
    assert_eq!(names(&found), ["b"]);
    assert_eq!(cluster.get(&format!("{TABS}?fieldSelector=spec.replicas%3D1")).await.code, 400);
}

#[tokio::test]
async fn applies_follow_the_schema() {
    let cluster = cluster().await;
    let media = [("content-type", "application/apply-patch+yaml")];
    let apply = async |manager: &str, ports: Value| {
        let mut object = tab("a");
        object["spec"]["ports"] = ports;
        let path = format!("{TABS}/a?fieldManager={manager}");
        cluster.send("PATCH", &path, &media, object.to_string()).await
    };
    apply("one", json!([{"name": "x", "port": 1}])).await.expect(201);
    let merged = apply("two", json!([{"name": "y", "port": 2}])).await.expect(200);
    assert_eq!(merged["spec"]["ports"].as_array().unwrap().len(), 2, "told apart by name");
    assert_eq!(apply("two", json!([{"name": "x", "port": 3}])).await.code, 409);
}

#[tokio::test]
async fn a_deleted_definition_takes_its_objects_along() {
    let cluster = cluster().await;
    cluster.post(TABS, &tab("a")).await.expect(201);
    let mut held = tab("held");
    held["metadata"]["finalizers"] = json!(["example.com/wait"]);
    let held = cluster.post(TABS, &held).await.expect(201);
    let watch = format!("{TABS}?watch=1&resourceVersion={}", version(&held));
    let watch = cluster.open("GET", &watch, &[], "").await;
    let path = format!("{DEFINITIONS}/crontabs.example.com");
    cluster.delete(&path, &json!({})).await.expect(200);
    let waiting = cluster.get(&path).await.expect(200);
    assert_eq!(condition(&waiting, "Terminating"), "True");
    assert_eq!(names(&cluster.get(TABS).await.expect(200)), ["held"]);
    assert_eq!(cluster.post(TABS, &tab("new")).await.code, 405);
    // Who held it lets it go: the definition follows, and with it discovery and watches.
    let patch = json!({"metadata": {"finalizers": null}});
    cluster.merge(&format!("{TABS}/held"), &patch).await.expect(200);
    assert_eq!(cluster.get(&path).await.code, 404);
    assert_eq!(cluster.get(TABS).await.code, 404);
    assert_eq!(cluster.get("/apis/example.com").await.code, 404);
    assert_eq!(cluster.get("/openapi/v3/apis/example.com/v1").await.code, 404);
    let text = watch.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert_eq!(text.matches("\"DELETED\"").count(), 2, "{text}");
    // The same name, the same place: nothing is left of before.
    cluster.post(DEFINITIONS, &definition()).await.expect(201);
    assert!(names(&cluster.get(TABS).await.expect(200)).is_empty());
}

#[tokio::test]
async fn a_changed_schema_counts_at_once_and_ends_watches() {
    let cluster = cluster().await;
    let watch = cluster.open("GET", &format!("{TABS}?watch=1&resourceVersion=1"), &[], "").await;
    let path = format!("{DEFINITIONS}/crontabs.example.com");
    let patch = json!([{"op": "add", "value": {"type": "string"},
        "path": "/spec/versions/1/schema/openAPIV3Schema/properties/spec/properties/new"}]);
    let media = [("content-type", "application/json-patch+json")];
    cluster.send("PATCH", &path, &media, patch.to_string()).await.expect(200);
    let mut frames = watch.into_body().into_data_stream();
    assert!(frames.next().await.is_none());
    let mut object = tab("a");
    object["spec"]["new"] = "x".into();
    assert_eq!(cluster.post(TABS, &object).await.expect(201)["spec"]["new"], "x");
    // A stopped server knows its definitions when it starts.
    let again = Cluster::over(cluster.store.clone(), Default::default()).await;
    assert_eq!(names(&again.get(TABS).await.expect(200)), ["a"]);
}

#[tokio::test]
async fn defaults_that_came_later_are_read() {
    let cluster = cluster().await;
    cluster.post(TABS, &tab("a")).await.expect(201);
    let mut changed = cluster.get(&format!("{DEFINITIONS}/crontabs.example.com")).await.expect(200);
    for version in [0, 1] {
        changed["spec"]["versions"][version]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
            ["zone"] = json!({"type": "string", "default": "UTC"});
    }
    cluster.put(&format!("{DEFINITIONS}/crontabs.example.com"), &changed).await.expect(200);
    let read = cluster.get(&format!("{TABS}/a")).await.expect(200);
    assert_eq!(read["spec"]["zone"], "UTC");
    let list = cluster.get(OLD_TABS).await.expect(200);
    assert_eq!(list["items"][0]["spec"]["zone"], "UTC");
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1beta1");
    // Nothing is written by it, nor by a PUT of what was read.
    let again = cluster.put(&format!("{TABS}/a"), &read).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"]);
}
