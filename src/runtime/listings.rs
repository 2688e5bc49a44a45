//! Directories as guests list them, in both generations: read at once into memory that is counted,
//! so that a large one is `insufficient-memory` to its guest, and none keeps a thread waiting until
//! its guest goes on reading.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::fs::{AtFlags, Dir, FileType, statat};
use rustix::io::Errno;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Destination, FutureReader, Linker, LinkerInstance, Resource, ResourceType, StreamProducer,
    StreamReader, StreamResult, VecBuffer,
};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::bindings::filesystem::types as p2;
use wasmtime_wasi::p3::bindings::filesystem::types as p3;

use super::host::HostState;
use super::sockets::{P2_VERSION, P3_VERSION};
use super::store_memory::Buffer;

/// What an entry costs beside its name.
const ENTRY_BYTES: u64 = size_of::<Entry>() as u64 + 16;
/// Bytes by which what is counted grows.
const STEP_BYTES: u64 = 16 << 10;
/// Entries of one turn of a stream that does not say how many it wants.
const TURN: usize = 32;

/// `None`: the name is no UTF-8.
struct Entry {
    name: Option<String>,
    kind: FileType,
}

/// A directory's entries, as they were when it was read.
struct Listing {
    entries: VecDeque<Entry>,
    /// Lies beside them.
    _counted: Buffer,
}

/// Why a directory is not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unlisted {
    TooLarge,
    NoDirectory,
    BadName,
    System(Errno),
}

/// Reads a directory (blocking).
fn list(directory: &std::fs::File, mut counted: Buffer) -> Result<Listing, Unlisted> {
    let mut entries = VecDeque::new();
    let mut bytes = 0_u64;
    for entry in Dir::read_from(directory).map_err(Unlisted::System)? {
        let entry = entry.map_err(Unlisted::System)?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        bytes += ENTRY_BYTES + name.to_bytes().len() as u64;
        if bytes > counted.bytes() {
            let wanted = bytes.next_multiple_of(STEP_BYTES);
            counted.resize(wanted).map_err(|_| Unlisted::TooLarge)?;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                // It was removed meanwhile.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(Unlisted::System(error)),
            },
            kind => kind,
        };
        entries.push_back(Entry { name: name.to_str().ok().map(str::to_owned), kind });
    }
    Ok(Listing { entries, _counted: counted })
}

/// The directory behind a handle, and a counter for its entries.
fn directory_of(
    state: &mut HostState,
    fd: &Resource<Descriptor>,
) -> wasmtime::Result<Result<(Arc<std::fs::File>, Buffer), Unlisted>> {
    let counted = Buffer::none(state.share());
    Ok(match state.ctx().table.get(fd)? {
        Descriptor::Dir(directory) => Ok((directory.dir.clone(), counted)),
        Descriptor::File(_) => Err(Unlisted::NoDirectory),
    })
}

/// Replaces the functions that list, in both generations.
///
/// # Errors
/// When wasmtime refuses a definition, which a test would have shown.
pub fn shadow(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    shadow_p2(&mut linker.instance(&format!("wasi:filesystem/types@{P2_VERSION}"))?)?;
    shadow_p3(&mut linker.instance(&format!("wasi:filesystem/types@{P3_VERSION}"))?)
}

fn shadow_p2(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.resource(
        "directory-entry-stream",
        ResourceType::host::<Listing>(),
        |mut store: StoreContextMut<'_, HostState>, rep| {
            store.data_mut().ctx().table.delete(Resource::<Listing>::new_own(rep))?;
            Ok(())
        },
    )?;
    instance.func_wrap_async(
        "[method]descriptor.read-directory",
        |mut store: StoreContextMut<'_, HostState>, (fd,): (Resource<Descriptor>,)| {
            Box::new(async move {
                let (directory, counted) = match directory_of(store.data_mut(), &fd)? {
                    Ok(found) => found,
                    Err(why) => return Ok((Err(p2_code(why)),)),
                };
                match spawn_blocking(move || list(&directory, counted)).await? {
                    Ok(listing) => Ok((Ok(store.data_mut().ctx().table.push(listing)?),)),
                    Err(why) => Ok((Err(p2_code(why)),)),
                }
            })
        },
    )?;
    instance.func_wrap(
        "[method]directory-entry-stream.read-directory-entry",
        |mut store: StoreContextMut<'_, HostState>, (stream,): (Resource<Listing>,)| {
            let listing = store.data_mut().ctx().table.get_mut(&stream)?;
            let entry = listing.entries.pop_front();
            let entry = entry.map(|entry| match entry.name {
                Some(name) => Ok(p2::DirectoryEntry { type_: p2_kind(entry.kind), name }),
                None => Err(p2_code(Unlisted::BadName)),
            });
            Ok((entry.transpose(),))
        },
    )
}

fn p2_kind(kind: FileType) -> p2::DescriptorType {
    match kind {
        FileType::RegularFile => p2::DescriptorType::RegularFile,
        FileType::Directory => p2::DescriptorType::Directory,
        FileType::Symlink => p2::DescriptorType::SymbolicLink,
        FileType::Fifo => p2::DescriptorType::Fifo,
        FileType::Socket => p2::DescriptorType::Socket,
        FileType::CharacterDevice => p2::DescriptorType::CharacterDevice,
        FileType::BlockDevice => p2::DescriptorType::BlockDevice,
        FileType::Unknown => p2::DescriptorType::Unknown,
    }
}

fn p2_code(why: Unlisted) -> p2::ErrorCode {
    match why {
        Unlisted::TooLarge => p2::ErrorCode::InsufficientMemory,
        Unlisted::NoDirectory => p2::ErrorCode::NotDirectory,
        Unlisted::BadName => p2::ErrorCode::IllegalByteSequence,
        Unlisted::System(errno) => std::io::Error::from(errno).into(),
    }
}

fn p3_kind(kind: FileType) -> p3::DescriptorType {
    match kind {
        FileType::RegularFile => p3::DescriptorType::RegularFile,
        FileType::Directory => p3::DescriptorType::Directory,
        FileType::Symlink => p3::DescriptorType::SymbolicLink,
        FileType::Fifo => p3::DescriptorType::Fifo,
        FileType::Socket => p3::DescriptorType::Socket,
        FileType::CharacterDevice => p3::DescriptorType::CharacterDevice,
        FileType::BlockDevice => p3::DescriptorType::BlockDevice,
        FileType::Unknown => p3::DescriptorType::Other(None),
    }
}

fn p3_code(why: Unlisted) -> p3::ErrorCode {
    match why {
        Unlisted::TooLarge => p3::ErrorCode::InsufficientMemory,
        Unlisted::NoDirectory => p3::ErrorCode::NotDirectory,
        Unlisted::BadName => p3::ErrorCode::IllegalByteSequence,
        Unlisted::System(errno) => std::io::Error::from(errno).into(),
    }
}

/// The stream of a directory's entries, and what tells its guest how it ended.
struct Producer {
    reading: Option<JoinHandle<Result<Listing, Unlisted>>>,
    listing: Option<Listing>,
    end: Option<oneshot::Sender<Result<(), p3::ErrorCode>>>,
}

impl Producer {
    fn ended(&mut self, result: Result<(), Unlisted>) -> StreamResult {
        if let Some(end) = self.end.take() {
            // A guest that does not want to know has let go of the other end.
            let _ = end.send(result.map_err(p3_code));
        }
        StreamResult::Dropped
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.ended(Ok(()));
    }
}

impl StreamProducer<HostState> for Producer {
    type Item = p3::DirectoryEntry;
    type Buffer = VecBuffer<p3::DirectoryEntry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, HostState>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some(reading) = &mut self.reading {
            let polled = Pin::new(reading).poll(cx);
            if polled.is_pending() && finish {
                return Poll::Ready(Ok(StreamResult::Cancelled));
            }
            let read = ready!(polled);
            self.reading = None;
            match read? {
                Ok(listing) => self.listing = Some(listing),
                Err(why) => return Poll::Ready(Ok(self.ended(Err(why)))),
            }
        }
        let Some(listing) = &mut self.listing else {
            return Poll::Ready(Ok(self.ended(Ok(()))));
        };
        let wanted = destination.remaining(&mut store).unwrap_or(TURN);
        let mut turn = Vec::new();
        while turn.len() < wanted.min(listing.entries.len() + turn.len()) {
            let Some(entry) = listing.entries.pop_front() else { break };
            let Some(name) = entry.name else {
                destination.set_buffer(turn.into());
                return Poll::Ready(Ok(self.ended(Err(Unlisted::BadName))));
            };
            turn.push(p3::DirectoryEntry { type_: p3_kind(entry.kind), name });
        }
        let is_over = listing.entries.is_empty();
        destination.set_buffer(turn.into());
        Poll::Ready(Ok(if is_over { self.ended(Ok(())) } else { StreamResult::Completed }))
    }
}

fn shadow_p3(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "[method]descriptor.read-directory",
        |mut store: StoreContextMut<'_, HostState>, (fd,): (Resource<Descriptor>,)| {
            let (end, ended) = oneshot::channel();
            let mut producer = Producer { reading: None, listing: None, end: Some(end) };
            match directory_of(store.data_mut(), &fd)? {
                Ok((directory, counted)) => {
                    producer.reading = Some(spawn_blocking(move || list(&directory, counted)));
                }
                Err(why) => drop(producer.ended(Err(why))),
            }
            let stream = StreamReader::new(&mut store, producer)?;
            Ok(((stream, FutureReader::new(&mut store, ended)?),))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::memory::{BUFFERS_BYTES, MemoryAccount};
    use super::super::store_memory::StoreLimits;
    use super::*;

    #[test]
    fn a_directory_is_listed_within_the_memory_of_its_container() {
        let directory = tempfile::tempdir().expect("a directory");
        for number in 0..2000 {
            std::fs::write(directory.path().join(format!("file-{number}")), "x").expect("made");
        }
        std::fs::create_dir(directory.path().join("inner")).expect("made");
        std::os::unix::fs::symlink("inner", directory.path().join("link")).expect("made");
        let opened = std::fs::File::open(directory.path()).expect("opens");
        let account = Arc::new(MemoryAccount::new(1 << 20));
        let limits = StoreLimits::begin(account.clone()).expect("fits");
        let empty = account.used_bytes();
        // Twice, by one handle: each begins at the beginning.
        for _ in 0..2 {
            let listing = list(&opened, Buffer::none(limits.share())).expect("fits");
            let kinds = |kind| listing.entries.iter().filter(|entry| entry.kind == kind).count();
            assert_eq!(kinds(FileType::RegularFile), 2000);
            assert_eq!((kinds(FileType::Directory), kinds(FileType::Symlink)), (1, 1));
            let held = account.used_bytes() - empty + BUFFERS_BYTES;
            assert!(held > 2000 * ENTRY_BYTES, "{held}");
        }
        assert_eq!(account.used_bytes(), empty);
        let small = Arc::new(MemoryAccount::new(160 << 10));
        let limits = StoreLimits::begin(small.clone()).expect("fits");
        let refused = list(&opened, Buffer::none(limits.share()));
        assert!(matches!(refused, Err(Unlisted::TooLarge)));
        let gone = std::fs::File::open(directory.path().join("file-1")).expect("opens");
        let refused = list(&gone, Buffer::none(limits.share()));
        assert!(matches!(refused, Err(Unlisted::System(Errno::NOTDIR))));
    }
}
