//! image: the files of an image, unpacked once for all pods of the node, and never writable
//! (KEP-4639). Which image a pod's volume is, is settled before its first container that mounts it
//! starts, by a link in the pod's directory; without it there is nothing to mount.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ImageVolumeSource, Volume};

use super::{Content, VolumeError, VolumeKind, writer};

pub static KIND: VolumeKind = VolumeKind {
    name: "image",
    matches: |volume| volume.image.is_some(),
    needs: |_, _| {},
    content: |_, _| Ok(Content::Image),
    refreshes: false,
};

/// What a volume is of, if it is one of an image.
pub fn source(volume: &Volume) -> Option<&ImageVolumeSource> {
    volume.image.as_ref()
}

/// Where the files are that a pod's link leads to (blocking); `None`: it is not settled yet.
pub fn settled(link: &Path) -> Option<PathBuf> {
    std::fs::read_link(link).ok().filter(|dir| dir.is_dir())
}

/// Settles where the files of a pod's volume are (blocking). What is settled stays.
///
/// # Errors
/// When the pod's directory is gone, or the system refuses.
pub fn settle(link: &Path, dir: &Path) -> Result<(), VolumeError> {
    if settled(link).is_some() {
        return Ok(());
    }
    writer::remove(link)?;
    match std::os::unix::fs::symlink(dir, link) {
        // Another container of the pod was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => writer::io("link", link, result),
    }
}
