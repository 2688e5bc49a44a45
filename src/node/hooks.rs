//! Performs the lifecycle hooks of containers: `exec`, `httpGet` and `sleep`. When a hook is due, and what
//! follows from it, [`super::pod_hooks`] decides. One task a hook; it ends with its container.
//!
//! Source of the rules: k8s.io/kubernetes pkg/kubelet/lifecycle/handlers.go (any answer of a server
//! is a success) and pkg/kubelet/kuberuntime/kuberuntime_container.go; KEP-3960 (sleep).

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use super::http_get::HttpGet;
use super::pod_events::Event;
use super::pod_hooks::{Hook, handler};
use super::pods::PodEntry;
use super::{Shared, commands};
use crate::base::tasks::Task;
use crate::client::event::Severity;

/// What hooks call themselves (kubelet's name and our version of the API).
const AGENT: &str = "kube-lifecycle/1.35";
/// The longest that a request or a command may take. A preStop hook has the grace period at most; for
/// a postStart hook kubelet has no bound.
const LONGEST: Duration = Duration::from_secs(600);

/// Begins a hook of a container that runs. Its end is told to the pod's worker.
pub fn spawn(
    node: &Arc<Shared>,
    pod: &Arc<Pod>,
    container: &Container,
    id: &str,
    ip: IpAddr,
    hook: Hook,
    entry: &Arc<PodEntry>,
) -> Task {
    let (node, pod, entry) = (node.clone(), pod.clone(), entry.clone());
    let (container, id) = (container.clone(), id.to_string());
    let task = tokio::spawn(async move {
        let work = async {
            match handler(&container, hook) {
                Some(handler) => run(&node, &entry, handler, &container, ip).await,
                None => Ok(()),
            }
        };
        let result = AssertUnwindSafe(work).catch_unwind().await;
        let result = result.unwrap_or_else(|_| Err("the node failed unexpectedly".into()));
        if let Err(why) = &result {
            let (reason, text) = match hook {
                Hook::PostStart => ("FailedPostStartHook", format!("PostStartHook failed: {why}")),
                Hook::PreStop => ("FailedPreStopHook", format!("PreStopHook failed: {why}")),
            };
            node.tell_of(&pod, &container.name, Severity::Warning, reason, text);
        }
        entry.inbox.event(Event::HookEnded { id, hook, passed: result.is_ok() });
    });
    Task(task.abort_handle())
}

async fn run(
    node: &Shared,
    entry: &PodEntry,
    handler: &LifecycleHandler,
    container: &Container,
    ip: IpAddr,
) -> Result<(), String> {
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        node.clock.sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    let work = async {
        if let Some(exec) = &handler.exec {
            let command = exec.command.as_deref().unwrap_or_default();
            return commands::run(node, entry, &container.name, command).await;
        }
        let Some(get) = &handler.http_get else {
            return Err("a connection is no hook".to_string());
        };
        let get = HttpGet::of(get, container, ip)?;
        get.send(AGENT).await.map(drop).map_err(|why| format!("{get}: {why}"))
    };
    let late = |_| Err(format!("it took longer than {} s", LONGEST.as_secs()));
    tokio::time::timeout(LONGEST, work).await.unwrap_or_else(late)
}
