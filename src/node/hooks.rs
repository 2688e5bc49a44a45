//! Performs the lifecycle hooks of containers: `httpGet` and `sleep`. When a hook is due, and what
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

use super::Shared;
use super::http_get::HttpGet;
use super::inbox::Inbox;
use super::pod_hooks::{Hook, handler};
use super::pod_state::Event;
use crate::base::tasks::Task;
use crate::client::event::Severity;

/// What hooks call themselves (kubelet's name and our version of the API).
const AGENT: &str = "kube-lifecycle/1.35";
/// The longest that a server may take to answer a hook. A preStop hook has the grace period at
/// most; for a postStart hook kubelet has no bound.
const LONGEST_ANSWER: Duration = Duration::from_secs(600);

/// Begins a hook of a container that runs. Its end is told to the pod's worker.
pub fn spawn(
    node: &Arc<Shared>,
    pod: &Arc<Pod>,
    container: &Container,
    id: &str,
    ip: IpAddr,
    hook: Hook,
    inbox: &Arc<Inbox>,
) -> Task {
    let (node, pod, inbox) = (node.clone(), pod.clone(), inbox.clone());
    let (container, id) = (container.clone(), id.to_string());
    let task = tokio::spawn(async move {
        let work = async {
            match handler(&container, hook) {
                Some(handler) => run(&node, handler, &container, ip).await,
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
        inbox.event(Event::HookEnded { id, hook, passed: result.is_ok() });
    });
    Task(task.abort_handle())
}

async fn run(
    node: &Shared,
    handler: &LifecycleHandler,
    container: &Container,
    ip: IpAddr,
) -> Result<(), String> {
    if let Some(sleep) = &handler.sleep {
        let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
        node.clock.sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    let Some(get) = &handler.http_get else {
        return Err("only httpGet and sleep hooks can be run for Wasm containers".into());
    };
    let get = HttpGet::of(get, container, ip)?;
    match tokio::time::timeout(LONGEST_ANSWER, get.send(AGENT)).await {
        Ok(answer) => answer.map(drop).map_err(|why| format!("{get}: {why}")),
        Err(_) => Err(format!("{get}: no answer within {} s", LONGEST_ANSWER.as_secs())),
    }
}
