//! One simulated cluster: what is in it, how time passes in it, and how its control plane is started,
//! crashed and started again. Nothing is looked at again by period here, so that a lost wake-up is
//! seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use wasmfleet::api::Kind;
use wasmfleet::api::registry::Registry;
use wasmfleet::apiserver::{self, ApiServer, Parts, User};
use wasmfleet::base::ids::Ids;
use wasmfleet::base::{SharedClock, Tasks};
use wasmfleet::client::cache::{Cache, View};
use wasmfleet::client::election::{self, Election, Fenced, Gate, Timing};
use wasmfleet::client::recorder::Recorder;
use wasmfleet::client::{Client, DeleteOptions, Patch, Propagation, SharedApi};
use wasmfleet::controllers::{self, Driver, Stats, driver::DriverOptions};
use wasmfleet::scheduler::{self, Scheduler};
use wasmfleet::store::memory::{self, MemoryStore};

use super::clock::JumpingClock;
use super::fakes::Fakes;
use super::faulty::{Faults, FaultyApi};
use super::pausable::{Pausable, Pause};
use super::truth::terms::Terms;
use super::truth::{self, Truth};

/// Virtual time in which everything must come to rest.
pub const MOST_REST: Duration = Duration::from_secs(900);
/// What would heal a lost wake-up happens after this time only.
pub const NEVER: Duration = Duration::from_secs(100 * 3600);
/// After it came to rest a cluster is given some time to finish what nobody sees, such as counting
/// events, and is then watched for a while.
const CALM_DOWN: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_secs(180);
/// Reconciles of one controller in that time. Nodes are looked at twice a minute.
const MOST_QUIET_RECONCILES: u64 = 60;
/// Schedulers that were started, each of which has a name of its own.
static STARTED: AtomicU64 = AtomicU64::new(0);
pub const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A cluster without programs, in one thread.
pub struct World {
    pub api: SharedApi,
    pub faulty: SharedApi,
    pub faults: Arc<Faults>,
    pub store: Arc<MemoryStore>,
    pub jumping: Arc<JumpingClock>,
    pub clock: SharedClock,
    pub client: Client,
    pub fakes: Arc<Fakes>,
    pub truth: Arc<Truth>,
    pub tasks: Tasks,
    /// Leases decide who leads, of two processes.
    pub elects: bool,
    pub terms: Arc<Terms>,
    control: Option<Control>,
    second: Option<Control>,
    pub random: StdRng,
}

/// Controllers and scheduler, as one process has them.
struct Control {
    tasks: Tasks,
    driver: Driver,
    contender: Option<Contender>,
}

/// The part of a process that not always leads.
struct Contender {
    api: Pausable,
    gate: Gate,
}

impl World {
    pub async fn new(seed: u64, calm: bool, nodes: usize) -> World {
        let start = "2026-01-01T00:00:00Z".parse().unwrap();
        let jumping = Arc::new(JumpingClock::new(start));
        let clock: SharedClock = jumping.clone();
        let options = memory::Options { faults: store_faults(false), seed, ..Default::default() };
        let store = Arc::new(MemoryStore::new(options));
        let server = ApiServer::new(Parts {
            store: store.clone(),
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
        let truth = Truth::start(api.clone(), clock.clone(), calm, &tasks);
        let fakes = Fakes::start(api.clone(), &truth.cache, clock.clone(), seed, &tasks);
        truth.cache.wait_synced().await;
        for index in 0..nodes {
            fakes.add_node(&format!("n{index}"), &tasks).await;
        }
        let terms = Terms::start(&truth);
        let client = Client::new(api.clone(), "user");
        let random = StdRng::seed_from_u64(seed ^ 0x5eed);
        World {
            api,
            faulty,
            faults,
            store,
            jumping,
            clock,
            client,
            fakes,
            truth,
            tasks,
            elects: false,
            terms,
            control: None,
            second: None,
            random,
        }
    }

    /// Starts controllers and scheduler, as after a start of the process.
    pub fn start_control(&mut self) {
        self.control = Some(Control::start(self, "a"));
    }

    /// Starts a second process, which leads when the first one does not.
    pub fn start_second(&mut self) {
        if self.second.is_none() {
            self.second = Some(Control::start(self, "b"));
        }
    }

    pub async fn stop_second(&mut self) {
        if let Some(control) = self.second.take() {
            control.stop().await;
        }
    }

    /// Pauses the process whose controllers lead at this moment, if one does.
    pub fn pause_leader(&self, pause: Pause) {
        let contenders = self.contenders();
        if let Some(leader) = contenders.iter().find(|one| one.gate.term().is_some()) {
            leader.api.set(pause);
        }
    }

    pub fn resume(&self) {
        self.contenders().iter().for_each(|one| one.api.set(Pause::Runs));
    }

    fn contenders(&self) -> Vec<&Contender> {
        let processes = [&self.control, &self.second].into_iter().flatten();
        processes.filter_map(|control| control.contender.as_ref()).collect()
    }

    pub async fn stop_control(&mut self) {
        if let Some(control) = self.control.take() {
            control.stop().await;
        }
    }

    /// How the controllers fare.
    pub fn stats(&self) -> Vec<Stats> {
        self.control.as_ref().map(|control| control.driver.stats()).unwrap_or_default()
    }

    /// A crash between any two writes.
    pub async fn restart_control(&mut self) {
        self.stop_control().await;
        self.faults.revive();
        self.start_control();
    }

    /// Faults of the API and of the store, or none.
    pub fn set_faults(&self, on: bool) {
        self.faults.set(on);
        self.store.set_faults(store_faults(on));
    }

    /// Lets time pass; a control plane that crashes meanwhile is started again.
    pub async fn pass(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        loop {
            let crashed = self.faults.clone();
            let crash = crashed.crashed();
            tokio::select! {
                biased;
                () = crash => self.restart_control().await,
                () = tokio::time::sleep_until(end) => return,
            }
        }
    }

    pub async fn sleep(&mut self, most: Duration) {
        let wait = self.random.random_range(Duration::ZERO..most);
        tokio::time::sleep(wait).await;
    }

    /// Waits until everything is as asked.
    pub async fn rest(&self) {
        self.until(truth::unfinished).await;
    }

    /// Waits until nothing is left that `unfinished` tells of, sees that all bounds were kept.
    pub async fn until(&self, unfinished: impl Fn(&View) -> Option<String>) {
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
    pub async fn stays_quiet(&self) {
        assert_eq!(self.unrest().await, None);
    }

    /// What a cluster at rest does, though it should do nothing.
    pub async fn unrest(&self) -> Option<String> {
        let driver = &self.control.as_ref()?.driver;
        tokio::time::sleep(CALM_DOWN).await;
        let (before, writes) = (driver.stats(), self.faults.writes());
        tokio::time::sleep(QUIET).await;
        for (before, after) in before.iter().zip(driver.stats()) {
            let failed = (after.failures, after.conflicts);
            let reconciles = after.reconciles - before.reconciles;
            if (before.failures, before.conflicts) != failed || reconciles > MOST_QUIET_RECONCILES {
                return Some(format!("not quiet at rest: {before:?}, then {after:?}"));
            }
        }
        let writes = self.faults.writes() - writes;
        (writes > 0).then(|| format!("{writes} writes at rest: {:?}", self.faults.last_writes()))
    }

    pub async fn create<T: Kind>(&self, value: Value) {
        let object: T = serde_json::from_value(value).expect("the test's object is one");
        self.client.create(&object).await.expect("the object is created");
    }

    pub async fn patch<T: Kind>(&self, name: &str, patch: Value) {
        self.client.patch::<T>("default", name, Patch::Merge(patch)).await.expect("it is patched");
    }

    pub async fn delete<T: Kind>(&self, name: &str, propagation: Propagation) {
        let options =
            DeleteOptions { propagation_policy: Some(propagation), ..DeleteOptions::default() };
        self.client.delete::<T>("default", name, &options).await.expect("it is deleted");
    }

    pub async fn end(self) {
        self.stays_quiet().await;
        self.close().await;
    }

    pub async fn close(mut self) {
        self.stop_second().await;
        self.stop_control().await;
        assert!(self.tasks.shut_down(STOP_LIMIT).await.is_empty());
    }
}

impl Control {
    fn start(world: &World, identity: &str) -> Control {
        let (tasks, cache) = (Tasks::default(), Cache::new());
        let pausable = world.elects.then(|| Pausable::new(world.api.clone(), world.terms.clone()));
        let api: SharedApi = match &pausable {
            None => world.faulty.clone(),
            Some(pausable) => {
                let inner: SharedApi = Arc::new(pausable.clone());
                Arc::new(FaultyApi { inner, faults: world.faults.clone() })
            }
        };
        let elect = |name: &str| {
            let tell = Arc::new(|_| {});
            let (api, identity, clock) = (api.clone(), identity.to_string(), world.clock.clone());
            let election =
                Election::new(api, (name, "sim"), identity, Timing::default(), clock, tell);
            let gate = election.gate();
            // A process that stops crashes, and gives no lease back.
            let stop = world.tasks.stop();
            tasks.spawn("election", election.run(Duration::ZERO, stop));
            gate
        };
        let gates =
            pausable.as_ref().map(|_| (elect(election::CONTROLLERS), elect(election::SCHEDULER)));
        let options = controllers::Options {
            ca_certificates: "the CA".into(),
            ..controllers::Options::default()
        };
        let recorder = Recorder::new(api.clone(), "sim", world.clock.clone());
        recorder.run(&tasks);
        let driver = Driver::new(
            api.clone(),
            cache.clone(),
            world.clock.clone(),
            recorder,
            controllers::all(&options),
            DriverOptions { resync: NEVER },
        );
        let recorder = Recorder::new(api.clone(), "sim-scheduler", world.clock.clone());
        recorder.run(&tasks);
        let fenced =
            gates.as_ref().map(|(_, gate)| Arc::new(Fenced::new(api.clone(), gate.clone())));
        let scheduler_api: SharedApi = match &fenced {
            Some(fenced) => fenced.clone(),
            None => api.clone(),
        };
        let scheduler = Scheduler::new(
            Client::new(scheduler_api, "scheduler"),
            &cache,
            world.clock.clone(),
            Arc::new(move |_, notice| recorder.record(notice)),
            scheduler::Options {
                retry_anyway: NEVER,
                id: format!("scheduler-{}", STARTED.fetch_add(1, Ordering::Relaxed)),
                ..scheduler::Options::default()
            },
        );
        controllers::keep(&cache, &api, &tasks);
        match &gates {
            Some((gate, _)) => driver.run_led(gate.clone(), &tasks),
            None => driver.run(&tasks),
        }
        tasks.spawn("scheduler", async move {
            cache.wait_synced().await;
            match fenced {
                Some(fenced) => scheduler.run_after(|| fenced.enter(&cache)).await,
                None => scheduler.run().await,
            }
        });
        let contender = pausable.zip(gates).map(|(api, (gate, _))| Contender { api, gate });
        Control { tasks, driver, contender }
    }

    async fn stop(self) {
        // What is on its way arrives.
        self.contender.iter().for_each(|one| one.api.set(Pause::Runs));
        let panics: u64 = self.driver.stats().iter().map(|one| one.panics).sum();
        assert_eq!(panics, 0, "a controller panicked");
        assert!(self.tasks.shut_down(STOP_LIMIT).await.is_empty());
    }
}

/// What the store does while faults are on: it invents conflicts, is overloaded, ends watches and
/// is late. Always it lets others go first now and then.
fn store_faults(on: bool) -> memory::Faults {
    let calm = memory::Faults { commit_yields: 3, ..memory::Faults::default() };
    if !on {
        return calm;
    }
    memory::Faults { conflict: 0.01, overloaded: 0.01, end_watch: 0.002, late_polls: 3, ..calm }
}
