//! OpenAPI documents and how clients keep them.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use wasmfleet::api::registry::Registry;
use wasmfleet::apiserver::Body;
use wasmfleet::apiserver::openapi::OpenApi;

struct Server(Arc<OpenApi>, Arc<Registry>);

impl Server {
    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        self.0.respond(&self.1, &request.body(()).unwrap(), now).await
    }
}

async fn body(response: Response<Body>) -> bytes::Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn documents_are_kept_by_their_hash() {
    let server = Server(Arc::default(), Arc::new(Registry::builtin()));
    let index = server.get("/openapi/v3", &[]).await;
    let tag = index.headers()["etag"].to_str().unwrap().to_string();
    let index: Value = serde_json::from_slice(&body(index).await).unwrap();
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/api/v1?hash="), "{url}");
    let unchanged = server.get("/openapi/v3", &[("if-none-match", &tag)]).await;
    assert_eq!(unchanged.status(), StatusCode::NOT_MODIFIED);

    let document = server.get(url, &[]).await;
    assert_eq!(document.headers()["cache-control"], "public, immutable");
    assert_eq!(document.headers()["expires"], "Sat, 02 Jan 2027 03:04:05 GMT");
    let document: Value = serde_json::from_slice(&body(document).await).unwrap();
    assert!(document["paths"]["/api/v1/namespaces/{namespace}/configmaps"].is_object());

    let stale = server.get("/openapi/v3/api/v1?hash=00", &[]).await;
    assert_eq!(stale.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(stale.headers()["location"], url);
    let plain = server.get("/openapi/v3/api/v1", &[]).await;
    assert!(plain.headers().contains_key("etag") && !plain.headers().contains_key("expires"));
    let nobody = server.get("/openapi/v3/apis/nobody.example/v1", &[]).await;
    assert_eq!(nobody.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn version_2_is_one_document_and_a_constant_in_protobuf() {
    let server = Server(Arc::default(), Arc::new(Registry::builtin()));
    let asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let protobuf = server.get("/openapi/v2", &[("accept", asked)]).await;
    let kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    assert_eq!(protobuf.headers()["content-type"], kind);
    assert_eq!(body(protobuf).await.len(), 17);
    let response = server.get("/openapi/v2", &[]).await;
    let tag = response.headers()["etag"].to_str().unwrap().to_string();
    let document: Value = serde_json::from_slice(&body(response).await).unwrap();
    let again = server.get("/openapi/v2", &[("if-none-match", &tag)]).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(document["swagger"], "2.0");
    let pods = "/api/v1/namespaces/{namespace}/pods";
    let create = &document["paths"][pods]["post"];
    assert_eq!(create["consumes"], json!(["*/*"]));
    assert_eq!(create["parameters"][0]["in"], "body");
    let pod = json!({"$ref": "#/definitions/io.k8s.api.core.v1.Pod"});
    assert_eq!(create["parameters"][0]["schema"], pod);
    assert_eq!(create["responses"]["201"]["schema"], pod);
    assert_eq!(document["paths"][pods]["parameters"][0]["type"], "string");
    let definitions = &document["definitions"];
    let metadata = &definitions["io.k8s.api.apps.v1.Deployment"]["properties"]["metadata"];
    let reference = "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert_eq!(metadata["$ref"], reference);
    let port = &definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!((&port["type"], &port["format"]), (&json!("string"), &json!("int-or-string")));
    let options = &definitions["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"];
    let kinds = options["x-kubernetes-group-version-kind"].as_array().unwrap();
    assert!(kinds.iter().any(|k| k["group"] == "apps") && kinds.iter().any(|k| k["group"] == ""));
    // Nothing leads nowhere.
    let text = document.to_string();
    assert!(!text.contains("#/components/") && !text.contains("\"requestBody\":"));
    for target in text.split("\"$ref\":\"#/definitions/").skip(1) {
        let name = target.split('"').next().unwrap();
        assert!(definitions[name].is_object(), "{name}");
    }
}
