//! What one instance may hold: tables, handles, bytes passed to the host in one call. Every bound
//! but that of memory (see `memory`) is a constant here.

use wasmtime::{ResourceLimiter, ResourceLimiterAsync, Store};

/// Elements one table may have; the largest real programs have some ten thousand functions.
pub const MAX_TABLE_ELEMENTS: usize = 1 << 20;
/// Core instances in one store: a component is made of several.
pub const MAX_INSTANCES: usize = 100;
pub const MAX_TABLES: usize = 100;
pub const MAX_MEMORIES: usize = 16;
/// Bytes that a guest may pass to the host in one call. A file's stream takes 1 MiB at once.
pub const HOSTCALL_BYTES: usize = 2 << 20;
/// Handles of a guest and host resources (sockets, streams, files) that a guest may hold.
pub const MAX_HANDLES: usize = 4096;
/// One block of HTTP header fields, in bytes.
pub const MAX_HTTP_FIELDS_BYTES: usize = 64 << 10;
/// Random bytes in one call.
pub const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// Puts a store under its bounds and makes its guest yield at every tick of the epoch. Memory
/// beyond the limit fails at once.
pub fn bound<T>(
    store: &mut Store<T>,
    limits: impl (FnMut(&mut T) -> &mut dyn ResourceLimiter) + Send + Sync + 'static,
) {
    store.limiter(limits);
    bound_rest(store);
}

/// Like [`bound`], but memory that others hold is waited for.
pub fn bound_waiting<T>(
    store: &mut Store<T>,
    limits: impl (FnMut(&mut T) -> &mut dyn ResourceLimiterAsync) + Send + Sync + 'static,
) {
    store.limiter_async(limits);
    bound_rest(store);
}

fn bound_rest<T>(store: &mut Store<T>) {
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    store.set_max_component_handles(MAX_HANDLES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
}
