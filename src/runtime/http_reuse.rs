//! Instances of an HTTP handler that serve one request after the other, for containers that ask for
//! it: what a request leaves in a guest's memory, the next one finds there. Between requests an
//! instance rests here, for a while, unless its memory is wanted.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p3::bindings::Service;

use super::host::{HostState, Sandbox};
use super::pool::PlaceInPool;

/// Instances of one container that rest, at most.
const MAX_RESTING: usize = 64;
/// How long one rests.
const REST: Duration = Duration::from_secs(10);

/// An instance, made or still to be made in its store.
pub struct Instance {
    pub store: Store<HostState>,
    /// `None` before its first request.
    pub exports: Option<Exports>,
    /// Requests that it has been given.
    served: u32,
    /// Free again once the store is dropped.
    place: Option<PlaceInPool>,
}

pub enum Exports {
    P2(Proxy),
    P3(Service),
}

impl Instance {
    pub fn fresh(store: Store<HostState>, place: Option<PlaceInPool>) -> Instance {
        Instance { store, exports: None, served: 0, place }
    }

    pub fn is_pooled(&self) -> bool {
        self.place.is_some()
    }
}

/// The instances of one container that rest.
pub struct Resting {
    /// Requests that one instance serves, at most.
    most_requests: u32,
    state: Mutex<State>,
    /// Told when the first one rests.
    begun: Notify,
}

#[derive(Default)]
struct State {
    /// Since when; the one that has rested longest is the first.
    instances: Vec<(Instant, Instance)>,
    closed: bool,
}

impl Resting {
    /// Of a container whose instances serve more than one request.
    pub fn of(sandbox: &Sandbox) -> Option<Arc<Resting>> {
        let most_requests = sandbox.spec.requests_per_instance;
        let resting = Resting { most_requests, state: Mutex::default(), begun: Notify::new() };
        (most_requests > 1).then(|| Arc::new(resting))
    }

    /// The one that rested last: its memory is warm, and the others may go.
    pub fn take(&self) -> Option<Instance> {
        self.state.lock().instances.pop().map(|(_, instance)| instance)
    }

    pub fn count(&self) -> usize {
        self.state.lock().instances.len()
    }

    /// An instance has served a request well. It goes if it has served enough, or if enough rest.
    pub fn keep(&self, mut instance: Instance) {
        instance.served = instance.served.saturating_add(1);
        let mut state = self.state.lock();
        let instances = state.instances.len();
        if state.closed || instance.served >= self.most_requests || instances >= MAX_RESTING {
            drop(state);
            return;
        }
        state.instances.push((Instant::now(), instance));
        drop(state);
        if instances == 0 {
            self.begun.notify_one();
        }
    }

    /// The container ends: so does what rests, and nothing rests any more.
    pub fn close(&self) {
        self.state.lock().closed = true;
        drop(self.drain(|_| true));
    }

    /// Ends instances that rested for long, and all when their memory is wanted. Returns when the
    /// container ends.
    pub async fn sweep(self: Arc<Self>, sandbox: Arc<Sandbox>) {
        let mut ended = sandbox.ended.subscribe();
        loop {
            let due = self.state.lock().instances.first().map(|(since, _)| *since + REST);
            let rested = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => self.begun.notified().await,
                }
            };
            tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => return,
                () = sandbox.memory.pressed() => drop(self.drain(|_| true)),
                () = rested => {
                    let now = Instant::now();
                    drop(self.drain(|since| since + REST <= now));
                }
            }
        }
    }

    /// Takes out those of which this holds; they are dropped without the lock.
    fn drain(&self, wanted: impl Fn(Instant) -> bool) -> Vec<(Instant, Instance)> {
        let mut state = self.state.lock();
        let count = state.instances.partition_point(|(since, _)| wanted(*since));
        state.instances.drain(..count).collect()
    }
}
