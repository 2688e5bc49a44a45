//! The seeded simulation: the real API server over a memory store, the real controllers over an API
//! that misbehaves, fake agents, and virtual time. Invariants are checked on every change; when the
//! faults stop, everything must come to rest as asked.
//!
//! `WASMFLEET_SIM_SEEDS=200` runs more seeds than the default, `WASMFLEET_SIM_SEED=7` one of them.

mod fakes;
mod faulty;
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
use wasmfleet::client::cache::Cache;
use wasmfleet::client::recorder::Recorder;
use wasmfleet::client::{
    Client, DeleteOptions, ListOptions, Patch, Propagation, SharedApi, Target,
};
use wasmfleet::controllers::{self, Driver, driver::DriverOptions};
use wasmfleet::store::memory::{self, MemoryStore};

use fakes::Fakes;
use faulty::{Faults, FaultyApi};
use truth::Truth;

const DEFAULT_SEEDS: u64 = 10;
/// Virtual time in which everything must come to rest.
const MOST_REST: Duration = Duration::from_secs(900);
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
        let truth = Truth::start(api.clone(), calm, &tasks);
        truth.cache.wait_synced().await;
        for index in 0..nodes {
            fakes.add_node(&format!("n{index}"), &tasks).await;
        }
        let client = Client::new(api.clone(), "user");
        let random = StdRng::seed_from_u64(seed ^ 0x5eed);
        let control = None;
        World { api, faulty, faults, clock, client, fakes, truth, tasks, control, random }
    }

    /// Starts the controllers, as after a start of the process.
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
            DriverOptions::default(),
        );
        controllers::keep(&cache, &self.faulty, &tasks);
        driver.run(&tasks);
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
        let deadline = tokio::time::Instant::now() + MOST_REST;
        loop {
            let why = truth::unfinished(&self.truth.cache.view());
            let Some(why) = why else { break };
            assert!(tokio::time::Instant::now() < deadline, "no rest: {why}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(self.truth.violations(), Vec::<String>::new());
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

/// Rollouts under a faulty API, with nothing else going wrong: never above maxSurge, never below
/// minAvailable, whatever the controllers see late, twice or not at all.
#[test]
fn rollouts_keep_their_bounds() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, true, 3).await;
        world.start_control();
        let replicas = world.random.random_range(1..6);
        let surge = world.random.random_range(0..3);
        let unavailable = i32::from(surge == 0).max(world.random.random_range(0..2));
        world.create::<Deployment>(deployment("web", replicas, surge, unavailable)).await;
        world.create::<Service>(service("web")).await;
        world.rest().await;
        world.faults.set(true);
        for version in 2..5 {
            world.patch::<Deployment>("web", image(version)).await;
            // Often the next version comes before the last one is there.
            world.sleep(Duration::from_secs(20)).await;
            if world.random.random_bool(0.5) {
                world.restart_control().await;
            }
        }
        world.sleep(Duration::from_secs(60)).await;
        // An older template again is a rollback.
        world.patch::<Deployment>("web", image(2)).await;
        world.sleep(Duration::from_secs(60)).await;
        world.faults.set(false);
        world.rest().await;
        let web = world.client.get::<Deployment>("default", "web").await.unwrap();
        let revision =
            web.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"].clone();
        assert!(revision.parse::<u32>().unwrap() >= 3, "revision {revision}");
        world.end().await;
    });
}

/// Everything at once: pods fail and are deleted, nodes die and come back, Deployments are scaled,
/// paused and changed, the controllers are restarted between any two writes.
#[test]
fn chaos_comes_to_rest() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 4).await;
        world.start_control();
        for (name, replicas) in [("a", 3), ("b", 5)] {
            world.create::<Deployment>(deployment(name, replicas, 1, 1)).await;
            world.create::<Service>(service(name)).await;
        }
        world.sleep(Duration::from_secs(10)).await;
        world.faults.set(true);
        for step in 0..25 {
            chaos(&mut world, step).await;
            world.sleep(Duration::from_secs(15)).await;
        }
        for node in world.fakes.names() {
            world.fakes.set_alive(&node, true);
        }
        world.fakes.heal();
        for name in ["a", "b"] {
            world.patch::<Deployment>(name, json!({"spec": {"paused": false}})).await;
        }
        world.faults.set(false);
        world.rest().await;
        world.end().await;
    });
}

async fn chaos(world: &mut World, step: u32) {
    let name = if world.random.random_bool(0.5) { "a" } else { "b" };
    let pods: Vec<ObjectKey> = {
        let view = world.truth.cache.view();
        let pods = view.in_namespace::<Pod>("default").filter(|pod| truth::is_active(pod));
        pods.map(|pod| ObjectKey::of(&pod.metadata)).collect()
    };
    let index = world.random.random_range(0..pods.len().max(1));
    let pod = pods.get(index);
    let nodes = world.fakes.names();
    let node = nodes[world.random.random_range(0..nodes.len())].clone();
    match world.random.random_range(0..10) {
        0 | 1 => world.patch::<Deployment>(name, image(step + 2)).await,
        2 => {
            let replicas = world.random.random_range(0..7);
            world.patch::<Deployment>(name, json!({"spec": {"replicas": replicas}})).await;
        }
        3 => {
            let paused = world.random.random_bool(0.5);
            world.patch::<Deployment>(name, json!({"spec": {"paused": paused}})).await;
        }
        4 => world.fakes.set_alive(&node, false),
        5 => world.fakes.set_alive(&node, true),
        6 => world.restart_control().await,
        7 => {
            if let Some(pod) = pod {
                world.fakes.make_sick(pod);
            }
        }
        8 => {
            if let Some(pod) = pod {
                // It may be gone meanwhile.
                let _ = world.client.delete::<Pod>("default", &pod.name, &Default::default()).await;
            }
        }
        _ => {
            if let Some(pod) = pod {
                let patch = Patch::Merge(json!({"status": {"phase": "Failed"}}));
                let target = Target::one::<Pod>("default", &pod.name).subresource("status");
                let _ = world.api.patch(&target, patch, &Default::default()).await;
            }
        }
    }
}

/// Most nodes vanish at once: nobody is evicted; one node vanishes: its pods are replaced.
#[test]
fn evictions_stop_when_most_nodes_vanish() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 5).await;
        world.start_control();
        world.create::<Deployment>(deployment("web", 10, 1, 1)).await;
        world.rest().await;
        for node in ["n0", "n1", "n2"] {
            world.fakes.set_alive(node, false);
        }
        tokio::time::sleep(Duration::from_secs(1200)).await;
        let deleting = |world: &World| {
            let view = world.truth.cache.view();
            view.all::<Pod>().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count()
        };
        assert_eq!(deleting(&world), 0, "nobody is evicted while 60 % of the nodes are lost");
        world.fakes.set_alive("n0", true);
        world.fakes.set_alive("n1", true);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let on_lost = {
            let view = world.truth.cache.view();
            let mut pods = view.all::<Pod>().filter(|pod| truth::is_active(pod));
            pods.any(|p| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some("n2"))
        };
        assert!(!on_lost, "the pods of the one lost node are replaced");
        // The machine is gone for good: its pods are not waited for.
        world.client.delete::<Node>("", "n2", &DeleteOptions::default()).await.unwrap();
        world.rest().await;
        world.end().await;
    });
}

/// Owners and namespaces go with all that is theirs, and with nothing that is not.
#[test]
fn deletions_take_what_is_theirs() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 2).await;
        world.start_control();
        for name in ["background", "foreground", "orphan", "stays"] {
            world.create::<Deployment>(deployment(name, 2, 1, 0)).await;
        }
        let namespace = json!({"metadata": {"name": "team"}});
        world.create::<Namespace>(namespace).await;
        world.rest().await;
        let mut in_team = deployment("web", 2, 1, 0);
        in_team["metadata"]["namespace"] = "team".into();
        world.create::<Deployment>(in_team).await;
        world.rest().await;
        let account = world.client.get::<ServiceAccount>("team", "default").await;
        assert!(account.is_ok(), "{account:?}");
        let ca = world.client.get::<ConfigMap>("team", "kube-root-ca.crt").await.unwrap();
        assert_eq!(ca.data.unwrap()["ca.crt"], "the CA");
        world.faults.set(true);
        world.delete::<Deployment>("background", Propagation::Background).await;
        world.delete::<Deployment>("foreground", Propagation::Foreground).await;
        world.delete::<Deployment>("orphan", Propagation::Orphan).await;
        world.client.delete::<Namespace>("", "team", &Default::default()).await.unwrap();
        world.sleep(Duration::from_secs(30)).await;
        world.restart_control().await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        world.faults.set(false);
        tokio::time::sleep(Duration::from_secs(120)).await;
        let all = ListOptions::default();
        let deployments = world.client.list::<Deployment>(None, &all).await.unwrap();
        assert_eq!(names(&deployments), ["stays"]);
        let sets = world.client.list::<ReplicaSet>(None, &all).await.unwrap();
        let left: Vec<String> = names(&sets).iter().map(|name| before_hash(name)).collect();
        assert_eq!(left, ["orphan", "stays"]);
        let orphan = sets.iter().find(|set| before_hash(name_of(*set)) == "orphan").unwrap();
        assert!(orphan.metadata.owner_references.as_ref().is_none_or(|owners| owners.is_empty()));
        let pods = world.client.list::<Pod>(None, &all).await.unwrap();
        assert_eq!(pods.len(), 4);
        let team = world.client.get::<Namespace>("", "team").await;
        assert!(team.is_err_and(|error| error.is_not_found()));
        world.end().await;
    });
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
