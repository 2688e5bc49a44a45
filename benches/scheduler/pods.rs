//! Creating pods from many connections, and seeing by one watch when they are bound and run.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use wasmfleet::client::remote::Remote;
use wasmfleet::client::{Api, ListOptions, Target, WatchEvent, WatchOptions};

use crate::rig::Rig;
use crate::templates::Template;
use crate::workloads::Pods;

/// Connections from which pods are created.
pub const CLIENTS: usize = 64;
/// The longest that all pods of a workload may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// When things were first seen of a pod.
#[derive(Clone, Copy)]
pub struct Times {
    pub created: Instant,
    pub bound: Option<Instant>,
    pub running: Option<Instant>,
}

/// What a watch of all pods has seen.
#[derive(Default)]
pub struct Seen {
    pods: Mutex<Tally>,
    change: Notify,
}

#[derive(Default)]
struct Tally {
    times: HashMap<String, Times>,
    bound: usize,
    running: usize,
}

#[derive(Deserialize)]
struct Slim<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow, default)]
    node_name: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
struct Status<'a> {
    #[serde(borrow, default)]
    phase: Cow<'a, str>,
}

impl Seen {
    /// Watches from now on, of pods whose names begin with `prefix`, until the rig ends.
    pub async fn watch(remote: &Remote, prefix: &'static str) -> anyhow::Result<Arc<Seen>> {
        let seen = Arc::new(Seen::default());
        let target = Target::all::<Pod>(None);
        let options = ListOptions { limit: 1, ..ListOptions::default() };
        let resource_version = remote.list(&target, &options).await?.resource_version;
        let options =
            WatchOptions { resource_version, timeout: Some(LIMIT), ..WatchOptions::default() };
        let mut events = remote.watch(&target, &options).await?;
        let notes = seen.clone();
        tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                notes.take_in(&event, prefix);
            }
        });
        Ok(seen)
    }

    fn take_in(&self, event: &WatchEvent, prefix: &str) {
        let Some(raw) = event.raw() else { return };
        let Ok(pod) = serde_json::from_slice::<Slim<'_>>(&raw.0) else { return };
        if !pod.metadata.name.starts_with(prefix) {
            return;
        }
        let now = Instant::now();
        let mut tally = self.pods.lock();
        let Tally { times, bound, running } = &mut *tally;
        let fresh = || Times { created: now, bound: None, running: None };
        let times = times.entry(pod.metadata.name.into_owned()).or_insert_with(fresh);
        if !pod.spec.node_name.is_empty() && times.bound.is_none() {
            times.bound = Some(now);
            *bound += 1;
        }
        if pod.status.phase == "Running" && times.running.is_none() {
            times.running = Some(now);
            *running += 1;
        }
        drop(tally);
        self.change.notify_one();
    }

    /// Waits until so many pods run.
    pub async fn wait_running(&self, count: usize) -> anyhow::Result<()> {
        let wait = async {
            loop {
                let changed = self.change.notified();
                if self.pods.lock().running >= count {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(LIMIT, wait).await;
        waited.with_context(|| {
            let tally = self.pods.lock();
            format!("{} of {count} run, {} are bound", tally.running, tally.bound)
        })
    }

    pub fn times(&self) -> Vec<Times> {
        self.pods.lock().times.values().copied().collect()
    }
}

/// Creates pods as fast as the clients can, or at a rate for each second.
pub async fn create(
    rig: &Rig,
    pods: &Pods,
    prefix: &'static str,
    rate: Option<usize>,
) -> anyhow::Result<()> {
    let (space, spaces) = pods.namespaces;
    let (template, count) = (pods.template, pods.count);
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for client in 0..CLIENTS.min(count) {
        let mut connection = rig.connect().await?;
        tasks.spawn(async move {
            for n in (client..count).step_by(CLIENTS) {
                if let Some(rate) = rate {
                    let at = begin + Duration::from_secs_f64(n as f64 / rate as f64);
                    tokio::time::sleep_until(at.into()).await;
                }
                let namespace = match spaces {
                    1 => space.to_string(),
                    spaces => format!("{space}-{}", n % spaces),
                };
                post(&mut connection, template, &namespace, &format!("{prefix}-{n}")).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Creates one pod.
pub async fn post(
    connection: &mut crate::connection::Connection,
    template: Template,
    namespace: &str,
    name: &str,
) -> anyhow::Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let body = template.pod(namespace, name).to_string();
    let answer = connection.post(&path, body.as_bytes()).await?;
    let text = String::from_utf8_lossy(answer.body);
    anyhow::ensure!(answer.status == 201, "{name} was answered {}: {text}", answer.status);
    Ok(())
}
