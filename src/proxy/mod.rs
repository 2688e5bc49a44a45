//! The service proxy: listens on cluster IPs and balances connections over ready endpoints, in
//! user space and without privileges.
//!
//! One proxy serves every node of a process. Services and EndpointSlices are watched; a change
//! swaps the endpoints of its ports at once, and connections that exist are left alone. Listeners
//! set SO_REUSEPORT, so that the node agents of one machine share the cluster IPs.

mod balancer;
mod failures;
mod listener;
pub mod names;
pub mod routes;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;

use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::base::dirty_set::DirtySet;
use crate::base::{SharedClock, Tasks};
use crate::client::cache::{Cache, Changed};
use crate::client::event::Notice;
use balancer::Balancer;
use failures::Failures;
use listener::Places;
use routes::PortRoute;

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
    served: Mutex<HashMap<ObjectKey, HashMap<SocketAddr, Served>>>,
    failures: Mutex<Failures>,
    places: Places,
}

/// A port that is listened on.
struct Served {
    balancer: Arc<Balancer>,
    listener: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.listener.abort();
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
            served: Mutex::default(),
            failures: Mutex::default(),
            places: Places::of_process(),
        })
    }

    /// Tells that a node runs in this process.
    pub fn add_local_node(&self, node: &str) {
        self.local_nodes.lock().insert(node.to_string());
    }

    /// Serves until the tasks stop.
    pub fn run(self: &Arc<Self>, tasks: &Tasks) {
        let proxy = self.clone();
        tasks.spawn("proxy", async move {
            loop {
                let key = proxy.dirty.take().await;
                proxy.update(&key);
                proxy.dirty.done(&key);
            }
        });
    }

    /// Brings the listeners of one Service to what the cache says.
    fn update(&self, key: &ObjectKey) {
        let (service, routes) = {
            let view = self.cache.view();
            let nodes = self.local_nodes.lock();
            let Some(service) = view.get_key::<Service>(key).cloned() else {
                drop(view);
                self.served.lock().remove(key);
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
        let work = listener::accept(socket, places, balancer.clone(), self.clock.clone());
        let served = Served { balancer, listener: tokio::spawn(work) };
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
