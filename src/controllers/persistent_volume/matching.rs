//! Which volume a claim gets.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{claim_ref, class_of, is_for};
use crate::api::kinds::storage::mismatch;
use crate::api::kinds::{persistent_volume, storage};
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
        storage::volume_size(a)
            .cmp(&storage::volume_size(b))
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    })
}
