//! persistentVolumeClaim and ephemeral: the volume that a claim is bound to. A volume that was made
//! here is a directory of its own below the node's; one made by hand is where its spec says, if the
//! node's administrator allows that (`host_path`). Whatever else a volume is, it is refused.
//!
//! The texts are kubelet's (pkg/kubelet/volumemanager/populator).

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};

use super::{Content, Context, Need, VolumeError, VolumeKind, check_path, host_path};
use crate::api::kinds::storage::{self, FILESYSTEM};
use crate::api::placement;

pub static KIND: VolumeKind = VolumeKind {
    name: "claim",
    matches: |volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some(),
    needs,
    content,
    refreshes: false,
};

/// The only access mode of a volume that nobody writes to.
const READ_ONLY_MANY: &str = "ReadOnlyMany";

fn needs(volume: &Volume, needs: &mut Vec<Need>) {
    match &volume.persistent_volume_claim {
        Some(source) => needs.push(Need::Claim(source.claim_name.clone())),
        None => needs.push(Need::OwnClaim(volume.name.clone())),
    }
}

fn content(volume: &Volume, context: &Context) -> Result<Content, VolumeError> {
    let meta = &context.pod.metadata;
    let Some(name) = storage::claim_name(meta.name.as_deref(), volume) else {
        return Err(VolumeError::Unsupported(volume.name.clone()));
    };
    let bound = bound(volume, &name, context).map_err(|why| {
        let space = meta.namespace.as_deref().unwrap_or_default();
        VolumeError::Claim(format!("error processing PVC {space}/{name}: {why}"))
    })?;
    let source = volume.persistent_volume_claim.as_ref();
    let wants_read_only = source.and_then(|source| source.read_only) == Some(true);
    let modes = bound.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
    let only_reads = modes.is_some_and(|modes| modes.iter().all(|mode| mode == READ_ONLY_MANY));
    match directory(bound, context)? {
        Content::Directory { root, sub_path, make, .. } => {
            let read_only = wants_read_only || only_reads;
            Ok(Content::Directory { root, sub_path, make, read_only })
        }
        other => Ok(other),
    }
}

/// The volume that a claim is bound to.
fn bound<'a>(
    volume: &Volume,
    name: &str,
    context: &Context<'a>,
) -> Result<&'a PersistentVolume, String> {
    let Some(claim) = context.objects.claims.get(name) else {
        let what = "failed to fetch PVC from API server: persistentvolumeclaims";
        return Err(format!("{what} {name:?} not found"));
    };
    if volume.ephemeral.is_some() && !is_own(claim, context) {
        return Err("PVC was not created for the pod (pod is not owner)".into());
    }
    let spec = claim.spec.as_ref();
    let volume_name = spec.and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound".into());
    }
    let Some(found) = context.objects.volumes.get(volume_name) else {
        let what = "failed to fetch PV";
        return Err(format!("{what} {volume_name} from API server: not found, or not this node's"));
    };
    let reference = found.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_none_or(|reference| reference.uid != claim.metadata.uid) {
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        return Err(format!(
            "found PV object {volume_name} but its pv.Spec.ClaimRef does not point to claim.UID {uid}"
        ));
    }
    let mode = found.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    if mode.is_some_and(|mode| mode != FILESYSTEM) {
        let mode = mode.unwrap_or_default();
        return Err(format!("volume {} has volumeMode {mode}, and is no directory", volume.name));
    }
    Ok(found)
}

fn is_own(claim: &PersistentVolumeClaim, context: &Context) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| {
        owner.controller == Some(true) && Some(&owner.uid) == context.pod.metadata.uid.as_ref()
    })
}

/// The directory that a volume is on this node.
fn directory(volume: &PersistentVolume, context: &Context) -> Result<Content, VolumeError> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let spec = volume.spec.clone().unwrap_or_default();
    let affinity = spec.node_affinity.and_then(|affinity| affinity.required);
    let here = affinity.is_none_or(|affinity| {
        let mut terms = affinity.node_selector_terms.iter();
        terms.any(|term| placement::term_matches(term, context.node_name, &context.host.labels))
    });
    if !here {
        let text = format!(
            "MountVolume.NodeAffinity check failed for volume {name:?} : no matching NodeSelectorTerms"
        );
        return Err(VolumeError::Invalid(text));
    }
    if storage::local_node(volume) == Some(context.node_name) {
        let root = own_dir(&context.host.volumes_dir, name)?;
        let path = spec.local.map(|local| local.path).unwrap_or_default();
        if !path.ends_with(&format!("/{name}")) {
            let text = format!("volume {name:?} was made here, and not at {path:?}");
            return Err(VolumeError::Invalid(text));
        }
        return Ok(Content::Directory {
            root,
            sub_path: PathBuf::new(),
            make: true,
            read_only: false,
        });
    }
    if let Some(local) = &spec.local {
        return host_path::find(&local.path, "Directory", context);
    }
    if let Some(host) = &spec.host_path {
        return host_path::find(&host.path, host.type_.as_deref().unwrap_or_default(), context);
    }
    Err(VolumeError::Unsupported(name.into()))
}

/// Where a volume that was made on this node is.
pub fn own_dir(volumes_dir: &std::path::Path, name: &str) -> Result<PathBuf, VolumeError> {
    check_path(name)?;
    if name.contains('/') || name.starts_with('.') {
        return Err(VolumeError::Invalid(format!("{name:?} is no name of a volume")));
    }
    Ok(volumes_dir.join(name))
}
