//! Performs what the state machine of a pod decided: as tasks that report back to the worker's inbox,
//! and as calls to running containers.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;

use super::PodWorker;
use crate::base::tasks::Task;
use crate::client::event::Severity;
use crate::node::container_state::{Doom, container_id};
use crate::node::inbox::Message;
use crate::node::pod_events::KILLED_CODE;
use crate::node::pod_hooks::{Hook, PreStop};
use crate::node::pod_state::{Sandbox, spec};
use crate::node::pod_step::Action;
use crate::node::setup::{self, Place, SetupError};
use crate::node::start::{self, StartFailure};
use crate::node::{hooks, probes, volumes_check};

impl PodWorker {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::SetUp => self.set_up(),
            Action::Start { container, attempt } => self.start(container, attempt),
            Action::Hook { container, hook } => self.run_hook(&container, hook),
            Action::Drain { container } => {
                if let Some(live) = self.live.get(&container) {
                    live.container.drain();
                }
            }
            Action::Stop { container, grace } => self.stop(&container, grace),
            Action::Cancel { container: Some(name) } => {
                if let Some((attempt, _)) = self.starting.remove(&name) {
                    let id = container_id(self.state.uid(), &name, attempt);
                    self.early.remove(&id);
                    self.node.pleg.forget(&id);
                }
            }
            Action::Cancel { container: None } => self.setting_up = None,
            Action::TearDown => self.tear_down(),
            // Asked for after the last status, at the end of the turn.
            Action::DeleteObject => {}
        }
    }

    fn set_up(&mut self) {
        let (node, inbox) = (self.node.clone(), self.inbox.clone());
        let (pod, files) = (self.state.pod.clone(), self.files.clone());
        let preferred = self.kept_ip;
        let task = tokio::spawn(async move {
            let work = setup::set_up(&node, &pod, preferred, files);
            let result = AssertUnwindSafe(work).catch_unwind().await;
            let result = result.unwrap_or_else(|_| {
                let message = "the node's setup failed unexpectedly".to_string();
                Err(SetupError { reason: "FailedCreatePodSandBox", message })
            });
            inbox.push(Message::SetUp(result));
        });
        self.setting_up = Some(Task(task.abort_handle()));
    }

    fn start(&mut self, name: String, attempt: i32) {
        let Some(ip) = self.state.ip() else { return };
        let (node, inbox) = (self.node.clone(), self.inbox.clone());
        let place = Place {
            pod: self.state.pod.clone(),
            dir: self.node.pod_dir(self.state.uid()),
            ip,
            objects: self.objects.clone(),
            fetched_at: self.fetched_at,
            files: self.files.clone(),
        };
        let container = name.clone();
        let task = tokio::spawn(async move {
            let work = start::start(&node, &place, &container, attempt, &inbox);
            let result = AssertUnwindSafe(work).catch_unwind().await;
            let result = result.unwrap_or_else(|_| {
                let message = "the node failed unexpectedly".to_string();
                Err(StartFailure::new("CreateContainerError", message, true))
            });
            inbox.push(Message::Start { container, attempt, result });
        });
        self.starting.insert(name, (attempt, Task(task.abort_handle())));
    }

    fn stop(&mut self, name: &str, grace: Duration) {
        let running = self.state.find(name).and_then(|c| c.running());
        // Before a preStop hook it was told.
        if running.is_some_and(|running| running.pre_stop == PreStop::NotBegun) {
            self.tell_killing(name);
        }
        let Some(live) = self.live.get_mut(name) else { return };
        live.hook = None;
        live.container.stop(grace);
    }

    fn tell_killing(&self, name: &str) {
        if !self.live.contains_key(name) {
            return;
        }
        let container = self.state.find(name);
        let running = container.and_then(|c| c.running());
        let text = match running.and_then(|running| running.doomed) {
            Some(Doom::Probe(kind)) => {
                let kind = format!("{kind:?}").to_lowercase();
                let is_restarted = container.is_some_and(|c| self.state.restarts(c, KILLED_CODE));
                let what = if is_restarted { ", will be restarted" } else { "" };
                format!("Container {name} failed {kind} probe{what}")
            }
            Some(Doom::PostStart) => "FailedPostStartHook".to_string(),
            None => format!("Stopping container {name}"),
        };
        self.tell_of(name, Severity::Normal, "Killing", text);
    }

    fn tear_down(&mut self) {
        self.setting_up = None;
        self.refreshing = None;
        let (node, inbox) = (self.node.clone(), self.inbox.clone());
        let (pod, files) = (self.state.pod.clone(), self.files.clone());
        tokio::spawn(async move {
            setup::tear_down(&node, &pod, files).await;
            inbox.push(Message::TornDown);
        });
    }

    /// Volumes follow their objects.
    pub(super) fn refresh(&mut self) {
        let Sandbox::Ready { ip } = self.state.sandbox else { return };
        if self.state.ending.is_some() || spec(&self.state.pod).volumes.is_none() {
            return;
        }
        let (node, pod, files) = (self.node.clone(), self.state.pod.clone(), self.files.clone());
        let inbox = self.inbox.clone();
        let task = tokio::spawn(async move {
            if let Some(objects) = volumes_check::refresh(&node, &pod, ip, files).await {
                inbox.push(Message::Refreshed(objects));
            }
        });
        self.refreshing = Some(Task(task.abort_handle()));
    }

    /// Begins the probes of a container that is up.
    pub(super) fn probe(&mut self, name: &str) {
        let (Some(live), Some(ip)) = (self.live.get_mut(name), self.state.ip()) else { return };
        if let Some(spec) = self.state.container_spec(name) {
            let pod = &self.state.pod;
            live.probes = probes::spawn(&self.node, pod, spec, &live.id, ip, &self.entry);
        }
    }

    fn run_hook(&mut self, name: &str, hook: Hook) {
        if hook == Hook::PreStop {
            self.tell_killing(name);
        }
        let (Some(live), Some(ip)) = (self.live.get_mut(name), self.state.ip()) else { return };
        if let Some(spec) = self.state.container_spec(name) {
            let pod = &self.state.pod;
            let task = hooks::spawn(&self.node, pod, spec, &live.id, ip, hook, &self.entry);
            live.hook = Some(task);
        }
    }
}
