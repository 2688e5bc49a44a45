//! Files and directories for their owner alone: keys, state, what programs wrote.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::durable::sync_parent;

/// How to open a file that gets mode 0600 if it is made.
pub fn file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Opens a file to be read and written, and makes it if it is missing; what it holds stays.
pub fn open(path: &Path) -> io::Result<File> {
    file().read(true).write(true).create(true).truncate(false).open(path)
}

/// Writes a file: complete and on the disk under its name, or not at all. Until it is complete it
/// has the other name, which nobody else may use.
pub fn replace(path: &Path, unfinished: &Path, content: &str) -> io::Result<()> {
    // A left-over of an earlier crash may have other permissions.
    match std::fs::remove_file(unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = file().write(true).create_new(true).open(unfinished)?;
    new.write_all(content.as_bytes())?;
    new.sync_all()?;
    std::fs::rename(unfinished, path)?;
    sync_parent(path)
}

/// Makes a directory and those above it that are missing, with mode 0700.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_for_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/b");
        make_dir(&dir).unwrap();
        make_dir(&dir).unwrap();
        assert_eq!((mode(&dir), mode(&parent.path().join("a"))), (0o700, 0o700));
        let path = dir.join("file");
        open(&path).unwrap().write_all(b"kept").unwrap();
        open(&path).unwrap();
        assert_eq!((mode(&path), std::fs::read_to_string(&path).unwrap()), (0o600, "kept".into()));
    }

    #[test]
    fn a_left_over_lends_nothing_to_what_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let (path, unfinished) = (dir.path().join("file"), dir.path().join("file.new"));
        for file in [&path, &unfinished] {
            std::fs::write(file, "before, and longer").unwrap();
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        replace(&path, &unfinished, "now").unwrap();
        assert_eq!((mode(&path), std::fs::read_to_string(&path).unwrap()), (0o600, "now".into()));
        assert!(!unfinished.exists());
    }
}
