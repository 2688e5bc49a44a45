//! Opens and makes what lies below a directory, and never what a link leads out to.
//!
//! A guest may change what is in its volumes at any moment, so looking at a path first and using it
//! afterwards protects nothing. Here every part of a path is opened relative to the handle of the
//! part before, without following links; the links themselves are read and walked by the same
//! rule, and `..` goes back along the handles that were walked, never along the disk. What comes
//! out is a handle: whatever is renamed or replaced later, it stays the same directory.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fstat, linkat, mkdirat, openat, readlinkat,
};
use rustix::io::Errno;

/// Links that one path may go through (as Linux's own limit).
const MAX_LINKS: usize = 40;
/// A handle that names something without the right to read it.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A handle on a directory whose path no guest can change.
///
/// # Errors
/// When it cannot be opened, or its last part is not a directory.
pub fn root(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, HANDLE | OFlags::DIRECTORY, Mode::empty())?)
}

/// A handle on what `path` means below `root`.
///
/// # Errors
/// [`is_escape`] when the path or a link on it leads out; else what the system says.
pub fn find(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    walk(root, path, None)
}

/// The same, making the directories that are missing with `mode`.
///
/// # Errors
/// As [`find`].
pub fn find_or_make(root: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    walk(root, path, Some(Mode::from_raw_mode(mode)))
}

/// Whether an error means that a path leads out of its root.
pub fn is_escape(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::XDEV)
}

/// What a handle is of.
///
/// # Errors
/// What the system says.
pub fn file_type(handle: BorrowedFd<'_>) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(handle)?.st_mode))
}

/// A path to the very thing that a handle is on, for functions that take paths. It is good while
/// the handle is open, and in this process only.
pub fn path_of(handle: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

/// One more name, in a directory, of the file that a handle is on.
///
/// # Errors
/// What the system says: where something has that name, and where the file has none any more.
pub fn link(file: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    // Without a privilege, a handle is linked by its own path only.
    Ok(linkat(CWD, path_of(file), dir, name, AtFlags::SYMLINK_FOLLOW)?)
}

/// A walk under way: the directories from the root to where it is.
struct Walk {
    dirs: Vec<OwnedFd>,
    links: usize,
    rest: VecDeque<OsString>,
}

fn walk(root: BorrowedFd<'_>, path: &Path, make: Option<Mode>) -> io::Result<OwnedFd> {
    let top = openat(root, ".", HANDLE | OFlags::DIRECTORY, Mode::empty())?;
    let mut walk = Walk { dirs: vec![top], links: 0, rest: VecDeque::new() };
    walk.go_along(path)?;
    while let Some(part) = walk.rest.pop_front() {
        if part == ".." {
            walk.go_up()?;
            continue;
        }
        let found = open_part(walk.here()?, &part, make)?;
        match file_type(found.as_fd())? {
            FileType::Directory => walk.dirs.push(found),
            FileType::Symlink => {
                walk.links += 1;
                if walk.links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = readlinkat(&found, "", Vec::new())?.into_bytes();
                walk.go_along(Path::new(&OsString::from_vec(target)))?;
            }
            _ if walk.rest.is_empty() => return Ok(found),
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    walk.dirs.pop().ok_or_else(|| Errno::XDEV.into())
}

impl Walk {
    fn here(&self) -> io::Result<BorrowedFd<'_>> {
        self.dirs.last().map(AsFd::as_fd).ok_or_else(|| Errno::XDEV.into())
    }

    fn go_up(&mut self) -> io::Result<()> {
        if self.dirs.len() < 2 {
            return Err(Errno::XDEV.into());
        }
        self.dirs.pop();
        Ok(())
    }

    /// Puts the parts of a path before what is left to walk.
    fn go_along(&mut self, path: &Path) -> io::Result<()> {
        for part in path.components().rev() {
            match part {
                Component::Normal(name) => self.rest.push_front(name.to_owned()),
                Component::ParentDir => self.rest.push_front("..".into()),
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => return Err(Errno::XDEV.into()),
            }
        }
        Ok(())
    }
}

fn open_part(dir: BorrowedFd<'_>, part: &OsStr, make: Option<Mode>) -> io::Result<OwnedFd> {
    match (openat(dir, part, HANDLE, Mode::empty()), make) {
        (Err(Errno::NOENT), Some(mode)) => match mkdirat(dir, part, mode) {
            // Somebody else made something of that name: look what it is.
            Ok(()) | Err(Errno::EXIST) => Ok(openat(dir, part, HANDLE, Mode::empty())?),
            Err(error) => Err(error.into()),
        },
        (result, _) => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(handle: &OwnedFd) -> Vec<String> {
        let list = fs::read_dir(path_of(handle.as_fd())).unwrap();
        list.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn links_are_followed_inside_and_never_out() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::write(inside.join("a/b/file"), "x").unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        symlink("a/../a/b", inside.join("ok")).unwrap();
        symlink("../../secret", inside.join("a/out")).unwrap();
        symlink("..", inside.join("up")).unwrap();
        symlink("/etc", inside.join("absolute")).unwrap();
        symlink("loop", inside.join("loop")).unwrap();
        let top = root(&inside).unwrap();
        let find = |path: &str| find(top.as_fd(), Path::new(path));
        assert_eq!(names(&find("ok").unwrap()), ["file"]);
        assert_eq!(file_type(find("ok/file").unwrap().as_fd()).unwrap(), FileType::RegularFile);
        assert_eq!(names(&find("").unwrap()).len(), 5, "no path is the root itself");
        for out in ["..", "a/../..", "a/out", "up", "up/secret", "absolute", "absolute/passwd"] {
            assert!(is_escape(&find(out).unwrap_err()), "{out}");
        }
        assert_eq!(Errno::from_io_error(&find("loop").unwrap_err()), Some(Errno::LOOP));
        assert_eq!(Errno::from_io_error(&find("ok/file/x").unwrap_err()), Some(Errno::NOTDIR));
        assert_eq!(find("nothing").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn directories_are_made_inside_and_never_out() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        fs::create_dir(&inside).unwrap();
        symlink("..", inside.join("up")).unwrap();
        symlink("../made", inside.join("dangling")).unwrap();
        let top = root(&inside).unwrap();
        let make = |path: &str| find_or_make(top.as_fd(), Path::new(path), 0o755);
        make("x/y").unwrap();
        assert!(inside.join("x/y").is_dir());
        assert!(is_escape(&make("up/made").unwrap_err()));
        assert!(is_escape(&make("dangling").unwrap_err()));
        assert!(!dir.path().join("made").exists());
    }

    #[test]
    fn a_handle_stays_on_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/mine"), "").unwrap();
        let top = root(dir.path()).unwrap();
        let handle = find(top.as_fd(), Path::new("d")).unwrap();
        fs::rename(dir.path().join("d"), dir.path().join("old")).unwrap();
        symlink("/", dir.path().join("d")).unwrap();
        assert_eq!(names(&handle), ["mine"]);
        assert!(root(&dir.path().join("d")).is_err(), "a root is no link");
    }
}
