//! A PersistentVolumeClaim asks for more only once it is bound, and only where its class lets
//! volumes grow (upstream's PersistentVolumeClaimResize admission).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;

use super::{Admitter, Attributes, Verb};
use crate::api::kinds::{resources, storage};
use crate::api::quantity::Quantity;
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::service::read_error;
use crate::store::Key;

const UNBOUND: &str = "Only bound persistent volume claims can be expanded";
const FIXED: &str = "only dynamically provisioned pvc can be resized and the storageclass that \
                     provisions the pvc must support resize";

pub struct ClaimResize;

impl Admitter for ClaimResize {
    fn validate(
        &self,
        attributes: &Attributes,
        object: &Object,
        _: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let Some(old) = attributes.old.filter(|_| attributes.verb == Verb::Update) else {
            return Ok(());
        };
        if !attributes.is("", "persistentvolumeclaims")
            || object.at(&["spec", "resources"]) == old.at(&["spec", "resources"])
        {
            return Ok(());
        }
        let (old, new): (PersistentVolumeClaim, PersistentVolumeClaim) =
            (old.typed()?, object.typed()?);
        if requested(&new) <= requested(&old) {
            return Ok(());
        }
        let refused =
            |why: &str| Err(ApiError::forbidden(&attributes.call.info.gvr, object.name(), why));
        if old.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
            return refused(UNBOUND);
        }
        let class = class(&new);
        if class.is_empty() || class != self::class(&old) || !may_grow(attributes, class)? {
            return refused(FIXED);
        }
        Ok(())
    }
}

fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    resources::sums(resources.requests.as_ref()).get(storage::STORAGE).copied()
}

fn class(claim: &PersistentVolumeClaim) -> &str {
    let annotations: Option<&BTreeMap<String, String>> = claim.metadata.annotations.as_ref();
    let spec = claim.spec.as_ref();
    storage::class_of(annotations, spec.and_then(|spec| spec.storage_class_name.as_deref()))
}

fn may_grow(attributes: &Attributes, class: &str) -> Result<bool, ApiError> {
    let key = Key::new(&["storage.k8s.io", "storageclasses", "", class]);
    let Some(entry) = attributes.server.store.get(&key).map_err(read_error)? else {
        return Ok(false);
    };
    let class: StorageClass = Raw(entry.value).decode()?;
    Ok(class.allow_volume_expansion == Some(true))
}
