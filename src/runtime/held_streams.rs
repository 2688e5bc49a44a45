//! The buffers of byte streams of WASI 0.2, counted: what a guest wrote and nobody has taken yet, and
//! what was read ahead for it.
//!
//! wasmtime-wasi makes the streams and bounds each (64 KiB, of a body twice that); the functions that
//! hand one to a guest are shadowed in the linker and put a counter around it. Streams to the log and
//! those that receive from sockets hold nothing between two calls. Neither do streams of WASI 0.3,
//! but for 8 KiB of a file: they are read from and written to the guest's own memory.

use bytes::Bytes;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types as fs;
use wasmtime_wasi::p2::bindings::sockets::tcp;
use wasmtime_wasi::p2::pipe::{ClosedInputStream, ClosedOutputStream};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError,
    StreamResult, TcpSocket,
};
use wasmtime_wasi::sockets::WasiSocketsView;
use wasmtime_wasi::{WasiView, async_trait};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types as http;
use wasmtime_wasi_http::p2::body::HostOutgoingBody;

use super::host::HostState;
use super::memory::OutOfMemory;
use super::sockets::{P2_VERSION, settle};
use super::store_memory::Buffer;

/// What wasmtime-wasi reads ahead of a file at once, at most.
const MAX_AHEAD_BYTES: u64 = 64 << 10;

/// How far behind its guest a stream may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// Whatever was written is gone when it takes more.
    Nothing,
    /// The same, and it can be asked right after a write, since nothing is lost by asking.
    NothingAtOnce,
    /// The last chunk may still be there when it takes another one.
    OneChunk,
}

/// An output stream whose buffer is counted.
struct CountedOutput {
    inner: DynOutputStream,
    behind: Behind,
    last_bytes: u64,
    buffer: Buffer,
}

impl CountedOutput {
    fn left_bytes(&self) -> u64 {
        if self.behind == Behind::OneChunk { self.last_bytes } else { 0 }
    }

    /// Before a write of so many bytes.
    fn fill(&mut self, bytes: usize) -> StreamResult<()> {
        let bytes = bytes as u64;
        // What was not asked for since the last write may all be there.
        let left = self.buffer.bytes();
        self.buffer.resize(left.saturating_add(bytes)).map_err(trap)?;
        self.last_bytes = bytes;
        Ok(())
    }

    /// The stream takes more.
    fn drained(&mut self) {
        self.buffer.count(self.left_bytes());
    }
}

fn trap(error: OutOfMemory) -> StreamError {
    StreamError::Trap(error.into())
}

#[async_trait]
impl Pollable for CountedOutput {
    async fn ready(&mut self) {
        self.inner.ready().await;
        self.drained();
    }
}

#[async_trait]
impl OutputStream for CountedOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.fill(bytes.len())?;
        self.inner.write(bytes)?;
        if self.behind == Behind::NothingAtOnce && matches!(self.inner.check_write(), Ok(1..)) {
            self.drained();
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let permit = self.inner.check_write()?;
        if permit > 0 {
            self.drained();
        }
        Ok(permit)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.fill(bytes.len())?;
        self.inner.blocking_write_and_flush(bytes).await?;
        self.drained();
        Ok(())
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

/// A file's input stream, which reads ahead of its guest.
struct CountedFile {
    inner: DynInputStream,
    ahead: Buffer,
}

impl CountedFile {
    /// After a read of at most `size` bytes that gave so many.
    fn took(&mut self, size: usize, given: usize) -> StreamResult<()> {
        let ahead = match given {
            // It has begun to read them.
            0 => MAX_AHEAD_BYTES.min(size as u64),
            // That was all there was.
            _ if given < size => 0,
            _ => self.ahead.bytes().saturating_sub(given as u64),
        };
        self.ahead.resize(ahead).map_err(trap)
    }
}

#[async_trait]
impl Pollable for CountedFile {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[async_trait]
impl InputStream for CountedFile {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let read = self.inner.read(size).inspect_err(|_| self.ahead.count(0))?;
        self.took(size, read.len())?;
        Ok(read)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        let read = self.inner.blocking_read(size).await;
        let read = read.inspect_err(|_| self.ahead.count(0))?;
        self.took(size, read.len())?;
        Ok(read)
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

fn count_output(
    state: &mut HostState,
    stream: &Resource<DynOutputStream>,
    behind: Behind,
) -> wasmtime::Result<()> {
    let buffer = Buffer::none(state.share());
    let slot = state.ctx().table.get_mut(stream)?;
    let inner = std::mem::replace(slot, Box::new(ClosedOutputStream));
    *slot = Box::new(CountedOutput { inner, behind, last_bytes: 0, buffer });
    Ok(())
}

fn count_file(state: &mut HostState, stream: &Resource<DynInputStream>) -> wasmtime::Result<()> {
    let ahead = Buffer::none(state.share());
    let slot = state.ctx().table.get_mut(stream)?;
    let inner = std::mem::replace(slot, Box::new(ClosedInputStream));
    *slot = Box::new(CountedFile { inner, ahead });
    Ok(())
}

/// Replaces the functions that give a guest a stream with a buffer.
///
/// # Errors
/// When wasmtime refuses a definition, which a test would have shown.
pub fn shadow(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    let name = |package: &str| format!("wasi:{package}@{P2_VERSION}");
    shadow_files(&mut linker.instance(&name("filesystem/types"))?)?;
    shadow_tcp(&mut linker.instance(&name("sockets/tcp"))?)?;
    linker.instance(&name("http/types"))?.func_wrap(
        "[method]outgoing-body.write",
        |mut store: StoreContextMut<'_, HostState>, (body,): (Resource<HostOutgoingBody>,)| {
            let state = store.data_mut();
            let stream = http::HostOutgoingBody::write(&mut state.http(), body)?;
            if let Ok(stream) = &stream {
                count_output(state, stream, Behind::OneChunk)?;
            }
            Ok((stream,))
        },
    )
}

fn shadow_files(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store: StoreContextMut<'_, HostState>, (file, at): (Resource<Descriptor>, u64)| {
            let state = store.data_mut();
            let stream = fs::HostDescriptor::read_via_stream(&mut state.filesystem(), file, at);
            if let Ok(stream) = &stream {
                count_file(state, stream)?;
            }
            settle(stream)
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: StoreContextMut<'_, HostState>, (file, at): (Resource<Descriptor>, u64)| {
            let state = store.data_mut();
            let stream = fs::HostDescriptor::write_via_stream(&mut state.filesystem(), file, at);
            if let Ok(stream) = &stream {
                count_output(state, stream, Behind::Nothing)?;
            }
            settle(stream)
        },
    )?;
    instance.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: StoreContextMut<'_, HostState>, (file,): (Resource<Descriptor>,)| {
            let state = store.data_mut();
            let stream = fs::HostDescriptor::append_via_stream(&mut state.filesystem(), file);
            if let Ok(stream) = &stream {
                count_output(state, stream, Behind::Nothing)?;
            }
            settle(stream)
        },
    )
}

fn shadow_tcp(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "[method]tcp-socket.finish-connect",
        |mut store: StoreContextMut<'_, HostState>, (socket,): (Resource<TcpSocket>,)| {
            let state = store.data_mut();
            let streams = tcp::HostTcpSocket::finish_connect(&mut state.sockets(), socket);
            if let Ok((_, output)) = &streams {
                count_output(state, output, Behind::NothingAtOnce)?;
            }
            settle(streams)
        },
    )?;
    instance.func_wrap(
        "[method]tcp-socket.accept",
        |mut store: StoreContextMut<'_, HostState>, (socket,): (Resource<TcpSocket>,)| {
            let state = store.data_mut();
            let accepted = tcp::HostTcpSocket::accept(&mut state.sockets(), socket);
            if let Ok((_, _, output)) = &accepted {
                count_output(state, output, Behind::NothingAtOnce)?;
            }
            settle(accepted)
        },
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::memory::{BUFFERS_BYTES, MemoryAccount};
    use super::super::store_memory::StoreLimits;
    use super::*;

    /// Takes what it has room for.
    struct Slow(Arc<AtomicUsize>);

    #[async_trait]
    impl Pollable for Slow {
        async fn ready(&mut self) {}
    }

    #[async_trait]
    impl OutputStream for Slow {
        fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
            self.0.fetch_sub(bytes.len(), Ordering::Relaxed);
            Ok(())
        }

        fn flush(&mut self) -> StreamResult<()> {
            Ok(())
        }

        fn check_write(&mut self) -> StreamResult<usize> {
            Ok(self.0.load(Ordering::Relaxed))
        }
    }

    /// Bytes that are counted of any stream: another one has what is not.
    struct Container {
        account: Arc<MemoryAccount>,
        limits: StoreLimits,
        _other: Buffer,
        empty_bytes: u64,
    }

    impl Container {
        fn of(limit_bytes: u64) -> Self {
            let account = Arc::new(MemoryAccount::new(limit_bytes));
            let limits = StoreLimits::begin(account.clone()).expect("fits");
            let mut other = Buffer::none(limits.share());
            other.resize(BUFFERS_BYTES).expect("it has them anyway");
            let empty_bytes = account.used_bytes();
            Container { account, limits, _other: other, empty_bytes }
        }

        fn counted(&self) -> u64 {
            self.account.used_bytes() - self.empty_bytes
        }

        fn output(&self, room: &Arc<AtomicUsize>, behind: Behind) -> CountedOutput {
            let (inner, buffer) = (Box::new(Slow(room.clone())), Buffer::none(self.limits.share()));
            CountedOutput { inner, behind, last_bytes: 0, buffer }
        }
    }

    #[tokio::test]
    async fn what_nobody_took_yet_is_counted() {
        let container = Container::of(1 << 20);
        for (behind, left) in
            [(Behind::Nothing, 0), (Behind::NothingAtOnce, 0), (Behind::OneChunk, 1000)]
        {
            let room = Arc::new(AtomicUsize::new(1000));
            let mut stream = container.output(&room, behind);
            stream.write(vec![0; 1000].into()).expect("there is room");
            assert_eq!(container.counted(), 1000, "it takes nothing more");
            assert!(matches!(stream.check_write(), Ok(0)));
            assert_eq!(container.counted(), 1000);
            room.store(5000, Ordering::Relaxed);
            assert!(matches!(stream.check_write(), Ok(5000)));
            assert_eq!(container.counted(), left);
            stream.blocking_write_and_flush(vec![0; 700].into()).await.expect("there is room");
            assert_eq!(container.counted(), left * 7 / 10);
            drop(stream);
            assert_eq!(container.counted(), 0);
        }
        // A socket's is gone as soon as the system has it.
        let mut socket = container.output(&Arc::new(AtomicUsize::new(9000)), Behind::NothingAtOnce);
        socket.write(vec![0; 1000].into()).expect("there is room");
        assert_eq!(container.counted(), 0);
    }

    #[tokio::test]
    async fn a_stream_that_has_no_room_ends_its_guest() {
        let container = Container::of(200 << 10);
        let room = Arc::new(AtomicUsize::new(64 << 10));
        let mut one = container.output(&room, Behind::Nothing);
        one.write(vec![0; 64 << 10].into()).expect("there is room");
        room.store(64 << 10, Ordering::Relaxed);
        let mut two = container.output(&room, Behind::Nothing);
        let Err(StreamError::Trap(error)) = two.write(vec![0; 64 << 10].into()) else {
            panic!("there is no room")
        };
        assert!(error.downcast_ref::<OutOfMemory>().is_some(), "{error}");
    }

    /// Gives what it read a turn before, as a file does.
    struct File(Option<Bytes>);

    #[async_trait]
    impl Pollable for File {
        async fn ready(&mut self) {}
    }

    #[async_trait]
    impl InputStream for File {
        fn read(&mut self, size: usize) -> StreamResult<Bytes> {
            let Some(ahead) = &mut self.0 else {
                self.0 = Some(vec![0; 1000].into());
                return Ok(Bytes::new());
            };
            let size = size.min(ahead.len());
            Ok(ahead.split_to(size))
        }
    }

    #[test]
    fn what_is_read_ahead_of_a_guest_is_counted() {
        let container = Container::of(1 << 20);
        let ahead = Buffer::none(container.limits.share());
        let mut file = CountedFile { inner: Box::new(File(None)), ahead };
        assert!(file.read(100_000).expect("nothing yet").is_empty());
        assert_eq!(container.counted(), MAX_AHEAD_BYTES, "as much as it may be");
        assert_eq!(file.read(300).expect("some").len(), 300);
        assert_eq!(container.counted(), MAX_AHEAD_BYTES - 300);
        assert_eq!(file.read(1000).expect("the rest").len(), 700);
        assert_eq!(container.counted(), 0, "less than it wanted: nothing is left");
    }
}
