//! VolumeAttachment (storage.k8s.io/v1).

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentStatus};
use serde_json::Value;

use super::{checks, persistent_volume, workload};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

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
        checks::object_name(errors, &spec.child("nodeName"), &self.spec.node_name);
        let path = spec.child("source");
        let source = &self.spec.source;
        match (&source.inline_volume_spec, source.persistent_volume_name.as_deref()) {
            (Some(_), Some(_)) => {
                let detail =
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                errors.forbidden(&path, detail);
            }
            (None, None | Some("")) => {
                let detail =
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                errors.required(&path, detail);
            }
            (None, Some(name)) => {
                checks::dns_subdomain(errors, &path.child("persistentVolumeName"), name);
            }
            (Some(volume), None) => {
                let path = path.child("inlineVolumeSpec");
                persistent_volume::validate_spec(errors, &path, volume);
            }
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        checks::immutable(errors, &Path::new("spec"), &self.spec, &old.spec);
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
