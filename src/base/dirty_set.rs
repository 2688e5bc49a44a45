//! A queue of keys that coalesces: a key waits at most once, is worked on by one worker at a time,
//! and a key that is marked while it is worked on comes again. What client-go calls a workqueue.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Shared by those who mark keys and those who take them; cheap to clone.
pub struct DirtySet<K> {
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    queue: VecDeque<K>,
    /// Since when each key of the queue waits.
    waiting: HashMap<K, Instant>,
    working: HashSet<K>,
    again: HashSet<K>,
    /// Keys to be marked later, by time; the counter keeps equal times apart.
    later: BTreeMap<(Instant, u64), K>,
    /// The one time at which a key is to be marked.
    times: HashMap<K, (Instant, u64)>,
    counter: u64,
    /// Keys that were put into the queue.
    adds: u64,
}

impl<K> Clone for DirtySet<K> {
    fn clone(&self) -> Self {
        DirtySet { inner: self.inner.clone() }
    }
}

impl<K: Hash + Eq + Clone> Default for DirtySet<K> {
    fn default() -> Self {
        let state = State {
            queue: VecDeque::new(),
            waiting: HashMap::new(),
            working: HashSet::new(),
            again: HashSet::new(),
            later: BTreeMap::new(),
            times: HashMap::new(),
            counter: 0,
            adds: 0,
        };
        DirtySet { inner: Arc::new(Inner { state: Mutex::new(state), wake: Notify::new() }) }
    }
}

impl<K: Hash + Eq + Clone> DirtySet<K> {
    /// Marks a key; never blocks, never drops.
    pub fn mark(&self, key: K) {
        let mut state = self.inner.state.lock();
        state.mark(key);
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Marks a key after a wait on tokio's timer. A key has one such time: the earliest asked for
    /// since it was last reached.
    pub fn mark_after(&self, key: K, wait: Duration) {
        let at = Instant::now() + wait;
        let mut state = self.inner.state.lock();
        if let Some(planned) = state.times.get(&key).copied() {
            if planned.0 <= at {
                return;
            }
            state.later.remove(&planned);
        }
        state.counter += 1;
        let at = (at, state.counter);
        state.times.insert(key.clone(), at);
        state.later.insert(at, key);
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Takes the next key and holds it until [`DirtySet::done`]. Cancel-safe.
    pub async fn take(&self) -> K {
        self.take_timed().await.0
    }

    /// [`DirtySet::take`], and for how long the key waited.
    pub async fn take_timed(&self) -> (K, Duration) {
        loop {
            let notified = self.inner.wake.notified();
            let next_time = {
                let mut state = self.inner.state.lock();
                state.move_due(Instant::now());
                if let Some(key) = state.queue.pop_front() {
                    let since = state.waiting.remove(&key);
                    state.working.insert(key.clone());
                    let more = !state.queue.is_empty() || !state.later.is_empty();
                    drop(state);
                    if more {
                        // Another worker may sleep on a permit that this one consumed.
                        self.inner.wake.notify_one();
                    }
                    return (key, since.map(|since| since.elapsed()).unwrap_or_default());
                }
                state.later.keys().next().map(|(at, _)| *at)
            };
            match next_time {
                Some(at) => tokio::select! {
                    biased;
                    () = notified => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => notified.await,
            }
        }
    }

    /// Lets a taken key go; if it was marked meanwhile it waits again.
    pub fn done(&self, key: &K) {
        let mut state = self.inner.state.lock();
        state.working.remove(key);
        let again = state.again.remove(key);
        if again {
            state.mark(key.clone());
        }
        drop(state);
        if again {
            self.inner.wake.notify_one();
        }
    }

    /// How many keys wait now (those with a later time not counted).
    pub fn len(&self) -> usize {
        self.inner.state.lock().queue.len()
    }

    /// How many keys have a later time.
    pub fn later(&self) -> usize {
        self.inner.state.lock().later.len()
    }

    /// How many keys were put into the queue so far; one that waits already is not put there again.
    pub fn adds(&self) -> u64 {
        self.inner.state.lock().adds
    }

    /// Nothing waits and nothing is worked on; later keys may be planned.
    pub fn is_idle(&self) -> bool {
        let state = self.inner.state.lock();
        state.queue.is_empty() && state.working.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Hash + Eq + Clone> State<K> {
    fn mark(&mut self, key: K) {
        if self.working.contains(&key) {
            self.again.insert(key);
        } else if let Entry::Vacant(waiting) = self.waiting.entry(key.clone()) {
            waiting.insert(Instant::now());
            self.adds += 1;
            self.queue.push_back(key);
        }
    }

    fn move_due(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.times.remove(&key);
            self.mark(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn coalesces_and_comes_again() {
        let set = DirtySet::default();
        set.mark("a");
        set.mark("a");
        set.mark("b");
        assert_eq!(set.adds(), 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(set.take_timed().await, ("a", Duration::from_secs(1)));
        set.mark("a");
        assert_eq!(set.take().await, "b");
        assert!(set.is_empty(), "a is worked on, so it must not be handed out twice");
        set.done(&"a");
        assert_eq!(set.take().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn later_keys_come_in_time_order() {
        let set = DirtySet::default();
        set.mark_after("late", Duration::from_secs(60));
        set.mark_after("soon", Duration::from_secs(5));
        set.mark_after("soon", Duration::from_secs(1));
        set.mark_after("soon", Duration::from_secs(90));
        assert_eq!(set.take().await, "soon");
        set.done(&"soon");
        assert_eq!(set.take().await, "late");
    }
}
