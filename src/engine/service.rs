//! Compiling for a whole cluster: each program once for each kind of machine, whoever asks.
//!
//! ```text
//!   a node asks ──▶ kept? ──▶ its file
//!                     │ no        joins the job of its key, if there is one
//!                     ▼
//!               urgent queue ──┐
//!   a push ───▶ later queue ───┴──▶ N workers ── a child process each ──▶ signed, kept
//! ```
//!
//! Children run at the lowest priority and in bounds ([`super::compile`]), so that a burst delays
//! neither requests nor probes. Who waits for code goes before what was only pushed: a child that
//! compiles ahead is killed for it, and its job waits again. So is one that has had its slice of time
//! when others wait, and its next slice is twice as long: a few programs that take minutes hold up
//! nobody's small one for longer than a slice. Queues are bounded; a program that failed is not tried
//! again at once. Code is signed with the cluster's key, and durable before anybody gets it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

use super::cache::{CodeFile, DiskCache, Incoming};
use super::compile::{self, CompileError, Compiler, has_compiler_for};
use super::seal::{CodeKey, Seal, Signer};
use super::target::Target;

/// How long it is remembered that compiling exceeded a limit: it may do better next time.
const LIMIT_REMEMBERED: Duration = Duration::from_secs(300);
/// Failures that are remembered, the oldest go; each is some hundred bytes.
const MAX_FAILURES: usize = 1024;
/// Files whose seals are looked at at the same time: that is a hash over all of their bytes, and a
/// thousand nodes may ask in one moment.
const MAX_LOOKS: usize = 2;
/// Programs of nodes that wait for their turn, on the disk: each has up to 256 MiB.
const MAX_RECEIVED: usize = 16;
/// Kinds of machines for which is compiled at a push: those that asked last.
const MAX_TARGETS: usize = 8;

/// How often a slice is doubled at most.
const MAX_DOUBLINGS: u32 = 8;
/// One job of so many is the one that waited longest, whatever it had already: all come to their end.
const OLDEST_EVERY: u64 = 4;

/// What a [`CompileService`] is given.
pub struct Options {
    pub compiler: compile::Options,
    /// Where code is kept, with the programs that nodes sent in and that wait.
    pub directory: PathBuf,
    pub max_bytes: u64,
    /// Children at the same time.
    pub workers: usize,
    /// Jobs that somebody waits for.
    pub max_urgent: usize,
    /// Jobs of pushed programs.
    pub max_later: usize,
    /// How long a job may take at first when others wait.
    pub slice: Duration,
}

impl Options {
    /// Half of the machine's cores, at least one; 4 GiB of code.
    pub fn new(compiler: compile::Options, directory: PathBuf) -> Options {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Options {
            compiler,
            directory,
            max_bytes: 4 << 30,
            workers: (cores / 2).max(1),
            max_urgent: 256,
            max_later: 64,
            slice: Duration::from_secs(5),
        }
    }
}

/// Where a program is until its turn comes: its bytes are only in memory while it is compiled.
pub enum Program {
    /// In the cluster's registry.
    Kept(PathBuf),
    /// Sent in by a node; goes with its job.
    Received(Incoming),
}

/// Why there is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    #[error(transparent)]
    Compile(CompileError),
    /// There is no compiler for the machine.
    #[error("{0}")]
    Unable(String),
    /// Too many wait already.
    #[error("too many programs wait for the compiler")]
    Busy,
    /// It is still being made.
    #[error("the program is still being compiled")]
    Pending,
}

/// Numbers since the start, and of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub compiled: u64,
    pub failed: u64,
    /// Given up for somebody who waited.
    pub preempted: u64,
    pub waiting: usize,
    pub running: usize,
}

/// See the module's documentation.
pub struct CompileService {
    options: Options,
    compiler: Compiler,
    store: DiskCache,
    state: Mutex<State>,
    woken: Notify,
    looks: Semaphore,
    compiled: AtomicU64,
    failed: AtomicU64,
    preempted: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Queued and running.
    jobs: HashMap<CodeKey, Arc<Job>>,
    urgent: VecDeque<Arc<Job>>,
    later: VecDeque<Arc<Job>>,
    running: Vec<Running>,
    /// Jobs that were begun.
    begun: u64,
    failures: VecDeque<(CodeKey, Instant, CompileError)>,
    /// The latest last.
    targets: Vec<Target>,
}

/// A job at work.
struct Running {
    job: Arc<Job>,
    since: Instant,
    /// It gives its place up.
    preempt: Arc<Notify>,
}

struct Job {
    key: CodeKey,
    target: Target,
    program: Program,
    /// Somebody waits for it.
    urgent: AtomicBool,
    /// Slices that it has had.
    slices: AtomicU32,
    done: watch::Sender<Option<Result<(), CompileError>>>,
}

impl CompileService {
    /// Opens or makes the store of code.
    ///
    /// # Errors
    /// When its directory cannot be used.
    pub fn open(mut options: Options, signer: Signer) -> io::Result<Arc<CompileService>> {
        options.workers = options.workers.max(1);
        options.compiler.concurrency = options.workers;
        let seal = Seal::Signed { trust: signer.trust(), signer: Some(signer) };
        let store = DiskCache::open(options.directory.clone(), options.max_bytes, seal)?.durable();
        Ok(Arc::new(CompileService {
            compiler: Compiler::new(options.compiler.clone()),
            options,
            store,
            state: Mutex::default(),
            woken: Notify::new(),
            looks: Semaphore::new(MAX_LOOKS),
            compiled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            preempted: AtomicU64::new(0),
        }))
    }

    /// How many times [`CompileService::work`] is to be run.
    pub fn workers(&self) -> usize {
        self.options.workers
    }

    /// A place for a program that a node sends.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn incoming(&self) -> io::Result<Incoming> {
        self.store.incoming()
    }

    /// The sealed code of a program for a machine: kept, or made while the caller waits, for `wait` at
    /// most.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub async fn code(
        self: &Arc<Self>,
        digest: &str,
        target: Target,
        program: Program,
        wait: Duration,
    ) -> Result<CodeFile, ServiceError> {
        if !has_compiler_for(target) {
            let message = format!(
                "the control plane has no compiler for {target}: it was built without the feature \
                 all-arch"
            );
            return Err(ServiceError::Unable(message));
        }
        let key = CodeKey { digest: digest.to_owned(), settings_hash: target.settings_hash() };
        if let Some(file) = self.kept(&key).await {
            self.state.lock().asked(target);
            return Ok(file);
        }
        let job = self.enter(key.clone(), target, program)?;
        let mut done = job.done.subscribe();
        let result = async { done.wait_for(Option::is_some).await.ok().and_then(|r| r.clone()) };
        let result = tokio::time::timeout(wait, result).await.ok().flatten();
        match result {
            Some(Ok(())) => self.kept(&key).await.ok_or(ServiceError::Pending),
            Some(Err(error)) => Err(ServiceError::Compile(error)),
            None => Err(ServiceError::Pending),
        }
    }

    /// Compiles a pushed program ahead, for the kinds of machines that asked last, when nobody waits
    /// for anything else.
    pub fn prefetch(&self, digest: &str, path: &std::path::Path) {
        let mut state = self.state.lock();
        for target in state.targets.clone() {
            let settings_hash = target.settings_hash();
            let key = CodeKey { digest: digest.to_owned(), settings_hash };
            let full = state.later.len() >= self.options.max_later;
            if full || state.jobs.contains_key(&key) || state.failure(&key).is_some() {
                continue;
            }
            let job = Job::new(key.clone(), target, Program::Kept(path.to_owned()), false);
            state.jobs.insert(key, job.clone());
            state.later.push_back(job);
            self.woken.notify_one();
        }
    }

    pub fn stats(&self) -> Stats {
        let state = self.state.lock();
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            compiled: number(&self.compiled),
            failed: number(&self.failed),
            preempted: number(&self.preempted),
            waiting: state.urgent.len() + state.later.len(),
            running: state.running.len(),
        }
    }

    /// Takes one job after another, for ever.
    pub async fn work(self: Arc<Self>) {
        loop {
            let woken = self.woken.notified();
            let mut woken = std::pin::pin!(woken);
            // Before the look, so that a job in between is not missed.
            woken.as_mut().enable();
            match self.take() {
                Some((job, preempt)) => self.perform(job, &preempt).await,
                None => woken.await,
            }
        }
    }

    async fn kept(self: &Arc<Self>, key: &CodeKey) -> Option<CodeFile> {
        let _turn = self.looks.acquire().await.ok()?;
        let (this, key) = (self.clone(), key.clone());
        tokio::task::spawn_blocking(move || this.store.get(&key)).await.ok().flatten()
    }

    /// The job of a key, which somebody waits for from now on.
    fn enter(
        &self,
        key: CodeKey,
        target: Target,
        program: Program,
    ) -> Result<Arc<Job>, ServiceError> {
        let mut state = self.state.lock();
        state.asked(target);
        if let Some(error) = state.failure(&key) {
            return Err(ServiceError::Compile(error));
        }
        if let Some(job) = state.jobs.get(&key).cloned() {
            if !job.urgent.swap(true, Ordering::Relaxed) {
                let before = state.later.len();
                state.later.retain(|other| !Arc::ptr_eq(other, &job));
                if state.later.len() < before {
                    state.urgent.push_back(job.clone());
                    self.make_room(&state);
                }
            }
            return Ok(job);
        }
        let received = |job: &&Arc<Job>| matches!(job.program, Program::Received(_));
        let full = matches!(program, Program::Received(_))
            && state.jobs.values().filter(received).count() >= MAX_RECEIVED;
        if full || state.urgent.len() >= self.options.max_urgent {
            return Err(ServiceError::Busy);
        }
        let job = Job::new(key.clone(), target, program, true);
        state.jobs.insert(key, job.clone());
        state.urgent.push_back(job.clone());
        self.woken.notify_one();
        self.make_room(&state);
        Ok(job)
    }

    /// Where all workers are busy and somebody waits, one that works ahead gives its place up, else the
    /// one that is farthest beyond its slice.
    fn make_room(&self, state: &State) {
        let Some(next) = state.next() else { return };
        if state.running.len() < self.options.workers {
            return;
        }
        let ahead = |one: &&Running| !one.job.urgent.load(Ordering::Relaxed);
        // As much as the one that waits has had, or the slice of its own.
        let had = state.urgent[next].slices().saturating_sub(1);
        let beyond = |one: &&Running| one.since.elapsed() >= self.slice(one.job.slices().max(had));
        let running = state.running.iter();
        let farthest = || running.clone().filter(beyond).max_by_key(|one| one.since.elapsed());
        if let Some(one) = running.clone().find(ahead).or_else(farthest) {
            one.preempt.notify_one();
        }
    }

    /// How long the next slice of a job is that has had so many.
    fn slice(&self, had: u32) -> Duration {
        self.options.slice.saturating_mul(1 << had.min(MAX_DOUBLINGS))
    }

    fn take(&self) -> Option<(Arc<Job>, Arc<Notify>)> {
        let mut state = self.state.lock();
        let is_for_the_oldest = state.begun % OLDEST_EVERY == OLDEST_EVERY - 1;
        let next = if is_for_the_oldest { Some(0) } else { state.next() };
        let urgent = next.and_then(|next| state.urgent.remove(next));
        let job = urgent.or_else(|| state.later.pop_front())?;
        let preempt = Arc::new(Notify::new());
        let running = Running { job: job.clone(), since: Instant::now(), preempt: preempt.clone() };
        state.running.push(running);
        state.begun += 1;
        if !(state.urgent.is_empty() && state.later.is_empty()) {
            self.woken.notify_one();
        }
        Some((job, preempt))
    }

    async fn perform(self: &Arc<Self>, job: Arc<Job>, preempt: &Notify) {
        let began = Instant::now();
        let slices_end = async {
            for had in job.slices()..=MAX_DOUBLINGS {
                tokio::time::sleep_until((began + self.slice(had)).into()).await;
                self.make_room(&self.state.lock());
            }
            // Who comes later makes room for itself.
            std::future::pending::<()>().await;
        };
        let result = tokio::select! {
            result = self.compile(&job) => Some(result),
            // Drops, and by that kills, the child.
            () = preempt.notified() => None,
            () = slices_end => None,
        };
        let mut state = self.state.lock();
        state.running.retain(|other| !Arc::ptr_eq(&other.job, &job));
        let Some(result) = result else {
            self.preempted.fetch_add(1, Ordering::Relaxed);
            let had =
                (job.slices() + 1..=MAX_DOUBLINGS).find(|had| self.slice(*had) > began.elapsed());
            job.slices.store(had.unwrap_or(MAX_DOUBLINGS), Ordering::Relaxed);
            // Somebody may wait for it by now.
            match job.urgent.load(Ordering::Relaxed) {
                true => state.urgent.push_back(job),
                false => state.later.push_front(job),
            }
            self.woken.notify_one();
            return;
        };
        state.jobs.remove(&job.key);
        let counter = if result.is_ok() { &self.compiled } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = &result {
            state.remember(&job.key, error);
        }
        drop(state);
        job.done.send_replace(Some(result));
    }

    async fn compile(self: &Arc<Self>, job: &Job) -> Result<(), CompileError> {
        let internal = |error: io::Error| CompileError::Internal(error.to_string());
        if self.kept(&job.key).await.is_some() {
            return Ok(());
        }
        let path = match &job.program {
            Program::Kept(path) => path.clone(),
            Program::Received(incoming) => incoming.path().to_owned(),
        };
        let wasm = tokio::fs::read(&path).await.map_err(internal)?;
        let began = Instant::now();
        let code = self.compiler.compile_for(wasm.into(), Some(job.target)).await?;
        tracing::info!(digest = job.key.digest, target = %job.target, took = ?began.elapsed(), "compiled");
        let (this, key) = (self.clone(), job.key.clone());
        let kept = tokio::task::spawn_blocking(move || this.store.put(&key, &code)).await;
        let kept = kept.map_err(|error| CompileError::Internal(error.to_string()))?;
        kept.map_err(internal).map(|_| ())
    }
}

impl Job {
    fn new(key: CodeKey, target: Target, program: Program, urgent: bool) -> Arc<Job> {
        let (done, _) = watch::channel(None);
        let (urgent, slices) = (AtomicBool::new(urgent), AtomicU32::new(0));
        Arc::new(Job { key, target, program, urgent, slices, done })
    }

    fn slices(&self) -> u32 {
        self.slices.load(Ordering::Relaxed)
    }
}

impl State {
    /// Which of those that wait is next: of those that had least, the first.
    fn next(&self) -> Option<usize> {
        (0..self.urgent.len()).min_by_key(|at| self.urgent[*at].slices())
    }

    /// Why another try would be in vain.
    fn failure(&self, key: &CodeKey) -> Option<CompileError> {
        let (_, at, error) = self.failures.iter().find(|(failed, ..)| failed == key)?;
        let holds = match error {
            // What is wrong with the bytes stays wrong.
            CompileError::Invalid(_) => true,
            CompileError::Limit(_) => at.elapsed() < LIMIT_REMEMBERED,
            CompileError::Internal(_) => false,
        };
        holds.then(|| error.clone())
    }

    fn remember(&mut self, key: &CodeKey, error: &CompileError) {
        self.failures.retain(|(failed, ..)| failed != key);
        if self.failures.len() >= MAX_FAILURES {
            self.failures.pop_front();
        }
        self.failures.push_back((key.clone(), Instant::now(), error.clone()));
    }

    fn asked(&mut self, target: Target) {
        self.targets.retain(|known| *known != target);
        self.targets.push(target);
        if self.targets.len() > MAX_TARGETS {
            self.targets.remove(0);
        }
    }
}
