//! Kinds that are computed: what the server knows of itself, as objects.

use super::*;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const STATUSES: &str = "/api/v1/componentstatuses";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn definition() -> Value {
    json!({"metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com",
        "names": {"plural": "foos", "kind": "Foo"}, "scope": "Namespaced",
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
}

#[tokio::test(start_paused = true)]
async fn every_group_version_has_its_api_service() {
    let cluster = Cluster::new().await;
    let list = cluster.get(SERVICES).await.expect(200);
    assert_eq!(list["kind"], "APIServiceList");
    let all = names(&list);
    for name in ["v1.", "v1.apps", "v1.autoscaling", "v2.autoscaling", "v1.events.k8s.io"] {
        assert!(all.contains(&name), "{name}: {all:?}");
    }
    assert!(all.is_sorted());
    let one = cluster.get(&format!("{SERVICES}/v1.apps")).await.expect(200);
    assert_eq!((&one["kind"], &one["spec"]["group"]), (&json!("APIService"), &json!("apps")));
    assert_eq!(one["status"]["conditions"][0]["type"], "Available");
    assert_eq!(cluster.get(&format!("{SERVICES}/v1.apps")).await.expect(200), one);
    cluster.get(&format!("{SERVICES}/v9.apps")).await.failure(404);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = cluster.send("GET", &format!("{SERVICES}/v1.apps"), &table, "").await.expect(200);
    assert_eq!(table["rows"][0]["cells"], json!(["v1.apps", "Local", "True", "0s"]));
    let message = cluster.post(SERVICES, &json!({"metadata": {"name": "x"}})).await.failure(405);
    assert!(message.contains("made by the server and only read"), "{message}");
    cluster.delete(&format!("{SERVICES}/v1.apps"), &json!({})).await.failure(405);
}

#[tokio::test(start_paused = true)]
async fn watches_tell_of_groups_that_come_and_go() {
    let cluster = Cluster::new().await;
    let list = cluster.get(SERVICES).await.expect(200);
    let from = version(&list);
    let path = format!("{SERVICES}?watch=1&timeoutSeconds=2&resourceVersion={from}");
    let watch = cluster.open("GET", &path, &[], "").await;
    let state = format!("{SERVICES}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name=v1.apps");
    let state = Answer::of(cluster.open("GET", &state, &[], "").await).await;
    assert_eq!(state.text().lines().count(), 1, "{}", state.text());
    cluster.post(DEFINITIONS, &definition()).await.expect(201);
    let made = cluster.get(&format!("{SERVICES}/v1.example.com")).await.expect(200);
    assert_eq!(made["spec"]["groupPriorityMinimum"], 1000);
    cluster.delete(&format!("{DEFINITIONS}/foos.example.com"), &json!({})).await.expect(200);
    cluster.get(&format!("{SERVICES}/v1.example.com")).await.failure(404);
    // Whoever watched from before may have missed something, and is told.
    let old = Answer::of(cluster.open("GET", &path, &[], "").await).await;
    assert!(old.text().contains("\"code\":410"), "{}", old.text());
    let seen = Answer::of(watch).await;
    assert!(!seen.text().contains("v1.apps"), "{}", seen.text());
}

#[tokio::test(start_paused = true)]
async fn component_statuses_tell_of_the_store() {
    let cluster = Cluster::new().await;
    let list = cluster.get(STATUSES).await;
    assert_eq!(names(&list.expect(200)), ["etcd-0"]);
    assert!(list.header("warning").contains("deprecated"), "{:?}", list.headers);
    let one = cluster.get(&format!("{STATUSES}/etcd-0")).await.expect(200);
    assert_eq!(one["conditions"][0]["status"], "True");
}
