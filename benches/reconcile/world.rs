//! A control plane in this process, and agents that do no more than to tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};
use wasmfleet::api::registry::Registry;
use wasmfleet::api::{Kind, ObjectKey};
use wasmfleet::apiserver::{ApiServer, Options, Parts, User};
use wasmfleet::base::clock::RealClock;
use wasmfleet::base::dirty_set::DirtySet;
use wasmfleet::base::ids::Ids;
use wasmfleet::base::{SharedClock, Tasks};
use wasmfleet::client::cache::Cache;
use wasmfleet::client::recorder::Recorder;
use wasmfleet::client::{Client, Patch, Target, WriteOptions};
use wasmfleet::controllers::{self, Driver, driver::DriverOptions};
use wasmfleet::scheduler::{self, Scheduler};
use wasmfleet::store::SharedStore;
use wasmfleet::store::memory::MemoryStore;

use crate::stats;

const NODES: usize = 20;
/// Agents' writes under way.
const AGENT_WORKERS: usize = 32;
/// Until all is as asked.
const LIMIT: Duration = Duration::from_secs(1800);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Nodes tell nothing once they are there, and must not be missed.
const NEVER: Duration = Duration::from_secs(100 * 3600);

pub struct World {
    client: Client,
    cache: Arc<Cache>,
    store: SharedStore,
    driver: Driver,
    tasks: Tasks,
}

/// What was done and used so far.
pub struct Usage {
    pub writes: u64,
    pub reconciles: u64,
    /// Those of each controller that did any.
    pub by_controller: BTreeMap<&'static str, u64>,
    /// User and system time of this process, in microseconds.
    pub cpu_us: f64,
    pub memory_mib: f64,
}

impl Usage {
    pub fn since(&self, before: &Usage) -> Usage {
        Usage {
            writes: self.writes - before.writes,
            reconciles: self.reconciles - before.reconciles,
            by_controller: {
                let of_before = |name| before.by_controller.get(name).copied().unwrap_or_default();
                let passed =
                    self.by_controller.iter().map(|(name, all)| (*name, all - of_before(name)));
                passed.filter(|(_, count)| *count > 0).collect()
            },
            cpu_us: self.cpu_us - before.cpu_us,
            memory_mib: self.memory_mib - before.memory_mib,
        }
    }
}

impl World {
    pub async fn start() -> anyhow::Result<World> {
        let clock: SharedClock = Arc::new(RealClock);
        let store: SharedStore = Arc::new(MemoryStore::default());
        let server = ApiServer::new(Parts {
            store: store.clone(),
            registry: Arc::new(Registry::builtin()),
            clock: clock.clone(),
            ids: Arc::new(Ids::seeded(1)),
            artifacts: None,
            nodes: Arc::default(),
            pki: None,
            options: Options::default(),
        });
        server.bootstrap(None).await?;
        let api = server.api(User::system("bench"));
        let (tasks, cache) = (Tasks::default(), Cache::new());
        cache.lean();
        let agent = Agent::listen(Client::new(api.clone(), "agent"), &cache);
        let recorder = |component| {
            let recorder = Recorder::new(api.clone(), component, clock.clone());
            recorder.run(&tasks);
            recorder
        };
        let options = controllers::Options {
            node_grace: NEVER,
            node_startup_grace: NEVER,
            ..controllers::Options::default()
        };
        let driver = Driver::new(
            api.clone(),
            cache.clone(),
            clock.clone(),
            recorder("controllers"),
            controllers::all(&options),
            DriverOptions::default(),
        );
        let events = recorder("scheduler");
        let scheduler = Scheduler::new(
            Client::new(api.clone(), "scheduler"),
            &cache,
            clock.clone(),
            Arc::new(move |_, notice| events.record(notice)),
            scheduler::Options::default(),
        );
        controllers::keep(&cache, &api, &tasks);
        driver.run(&tasks);
        let filled = cache.clone();
        tasks.spawn("scheduler", async move {
            filled.wait_synced().await;
            scheduler.run().await;
        });
        agent.run(&tasks);
        cache.wait_synced().await;
        let world = World { client: Client::new(api, "bench"), cache, store, driver, tasks };
        for index in 0..NODES {
            world.add_node(&format!("n{index}")).await?;
        }
        Ok(world)
    }

    async fn add_node(&self, name: &str) -> anyhow::Result<()> {
        let room = json!({"cpu": "100", "memory": "1000Gi", "pods": "1000000"});
        self.create::<Node>(json!({"metadata": {"name": name}})).await?;
        let status = json!({"capacity": room, "allocatable": room, "conditions": [
            {"type": "Ready", "status": "True", "reason": "KubeletReady"}]});
        let target = Target::one::<Node>("", name).subresource("status");
        let patch = Patch::Merge(json!({"status": status}));
        self.client.api.patch(&target, patch, &WriteOptions::default()).await?;
        Ok(())
    }

    pub async fn create<T: Kind>(&self, value: Value) -> anyhow::Result<()> {
        let object: T = serde_json::from_value(value)?;
        self.client.create(&object).await.map(drop).context("creating")
    }

    pub async fn scale(&self, name: &str, replicas: usize) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.client.patch::<Deployment>("default", name, patch).await?;
        Ok(())
    }

    /// A Service and a budget for each Deployment: what may be asked about each pod that changes.
    pub async fn furnish(&self, number: usize) -> anyhow::Result<()> {
        for index in 0..number {
            let name = format!("d{index}");
            let metadata = json!({"name": name, "namespace": "default"});
            self.create::<Service>(json!({"metadata": metadata,
                "spec": {"selector": {"app": name}, "ports": [{"port": 8080}]}}))
                .await?;
            self.create::<PodDisruptionBudget>(json!({"metadata": metadata,
                "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": name}}}}))
                .await?;
        }
        self.converged().await
    }

    /// Waits until every Deployment and Job is as asked, and nobody has anything left to do.
    pub async fn converged(&self) -> anyhow::Result<()> {
        self.quiet(|| self.unfinished()).await
    }

    /// Waits until this Deployment is, with no look at others, which would cost more than the change.
    pub async fn converged_one(&self, name: &str) -> anyhow::Result<()> {
        let unfinished = || {
            let view = self.cache.view();
            usize::from(
                view.get::<Deployment>("default", name).is_none_or(|one| is_unfinished(one)),
            )
        };
        self.quiet(unfinished).await
    }

    async fn quiet(&self, unfinished: impl Fn() -> usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let revision = self.store.revision();
            tokio::time::sleep(LOOK_EVERY).await;
            let is_quiet = self.driver.is_idle() && self.store.revision() == revision;
            if is_quiet && unfinished() == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} objects are not converged after {LIMIT:?}", unfinished());
            }
        }
    }

    fn unfinished(&self) -> usize {
        let view = self.cache.view();
        let deployments = view.all::<Deployment>().filter(|one| is_unfinished(one));
        let jobs = view.all::<Job>().filter(|one| {
            one.status.as_ref().is_none_or(|status| status.completion_time.is_none())
        });
        deployments.count() + jobs.count()
    }

    pub fn usage(&self) -> anyhow::Result<Usage> {
        let process = std::process::id();
        let stats = self.driver.stats();
        let by_controller: BTreeMap<_, _> =
            stats.iter().map(|one| (one.controller, one.reconciles)).collect();
        Ok(Usage {
            writes: self.store.revision(),
            reconciles: by_controller.values().sum(),
            by_controller,
            cpu_us: stats::cpu_micros(process)? as f64,
            memory_mib: stats::rss_bytes(process)? as f64 / f64::from(1 << 20),
        })
    }

    pub async fn stop(self) {
        self.tasks.shut_down(Duration::from_secs(30)).await;
    }
}

fn is_unfinished(one: &Deployment) -> bool {
    let wanted = one.spec.as_ref().and_then(|spec| spec.replicas);
    let Some(status) = &one.status else { return true };
    status.observed_generation != one.metadata.generation
        || status.available_replicas != wanted
        || status.updated_replicas != wanted
}

/// All nodes' agents: a pod that is bound runs at once, one of a Job has ended.
struct Agent {
    client: Client,
    cache: Arc<Cache>,
    dirty: DirtySet<ObjectKey>,
}

impl Agent {
    fn listen(client: Client, cache: &Arc<Cache>) -> Arc<Agent> {
        let dirty = DirtySet::default();
        let marked = dirty.clone();
        cache.listen(Box::new(move |change| {
            if let (_, Some(pod)) = change.typed::<Pod>()
                && next(pod).is_some()
            {
                marked.mark(change.key.clone());
            }
        }));
        Arc::new(Agent { client, cache: cache.clone(), dirty })
    }

    fn run(self: Arc<Self>, tasks: &Tasks) {
        for _ in 0..AGENT_WORKERS {
            let agent = self.clone();
            tasks.spawn("agent", async move {
                loop {
                    let key = agent.dirty.take().await;
                    let pod = agent.cache.view().get_key::<Pod>(&key).cloned();
                    if let Some(status) = pod.as_ref().and_then(|pod| next(pod)) {
                        let target = Target::one::<Pod>(&key.namespace, &key.name);
                        let (target, options) = (target.subresource("status"), Default::default());
                        let patch = Patch::Strategic(json!({"status": status}));
                        if agent.client.api.patch(&target, patch, &options).await.is_err() {
                            agent.dirty.mark_after(key.clone(), Duration::from_millis(100));
                        }
                    }
                    agent.dirty.done(&key);
                }
            });
        }
    }
}

/// The status that an agent would write.
fn next(pod: &Pod) -> Option<Value> {
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if spec.node_name.is_none() || !matches!(phase, "" | "Pending") {
        return None;
    }
    let ends = spec.restart_policy.as_deref() == Some("Never");
    let (phase, ready) = if ends { ("Succeeded", "False") } else { ("Running", "True") };
    Some(json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}))
}
