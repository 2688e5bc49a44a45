//! One node in the process, and a watch on pods that tests wait with.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{ContainerStatus, Node as NodeObject, Pod, Service};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use wasmfleet::api::registry::Registry;
use wasmfleet::api::{ApiError, Object, Raw};
use wasmfleet::apiserver::nodes::Tunnels;
use wasmfleet::apiserver::{ApiServer, Options as ServerOptions, Parts as ServerParts, User};
use wasmfleet::base::clock::VirtualClock;
use wasmfleet::base::ids::Ids;
use wasmfleet::base::{SharedClock, Tasks};
use wasmfleet::client::around::{Around, Call};
use wasmfleet::client::cache::Cache;
use wasmfleet::client::event::Notice;
use wasmfleet::client::{Client, DeleteOptions, Patch, SharedApi, Target, WriteOptions};
use wasmfleet::images::digest_of;
use wasmfleet::node::images::{
    ContentImage, ContentLayer, Images, LoadedImage, PullError, PullRequest, ResolvedImage,
};
use wasmfleet::node::service_links::Services;
use wasmfleet::node::{Capacity, Node, Options, Parts, StaticPodSource};
use wasmfleet::runtime::fake::FakeRuntime;
use wasmfleet::runtime::{ContainerSpec, Names};
use wasmfleet::store::memory::MemoryStore;
use wasmfleet::volumes::unpack::Form;

/// The longest that a test waits for something.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Every image is there; its digest is `sha256:<name>`.
#[derive(Default)]
pub struct TestImages {
    pub failures: Mutex<HashMap<String, PullError>>,
    /// Images whose bytes were loaded.
    pub loads: Mutex<Vec<String>>,
    /// What is in images that are mounted: layers, by name.
    pub contents: Mutex<HashMap<String, Vec<(Form, Bytes)>>>,
}

#[async_trait::async_trait]
impl Images for TestImages {
    async fn resolve(&self, request: &PullRequest<'_>) -> Result<ResolvedImage, PullError> {
        if let Some(failure) = self.failures.lock().get(request.image) {
            return Err(failure.clone());
        }
        let name = request.image;
        Ok(ResolvedImage {
            image_id: format!("{name}@sha256:{name}"),
            wasm_digest: format!("sha256:{name}"),
            size_bytes: 4,
            present: true,
        })
    }

    async fn load(
        &self,
        request: &PullRequest<'_>,
        _: &ResolvedImage,
    ) -> Result<LoadedImage, PullError> {
        self.loads.lock().push(request.image.to_string());
        Ok(LoadedImage { bytes: Bytes::from_static(b"\0asm"), place: Box::new(()) })
    }

    async fn content(&self, request: &PullRequest<'_>) -> Result<ContentImage, PullError> {
        let contents = self.contents.lock();
        let Some(layers) = contents.get(request.image) else {
            return Err(PullError::Failed(format!("{} is not there", request.image)));
        };
        let digest = digest_of(format!("{layers:?}").as_bytes());
        let layers = layers.iter().enumerate().map(|(at, (form, bytes))| {
            let (digest, size) = (at.to_string(), bytes.len() as u64);
            ContentLayer { digest, size, form: form.clone() }
        });
        Ok(ContentImage { digest, layers: layers.collect() })
    }

    async fn layer(
        &self,
        request: &PullRequest<'_>,
        layer: &ContentLayer,
    ) -> Result<LoadedImage, PullError> {
        self.loads.lock().push(request.image.to_string());
        let at: usize = layer.digest.parse().unwrap();
        let bytes = self.contents.lock()[request.image][at].1.clone();
        Ok(LoadedImage { bytes, place: Box::new(()) })
    }
}

/// The only Service is the API's.
struct NoNames;

#[async_trait::async_trait]
impl Services for NoNames {
    async fn synced(&self) {}

    fn in_namespace(&self, _: &str) -> Vec<Arc<Service>> {
        Vec::new()
    }

    fn get(&self, _: &str, _: &str) -> Option<Arc<Service>> {
        let service = json!({"metadata": {"name": "kubernetes"}, "spec": {"clusterIP": "127.128.0.1",
            "ports": [{"name": "https", "port": 443}]}});
        serde_json::from_value(service).ok().map(Arc::new)
    }
}

impl Names for NoNames {
    fn resolve(&self, _: &str, _: &str) -> Option<Vec<IpAddr>> {
        None
    }
}

/// The agent's way to the API, which can be cut: whoever asks gets no answer worth having.
pub struct Line {
    inner: SharedApi,
    pub is_cut: AtomicBool,
    /// While this is true, statuses of pods are on their way and do not arrive.
    pub is_slow: watch::Sender<bool>,
    /// How many of them there are.
    pub on_the_way: AtomicUsize,
}

impl Line {
    pub fn new(inner: SharedApi) -> Line {
        let (is_cut, is_slow) = (AtomicBool::new(false), watch::channel(false).0);
        Line { inner, is_cut, is_slow, on_the_way: AtomicUsize::new(0) }
    }
}

impl Around for Line {
    fn inner(&self) -> SharedApi {
        self.inner.clone()
    }

    async fn before(&self, call: Call<'_>) -> Result<(), ApiError> {
        let (resource, part) = match call {
            Call::Write(target) => (&*target.resource.resource, target.subresource.as_deref()),
            _ => ("", None),
        };
        if resource == "pods" && part == Some("status") {
            self.on_the_way.fetch_add(1, Ordering::Relaxed);
            let _ = self.is_slow.subscribe().wait_for(|slow| !slow).await;
            self.on_the_way.fetch_sub(1, Ordering::Relaxed);
        }
        match self.is_cut.load(Ordering::Relaxed) {
            true => Err(ApiError::unavailable("the line is cut")),
            false => Ok(()),
        }
    }
}

/// An API server over a store in memory, and the clock that it goes by.
pub async fn api_server() -> (Arc<ApiServer>, SharedClock) {
    let clock: SharedClock = Arc::new(VirtualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let server = ApiServer::new(ServerParts {
        store: Arc::new(MemoryStore::default()),
        registry: Arc::new(Registry::builtin()),
        clock: clock.clone(),
        ids: Arc::new(Ids::seeded(1)),
        artifacts: None,
        nodes: Arc::new(Tunnels::default()),
        pki: None,
        options: ServerOptions::default(),
    });
    server.bootstrap(None).await.unwrap();
    (server, clock)
}

pub struct Rig {
    pub client: Client,
    pub line: Arc<Line>,
    pub api: SharedApi,
    pub runtime: Arc<FakeRuntime>,
    pub images: Arc<TestImages>,
    pub clock: SharedClock,
    pub node: Node,
    pub tasks: Tasks,
    pub notices: Arc<Mutex<Vec<Notice>>>,
    pub dir: tempfile::TempDir,
    /// Of an agent that starts again, too.
    static_pods: Option<StaticPodSource>,
    capacity: Capacity,
    /// Keeps what the tests watch apart from the agent's own tasks.
    watching: Tasks,
    cache: Arc<Cache>,
    changes: watch::Sender<u64>,
    /// How often the objects of pods changed.
    pub pod_events: Arc<Mutex<Vec<String>>>,
}

impl Rig {
    pub async fn start() -> Rig {
        Rig::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Options)) -> Rig {
        let rig = Rig::begin(change).await;
        rig.give_range().await;
        rig
    }

    /// A node that may never be there.
    pub async fn begin(change: impl FnOnce(&mut Options)) -> Rig {
        let (server, clock) = api_server().await;
        let api = server.api(User::system("test"));
        let client = Client::new(api.clone(), "test");
        let line = Arc::new(Line::new(api.clone()));
        let to_api: SharedApi = line.clone();
        let dir = tempfile::tempdir().unwrap();
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut options = Options::new("n1", dir.path(), ip);
        options.capacity = Capacity {
            cpu_millicores: 2000,
            memory_bytes: 4 << 30,
            pods: 100,
            storage_bytes: 10 << 30,
        };
        change(&mut options);
        let (static_pods, capacity) = (options.static_pods.clone(), options.capacity);
        let now = clock.clone();
        let runtime = FakeRuntime::new(Arc::new(move || now.now()));
        let images = Arc::new(TestImages::default());
        let notices = Arc::new(Mutex::new(Vec::new()));
        let changes = watch::channel(0).0;
        let rig = Rig {
            node: node(options, &to_api, &runtime, &images, &clock, &notices, &changes),
            client,
            line,
            api: api.clone(),
            runtime,
            images,
            clock,
            tasks: Tasks::default(),
            notices,
            dir,
            static_pods,
            capacity,
            watching: Tasks::default(),
            cache: Cache::new(),
            changes,
            pod_events: Arc::default(),
        };
        rig.watch();
        rig.node.run(&rig.tasks);
        rig
    }

    fn watch(&self) {
        let changes = self.changes.clone();
        let events = self.pod_events.clone();
        self.cache.listen(Box::new(move |change| {
            if let (_, Some(pod)) = change.typed::<Pod>() {
                events.lock().push(summary(pod));
            }
            changes.send_modify(|count| *count += 1);
        }));
        self.cache.keep::<Pod>(self.api.clone(), "", &self.watching);
        self.cache.keep::<NodeObject>(self.api.clone(), "", &self.watching);
    }

    /// Does what the control plane does for a new node.
    async fn give_range(&self) {
        self.until(|view| view.get::<NodeObject>("", "n1").map(|_| ())).await;
        let range = json!({"spec": {"podCIDR": "127.64.1.0/24", "podCIDRs": ["127.64.1.0/24"]}});
        let patch = Patch::Merge(range);
        self.client.patch::<NodeObject>("", "n1", patch).await.unwrap();
    }

    /// Ends the agent and starts another one on the same data directory.
    pub async fn restart_agent(&mut self) {
        self.stop_agent().await;
        self.start_agent();
    }

    pub async fn stop_agent(&mut self) {
        assert!(self.tasks.shut_down(Duration::from_secs(5)).await.is_empty());
    }

    pub fn start_agent(&mut self) {
        self.tasks = Tasks::default();
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut options = Options::new("n1", self.dir.path(), ip);
        options.static_pods.clone_from(&self.static_pods);
        options.capacity = self.capacity;
        let to_api: SharedApi = self.line.clone();
        self.node = node(
            options,
            &to_api,
            &self.runtime,
            &self.images,
            &self.clock,
            &self.notices,
            &self.changes,
        );
        self.node.run(&self.tasks);
    }

    /// Waits until the cache shows something.
    pub async fn until<T>(
        &self,
        mut look: impl FnMut(&wasmfleet::client::cache::View) -> Option<T>,
    ) -> T {
        let mut changes = self.changes.subscribe();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = look(&self.cache.view()) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("waited in vain; pods were: {:#?}", self.pod_events.lock()),
        }
    }

    /// Waits until a pod is as wanted, by its summary.
    pub async fn pod_is(&self, name: &str, wanted: &str) -> Arc<Pod> {
        self.pod(name, |pod| summary(pod) == wanted).await
    }

    pub async fn pod(&self, name: &str, wanted: impl Fn(&Pod) -> bool) -> Arc<Pod> {
        self.until(|view| view.get::<Pod>("default", name).filter(|pod| wanted(pod)).cloned()).await
    }

    pub async fn gone(&self, name: &str) {
        self.until(|view| view.get::<Pod>("default", name).is_none().then_some(())).await;
    }

    /// Creates a pod that is bound to the node. `spec` may leave out what is usual.
    pub async fn create(&self, name: &str, spec: Value) -> Pod {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": merged(json!({"nodeName": "n1", "automountServiceAccountToken": false}), spec)});
        create(&self.api, "pods", pod).await.unwrap().decode().unwrap()
    }

    pub async fn create_other(&self, resource: &'static str, object: Value) {
        create(&self.api, resource, object).await.unwrap();
    }

    pub async fn delete(&self, name: &str, grace_seconds: Option<i64>) {
        let options =
            DeleteOptions { grace_period_seconds: grace_seconds, ..DeleteOptions::default() };
        self.client.delete::<Pod>("default", name, &options).await.unwrap();
    }

    /// The only container that runs.
    pub fn running(&self) -> ContainerSpec {
        let mut running = self.runtime.running();
        assert_eq!(running.len(), 1, "containers running");
        running.remove(0)
    }

    /// Waits until something is told for this reason.
    pub async fn told(&self, reason: &str) -> Notice {
        let mut changes = self.changes.subscribe();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                changes.borrow_and_update();
                let found = self.notices.lock().iter().find(|n| n.reason == reason).cloned();
                if let Some(notice) = found {
                    return notice;
                }
                changes.changed().await.unwrap();
            }
        });
        found.await.unwrap()
    }

    pub fn has_told(&self, reason: &str) -> bool {
        self.notices.lock().iter().any(|notice| notice.reason == reason)
    }

    pub fn reasons(&self) -> Vec<String> {
        self.notices.lock().iter().map(|notice| notice.reason.to_string()).collect()
    }
}

fn node(
    options: Options,
    api: &SharedApi,
    runtime: &Arc<FakeRuntime>,
    images: &Arc<TestImages>,
    clock: &SharedClock,
    notices: &Arc<Mutex<Vec<Notice>>>,
    changes: &watch::Sender<u64>,
) -> Node {
    let (notices, changes) = (notices.clone(), changes.clone());
    let parts = Parts {
        api: api.clone(),
        runtime: runtime.clone(),
        images: images.clone(),
        names: Arc::new(NoNames),
        services: Arc::new(NoNames),
        clock: clock.clone(),
        ids: Arc::new(Ids::seeded(2)),
        notices: Arc::new(move |notice| {
            notices.lock().push(notice);
            changes.send_modify(|count| *count += 1);
        }),
    };
    Node::new(options, parts).unwrap()
}

pub async fn create(
    api: &SharedApi,
    resource: &'static str,
    object: Value,
) -> Result<Raw, ApiError> {
    let object = Object::from_value(object).unwrap();
    let target = Target {
        resource: wasmfleet::api::Gvr::new("", "v1", resource, true),
        namespace: Some(object.namespace().to_string()),
        name: None,
        subresource: None,
    };
    api.create(&target, object, &WriteOptions::default()).await
}

fn merged(mut base: Value, over: Value) -> Value {
    if let (Some(base), Value::Object(over)) = (base.as_object_mut(), over) {
        base.extend(over);
    }
    base
}

/// `Running ready web:running/0`: phase, readiness, each container's state and restarts.
pub fn summary(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let mut parts = vec![status.phase.unwrap_or_else(|| "-".into())];
    if let Some(reason) = status.reason {
        parts.push(format!("({reason})"));
    }
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
    parts.push(if ready.is_some_and(|c| c.status == "True") { "ready" } else { "unready" }.into());
    let inits = status.init_container_statuses.iter().flatten();
    for container in inits.chain(status.container_statuses.iter().flatten()) {
        parts.push(container_summary(container));
    }
    parts.join(" ")
}

fn container_summary(status: &ContainerStatus) -> String {
    let state = status.state.clone().unwrap_or_default();
    let text = if state.running.is_some() {
        "running".to_string()
    } else if let Some(exit) = state.terminated {
        format!("{}={}", exit.reason.unwrap_or_default(), exit.exit_code)
    } else {
        state.waiting.and_then(|waiting| waiting.reason).unwrap_or_default()
    };
    format!("{}:{text}/{}", status.name, status.restart_count)
}
