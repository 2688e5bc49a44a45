//! Which volume a claim gets.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{claim_ref, class_of, is_for};
use crate::api::kinds::resources::{self, Amounts};
use crate::api::kinds::{persistent_volume, storage};
use crate::api::quantity::Quantity;
use crate::api::selector::Selector;
use crate::client::cache::View;

/// The volume that is reserved for the claim, else the smallest free one that fits. With `delayed`
/// only the first: the node of a Pod decides then.
pub fn best<'v>(
    view: &'v View,
    claim: &PersistentVolumeClaim,
    delayed: bool,
) -> Option<&'v Arc<PersistentVolume>> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name) = (text(&claim.metadata.namespace), text(&claim.metadata.name));
    let mut reserved =
        view.indexed::<PersistentVolume>(&persistent_volume::of_claim(&namespace, &name));
    let is_own = |volume: &&Arc<PersistentVolume>| {
        claim_ref(volume).is_some_and(|reference| is_for(reference, claim))
            && mismatch(claim, volume).is_none()
    };
    if let Some(own) = reserved.find(is_own) {
        return Some(own);
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    // The API refuses selectors that cannot be read.
    let selector =
        selector.map(|selector| Selector::from_typed(Some(selector))).transpose().ok()?;
    if delayed {
        return None;
    }
    let none = Default::default();
    let fits = |volume: &&Arc<PersistentVolume>| {
        let labels = volume.metadata.labels.as_ref().unwrap_or(&none);
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        volume.metadata.deletion_timestamp.is_none()
            && phase == Some("Available")
            && selector.as_ref().is_none_or(|selector| selector.matches(labels))
            && mismatch(claim, volume).is_none()
    };
    let free = view.indexed::<PersistentVolume>(&persistent_volume::of_class(class_of(claim)));
    free.filter(fits).min_by(|a, b| {
        let size = |volume: &PersistentVolume| {
            storage_in(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
        };
        size(a).cmp(&size(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
    })
}

/// Why a volume cannot be the claim's (checkVolumeSatisfyClaim).
pub fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<&'static str> {
    let (Some(wanted), Some(had)) = (&claim.spec, &volume.spec) else { return Some("no spec") };
    let requests = wanted.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if storage_in(requests) > storage_in(had.capacity.as_ref()) {
        return Some("requested PV is too small");
    }
    if class_of(claim) != persistent_volume::class(volume) {
        return Some("storageClassName does not match");
    }
    let mode =
        |mode: &Option<String>| mode.clone().unwrap_or_else(|| storage::FILESYSTEM.to_string());
    if mode(&wanted.volume_mode) != mode(&had.volume_mode) {
        return Some("incompatible volumeMode");
    }
    let offered = had.access_modes.as_deref().unwrap_or_default();
    let all = wanted.access_modes.iter().flatten().all(|mode| offered.contains(mode));
    (!all).then_some("incompatible accessMode")
}

fn storage_in(amounts: Option<&Amounts>) -> Quantity {
    resources::sums(amounts).get(storage::STORAGE).copied().unwrap_or(Quantity::ZERO)
}
