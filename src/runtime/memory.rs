//! The memory of one container: counted over all of its instances, shared out among them. What
//! counts are linear memories, tables, what the host holds for its guests beside them
//! (`store_memory`), and a fixed amount for each instance ([`INSTANCE_BYTES`]).
//!
//! A process has one store, and growth beyond the limit ends it. An HTTP handler has a store for
//! each request: a request is [admitted](MemoryAccount::admit) when there is room for what its
//! instance is likely to take, and an instance that grows beyond that waits for others to end. So
//! a request does not fail because of its neighbours; it fails when its own instance wants more
//! than the limit, or when all wait for each other. Only the host's buffers wait for nobody, since
//! they are asked for where nothing can wait: those beyond what an instance has anyway
//! ([`BUFFERS_BYTES`]) fail when there is no room for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::store_memory::StoreLimits;
pub use crate::artifact::bounds::INSTANCE_BYTES;

/// The part of [`INSTANCE_BYTES`] that is for buffers: what the host holds for an instance beyond that is counted.
pub const BUFFERS_BYTES: u64 = 64 << 10;
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

    pub(super) fn with_instances_of(instance_bytes: u64, limit_bytes: u64) -> Self {
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
        // With a limit below it nothing can grow: the guest is refused its memory.
        StoreLimits::admitted(self.clone(), bytes, self.instance_bytes.min(bytes))
    }

    /// Counts what is there already and is bounded by whoever made it: that of a response whose guest
    /// has ended. Until it is dropped, others wait for room.
    pub fn lend(self: &Arc<Self>, bytes: u64) -> Lent {
        self.count(bytes);
        self.take_anyway(bytes);
        Lent { account: self.clone(), bytes }
    }

    /// Returns when somebody waits for memory. One listens.
    pub async fn pressed(&self) {
        self.pressure.notified().await;
    }

    /// Tries, and tries again whenever something was given back.
    pub(super) async fn when_there_is_room<T>(&self, attempt: impl Fn() -> Option<T>) -> T {
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

    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    pub(super) fn instance_bytes(&self) -> u64 {
        self.instance_bytes
    }

    #[cfg(test)]
    pub(super) fn committed_bytes(&self) -> u64 {
        self.committed_bytes.load(Ordering::SeqCst)
    }

    /// What is held now; what is committed is told apart.
    pub(super) fn count(&self, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn discount(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Commits bytes that are there already, limit or not.
    pub(super) fn take_anyway(&self, bytes: u64) {
        self.committed_bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(super) fn take(&self, bytes: u64) -> bool {
        let fits = |sum: u64| sum.checked_add(bytes).filter(|sum| *sum <= self.limit_bytes);
        self.committed_bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }

    pub(super) fn give_back(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.committed_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.tell();
    }

    pub(super) fn tell(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.room.notify_waiters();
        }
    }

    /// Whether one that grows got its bytes, which `take` tries; `None`: it waits. When all admitted
    /// instances wait for each other, one must give way.
    pub(super) fn take_or_give_way(&self, take: impl Fn() -> bool) -> Option<bool> {
        if take() {
            return Some(true);
        }
        let mut admitted = self.admitted.lock();
        if admitted.refused || admitted.growing < admitted.stores {
            return None;
        }
        // One that left gave back its bytes before it was no longer counted.
        let taken = take();
        admitted.refused = !taken;
        Some(taken)
    }

    pub(super) fn leave(&self, took_bytes: u64) {
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
pub(super) struct Growing<'a>(&'a MemoryAccount);

impl<'a> Growing<'a> {
    pub(super) fn new(account: &'a MemoryAccount) -> Self {
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

/// Bytes that no store holds; given back when it is dropped.
pub struct Lent {
    account: Arc<MemoryAccount>,
    bytes: u64,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.account.discount(self.bytes);
        self.account.give_back(self.bytes);
    }
}
