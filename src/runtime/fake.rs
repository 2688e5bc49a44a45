//! A runtime that runs nothing: for simulation and for tests of the node.
//!
//! What an artifact does is scripted by its digest and, if wanted, by an argument. Time is tokio's
//! and the clock that is given, so that it runs under a paused clock; nothing is random. What a
//! script leaves open, a test decides through [`FakeRuntime::finish`].

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::container::{Clock, EXIT_KILLED, EXIT_TRAPPED, End, Reporter};
use super::{
    ArtifactKind, Container, ContainerId, ContainerSpec, ExecSpec, ExitReason, LogStream,
    PrepareError, Prepared, Runtime, RuntimeEvent, StartError, Usage,
};

/// What an artifact does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    pub kind: ArtifactKind,
    /// How preparing it fails, if it does.
    pub prepare: Result<(), PrepareFailure>,
    /// How long preparing takes.
    pub prepare_takes: Duration,
    /// Why starting it fails, if it does.
    pub start_fails: Option<String>,
    /// Written to its log when it starts.
    pub logs: String,
    /// When and how it ends by itself; `None`: it runs until it is stopped.
    pub ends: Option<(Duration, FakeEnd)>,
    /// What an HTTP handler takes to finish its requests when it is stopped.
    pub drain_takes: Duration,
    /// What it claims to use.
    pub usage: Usage,
    /// It says itself when it is ready: see [`FakeRuntime::say_ready`].
    pub tells_readiness: bool,
    /// See [`Prepared::special_imports`].
    pub imports: Vec<String>,
}

/// The kinds of [`PrepareError`], scripted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrepareFailure {
    InvalidModule(String),
    CompileLimit(String),
    Internal(String),
}

/// How a fake container ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FakeEnd {
    Exit(i32),
    OutOfMemory,
    Trap(String),
}

impl Script {
    /// A process that runs until it is stopped.
    pub fn runs() -> Self {
        Self {
            kind: ArtifactKind::Command,
            prepare: Ok(()),
            prepare_takes: Duration::ZERO,
            start_fails: None,
            logs: String::new(),
            ends: None,
            drain_takes: Duration::ZERO,
            usage: Usage::default(),
            tells_readiness: false,
            imports: Vec::new(),
        }
    }

    /// An HTTP handler.
    pub fn serves() -> Self {
        Self { kind: ArtifactKind::Http, ..Self::runs() }
    }

    /// A process that ends so, after that time.
    pub fn ends(after: Duration, end: FakeEnd) -> Self {
        Self { ends: Some((after, end)), ..Self::runs() }
    }

    /// An artifact that cannot be prepared.
    pub fn fails_prepare(failure: PrepareFailure) -> Self {
        Self { prepare: Err(failure), ..Self::runs() }
    }
}

impl FakeEnd {
    fn end(self) -> End {
        match self {
            Self::Exit(0) => End::completed(),
            Self::Exit(code) => End { code, reason: ExitReason::Error, message: String::new() },
            Self::OutOfMemory => End {
                code: EXIT_KILLED,
                reason: ExitReason::OomKilled,
                message: "out of memory".to_owned(),
            },
            Self::Trap(message) => End { code: EXIT_TRAPPED, reason: ExitReason::Error, message },
        }
    }
}

/// Runs scripts instead of guests.
pub struct FakeRuntime {
    state: Arc<Mutex<State>>,
    clock: Clock,
}

#[derive(Default)]
struct State {
    /// By digest; an argument's script goes before the digest's own.
    scripts: BTreeMap<(String, Option<String>), Script>,
    default: Option<Script>,
    prepared: BTreeMap<String, u64>,
    running: BTreeMap<ContainerId, Running>,
    started: Vec<ContainerId>,
    drained: Vec<ContainerId>,
}

struct Running {
    spec: ContainerSpec,
    finish: Option<oneshot::Sender<FakeEnd>>,
    stop: Option<oneshot::Sender<Duration>>,
    reporter: Reporter,
}

struct FakeCode {
    digest: String,
    kind: ArtifactKind,
    tells_readiness: bool,
    imports: Vec<String>,
}

impl FakeCode {
    fn prepared(digest: &str, script: Script) -> Arc<dyn Prepared> {
        let Script { kind, tells_readiness, imports, .. } = script;
        Arc::new(FakeCode { digest: digest.to_owned(), kind, tells_readiness, imports })
    }
}

impl Prepared for FakeCode {
    fn kind(&self) -> ArtifactKind {
        self.kind
    }

    fn special_imports(&self) -> &[String] {
        &self.imports
    }

    fn tells_readiness(&self) -> bool {
        self.tells_readiness
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl FakeRuntime {
    /// Every artifact runs until it is stopped, until a script says otherwise.
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { state: Arc::default(), clock })
    }

    /// What artifacts do that have no script of their own.
    pub fn script_default(&self, script: Script) {
        self.state.lock().default = Some(script);
    }

    /// What the artifact of this digest does.
    pub fn script(&self, digest: &str, script: Script) {
        self.state.lock().scripts.insert((digest.to_owned(), None), script);
    }

    /// What it does when started with this argument among its arguments.
    pub fn script_argument(&self, digest: &str, argument: &str, script: Script) {
        let key = (digest.to_owned(), Some(argument.to_owned()));
        self.state.lock().scripts.insert(key, script);
    }

    /// Ends a running container; `false` when there is none of this id.
    pub fn finish(&self, id: &str, end: FakeEnd) -> bool {
        let finish = self.state.lock().running.get_mut(id).and_then(|it| it.finish.take());
        finish.is_some_and(|finish| finish.send(end).is_ok())
    }

    /// Lets a running container say whether it is ready; `false` when there is none of this id.
    pub async fn say_ready(&self, id: &str, ready: bool) -> bool {
        let reporter = self.state.lock().running.get(id).map(|running| running.reporter.clone());
        match reporter {
            Some(reporter) => reporter.readiness(ready).await,
            None => return false,
        }
        true
    }

    /// The containers that run now, by id.
    pub fn running(&self) -> Vec<ContainerSpec> {
        self.state.lock().running.values().map(|running| running.spec.clone()).collect()
    }

    /// Every container that was ever started, in order.
    pub fn started(&self) -> Vec<ContainerId> {
        self.state.lock().started.clone()
    }

    /// Every container that was told to drain, in order.
    pub fn drained(&self) -> Vec<ContainerId> {
        self.state.lock().drained.clone()
    }

    /// How many times the code of a digest was made.
    pub fn times_prepared(&self, digest: &str) -> u64 {
        self.state.lock().prepared.get(digest).copied().unwrap_or(0)
    }
}

impl State {
    fn script_of(&self, digest: &str, args: &[String]) -> Script {
        let of_argument =
            |arg: &String| self.scripts.get(&(digest.to_owned(), Some(arg.to_owned())));
        args.iter()
            .find_map(of_argument)
            .or_else(|| self.scripts.get(&(digest.to_owned(), None)))
            .or(self.default.as_ref())
            .cloned()
            .unwrap_or_else(Script::runs)
    }
}

#[async_trait::async_trait]
impl Runtime for FakeRuntime {
    async fn prepare(&self, digest: &str, _wasm: Bytes) -> Result<Arc<dyn Prepared>, PrepareError> {
        if let Some(code) = self.prepared(digest).await {
            return Ok(code);
        }
        let script = self.state.lock().script_of(digest, &[]);
        if !script.prepare_takes.is_zero() {
            tokio::time::sleep(script.prepare_takes).await;
        }
        script.prepare.clone().map_err(|failure| match failure {
            PrepareFailure::InvalidModule(message) => PrepareError::InvalidModule(message),
            PrepareFailure::CompileLimit(message) => PrepareError::CompileLimit(message),
            PrepareFailure::Internal(message) => PrepareError::Internal(message),
        })?;
        *self.state.lock().prepared.entry(digest.to_owned()).or_default() += 1;
        Ok(FakeCode::prepared(digest, script))
    }

    async fn prepared(&self, digest: &str) -> Option<Arc<dyn Prepared>> {
        let state = self.state.lock();
        state.prepared.get(digest)?;
        Some(FakeCode::prepared(digest, state.script_of(digest, &[])))
    }

    async fn start(
        &self,
        spec: ContainerSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Box<dyn Container>, StartError> {
        let artifact = spec.artifact.clone();
        let Some(code) = artifact.as_any().downcast_ref::<FakeCode>() else {
            return Err(StartError::Internal("the code is another runtime's".to_owned()));
        };
        let script = self.state.lock().script_of(&code.digest, &spec.args);
        if let Some(message) = script.start_fails {
            return Err(StartError::Container(message));
        }
        if !script.logs.is_empty() {
            spec.logs.write(LogStream::Stdout, script.logs.as_bytes());
        }
        let id = spec.id.clone();
        let (finish, finished) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let reporter = Reporter { id: id.clone(), events, clock: self.clock.clone() };
        {
            let mut state = self.state.lock();
            state.started.push(id.clone());
            let (finish, stop) = (Some(finish), Some(stop));
            let running = Running { spec, finish, stop, reporter: reporter.clone() };
            if state.running.insert(id.clone(), running).is_some() {
                return Err(StartError::Internal(format!("container {id} runs already")));
            }
        }
        let usage = script.usage;
        tokio::spawn(live(self.state.clone(), reporter, script, finished, stopped));
        let (state, clock) = (self.state.clone(), self.clock.clone());
        Ok(Box::new(FakeContainer { state, id, usage, clock }))
    }
}

/// A fake container's life, as its script has it.
async fn live(
    state: Arc<Mutex<State>>,
    reporter: Reporter,
    script: Script,
    finished: oneshot::Receiver<FakeEnd>,
    stopped: oneshot::Receiver<Duration>,
) {
    let started_at = reporter.started().await;
    let by_itself = async {
        match script.ends {
            Some((after, end)) => {
                tokio::time::sleep(after).await;
                end
            }
            None => std::future::pending().await,
        }
    };
    let by_test = async {
        match finished.await {
            Ok(end) => end,
            Err(_) => std::future::pending().await,
        }
    };
    let end = tokio::select! {
        biased;
        grace = stopped => {
            let grace = grace.unwrap_or(Duration::ZERO);
            let drains = script.kind == ArtifactKind::Http && !grace.is_zero();
            if drains {
                tokio::time::sleep(script.drain_takes.min(grace)).await;
            }
            if drains && script.drain_takes <= grace { End::completed() } else { End::killed("killed") }
        }
        end = by_test => end.end(),
        end = by_itself => end.end(),
    };
    state.lock().running.remove(&reporter.id);
    reporter.exited(started_at, end).await;
}

struct FakeContainer {
    state: Arc<Mutex<State>>,
    id: ContainerId,
    usage: Usage,
    clock: Clock,
}

impl FakeContainer {
    fn stop_with(&self, grace: Duration) {
        let stop = self.state.lock().running.get_mut(&self.id).and_then(|it| it.stop.take());
        if let Some(stop) = stop {
            let _ = stop.send(grace);
        }
    }
}

#[async_trait::async_trait]
impl Container for FakeContainer {
    fn drain(&self) {
        self.state.lock().drained.push(self.id.clone());
    }

    fn stop(&self, grace: Duration) {
        self.stop_with(grace);
    }

    fn usage(&self) -> Usage {
        self.usage
    }

    /// Copies its input to its output and ends with the code that an argument `exit=CODE` names.
    async fn exec(
        &self,
        spec: ExecSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Box<dyn Container>, StartError> {
        let ExecSpec { id, args, logs, stdin, .. } = spec;
        let reporter = Reporter { id: id.clone(), events, clock: self.clock.clone() };
        let code = args.iter().find_map(|arg| arg.strip_prefix("exit=")?.parse().ok());
        tokio::spawn(async move {
            let started_at = reporter.started().await;
            if let Some(mut input) = stdin {
                while let Some(bytes) = input.next().await {
                    logs.write(LogStream::Stdout, &bytes);
                }
            }
            reporter.exited(started_at, FakeEnd::Exit(code.unwrap_or(0)).end()).await;
        });
        let (state, clock) = (self.state.clone(), self.clock.clone());
        Ok(Box::new(FakeContainer { state, id, usage: Usage::default(), clock }))
    }
}

impl Drop for FakeContainer {
    fn drop(&mut self) {
        self.stop_with(Duration::ZERO);
    }
}
