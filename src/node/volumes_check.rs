//! The slow look at a pod's volumes: files follow their ConfigMaps, Secrets and fields, and an
//! emptyDir beyond its limit ends the pod.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Shared;
use super::pod_state::{Event, spec};
use super::{setup, sources};
use crate::client::event::Notice;
use crate::volumes::{self, empty_dir};

/// Whether a pod has anything to look at.
pub fn is_worthwhile(pod: &Pod) -> bool {
    let mut list = spec(pod).volumes.iter().flatten();
    list.any(|volume| match volumes::kind_of(volume) {
        Ok(kind) if kind.name == "empty-dir" => empty_dir::size_limit(volume).is_some(),
        Ok(kind) => kind.refreshes,
        Err(_) => false,
    })
}

/// Refreshes and checks; answers with the end of the pod where a limit is passed.
pub async fn refresh(
    node: &Shared,
    pod: &Arc<Pod>,
    ip: IpAddr,
    files: Arc<tokio::sync::Mutex<()>>,
) -> Option<Event> {
    if let Some(volume) = find_excess(node, pod).await {
        let message =
            format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.0, volume.1);
        node.tell(Notice::warning(&**pod, "Evicted", message.clone()));
        return Some(Event::Evicted { reason: "Evicted".into(), message });
    }
    let list = spec(pod).volumes.iter().flatten();
    let list = list.filter(|volume| volumes::kind_of(volume).is_ok_and(|kind| kind.refreshes));
    let list: Vec<_> = list.cloned().collect();
    let needs = volumes::needs(&list).ok()?;
    let objects = match sources::fetch(node, pod, &needs).await {
        Ok(objects) => objects,
        Err(error) => {
            // The files stay as they are.
            tracing::debug!(%error, "volumes were not refreshed");
            return None;
        }
    };
    let what = (Arc::new(objects), setup::Volumes::Refreshed);
    if let Err(error) = setup::write_volumes(node, pod, ip, what, files).await {
        node.tell(Notice::warning(&**pod, "FailedMount", error));
    }
    None
}

/// The first emptyDir beyond its limit, and the limit.
async fn find_excess(node: &Shared, pod: &Pod) -> Option<(String, String)> {
    let pod_dir = node.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let mut limited: Vec<(String, String, PathBuf, u64)> = Vec::new();
    for volume in spec(pod).volumes.iter().flatten() {
        let Some(limit) = empty_dir::size_limit(volume) else { continue };
        let text = volume.empty_dir.as_ref()?.size_limit.as_ref()?.0.clone();
        let dir = volumes::volume_dir(&pod_dir, volume).ok()?;
        limited.push((volume.name.clone(), text, dir, limit));
    }
    if limited.is_empty() {
        return None;
    }
    let find = move || {
        let over = |(_, _, dir, limit): &&(String, String, PathBuf, u64)| {
            empty_dir::usage_bytes(dir) > *limit
        };
        limited.iter().find(over).map(|(name, text, _, _)| (name.clone(), text.clone()))
    };
    tokio::task::spawn_blocking(find).await.ok().flatten()
}
