//! Where emptyDirs of medium Memory are: directories on a tmpfs that the machine has mounted, since a
//! node without a privilege mounts none of its own. All of a node's lie in one directory there, named
//! after its user and its data directory; a link in it says whose it is, so that whoever starts next
//! removes what nodes left whose data directory is gone. It is there only while a pod needs it.
//!
//! Everybody may write beside it: what has its name and is not this user's alone is not used.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{fstat, statfs};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};

use crate::base::beneath;

/// statfs's type of a tmpfs (linux/magic.h).
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// Beginning of the directories' names; the user's number and a hash follow.
const PREFIX: &str = "wasmfleet-";
/// The link to the data directory.
const OWNER: &str = "data-dir";
const MODE: u32 = 0o700;
/// Entries of the tmpfs that are looked at for what others left.
const MOST_NEIGHBOURS: usize = 10_000;

/// The directory of one node.
#[derive(Debug)]
pub struct MemoryDir {
    top: PathBuf,
    data_dir: PathBuf,
    /// Held while the top is made or removed.
    making: Mutex<()>,
}

/// The first of these directories that is on a tmpfs, for the node of a data directory (blocking).
/// Nothing is made yet.
pub fn find(roots: &[PathBuf], data_dir: &Path) -> Option<MemoryDir> {
    let data_dir = std::fs::canonicalize(data_dir).ok()?;
    let root = roots.iter().find(|root| is_tmpfs(root) && is_writable(root))?;
    let hash = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let name = format!("{}{}", own_prefix(), hex::encode(&hash[..8]));
    Some(MemoryDir { top: root.join(name), data_dir, making: Mutex::default() })
}

fn own_prefix() -> String {
    format!("{PREFIX}{}-", geteuid().as_raw())
}

fn is_tmpfs(dir: &Path) -> bool {
    // The type of the field differs between machines.
    #[allow(clippy::unnecessary_cast)]
    statfs(dir).is_ok_and(|found| found.f_type as u64 == TMPFS_MAGIC)
}

fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

impl MemoryDir {
    /// Where a pod's volumes are.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.top.join(uid)
    }

    /// Makes the directory of a pod's volume (blocking). Answers whether it is new.
    ///
    /// # Errors
    /// When the node's directory there is not its own, or the system refuses.
    pub fn make(&self, uid: &str, name: &str) -> io::Result<bool> {
        let _alone = self.making.lock();
        make_dir(&self.top)?;
        own(&self.top)?;
        match symlink(&self.data_dir, self.top.join(OWNER)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        make_dir(&self.pod_dir(uid))?;
        make_dir(&self.pod_dir(uid).join(name))
    }

    /// Removes what a pod had (blocking); what is not there is fine.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        let dir = self.pod_dir(uid);
        if std::fs::symlink_metadata(&dir).is_err() {
            return Ok(());
        }
        own(&self.top)?;
        gone(std::fs::remove_dir_all(dir))?;
        self.remove_unused()
    }

    /// Removes what pods had that are not among these, and what other nodes of this user left whose
    /// data directories are gone (blocking).
    ///
    /// # Errors
    /// What the system says.
    pub fn retain(&self, uids: &BTreeSet<String>) -> io::Result<()> {
        self.remove_orphans();
        let list = match std::fs::read_dir(&self.top) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            list => list?,
        };
        own(&self.top)?;
        for entry in list {
            let name = entry?.file_name();
            let kept = name.to_str().is_some_and(|name| name == OWNER || uids.contains(name));
            if !kept {
                gone(std::fs::remove_dir_all(self.top.join(name)))?;
            }
        }
        self.remove_unused()
    }

    /// The directory goes with its last pod.
    fn remove_unused(&self) -> io::Result<()> {
        let _alone = self.making.lock();
        let mut entries = match std::fs::read_dir(&self.top) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let is_used = entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != OWNER));
        if is_used {
            return Ok(());
        }
        gone(std::fs::remove_file(self.top.join(OWNER)))?;
        gone(std::fs::remove_dir(&self.top))
    }

    /// What cannot be removed now is left to the next start.
    fn remove_orphans(&self) {
        let Some(list) = self.top.parent().and_then(|root| std::fs::read_dir(root).ok()) else {
            return;
        };
        let prefix = own_prefix();
        for entry in list.flatten().take(MOST_NEIGHBOURS) {
            let path = entry.path();
            let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix));
            if path == self.top || !is_ours || own(&path).is_err() {
                continue;
            }
            let owner = std::fs::read_link(path.join(OWNER));
            let is_left = owner.is_ok_and(|owner| {
                std::fs::symlink_metadata(owner)
                    .is_err_and(|error| error.kind() == ErrorKind::NotFound)
            });
            if is_left && let Err(error) = std::fs::remove_dir_all(&path) {
                tracing::warn!(%error, path = %path.display(), "what a node left stays in memory");
            }
        }
    }
}

/// Answers whether it is new.
fn make_dir(dir: &Path) -> io::Result<bool> {
    match std::fs::DirBuilder::new().mode(MODE).create(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// A handle on a directory that is this user's, and that nobody else may enter.
fn own(dir: &Path) -> io::Result<OwnedFd> {
    let handle = beneath::root(dir)?;
    let found = fstat(handle.as_fd())?;
    if found.st_uid != geteuid().as_raw() || found.st_mode & 0o077 != 0 {
        let text = format!("{} is not this user's alone, and is not used", dir.display());
        return Err(io::Error::new(ErrorKind::PermissionDenied, text));
    }
    Ok(handle)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn in_dir(root: &Path, data_dir: &Path) -> MemoryDir {
        let top = root.join(format!("{}{}", own_prefix(), "0123"));
        MemoryDir { top, data_dir: data_dir.to_path_buf(), making: Mutex::default() }
    }

    #[test]
    fn nothing_is_left_of_pods_that_are_gone() {
        let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let memory = in_dir(root.path(), data.path());
        assert!(memory.make("a", "empty-dir~v").unwrap());
        assert!(!memory.make("a", "empty-dir~v").unwrap());
        memory.make("b", "empty-dir~v").unwrap();
        fs::write(memory.pod_dir("a").join("empty-dir~v/file"), "x").unwrap();
        // As a new agent does: one of the pods went while nobody looked.
        let again = in_dir(root.path(), data.path());
        again.retain(&BTreeSet::from(["a".to_string()])).unwrap();
        assert!(again.pod_dir("a").join("empty-dir~v/file").exists());
        assert!(!again.pod_dir("b").exists());
        again.remove("a").unwrap();
        again.remove("a").unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_node_left_goes_once_its_data_directory_is_gone() {
        let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let left = in_dir(root.path(), &data.path().join("gone"));
        left.make("a", "v").unwrap();
        let other = root.path().join(format!("{}4567", own_prefix()));
        let other =
            MemoryDir { top: other, data_dir: data.path().into(), making: Mutex::default() };
        // Its data directory is there, but it has no pods.
        fs::create_dir(data.path().join("gone")).unwrap();
        other.retain(&BTreeSet::new()).unwrap();
        assert!(left.pod_dir("a").exists());
        fs::remove_dir(data.path().join("gone")).unwrap();
        other.retain(&BTreeSet::new()).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_of_others_is_not_used() {
        let (root, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let memory = in_dir(root.path(), data.path());
        fs::create_dir(&memory.top).unwrap();
        fs::set_permissions(&memory.top, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(memory.make("a", "v").is_err());
        fs::remove_dir(&memory.top).unwrap();
        symlink(data.path(), &memory.top).unwrap();
        assert!(memory.make("a", "v").is_err());
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
        assert!(find(&[root.path().join("missing")], data.path()).is_none());
    }
}
