//! configMap: a ConfigMap's keys as files.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Volume};

use super::{Content, Context, DEFAULT_MODE, Files, Need, VolumeError, VolumeKind, pick};

pub static KIND: VolumeKind = VolumeKind {
    name: "config-map",
    matches: |v| v.config_map.is_some(),
    needs,
    content,
    refreshes: true,
};

fn needs(volume: &Volume, needs: &mut Vec<Need>) {
    if let Some(source) = &volume.config_map {
        needs.push(Need::ConfigMap(source.name.clone()));
    }
}

fn content(volume: &Volume, context: &Context) -> Result<Content, VolumeError> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = source.optional == Some(true);
        let items = source.items.as_deref();
        project(context, &source.name, items, mode, optional, &mut files)?;
    }
    Ok(Content::Files(files))
}

/// Adds a ConfigMap's files; a missing optional one adds none.
pub fn project(
    context: &Context,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    files: &mut Files,
) -> Result<(), VolumeError> {
    match context.objects.config_maps.get(name) {
        Some(map) => pick("configmap", &keys(map), items, mode, optional, files),
        None if optional => Ok(()),
        None => Err(VolumeError::Missing(format!("configmap {name:?} not found"))),
    }
}

fn keys(map: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = map.binary_data.iter().flatten();
    text.chain(binary.map(|(key, value)| (key.as_str(), value.0.as_slice()))).collect()
}
