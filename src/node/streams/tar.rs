//! Archives of what is in a container's mounts, and back. Links are packed and made as links, but
//! for one whose path is named, which is what it leads to; none is followed out of a mount.
//!
//! A file with several names is packed as a file under each. Where an archive has it once and hard
//! links to it, it gets its other names, in its own mount and of nothing but a file: a copy would let
//! a few bytes of an archive fill the disk, and a guest can give its files more names itself.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ::tar::{Archive, Builder, Entry, EntryType, Header};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fstat, ftruncate, openat, readlinkat, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;

use super::applets::{Files, Streams, absolute};
use crate::base::beneath;

/// The exit code of tar for what it could not do, and what it says then.
const FAILED: i32 = 2;
const FAILURE: &str = "tar: Exiting with failure status due to previous errors";
/// Entries that are told of; then the rest is left.
const MAX_COMPLAINTS: usize = 10;
/// Directories within each other.
const MAX_DEPTH: usize = 64;
/// Rights of what is unpacked, where the archive does not say less; the owner's are always there.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// `tar cf - PATHS`: to the client.
pub fn pack(files: &Files, paths: &[String], streams: Streams) -> i32 {
    let mut packing = Packing { builder: Builder::new(streams), complaints: 0 };
    let mut packed = Ok(());
    for path in paths {
        packed = packing.add_path(files, path);
        if packed.is_err() {
            break;
        }
    }
    if let Err(error) = packed {
        packing.builder.get_ref().complain(&format!("tar: {error}"));
        return packing.fail();
    }
    match packing.complaints {
        0 => packing.builder.finish().map_or(FAILED, |()| 0),
        _ => packing.fail(),
    }
}

/// An archive on its way. Errors of its functions mean that nothing more can be written.
struct Packing {
    builder: Builder<Streams>,
    complaints: usize,
}

impl Packing {
    fn add_path(&mut self, files: &Files, path: &str) -> io::Result<()> {
        let Some(full) = absolute(path) else {
            return self.complain(Path::new(path), "paths with `..` are not packed");
        };
        let name = full.strip_prefix("/").unwrap_or(&full);
        match files.open(&full) {
            Ok(handle) => self.add(&handle, name, 0),
            Err(error) => self.complain(Path::new(path), &cannot_open(&error)),
        }
    }

    /// Tells of something that is left out.
    fn complain(&mut self, name: &Path, why: &str) -> io::Result<()> {
        self.builder.get_ref().complain(&format!("tar: {}: {why}", name.display()));
        self.complaints += 1;
        if self.complaints >= MAX_COMPLAINTS {
            return Err(io::Error::other("too much is left out"));
        }
        Ok(())
    }

    /// An archive of which something is missing gets no end: who reads it (`kubectl cp`) then waits
    /// for how the command ends, and does not take it for all there is.
    fn fail(&mut self) -> i32 {
        self.builder.get_ref().complain(FAILURE);
        self.builder.get_mut().cut();
        FAILED
    }

    /// Adds what a handle is of, and what is in it.
    fn add(&mut self, handle: &OwnedFd, name: &Path, depth: usize) -> io::Result<()> {
        // The handle names it without the right to read; its own path opens the very same thing.
        let path = beneath::path_of(handle.as_fd());
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            Err(error) => return self.complain(name, &cannot_open(&error)),
        };
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode() & 0o777);
        header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
        if meta.is_file() {
            header.set_entry_type(EntryType::Regular);
            header.set_size(meta.len());
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) => return self.complain(name, &cannot_open(&error)),
            };
            // A file that changes its length meanwhile must not shift what follows.
            let exact = file.take(meta.len()).chain(io::repeat(0)).take(meta.len());
            return self.builder.append_data(&mut header, name, exact);
        }
        if !meta.is_dir() {
            return self.complain(name, "it is no file, directory or link");
        }
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        self.builder.append_data(&mut header, name.join(""), io::empty())?;
        if depth >= MAX_DEPTH {
            let why = format!("more than {MAX_DEPTH} directories in each other");
            return self.complain(name, &why);
        }
        let entries =
            std::fs::read_dir(&path).and_then(|list| list.collect::<io::Result<Vec<_>>>());
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.complain(name, &cannot_open(&error)),
        };
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = name.join(entry.file_name());
            // One that became a link meanwhile is not followed.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = openat(handle, entry.file_name(), flags, Mode::empty());
            let found = found.map_err(io::Error::from);
            match found.and_then(|found| Ok((beneath::file_type(found.as_fd())?, found))) {
                Ok((kind, found)) if kind.is_symlink() => self.add_link(&found, &name)?,
                Ok((_, found)) => self.add(&found, &name, depth + 1)?,
                Err(error) => self.complain(&name, &cannot_open(&error))?,
            }
        }
        Ok(())
    }

    fn add_link(&mut self, handle: &OwnedFd, name: &Path) -> io::Result<()> {
        let target = match readlinkat(handle, "", Vec::new()) {
            Ok(target) => std::ffi::OsString::from_vec(target.into_bytes()),
            Err(error) => return self.complain(name, &cannot_open(&error.into())),
        };
        let mut header = Header::new_gnu();
        header.set_mode(0o777);
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        self.builder.append_link(&mut header, name, target)
    }
}

fn cannot_open(error: &io::Error) -> String {
    format!("Cannot open: {error}")
}

/// `tar xf - -C DIRECTORY`: from the client.
pub fn unpack(files: &Files, directory: &str, streams: &mut Streams) -> i32 {
    let mut complaints = Vec::new();
    if let Err(error) = unpack_all(files, directory, &mut *streams, &mut complaints) {
        complaints.push(format!("tar: the archive cannot be read: {error}"));
    }
    if complaints.is_empty() {
        return 0;
    }
    for text in &complaints {
        streams.complain(text);
    }
    streams.complain(FAILURE);
    FAILED
}

fn unpack_all(
    files: &Files,
    directory: &str,
    from: impl Read,
    complaints: &mut Vec<String>,
) -> io::Result<()> {
    let mut archive = Archive::new(from);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_path_buf();
        if let Err(error) = put(files, directory, &name, &mut entry) {
            complaints.push(format!("tar: {}: Cannot open: {error}", name.display()));
            if complaints.len() >= MAX_COMPLAINTS {
                break;
            }
        }
    }
    Ok(())
}

fn put(
    files: &Files,
    directory: &str,
    name: &Path,
    entry: &mut Entry<'_, impl Read>,
) -> io::Result<()> {
    let refused = |why: &str| io::Error::other(why.to_string());
    let path = PathBuf::from(directory).join(name);
    let path = absolute(&path.to_string_lossy());
    let path = path.ok_or_else(|| refused("a path with `..`"))?;
    let Some((mount, rest)) = files.mount(&path) else {
        return Err(refused("only the volumes of a container can be written to"));
    };
    if mount.read_only {
        return Err(refused("Read-only file system"));
    }
    let root = files.root(mount)?;
    let parent = || {
        let name = rest.file_name().ok_or_else(|| refused("it is a volume"))?;
        let parent = rest.parent().unwrap_or(Path::new(""));
        let parent = beneath::find_or_make(root.as_fd(), parent, DIRECTORY_MODE)?;
        io::Result::Ok((parent, Path::new(name)))
    };
    match entry.header().entry_type() {
        EntryType::Directory => {
            beneath::find_or_make(root.as_fd(), &rest, DIRECTORY_MODE).map(drop)
        }
        EntryType::Regular | EntryType::Continuous => {
            let mode = entry.header().mode().unwrap_or(FILE_MODE);
            let (parent, name) = parent()?;
            let mut file = create(parent.as_fd(), name, mode)?;
            io::copy(entry, &mut file).map(drop)
        }
        EntryType::Symlink => {
            let target = entry.link_name()?.ok_or_else(|| refused("a link that leads nowhere"))?;
            let (parent, name) = parent()?;
            link(parent.as_fd(), name, &target)
        }
        EntryType::Link => {
            let target = entry.link_name()?.ok_or_else(|| refused("a link that leads nowhere"))?;
            let told = |error| io::Error::other(format!("a hard link to {target:?}: {error}"));
            let whole = PathBuf::from(directory).join(&target);
            let whole = absolute(&whole.to_string_lossy());
            let whole = whole.ok_or_else(|| told(refused("a path with `..`")))?;
            let Some((_, of)) = files.mount(&whole).filter(|(of, _)| std::ptr::eq(*of, mount))
            else {
                return Err(told(refused("it is not in the same volume")));
            };
            let found = find_file(root.as_fd(), &of).map_err(told)?;
            let (parent, name) = parent()?;
            hard_link(found.as_fd(), parent.as_fd(), name).map_err(told)
        }
        EntryType::XGlobalHeader => Ok(()),
        _ => Err(refused("devices are not unpacked")),
    }
}

/// A file, and not a link to one.
fn find_file(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let not_file = || io::Error::other("it is no file");
    let name = path.file_name().ok_or_else(not_file)?;
    let parent = beneath::find(root, path.parent().unwrap_or(Path::new("")))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(&parent, name, flags, Mode::empty())?;
    match beneath::file_type(found.as_fd())?.is_file() {
        true => Ok(found),
        false => Err(not_file()),
    }
}

/// One more name of a file. It takes the place of what is no directory; the file's own name may be
/// what is there (GNU tar packs a file so that it was told of twice), and stays.
fn hard_link(file: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    match beneath::link(file, parent, name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let own = fstat(file)?;
            if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino) {
                return Ok(());
            }
            unlinkat(parent, name, AtFlags::empty())?;
            beneath::link(file, parent, name)
        }
        made => made,
    }
}

/// A new or emptied file; never what a link leads to, nor a device that somebody put there. What has
/// other names, too, stays under those.
fn create(parent: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<File> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode((mode & 0o755) | 0o600);
    let replace = || {
        unlinkat(parent, name, AtFlags::empty())?;
        openat(parent, name, flags | OFlags::EXCL, mode)
    };
    let file = match openat(parent, name, flags, mode) {
        // It takes the place of a link.
        Err(Errno::LOOP) => replace()?,
        opened => opened?,
    };
    let there = fstat(&file)?;
    if !FileType::from_raw_mode(there.st_mode).is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if there.st_nlink > 1 {
        return Ok(replace()?.into());
    }
    ftruncate(&file, 0)?;
    Ok(file.into())
}

/// A link, wherever it leads: whoever comes upon it decides whether to follow. It takes the place of
/// what is no directory.
fn link(parent: BorrowedFd<'_>, name: &Path, target: &Path) -> io::Result<()> {
    match symlinkat(target, parent, name) {
        Err(Errno::EXIST) => {
            unlinkat(parent, name, AtFlags::empty())?;
            Ok(symlinkat(target, parent, name)?)
        }
        made => Ok(made?),
    }
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
