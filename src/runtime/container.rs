//! One running container: how it is told to end, and how its end is judged and reported.
//!
//! ```text
//!   start ──▶ running ──guest returns──────────▶ Exited (its code)
//!               │  │ ────trap, panic────────────▶ Exited (134, and why)
//!               │  └─────memory limit───────────▶ Exited (137, OOMKilled)
//!               └────────kill, dropped handle,
//!                        grace is over──────────▶ Exited (137)
//! ```
//!
//! A process has one guest; an HTTP handler is a server of many (see `http`).

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use wasmtime::component::ResourceTableError;
use wasmtime::{Trap, WasmBacktrace};

use super::command::Outcome;
use super::exec::{Again, exec};
use super::host::Sandbox;
use super::memory::OutOfMemory;
use super::meter::{Interrupted, Meter, Metered};
use super::profile::profile;
use super::{Container, ContainerId, ExecSpec, Exit, ExitReason, RuntimeEvent, StartError, Usage};

/// The code of a process killed by SIGKILL, 128 + 9.
pub const EXIT_KILLED: i32 = 137;
/// The code of a process that aborted, 128 + 6: a trap.
pub const EXIT_TRAPPED: i32 = 134;
/// A message in a status is for reading: longer ones are cut, in bytes.
const MAX_MESSAGE_BYTES: usize = 4 << 10;

/// The wall clock, given from above so that a simulation can have its own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Where a container's events go.
#[derive(Clone)]
pub struct Reporter {
    pub id: ContainerId,
    pub events: mpsc::Sender<RuntimeEvent>,
    pub clock: Clock,
}

impl Reporter {
    /// Reports the start; the time is the container's.
    pub async fn started(&self) -> Timestamp {
        let at = (self.clock)();
        let _ = self.events.send(RuntimeEvent::Started { id: self.id.clone(), at }).await;
        at
    }

    /// Reports what the guest says of itself.
    pub async fn readiness(&self, ready: bool) {
        let _ = self.events.send(RuntimeEvent::Readiness { id: self.id.clone(), ready }).await;
    }

    /// Reports the end. Nobody listening is no error: the node is going down.
    pub async fn exited(&self, started_at: Timestamp, end: End) {
        let finished_at = (self.clock)();
        let End { code, reason, message } = end;
        let exit = Exit { code, reason, message, started_at, finished_at };
        let _ = self.events.send(RuntimeEvent::Exited { id: self.id.clone(), exit }).await;
    }
}

/// How a container ended, without the times.
#[derive(Debug, PartialEq, Eq)]
pub struct End {
    pub code: i32,
    pub reason: ExitReason,
    pub message: String,
}

impl End {
    pub fn completed() -> Self {
        Self { code: 0, reason: ExitReason::Completed, message: String::new() }
    }

    pub fn killed(message: &str) -> Self {
        Self { code: EXIT_KILLED, reason: ExitReason::Error, message: message.to_owned() }
    }

    fn returned(code: i32) -> Self {
        let reason = if code == 0 { ExitReason::Completed } else { ExitReason::Error };
        Self { code, reason, message: String::new() }
    }

    /// What an error that ended a guest means.
    pub fn failed(error: &wasmtime::Error) -> Self {
        if let Some(out_of_memory) = error.downcast_ref::<OutOfMemory>() {
            return Self {
                code: EXIT_KILLED,
                reason: ExitReason::OomKilled,
                message: out_of_memory.to_string(),
            };
        }
        Self { code: EXIT_TRAPPED, reason: ExitReason::Error, message: describe(error) }
    }

    /// What the future of a process came to.
    pub fn of(result: Result<Outcome, Interrupted>) -> Self {
        match result {
            Ok(Ok(code)) => Self::returned(code),
            Ok(Err(error)) => Self::failed(&error),
            Err(Interrupted::Killed) => Self::killed("killed"),
            Err(Interrupted::Panicked(text)) => Self {
                code: EXIT_TRAPPED,
                reason: ExitReason::Error,
                message: cut(format!("a host function failed: {text}")),
            },
        }
    }
}

/// A trap and its frames, the cause first, as people read it.
pub fn describe(error: &wasmtime::Error) -> String {
    let mut text = match (error.downcast_ref::<Trap>(), error.downcast_ref::<ResourceTableError>())
    {
        (Some(trap), _) => format!("trap: {trap}"),
        (_, Some(ResourceTableError::Full)) => {
            "it holds as many handles (files, streams, sockets, timers) as a program may: close \
             what is not used"
                .to_owned()
        }
        _ => format!("{}", error.root_cause()),
    };
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        text.push('\n');
        text.push_str(backtrace.to_string().trim_end());
    }
    cut(text)
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// A running process. Dropping it kills the guest.
pub struct Process {
    sandbox: Arc<Sandbox>,
    meter: Arc<Meter>,
    killed: Arc<Notify>,
    again: Arc<Again>,
    /// It runs beside a container, whose life is not its own.
    beside: bool,
}

impl Process {
    /// Runs `guest` on the guests' threads and reports what becomes of it.
    pub fn spawn(
        again: Arc<Again>,
        sandbox: Arc<Sandbox>,
        meter: Arc<Meter>,
        reporter: Reporter,
        guest: BoxFuture<'static, Outcome>,
    ) -> Self {
        Self::begin(again, sandbox, meter, reporter, guest, false)
    }

    /// [`Self::spawn`] in the sandbox of a container that runs: it ends with it.
    pub fn spawn_beside(
        again: Arc<Again>,
        sandbox: Arc<Sandbox>,
        meter: Arc<Meter>,
        reporter: Reporter,
        guest: BoxFuture<'static, Outcome>,
    ) -> Self {
        Self::begin(again, sandbox, meter, reporter, guest, true)
    }

    fn begin(
        again: Arc<Again>,
        sandbox: Arc<Sandbox>,
        meter: Arc<Meter>,
        reporter: Reporter,
        guest: BoxFuture<'static, Outcome>,
        beside: bool,
    ) -> Self {
        let killed = Arc::new(Notify::new());
        let metered = Metered::new(meter.clone(), guest);
        again.guests.spawn(supervise(sandbox.clone(), killed.clone(), reporter, metered, beside));
        Self { sandbox, meter, killed, again, beside }
    }

    fn kill(&self) {
        if !self.beside {
            self.meter.kill();
            self.sandbox.ended.send_replace(true);
        }
        self.killed.notify_one();
    }
}

async fn supervise(
    sandbox: Arc<Sandbox>,
    killed: Arc<Notify>,
    reporter: Reporter,
    metered: Metered<Outcome>,
    beside: bool,
) {
    let started_at = reporter.started().await;
    let mut ended = sandbox.ended.subscribe();
    let signals = sandbox.signals.clone();
    let result = tokio::select! {
        biased;
        () = killed.notified() => Err(Interrupted::Killed),
        _ = ended.wait_for(|ended| *ended), if beside => Err(Interrupted::Killed),
        () = signals.overdue(), if !beside => Err(Interrupted::Killed),
        result = metered => result,
    };
    let end = End::of(result);
    if !end.message.is_empty() && end.code != EXIT_KILLED {
        sandbox.stderr.write_line(&end.message);
    }
    if !beside {
        sandbox.ended.send_replace(true);
        signals.disconnect();
    }
    reporter.exited(started_at, end).await;
}

#[async_trait::async_trait]
impl Container for Process {
    /// A process of WASI hears no signal: without an import of ours there is nothing to wait for.
    fn stop(&self, grace: Duration) {
        if grace.is_zero() || self.beside || !self.sandbox.spec.artifact.hears_shutdown() {
            return self.kill();
        }
        self.sandbox.signals.stop(grace);
    }

    fn usage(&self) -> Usage {
        usage(&self.sandbox, &self.meter)
    }

    async fn exec(
        &self,
        spec: ExecSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Box<dyn Container>, StartError> {
        exec(&self.again, &self.sandbox, &self.meter, spec, events)
    }

    async fn profile(&self, until: BoxFuture<'static, ()>) -> Result<Vec<u8>, StartError> {
        profile((&self.again.engine, false), &self.sandbox, until).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn usage(sandbox: &Sandbox, meter: &Meter) -> Usage {
    Usage {
        cpu_micros: meter.cpu_micros(),
        memory_bytes: sandbox.memory.used_bytes(),
        instances: 1,
        denials: sandbox.network.denials.count(),
        ..Usage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_judged() {
        assert_eq!(End::of(Ok(Ok(0))), End::completed());
        let seven = End::of(Ok(Ok(7)));
        assert_eq!((seven.code, seven.reason), (7, ExitReason::Error));
        let error = wasmtime::Error::from(OutOfMemory { wanted_bytes: 2, limit_bytes: 1 });
        let oom = End::of(Ok(Err(error.context("while growing"))));
        assert_eq!((oom.code, oom.reason), (137, ExitReason::OomKilled));
        let trap = End::of(Ok(Err(Trap::StackOverflow.into())));
        assert_eq!(trap.code, 134);
        assert!(trap.message.starts_with("trap: "), "{}", trap.message);
        assert_eq!(End::of(Err(Interrupted::Killed)).code, 137);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = cut("ä".repeat(MAX_MESSAGE_BYTES));
        assert!(text.len() <= MAX_MESSAGE_BYTES + 3 && text.ends_with('…'));
    }
}
