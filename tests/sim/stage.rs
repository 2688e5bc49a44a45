//! Plays a story in a world of its own, and tells how it came out.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use wasmfleet::api::{ApiError, Object, ObjectKey};
use wasmfleet::client::cache::View;
use wasmfleet::client::{DeleteOptions, Patch, Target, WriteOptions};
use wasmfleet::store::memory::MemoryStore;
use wasmfleet::store::{Key, Store, Watch};

use super::fakes::Link;
use super::story::{NODE, POD, Pick, Sort, Step, Story, What};
use super::truth::jobs::JobsSeen;
use super::truth::read::{is_active, is_ready, name_of, node_of};
use super::truth::rest;
use super::truth::sets::SetsSeen;
use super::world::{MOST_REST, World};

/// How often a user asks again whose request was refused for no reason of its own.
const USER_TRIES: usize = 8;
/// Virtual time in which what is expected must be so.
const MOST_EXPECTED: Duration = Duration::from_secs(120);

/// How a story came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was wrong first.
    pub failure: Option<String>,
    /// Of everything that was ever stored, in order: two runs of a story have the same.
    pub digest: u64,
    /// Commits.
    pub revision: u64,
    /// Virtual time.
    pub time: Duration,
    /// Terms of leaders, and writes that were refused because theirs was over.
    pub terms: usize,
    pub refused: u64,
}

/// Plays a story from its beginning to its end or its first failure, in this thread.
pub fn play(story: &Story) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O starts");
    let told = Told::default();
    let run = AssertUnwindSafe(|| runtime.block_on(perform(story, told.clone())));
    let failure = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        Some(text.unwrap_or_else(|| "a panic without a message".into()))
    });
    drop(runtime);
    let told = told.lock();
    Outcome {
        failure,
        digest: told.hasher.finish(),
        revision: told.revision,
        time: told.time,
        terms: told.terms,
        refused: told.refused,
    }
}

type Told = Arc<Mutex<Tale>>;

/// What is told of a story even if it breaks off.
#[derive(Default)]
struct Tale {
    /// Of everything that was ever stored.
    hasher: DefaultHasher,
    revision: u64,
    time: Duration,
    terms: usize,
    refused: u64,
}

async fn perform(story: &Story, told: Told) -> Option<String> {
    let begin = Instant::now();
    let mut world = World::new(story.seed, story.theme.is_calm, story.nodes).await;
    world.elects = story.theme.elects;
    let terms = world.terms.clone();
    let record = record(world.store.clone(), told.clone());
    world.tasks.spawn("record", record);
    let mut stage =
        Stage { sets: SetsSeen::start(&world.truth), jobs: JobsSeen::start(&world.truth), world };
    stage.world.start_control();
    let mut failure = None;
    for step in &story.steps {
        failure = stage.step(step).await;
        if failure.is_some() {
            break;
        }
    }
    if failure.is_none() {
        failure = stage.end().await;
    }
    if failure.is_none() {
        stage.world.close().await;
    }
    let mut told = told.lock();
    (told.time, told.terms, told.refused) = (begin.elapsed(), terms.count(), terms.refusals());
    failure
}

/// Takes everything in that is stored.
async fn record(store: Arc<MemoryStore>, told: Told) {
    let open = || store.watch(&Key::everything(), store.revision());
    let mut watch: Option<Watch> = open().ok();
    while let Some(open_watch) = &mut watch {
        match open_watch.next().await {
            Ok(events) => {
                let tale = &mut *told.lock();
                for event in events {
                    tale.revision = event.revision;
                    (event.revision, &event.key.0, event.value()).hash(&mut tale.hasher);
                }
            }
            // The store was made to end it.
            Err(_) => watch = open().ok(),
        }
    }
}

struct Stage {
    world: World,
    sets: Arc<SetsSeen>,
    jobs: Arc<JobsSeen>,
}

impl Stage {
    /// What was wrong until now.
    fn violation(&self) -> Option<String> {
        let mut all = self.world.truth.violations();
        all.extend(self.sets.violations());
        all.extend(self.jobs.violations());
        all.extend(self.world.terms.violations());
        all.into_iter().next()
    }

    async fn step(&mut self, step: &Step) -> Option<String> {
        self.world.pass(step.wait).await;
        let expected = self.perform(&step.what).await;
        self.violation().or(expected)
    }

    async fn perform(&mut self, what: &What) -> Option<String> {
        let world = &mut self.world;
        match what {
            What::Create(sort, value) => self.create(sort, value.clone()).await,
            What::Patch(sort, name, patch) => {
                let (target, patch) = (sort.target(Some(name)), Patch::Merge(patch.clone()));
                self.patch(&target, patch).await;
            }
            What::Delete(sort, name, propagation) => {
                let target = sort.target(Some(name));
                let options = DeleteOptions {
                    propagation_policy: Some(*propagation),
                    ..DeleteOptions::default()
                };
                self.delete(&target, &options).await;
            }
            What::Evict(pick) => self.evict(pick).await,
            What::DeletePod(pick) => {
                if let Some(pod) = self.picked(pick) {
                    let target = POD.target(Some(&pod.name));
                    self.delete(&target, &DeleteOptions::default()).await;
                }
            }
            What::FailPod(pick) => {
                if let Some(pod) = self.picked(pick) {
                    let target = POD.target(Some(&pod.name)).subresource("status");
                    let patch = Patch::Merge(json!({"status": {"phase": "Failed"}}));
                    self.patch(&target, patch).await;
                }
            }
            What::Sicken(pick) => {
                if let Some(pod) = self.picked(pick) {
                    self.world.fakes.make_sick(&pod);
                }
            }
            What::Link(node, link) => world.fakes.set(&format!("n{node}"), *link),
            What::AddNode(name) => {
                let added = world.fakes.try_add_node(name, &world.tasks).await;
                // Who may not register now tries again; here somebody else did.
                added.ok();
            }
            What::DeleteNode(node) => {
                let target = NODE.target(Some(&format!("n{node}")));
                self.delete(&target, &DeleteOptions::default()).await;
            }
            What::Faults(on) => world.set_faults(*on),
            What::Crash => world.restart_control().await,
            What::CrashEvery(writes) => world.faults.crash_every(*writes),
            What::Outage(time) => world.faults.fail_for(*time),
            What::Compact => {
                let revision = world.store.revision();
                world.store.compact(revision).await.expect("the store is open");
            }
            What::EndWatches => world.store.end_watches(),
            What::Jump(seconds) => world.jumping.jump(*seconds),
            What::SecondLeader(true) => world.start_second(),
            What::SecondLeader(false) => world.stop_second().await,
            What::Pause(pause) => world.pause_leader(*pause),
            What::Resume => world.resume(),
            What::Rest => {
                world.set_faults(false);
                return self.rest().await;
            }
            What::Bounds(bounds) => *self.sets.bounds.lock() = *bounds,
            What::LeastDaemons(least) => *self.sets.least_daemons.lock() = *least,
            What::ExpectServing => return self.expect(unserved).await,
            What::ExpectNobodyLeaves => return leaving(&self.world.truth.cache.view()),
            What::ExpectEndpoints => return self.expect(misled).await,
        }
        None
    }

    /// Ends all faults, and sees everything come to rest.
    async fn end(&mut self) -> Option<String> {
        let world = &mut self.world;
        world.faults.crash_every(0);
        world.set_faults(false);
        world.resume();
        world.stop_second().await;
        for node in world.fakes.names() {
            world.fakes.set(&node, Link::Up);
        }
        world.fakes.heal();
        for node in world.fakes.names() {
            let open = Patch::Merge(json!({"spec": {"unschedulable": null}}));
            self.patch(&NODE.target(Some(&node)), open).await;
        }
        if let Some(why) = self.rest().await {
            return Some(why);
        }
        let unrest = self.world.unrest().await;
        self.violation().or(unrest)
    }

    async fn rest(&mut self) -> Option<String> {
        let unrested = self.wait_for(rest::unsettled, MOST_REST).await;
        unrested.map(|why| format!("no rest: {why}"))
    }

    async fn expect(&mut self, lack: impl Fn(&View) -> Option<String>) -> Option<String> {
        let lacked = self.wait_for(lack, MOST_EXPECTED).await;
        lacked.map(|why| format!("expected otherwise: {why}"))
    }

    /// Waits until nothing lacks; answers with what does after the longest time, or with what was
    /// violated.
    async fn wait_for(
        &mut self,
        lack: impl Fn(&View) -> Option<String>,
        most: Duration,
    ) -> Option<String> {
        let deadline = Instant::now() + most;
        loop {
            // At first too: what was asked for just now must be seen.
            self.world.pass(Duration::from_secs(1)).await;
            if let Some(violation) = self.violation() {
                return Some(violation);
            }
            let lacks = lack(&self.world.truth.cache.view())?;
            if Instant::now() >= deadline {
                return Some(lacks);
            }
        }
    }

    fn picked(&self, pick: &Pick) -> Option<ObjectKey> {
        let view = self.world.truth.cache.view();
        let of_app = |pod: &&Arc<Pod>| {
            let app = pod.metadata.labels.as_ref().and_then(|labels| labels.get("app"));
            app.is_some_and(|app| app == pick.app) && is_active(pod)
        };
        let pods = view.in_namespace::<Pod>("default").filter(of_app);
        let mut keys: Vec<ObjectKey> = pods.map(|pod| ObjectKey::of(&pod.metadata)).collect();
        keys.sort();
        (!keys.is_empty()).then(|| keys[pick.turn % keys.len()].clone())
    }

    async fn create(&self, sort: &Sort, mut value: Value) {
        value["apiVersion"] = sort.api_version.into();
        value["kind"] = sort.kind.into();
        let target = sort.target(None);
        let object = Object::from_value(value).expect("the story's object is one");
        let (api, options) = (&self.world.api, WriteOptions::default());
        insist(|| api.create(&target, object.clone(), &options)).await;
    }

    async fn patch(&self, target: &Target, patch: Patch) {
        let (api, options) = (&self.world.api, WriteOptions::default());
        insist(|| api.patch(target, patch.clone(), &options)).await;
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) {
        let api = &self.world.api;
        insist(|| api.delete(target, options)).await;
    }

    /// One try: who drains asks again later.
    async fn evict(&self, pick: &Pick) {
        let Some(pod) = self.picked(pick) else { return };
        let target = POD.target(Some(&pod.name)).subresource("eviction");
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace}});
        let eviction = Object::from_value(eviction).expect("an eviction is an object");
        let _ = self.world.api.create(&target, eviction, &Default::default()).await;
    }
}

/// A user asks again where the refusal is none of their request's; what is refused for good (an
/// object that is gone meanwhile, a name that is taken) is left.
async fn insist<T, F: Future<Output = Result<T, ApiError>>>(call: impl Fn() -> F) {
    for _ in 0..USER_TRIES {
        match call().await {
            Err(error) if error.code >= 429 || error.is_conflict() || error.is_already_exists() => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            _ => return,
        }
    }
}

/// A Deployment that lacks ready pods.
fn unserved(view: &View) -> Option<String> {
    view.all::<Deployment>().find_map(|deployment| {
        let key = ObjectKey::of(&deployment.metadata);
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let pods = super::truth::read::pods_of(view, &key);
        let ready = pods.iter().filter(|pod| is_active(pod) && is_ready(pod)).count() as i32;
        (ready < wanted).then(|| format!("{ready} pods of {key} serve, not {wanted}"))
    })
}

fn leaving(view: &View) -> Option<String> {
    let mut pods = view.all::<Pod>();
    let leaving = pods.find(|pod| pod.metadata.deletion_timestamp.is_some())?;
    Some(format!("{} on {} is on its way out", name_of(&**leaving), node_of(leaving)))
}

/// A Service with others than its ready pods behind it.
fn misled(view: &View) -> Option<String> {
    view.all::<Service>().find_map(|service| rest::unfinished_service(service, view))
}
