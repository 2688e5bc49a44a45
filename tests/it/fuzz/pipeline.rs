//! Whole requests through the HTTP door of an API server in the process: method, path, query,
//! headers and body are all an input's. No answer is a 500; and what was written can be read in
//! every form.

use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use futures::FutureExt;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use wasmfleet::api::registry::Registry;
use wasmfleet::apiserver::{User, http as door};

use super::engine::Verdict;
use super::mutate::{split, text};
use crate::api::{Cluster, DEPLOYMENTS, MAPS, PODS, deployment, pod};

/// After so many inputs a new cluster begins, so that what is found does not need much to be found
/// again.
const INPUTS_PER_CLUSTER: usize = 200;
/// Frames of an answer that are read: watches are long.
const MAX_FRAMES: usize = 50;
/// The forms in which what was written is read.
const FORMS: &[&str] = &[
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/yaml",
];

pub struct Pipeline {
    runtime: tokio::runtime::Runtime,
    cluster: Option<Cluster>,
    inputs: usize,
}

impl Pipeline {
    pub fn new() -> Pipeline {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        Pipeline { runtime, cluster: None, inputs: 0 }
    }

    pub fn run(&mut self, input: &[u8]) -> Verdict {
        let Some(request) = parse(input) else { return Ok(()) };
        // Every later write would call hosts that are none of ours, and fail with them.
        if request.uri().path().contains("webhookconfigurations") {
            return Ok(());
        }
        if self.inputs >= INPUTS_PER_CLUSTER {
            (self.cluster, self.inputs) = (None, 0);
        }
        self.inputs += 1;
        let cluster = self.cluster.take().unwrap_or_else(|| self.runtime.block_on(prepared()));
        let work = AssertUnwindSafe(ask(&cluster, request)).catch_unwind();
        let result = self.runtime.block_on(work);
        match result {
            Ok(Ok(())) => {
                self.cluster = Some(cluster);
                Ok(())
            }
            Ok(Err(why)) => Err(why),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// A cluster with a few objects, and a kind of its users.
async fn prepared() -> Cluster {
    let cluster = Cluster::new().await;
    cluster.config_map("a", json!({"a": "b"})).await;
    cluster.pod("p").await;
    cluster.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    cluster.post(DEFINITIONS, &definition()).await.expect(201);
    let tab = json!({"apiVersion": "example.com/v1", "kind": "Tab", "metadata": {"name": "t"}});
    cluster.post(TABS, &tab).await.expect(201);
    cluster
}

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/example.com/v1/namespaces/default/tabs";

fn definition() -> Value {
    let spec = json!({"type": "object", "properties": {
        "n": {"type": "integer", "default": 1, "maximum": 9},
        "at": {"type": "string", "format": "date-time"},
        "s": {"type": "string", "pattern": "^a*$", "maxLength": 20},
        "i": {"x-kubernetes-int-or-string": true},
        "m": {"type": "object", "additionalProperties": {"type": "string"}},
        "p": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "e": {"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true},
        "l": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"],
                "properties": {"k": {"type": "string"}}}}}});
    let mut spec = spec;
    spec["x-kubernetes-validations"] = json!([
        {"rule": "!has(self.n) || self.n < 10", "messageExpression": "'n is ' + string(self.n)"},
        {"rule": "self.n >= oldSelf.n || !has(self.s)", "fieldPath": ".n"}]);
    let status = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = json!({"type": "object", "properties": {"spec": spec, "status": status}});
    let subresources = json!({"status": {},
        "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}});
    let columns = json!([{"name": "N", "type": "integer", "jsonPath": ".spec.n"},
        {"name": "At", "type": "date", "jsonPath": ".spec.at"}]);
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "tabs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "tabs", "kind": "Tab"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": subresources, "additionalPrinterColumns": columns,
                "selectableFields": [{"jsonPath": ".spec.s"}],
                "schema": {"openAPIV3Schema": schema}}]}})
}

/// A request of its text; `None` for what no HTTP library would let through.
fn parse(input: &[u8]) -> Option<Request<Full<Bytes>>> {
    let (head, body) = split(input);
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let (method, path) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(path);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        request = request.header(name.trim(), value.trim());
    }
    request.body(Full::new(Bytes::copy_from_slice(body))).ok()
}

async fn send(cluster: &Cluster, request: Request<Full<Bytes>>) -> Result<u16, String> {
    let what = format!("{} {}", request.method(), request.uri());
    let user = Some(User::system("test"));
    let response = door::handle(cluster.server.clone(), user, request).await;
    let (code, mut body) = (response.status().as_u16(), response.into_body());
    let mut text = Vec::new();
    for _ in 0..MAX_FRAMES {
        match body.frame().await {
            Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(b"", |data| data)),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&text);
    // Events of a watch may be a failure too.
    match code == 500 || text.contains("\"code\":500,") || text.ends_with("\"code\":500}\n") {
        true => Err(format!("{what}: {code} {text}")),
        false => Ok(code),
    }
}

async fn ask(cluster: &Cluster, request: Request<Full<Bytes>>) -> Verdict {
    let writes = !matches!(request.method().as_str(), "GET" | "HEAD");
    let path = request.uri().path().to_string();
    let code = send(cluster, request).await?;
    if !writes || !(200..300).contains(&code) {
        return Ok(());
    }
    let registry = cluster.server.registry();
    let Some(collection) = collection(&registry, &path) else { return Ok(()) };
    for form in FORMS {
        let request = Request::get(&collection).header("accept", *form);
        send(cluster, request.body(Full::default()).unwrap()).await?;
    }
    let watch = format!("{collection}?watch=1&timeoutSeconds=1");
    let request = Request::get(watch).header("accept", FORMS[0]).body(Full::default()).unwrap();
    send(cluster, request).await.map(|_| ())
}

/// The path of the collection, over all namespaces, that a path is in.
fn collection(registry: &Registry, path: &str) -> Option<String> {
    let rows = registry.rows().iter().filter(|row| !row.meta.review);
    let parts: Vec<&str> = path.split('/').collect();
    rows.filter(|row| parts.contains(&&*row.gvr.resource) && parts.contains(&&*row.gvr.version))
        .find(|row| row.gvr.group.is_empty() || parts.contains(&&*row.gvr.group))
        .map(|row| row.gvr.path(None, None, None))
}

/// A request for each object in each encoding, and some of each kind besides.
pub fn seeds(objects: Vec<Value>, protobufs: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let registry = Registry::builtin();
    let mut all = Vec::new();
    for mut object in objects {
        let field = |name: &str| object[name].as_str().unwrap_or_default().to_string();
        let Some(info) = registry.by_kind(&field("apiVersion"), &field("kind")) else { continue };
        let namespace = info.gvr.namespaced.then_some("default");
        let path = info.gvr.path(namespace, None, None);
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove("resourceVersion");
            meta.remove("namespace");
        }
        all.push(text(&format!("POST {path}?fieldValidation=Strict"), object.to_string()));
        let one = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or("a"));
        let apply = "?fieldManager=f&force=true\ncontent-type: application/apply-patch+yaml";
        all.push(text(&format!("PATCH {one}{apply}"), object.to_string()));
        all.push(text(&format!("PUT {one}"), object.to_string()));
    }
    for bytes in protobufs {
        let head = format!("POST {MAPS}\ncontent-type: application/vnd.kubernetes.protobuf");
        all.push(text(&head, bytes));
    }
    let strategic = "content-type: application/strategic-merge-patch+json";
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "main"}],
        "containers": [{"name": "main", "image": "b", "env": [{"name": "A", "value": "1"}]},
            {"name": "x", "$patch": "delete"}]}}}});
    all.push(text(&format!("PATCH {DEPLOYMENTS}/web\n{strategic}"), patch.to_string()));
    let merge = "content-type: application/merge-patch+json";
    all.push(text(&format!("PATCH {PODS}/p/status\n{merge}"), r#"{"status":{"phase":"Running"}}"#));
    let tab = json!({"apiVersion": "example.com/v1", "kind": "Tab", "metadata": {"name": "t"},
        "spec": {"n": 3, "at": "2026-01-01T00:00:00Z", "s": "aa", "i": "5%", "m": {"a": "b"},
            "p": {"x": [1]}, "l": [{"k": "a"}],
            "e": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}}});
    all.push(text(&format!("POST {TABS}"), tab.to_string()));
    all.push(text(&format!("PUT {TABS}/t/status"), tab.to_string()));
    all.push(text(&format!("PATCH {TABS}/t\n{merge}"), r#"{"spec":{"n":null,"l":[{"k":"b"}]}}"#));
    let mut definition = definition();
    all.push(text(&format!("PUT {DEFINITIONS}/tabs.example.com"), definition.to_string()));
    definition["metadata"]["name"] = json!("others.example.com");
    definition["spec"]["names"] = json!({"plural": "others", "kind": "Other"});
    all.push(text(&format!("POST {DEFINITIONS}"), definition.to_string()));
    let binding = r#"{"target":{"kind":"Node","name":"n"}}"#;
    all.push(text(&format!("POST {PODS}/p/binding"), binding));
    all.push(text(&format!("POST {PODS}/p/eviction"), r#"{"metadata":{"name":"p"}}"#));
    let scale = r#"{"metadata":{"name":"web"},"spec":{"replicas":3}}"#;
    all.push(text(&format!("PUT {DEPLOYMENTS}/web/scale"), scale));
    let delete = r#"{"propagationPolicy":"Foreground","preconditions":{"uid":"x"}}"#;
    all.push(text(&format!("DELETE {MAPS}/a"), delete));
    all.push(text(&format!("DELETE {MAPS}?labelSelector=a%3Db&limit=2"), "{}"));
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"},
        "user": "u", "groups": ["g"]}});
    let reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    all.push(text(&format!("POST {reviews}"), review.to_string()));
    all.push(text(
        "POST /api/v1/namespaces/default/serviceaccounts/default/token",
        "{\"spec\":{}}",
    ));
    for path in [
        "/",
        "/api",
        "/apis",
        "/apis/apps/v1",
        "/version",
        "/readyz?verbose",
        "/openapi/v3",
        "/openapi/v3/api/v1",
        "/openapi/v2",
        "/v2/",
        "/v2/a/manifests/b",
        "/wasmfleet/v1/nodes/n/tunnel",
        "/.well-known/openid-configuration",
        "/openid/v1/jwks",
        "/wasmfleet/v1/join",
        "/api/v1/watch/pods?timeoutSeconds=1",
    ] {
        all.push(text(&format!("GET {path}"), ""));
    }
    for query in [
        "limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJkZWZhdWx0L2EifQ",
        "watch=1&timeoutSeconds=1&resourceVersion=1&allowWatchBookmarks=true",
        "watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
        "resourceVersion=3&resourceVersionMatch=Exact",
        "labelSelector=a%20in%20(b,c),!d&fieldSelector=metadata.name!%3Dx&pretty=true",
    ] {
        for form in FORMS {
            all.push(text(&format!("GET {MAPS}?{query}\naccept: {form}"), ""));
        }
    }
    let log = "/log?container=main&tailLines=1&sinceSeconds=5&follow=true";
    all.push(text(&format!("GET {PODS}/p{log}"), ""));
    let headers = "\nimpersonate-user: u\nimpersonate-group: g\nauthorization: Bearer x";
    all.push(text(&format!("GET {MAPS}{headers}"), ""));
    all.push(text(&format!("POST {PODS}?dryRun=All&fieldManager=m"), pod("q").to_string()));
    all
}
