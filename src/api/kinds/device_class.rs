//! DeviceClass (resource.k8s.io/v1).
//!
//! Upstream: pkg/apis/resource/validation/validation.go.

use k8s_openapi::api::resource::v1::DeviceClass;

use super::{checks, devices, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};

impl Kind for DeviceClass {
    const META: KindMeta = KindMeta {
        singular: "deviceclass",
        delete_returns_object: true,
        generation: Generation::Spec,
        ..DEFAULT_META
    };

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let selectors = self.spec.selectors.as_deref().unwrap_or_default();
        devices::validate_selectors(errors, &path.child("selectors"), selectors);
        let at = path.child("config");
        let config = self.spec.config.as_deref().unwrap_or_default();
        if config.len() > devices::MAX_CONFIGS {
            errors.too_many(&at, config.len(), devices::MAX_CONFIGS);
        }
        for (i, one) in config.iter().enumerate() {
            devices::validate_opaque(errors, &at.index(i), one.opaque.as_ref());
        }
        if let Some(name) = &self.spec.extended_resource_name {
            let path = path.child("extendedResourceName");
            if !name.contains('/') || name.contains("kubernetes.io/") {
                errors.invalid(&path, name, "must be a valid extended resource name");
            } else {
                checks::qualified_name(errors, &path, name);
            }
        }
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("DeviceClass")]
    }
}
