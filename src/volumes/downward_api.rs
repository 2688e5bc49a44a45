//! downwardAPI: fields of the pod and its containers' resources as files.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Volume};

use super::{Content, Context, DEFAULT_MODE, Files, VolumeError, VolumeKind, add, field_ref};

pub static KIND: VolumeKind = VolumeKind {
    name: "downward-api",
    matches: |v| v.downward_api.is_some(),
    needs: |_, _| {},
    content,
    refreshes: true,
};

fn content(volume: &Volume, context: &Context) -> Result<Content, VolumeError> {
    let mut files = Files::new();
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        project(context, source.items.as_deref().unwrap_or_default(), mode, &mut files)?;
    }
    Ok(Content::Files(files))
}

/// Adds the files of the items.
pub fn project(
    context: &Context,
    items: &[DownwardAPIVolumeFile],
    default_mode: i32,
    files: &mut Files,
) -> Result<(), VolumeError> {
    for item in items {
        let value = if let Some(field) = &item.field_ref {
            field_ref::field(context, &field.field_path)?
        } else if let Some(resource) = &item.resource_field_ref {
            let container = resource.container_name.as_deref().unwrap_or_default();
            field_ref::resource(context, container, resource)?
        } else {
            let text = format!("{:?} has neither fieldRef nor resourceFieldRef", item.path);
            return Err(VolumeError::Invalid(text));
        };
        add(files, &item.path, value.as_bytes(), item.mode.unwrap_or(default_mode))?;
    }
    Ok(())
}
