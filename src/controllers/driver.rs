//! The only loop: wakes controllers by the cache's changes (and by a slow periodic pass, so that a
//! lost signal costs only time), asks what no cache keeps, lets the pure `decide` (`reconcile`, for
//! most) plan on a view, performs the plan, and backs off by key where it failed.
//!
//! ```text
//!   cache change ─▶ keys() ─▶ dirty set ─▶ worker: barrier, asks() ─▶ decide(view) ─▶ perform ─▶ settle
//!                                 ▲                                                  │
//!                                 └──── back-off on failure, again_after ◀───────────┘
//! ```
//!
//! One key of a controller is worked on by one worker at a time, and written about no more often
//! than its pace allows. It knows no kinds.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::ask::{self, Answer};
use super::barrier::{Barrier, Check, PATIENCE};
use super::executor::{Budget, Done, Executor, Writer};
use super::meter::{Meter, Stats};
use super::pace::{Pace, Prints, Word};
use super::staleness::is_stale;
use super::{Action, Controller, Outcome, Plan, Write, namespace};
use crate::api::resource::Gvr;
use crate::api::{ApiError, ObjectKey};
use crate::base::backoff::{Backoff, Limits as Waits};
use crate::base::dirty_set::DirtySet;
use crate::base::{SharedClock, Tasks};
use crate::client::cache::{AnyObject, Cache, Changed, View};
use crate::client::election::{Fence, Gate};
use crate::client::event::Notice;
use crate::client::recorder::Recorder;
use crate::client::{ListOptions, SharedApi, Target};

/// The waits after a failure, by key.
const FAILURE_WAITS: Waits =
    Waits { first: Duration::from_millis(5), most: Duration::from_secs(60) };
/// The waits after a conflict: the cache is a little behind, and its next event wakes the key too.
const CONFLICT_WAITS: Waits =
    Waits { first: Duration::from_millis(5), most: Duration::from_secs(1) };

/// The longest wait that a plan may ask for: times that users write may be further away than clocks
/// count, and to look once a day costs nothing.
const MOST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// The shortest one: a controller that asks for none would never stop.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// The term in which a plan is made, where leaders take turns.
type Term = Option<Arc<Fence>>;

/// How the driver behaves.
#[derive(Clone, Copy, Debug)]
pub struct DriverOptions {
    /// Every object is looked at again this often.
    pub resync: Duration,
}

impl Default for DriverOptions {
    fn default() -> DriverOptions {
        DriverOptions { resync: Duration::from_secs(600) }
    }
}

/// Runs controllers over one cache.
pub struct Driver {
    shared: Arc<Shared>,
}

struct Shared {
    cache: Arc<Cache>,
    clock: SharedClock,
    executor: Executor,
    recorder: Recorder,
    loops: Vec<Loop>,
    options: DriverOptions,
    /// Where leaders take turns.
    gate: OnceLock<Gate>,
}

/// One controller with its keys.
struct Loop {
    controller: Arc<dyn Controller>,
    /// What its keys name.
    subject: Option<Gvr>,
    dirty: DirtySet<ObjectKey>,
    barrier: Barrier,
    failures: Mutex<Backoff<ObjectKey>>,
    conflicts: Mutex<Backoff<ObjectKey>>,
    budget: Option<Budget>,
    pace: Pace,
    meter: Arc<Meter>,
}

impl Driver {
    /// Listens to the cache from now on; nothing is reconciled before [`Driver::run`].
    pub fn new(
        api: SharedApi,
        cache: Arc<Cache>,
        clock: SharedClock,
        recorder: Recorder,
        controllers: Vec<Arc<dyn Controller>>,
        options: DriverOptions,
    ) -> Driver {
        let mut meters: HashMap<&'static str, Arc<Meter>> = HashMap::new();
        let loops = controllers.into_iter().map(|controller| {
            let meter = meters.entry(controller.name()).or_default().clone();
            Loop::new(controller, meter)
        });
        let loops = loops.collect();
        let executor = Executor::new(api);
        let gate = OnceLock::new();
        let shared = Arc::new(Shared { cache, clock, executor, recorder, loops, options, gate });
        let weak = Arc::downgrade(&shared);
        shared.cache.listen(Box::new(move |change| {
            if let Some(shared) = weak.upgrade() {
                shared.mark(change, &shared.cache.view());
            }
        }));
        let weak = Arc::downgrade(&shared);
        shared.cache.listen_progress(Box::new(move |_| {
            if let Some(shared) = weak.upgrade() {
                shared.release();
            }
        }));
        Driver { shared }
    }

    /// [`Driver::run`], but only while the gate is open: each plan is made and performed in one
    /// term, and what is left of it when the term ends is refused.
    pub fn run_led(&self, gate: Gate, tasks: &Tasks) {
        // Whoever runs it a second time has the first one's gate.
        let _ = self.shared.gate.set(gate);
        self.run(tasks);
    }

    /// Runs until the tasks stop; returns at once. The cache must be kept by someone.
    pub fn run(&self, tasks: &Tasks) {
        for index in 0..self.shared.loops.len() {
            for _ in 0..self.shared.loops[index].controller.limits().workers.max(1) {
                let shared = self.shared.clone();
                tasks.spawn("controller", async move {
                    shared.cache.wait_synced().await;
                    shared.work(&shared.loops[index]).await;
                });
            }
        }
        let shared = self.shared.clone();
        tasks.spawn("resync", async move { shared.resync().await });
    }

    /// By the controllers' names; loops of one name are one.
    pub fn stats(&self) -> Vec<Stats> {
        let mut all: Vec<Stats> = Vec::new();
        for one in &self.shared.loops {
            let name = one.controller.name();
            let known = all.iter().position(|stats| stats.controller == name);
            let known = known.unwrap_or_else(|| {
                all.push(one.meter.stats(name));
                all.len() - 1
            });
            let stats = &mut all[known];
            stats.waiting += one.dirty.len();
            stats.later += one.dirty.later();
            stats.adds += one.dirty.adds();
        }
        all
    }

    /// Nothing waits and nothing is worked on; keys may be planned for later.
    pub fn is_idle(&self) -> bool {
        self.shared.loops.iter().all(|one| one.dirty.is_idle())
    }
}

impl Loop {
    fn new(controller: Arc<dyn Controller>, meter: Arc<Meter>) -> Loop {
        let budget = controller.limits().deletions_per_minute;
        Loop {
            dirty: DirtySet::default(),
            barrier: Barrier::default(),
            failures: Mutex::new(Backoff::new(FAILURE_WAITS)),
            conflicts: Mutex::new(Backoff::new(CONFLICT_WAITS)),
            budget: budget.map(|most| Budget::new(most, Instant::now())),
            pace: Pace::default(),
            meter,
            subject: controller.reads().into_iter().next(),
            controller,
        }
    }

    /// Runs a pure function; a panic in it costs this key one try.
    fn guarded<T>(&self, key: &ObjectKey, decide: impl FnOnce() -> T) -> Result<T, ApiError> {
        std::panic::catch_unwind(AssertUnwindSafe(decide)).map_err(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            self.meter.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(controller = self.controller.name(), %key, text, "panicked");
            ApiError::internal(format!("{} panicked: {text}", self.controller.name()))
        })
    }

    /// Brings a key back after a failure, soon if its view was stale.
    fn fail(&self, key: &ObjectKey, error: &ApiError, stale: bool, clock: &SharedClock) {
        let (waits, count) = if stale {
            (&self.conflicts, &self.meter.conflicts)
        } else {
            (&self.failures, &self.meter.failures)
        };
        count.fetch_add(1, Ordering::Relaxed);
        let now = clock.now();
        if !stale {
            self.meter.error(key, error, now);
        }
        let mut wait = waits.lock().next(key, now);
        if let Some(seconds) = error.retry_after_seconds() {
            wait = wait.max(Duration::from_secs(seconds.into())).min(FAILURE_WAITS.most);
        }
        let controller = self.controller.name();
        if stale || namespace::is_refusal_of_ending(error) {
            tracing::debug!(controller, %key, %error, ?wait, "again");
        } else {
            tracing::warn!(controller, %key, %error, ?wait, "failed; again after a wait");
        }
        self.dirty.mark_after(key.clone(), wait);
    }

    fn succeed(&self, key: &ObjectKey) {
        self.failures.lock().forget(key);
        self.conflicts.lock().forget(key);
    }
}

/// What is told where somebody undoes a write each time.
fn repeats(controller: &str, subject: &dyn AnyObject, write: &Write) -> Notice {
    let message = format!(
        "{controller} does the same again and again ({write}), and something undoes it each time: \
         another controller or client wants it otherwise. It is done less and less often"
    );
    Notice::warning(subject, "RepeatedWrites", message)
}

impl Shared {
    fn mark(&self, change: &Changed, view: &View) {
        for one in &self.loops {
            let find = AssertUnwindSafe(|| one.controller.keys(change, view));
            match std::panic::catch_unwind(find) {
                Ok(keys) => keys.into_iter().for_each(|key| one.dirty.mark(key)),
                Err(_) => {
                    one.meter.panics.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(controller = one.controller.name(), key = %change.key,
                        "panicked over a change; the periodic pass will look again");
                }
            }
        }
    }

    fn release(&self) {
        for one in &self.loops {
            for key in one.barrier.released(|| self.cache.view()) {
                one.dirty.mark(key);
            }
        }
    }

    /// Looks at every object: at first, and then slowly again.
    async fn resync(&self) {
        self.cache.wait_synced().await;
        loop {
            for one in &self.loops {
                self.mark_all(one);
            }
            tokio::time::sleep(self.options.resync).await;
            let now = self.clock.now();
            for one in &self.loops {
                one.failures.lock().sweep(now);
                one.conflicts.lock().sweep(now);
                one.pace.sweep(Instant::now());
            }
        }
    }

    fn mark_all(&self, one: &Loop) {
        let view = self.cache.view();
        for resource in one.controller.reads() {
            for key in view.keys(&resource) {
                let new = view.peek(&resource, &key);
                let change = Changed { resource: resource.clone(), key, old: None, new };
                for key in one.controller.keys(&change, &view) {
                    one.dirty.mark(key);
                }
            }
        }
    }

    /// One worker of one controller.
    async fn work(&self, one: &Loop) {
        loop {
            let (key, waited) = one.dirty.take_timed().await;
            one.meter.waited.observe(waited);
            let fence = match self.gate.get() {
                Some(gate) => Some(gate.enter(&self.cache).await),
                None => None,
            };
            self.step(one, &key, &fence).await;
            one.dirty.done(&key);
        }
    }

    async fn step(&self, one: &Loop, key: &ObjectKey, fence: &Term) {
        match one.barrier.check(key, Instant::now(), || self.cache.view()) {
            Check::Ready => {}
            Check::Parked => return one.dirty.mark_after(key.clone(), PATIENCE),
            Check::Late(resources) => {
                resources.iter().for_each(|resource| self.cache.relist(resource));
                return one.dirty.mark_after(key.clone(), PATIENCE);
            }
            Check::Doubted(resources) => match self.resolve(one, key, resources).await {
                Ok(()) => return one.dirty.mark(key.clone()),
                Err(error) => return self.fail(one, key, &error, &[]),
            },
        }
        one.meter.run(self.clock.now());
        let began = Instant::now();
        self.turn(one, key, fence).await;
        one.meter.worked.observe(began.elapsed());
    }

    /// Decides on a key and performs the plan.
    async fn turn(&self, one: &Loop, key: &ObjectKey, fence: &Term) {
        let answers = match self.ask(one, key).await {
            Ok(answers) => answers,
            Err(error) => return self.fail(one, key, &error, &[]),
        };
        let now = self.clock.now();
        let decide = || one.controller.decide(&self.cache.view(), key, &answers, now);
        match one.guarded(key, decide) {
            Ok(plan) if plan.writes.is_empty() => {
                self.perform(one, key, plan, fence).await;
            }
            Ok(plan) => self.perform_in_pace(one, key, plan, fence).await,
            Err(error) => self.fail(one, key, &error, &[]),
        }
    }

    fn fail(&self, one: &Loop, key: &ObjectKey, error: &ApiError, outcomes: &[Outcome]) {
        let stale = {
            let view = self.cache.view();
            let subject = one.subject.as_ref().and_then(|kind| view.peek(kind, key));
            is_stale(error, outcomes, subject.as_deref(), &view)
        };
        one.fail(key, error, stale, &self.clock);
    }

    /// Performs a plan, or puts it off if the key is written about too often: it is made anew then.
    async fn perform_in_pace(&self, one: &Loop, key: &ObjectKey, mut plan: Plan, fence: &Term) {
        let subject = one.subject.as_ref().and_then(|kind| self.cache.view().peek(kind, key));
        let generation = subject.as_ref().and_then(|object| object.meta().generation);
        let prints = Prints::of(&plan.writes, generation.unwrap_or_default());
        match one.pace.check(key, &prints, Instant::now()) {
            Word::Go => {}
            Word::GoAndTell => {
                let is_status = |write: &&Write| {
                    write.subject().is_some_and(|(_, target)| target.subresource.is_some())
                };
                let write = plan.writes.iter().find(|write| !is_status(write));
                let write = write.or(plan.writes.first());
                if let (Some(subject), Some(write)) = (&subject, write) {
                    plan.notices.push(repeats(one.controller.name(), &**subject, write));
                }
            }
            Word::Wait(wait) => {
                one.meter.held.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(controller = one.controller.name(), %key, ?wait, "holds back");
                return one.dirty.mark_after(key.clone(), wait);
            }
        }
        if self.perform(one, key, plan, fence).await {
            one.pace.wrote(key, prints, Instant::now());
        }
    }

    /// What the controller wants to know beside the view.
    async fn ask(&self, one: &Loop, key: &ObjectKey) -> Result<Vec<Answer>, ApiError> {
        let mut answers = Vec::new();
        for _ in 0..ask::MOST_ROUNDS {
            let asked =
                one.guarded(key, || one.controller.asks(&self.cache.view(), key, &answers))?;
            if asked.is_empty() {
                break;
            }
            let asked = asked.into_iter().map(|asked| ask::perform(&self.executor.api, asked));
            answers.extend(futures::future::join_all(asked).await);
        }
        Ok(answers)
    }

    /// Tells whether anything was written.
    async fn perform(&self, one: &Loop, key: &ObjectKey, plan: Plan, fence: &Term) -> bool {
        let name = one.controller.name();
        for write in &plan.writes {
            tracing::debug!(controller = name, %key, %write, "writes");
        }
        let had_writes = !plan.writes.is_empty();
        let done = self.write(one, key, plan.writes, fence).await;
        // What a plan tells is about its first write. A later one that failed, a status that
        // somebody else wrote meanwhile, is planned again, and then there is nothing to tell.
        if done.error.is_none() || done.outcomes.first().is_some_and(|one| one.result.is_ok()) {
            plan.notices.into_iter().for_each(|notice| self.recorder.record_as(name, notice));
        }
        if had_writes {
            self.settle(one, key, &done, fence).await;
        }
        match &done.error {
            Some(error) => self.fail(one, key, error, &done.outcomes),
            None => {
                one.succeed(key);
                if let Some(wait) = plan.again_after {
                    one.dirty.mark_after(key.clone(), wait.clamp(LEAST_WAIT, MOST_WAIT));
                }
            }
        }
        done.outcomes.iter().any(|outcome| outcome.result.is_ok())
    }

    async fn write(&self, one: &Loop, key: &ObjectKey, writes: Vec<Write>, fence: &Term) -> Done {
        let (manager, budget) = (one.controller.name(), one.budget.as_ref());
        let writer = Writer { manager, budget, fence: fence.clone() };
        let mut done = self.executor.perform(writes, &writer, &self.cache).await;
        if let (Some(error), Some(gate)) = (&done.error, self.gate.get()) {
            gate.note(error);
        }
        one.barrier.add(key, std::mem::take(&mut done.needs), Instant::now());
        let wrote = |outcome: &&Outcome| outcome.result.is_ok() && outcome.action != Action::Check;
        let wrote = done.outcomes.iter().filter(wrote).count();
        one.meter.writes.fetch_add(wrote as u64, Ordering::Relaxed);
        done
    }

    /// What is left to tell about the writes; a failure here is told again with the next one.
    async fn settle(&self, one: &Loop, key: &ObjectKey, done: &Done, fence: &Term) {
        let now = self.clock.now();
        let settled = one
            .guarded(key, || one.controller.settle(&self.cache.view(), key, &done.outcomes, now));
        let Ok(plan) = settled else { return };
        let wrote = self.write(one, key, plan.writes, fence).await;
        if let Some(error) = wrote.error {
            tracing::debug!(controller = one.controller.name(), %key, %error, "not settled");
        }
        let name = one.controller.name();
        plan.notices.into_iter().for_each(|notice| self.recorder.record_as(name, notice));
    }

    /// Asks how far the store is, so that a creation without an answer is seen if it happened.
    async fn resolve(
        &self,
        one: &Loop,
        key: &ObjectKey,
        resources: Vec<Gvr>,
    ) -> Result<(), ApiError> {
        for resource in resources {
            let target = Target {
                resource: resource.clone(),
                namespace: None,
                name: None,
                subresource: None,
            };
            let options = ListOptions { limit: 1, ..ListOptions::default() };
            let page = self.executor.api.list(&target, &options).await?;
            let revision = crate::client::cache::parse_revision(&page.resource_version);
            one.barrier.resolve(key, &resource, revision);
        }
        Ok(())
    }
}
