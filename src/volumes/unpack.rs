//! Unpacks the layers of an image into one directory (image-spec, layer.md): archives over each
//! other, with whiteouts, or single files.
//!
//! Whoever made an image is not trusted. Nothing is made or opened but below the directory, by
//! handles ([`beneath`]); a path or a link that leads out, a device, and more than the bounds allow
//! are refused, and nothing is skipped in silence. Owners, times, and rights beyond 0777 are not
//! kept: guests have no users.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use ::tar::EntryType;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, openat, statat, symlinkat};
use rustix::io::Errno;

use super::layer::{Compression, Found, walk};
use crate::base::beneath;

/// Entries of all layers of one image.
pub const MAX_ENTRIES: usize = 100_000;
/// Bytes of all files of one image, as they lie on the disk.
pub const MAX_BYTES: u64 = 4 << 30;
/// Directories within each other.
const MAX_DEPTH: usize = 64;
const COPY_BYTES: usize = 64 << 10;
/// What hides a lower layer's entry of the rest of the name, and all that a directory had.
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Why a layer cannot be unpacked; the message is for the user.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is not what may be unpacked.
    #[error("{0}")]
    Refused(String),
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

pub(super) fn refused<T>(why: impl Into<String>) -> Result<T, UnpackError> {
    Err(UnpackError::Refused(why.into()))
}

/// How the bytes of a layer are to be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    Tar,
    TarGzip,
    TarZstd,
    /// One file of this name.
    File(String),
}

impl Form {
    /// How an archive is compressed, or a file's name.
    pub(super) fn archive(&self) -> Result<Compression, &str> {
        match self {
            Form::Tar => Ok(Compression::No),
            Form::TarGzip => Ok(Compression::Gzip),
            Form::TarZstd => Ok(Compression::Zstd),
            Form::File(name) => Err(name),
        }
    }
}

/// A directory that layers are unpacked into, the lowest first.
pub struct Unpacker {
    root: OwnedFd,
    entries_left: usize,
    bytes_left: u64,
    is_first: bool,
}

impl Unpacker {
    /// Into an empty directory that nobody else uses (blocking).
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(dir: &Path) -> Result<Unpacker, UnpackError> {
        Self::bounded(dir, MAX_ENTRIES, MAX_BYTES)
    }

    pub(super) fn bounded(
        dir: &Path,
        entries_left: usize,
        bytes_left: u64,
    ) -> Result<Unpacker, UnpackError> {
        let root = did("open", dir, beneath::root(dir))?;
        Ok(Unpacker { root, entries_left, bytes_left, is_first: true })
    }

    /// Adds a layer (blocking).
    ///
    /// # Errors
    /// See [`UnpackError`]; the directory is then good for nothing.
    pub fn add(&mut self, form: &Form, bytes: &[u8]) -> Result<(), UnpackError> {
        let compression = match form.archive() {
            Ok(compression) => compression,
            Err(name) => {
                self.is_first = false;
                let found = Found::file(name, bytes.len() as u64);
                return self.put(&found, &mut &bytes[..]);
            }
        };
        // What a layer hides is what lower ones have, wherever in the layer it says so.
        if !self.is_first {
            walk(bytes, compression, self.most_bytes(), |found, _| self.hide(found))?;
        }
        self.is_first = false;
        walk(bytes, compression, self.most_bytes(), |found, content| self.put(found, content))
    }

    /// All is on the disk when this returns (blocking).
    ///
    /// # Errors
    /// What the system says.
    pub fn finish(self) -> Result<(), UnpackError> {
        let dir = openat(&self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let synced = dir.and_then(|dir| rustix::fs::syncfs(&dir));
        did("write", Path::new("."), synced.map_err(Into::into))
    }

    /// Bytes that an archive of what is left may have.
    fn most_bytes(&self) -> u64 {
        const HEADERS_BYTES: u64 = 4 << 10;
        self.bytes_left.saturating_add((self.entries_left as u64 + 1) * HEADERS_BYTES)
    }

    fn hide(&mut self, found: &Found) -> Result<(), UnpackError> {
        let path = checked(&found.path)?;
        let Some(name) = path.file_name().and_then(OsStr::to_str) else { return Ok(()) };
        let Some(hidden) = name.strip_prefix(WHITEOUT) else { return Ok(()) };
        // A name of its own, or it would lead out of the directory.
        if matches!(hidden, "" | "." | "..") {
            return refused(format!("{:?} hides no entry of its directory", found.path));
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent = match beneath::find(self.root.as_fd(), parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => judged("open", &path, found)?,
        };
        if name != OPAQUE {
            return did("remove", &path, remove(&parent, OsStr::new(hidden)));
        }
        let all = did("read", &path, std::fs::read_dir(beneath::path_of(parent.as_fd())))?;
        for entry in all {
            let entry = did("read", &path, entry)?;
            did("remove", &path, remove(&parent, &entry.file_name()))?;
        }
        Ok(())
    }

    fn put(&mut self, found: &Found, content: &mut dyn Read) -> Result<(), UnpackError> {
        let Some(left) = self.entries_left.checked_sub(1) else {
            return refused(format!("it has more than {MAX_ENTRIES} entries"));
        };
        self.entries_left = left;
        let path = checked(&found.path)?;
        let Some(name) = path.file_name() else { return Ok(()) };
        if name.to_str().is_some_and(|name| name.starts_with(WHITEOUT)) {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent = beneath::find_or_make(self.root.as_fd(), parent, 0o755);
        let parent = judged("make the directory of", &path, parent)?;
        let is_dir = found.kind == EntryType::Directory;
        let there = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => Some(FileType::from_raw_mode(there.st_mode)),
            Err(Errno::NOENT) => None,
            Err(error) => return judged("look at", &path, Err(error.into())),
        };
        if there.is_some() && !(is_dir && there == Some(FileType::Directory)) {
            did("replace", &path, remove(&parent, name))?;
        }
        match found.kind {
            EntryType::Directory => {
                let made = beneath::find_or_make(parent.as_fd(), Path::new(name), 0o755);
                let dir = did("make directory", &path, made)?;
                // The right to go on unpacking is never taken away.
                let mode = (found.mode & 0o777) | 0o700;
                let (dir, mode) = (beneath::path_of(dir.as_fd()), Permissions::from_mode(mode));
                did("set the mode of", &path, std::fs::set_permissions(dir, mode))
            }
            EntryType::Regular | EntryType::Continuous => {
                self.write(&parent, (name, &path), found, content)
            }
            EntryType::Symlink => {
                let target = link_target(&path, &found.link)?;
                did("link", &path, symlinkat(target, &parent, name).map_err(Into::into))
            }
            EntryType::Link => self.link(&parent, (name, &path), &found.link),
            kind => refused(format!(
                "{:?} is neither file, directory nor link but of type {:?}, which no volume has",
                found.path,
                char::from(kind.as_byte())
            )),
        }
    }

    fn write(
        &mut self,
        parent: &OwnedFd,
        (name, path): (&OsStr, &Path),
        found: &Found,
        content: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        let Some(left) = self.bytes_left.checked_sub(found.size) else {
            return refused(format!("its files have more than {MAX_BYTES} bytes"));
        };
        self.bytes_left = left;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(Into::into);
        let mut file: File = did("create", path, made)?.into();
        let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(found.size).unwrap_or(COPY_BYTES))];
        let mut rest = found.size;
        while rest > 0 {
            let most = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            let count = match content.read(&mut buffer[..most]) {
                Ok(0) => return refused(format!("it ends in the middle of {:?}", found.path)),
                Ok(count) => count,
                Err(error) => return refused(format!("it cannot be read: {error}")),
            };
            did("write", path, file.write_all(&buffer[..count]))?;
            rest -= count as u64;
        }
        let mode = Mode::from_raw_mode((found.mode & 0o777) | 0o400);
        did("set the mode of", path, fchmod(&file, mode).map_err(Into::into))
    }

    /// A second name of a file that is there.
    fn link(
        &self,
        parent: &OwnedFd,
        (name, path): (&OsStr, &Path),
        target: &str,
    ) -> Result<(), UnpackError> {
        let target = checked(target)?;
        let found = judged("find", &target, beneath::find(self.root.as_fd(), &target))?;
        if !did("look at", &target, beneath::file_type(found.as_fd()))?.is_file() {
            return refused(format!("{path:?} is a link to {target:?}, which is no file"));
        }
        did("link", path, beneath::link(found.as_fd(), parent.as_fd(), Path::new(name)))
    }
}

/// A way that the layer itself leads out or nowhere is the layer's fault.
fn judged<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T, UnpackError> {
    match result {
        Err(error) if beneath::is_escape(&error) => {
            refused(format!("{path:?} leads out of the volume"))
        }
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOTDIR | Errno::NOENT | Errno::LOOP | Errno::NAMETOOLONG) => {
                refused(format!("{path:?}: {error}"))
            }
            _ => did(action, path, Err(error)),
        },
        Ok(value) => Ok(value),
    }
}

fn did<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T, UnpackError> {
    result.map_err(|source| UnpackError::Io { action, path: path.to_path_buf(), source })
}

/// Removes what has a name in a directory; no link is followed.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let path = beneath::path_of(parent.as_fd()).join(name);
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
            std::fs::remove_dir_all(path)
        }
        Ok(_) => std::fs::remove_file(path),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A path of a layer, below the volume; empty for the volume itself.
fn checked(text: &str) -> Result<PathBuf, UnpackError> {
    let mut path = PathBuf::new();
    let mut depth = 0;
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => {
                path.push(name);
                depth += 1;
            }
            Component::CurDir => {}
            _ => return refused(format!("{text:?} leads out of the volume")),
        }
    }
    if depth > MAX_DEPTH {
        return refused(format!("{text:?} has more than {MAX_DEPTH} directories in each other"));
    }
    Ok(path)
}

/// What a link leads to, from where it is: the volume is the image's root.
fn link_target(path: &Path, target: &str) -> Result<PathBuf, UnpackError> {
    let out = || refused(format!("{path:?} is a link to {target:?}, out of the volume"));
    let depth = path.components().count().saturating_sub(1);
    let mut made = PathBuf::new();
    let mut here = i64::try_from(depth).unwrap_or(i64::MAX);
    for part in Path::new(target).components() {
        match part {
            Component::RootDir => {
                made.extend(std::iter::repeat_n("..", depth));
                here = 0;
            }
            Component::ParentDir => {
                here -= 1;
                made.push("..");
            }
            Component::Normal(name) => {
                here += 1;
                made.push(name);
            }
            Component::CurDir => {}
            Component::Prefix(_) => return out(),
        }
        if here < 0 {
            return out();
        }
    }
    if made.as_os_str().is_empty() {
        made.push(".");
    }
    Ok(made)
}
