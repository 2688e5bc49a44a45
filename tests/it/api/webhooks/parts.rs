//! Webhooks and subresources, Services and custom resources.

use super::*;

fn rules(group: &str, resources: &[&str]) -> Value {
    json!({"rules": [{"operations": ["*"], "apiGroups": [group], "apiVersions": ["*"],
        "resources": resources}]})
}

#[tokio::test]
async fn subresources_are_asked_about_as_what_they_are() {
    let cluster = Cluster::new().await;
    let server = HookServer::start(|_, request| {
        match (request["subResource"].as_str(), request["operation"].as_str()) {
            (Some("scale"), Some("UPDATE")) => {
                Reply::Patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]))
            }
            _ => Reply::Allow,
        }
    })
    .await;
    let hooks = json!([
        server.hook("pods", rules("", &["pods/binding", "pods/eviction"])),
        server.hook("scale", rules("apps", &["*/scale", "*/status"])),
        server.hook("token", rules("", &["serviceaccounts/token"]))
    ]);
    configure(&cluster, MUTATING, "m", hooks).await;
    cluster.pod("p").await;
    cluster.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    // The resources themselves are no subresources.
    assert_eq!(server.paths(), [""; 0]);
    let kind = |request: &Value| -> String {
        let text = |field: &str| request["kind"][field].as_str().unwrap().to_string();
        format!("{}/{} {}", text("group"), text("version"), text("kind"))
    };
    let scale = format!("{DEPLOYMENTS}/d/scale");
    let scaled = cluster.put(&scale, &json!({"spec": {"replicas": 1}})).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 3);
    let asked = server.last();
    assert_eq!(kind(&asked), "autoscaling/v1 Scale");
    assert_eq!(
        (&asked["object"]["spec"]["replicas"], &asked["oldObject"]["spec"]["replicas"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(asked["requestSubResource"], "scale");
    assert_eq!(asked["resource"]["resource"], "deployments");
    cluster.merge(&scale, &json!({"spec": {"replicas": 7}})).await.expect(200);
    assert_eq!(server.last()["object"]["spec"]["replicas"], 7);
    let status = json!({"status": {"replicas": 1}});
    cluster.merge(&format!("{DEPLOYMENTS}/d/status"), &status).await.expect(200);
    assert_eq!(
        (kind(&server.last()), &server.last()["subResource"]),
        ("apps/v1 Deployment".into(), &json!("status"))
    );
    let binding = json!({"target": {"name": "n1"}});
    cluster.post(&format!("{PODS}/p/binding"), &binding).await.expect(201);
    assert_eq!(kind(&server.last()), "/v1 Binding");
    assert_eq!(server.last()["object"]["target"]["name"], "n1");
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    cluster.post(token, &json!({"spec": {}})).await.expect(201);
    assert_eq!(kind(&server.last()), "authentication.k8s.io/v1 TokenRequest");
    let eviction = json!({"metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 0}});
    cluster.post(&format!("{PODS}/p/eviction"), &eviction).await.expect(201);
    assert_eq!(kind(&server.last()), "policy/v1 Eviction");
    assert_eq!(server.last()["operation"], "CREATE");
    cluster.get(&format!("{PODS}/p")).await.failure(404);
}

#[tokio::test]
async fn a_webhook_in_the_cluster_is_reached_by_its_service() {
    let cluster = Cluster::new().await;
    let server = HookServer::start(|_, _| Reply::Response(json!({"allowed": false}))).await;
    let service = json!({"metadata": {"name": "hook"},
        "spec": {"ports": [{"name": "https", "port": 8443}]}});
    cluster.post(SERVICES, &service).await.expect(201);
    let client = json!({"service": {"namespace": "default", "name": "hook", "port": 8443,
        "path": "/check"}, "caBundle": server.ca_bundle});
    let hook = server.hook("h", json!({"clientConfig": client}));
    configure(&cluster, VALIDATING, "v", json!([hook])).await;
    let message = cluster.post(MAPS, &map("m")).await.failure(500);
    assert!(message.ends_with("no endpoints available for service \"hook\""), "{message}");
    let slice = |ready: bool| {
        json!({"metadata": {"name": "hook-1",
            "labels": {"kubernetes.io/service-name": "hook"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": ready}}],
        "ports": [{"name": "other", "port": 1}, {"name": "https", "port": server.port}]})
    };
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    cluster.post(slices, &slice(false)).await.expect(201);
    cluster.post(MAPS, &map("m")).await.failure(500);
    cluster.put(&format!("{slices}/hook-1"), &slice(true)).await.expect(200);
    cluster.post(MAPS, &map("m")).await.failure(400);
    assert_eq!(server.paths(), ["check"]);
}

#[tokio::test]
async fn custom_resources_are_shown_in_the_version_that_the_webhook_wants() {
    let cluster = Cluster::new().await;
    let server = HookServer::start(|_, _| {
        Reply::Patch(json!([{"op": "add", "path": "/spec", "value": {"size": 2, "junk": true}}]))
    })
    .await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec":
        {"type": "object", "properties": {"size": {"type": "integer"}, "color": {"type": "string",
            "default": "red"}}}}}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": schema});
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
        "versions": [version("v1", true), version("v2", false)]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.post(definitions, &definition).await.expect(201);
    let only_v1 = |policy: &str| {
        json!({"matchPolicy": policy, "rules": [{"operations": ["CREATE"],
        "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["things"]}]})
    };
    let hooks =
        json!([server.hook("exact", only_v1("Exact")), server.hook("any", only_v1("Equivalent"))]);
    configure(&cluster, MUTATING, "m", hooks).await;
    let path = "/apis/example.com/v2/namespaces/default/things";
    let made = cluster
        .post(
            path,
            &json!({"apiVersion": "example.com/v2", "kind": "Thing",
        "metadata": {"name": "t"}}),
        )
        .await
        .expect(201);
    assert_eq!(made["spec"], json!({"size": 2, "color": "red"}));
    assert_eq!(made["apiVersion"], "example.com/v2");
    assert_eq!(server.paths(), ["any"]);
    let asked = server.last();
    assert_eq!(
        (&asked["kind"]["version"], &asked["requestKind"]["version"]),
        (&json!("v1"), &json!("v2"))
    );
    assert_eq!(asked["object"]["apiVersion"], "example.com/v1");
}
