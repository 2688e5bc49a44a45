//! What one instance may hold: tables, handles, bytes passed to the host in one call. Every bound
//! but that of memory (see `memory`) and of sockets (`socket_count`) is a constant here, or in
//! `artifact::bounds`, where those are that a program is compared with when it is pushed.
//!
//! What the host holds for a guest counts against its limit of memory, too (`store_memory`): blocks
//! of HTTP fields (`held_fields`), what streams hold (`held_streams`), directories (`listings`), the
//! bodies of requests and responses (`outgoing`, `http_body`), many values of a bucket at once.
//! Constants bound what is held for one call only ([`HOSTCALL_BYTES`], [`MAX_RANDOM_BYTES`], 64 KiB
//! of a stream or of datagrams), what waits for all of a container (64 KiB of standard input, the
//! log's queue), and what a connection holds (a request's head and HTTP/2's windows, see
//! `http_connection`). Not counted are the kernel's own buffers of sockets, and the list that
//! wasmtime-wasi makes of a directory for each `fd_readdir` of a preview 1 module.

use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use wasmtime::{ResourceLimiter, ResourceLimiterAsync, Store, UpdateDeadline};

use super::meter::note_yield;
use super::profile::Profiling;

pub use crate::artifact::bounds::{MAX_MEMORIES, MAX_TABLE_ELEMENTS};
/// Core instances in one store: a component is made of several.
pub const MAX_INSTANCES: usize = 100;
/// As many as one module may have (wasmparser's limit).
pub const MAX_TABLES: usize = 100;
/// Bytes that a guest may pass to the host in one call. A file's stream takes 1 MiB at once.
pub const HOSTCALL_BYTES: usize = 2 << 20;
/// Handles of a guest and host resources (sockets, streams, files) that a process may hold, at most;
/// see [`max_handles`].
pub const MAX_HANDLES: usize = 4096;
/// A process gets no fewer, however few file descriptors there are.
const MIN_HANDLES: usize = 256;
/// And no more than this part of the file descriptors: each handle may be a file.
const PART_OF_DESCRIPTORS: usize = 4;
/// The same of the instance that serves one HTTP request; a container has many of them.
pub const MAX_REQUEST_HANDLES: usize = 256;
/// One block of HTTP header fields, in bytes.
pub const MAX_HTTP_FIELDS_BYTES: usize = 64 << 10;
/// Random bytes in one call.
pub const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// Handles of one process on this host.
pub fn max_handles() -> usize {
    (descriptors() / PART_OF_DESCRIPTORS).clamp(MIN_HANDLES, MAX_HANDLES)
}

/// File descriptors that this program may have open.
pub fn descriptors() -> usize {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Puts a store under its bounds and makes its guest yield at every tick of the epoch. Memory
/// beyond the limit fails at once.
pub fn bound<T>(
    store: &mut Store<T>,
    profiling: &Arc<Profiling>,
    limits: impl (FnMut(&mut T) -> &mut dyn ResourceLimiter) + Send + Sync + 'static,
) {
    store.limiter(limits);
    bound_rest(store, profiling, max_handles());
}

/// Like [`bound`], for one of many instances: memory that others hold is waited for.
pub fn bound_waiting<T>(
    store: &mut Store<T>,
    profiling: &Arc<Profiling>,
    limits: impl (FnMut(&mut T) -> &mut dyn ResourceLimiterAsync) + Send + Sync + 'static,
) {
    store.limiter_async(limits);
    bound_rest(store, profiling, MAX_REQUEST_HANDLES);
}

fn bound_rest<T>(store: &mut Store<T>, profiling: &Arc<Profiling>, max_handles: usize) {
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    store.set_max_component_handles(max_handles);
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    // The same, and the meter is told.
    let profiling = profiling.clone();
    store.epoch_deadline_callback(move |store| {
        profiling.tick(&store);
        note_yield();
        Ok(UpdateDeadline::Yield(1))
    });
}
