//! An API that misbehaves on purpose, by a seed: refusals, lost answers, answers that are old when they
//! come, late, repeated and lost watch events, times in which nothing is answered, and a crash of
//! who writes after each so many writes. It keeps what a real one promises: events come in order,
//! and a watch that lost one ends with 410.

use std::collections::VecDeque;
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
use tokio::sync::Notify;
use tokio::time::Instant;
use wasmfleet::api::error::Reason;
use wasmfleet::api::{ApiError, Raw};
use wasmfleet::client::around::{Around, Call, What, Write};
use wasmfleet::client::{
    ListOptions, RawList, SharedApi, Target, WatchEvent, WatchOptions, WatchStream,
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
/// What is read is old when it comes.
const STALE_READ: f64 = 0.05;
const MOST_STALE: Duration = Duration::from_secs(2);
/// The last writes, for those who look for a fault.
const WRITES_KEPT: usize = 8;
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
    last_writes: Mutex<VecDeque<String>>,
    /// What the running pods of a namespace use together, in MiB.
    load: AtomicU64,
    /// Until then nothing is answered but that it cannot be.
    outage: Mutex<Option<Instant>>,
    crash: Crash,
}

/// Whoever writes crashes after so many writes: the last one happens, and nobody hears of it.
#[derive(Default)]
struct Crash {
    /// 0: never.
    every: AtomicU64,
    writes: AtomicU64,
    is_down: AtomicBool,
    told: Notify,
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
            last_writes: Mutex::default(),
            load: AtomicU64::new(0),
            outage: Mutex::default(),
            crash: Crash::default(),
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

    pub fn last_writes(&self) -> Vec<String> {
        self.last_writes.lock().iter().cloned().collect()
    }

    /// Answers nothing for a while.
    pub fn fail_for(&self, time: Duration) {
        *self.outage.lock() = Some(Instant::now() + time);
    }

    /// From now on whoever writes crashes after so many writes; 0: never.
    pub fn crash_every(&self, writes: u64) {
        self.crash.every.store(writes, Ordering::Relaxed);
    }

    /// Waits until the control plane has crashed.
    pub async fn crashed(&self) {
        self.crash.told.notified().await;
    }

    /// The control plane runs again.
    pub fn revive(&self) {
        self.crash.writes.store(0, Ordering::Relaxed);
        self.crash.is_down.store(false, Ordering::Relaxed);
    }

    /// Counts a write that happened. The one who crashes over it goes no further.
    async fn count_for_crash(&self) {
        let every = self.crash.every.load(Ordering::Relaxed);
        if every == 0 || self.crash.writes.fetch_add(1, Ordering::Relaxed) + 1 < every {
            return;
        }
        self.crash.is_down.store(true, Ordering::Relaxed);
        self.crash.told.notify_one();
        std::future::pending().await
    }

    /// What is down sends nothing.
    async fn stand_if_down(&self) {
        if self.crash.is_down.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }

    /// Renewals are no writes of controllers.
    fn note(&self, verb: &str, target: &Target) {
        if &*target.resource.resource == "leases" {
            return;
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last_writes.lock();
        if last.len() >= WRITES_KEPT {
            last.pop_front();
        }
        last.push_back(format!("{verb} {}", target.path()));
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
    /// What was read may be old when it comes.
    async fn read<T>(&self, answer: T) -> T {
        if self.faults.strikes(STALE_READ) {
            self.faults.delay(MOST_STALE).await;
        }
        answer
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
        let is_out = self.faults.outage.lock().is_some_and(|end| Instant::now() < end);
        if is_out || self.faults.strikes(UNAVAILABLE) {
            return Err(ApiError::unavailable("injected"));
        }
        Ok(())
    }
}

impl Around for FaultyApi {
    fn inner(&self) -> SharedApi {
        self.inner.clone()
    }

    async fn before(&self, call: Call<'_>) -> Result<(), ApiError> {
        if let Call::Get(_) | Call::List(_) | Call::Watch(_) = call {
            self.read_fault()?;
        }
        if let Call::Watch(_) = call
            && self.faults.strikes(EXPIRED_WATCH)
        {
            return Err(ApiError::expired("injected"));
        }
        Ok(())
    }

    async fn get(&self, target: &Target) -> Result<Raw, ApiError> {
        let answer = self.inner.get(target).await;
        self.read(answer).await
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<RawList, ApiError> {
        let answer = match &*target.resource.group {
            "metrics.k8s.io" => self.measured(target, options).await,
            _ => self.inner.list(target, options).await,
        };
        self.read(answer).await
    }

    async fn watch(
        &self,
        target: &Target,
        options: &WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        let stream = self.inner.watch(target, options).await?;
        Ok(disturbed(stream, self.faults.clone()))
    }

    async fn write(&self, write: Write<'_>) -> Result<Raw, ApiError> {
        if let What::Create(..) = write.what {
            self.check_quota(&write.target).await?;
        }
        self.faults.note(write.what.verb(), &write.target);
        self.faults.delay(MOST_WRITE_DELAY).await;
        self.faults.stand_if_down().await;
        if self.faults.strikes(CONFLICT) {
            let name = write.target.name.as_deref().unwrap_or_default();
            return Err(ApiError::modified(&write.target.resource, name));
        }
        self.read_fault()?;
        let result = write.perform(&*self.inner).await;
        if result.is_ok() {
            self.faults.count_for_crash().await;
        }
        self.faults.delay(MOST_WRITE_DELAY).await;
        if result.is_ok() && self.faults.strikes(LOST_ANSWER) {
            return Err(ApiError::new(504, Reason::Timeout, "injected: the answer is lost"));
        }
        result
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
