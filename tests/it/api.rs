//! The API server over a store in memory: in the process, without connections. Requests go
//! through the HTTP door where bytes and codes matter.

mod access;
mod activation;
mod admission;
mod applies;
mod binders;
mod caches;
mod cel;
mod code;
mod computed;
mod connections;
mod controllers_page;
mod conversion;
mod custom;
mod default_classes;
mod deletes;
mod ephemeral;
mod event_ttl;
mod evictions;
mod fence;
mod forms;
mod garbage;
mod limits;
mod pod_security;
mod policies;
mod programs;
mod reads;
mod shapes;
mod signing;
mod static_pods;
mod storage;
mod tokens;
mod watches;
pub mod webhooks;
mod why;
mod writes;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use wasmfleet::api::registry::Registry;
use wasmfleet::apiserver::artifacts::Artifacts;
use wasmfleet::apiserver::nodes::Tunnels;
use wasmfleet::apiserver::pki::Pki;
use wasmfleet::apiserver::{ApiServer, Body, Options, Parts, User, http as door};
use wasmfleet::base::clock::VirtualClock;
use wasmfleet::base::ids::Ids;
use wasmfleet::client::SharedApi;
use wasmfleet::images::Reference;
use wasmfleet::images::layout::Interfaces;
use wasmfleet::images::push::{self, Transport};
use wasmfleet::store::memory::MemoryStore;
use wasmfleet::store::{SharedStore, Store};

/// A control plane without anything that controls.
pub struct Cluster {
    pub server: Arc<ApiServer>,
    pub store: SharedStore,
    pub nodes: Arc<Tunnels>,
}

/// An answer, read to its end.
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Cluster {
    pub async fn new() -> Cluster {
        Cluster::with(MemoryStore::default(), Options::default()).await
    }

    pub async fn with(store: impl Store, options: Options) -> Cluster {
        Cluster::over(Arc::new(store), options).await
    }

    pub async fn over(store: SharedStore, options: Options) -> Cluster {
        Cluster::assemble(store, options, None, None).await
    }

    /// With a registry of images in a directory.
    pub async fn with_images(dir: &Path) -> Cluster {
        let artifacts = Artifacts::open(dir).unwrap();
        let store = Arc::new(MemoryStore::default());
        Cluster::assemble(store, Options::default(), Some(artifacts), None).await
    }

    /// Gives a program to its registry.
    pub async fn push(&self, image: &str, wasm: Vec<u8>) -> push::Pushed {
        let image: Reference = image.parse().unwrap();
        push::push(self, &image, wasm.into(), Interfaces::default()).await.unwrap()
    }

    /// With a CA, so that machines may join.
    pub async fn with_pki(pki: Arc<Pki>) -> Cluster {
        let store = Arc::new(MemoryStore::default());
        Cluster::assemble(store, Options::default(), None, Some(pki)).await
    }

    async fn assemble(
        store: SharedStore,
        options: Options,
        artifacts: Option<Arc<Artifacts>>,
        pki: Option<Arc<Pki>>,
    ) -> Cluster {
        let nodes = Arc::new(Tunnels::default());
        let start = "2026-01-01T00:00:00Z".parse().unwrap();
        let server = ApiServer::new(Parts {
            store: store.clone(),
            registry: Arc::new(Registry::builtin()),
            clock: Arc::new(VirtualClock::new(start)),
            ids: Arc::new(Ids::seeded(1)),
            artifacts,
            nodes: nodes.clone(),
            pki,
            options,
        });
        server.bootstrap(None).await.unwrap();
        Cluster { server, store, nodes }
    }

    pub fn api(&self) -> SharedApi {
        self.server.api(User::system("test"))
    }

    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Body> {
        self.open_as(&User::system("test"), method, path, headers, body).await
    }

    pub async fn open_as(
        &self,
        user: &User,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        door::handle(self.server.clone(), Some(user.clone()), request).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        Answer::of(self.open(method, path, headers, body).await).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[], body.to_string()).await
    }

    pub async fn delete(&self, path: &str, body: &Value) -> Answer {
        self.send("DELETE", path, &[], body.to_string()).await
    }

    /// A merge patch.
    pub async fn merge(&self, path: &str, body: &Value) -> Answer {
        let media = [("content-type", "application/merge-patch+json")];
        self.send("PATCH", path, &media, body.to_string()).await
    }

    /// Creates a ConfigMap in `default` with one key and these labels.
    pub async fn config_map(&self, name: &str, labels: Value) -> Value {
        let object = json!({"metadata": {"name": name, "labels": labels}, "data": {"a": "b"}});
        self.post(MAPS, &object).await.expect(201)
    }

    /// Creates a Pod in `default`.
    pub async fn pod(&self, name: &str) -> Value {
        self.post(PODS, &pod(name)).await.expect(201)
    }
}

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "registry.example/app:v1"}]}})
}

pub fn deployment(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": pod("")["spec"]}}})
}

#[async_trait::async_trait]
impl Transport for Cluster {
    async fn send(&self, request: push::Request) -> Result<push::Answer, String> {
        let method = request.method.to_string();
        let answer = self.open(&method, &request.path, &[], request.body).await;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok(push::Answer { code, body })
    }
}

impl Answer {
    pub async fn of(response: http::Response<Body>) -> Answer {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The JSON of an answer that must have this code.
    #[track_caller]
    pub fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text());
        self.json()
    }

    /// The message of a failure that must have this code.
    #[track_caller]
    pub fn failure(&self, code: u16) -> String {
        let status = self.expect(code);
        assert_eq!(status["kind"], "Status");
        assert_eq!(status["code"], code);
        status["message"].as_str().unwrap().to_string()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|v| v.to_str().unwrap()).unwrap_or_default()
    }
}

pub fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

pub fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}
