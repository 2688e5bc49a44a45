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
//! One key of a controller is worked on by one worker at a time. It knows no kinds.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::ask::{self, Answer};
use super::barrier::{Barrier, Check, PATIENCE};
use super::executor::{Budget, Done, Executor};
use super::{Controller, Plan, namespace};
use crate::api::resource::Gvr;
use crate::api::{ApiError, ObjectKey};
use crate::base::backoff::{Backoff, Limits as Waits};
use crate::base::dirty_set::DirtySet;
use crate::base::{SharedClock, Tasks};
use crate::client::cache::{Cache, Changed, View};
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
}

/// One controller with its keys.
struct Loop {
    controller: Arc<dyn Controller>,
    dirty: DirtySet<ObjectKey>,
    barrier: Barrier,
    failures: Mutex<Backoff<ObjectKey>>,
    conflicts: Mutex<Backoff<ObjectKey>>,
    budget: Option<Budget>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    reconciles: AtomicU64,
    failures: AtomicU64,
    conflicts: AtomicU64,
    panics: AtomicU64,
}

/// How one controller fares.
#[derive(Clone, Debug)]
pub struct Stats {
    pub controller: &'static str,
    /// Keys that wait now.
    pub waiting: usize,
    pub reconciles: u64,
    pub failures: u64,
    pub conflicts: u64,
    pub panics: u64,
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
        let loops = controllers.into_iter().map(Loop::new).collect();
        let executor = Executor::new(api);
        let shared = Arc::new(Shared { cache, clock, executor, recorder, loops, options });
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

    pub fn stats(&self) -> Vec<Stats> {
        self.shared.loops.iter().map(Loop::stats).collect()
    }

    /// Nothing waits and nothing is worked on; keys may be planned for later.
    pub fn is_idle(&self) -> bool {
        self.shared.loops.iter().all(|one| one.dirty.is_idle())
    }
}

impl Loop {
    fn new(controller: Arc<dyn Controller>) -> Loop {
        let budget = controller.limits().deletions_per_minute;
        Loop {
            dirty: DirtySet::default(),
            barrier: Barrier::default(),
            failures: Mutex::new(Backoff::new(FAILURE_WAITS)),
            conflicts: Mutex::new(Backoff::new(CONFLICT_WAITS)),
            budget: budget.map(|most| Budget::new(most, Instant::now())),
            counts: Counts::default(),
            controller,
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            controller: self.controller.name(),
            waiting: self.dirty.len(),
            reconciles: self.counts.reconciles.load(Ordering::Relaxed),
            failures: self.counts.failures.load(Ordering::Relaxed),
            conflicts: self.counts.conflicts.load(Ordering::Relaxed),
            panics: self.counts.panics.load(Ordering::Relaxed),
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
            self.counts.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(controller = self.controller.name(), %key, text, "panicked");
            ApiError::internal(format!("{} panicked: {text}", self.controller.name()))
        })
    }

    /// Brings a key back after a failure.
    fn fail(&self, key: &ObjectKey, error: &ApiError, clock: &SharedClock) {
        let stale = error.is_conflict() || error.is_already_exists() || error.is_not_found();
        let (waits, count) = if stale {
            (&self.conflicts, &self.counts.conflicts)
        } else {
            (&self.failures, &self.counts.failures)
        };
        count.fetch_add(1, Ordering::Relaxed);
        let mut wait = waits.lock().next(key, clock.now());
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

impl Shared {
    fn mark(&self, change: &Changed, view: &View) {
        for one in &self.loops {
            let find = AssertUnwindSafe(|| one.controller.keys(change, view));
            match std::panic::catch_unwind(find) {
                Ok(keys) => keys.into_iter().for_each(|key| one.dirty.mark(key)),
                Err(_) => {
                    one.counts.panics.fetch_add(1, Ordering::Relaxed);
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
            let key = one.dirty.take().await;
            self.step(one, &key).await;
            one.dirty.done(&key);
        }
    }

    async fn step(&self, one: &Loop, key: &ObjectKey) {
        match one.barrier.check(key, Instant::now(), || self.cache.view()) {
            Check::Ready => {}
            Check::Parked => return one.dirty.mark_after(key.clone(), PATIENCE),
            Check::Late(resources) => {
                resources.iter().for_each(|resource| self.cache.relist(resource));
                return one.dirty.mark_after(key.clone(), PATIENCE);
            }
            Check::Doubted(resources) => match self.resolve(one, key, resources).await {
                Ok(()) => return one.dirty.mark(key.clone()),
                Err(error) => return one.fail(key, &error, &self.clock),
            },
        }
        one.counts.reconciles.fetch_add(1, Ordering::Relaxed);
        let answers = match self.ask(one, key).await {
            Ok(answers) => answers,
            Err(error) => return one.fail(key, &error, &self.clock),
        };
        let now = self.clock.now();
        let decide = || one.controller.decide(&self.cache.view(), key, &answers, now);
        match one.guarded(key, decide) {
            Ok(plan) => self.perform(one, key, plan).await,
            Err(error) => one.fail(key, &error, &self.clock),
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

    async fn perform(&self, one: &Loop, key: &ObjectKey, plan: Plan) {
        let name = one.controller.name();
        for write in &plan.writes {
            tracing::debug!(controller = name, %key, %write, "writes");
        }
        let had_writes = !plan.writes.is_empty();
        let done = self.write(one, key, plan.writes).await;
        // What a plan tells is about its first write. A later one that failed, a status that
        // somebody else wrote meanwhile, is planned again, and then there is nothing to tell.
        if done.error.is_none() || done.outcomes.first().is_some_and(|one| one.result.is_ok()) {
            plan.notices.into_iter().for_each(|notice| self.recorder.record_as(name, notice));
        }
        if had_writes {
            self.settle(one, key, &done).await;
        }
        match &done.error {
            Some(error) => one.fail(key, error, &self.clock),
            None => {
                one.succeed(key);
                if let Some(wait) = plan.again_after {
                    one.dirty.mark_after(key.clone(), wait.min(MOST_WAIT));
                }
            }
        }
    }

    async fn write(&self, one: &Loop, key: &ObjectKey, writes: Vec<super::Write>) -> Done {
        let (name, budget) = (one.controller.name(), one.budget.as_ref());
        let mut done = self.executor.perform(writes, name, budget, &self.cache).await;
        one.barrier.add(key, std::mem::take(&mut done.needs), Instant::now());
        done
    }

    /// What is left to tell about the writes; a failure here is told again with the next one.
    async fn settle(&self, one: &Loop, key: &ObjectKey, done: &Done) {
        let now = self.clock.now();
        let settled = one
            .guarded(key, || one.controller.settle(&self.cache.view(), key, &done.outcomes, now));
        let Ok(plan) = settled else { return };
        let wrote = self.write(one, key, plan.writes).await;
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
