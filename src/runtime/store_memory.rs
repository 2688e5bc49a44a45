//! The memory of one store: its limiter, and the host's buffers for its guest.
//!
//! A buffer is counted by a [`Buffer`] that lies beside it, for as long as it is there. One store has
//! [`BUFFERS_BYTES`] of them anyway; what is beyond is taken from the container's account. Counts are
//! kept under a lock of the store's own, which nobody else wants; what is shared is atomic.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;
use wasmtime::ResourceLimiter;

use super::limits::{MAX_INSTANCES, MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES};
use super::memory::{BUFFERS_BYTES, Growing, MemoryAccount, OutOfMemory};
use crate::artifact::bounds::TABLE_ELEMENT_BYTES;

/// How long an instance that has begun waits for memory that others hold.
const GROWTH_WAIT: Duration = Duration::from_secs(30);

/// What one store holds; its limiter's and its buffers'.
pub struct Share {
    account: Arc<MemoryAccount>,
    held: Mutex<Held>,
}

#[derive(Clone, Copy, Default)]
struct Held {
    bytes: u64,
    /// The most that it was.
    peak_bytes: u64,
    /// Taken when it was admitted, whether it is held yet or not.
    kept_bytes: u64,
    /// All buffers, of which the first [`BUFFERS_BYTES`] are in nobody's account.
    buffers_bytes: u64,
}

impl Held {
    /// The store's part of what is committed.
    fn committed_bytes(&self) -> u64 {
        self.bytes.max(self.kept_bytes)
    }

    fn with(&self, bytes: u64) -> Held {
        let bytes = self.bytes.saturating_add(bytes);
        Held { bytes, peak_bytes: self.peak_bytes.max(bytes), ..*self }
    }

    /// Buffers that count.
    fn counted_buffers(&self) -> u64 {
        self.buffers_bytes.saturating_sub(BUFFERS_BYTES)
    }

    /// With other buffers.
    fn buffering(&self, buffers_bytes: u64) -> Held {
        let others = self.bytes - self.counted_buffers();
        let held = Held { buffers_bytes, bytes: others, ..*self };
        held.with(held.counted_buffers())
    }
}

impl Share {
    fn new(account: Arc<MemoryAccount>, kept_bytes: u64) -> Arc<Self> {
        Arc::new(Self { account, held: Mutex::new(Held { kept_bytes, ..Held::default() }) })
    }

    /// Brings the account from `before` to `after`; false: there is no room.
    fn settle(&self, before: &Held, after: &Held, anyway: bool) -> bool {
        let (had, wanted) = (before.committed_bytes(), after.committed_bytes());
        match wanted.checked_sub(had) {
            Some(more) if anyway => self.account.take_anyway(more),
            Some(0) => {}
            Some(more) if !self.account.take(more) => return false,
            _ => {}
        }
        match after.bytes.checked_sub(before.bytes) {
            Some(more) => self.account.count(more),
            None => self.account.discount(before.bytes - after.bytes),
        }
        self.account.give_back(had.saturating_sub(wanted));
        true
    }

    fn grow(&self, bytes: u64) -> bool {
        let mut held = self.held.lock();
        let after = held.with(bytes);
        let grown = self.settle(&held, &after, false);
        if grown {
            *held = after;
        }
        grown
    }

    fn shrink(&self, bytes: u64) {
        let mut held = self.held.lock();
        let after = Held { bytes: held.bytes - bytes, ..*held };
        self.settle(&held, &after, false);
        *held = after;
    }

    /// A buffer changes from `had` to `wanted` bytes.
    fn buffer(&self, had: u64, wanted: u64, anyway: bool) -> Result<(), OutOfMemory> {
        let mut held = self.held.lock();
        let after = held.buffering((held.buffers_bytes - had).saturating_add(wanted));
        if !self.settle(&held, &after, anyway) {
            let more = after.bytes - held.bytes;
            drop(held);
            return Err(self.out_of_memory(self.account.used_bytes(), more));
        }
        *held = after;
        Ok(())
    }

    fn out_of_memory(&self, held_bytes: u64, more_bytes: u64) -> OutOfMemory {
        let wanted_bytes = held_bytes.saturating_add(more_bytes);
        OutOfMemory { wanted_bytes, limit_bytes: self.account.limit_bytes() }
    }

    /// The store is gone: what is left are buffers that somebody else took.
    fn end(&self) -> u64 {
        let mut held = self.held.lock();
        let left = held.counted_buffers();
        let after = Held { bytes: left, kept_bytes: 0, ..*held };
        self.settle(&held, &after, false);
        *held = after;
        after.peak_bytes
    }
}

/// The size of one buffer of the host's, for the guest of a store; given back when it is dropped.
pub struct Buffer {
    share: Arc<Share>,
    bytes: u64,
}

impl Buffer {
    /// One that is empty.
    pub fn none(share: &Arc<Share>) -> Self {
        Self { share: share.clone(), bytes: 0 }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// # Errors
    /// When the container has no room for it: it is as large as before then.
    pub fn resize(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        if bytes != self.bytes {
            self.share.buffer(self.bytes, bytes, false)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Counts what is there already, whether there is room for it or not.
    pub fn count(&mut self, bytes: u64) {
        if bytes != self.bytes && self.share.buffer(self.bytes, bytes, true).is_ok() {
            self.bytes = bytes;
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// The limiter of one store; gives back what the store held when it is dropped.
pub struct StoreLimits {
    share: Arc<Share>,
    /// The growth being decided, in case the system then refuses it.
    pending_bytes: u64,
    is_admitted: bool,
}

impl StoreLimits {
    /// Those of a store that waits for nothing.
    ///
    /// # Errors
    /// When there is no room for an instance.
    pub fn begin(account: Arc<MemoryAccount>) -> Result<Self, OutOfMemory> {
        let bytes = account.instance_bytes();
        let share = Share::new(account, 0);
        let mut limits = Self { share, pending_bytes: 0, is_admitted: false };
        limits.grow(bytes)?;
        Ok(limits)
    }

    /// Those of a store for which `kept_bytes` are taken already, `instance_bytes` of them held.
    pub(super) fn admitted(
        account: Arc<MemoryAccount>,
        kept_bytes: u64,
        instance_bytes: u64,
    ) -> Self {
        let share = Share::new(account, kept_bytes);
        // Within what is kept: never refused.
        share.grow(instance_bytes);
        Self { share, pending_bytes: 0, is_admitted: true }
    }

    /// Where the host's buffers for the store's guest are counted.
    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> u64 {
        self.share.held.lock().kept_bytes
    }

    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        if !self.share.grow(bytes) {
            return Err(self.share.out_of_memory(self.share.account.used_bytes(), bytes));
        }
        self.pending_bytes = bytes;
        Ok(())
    }

    pub(super) async fn grow_when_there_is_room(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        let (share, account) = (&self.share, &self.share.account);
        let held_bytes = share.held.lock().bytes;
        if held_bytes.saturating_add(bytes) > account.limit_bytes() {
            return Err(share.out_of_memory(held_bytes, bytes));
        }
        if !share.grow(bytes) {
            let _growing = Growing::new(account);
            let attempt = || account.take_or_give_way(|| share.grow(bytes));
            let took = account.when_there_is_room(attempt);
            if !timeout(GROWTH_WAIT, took).await.unwrap_or(false) {
                return Err(share.out_of_memory(account.used_bytes(), bytes));
            }
        }
        self.pending_bytes = bytes;
        Ok(())
    }

    fn undo(&mut self) {
        self.share.shrink(std::mem::take(&mut self.pending_bytes));
    }
}

impl Drop for StoreLimits {
    fn drop(&mut self) {
        let took_bytes = self.share.end();
        if self.is_admitted {
            self.share.account.leave(took_bytes);
            self.share.account.tell();
        }
    }
}

/// The bytes by which a memory grows; `None` where its own maximum forbids it.
fn memory_growth(current: usize, desired: usize, maximum: Option<usize>) -> Option<u64> {
    let fits = maximum.is_none_or(|maximum| desired <= maximum);
    fits.then(|| desired.saturating_sub(current) as u64)
}

fn table_growth(current: usize, desired: usize, maximum: Option<usize>) -> Option<u64> {
    let fits = desired <= MAX_TABLE_ELEMENTS && maximum.is_none_or(|maximum| desired <= maximum);
    fits.then(|| desired.saturating_sub(current) as u64 * TABLE_ELEMENT_BYTES)
}

/// Fails at once: for a process, whose store is the only one.
impl ResourceLimiter for StoreLimits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let Some(bytes) = memory_growth(current, desired, maximum) else { return Ok(false) };
        self.grow(bytes)?;
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
        let Some(bytes) = table_growth(current, desired, maximum) else { return Ok(false) };
        self.grow(bytes)?;
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

/// Waits for neighbours: for the stores of an HTTP handler.
#[async_trait::async_trait]
impl wasmtime::ResourceLimiterAsync for StoreLimits {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let Some(bytes) = memory_growth(current, desired, maximum) else { return Ok(false) };
        self.grow_when_there_is_room(bytes).await?;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        ResourceLimiter::memory_grow_failed(self, error)
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let Some(bytes) = table_growth(current, desired, maximum) else { return Ok(false) };
        self.grow_when_there_is_room(bytes).await?;
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        ResourceLimiter::table_grow_failed(self, error)
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
