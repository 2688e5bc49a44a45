//! An API that misbehaves on purpose, by a seed: refusals, lost answers, late, repeated and lost
//! watch events. It keeps what a real one promises: events come in order, and a watch that lost one
//! ends with 410.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use wasmfleet::api::error::Reason;
use wasmfleet::api::{ApiError, Object, Raw};
use wasmfleet::client::{
    Api, DeleteOptions, ListOptions, Patch, RawList, SharedApi, Target, WatchEvent, WatchOptions,
    WatchStream, WriteOptions,
};

const CONFLICT: f64 = 0.05;
const UNAVAILABLE: f64 = 0.03;
/// The write happens, its answer does not come.
const LOST_ANSWER: f64 = 0.03;
const LATE_EVENT: f64 = 0.10;
const END_OF_WATCH: f64 = 0.02;
const LOST_EVENT: f64 = 0.01;
const REPEATED_EVENT: f64 = 0.05;
const EXPIRED_WATCH: f64 = 0.05;
const MOST_WRITE_DELAY: Duration = Duration::from_millis(20);
const MOST_EVENT_DELAY: Duration = Duration::from_secs(2);

/// Decides where faults strike.
pub struct Faults {
    on: AtomicBool,
    random: Mutex<StdRng>,
    /// Pods beyond this number are refused, faults or not.
    most_pods: AtomicUsize,
    /// Writes asked for.
    writes: AtomicU64,
    /// What the running pods of a namespace use together, in MiB.
    load: AtomicU64,
}

impl Faults {
    pub fn new(seed: u64) -> Arc<Faults> {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        let most_pods = AtomicUsize::new(usize::MAX);
        Arc::new(Faults {
            on: AtomicBool::new(false),
            random,
            most_pods,
            writes: AtomicU64::new(0),
            load: AtomicU64::new(0),
        })
    }

    pub fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Refuses pods beyond a number, as a quota does.
    pub fn allow_pods(&self, most: usize) {
        self.most_pods.store(most, Ordering::Relaxed);
    }

    /// What running pods use together from now on, in MiB.
    pub fn load(&self, mebibytes: u64) {
        self.load.store(mebibytes, Ordering::Relaxed);
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    fn strikes(&self, probability: f64) -> bool {
        self.on.load(Ordering::Relaxed) && self.random.lock().random_bool(probability)
    }

    async fn delay(&self, most: Duration) {
        if self.on.load(Ordering::Relaxed) {
            let wait = self.random.lock().random_range(Duration::ZERO..most);
            tokio::time::sleep(wait).await;
        }
    }
}

/// See the module's documentation.
pub struct FaultyApi {
    pub inner: SharedApi,
    pub faults: Arc<Faults>,
}

impl FaultyApi {
    async fn write(
        &self,
        target: &Target,
        call: impl Future<Output = Result<Raw, ApiError>> + Send,
    ) -> Result<Raw, ApiError> {
        self.faults.writes.fetch_add(1, Ordering::Relaxed);
        self.faults.delay(MOST_WRITE_DELAY).await;
        if self.faults.strikes(CONFLICT) {
            let name = target.name.as_deref().unwrap_or_default();
            return Err(ApiError::modified(&target.resource, name));
        }
        self.read_fault()?;
        let result = call.await;
        self.faults.delay(MOST_WRITE_DELAY).await;
        if result.is_ok() && self.faults.strikes(LOST_ANSWER) {
            return Err(ApiError::new(504, Reason::Timeout, "injected: the answer is lost"));
        }
        result
    }

    async fn check_quota(&self, target: &Target) -> Result<(), ApiError> {
        let most = self.faults.most_pods.load(Ordering::Relaxed);
        if &*target.resource.resource != "pods"
            || target.subresource.is_some()
            || most == usize::MAX
        {
            return Ok(());
        }
        let there = self.inner.list(target, &ListOptions::default()).await?.items.len();
        if there < most {
            return Ok(());
        }
        Err(ApiError::forbidden(&target.resource, "", "exceeded quota: injected"))
    }

    /// metrics.k8s.io, as nodes would fill it: the pods that run share the load.
    async fn measured(&self, target: &Target, options: &ListOptions) -> Result<RawList, ApiError> {
        let pods = Target::all::<Pod>(target.namespace.as_deref());
        let mut list = self.inner.list(&pods, options).await?;
        let pods = list.items.iter().map(Raw::decode::<Pod>);
        let pods: Vec<Pod> = pods.collect::<Result<_, ApiError>>()?;
        let runs = |pod: &&Pod| {
            let status = pod.status.as_ref();
            status.is_some_and(|status| status.phase.as_deref() == Some("Running"))
                && pod.metadata.deletion_timestamp.is_none()
        };
        let running: Vec<&Pod> = pods.iter().filter(runs).collect();
        let load = self.faults.load.load(Ordering::Relaxed) * 1024;
        let each = load / (running.len() as u64).max(1);
        let measured = running.iter().map(|pod| {
            let usage = json!({"cpu": "1m", "memory": format!("{each}Ki")});
            let metrics = json!({"metadata": {"name": pod.metadata.name}, "window": "15s",
                "containers": [{"name": "c", "usage": usage}]});
            Raw(Bytes::from(metrics.to_string()))
        });
        list.items = measured.collect();
        Ok(list)
    }

    fn read_fault(&self) -> Result<(), ApiError> {
        if self.faults.strikes(UNAVAILABLE) {
            return Err(ApiError::unavailable("injected"));
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Api for FaultyApi {
    async fn get(&self, target: &Target) -> Result<Raw, ApiError> {
        self.read_fault()?;
        self.inner.get(target).await
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<RawList, ApiError> {
        self.read_fault()?;
        match &*target.resource.group {
            "metrics.k8s.io" => self.measured(target, options).await,
            _ => self.inner.list(target, options).await,
        }
    }

    async fn watch(
        &self,
        target: &Target,
        options: &WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        self.read_fault()?;
        if self.faults.strikes(EXPIRED_WATCH) {
            return Err(ApiError::expired("injected"));
        }
        let stream = self.inner.watch(target, options).await?;
        Ok(disturbed(stream, self.faults.clone()))
    }

    async fn create(
        &self,
        target: &Target,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        self.check_quota(target).await?;
        self.write(target, self.inner.create(target, object, options)).await
    }

    async fn update(
        &self,
        target: &Target,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        self.write(target, self.inner.update(target, object, options)).await
    }

    async fn patch(
        &self,
        target: &Target,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        self.write(target, self.inner.patch(target, patch, options)).await
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Raw, ApiError> {
        self.write(target, self.inner.delete(target, options)).await
    }

    async fn get_bytes(&self, path: &str) -> Result<Bytes, ApiError> {
        self.inner.get_bytes(path).await
    }
}

struct Disturbed {
    stream: Option<WatchStream>,
    repeated: Option<WatchEvent>,
    faults: Arc<Faults>,
}

fn disturbed(stream: WatchStream, faults: Arc<Faults>) -> WatchStream {
    let state = Disturbed { stream: Some(stream), repeated: None, faults };
    futures::stream::unfold(state, |mut state| async move {
        if let Some(event) = state.repeated.take() {
            return Some((Ok(event), state));
        }
        let item = state.stream.as_mut()?.next().await?;
        if state.faults.strikes(LATE_EVENT) {
            state.faults.delay(MOST_EVENT_DELAY).await;
        }
        if state.faults.strikes(END_OF_WATCH) {
            return None;
        }
        if state.faults.strikes(LOST_EVENT) {
            state.stream = None;
            return Some((Err(ApiError::expired("injected: an event is lost")), state));
        }
        if state.faults.strikes(REPEATED_EVENT) {
            state.repeated = item.as_ref().ok().cloned();
        }
        Some((item, state))
    })
    .boxed()
}
