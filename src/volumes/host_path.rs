//! hostPath: a directory of the machine, below one that the node's administrator allowed. What lies
//! elsewhere is refused, whoever asks for it.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Volume;

use super::{Content, Context, VolumeError, VolumeKind, check_path};

pub static KIND: VolumeKind = VolumeKind {
    name: "host-path",
    matches: |volume| volume.host_path.is_some(),
    needs: |_, _| {},
    content,
    refreshes: false,
};

fn content(volume: &Volume, context: &Context) -> Result<Content, VolumeError> {
    let Some(source) = &volume.host_path else {
        return Err(VolumeError::Unsupported(volume.name.clone()));
    };
    let (path, kind) = (&source.path, source.type_.as_deref().unwrap_or_default());
    find(path, kind, context)
}

/// A directory of the machine. `kind` is a HostPathType.
pub fn find(path: &str, kind: &str, context: &Context) -> Result<Content, VolumeError> {
    let make = kind == "DirectoryOrCreate";
    if !make && !matches!(kind, "" | "Directory") {
        let text =
            format!("hostPath {path:?} of type {kind}: Wasm containers mount directories only");
        return Err(VolumeError::Invalid(text));
    }
    let allowed = context.host.allowed_dirs.iter();
    // The innermost of those that hold it.
    let holding = allowed.filter_map(|dir| Some((dir, Path::new(path).strip_prefix(dir).ok()?)));
    let Some((root, rest)) = holding.min_by_key(|(_, rest)| rest.components().count()) else {
        let text = format!(
            "{path:?} is in no directory of this node that pods may mount; its administrator allows \
             one with --host-path"
        );
        return Err(VolumeError::Invalid(text));
    };
    let rest: PathBuf = rest.components().collect();
    if let Some(rest) = rest.to_str().filter(|rest| !rest.is_empty()) {
        check_path(rest)?;
    }
    Ok(Content::Directory { root: root.clone(), sub_path: rest, make, read_only: false })
}
