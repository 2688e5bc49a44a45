//! The service proxy: listens on cluster IPs and balances connections over ready endpoints, in
//! user space and without privileges.
//!
//! One proxy serves every node of a process. Services and EndpointSlices are watched; a change
//! swaps the endpoints of its ports at once, and connections that exist are left alone. Listeners
//! set SO_REUSEPORT, so that the node agents of one machine share the cluster IPs. Where an
//! autoscaler has the pods at zero, connections are held, and a condition of the Service tells it.

mod balancer;
mod carrying;
mod failures;
mod holding;
mod listener;
pub mod names;
pub mod routes;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::api::kinds::service_activation::{AWAITED, SCALED_TO_ZERO, condition, holds};
use crate::api::resource::Gvr;
use crate::api::{ApiError, ObjectKey};
use crate::base::dirty_set::DirtySet;
use crate::base::{SharedClock, Tasks};
use crate::client::cache::{Cache, Changed, parse_revision};
use crate::client::event::Notice;
use crate::client::{Client, Patch, Target, WriteOptions};
use balancer::Balancer;
use failures::Failures;
use holding::HoldPlaces;
use listener::{Places, Port};
use routes::PortRoute;

/// Services whose held connections are told of side by side: each is one write.
const TELLERS: usize = 4;
/// The wait before it is told again that a connection is held, where that failed.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// What connections have to end when the process stops: a little more than a node gives its
/// containers (`node`: 6 s), so that what these answer last comes through.
const LEAVE_LIMIT: Duration = Duration::from_secs(7);
/// After so long those are ended at which nothing is under way: their endpoints run on elsewhere, so
/// that nobody else tells their clients.
const LEAVE_QUIETLY: Duration = Duration::from_secs(5);

/// Where notices about Services go; must not block.
pub type Tell = Arc<dyn Fn(Notice) + Send + Sync>;

/// What the proxy is made of.
pub struct Proxy {
    cache: Arc<Cache>,
    clock: SharedClock,
    tell: Tell,
    /// The nodes of this process: what `internalTrafficPolicy: Local` means by local.
    local_nodes: Mutex<BTreeSet<String>>,
    dirty: DirtySet<ObjectKey>,
    /// Services at which a connection is held.
    awaited: DirtySet<ObjectKey>,
    /// As of which revision a Service tells what was written here: the cache may be behind.
    told: Mutex<HashMap<ObjectKey, u64>>,
    served: Mutex<HashMap<ObjectKey, HashMap<SocketAddr, Served>>>,
    failures: Mutex<Failures>,
    places: Places,
    /// Connections end at which nothing is under way.
    leaving: watch::Sender<bool>,
}

/// A port that is listened on.
struct Served {
    balancer: Arc<Balancer>,
    held: Arc<HoldPlaces>,
    /// Dropped, it has the listener closed.
    open: Option<oneshot::Sender<()>>,
    listener: Option<JoinHandle<()>>,
}

impl Served {
    /// Has the listener closed, which takes what waits in its queue first.
    fn close(mut self) -> Option<JoinHandle<()>> {
        self.open = None;
        self.listener.take()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.balancer.close();
    }
}

impl Proxy {
    /// Listens to `cache`, which must keep Services and EndpointSlices (and should be filled after
    /// this call).
    pub fn new(cache: Arc<Cache>, clock: SharedClock, tell: Tell) -> Arc<Proxy> {
        let dirty = DirtySet::default();
        let marks = dirty.clone();
        cache.listen(Box::new(move |change| {
            if let Some(key) = service_of(change) {
                marks.mark(key);
            }
        }));
        Arc::new(Proxy {
            cache,
            clock,
            tell,
            local_nodes: Mutex::default(),
            dirty,
            awaited: DirtySet::default(),
            told: Mutex::default(),
            served: Mutex::default(),
            failures: Mutex::default(),
            places: Places::of_process(),
            leaving: watch::Sender::new(false),
        })
    }

    /// Tells that a node runs in this process.
    pub fn add_local_node(&self, node: &str) {
        self.local_nodes.lock().insert(node.to_string());
    }

    /// Serves until the tasks stop, and then what it carries until that ends, for seven seconds at
    /// most; `client` tells of connections that are held.
    pub fn run(self: &Arc<Self>, client: &Client, tasks: &Tasks) {
        for _ in 0..TELLERS {
            let (proxy, client) = (self.clone(), client.clone());
            tasks.spawn("held connections", async move {
                loop {
                    let key = proxy.awaited.take().await;
                    if let Err(error) = proxy.tell_held(&client, &key).await {
                        tracing::warn!(service = %key, %error, "could not tell that it is awaited");
                        proxy.awaited.mark_after(key.clone(), TELL_AGAIN);
                    }
                    proxy.awaited.done(&key);
                }
            });
        }
        let proxy = self.clone();
        tasks.spawn("proxy", async move {
            loop {
                let key = proxy.dirty.take().await;
                proxy.update(&key);
                proxy.dirty.done(&key);
            }
        });
        let (proxy, stop) = (self.clone(), tasks.stop());
        tasks.spawn_until_done("proxied connections", async move {
            stop.wait().await;
            proxy.leave().await;
        });
    }

    /// Takes no new connections, and waits for the end of those that there are.
    async fn leave(&self) {
        let ports: Vec<Served> =
            self.served.lock().drain().flat_map(|(_, ports)| ports.into_values()).collect();
        futures::future::join_all(ports.into_iter().filter_map(Served::close)).await;
        let free = async {
            if tokio::time::timeout(LEAVE_QUIETLY, self.places.all_free()).await.is_err() {
                self.leaving.send_replace(true);
                self.places.all_free().await;
            }
        };
        if tokio::time::timeout(LEAVE_LIMIT, free).await.is_err() {
            tracing::debug!("connections are cut that did not end");
        }
    }

    /// Sets the condition that a connection waits, unless it is set or nobody waits any more.
    async fn tell_held(&self, client: &Client, key: &ObjectKey) -> Result<(), ApiError> {
        let is_told = {
            let view = self.cache.view();
            let Some(service) = view.get_key::<Service>(key) else { return Ok(()) };
            let seen = service.metadata.resource_version.as_deref().unwrap_or_default();
            let mut told = self.told.lock();
            let is_behind = told.get(key).is_some_and(|told| *told > parse_revision(seen));
            if !is_behind {
                told.remove(key);
            }
            is_behind || !holds(service, SCALED_TO_ZERO) || holds(service, AWAITED)
        };
        let waits = || {
            let served = self.served.lock();
            served.get(key).is_some_and(|ports| ports.values().any(|one| one.held.is_waited_for()))
        };
        if is_told || !waits() {
            return Ok(());
        }
        let told = "a connection is held until a pod is ready";
        let awaited = condition(AWAITED, "ConnectionHeld", told, self.clock.now());
        let patch = Patch::Strategic(json!({"status": {"conditions": [awaited]}}));
        let target = Target::one::<Service>(&key.namespace, &key.name).subresource("status");
        let options =
            WriteOptions { field_manager: client.manager.into(), ..WriteOptions::default() };
        let written = client.api.patch(&target, patch, &options).await?.object()?;
        self.told.lock().insert(key.clone(), parse_revision(written.resource_version()));
        Ok(())
    }

    /// Brings the listeners of one Service to what the cache says.
    fn update(&self, key: &ObjectKey) {
        let (service, routes) = {
            let view = self.cache.view();
            let nodes = self.local_nodes.lock();
            let Some(service) = view.get_key::<Service>(key).cloned() else {
                drop(view);
                self.served.lock().remove(key);
                self.told.lock().remove(key);
                self.failures.lock().settle(key, Vec::new());
                return;
            };
            let index = routes::slice_index(key);
            let slices = view.indexed::<EndpointSlice>(&index);
            let routes = routes::of_service(&service, slices.map(|slice| &**slice), &nodes);
            (service, routes)
        };
        self.close_others(key, &routes);
        let mut failed = Vec::new();
        for route in routes {
            let address = route.address;
            if let Err(error) = self.serve(key, &route) {
                failed.push((address, listener::advice(address, &error)));
            }
        }
        let (news, wait) = self.failures.lock().settle(key, failed);
        for message in news {
            (self.tell)(Notice::warning(&*service, "FailedToListen", message));
        }
        if let Some(wait) = wait {
            self.dirty.mark_after(key.clone(), wait);
        }
    }

    fn close_others(&self, key: &ObjectKey, routes: &[PortRoute]) {
        let mut served = self.served.lock();
        if let Some(ports) = served.get_mut(key) {
            ports.retain(|address, _| routes.iter().any(|route| route.address == *address));
        }
    }

    /// Swaps the endpoints of a port, opening its listener first where it is new.
    fn serve(&self, key: &ObjectKey, route: &PortRoute) -> std::io::Result<()> {
        if let Some(port) = self.served.lock().get(key).and_then(|ports| ports.get(&route.address))
        {
            port.balancer.update(route);
            return Ok(());
        }
        let address = route.address;
        let socket = listener::open(address)?;
        let balancer = Arc::new(Balancer::new(route));
        let places = self.places.of_port();
        let held = places.held();
        let (awaited, of) = (self.awaited.clone(), key.clone());
        let port = Arc::new(Port {
            balancer: balancer.clone(),
            clock: self.clock.clone(),
            tell_held: Arc::new(move || awaited.mark(of.clone())),
            leaving: self.leaving.subscribe(),
        });
        let (open, closed) = oneshot::channel();
        let listener = Some(tokio::spawn(listener::accept(socket, places, port, closed)));
        let served = Served { balancer, held, open: Some(open), listener };
        self.served.lock().entry(key.clone()).or_default().insert(address, served);
        Ok(())
    }
}

/// The Service that a change is about.
fn service_of(change: &Changed) -> Option<ObjectKey> {
    if change.resource == Gvr::of::<Service>() {
        return Some(change.key.clone());
    }
    if change.resource != Gvr::of::<EndpointSlice>() {
        return None;
    }
    let meta = change.object()?.meta();
    let service = meta.labels.as_ref()?.get(routes::SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(change.key.namespace.clone(), service.clone()))
}
