//! VolumeAttachment (storage.k8s.io/v1).

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentStatus};
use serde_json::Value;

use super::{checks, persistent_volume, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// Most bytes of what an attacher tells of a volume, and of its reason for a failure.
const METADATA_MAX_BYTES: usize = 256 * 1024;
const MESSAGE_MAX_BYTES: usize = 1024;

impl Kind for VolumeAttachment {
    const META: KindMeta = KindMeta {
        singular: "volumeattachment",
        status: true,
        delete_returns_object: true,
        unconditional_update: false,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        self.status.get_or_insert_with(VolumeAttachmentStatus::default);
    }

    fn validate(&self, errors: &mut Errors) {
        let spec = Path::new("spec");
        checks::driver_name(errors, &spec.child("attacher"), &self.spec.attacher);
        checks::dns_subdomain(errors, &spec.child("nodeName"), &self.spec.node_name);
        let path = spec.child("source");
        let source = &self.spec.source;
        match (&source.inline_volume_spec, source.persistent_volume_name.as_deref()) {
            (Some(_), Some(_)) => {
                let detail =
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                errors.forbidden(&path, detail);
            }
            (None, Some("")) => {
                let detail = "must specify non empty persistentVolumeName";
                errors.required(&path.child("persistentVolumeName"), detail);
            }
            (None, None) => {
                let detail =
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                errors.required(&path, detail);
            }
            (None, Some(name)) => {
                checks::dns_subdomain(errors, &path.child("persistentVolumeName"), name);
            }
            (Some(volume), None) => {
                let path = path.child("inlineVolumeSpec");
                persistent_volume::validate_inline(errors, &path, volume);
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        checks::immutable(errors, &Path::new("spec"), &self.spec, &old.spec);
    }

    fn validate_status_update(&self, _old: &Self, errors: &mut Errors) {
        let Some(status) = &self.status else { return };
        let path = Path::new("status");
        let metadata = status.attachment_metadata.iter().flatten();
        let bytes: usize = metadata.map(|(key, value)| key.len() + value.len()).sum();
        if bytes > METADATA_MAX_BYTES {
            errors.too_long(&path.child("attachmentMetadata"), METADATA_MAX_BYTES);
        }
        let failures =
            [("attachError", &status.attach_error), ("detachError", &status.detach_error)];
        for (field, failure) in failures {
            let Some(failure) = failure else { continue };
            let path = path.child(field);
            if failure.message.as_ref().is_some_and(|text| text.len() > MESSAGE_MAX_BYTES) {
                // Upstream tells the other limit.
                errors.too_long(&path.child("message"), METADATA_MAX_BYTES);
            }
            if let Some(code) = failure.error_code.filter(|code| *code < 0) {
                let detail = checks::inclusive_range(0, i32::MAX.into());
                errors.invalid(&path.child("errorCode"), code, &detail);
            }
        }
    }

    fn warnings(&self) -> Vec<String> {
        vec![workload::stored_only("VolumeAttachment")]
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Attacher", "string", "The driver that attaches the volume."),
            Column::new("PV", "string", "The volume."),
            Column::new("Node", "string", "The node that it is attached to."),
            Column::new("Attached", "boolean", "Whether it is attached."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(&self.metadata),
            self.spec.attacher.clone().into(),
            self.spec.source.persistent_volume_name.clone().unwrap_or_default().into(),
            self.spec.node_name.clone().into(),
            self.status.as_ref().is_some_and(|status| status.attached).into(),
            table::age(&self.metadata, now),
        ]
    }
}
