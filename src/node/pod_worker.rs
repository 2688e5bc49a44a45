//! Owns one pod on this node: takes what happened from its inbox, lets the state machine decide, has
//! the actions performed (`actions`), and gives the status to its writer. It decides nothing
//! itself.

mod actions;

use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};

use super::container::tell_default_limit;
use super::container_state::container_id;
use super::inbox::{Desired, Inbox, Message};
use super::ip::PodIp;
use super::pod_events::Event;
use super::pod_hooks::Hook;
use super::pod_state::{PodState, Sandbox};
use super::pod_status::{address_to_keep, has_ended, render};
use super::pod_step::{Action, DEADLINE_MESSAGE, DEADLINE_REASON};
use super::pods::{Object, PodEntry, Running};
use super::restore::restore;
use super::setup::SetupError;
use super::start::{StartFailure, Started, start_error};
use super::static_pods::StatusSink;
use super::streams::Console;
use super::termination::LastWords;
use super::usage::Looks;
use super::{Shared, admission::Refusal};
use crate::base::tasks::Task;
use crate::client::event::{Notice, Severity};
use crate::runtime::Container;
use crate::volumes::Objects;

/// So long after its last turn a worker lets go of the decoded pod.
const REST_AFTER: Duration = Duration::from_secs(5);

/// What the state of a pod at rest holds in place of its object.
static NO_POD: LazyLock<Arc<Pod>> = LazyLock::new(Arc::default);

/// A running container and what belongs to it.
struct Live {
    id: String,
    container: Arc<dyn Container>,
    console: Arc<Console>,
    last_words: LastWords,
    /// They end with the container.
    probes: Option<Task>,
    hook: Option<Task>,
}

/// Worker of one pod.
pub struct PodWorker {
    node: Arc<Shared>,
    inbox: Arc<Inbox>,
    state: PodState,
    entry: Arc<PodEntry>,
    status: StatusSink,
    /// Containers by name.
    live: HashMap<String, Live>,
    /// Starts under way, and their attempts.
    starting: HashMap<String, (i32, Task)>,
    /// Images of volumes that kept containers from starting last, by container.
    unpulled: HashMap<String, String>,
    /// What came of containers whose start was not reported yet, by id.
    early: HashMap<String, Vec<Event>>,
    setting_up: Option<Task>,
    refreshing: Option<Task>,
    ip: Option<PodIp>,
    /// The address that is kept for the pod from before the agent started.
    kept_ip: Option<IpAddr>,
    /// The decoded object was let go of: the state has an empty one meanwhile.
    rests: bool,
    objects: Arc<Objects>,
    fetched_at: Timestamp,
    /// Held while the pod's directory is written or removed.
    files: Arc<tokio::sync::Mutex<()>>,
}

impl PodWorker {
    /// Of a pod that the node takes, or refused.
    pub fn new(
        node: Arc<Shared>,
        object: Object,
        inbox: Arc<Inbox>,
        admitted: Result<(), Refusal>,
    ) -> PodWorker {
        let (now, pod) = (node.clock.now(), object.pod());
        let mut state = PodState::new(pod.clone(), node.options.timing, now);
        let kept_ip = address_to_keep(&pod);
        restore(&mut state, now);
        if let Err(Refusal { reason, message }) = admitted {
            node.tell(Notice::warning(&*pod, reason.clone(), message.clone()));
            state.apply(Event::Refused { reason, message }, now);
        }
        let entry = node.pods.insert(object, &inbox);
        let status = StatusSink::new(node.clone(), pod, &inbox);
        PodWorker {
            node,
            inbox,
            state,
            entry,
            status,
            live: HashMap::new(),
            starting: HashMap::new(),
            unpulled: HashMap::new(),
            early: HashMap::new(),
            setting_up: None,
            refreshing: None,
            ip: None,
            kept_ip,
            rests: false,
            objects: Arc::default(),
            fetched_at: now,
            files: Arc::default(),
        }
    }

    /// Runs until nothing of the pod is left on the node.
    pub async fn run(mut self) {
        while let Some(wake_at) = self.turn() {
            let now = self.node.clock.now();
            let wait = |at: Timestamp| Duration::try_from(at.duration_since(now));
            let wait = wake_at.map(|at| wait(at).unwrap_or(Duration::ZERO));
            if wait.is_some_and(|wait| wait <= REST_AFTER) {
                self.wait(wait).await;
            } else if !self.wait(Some(REST_AFTER)).await {
                self.rest();
                self.wait(wait.map(|wait| wait - REST_AFTER)).await;
            }
        }
        self.node.pods.remove(&self.state.pod);
        self.release_address();
        let dir = self.node.pod_log_dir(&self.state.pod);
        let removed = tokio::task::spawn_blocking(move || crate::volumes::writer::remove(&dir));
        if let Ok(Err(error)) = removed.await {
            tracing::warn!(uid = self.state.uid(), %error, "a pod's logs are left behind");
        }
    }

    /// Until something comes in, or at most so long. Whether something came in.
    async fn wait(&self, most: Option<Duration>) -> bool {
        let Some(most) = most else {
            self.inbox.ready().await;
            return true;
        };
        tokio::select! {
            () = self.inbox.ready() => true,
            () = self.node.clock.sleep(most) => false,
        }
    }

    /// Lets go of the decoded object, unless something is under way.
    fn rest(&mut self) {
        let refreshing = self.refreshing.as_ref().is_some_and(|task| !task.0.is_finished());
        let is_idle = self.setting_up.is_none() && self.starting.is_empty() && !refreshing;
        if is_idle && self.status.rest() {
            self.rests = self.entry.rest();
            if self.rests {
                self.state.pod = NO_POD.clone();
            } else {
                self.status.observe(&self.state.pod);
            }
        }
    }

    fn wake(&mut self) {
        if std::mem::take(&mut self.rests) {
            self.state.pod = self.entry.wake();
            self.status.observe(&self.state.pod);
        }
    }

    /// One turn; `None` when the pod is done, else when to take the next one at the latest.
    fn turn(&mut self) -> Option<Option<Timestamp>> {
        self.wake();
        let batch = self.inbox.drain();
        let now = self.node.clock.now();
        match batch.desired {
            Some(Desired::Pod(object)) => {
                let pod = object.pod();
                self.status.observe(&pod);
                self.entry.set_object(object);
                self.state.apply(Event::Desired(pod), now);
            }
            Some(Desired::Gone) => self.state.apply(Event::Gone, now),
            None => {}
        }
        for message in batch.messages {
            self.take(message, now);
        }
        let step = self.state.step(now);
        let delete = step.actions.contains(&Action::DeleteObject);
        for action in step.actions {
            self.perform(action);
        }
        for name in &step.backed_off {
            self.tell_back_off(name);
        }
        if step.is_overdue {
            let pod = &*self.state.pod;
            self.node.tell(Notice::normal(pod, DEADLINE_REASON, DEADLINE_MESSAGE));
        }
        if step.done {
            return None;
        }
        if has_ended(&self.state) {
            // Before the status says so: the scheduler gives its place to another pod then.
            self.node.admission.release(self.state.uid());
        }
        if !step.hold_status {
            let status = render(&self.state, &self.node.facts.host_ip_text, now);
            self.entry.set_statuses(&status);
            self.status.submit(status);
        }
        if delete {
            // After the last status.
            self.status.delete();
        }
        Some(step.wake_at)
    }

    fn take(&mut self, message: Message, now: Timestamp) {
        match message {
            Message::Event(event) => self.take_event(event, now),
            Message::SetUp(result) => self.take_setup(result, now),
            Message::Start { container, attempt, result } => {
                self.take_start(container, attempt, result, now);
            }
            Message::TornDown => {
                self.ip = None;
                self.release_address();
                self.state.apply(Event::TornDown, now);
            }
            Message::Refresh => self.refresh(),
            Message::Refreshed(newer) => self.objects = self.objects.clone().with(&newer),
        }
    }

    fn take_event(&mut self, mut event: Event, now: Timestamp) {
        if let Event::Exited { id, .. } | Event::Readiness { id, .. } = &event {
            if self.is_starting(id) {
                // First things first: its start is about to be reported.
                self.early.entry(id.clone()).or_default().push(event);
                return;
            }
            if let Event::Exited { id, exit } = &mut event
                && let Some((name, _)) = self.live.iter().find(|(_, live)| live.id == *id)
                && let Some(container) = self.state.container_spec(name)
            {
                tell_default_limit(exit, container);
            }
            if let Event::Exited { id, exit } = &event
                && let Some(live) = self.forget_live(id)
                && live.last_words.is_expected(exit)
            {
                self.read_last_words(live, id.clone(), exit.clone());
                return;
            }
        }
        let passed = match &event {
            Event::HookEnded { id, hook: Hook::PostStart, passed: true } => Some(id.clone()),
            _ => None,
        };
        self.state.apply(event, now);
        let of = |id: &String| self.live.iter().find(|(_, live)| live.id == *id);
        if let Some(name) = passed.as_ref().and_then(of).map(|(name, _)| name.clone()) {
            self.probe(&name);
        }
    }

    /// The exit comes again with what the container left as its message.
    fn read_last_words(&self, live: Live, id: String, exit: ContainerStateTerminated) {
        let Live { last_words, console, .. } = live;
        let inbox = self.inbox.clone();
        tokio::spawn(async move {
            let mut told = exit.clone();
            let work = last_words.add_to(&mut told, console.log.clone());
            let exit = match AssertUnwindSafe(work).catch_unwind().await {
                Ok(()) => told,
                Err(_) => exit,
            };
            inbox.event(Event::Exited { id, exit });
        });
    }

    fn is_starting(&self, id: &str) -> bool {
        let mut starting = self.starting.iter();
        starting.any(|(name, (attempt, _))| container_id(self.state.uid(), name, *attempt) == id)
    }

    fn forget_live(&mut self, id: &str) -> Option<Live> {
        let name = self.live.iter().find(|(_, live)| live.id == id).map(|(name, _)| name.clone());
        let (name, live) = self.live.remove_entry(&name?)?;
        self.entry.ended(&name, &live.console);
        live.console.close();
        Some(live)
    }

    /// A container waits before its next try (kubelet's words).
    fn tell_back_off(&self, name: &str) {
        let Some(container) = self.state.find(name) else { return };
        if container.failure.is_some() {
            let text = format!("Back-off pulling image {:?}", self.image_of(name));
            self.tell_of(name, Severity::Normal, "BackOff", text);
            return;
        }
        let meta = &self.state.pod.metadata;
        let text = format!(
            "Back-off restarting failed container {name} in pod {}_{}({})",
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
            self.state.uid(),
        );
        self.tell_of(name, Severity::Warning, "BackOff", text);
    }

    /// The image that a container waits for: a volume's, or its own.
    fn image_of(&self, container: &str) -> &str {
        let own = || self.state.container_spec(container)?.image.as_deref();
        let volumes = self.unpulled.get(container).map(String::as_str);
        volumes.or_else(own).unwrap_or_default()
    }

    fn tell_of(&self, container: &str, severity: Severity, reason: &'static str, text: String) {
        self.node.tell_of(&self.state.pod, container, severity, reason, text);
    }

    /// The address that was kept for the pod is its own now, or free.
    fn release_address(&mut self) {
        if let Some(ip) = self.kept_ip.take() {
            self.node.ips.release(ip);
        }
    }

    fn take_setup(&mut self, result: Result<(PodIp, Objects), SetupError>, now: Timestamp) {
        self.setting_up = None;
        match result {
            Ok((ip, objects)) => {
                if self.state.sandbox != Sandbox::SettingUp {
                    return;
                }
                self.state.apply(Event::SandboxReady { ip: ip.ip }, now);
                self.ip = Some(ip);
                self.release_address();
                self.objects = Arc::new(objects);
                self.fetched_at = now;
            }
            Err(SetupError { reason, message }) => {
                self.node.tell(Notice::warning(&*self.state.pod, reason, message.clone()));
                self.state.apply(Event::SandboxFailed { reason: reason.into(), message }, now);
            }
        }
    }

    fn take_start(
        &mut self,
        name: String,
        attempt: i32,
        result: Result<Started, StartFailure>,
        now: Timestamp,
    ) {
        if self.starting.get(&name).is_some_and(|(newest, _)| *newest == attempt) {
            self.starting.remove(&name);
        }
        let id = container_id(self.state.uid(), &name, attempt);
        match result {
            Ok(started) => self.take_started(name, attempt, started, now),
            Err(failure) => self.take_failure(name, attempt, failure, now),
        }
        for event in self.early.remove(&id).unwrap_or_default() {
            self.take_event(event, now);
        }
    }

    fn take_started(&mut self, name: String, attempt: i32, started: Started, now: Timestamp) {
        let Started { id, container, image_id, console, programs, mounts, .. } = started;
        let Started { last_words, serves, tells_readiness, .. } = started;
        let event = Event::Started { container: name.clone(), attempt, image_id, serves };
        self.state.apply(event, now);
        let current = self.state.find(&name).filter(|c| c.running().is_some());
        if current.is_none_or(|c| self.state.container_id(c) != id) {
            // It ended or was given up meanwhile; dropping the handle kills what is left.
            self.node.pleg.forget(&id);
            console.close();
            return;
        }
        if tells_readiness {
            self.state.apply(Event::Readiness { id: id.clone(), ready: false }, now);
        }
        let text = format!("Started container {name}");
        self.tell_of(&name, Severity::Normal, "Started", text);
        let weak = Arc::downgrade(&container);
        let looks = Arc::new(Looks::since(now));
        let running =
            Running { console: console.clone(), container: weak, programs, mounts, looks };
        self.entry.started(&name, running);
        let live = Live { id, container, console, last_words, probes: None, hook: None };
        self.live.insert(name.clone(), live);
        if !self.state.find(&name).is_some_and(|c| c.waits_for_hook()) {
            self.probe(&name);
        }
    }

    fn take_failure(&mut self, name: String, attempt: i32, failure: StartFailure, now: Timestamp) {
        let StartFailure { reason, message, retry, ran, image } = failure;
        match image {
            Some(image) => self.unpulled.insert(name.clone(), image),
            None => self.unpulled.remove(&name),
        };
        let text = match reason {
            "ErrImagePull" => format!("Failed to pull image {:?}: {message}", self.image_of(&name)),
            _ => format!("container {name}: {message}"),
        };
        self.tell_of(&name, Severity::Warning, "Failed", text);
        if ran {
            let id = container_id(self.state.uid(), &name, attempt);
            let exit = start_error(&id, reason, message, now);
            self.state.apply(Event::Exited { id, exit }, now);
            return;
        }
        let reason = reason.to_string();
        let event = Event::StartFailed { container: name, attempt, reason, message, retry };
        self.state.apply(event, now);
    }
}
