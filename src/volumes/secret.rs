//! secret: a Secret's keys as files. They lie below directories that only the node's user enters.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{KeyToPath, Volume};

use super::{Content, Context, DEFAULT_MODE, Files, Need, VolumeError, VolumeKind, pick};

pub static KIND: VolumeKind =
    VolumeKind { name: "secret", matches: |v| v.secret.is_some(), needs, content, refreshes: true };

fn needs(volume: &Volume, needs: &mut Vec<Need>) {
    if let Some(source) = &volume.secret {
        needs.push(Need::Secret(source.secret_name.clone().unwrap_or_default()));
    }
}

fn content(volume: &Volume, context: &Context) -> Result<Content, VolumeError> {
    let mut files = Files::new();
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional == Some(true);
        project(context, name, source.items.as_deref(), mode, optional, &mut files)?;
    }
    Ok(Content::Files(files))
}

/// Adds a Secret's files; a missing optional one adds none.
pub fn project(
    context: &Context,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    files: &mut Files,
) -> Result<(), VolumeError> {
    match context.objects.secrets.get(name) {
        Some(secret) => {
            let data = secret.data.iter().flatten();
            let keys: BTreeMap<&str, &[u8]> =
                data.map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
            pick("secret", &keys, items, mode, optional, files)
        }
        None if optional => Ok(()),
        None => Err(VolumeError::Missing(format!("secret {name:?} not found"))),
    }
}
