//! Archives of what is in a container's mounts, and back. Nothing is followed out of a mount, and
//! links of an archive are not made.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ::tar::{Archive, Builder, EntryType, Header};
use rustix::fs::{Mode, OFlags, openat};

use super::applets::{Files, Streams, absolute};
use crate::base::beneath;

/// The exit code of tar for what it could not do.
const FAILED: i32 = 2;
/// Entries that are told of; then the rest is left.
const MAX_COMPLAINTS: usize = 10;
/// Directories within each other.
const MAX_DEPTH: usize = 64;
/// Rights of what is unpacked, where the archive does not say less; the owner's are always there.
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// `tar cf - PATHS`: to the client.
pub fn pack(files: &Files, paths: &[String], streams: Streams) -> i32 {
    let mut builder = Builder::new(streams);
    let mut code = 0;
    for path in paths {
        let Some(full) = absolute(path) else {
            builder.get_ref().complain(&format!("tar: {path}: paths with `..` are not packed"));
            code = FAILED;
            continue;
        };
        let name = full.strip_prefix("/").unwrap_or(&full).to_path_buf();
        let packed = files.open(&full).and_then(|handle| add(&mut builder, &handle, &name, 0));
        if let Err(error) = packed {
            if error.kind() == io::ErrorKind::BrokenPipe {
                return FAILED;
            }
            builder.get_ref().complain(&format!("tar: {path}: Cannot open: {error}"));
            code = FAILED;
        }
    }
    match builder.finish() {
        Ok(()) => code,
        Err(_) => FAILED,
    }
}

/// Adds what a handle is of, and what is in it.
fn add(
    builder: &mut Builder<Streams>,
    handle: &OwnedFd,
    name: &Path,
    depth: usize,
) -> io::Result<()> {
    // The handle names it without the right to read; its own path opens the very same thing.
    let path = beneath::path_of(handle.as_fd());
    let meta = std::fs::metadata(&path)?;
    let mut header = Header::new_gnu();
    header.set_mode(meta.mode() & 0o777);
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    if meta.is_file() {
        header.set_entry_type(EntryType::Regular);
        header.set_size(meta.len());
        let file = File::open(&path)?;
        // A file that changes its length meanwhile must not shift what follows.
        let exact = file.take(meta.len()).chain(io::repeat(0)).take(meta.len());
        return builder.append_data(&mut header, name, exact);
    }
    if !meta.is_dir() {
        return Ok(());
    }
    header.set_entry_type(EntryType::Directory);
    header.set_size(0);
    builder.append_data(&mut header, name.join(""), io::empty())?;
    if depth >= MAX_DEPTH {
        return Err(io::Error::other(format!("more than {MAX_DEPTH} directories in each other")));
    }
    let mut entries = std::fs::read_dir(&path)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_symlink() {
            continue;
        }
        let name = name.join(entry.file_name());
        // One that became a link meanwhile is not followed.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(handle, entry.file_name(), flags, Mode::empty())?;
        if !beneath::file_type(found.as_fd())?.is_symlink() {
            add(builder, &found, &name, depth + 1)?;
        }
    }
    Ok(())
}

/// `tar xf - -C DIRECTORY`: from the client.
pub fn unpack(files: &Files, directory: &str, streams: &mut Streams) -> i32 {
    let mut complaints = Vec::new();
    if let Err(error) = unpack_all(files, directory, streams, &mut complaints) {
        complaints.push(format!("tar: the archive cannot be read: {error}"));
    }
    for text in &complaints {
        streams.complain(text);
    }
    if complaints.is_empty() { 0 } else { FAILED }
}

fn unpack_all(
    files: &Files,
    directory: &str,
    streams: &mut Streams,
    complaints: &mut Vec<String>,
) -> io::Result<()> {
    let mut archive = Archive::new(streams);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_path_buf();
        let kind = entry.header().entry_type();
        let mode = entry.header().mode().unwrap_or(FILE_MODE);
        if let Err(error) = put(files, directory, &name, kind, mode, &mut entry) {
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
    kind: EntryType,
    mode: u32,
    content: &mut impl Read,
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
    match kind {
        EntryType::Directory => {
            beneath::find_or_make(root.as_fd(), &rest, DIRECTORY_MODE).map(drop)
        }
        EntryType::Regular | EntryType::Continuous => {
            let file = rest.file_name().ok_or_else(|| refused("it is a volume"))?;
            let parent = rest.parent().unwrap_or(Path::new(""));
            let parent = beneath::find_or_make(root.as_fd(), parent, DIRECTORY_MODE)?;
            let mut file = create(parent.as_fd(), Path::new(file), mode)?;
            io::copy(content, &mut file).map(drop)
        }
        EntryType::XGlobalHeader => Ok(()),
        _ => Err(refused("links and devices are not unpacked")),
    }
}

/// A new or emptied file; never what a link leads to, nor a device that somebody put there.
fn create(parent: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::TRUNC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode((mode & 0o755) | 0o600);
    let file = openat(parent, name, flags, mode)?;
    if !beneath::file_type(file.as_fd())?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    Ok(file.into())
}
