//! Puts a set of files into a directory so that a reader sees all of the old or all of the new
//! ones, in the layout of kubelet's atomic writer:
//!
//! ```text
//! volume/..3/a/b        the files of version 3
//! volume/..data         → ..3, replaced by one rename
//! volume/a              → ..data/a, for each first part of a path
//! ```
//!
//! Most volumes never change, and each entry of a directory is a cost of every pod's start. So the
//! first files of a volume without subdirectories lie in it as they are, and the layout follows
//! with the first change: it is first made around the files that are there, which no reader can
//! tell, and then goes to the next version.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{Files, VolumeError};
use crate::base::private;

/// The link to the current version.
const DATA: &str = "..data";
/// A link before it has its name.
const NEXT_LINK: &str = "..next";
/// Of volumes that hold files: what is in them is for the node's user.
const DIR_MODE: u32 = 0o700;

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

/// Makes the directory if it is missing and writes the files into it, unless it holds them already
/// (blocking). Answers whether anything changed. Only one writer may work on a directory at a time.
pub fn write(dir: &Path, files: &Files) -> Result<bool, VolumeError> {
    let is_flat = files.keys().all(|path| !path.contains('/'));
    if make_new_dir(dir)? && is_flat {
        for (name, file) in files {
            write_file(&dir.join(name), &file.bytes, file.mode)?;
        }
        return Ok(true);
    }
    let mut current = fs::read_link(dir.join(DATA)).ok();
    let place = current.as_ref().map_or(dir.to_path_buf(), |version| dir.join(version));
    if same(&place, files) {
        return Ok(false);
    }
    if current.is_none() {
        let first = version_name(1);
        lay_out(dir, &first)?;
        current = Some(first.into());
    }
    let number = current.as_ref().and_then(|link| link.to_str()?.strip_prefix("..")?.parse().ok());
    let version = version_name(number.unwrap_or(0u64) + 1);
    let new_dir = make_version(dir, &version)?;
    for (path, file) in files {
        let target = new_dir.join(path);
        if let Some(parent) = target.parent().filter(|parent| *parent != new_dir) {
            make_dir(parent, 0o755)?;
        }
        write_file(&target, &file.bytes, file.mode)?;
    }
    replace_link(dir, DATA, Path::new(&version))?;
    link_names(dir, files.keys().filter_map(|path| path.split('/').next()).collect())?;
    if let Some(current) = current {
        remove(&dir.join(current))?;
    }
    Ok(true)
}

fn version_name(number: u64) -> String {
    format!("..{number}")
}

/// Makes the directory of a version, without what a crash left of one.
fn make_version(dir: &Path, version: &str) -> Result<PathBuf, VolumeError> {
    let new_dir = dir.join(version);
    remove(&new_dir)?;
    make_dir(&new_dir, 0o755)?;
    Ok(new_dir)
}

/// Whether it was missing.
fn make_new_dir(dir: &Path) -> Result<bool, VolumeError> {
    match fs::DirBuilder::new().mode(DIR_MODE).create(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(_) => make_dir(dir, DIR_MODE).map(|()| true),
    }
}

/// Makes the layout around the files that lie in a directory as they are.
fn lay_out(dir: &Path, version: &str) -> Result<(), VolumeError> {
    let mut names = BTreeSet::new();
    for entry in io("read", dir, fs::read_dir(dir))? {
        let entry = io("read", dir, entry)?;
        let is_file = io("look at", &entry.path(), entry.file_type())?.is_file();
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|name| is_file && !name.starts_with("..")) {
            names.insert(name.to_string());
        }
    }
    let first = make_version(dir, version)?;
    for name in &names {
        let (from, to) = (dir.join(name), first.join(name));
        // Not every file system has hard links.
        let linked = fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop));
        io("link", &to, linked)?;
    }
    replace_link(dir, DATA, Path::new(version))?;
    link_names(dir, names.iter().map(String::as_str).collect())
}

/// Makes a link in a directory, in one step also where something of that name is there.
fn replace_link(dir: &Path, name: &str, target: &Path) -> Result<(), VolumeError> {
    let (next, link) = (dir.join(NEXT_LINK), dir.join(name));
    remove(&next)?;
    io("link", &next, symlink(target, &next))?;
    io("rename to", &link, fs::rename(&next, &link))
}

/// Writes one file with its mode, whatever the umask.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), VolumeError> {
    let opened = private::file().write(true).create(true).truncate(true).open(path);
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
fn link_names(dir: &Path, names: BTreeSet<&str>) -> Result<(), VolumeError> {
    for entry in io("read", dir, fs::read_dir(dir))? {
        let entry = io("read", dir, entry)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(&*name) {
            remove(&entry.path())?;
        }
    }
    for name in names {
        let is_link = fs::symlink_metadata(dir.join(name)).is_ok_and(|meta| meta.is_symlink());
        if !is_link {
            replace_link(dir, name, &Path::new(DATA).join(name))?;
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
        let dir = &dir.path().join("v");
        assert!(write(dir, &files(&[("a", "1"), ("d/b", "2")])).unwrap());
        assert_eq!(listing(dir), ["..2", "..data", "a", "d"]);
        assert!(!write(dir, &files(&[("a", "1"), ("d/b", "2")])).unwrap(), "nothing changed");
        assert!(write(dir, &files(&[("a", "3")])).unwrap());
        assert_eq!(listing(dir), ["..3", "..data", "a"]);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
    }

    #[test]
    fn the_first_files_lie_as_they_are_until_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let dir = &dir.path().join("p/v");
        assert!(write(dir, &files(&[("a", "1"), ("b", "2")])).unwrap());
        assert_eq!(listing(dir), ["a", "b"]);
        assert!(!write(dir, &files(&[("a", "1"), ("b", "2")])).unwrap(), "nothing changed");
        assert!(write(dir, &files(&[("a", "3"), ("c", "4")])).unwrap());
        assert_eq!(listing(dir), ["..2", "..data", "a", "c"]);
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!((read("a"), read("c")), ("3".into(), "4".into()));
    }

    #[test]
    fn what_a_crash_left_is_made_whole() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = files(&[("a", "1"), ("b", "2")]);
        // In the middle of the first write.
        let first = &dir.path().join("first");
        make_dir(first, DIR_MODE).unwrap();
        fs::write(first.join("a"), "1").unwrap();
        // In the middle of the layout: before its link, and before the names' links.
        let second = &dir.path().join("second");
        write(second, &files(&[("a", "0"), ("b", "0")])).unwrap();
        make_version(second, "..1").unwrap();
        let third = &dir.path().join("third");
        write(third, &files(&[("a", "0"), ("b", "0")])).unwrap();
        lay_out(third, "..1").unwrap();
        fs::remove_file(third.join("a")).unwrap();
        fs::write(third.join("a"), "0").unwrap();
        for dir in [first, second, third] {
            assert!(write(dir, &wanted).unwrap());
            assert!(same(&dir.join(DATA), &wanted));
            assert_eq!(listing(dir), ["..2", "..data", "a", "b"]);
            assert!(!write(dir, &wanted).unwrap());
            assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
        }
    }
}
