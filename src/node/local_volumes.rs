//! The volumes that were made on this node: a directory each, below one of the node's data directory,
//! by the volume's name. What a pod mounts for the first time gets its directory and then a finalizer
//! on its PersistentVolume; when that is deleted, the directory goes and then the finalizer. So a
//! volume is never gone while something of it is left here, and what is retained is never touched.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;
use serde_json::json;

use super::{Options, Shared, register};
use crate::api::ApiError;
use crate::api::kinds::storage::{self, PROVISIONER_FINALIZER};
use crate::client::Patch;
use crate::volumes::{Host, Objects, claim, memory_dir, writer};

/// Between two looks at what became of the volumes here.
const PERIOD: Duration = Duration::from_secs(5);
/// Volumes asked for at one look; the rest have their turn at the next.
const MOST_AT_ONCE: usize = 64;
/// Below the data directory.
const DIR: &str = "volumes";

/// What the node has for volumes beside the pods' own directories. Errors are of directories that cannot be used.
pub fn host(options: &Options) -> std::io::Result<Host> {
    let named = |path: &Path, error: std::io::Error| {
        std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    // The volumes' paths are told to the cluster: they must mean the same wherever they are read.
    let volumes_dir = std::path::absolute(options.data_dir.join(DIR))?;
    let canonical =
        |path: &std::path::PathBuf| std::fs::canonicalize(path).map_err(|error| named(path, error));
    let allowed_dirs = options.host_paths.iter().map(canonical).collect::<Result<_, _>>()?;
    let labels = register::labels_of(options);
    let memory_dir = memory_dir::find(&options.memory_roots, &options.data_dir).map(Arc::new);
    Ok(Host { volumes_dir, allowed_dirs, labels, memory_dir })
}

fn finalizers(volume: &PersistentVolume) -> Vec<String> {
    volume.metadata.finalizers.clone().unwrap_or_default()
}

fn is_held(volume: &PersistentVolume) -> bool {
    finalizers(volume).iter().any(|one| one == PROVISIONER_FINALIZER)
}

fn is_deleted_with_claim(volume: &PersistentVolume) -> bool {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete")
}

/// Makes the directories of a pod's volumes that were made here, and keeps those volumes from now on.
pub async fn hold(node: &Shared, objects: &Objects) -> Result<(), String> {
    for volume in objects.volumes.values() {
        if storage::local_node(volume) != Some(&node.options.name) {
            continue;
        }
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let dir = claim::own_dir(&node.facts.host.volumes_dir, name).map_err(|e| e.to_string())?;
        let made = tokio::task::spawn_blocking(move || writer::make_dir(&dir, 0o755)).await;
        made.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        if is_held(volume) || !is_deleted_with_claim(volume) {
            continue;
        }
        let mut all = finalizers(volume);
        all.push(PROVISIONER_FINALIZER.into());
        match set_finalizers(node, volume, all).await {
            // Somebody wrote it meanwhile: perhaps another pod of this node did the same.
            Err(error) if error.is_conflict() => {
                let now = node.client.get::<PersistentVolume>("", name).await;
                if !now.is_ok_and(|volume| is_held(&volume)) {
                    return Err(format!("volume {name:?} changed; trying again"));
                }
            }
            Err(error) => return Err(format!("volume {name:?} could not be kept: {error}")),
            Ok(()) => {}
        }
    }
    Ok(())
}

async fn set_finalizers(
    node: &Shared,
    volume: &PersistentVolume,
    finalizers: Vec<String>,
) -> Result<(), ApiError> {
    let meta = &volume.metadata;
    let patch = Patch::Merge(json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers}}));
    let name = meta.name.as_deref().unwrap_or_default();
    node.client.patch::<PersistentVolume>("", name, patch).await.map(drop)
}

/// Looks again and again what became of the volumes here.
pub async fn reclaim(node: Arc<Shared>) {
    let mut after = String::new();
    loop {
        node.clock.sleep(PERIOD).await;
        let dir = node.facts.host.volumes_dir.clone();
        let listed = tokio::task::spawn_blocking(move || list(&dir)).await;
        let names = match listed {
            Ok(Ok(names)) => names,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the volumes' directory cannot be read");
                continue;
            }
            Err(_) => continue,
        };
        let rest = names.iter().filter(|name| **name > after);
        let turn: Vec<&String> = rest.take(MOST_AT_ONCE).collect();
        let last = turn.last().filter(|_| turn.len() == MOST_AT_ONCE);
        after = last.map(|name| name.to_string()).unwrap_or_default();
        for name in turn {
            if let Err(error) = look_at(&node, name).await {
                tracing::debug!(volume = name, %error, "a volume was not looked at");
            }
        }
    }
}

/// The names of the volumes here, sorted.
fn list(dir: &Path) -> std::io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

async fn look_at(node: &Shared, name: &str) -> Result<(), ApiError> {
    let dir = node.facts.host.volumes_dir.join(name);
    let volume = match node.client.get::<PersistentVolume>("", name).await {
        Ok(volume) => volume,
        Err(error) if error.is_not_found() || error.code == 403 => {
            // None that was mounted goes without a word; what holds nothing is nobody's.
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir(dir)).await;
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if storage::local_node(&volume) != Some(&node.options.name) || !is_deleted_with_claim(&volume) {
        return Ok(());
    }
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    if volume.metadata.deletion_timestamp.is_none() {
        if is_held(&volume) {
            return Ok(());
        }
        // Its policy changed while it is used.
        let mut all = finalizers(&volume);
        all.push(PROVISIONER_FINALIZER.into());
        return set_finalizers(node, &volume, all).await;
    }
    if phase == Some("Bound") || !is_held(&volume) {
        return Ok(());
    }
    let removed = tokio::task::spawn_blocking(move || writer::remove(&dir)).await;
    match removed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let notice = crate::client::event::Notice::warning(
                &volume,
                "VolumeFailedDelete",
                error.to_string(),
            );
            node.tell(notice);
            return Ok(());
        }
        Err(error) => return Err(ApiError::internal(error)),
    }
    let mut left = finalizers(&volume);
    left.retain(|one| one != PROVISIONER_FINALIZER);
    tracing::info!(volume = name, "a deleted volume's directory is gone");
    set_finalizers(node, &volume, left).await
}
