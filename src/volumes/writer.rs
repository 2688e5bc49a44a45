//! Puts a set of files into a directory so that a reader sees all of the old or all of the new
//! ones, in the layout of kubelet's atomic writer:
//!
//! ```text
//! volume/..3/a/b        the files of version 3
//! volume/..data         → ..3, replaced by one rename
//! volume/a              → ..data/a, for each first part of a path
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use super::{Files, VolumeError};

/// The link to the current version.
const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_next";

/// Turns an I/O error into one that names what was done.
pub fn io<T>(
    action: &'static str,
    path: &Path,
    result: std::io::Result<T>,
) -> Result<T, VolumeError> {
    result.map_err(|source| VolumeError::Io { action, path: path.to_path_buf(), source })
}

/// Makes a directory and its parents. New ones get the mode.
pub fn make_dir(dir: &Path, mode: u32) -> Result<(), VolumeError> {
    let result = fs::DirBuilder::new().recursive(true).mode(mode).create(dir);
    io("make directory", dir, result)
}

/// Writes the files as a new version unless the current one is the same (blocking). Answers
/// whether anything changed. Only one writer may work on a directory at a time.
pub fn write(dir: &Path, files: &Files) -> Result<bool, VolumeError> {
    let current = fs::read_link(dir.join(DATA)).ok();
    if let Some(current) = &current
        && same(&dir.join(current), files)
    {
        return Ok(false);
    }
    let number = current.as_ref().and_then(|link| link.to_str()?.strip_prefix("..")?.parse().ok());
    let version = format!("..{}", number.unwrap_or(0u64) + 1);
    let new_dir = dir.join(&version);
    // A version that a crash left unfinished.
    remove(&new_dir)?;
    make_dir(&new_dir, 0o755)?;
    for (path, file) in files {
        let target = new_dir.join(path);
        if let Some(parent) = target.parent() {
            make_dir(parent, 0o755)?;
        }
        write_file(&target, &file.bytes, file.mode)?;
    }
    let next = dir.join(DATA_NEXT);
    remove(&next)?;
    io("link", &next, symlink(&version, &next))?;
    io("rename to", &dir.join(DATA), fs::rename(&next, dir.join(DATA)))?;
    link_names(dir, files)?;
    if let Some(current) = current {
        remove(&dir.join(current))?;
    }
    Ok(true)
}

/// Writes one file with its mode, whatever the umask.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), VolumeError> {
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = io("create", path, opened)?;
    io("write", path, file.write_all(bytes))?;
    io("set the mode of", path, file.set_permissions(fs::Permissions::from_mode(mode)))
}

/// Removes a file, link or tree; what is not there is fine.
pub fn remove(path: &Path) -> Result<(), VolumeError> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => io("remove", path, other),
    }
}

/// Makes the links of the first parts of paths, and removes those that no file is behind.
fn link_names(dir: &Path, files: &Files) -> Result<(), VolumeError> {
    let names: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in io("read", dir, fs::read_dir(dir))? {
        let entry = io("read", dir, entry)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(&*name) {
            remove(&entry.path())?;
        }
    }
    for name in names {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            io("link", &link, symlink(Path::new(DATA).join(name), &link))?;
        }
    }
    Ok(())
}

/// Whether a version holds exactly these files.
fn same(dir: &Path, files: &Files) -> bool {
    let mut found = 0usize;
    let mut open = vec![dir.to_path_buf()];
    while let Some(path) = open.pop() {
        let Ok(list) = fs::read_dir(&path) else { return false };
        for entry in list {
            let Ok(entry) = entry else { return false };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => found += 1,
            }
        }
    }
    let equal = |(path, file): (&String, &super::File)| {
        let path = dir.join(path);
        let mode = fs::metadata(&path).map(|meta| meta.permissions().mode() & 0o777);
        mode.is_ok_and(|mode| mode == file.mode)
            && fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
    };
    found == files.len() && files.iter().all(equal)
}

#[cfg(test)]
mod tests {
    use super::super::File;
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |text: &str| File { bytes: text.into(), mode: 0o644 };
        list.iter().map(|(path, text)| (path.to_string(), file(text))).collect()
    }

    fn listing(dir: &Path) -> Vec<String> {
        let list = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            list.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn versions_are_swapped_and_old_names_go() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(write(dir, &files(&[("a", "1"), ("d/b", "2")])).unwrap());
        assert_eq!(listing(dir), ["..1", "..data", "a", "d"]);
        assert!(!write(dir, &files(&[("a", "1"), ("d/b", "2")])).unwrap(), "nothing changed");
        assert!(write(dir, &files(&[("a", "3")])).unwrap());
        assert_eq!(listing(dir), ["..2", "..data", "a"]);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
    }
}
