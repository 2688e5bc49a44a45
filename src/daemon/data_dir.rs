//! The data directory: made when it is missing, owned by one process at a time.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::base::durable::create_dirs;
use crate::base::ids::Ids;
use crate::base::private;

/// Of directories that hold keys or state: their owner's only.
pub const DIR_MODE: u32 = 0o700;

/// A data directory that this process holds until it ends.
pub struct DataDir {
    path: PathBuf,
    /// The lock lives as long as the file is open.
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("the data directory {path} cannot be used: {source}; name another with --data-dir")]
    Unusable { path: PathBuf, source: std::io::Error },
    #[error(
        "the data directory {path} is in use{by}; stop that process, or name another with --data-dir"
    )]
    InUse { path: PathBuf, by: String },
}

impl DataDir {
    /// Makes the directory (mode 0700: it holds keys) and takes it.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        let unusable = |source| DataDirError::Unusable { path: path.to_path_buf(), source };
        create_dirs(path, DIR_MODE).map_err(unusable)?;
        let path = path.canonicalize().map_err(unusable)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(unusable)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut pid = String::new();
            // The number is a help for the reader only.
            let _ = lock.read_to_string(&mut pid);
            let pid = pid.trim();
            let by = if pid.is_empty() { String::new() } else { format!(" by process {pid}") };
            return Err(DataDirError::InUse { path, by });
        }
        lock.set_len(0).and_then(|()| lock.rewind()).map_err(unusable)?;
        writeln!(lock, "{}", std::process::id()).map_err(unusable)?;
        Ok(DataDir { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Who the process that holds the directory is, over restarts: the machine's name, and what
    /// tells apart several on it (as upstream's components make theirs, anew at each start).
    pub fn identity(&self, ids: &Ids) -> std::io::Result<String> {
        let file = self.join("identity");
        if let Ok(text) = std::fs::read_to_string(&file)
            && !text.trim().is_empty()
        {
            return Ok(text.trim().to_string());
        }
        let machine = rustix::system::uname();
        let machine = machine.nodename().to_string_lossy();
        let identity = format!("{machine}_{}", ids.uid());
        write_private(&file, &format!("{identity}\n"))?;
        Ok(identity)
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(path: &Path, content: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)?;
    }
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    private::replace(path, &temporary, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let held = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("by process {}", std::process::id())), "{error}");
        drop(held);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn an_identity_outlives_its_process() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path()).unwrap();
        let first = dir.identity(&Ids::seeded(1)).unwrap();
        assert_eq!(dir.identity(&Ids::seeded(2)).unwrap(), first);
        std::fs::write(dir.join("identity"), "\n").unwrap();
        assert_ne!(dir.identity(&Ids::seeded(2)).unwrap(), first);
    }
}
