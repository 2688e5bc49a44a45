//! Sends a pod's status to the API: at most one write under way per pod, the newest status wins,
//! a conflict is merged onto the newest object. The final deletion goes the same way, after the
//! last status. A write that fails is repeated with growing waits while the API is away.
//!
//! Others write here too: the control plane marks the pods of a node that it cannot hear as not
//! ready. What the object says is therefore compared with what was told, and told again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::task::AbortHandle;

use super::Shared;
use super::pod_status::merge;
use crate::api::ApiError;
use crate::client::cache::parse_revision;
use crate::client::{Client, DeleteOptions};

/// The wait after a failed write, doubling to the most.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MOST_RETRY: Duration = Duration::from_secs(10);
/// The wait before a status that somebody overwrote is told again: the two must not write in turns
/// as fast as they can.
const REPEAT_WAIT: Duration = Duration::from_secs(1);

/// The status and deletion of one pod. Dropping it gives up what is not sent.
pub struct StatusWriter {
    node: Arc<Shared>,
    slot: Arc<Mutex<Slot>>,
}

struct Slot {
    uid: String,
    /// The newest object known; `None` while the pod rests.
    base: Option<Arc<Pod>>,
    /// Of that object.
    revision: u64,
    pending: Option<Box<PodStatus>>,
    /// The digest of the last status that was given: a pod rests for hours with it.
    told: Option<Told>,
    delete: bool,
    /// The object is gone or is another one: nothing is sent any more.
    gone: bool,
    writing: Option<AbortHandle>,
    /// Waits to tell the newest status again.
    repeating: Option<(AbortHandle, Box<PodStatus>)>,
}

type Told = [u8; 32];

/// `None` if it cannot be written as JSON, which it always can.
fn digest(status: &PodStatus) -> Option<Told> {
    let mut digest = Sha256::new();
    serde_json::to_writer(&mut digest, status).ok()?;
    Some(digest.finalize().into())
}

impl Drop for StatusWriter {
    fn drop(&mut self) {
        let mut slot = self.slot.lock();
        let repeating = slot.repeating.take().map(|(task, _)| task);
        for task in [slot.writing.take(), repeating].into_iter().flatten() {
            task.abort();
        }
    }
}

impl StatusWriter {
    pub fn new(node: Arc<Shared>, pod: Arc<Pod>) -> StatusWriter {
        let slot = Slot {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            revision: revision(&pod),
            base: Some(pod),
            pending: None,
            told: None,
            delete: false,
            gone: false,
            writing: None,
            repeating: None,
        };
        StatusWriter { node, slot: Arc::new(Mutex::new(slot)) }
    }

    /// A newer object came from the watch.
    pub fn observe(&self, pod: &Arc<Pod>) {
        self.slot.lock().observe(pod);
    }

    /// Lets go of the object, unless something is on its way; [`StatusWriter::observe`] brings it back.
    pub fn rest(&self) -> bool {
        let mut slot = self.slot.lock();
        let rests = slot.writing.is_none() && slot.pending.is_none() && slot.repeating.is_none();
        if rests {
            slot.base = None;
        }
        rests
    }

    /// Gives the newest status; it is sent unless the API has it already.
    pub fn submit(&self, status: PodStatus) {
        let mut slot = self.slot.lock();
        if slot.gone {
            return;
        }
        let (told, status) = (digest(&status), Box::new(status));
        if told.is_some() && slot.told == told {
            if slot.repeating.is_none() && slot.is_overwritten(&status, self.node.clock.now()) {
                let (node, shared) = (self.node.clone(), self.slot.clone());
                let task = tokio::spawn(async move { repeat(node, shared).await });
                slot.repeating = Some((task.abort_handle(), status));
            }
            return;
        }
        slot.told = told;
        if let Some((_, repeated)) = &mut slot.repeating {
            repeated.clone_from(&status);
        }
        slot.pending = Some(status);
        wake(&self.node, &self.slot, &mut slot);
    }

    /// Deletes the object for good once the last status is sent.
    pub fn delete(&self) {
        let mut slot = self.slot.lock();
        slot.delete = true;
        wake(&self.node, &self.slot, &mut slot);
    }
}

fn wake(node: &Arc<Shared>, shared: &Arc<Mutex<Slot>>, slot: &mut Slot) {
    if slot.writing.is_none() {
        let (node, shared) = (node.clone(), shared.clone());
        let task = tokio::spawn(async move { write_all(&node, &shared).await });
        slot.writing = Some(task.abort_handle());
    }
}

/// Tells the last status once more, if after a while the object still says something else.
async fn repeat(node: Arc<Shared>, shared: Arc<Mutex<Slot>>) {
    node.clock.sleep(REPEAT_WAIT).await;
    let mut slot = shared.lock();
    let Some((_, status)) = slot.repeating.take() else { return };
    if slot.is_overwritten(&status, node.clock.now()) {
        slot.pending = Some(status);
        wake(&node, &shared, &mut slot);
    }
}

impl Slot {
    fn observe(&mut self, pod: &Arc<Pod>) {
        if pod.metadata.uid.as_ref() != Some(&self.uid) {
            self.gone = true;
        } else if self.base.is_none() || revision(pod) >= self.revision {
            self.revision = revision(pod);
            self.base = Some(pod.clone());
        }
    }

    /// [`Slot::observe`] of an answer. Where the watch brought the same object already, that one stays:
    /// others hold it too.
    fn observe_answer(&mut self, pod: Pod) {
        if pod.metadata.uid.as_ref() != Some(&self.uid) || revision(&pod) > self.revision {
            self.observe(&Arc::new(pod));
        }
    }

    /// Whether the newest object differs from what was told, though nothing is on its way.
    fn is_overwritten(&self, told: &PodStatus, now: Timestamp) -> bool {
        if self.gone || self.writing.is_some() || self.pending.is_some() {
            return false;
        }
        // One at rest was compared before it rested.
        let Some(base) = &self.base else { return false };
        let base = base.status.as_ref();
        base != Some(&merge(base, told.clone(), now))
    }
}

fn revision(pod: &Pod) -> u64 {
    parse_revision(pod.metadata.resource_version.as_deref().unwrap_or_default())
}

/// What is to be sent next.
enum Next {
    Status(Arc<Pod>, Box<PodStatus>),
    Delete(Arc<Pod>),
    Nothing,
}

fn next(slot: &mut Slot) -> Next {
    if slot.gone {
        slot.writing = None;
        return Next::Nothing;
    }
    if let Some(base) = &slot.base {
        if let Some(status) = slot.pending.take() {
            return Next::Status(base.clone(), status);
        }
        if std::mem::take(&mut slot.delete) {
            return Next::Delete(base.clone());
        }
    }
    // Under the lock: whoever gives more after this begins a new task.
    slot.writing = None;
    Next::Nothing
}

async fn write_all(node: &Shared, slot: &Mutex<Slot>) {
    let mut wait = FIRST_RETRY;
    loop {
        // Waited for first, so that what is sent is the newest. It is never closed.
        let permit = node.status_permits.acquire().await;
        let step = next(&mut slot.lock());
        let result = match &step {
            Next::Nothing => return,
            Next::Status(base, status) => write_status(node, base, PodStatus::clone(status)).await,
            Next::Delete(base) => delete(&node.client, base).await.map(|()| None),
        };
        let error = match result {
            Ok(new) => {
                if let Some(new) = new {
                    slot.lock().observe_answer(new);
                }
                wait = FIRST_RETRY;
                continue;
            }
            Err(error) if error.is_not_found() => {
                slot.lock().gone = true;
                continue;
            }
            Err(error) => error,
        };
        give_back(&mut slot.lock(), step);
        if error.is_conflict() {
            refetch(node, slot).await;
        } else {
            tracing::debug!(%error, "a pod's status was not written");
        }
        drop(permit);
        node.clock.sleep(wait).await;
        wait = (wait * 2).min(MOST_RETRY);
    }
}

/// A failed write comes again, unless a newer one waits already.
fn give_back(slot: &mut Slot, step: Next) {
    match step {
        Next::Status(_, status) => drop(slot.pending.get_or_insert(status)),
        Next::Delete(_) => slot.delete = true,
        Next::Nothing => {}
    }
}

async fn refetch(node: &Shared, slot: &Mutex<Slot>) {
    let Some(base) = slot.lock().base.clone() else { return };
    let (namespace, name) = key(&base);
    match node.client.get::<Pod>(namespace, name).await {
        Ok(pod) => slot.lock().observe_answer(pod),
        Err(error) if error.is_not_found() => slot.lock().gone = true,
        Err(error) => tracing::debug!(%error, "a pod was not read again"),
    }
}

fn key(pod: &Pod) -> (&str, &str) {
    let meta = &pod.metadata;
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// Writes a status on top of an object; `None` if the object has it.
async fn write_status(
    node: &Shared,
    base: &Pod,
    status: PodStatus,
) -> Result<Option<Pod>, ApiError> {
    let merged = merge(base.status.as_ref(), status, node.clock.now());
    if base.status.as_ref() == Some(&merged) {
        return Ok(None);
    }
    let pod =
        Pod { metadata: base.metadata.clone(), spec: base.spec.clone(), status: Some(merged) };
    node.client.update_status(&pod).await.map(Some)
}

async fn delete(client: &Client, pod: &Pod) -> Result<(), ApiError> {
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        uid: pod.metadata.uid.clone(),
        ..DeleteOptions::default()
    };
    let (namespace, name) = key(pod);
    client.delete::<Pod>(namespace, name, &options).await
}
