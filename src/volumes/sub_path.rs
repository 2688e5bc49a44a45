//! subPath mounts. A guest's preopen is always a directory, so a mount of a single file is a
//! directory of its own that holds a copy of the file, preopened in place of the file's parent.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::{MOST_BYTES, VolumeError, check_path, writer};
use crate::base::beneath;

/// What a subPath leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// A directory whose path no container can change: the volume, or the copies.
    pub host_path: PathBuf,
    /// The way from there; containers may change what it leads to at any time.
    pub sub_path: PathBuf,
    /// Where the guest sees it: the mount path, or the parent of a file's mount path.
    pub guest_path: String,
}

/// Resolves a subPath of a volume (blocking). A directory that is missing is made, unless the volume
/// is shared; `copies` is where copies of single files go. Links inside the volume are followed as long as they stay in
/// it; who opens the result must hold to that again, for it may have changed by then.
pub fn resolve(
    (volume, is_shared): (&Path, bool),
    sub_path: &str,
    mount_path: &str,
    copies: &Path,
) -> Result<Resolved, VolumeError> {
    check_path(sub_path)?;
    let root = writer::io("open", volume, beneath::root(volume))?;
    let wanted = volume.join(sub_path);
    let found = match is_shared {
        true => beneath::find(root.as_fd(), Path::new(sub_path)),
        false => beneath::find_or_make(root.as_fd(), Path::new(sub_path), 0o755),
    };
    if is_shared && found.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Err(VolumeError::Missing(format!("subPath {sub_path:?} is not in its volume")));
    }
    if found.as_ref().is_err_and(beneath::is_escape) {
        return Err(VolumeError::Invalid(format!("subPath {sub_path:?} leads out of its volume")));
    }
    let found = writer::io("resolve", &wanted, found)?;
    match writer::io("look at", &wanted, beneath::file_type(found.as_fd()))? {
        FileType::Directory => {
            let (host_path, sub_path) = (volume.to_path_buf(), sub_path.into());
            return Ok(Resolved { host_path, sub_path, guest_path: mount_path.to_string() });
        }
        FileType::RegularFile => {}
        other => {
            let text = format!("subPath {sub_path:?} is neither file nor directory but {other:?}");
            return Err(VolumeError::Invalid(text));
        }
    }
    let (parent, name) = mount_path.trim_end_matches('/').rsplit_once('/').unwrap_or_default();
    check_path(name)?;
    writer::make_dir(copies, 0o700)?;
    let bytes = read(&found, sub_path, &wanted)?;
    writer::write_file(&copies.join(name), &bytes, 0o644)?;
    let guest_path = if parent.is_empty() { "/" } else { parent }.to_string();
    Ok(Resolved { host_path: copies.to_path_buf(), sub_path: PathBuf::new(), guest_path })
}

/// The content of a file, which a container may have made as large as it likes.
fn read(file: &OwnedFd, sub_path: &str, shown: &Path) -> Result<Vec<u8>, VolumeError> {
    let opened = writer::io("open", shown, File::open(beneath::path_of(file.as_fd())))?;
    let mut bytes = Vec::new();
    let most = MOST_BYTES as u64 + 1;
    writer::io("read", shown, opened.take(most).read_to_end(&mut bytes))?;
    if bytes.len() > MOST_BYTES {
        let text = format!("subPath {sub_path:?} is a file of more than {MOST_BYTES} bytes");
        return Err(VolumeError::Invalid(text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_are_made_and_files_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, copies) = (dir.path().join("v"), dir.path().join("c"));
        writer::make_dir(&volume, 0o755).unwrap();
        fs::write(volume.join("key"), "value").unwrap();
        let found = resolve((&volume, false), "key", "/etc/app/conf.txt", &copies).unwrap();
        assert_eq!((found.host_path.as_path(), &*found.guest_path), (&*copies, "/etc/app"));
        assert_eq!(fs::read_to_string(copies.join("conf.txt")).unwrap(), "value");
        let found = resolve((&volume, false), "new/dir", "/data", &copies).unwrap();
        assert_eq!(found.host_path.join(found.sub_path), volume.join("new/dir"));
        assert!(volume.join("new/dir").is_dir());
        assert!(resolve((&volume, true), "new/dir", "/data", &copies).is_ok());
        let missing = resolve((&volume, true), "missing", "/data", &copies).unwrap_err();
        assert!(matches!(missing, VolumeError::Missing(_)) && !volume.join("missing").exists());
        // As the writer lays out files: links that stay inside.
        symlink("new", volume.join("..data")).unwrap();
        symlink("..data/dir", volume.join("link")).unwrap();
        assert!(resolve((&volume, false), "link", "/data", &copies).is_ok());
        let large = fs::File::create(volume.join("large")).unwrap();
        large.set_len(MOST_BYTES as u64 + 1).unwrap();
        assert!(resolve((&volume, false), "large", "/large", &copies).is_err());
    }

    #[test]
    fn links_lead_nowhere_else_and_nothing_is_made_there() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, copies) = (dir.path().join("v"), dir.path().join("c"));
        writer::make_dir(&volume, 0o755).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        symlink("..", volume.join("up")).unwrap();
        symlink("/etc", volume.join("etc")).unwrap();
        symlink("../made", volume.join("dangling")).unwrap();
        for out in ["up", "up/made", "up/secret", "etc", "etc/passwd", "dangling", "../v"] {
            let error = resolve((&volume, false), out, "/x/y", &copies).unwrap_err();
            assert!(matches!(error, VolumeError::Invalid(_)), "{out}: {error}");
        }
        assert!(!dir.path().join("made").exists() && !copies.exists());
    }
}
