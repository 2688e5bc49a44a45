//! Sets a pod's sandbox up, in ordered steps that each have an undo; its containers are `start.rs`'s.
//! Every undo is safe when its step never ran, so tearing down after a crash is the same as after
//! a failure half-way. What to do and when is decided by the state machine, not here.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};

use super::ip::PodIp;
use super::pod_state::spec;
use super::sources::{self, Freshness};
use super::{Shared, env, local_volumes, workload};
use crate::client::event::Notice;
use crate::volumes::{self, Need, Objects, VolumeError, empty_dir};

/// What all starts of a pod share.
#[derive(Clone)]
pub struct Place {
    pub pod: Arc<Pod>,
    pub dir: PathBuf,
    pub ip: IpAddr,
    /// The objects that volumes and environments are made from, and when they were fetched.
    pub objects: Arc<Objects>,
    pub fetched_at: Timestamp,
    /// Held while the pod's directory is written or removed.
    pub files: Arc<tokio::sync::Mutex<()>>,
}

/// Why the sandbox is not there; a Waiting reason and its message.
#[derive(Debug)]
pub struct SetupError {
    pub reason: &'static str,
    pub message: String,
}

/// The steps of a sandbox in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Address,
    Objects,
    Volumes,
}

const STEPS: [Step; 3] = [Step::Address, Step::Objects, Step::Volumes];

/// What the steps have made so far. Dropping it frees the address.
struct Sandbox<'a> {
    node: &'a Shared,
    pod: &'a Arc<Pod>,
    ip: Option<PodIp>,
    objects: Objects,
    files: Arc<tokio::sync::Mutex<()>>,
}

/// What a pod needs from the API before it can start.
pub fn needs(pod: &Pod) -> Result<Vec<Need>, VolumeError> {
    let mut needs = volumes::needs(volume_list(pod))?;
    needs.extend(env::needs(pod));
    needs.extend(workload::needs(pod));
    let pull_secrets = spec(pod).image_pull_secrets.iter().flatten();
    needs.extend(pull_secrets.map(|reference| Need::Secret(reference.name.clone())));
    needs.sort();
    needs.dedup();
    Ok(needs)
}

fn volume_list(pod: &Pod) -> &[Volume] {
    spec(pod).volumes.as_deref().unwrap_or_default()
}

/// Runs the steps; a failure undoes those before it. `files` is held while the pod's directory is
/// written, so that tearing down waits for a write that can no longer be cancelled.
pub async fn set_up(
    node: &Shared,
    pod: &Arc<Pod>,
    preferred_ip: Option<IpAddr>,
    files: Arc<tokio::sync::Mutex<()>>,
) -> Result<(PodIp, Objects), SetupError> {
    let mut sandbox =
        Sandbox { node, pod, ip: None, objects: Objects::default(), files: files.clone() };
    for step in STEPS {
        if let Err(error) = sandbox.perform(step, preferred_ip).await {
            tear_down(node, pod, files).await;
            return Err(error);
        }
    }
    match sandbox.ip.take() {
        Some(ip) => Ok((ip, sandbox.objects)),
        None => Err(SetupError { reason: "FailedCreatePodSandBox", message: "no address".into() }),
    }
}

/// Undoes what the steps made on disk; the address goes with its [`PodIp`]. Logs stay.
pub async fn tear_down(node: &Shared, pod: &Arc<Pod>, files: Arc<tokio::sync::Mutex<()>>) {
    node.tokens.forget(uid(pod));
    let dir = node.pod_dir(uid(pod));
    let (facts, of) = (node.facts.clone(), uid(pod).to_string());
    let guard = files.lock_owned().await;
    let result = tokio::task::spawn_blocking(move || {
        let _guard = guard;
        let in_memory = facts.host.memory_dir.as_ref().map_or(Ok(()), |memory| memory.remove(&of));
        let on_disk = volumes::writer::remove(&dir);
        in_memory.map_err(|error| error.to_string())?;
        on_disk.map_err(|error| error.to_string())
    });
    if let Ok(Err(error)) = result.await {
        tracing::warn!(uid = uid(pod), %error, "a pod's directory is left behind");
    }
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

impl Sandbox<'_> {
    async fn perform(&mut self, step: Step, preferred: Option<IpAddr>) -> Result<(), SetupError> {
        match step {
            Step::Address => self.take_address(preferred).await,
            Step::Objects => self.fetch_objects().await,
            Step::Volumes => self.make_volumes().await,
        }
    }

    async fn take_address(&mut self, preferred: Option<IpAddr>) -> Result<(), SetupError> {
        if spec(self.pod).host_network == Some(true) {
            self.ip = Some(PodIp::of_host(self.node.options.host_ip));
            return Ok(());
        }
        let ip = self.node.ips.allocate(preferred).await;
        let ip = ip.map_err(|error| SetupError {
            reason: "FailedCreatePodSandBox",
            message: error.to_string(),
        })?;
        self.ip = Some(ip);
        Ok(())
    }

    async fn fetch_objects(&mut self) -> Result<(), SetupError> {
        let needs = needs(self.pod).map_err(failed_mount)?;
        if !needs.is_empty() {
            let objects = sources::fetch(self.node, self.pod, &needs, Freshness::Now).await;
            self.objects = objects.map_err(failed_mount)?;
            local_volumes::hold(self.node, &self.objects).await.map_err(failed_mount)?;
        }
        Ok(())
    }

    async fn make_volumes(&mut self) -> Result<(), SetupError> {
        let Some(ip) = self.ip.as_ref().map(|ip| ip.ip) else { return Ok(()) };
        self.tell_of_missing_memory();
        let what = (Arc::new(self.objects.clone()), Volumes::All);
        write_volumes(self.node, self.pod, ip, what, self.files.clone()).await.map_err(failed_mount)
    }

    /// A volume that is not what its pod asks for is told of.
    fn tell_of_missing_memory(&self) {
        if self.node.facts.host.memory_dir.is_some() {
            return;
        }
        let list = volume_list(self.pod).iter().filter(|volume| empty_dir::wants_memory(volume));
        let names: Vec<&str> = list.map(|volume| &*volume.name).collect();
        if !names.is_empty() {
            let text = format!(
                "This node has no tmpfs that it may write to: volumes of medium Memory are directories \
                 on its disk ({})",
                names.join(", ")
            );
            self.node.tell(Notice::warning(&**self.pod, "NoMemoryMedium", text));
        }
    }
}

fn failed_mount(error: impl ToString) -> SetupError {
    SetupError { reason: "FailedMount", message: error.to_string() }
}

/// Which volumes are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Volumes {
    All,
    /// Those whose content follows what it is made of.
    Refreshed,
}

/// Makes or refreshes the volumes of a pod.
pub async fn write_volumes(
    node: &Shared,
    pod: &Arc<Pod>,
    ip: IpAddr,
    (objects, which): (Arc<Objects>, Volumes),
    files: Arc<tokio::sync::Mutex<()>>,
) -> Result<(), String> {
    if volume_list(pod).is_empty() {
        return Ok(());
    }
    let (facts, pod) = (node.facts.clone(), pod.clone());
    let dir = node.pod_dir(uid(&pod));
    let guard = files.lock_owned().await;
    let turn = node.volume_permits.clone().acquire_owned().await.map_err(|e| e.to_string())?;
    let work = move || -> Result<(), String> {
        let _guards = (guard, turn);
        let context = facts.context(&pod, ip, &objects);
        volumes::writer::make_dir(&dir, 0o700).map_err(|e| e.to_string())?;
        for volume in volume_list(&pod) {
            let refreshes = volumes::kind_of(volume).is_ok_and(|kind| kind.refreshes);
            if which == Volumes::Refreshed && !refreshes {
                continue;
            }
            volumes::set_up(&dir, volume, &context)
                .map_err(|error| mount_failure(&volume.name, &error))?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}

/// Kubelet's words: of a claim that is not there to be mounted yet, and of all else.
fn mount_failure(volume: &str, error: &VolumeError) -> String {
    match error {
        VolumeError::Claim(_) => format!(
            "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], \
             failed to process volumes=[{volume}]: {error}"
        ),
        _ => format!("MountVolume.SetUp failed for volume {volume:?} : {error}"),
    }
}
