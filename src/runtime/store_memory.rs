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

/// What one table element costs the host.
const TABLE_ELEMENT_BYTES: u64 = 8;
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
    fn kept_bytes(&self) -> u64 {
        self.share.held.lock().kept_bytes
    }

    fn grow(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        if !self.share.grow(bytes) {
            return Err(self.share.out_of_memory(self.share.account.used_bytes(), bytes));
        }
        self.pending_bytes = bytes;
        Ok(())
    }

    async fn grow_when_there_is_room(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use wasmtime::ResourceLimiter;

    use super::*;

    #[test]
    fn memory_is_counted_over_stores_and_given_back() {
        let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
        let mut one = StoreLimits::begin(account.clone()).expect("fits");
        let mut two = StoreLimits::begin(account.clone()).expect("fits");
        assert!(one.memory_growing(0, 60, None).expect("fits"));
        let error = two.memory_growing(0, 60, None).expect_err("does not fit");
        assert!(error.downcast_ref::<OutOfMemory>().is_some());
        assert!(!two.memory_growing(0, 30, Some(20)).expect("the module's own maximum"));
        drop(one);
        assert!(two.memory_growing(0, 60, None).expect("fits now"));
        two.memory_grow_failed(wasmtime::Error::msg("ENOMEM")).expect("undone");
        assert_eq!(account.used_bytes(), 0);
        assert_eq!(account.committed_bytes(), 0);
    }

    #[tokio::test]
    async fn an_instance_costs_something_of_its_own() {
        let account = Arc::new(MemoryAccount::with_instances_of(40, 100));
        let one = StoreLimits::begin(account.clone()).expect("fits");
        let mut two = StoreLimits::begin(account.clone()).expect("fits");
        assert!(StoreLimits::begin(account.clone()).is_err(), "no room for a third one");
        assert!(account.admit().now_or_never().is_none());
        assert_eq!(account.used_bytes(), 80);
        two.memory_growing(0, 20, None).expect("fits");
        drop((one, two));
        account.expect(30);
        let one = account.admit().await;
        assert_eq!((one.kept_bytes(), account.used_bytes()), (70, 40));
        drop(one);
        assert_eq!(account.committed_bytes(), 0);
        assert_eq!(account.used_bytes(), 0);
    }

    #[tokio::test]
    async fn instances_wait_for_each_other() {
        let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
        account.expect(40);
        let mut one = account.admit().await;
        let mut two = account.admit().await;
        assert!(account.admit().now_or_never().is_none(), "80 of 100 are kept");
        one.grow_when_there_is_room(40).await.expect("kept for it");
        two.grow_when_there_is_room(50).await.expect("a little more fits");
        assert_eq!(account.used_bytes(), 90);
        let own = one.grow_when_there_is_room(61).await.expect_err("more than the limit alone");
        assert_eq!((own.wanted_bytes, own.limit_bytes), (101, 100));

        let mut growth = Box::pin(one.grow_when_there_is_room(30));
        assert!(growth.as_mut().now_or_never().is_none(), "it waits for the other");
        let mut third = Box::pin(account.admit());
        assert!(third.as_mut().now_or_never().is_none(), "who has begun goes first");
        drop(two);
        growth.await.expect("the other is gone");
        assert!(third.as_mut().now_or_never().is_none(), "70 and 50 do not fit");
        drop(one);
        let third = third.await;
        assert_eq!(third.kept_bytes(), 70, "as much as the last one took");
        drop(third);
        assert_eq!(account.committed_bytes(), 0);
    }

    #[tokio::test]
    async fn when_all_wait_one_gives_way() {
        let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
        let mut stores = [account.admit().await, account.admit().await, account.admit().await];
        for store in &mut stores {
            store.grow_when_there_is_room(30).await.expect("fits");
        }
        let [mut one, mut two, mut three] = stores;
        let mut first = Box::pin(one.grow_when_there_is_room(30));
        let mut second = Box::pin(two.grow_when_there_is_room(30));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        three.grow_when_there_is_room(30).await.expect_err("the last one");
        assert!(first.as_mut().now_or_never().is_none(), "its memory is about to come");
        drop(three);
        first.await.expect("it came");
        assert!(second.as_mut().now_or_never().is_none());
        drop(one);
        second.await.expect("and again");
    }

    /// Bytes of buffers beyond what each instance has anyway.
    const BEYOND: u64 = BUFFERS_BYTES;

    #[test]
    fn buffers_count_beyond_what_an_instance_has_anyway() {
        let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
        let one = StoreLimits::begin(account.clone()).expect("fits");
        let mut first = Buffer::none(one.share());
        first.resize(BEYOND).expect("it has them anyway");
        assert_eq!(account.used_bytes(), 0);
        let mut second = Buffer::none(one.share());
        second.resize(60).expect("fits");
        let error = first.resize(BEYOND + 41).expect_err("101 of 100");
        assert_eq!((error.wanted_bytes, error.limit_bytes), (101, 100));
        assert_eq!(account.used_bytes(), 60, "a refusal takes nothing");
        first.resize(BEYOND - 10).expect("less");
        assert_eq!(account.used_bytes(), 50);
        // What is there already is counted, whatever the limit says; then nothing else fits.
        second.count(200);
        assert_eq!((account.used_bytes(), account.committed_bytes()), (190, 190));
        assert!(StoreLimits::begin(account.clone()).expect("nothing").grow(1).is_err());
        drop((first, second));
        assert_eq!((account.used_bytes(), account.committed_bytes()), (0, 0));
    }

    #[tokio::test]
    async fn a_buffer_may_outlive_its_store() {
        let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
        account.expect(40);
        let mut one = account.admit().await;
        one.grow_when_there_is_room(20).await.expect("kept for it");
        let mut buffer = Buffer::none(one.share());
        buffer.resize(BEYOND + 10).expect("within what is kept for it");
        assert_eq!((account.used_bytes(), account.committed_bytes()), (30, 40));
        drop(one);
        assert_eq!((account.used_bytes(), account.committed_bytes()), (10, 10));
        let two = account.admit().await;
        assert_eq!(two.kept_bytes(), 38, "a little less than the guess");
        drop((two, buffer));
        let lent = account.lend(120);
        assert!(account.admit().now_or_never().is_none(), "more is lent than there is");
        drop(lent);
        assert_eq!((account.used_bytes(), account.committed_bytes()), (0, 0));
    }

    #[tokio::test]
    async fn what_an_instance_had_in_buffers_is_expected_of_the_next_one() {
        let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
        let one = account.admit().await;
        let mut buffer = Buffer::none(one.share());
        buffer.resize(BEYOND + 70).expect("fits");
        drop(buffer);
        drop(one);
        assert_eq!(account.admit().await.kept_bytes(), 70);
    }
}
