//! The memory of one container: counted over all of its instances, shared out among them. What
//! counts are linear memories, tables, and a fixed amount for each instance ([`INSTANCE_BYTES`]).
//!
//! A process has one store, and growth beyond the limit ends it. An HTTP handler has a store for
//! each request: a request is [admitted](MemoryAccount::admit) when there is room for what its
//! instance is likely to take, and an instance that grows beyond that waits for others to end. So
//! a request does not fail because of its neighbours; it fails when its own instance wants more
//! than the limit, or when all wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;
use wasmtime::ResourceLimiter;

use super::limits::{MAX_INSTANCES, MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES};

/// What an instance costs the host beside its memories: the touched part of its stack, its store,
/// and the buffers of the request it serves.
pub const INSTANCE_BYTES: u64 = 128 << 10;
/// What one table element costs the host.
const TABLE_ELEMENT_BYTES: u64 = 8;
/// How long an instance that has begun waits for memory that others hold.
const GROWTH_WAIT: Duration = Duration::from_secs(30);
/// The expected size of an instance falls by this part with each one that takes less.
const FORGETTING: u64 = 16;

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
    /// What each store holds from the beginning.
    instance_bytes: u64,
    /// What the stores hold.
    used_bytes: AtomicU64,
    /// What they hold and what is kept for those that were admitted; at most the limit.
    committed_bytes: AtomicU64,
    /// What an admitted instance is likely to take: the most that the last ones took.
    expected_bytes: AtomicU64,
    /// Tells those that wait that something was given back.
    room: Notify,
    /// Told when one begins to wait.
    pressure: Notify,
    waiting: AtomicUsize,
    /// Requests are admitted in the order in which they came.
    queue: tokio::sync::Mutex<()>,
    admitted: Mutex<Admitted>,
}

#[derive(Default)]
struct Admitted {
    stores: usize,
    /// Those of them that wait for room to grow.
    growing: usize,
    /// One was refused so that the others go on; until it is gone, no other is.
    refused: bool,
}

impl MemoryAccount {
    pub fn new(limit_bytes: u64) -> Self {
        Self::with_instances_of(INSTANCE_BYTES, limit_bytes)
    }

    fn with_instances_of(instance_bytes: u64, limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            instance_bytes,
            used_bytes: AtomicU64::new(0),
            committed_bytes: AtomicU64::new(0),
            expected_bytes: AtomicU64::new(0),
            room: Notify::new(),
            pressure: Notify::new(),
            waiting: AtomicUsize::new(0),
            queue: tokio::sync::Mutex::new(()),
            admitted: Mutex::default(),
        }
    }

    /// What is held now, in bytes.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Says what memories and tables an instance is likely to take, before one was seen.
    pub fn expect(&self, bytes: u64) {
        let bytes = bytes.saturating_add(self.instance_bytes);
        self.expected_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Waits for room for one more instance. Cancel-safe.
    pub async fn admit(self: &Arc<Self>) -> StoreLimits {
        let turn = self.queue.lock().await;
        let bytes = self
            .when_there_is_room(|| {
                let expected = self.expected_bytes.load(Ordering::Relaxed);
                let bytes = expected.max(self.instance_bytes).min(self.limit_bytes);
                // Those that have begun go first.
                let free = self.admitted.lock().growing == 0;
                (free && self.take(bytes)).then_some(bytes)
            })
            .await;
        drop(turn);
        self.admitted.lock().stores += 1;
        let mut limits = StoreLimits::nothing(self.clone());
        (limits.kept_bytes, limits.is_admitted) = (bytes, true);
        // With a limit below it nothing can grow: the guest is refused its memory.
        limits.hold(self.instance_bytes.min(bytes));
        limits
    }

    /// Returns when somebody waits for memory. One listens.
    pub async fn pressed(&self) {
        self.pressure.notified().await;
    }

    /// Tries, and tries again whenever something was given back.
    async fn when_there_is_room<T>(&self, attempt: impl Fn() -> Option<T>) -> T {
        if let Some(got) = attempt() {
            return got;
        }
        let _waiting = Waiting::new(&self.waiting);
        self.pressure.notify_one();
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // From here on nothing that is given back is missed.
            room.as_mut().enable();
            if let Some(got) = attempt() {
                return got;
            }
            room.await;
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let fits = |sum: u64| sum.checked_add(bytes).filter(|sum| *sum <= self.limit_bytes);
        self.committed_bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.committed_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.tell();
    }

    fn tell(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.room.notify_waiters();
        }
    }

    /// Whether one that grows got its bytes; `None`: it waits. When all admitted instances wait
    /// for each other, one must give way.
    fn take_or_give_way(&self, bytes: u64) -> Option<bool> {
        if self.take(bytes) {
            return Some(true);
        }
        let mut admitted = self.admitted.lock();
        if admitted.refused || admitted.growing < admitted.stores {
            return None;
        }
        // One that left gave back its bytes before it was no longer counted.
        let taken = self.take(bytes);
        admitted.refused = !taken;
        Some(taken)
    }

    fn leave(&self, took_bytes: u64) {
        let mut admitted = self.admitted.lock();
        admitted.stores -= 1;
        admitted.refused = false;
        let expected = self.expected_bytes.load(Ordering::Relaxed);
        let expected = took_bytes.max(expected - expected / FORGETTING);
        self.expected_bytes.store(expected, Ordering::Relaxed);
    }
}

/// Counts one that waits, while it does.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Counts an instance that waits for room to grow, while it does.
struct Growing<'a>(&'a MemoryAccount);

impl<'a> Growing<'a> {
    fn new(account: &'a MemoryAccount) -> Self {
        account.admitted.lock().growing += 1;
        Self(account)
    }
}

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        self.0.admitted.lock().growing -= 1;
        // Whoever waits to be admitted may go now.
        self.0.tell();
    }
}

/// The limiter of one store; gives back what the store held when it is dropped.
pub struct StoreLimits {
    account: Arc<MemoryAccount>,
    held_bytes: u64,
    /// Taken when it was admitted, whether it is held yet or not.
    kept_bytes: u64,
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
        let bytes = account.instance_bytes;
        let mut limits = Self::nothing(account);
        limits.grow(bytes)?;
        Ok(limits)
    }

    fn nothing(account: Arc<MemoryAccount>) -> Self {
        let (held_bytes, kept_bytes, pending_bytes) = (0, 0, 0);
        Self { account, held_bytes, kept_bytes, pending_bytes, is_admitted: false }
    }

    /// The store's part of what is committed.
    fn share_bytes(&self) -> u64 {
        self.held_bytes.max(self.kept_bytes)
    }

    /// What growing by `bytes` takes beyond what is kept for this store.
    fn missing_bytes(&self, bytes: u64) -> u64 {
        self.held_bytes.saturating_add(bytes).saturating_sub(self.share_bytes())
    }

    fn out_of_memory(&self, held_bytes: u64, more_bytes: u64) -> OutOfMemory {
        let wanted_bytes = held_bytes.saturating_add(more_bytes);
        OutOfMemory { wanted_bytes, limit_bytes: self.account.limit_bytes }
    }

    fn hold(&mut self, bytes: u64) {
        self.held_bytes += bytes;
        self.pending_bytes = bytes;
        self.account.used_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn grow(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        if !self.account.take(self.missing_bytes(bytes)) {
            return Err(self.out_of_memory(self.account.used_bytes(), bytes));
        }
        self.hold(bytes);
        Ok(())
    }

    async fn grow_when_there_is_room(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        let (missing, account) = (self.missing_bytes(bytes), &self.account);
        if self.held_bytes.saturating_add(bytes) > account.limit_bytes {
            return Err(self.out_of_memory(self.held_bytes, bytes));
        }
        if !account.take(missing) {
            let _growing = Growing::new(account);
            let took = account.when_there_is_room(|| account.take_or_give_way(missing));
            if !timeout(GROWTH_WAIT, took).await.unwrap_or(false) {
                return Err(self.out_of_memory(account.used_bytes(), bytes));
            }
        }
        self.hold(bytes);
        Ok(())
    }

    fn undo(&mut self) {
        let bytes = std::mem::take(&mut self.pending_bytes);
        let share = self.share_bytes();
        self.held_bytes -= bytes;
        self.account.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.account.give_back(share - self.share_bytes());
    }
}

impl Drop for StoreLimits {
    fn drop(&mut self) {
        self.account.used_bytes.fetch_sub(self.held_bytes, Ordering::Relaxed);
        self.account.give_back(self.share_bytes());
        if self.is_admitted {
            self.account.leave(self.held_bytes);
            self.account.tell();
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
        assert_eq!(account.committed_bytes.load(Ordering::SeqCst), 0);
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
        assert_eq!((one.kept_bytes, account.used_bytes()), (70, 40));
        drop(one);
        assert_eq!(account.committed_bytes.load(Ordering::SeqCst), 0);
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
        assert_eq!(third.kept_bytes, 70, "as much as the last one took");
        drop(third);
        assert_eq!(account.committed_bytes.load(Ordering::SeqCst), 0);
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
}
