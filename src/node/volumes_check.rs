//! The slow look at a pod's volumes: files follow their ConfigMaps, Secrets and fields.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::Shared;
use super::pod_state::spec;
use super::setup;
use super::sources::{self, Freshness};
use crate::client::event::Notice;
use crate::volumes::{self, Objects};

/// Whether a pod has anything to look at.
pub fn is_worthwhile(pod: &Pod) -> bool {
    let mut list = spec(pod).volumes.iter().flatten();
    list.any(|volume| volumes::kind_of(volume).is_ok_and(|kind| kind.refreshes))
}

/// Brings the files up to date, and tells by what objects.
pub async fn refresh(
    node: &Shared,
    pod: &Arc<Pod>,
    ip: IpAddr,
    files: Arc<tokio::sync::Mutex<()>>,
) -> Option<Arc<Objects>> {
    let list = spec(pod).volumes.iter().flatten();
    let list = list.filter(|volume| volumes::kind_of(volume).is_ok_and(|kind| kind.refreshes));
    let list: Vec<_> = list.cloned().collect();
    let needs = volumes::needs(&list).ok()?;
    let objects = match sources::fetch(node, pod, &needs, Freshness::Lately).await {
        Ok(objects) => Arc::new(objects),
        Err(error) => {
            // The files stay as they are.
            tracing::debug!(%error, "volumes were not refreshed");
            return None;
        }
    };
    let what = (objects.clone(), setup::Volumes::Refreshed);
    if let Err(error) = setup::write_volumes(node, pod, ip, what, files).await {
        node.tell(Notice::warning(&**pod, "FailedMount", error));
    }
    Some(objects)
}
