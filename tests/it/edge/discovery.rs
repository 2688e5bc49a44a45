//! Discovery in both forms, against small documents.

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use wasmfleet::api::registry::Registry;
use wasmfleet::apiserver::{Body, discovery};

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

fn get(path: &str, headers: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    discovery::respond(&Registry::builtin(), &request.body(()).unwrap())
}

async fn body(response: Response<Body>) -> Value {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

fn find<'a>(list: &'a Value, field: &str, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|v| v[field] == name).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn the_plain_form() {
    let api = body(get("/api", &[("host", "h:1")])).await;
    assert_eq!(
        api,
        json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs":
            [{"clientCIDR": "0.0.0.0/0", "serverAddress": "h:1"}]})
    );
    let apps = body(get("/apis/apps", &[])).await;
    let version = json!({"groupVersion": "apps/v1", "version": "v1"});
    assert_eq!(
        apps,
        json!({"kind": "APIGroup", "apiVersion": "v1", "name": "apps",
            "versions": [version], "preferredVersion": version})
    );
    let groups = body(get("/apis", &[("accept", "*/*")])).await;
    assert_eq!(groups["kind"], "APIGroupList");
    assert_eq!(find(&groups["groups"], "name", "apps")["preferredVersion"], version);
    let core = body(get("/api/v1", &[])).await;
    assert_eq!((&core["kind"], &core["apiVersion"]), (&"APIResourceList".into(), &Value::Null));
    assert_eq!(
        find(&core["resources"], "name", "configmaps"),
        &json!({"name": "configmaps", "singularName": "configmap", "namespaced": true,
            "kind": "ConfigMap", "shortNames": ["cm"], "verbs":
            ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]})
    );
    assert_eq!(
        find(&core["resources"], "name", "pods/eviction"),
        &json!({"name": "pods/eviction", "singularName": "", "namespaced": true,
            "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"]})
    );
    let apps = body(get("/apis/apps/v1", &[])).await;
    assert_eq!(apps["apiVersion"], "v1");
    assert_eq!(
        find(&apps["resources"], "name", "deployments/scale"),
        &json!({"name": "deployments/scale", "singularName": "", "namespaced": true,
            "group": "autoscaling", "version": "v1", "kind": "Scale",
            "verbs": ["get", "patch", "update"]})
    );
    let status = find(&apps["resources"], "name", "deployments/status");
    assert_eq!((&status["kind"], &status["group"]), (&"Deployment".into(), &Value::Null));
}

#[tokio::test]
async fn the_aggregated_form_only_for_who_asks() {
    let asked = format!("{V2},{V2BETA1},application/json");
    let response = get("/apis", &[("accept", &asked)]);
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], V2);
    assert_eq!(
        (&headers["vary"], &headers["cache-control"]),
        (&"Accept".parse().unwrap(), &"public".parse().unwrap())
    );
    let list = body(response).await;
    assert_eq!(list["kind"], "APIGroupDiscoveryList");
    let apps = list["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps");
    let version = &apps.unwrap()["versions"][0];
    assert_eq!((&version["version"], &version["freshness"]), (&"v1".into(), &"Current".into()));
    let deployments = find(&version["resources"], "resource", "deployments");
    assert_eq!(deployments["scope"], "Namespaced");
    assert_eq!(
        deployments["responseKind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert_eq!(
        find(&deployments["subresources"], "subresource", "scale")["responseKind"],
        json!({"group": "autoscaling", "version": "v1", "kind": "Scale"})
    );
    let tag = headers["etag"].to_str().unwrap();
    let again = get("/apis", &[("accept", V2), ("if-none-match", tag)]);
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(again.headers()["etag"], tag);
    let core = body(get("/api", &[("accept", V2)])).await;
    assert_eq!(core["items"].as_array().unwrap().len(), 1);
    assert_eq!(core["items"][0]["versions"][0]["version"], "v1");
    // Older clients ask for v2beta1 and JSON: what they do not know would make them blind.
    let old = get("/apis", &[("accept", &format!("{V2BETA1},application/json"))]);
    assert_eq!(old.headers()["content-type"], "application/json");
    assert_eq!(body(old).await["kind"], "APIGroupList");
}

#[tokio::test]
async fn what_is_not_served() {
    for path in ["/apis/nobody.example", "/apis/apps/v9", "/api/v2"] {
        let response = get(path, &[]);
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, "404 page not found\n");
    }
    assert_eq!(get("/api", &[("accept", "text/html")]).status(), StatusCode::NOT_ACCEPTABLE);
}
