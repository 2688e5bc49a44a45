//! subPath mounts. A guest's preopen is always a directory, so a mount of a single file is a
//! directory of its own that holds a copy of the file, preopened in place of the file's parent.

use std::fs;
use std::path::{Path, PathBuf};

use super::{VolumeError, check_path, writer};

/// What a subPath leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub host_path: PathBuf,
    /// Where the guest sees it: the mount path, or the parent of a file's mount path.
    pub guest_path: String,
}

/// Resolves a subPath of a volume (blocking). A directory that is missing in a writable volume is
/// made; `copies` is where copies of single files go.
pub fn resolve(
    volume: &Path,
    sub_path: &str,
    mount_path: &str,
    copies: &Path,
) -> Result<Resolved, VolumeError> {
    check_path(sub_path)?;
    let wanted = volume.join(sub_path);
    if fs::symlink_metadata(&wanted).is_err() {
        writer::make_dir(&wanted, 0o755)?;
    }
    // Links that a container made must not lead out of the volume.
    let root = writer::io("resolve", volume, fs::canonicalize(volume))?;
    let found = writer::io("resolve", &wanted, fs::canonicalize(&wanted))?;
    if !found.starts_with(&root) {
        let text = format!("subPath {sub_path:?} leads out of its volume");
        return Err(VolumeError::Invalid(text));
    }
    if found.is_dir() {
        return Ok(Resolved { host_path: found, guest_path: mount_path.to_string() });
    }
    let (parent, name) = mount_path.trim_end_matches('/').rsplit_once('/').unwrap_or_default();
    check_path(name)?;
    writer::make_dir(copies, 0o700)?;
    let bytes = writer::io("read", &found, fs::read(&found))?;
    writer::write_file(&copies.join(name), &bytes, 0o644)?;
    let guest_path = if parent.is_empty() { "/" } else { parent }.to_string();
    Ok(Resolved { host_path: copies.to_path_buf(), guest_path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_copied_and_escapes_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, copies) = (dir.path().join("v"), dir.path().join("c"));
        writer::make_dir(&volume, 0o755).unwrap();
        fs::write(volume.join("key"), "value").unwrap();
        let found = resolve(&volume, "key", "/etc/app/conf.txt", &copies).unwrap();
        assert_eq!(found.guest_path, "/etc/app");
        assert_eq!(fs::read_to_string(copies.join("conf.txt")).unwrap(), "value");
        let found = resolve(&volume, "new/dir", "/data", &copies).unwrap();
        assert!(found.host_path.ends_with("new/dir"));
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        assert!(resolve(&volume, "out", "/x", &copies).is_err());
        assert!(resolve(&volume, "../v", "/x", &copies).is_err());
    }
}
