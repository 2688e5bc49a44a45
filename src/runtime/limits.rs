//! What one container may hold: memory, tables, handles, bytes passed to the host in one call.
//!
//! The bound of memory is the container's, over all of its instances; a guest that asks for more
//! is ended with [`OutOfMemory`], which the rest of the room reports as `OOMKilled`. Every other
//! bound is a constant here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::{ResourceLimiter, Store};

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
/// What one table element costs the host.
const TABLE_ELEMENT_BYTES: u64 = 8;

/// A guest asked for more memory than its container may hold.
#[derive(Debug, thiserror::Error)]
#[error("out of memory: {wanted_bytes} bytes wanted, the limit is {limit_bytes}")]
pub struct OutOfMemory {
    pub wanted_bytes: u64,
    pub limit_bytes: u64,
}

/// The memory of one container, over all of its instances.
pub struct MemoryAccount {
    limit_bytes: u64,
    used_bytes: AtomicU64,
}

impl MemoryAccount {
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, used_bytes: AtomicU64::new(0) }
    }

    /// Linear memory and tables held now, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> Result<(), OutOfMemory> {
        let fits = |used: u64| used.checked_add(bytes).filter(|total| *total <= self.limit_bytes);
        let taken = self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(|_| ()).map_err(|used| OutOfMemory {
            wanted_bytes: used.saturating_add(bytes),
            limit_bytes: self.limit_bytes,
        })
    }

    fn give_back(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The limiter of one store; gives back what the store held when it is dropped.
pub struct StoreLimits {
    account: Arc<MemoryAccount>,
    held_bytes: u64,
    /// What the growth being decided took, in case the system then refuses it.
    pending_bytes: u64,
}

impl StoreLimits {
    pub fn new(account: Arc<MemoryAccount>) -> Self {
        Self { account, held_bytes: 0, pending_bytes: 0 }
    }

    fn grow(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        self.account.take(bytes)?;
        self.held_bytes += bytes;
        self.pending_bytes = bytes;
        Ok(())
    }

    fn undo(&mut self) {
        let bytes = std::mem::take(&mut self.pending_bytes);
        self.held_bytes -= bytes;
        self.account.give_back(bytes);
    }
}

impl Drop for StoreLimits {
    fn drop(&mut self) {
        self.account.give_back(self.held_bytes);
    }
}

impl ResourceLimiter for StoreLimits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current) as u64)?;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(%error, "the system refused memory");
        self.undo();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > MAX_TABLE_ELEMENTS || maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current) as u64 * TABLE_ELEMENT_BYTES)?;
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(%error, "the system refused a table");
        self.undo();
        Ok(())
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

/// Puts a store under its bounds and makes its guest yield at every tick of the epoch.
pub fn bound<T>(
    store: &mut Store<T>,
    limits: impl (FnMut(&mut T) -> &mut dyn ResourceLimiter) + Send + Sync + 'static,
) {
    store.limiter(limits);
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    store.set_max_component_handles(MAX_HANDLES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_over_stores_and_given_back() {
        let account = Arc::new(MemoryAccount::new(100));
        let mut one = StoreLimits::new(account.clone());
        let mut two = StoreLimits::new(account.clone());
        assert!(one.memory_growing(0, 60, None).expect("fits"));
        let error = two.memory_growing(0, 60, None).expect_err("does not fit");
        assert!(error.downcast_ref::<OutOfMemory>().is_some());
        assert!(!two.memory_growing(0, 30, Some(20)).expect("the module's own maximum"));
        drop(one);
        assert!(two.memory_growing(0, 60, None).expect("fits now"));
        two.memory_grow_failed(wasmtime::Error::msg("ENOMEM")).expect("undone");
        assert_eq!(account.used_bytes(), 0);
    }
}
