//! The seeded simulation: the real API server over a memory store, the real controllers and the real
//! scheduler over an API that misbehaves, fake agents, and virtual time. Invariants are checked on
//! every change; when the faults stop, everything must come to rest as asked, and then stay quiet.
//! Nothing is looked at again by period here, so that a lost wake-up is seen.
//!
//! `WASMFLEET_SIM_SEEDS=200` runs more seeds than the default, `WASMFLEET_SIM_SEED=7` one of them.

mod apart;
mod autoscalers;
mod chaos;
mod deletions;
mod fakes;
mod faulty;
mod jobs;
mod nodes;
mod preemption;
mod rollouts;
mod scheduling;
mod stateful;
mod truth;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use wasmfleet::api::registry::Registry;
use wasmfleet::api::{Kind, ObjectKey};
use wasmfleet::apiserver::{self, ApiServer, Parts, User};
use wasmfleet::base::clock::VirtualClock;
use wasmfleet::base::ids::Ids;
use wasmfleet::base::{SharedClock, Tasks};
use wasmfleet::client::cache::{Cache, View};
use wasmfleet::client::recorder::Recorder;
use wasmfleet::client::{
    Client, DeleteOptions, ListOptions, Patch, Propagation, SharedApi, Target,
};
use wasmfleet::controllers::{self, Driver, driver::DriverOptions};
use wasmfleet::scheduler::{self, Scheduler};
use wasmfleet::store::memory::{self, MemoryStore};

use fakes::{Fakes, Link};
use faulty::{Faults, FaultyApi};
use truth::Truth;

const DEFAULT_SEEDS: u64 = 6;
/// Virtual time in which everything must come to rest.
const MOST_REST: Duration = Duration::from_secs(900);
/// What would heal a lost wake-up happens after this time only.
const NEVER: Duration = Duration::from_secs(100 * 3600);
/// After it came to rest a cluster is given some time to finish what nobody sees, such as counting
/// events, and is then watched for a while.
const CALM_DOWN: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_secs(180);
/// Reconciles of one controller in that time. Nodes are looked at twice a minute.
const MOST_QUIET_RECONCILES: u64 = 60;
const STOP_LIMIT: Duration = Duration::from_secs(60);

struct World {
    api: SharedApi,
    faulty: SharedApi,
    faults: Arc<Faults>,
    clock: SharedClock,
    client: Client,
    fakes: Arc<Fakes>,
    truth: Arc<Truth>,
    tasks: Tasks,
    control: Option<(Tasks, Driver)>,
    random: StdRng,
}

impl World {
    async fn new(seed: u64, calm: bool, nodes: usize) -> World {
        let start = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock: SharedClock = Arc::new(VirtualClock::new(start));
        let faults = memory::Faults { commit_yields: 3, ..memory::Faults::default() };
        let store = MemoryStore::new(memory::Options { faults, seed, ..Default::default() });
        let server = ApiServer::new(Parts {
            store: Arc::new(store),
            registry: Arc::new(Registry::builtin()),
            clock: clock.clone(),
            ids: Arc::new(Ids::seeded(seed)),
            artifacts: None,
            nodes: Arc::default(),
            pki: None,
            options: apiserver::Options::default(),
        });
        server.bootstrap(None).await.unwrap();
        let api = server.api(User::system("simulation"));
        let tasks = Tasks::default();
        let faults = Faults::new(seed);
        let faulty = Arc::new(FaultyApi { inner: api.clone(), faults: faults.clone() });
        let fakes = Fakes::start(api.clone(), clock.clone(), seed, &tasks);
        let truth = Truth::start(api.clone(), clock.clone(), calm, &tasks);
        truth.cache.wait_synced().await;
        for index in 0..nodes {
            fakes.add_node(&format!("n{index}"), &tasks).await;
        }
        let client = Client::new(api.clone(), "user");
        let random = StdRng::seed_from_u64(seed ^ 0x5eed);
        let control = None;
        World { api, faulty, faults, clock, client, fakes, truth, tasks, control, random }
    }

    /// Starts controllers and scheduler, as after a start of the process.
    fn start_control(&mut self) {
        let (tasks, cache) = (Tasks::default(), Cache::new());
        let options = controllers::Options {
            ca_certificates: "the CA".into(),
            ..controllers::Options::default()
        };
        let recorder = Recorder::new(self.faulty.clone(), "sim", self.clock.clone());
        recorder.run(&tasks);
        let driver = Driver::new(
            self.faulty.clone(),
            cache.clone(),
            self.clock.clone(),
            recorder,
            controllers::all(&options),
            DriverOptions { resync: NEVER },
        );
        let recorder = Recorder::new(self.faulty.clone(), "sim-scheduler", self.clock.clone());
        recorder.run(&tasks);
        let scheduler = Scheduler::new(
            Client::new(self.faulty.clone(), "scheduler"),
            &cache,
            self.clock.clone(),
            Arc::new(move |notice| recorder.record(notice)),
            scheduler::Options { retry_anyway: NEVER },
        );
        controllers::keep(&cache, &self.faulty, &tasks);
        driver.run(&tasks);
        tasks.spawn("scheduler", async move {
            cache.wait_synced().await;
            scheduler.run().await;
        });
        self.control = Some((tasks, driver));
    }

    async fn stop_control(&mut self) {
        if let Some((tasks, driver)) = self.control.take() {
            let panics: u64 = driver.stats().iter().map(|one| one.panics).sum();
            assert_eq!(panics, 0, "a controller panicked");
            assert!(tasks.shut_down(STOP_LIMIT).await.is_empty());
        }
    }

    /// A crash between any two writes.
    async fn restart_control(&mut self) {
        self.stop_control().await;
        self.start_control();
    }

    async fn sleep(&mut self, most: Duration) {
        let wait = self.random.random_range(Duration::ZERO..most);
        tokio::time::sleep(wait).await;
    }

    /// Waits until everything is as asked.
    async fn rest(&self) {
        self.until(truth::unfinished).await;
    }

    /// Waits until nothing is left that `unfinished` tells of, sees that all bounds were kept.
    async fn until(&self, unfinished: impl Fn(&View) -> Option<String>) {
        let deadline = tokio::time::Instant::now() + MOST_REST;
        loop {
            // At first too: what was asked for just now must be seen.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let why = unfinished(&self.truth.cache.view());
            let Some(why) = why else { break };
            assert!(tokio::time::Instant::now() < deadline, "no rest: {why}");
        }
        assert_eq!(self.truth.violations(), Vec::<String>::new());
    }

    /// A cluster at rest does nothing: no key goes round and round, nothing is written.
    async fn stays_quiet(&self) {
        let Some((_, driver)) = &self.control else { return };
        tokio::time::sleep(CALM_DOWN).await;
        let (before, writes) = (driver.stats(), self.faults.writes());
        tokio::time::sleep(QUIET).await;
        for (before, after) in before.iter().zip(driver.stats()) {
            let (failures, conflicts) = (after.failures, after.conflicts);
            assert_eq!((before.failures, before.conflicts), (failures, conflicts), "{after:?}");
            let reconciles = after.reconciles - before.reconciles;
            assert!(reconciles <= MOST_QUIET_RECONCILES, "{reconciles} reconciles: {after:?}");
        }
        assert_eq!(self.faults.writes(), writes, "something is written at rest");
    }

    async fn create<T: Kind>(&self, value: Value) {
        let object: T = serde_json::from_value(value).expect("the test's object is one");
        self.client.create(&object).await.expect("the object is created");
    }

    async fn patch<T: Kind>(&self, name: &str, patch: Value) {
        self.client.patch::<T>("default", name, Patch::Merge(patch)).await.expect("it is patched");
    }

    async fn delete<T: Kind>(&self, name: &str, propagation: Propagation) {
        let options =
            DeleteOptions { propagation_policy: Some(propagation), ..DeleteOptions::default() };
        self.client.delete::<T>("default", name, &options).await.expect("it is deleted");
    }

    async fn end(mut self) {
        self.stays_quiet().await;
        self.stop_control().await;
        assert!(self.tasks.shut_down(STOP_LIMIT).await.is_empty());
    }
}

fn deployment(name: &str, replicas: i32, surge: i32, unavailable: i32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "hello:v1"}]},
            },
        },
    })
}

fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

fn image(version: u32) -> Value {
    let containers = json!([{"name": "c", "image": format!("hello:v{version}")}]);
    json!({"spec": {"template": {"spec": {"containers": containers}}}})
}

/// Runs a scenario for each seed, on virtual time, and says which seed failed.
fn each_seed<F: Future<Output = ()>>(scenario: impl Fn(u64) -> F) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("WASMFLEET_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WASMFLEET_SIM_SEEDS").unwrap_or(DEFAULT_SEEDS),
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let run = AssertUnwindSafe(|| runtime.block_on(scenario(seed)));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("failed with WASMFLEET_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn name_of<T: Kind>(object: &T) -> &str {
    object.metadata().name.as_deref().unwrap_or_default()
}

fn names<T: Kind>(objects: &[T]) -> Vec<String> {
    objects.iter().map(|object| name_of(object).to_string()).collect()
}

fn before_hash(name: &str) -> String {
    name.rsplit_once('-').map_or(name, |(start, _)| start).to_string()
}
