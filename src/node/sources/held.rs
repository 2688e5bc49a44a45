//! ConfigMaps and Secrets that many pods of a node hold: each is in memory once, and pods that want
//! one at the same moment share one request.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::api::ApiError;

/// Names that are remembered; what has none of these places is asked for by each pod for itself.
const MOST_NAMES: usize = 4096;
/// How old an answer may be for one who does not need the newest: far below the period of the
/// refresh, so that this adds little to the time until a change is seen.
const LATELY: SignedDuration = SignedDuration::from_secs(5);

/// How new an object must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Asked for after this moment: what a pod sees that starts.
    Now,
    /// A few seconds old at most.
    Lately,
}

/// The objects of one kind.
pub struct Held<T> {
    slots: Mutex<HashMap<Key, Arc<Slot<T>>>>,
    /// Counts moments, so that two of them are never the same.
    moments: AtomicU64,
}

/// Namespace and name.
type Key = (String, String);

/// Locked while somebody asks; those who wait for the lock share the answer, if it was asked for after
/// they came.
type Slot<T> = tokio::sync::Mutex<Option<Answer<T>>>;

struct Answer<T> {
    moment: u64,
    at: Timestamp,
    /// Whoever mounts the object keeps it.
    object: Result<Weak<T>, ApiError>,
}

impl<T> Default for Held<T> {
    fn default() -> Held<T> {
        Held { slots: Mutex::default(), moments: AtomicU64::new(0) }
    }
}

impl<T: PartialEq> Held<T> {
    /// The object, by `ask` if nobody else's answer is new enough.
    ///
    /// # Errors
    /// Those of `ask`, which everybody gets who waited for its answer.
    pub async fn get<F: Future<Output = Result<T, ApiError>>>(
        &self,
        (namespace, name): (&str, &str),
        fresh: Freshness,
        now: impl Fn() -> Timestamp,
        ask: impl FnOnce() -> F,
    ) -> Result<Arc<T>, ApiError> {
        let came = self.moments.fetch_add(1, Ordering::Relaxed);
        let Some(slot) = self.slot(namespace, name) else { return ask().await.map(Arc::new) };
        let mut slot = slot.lock().await;
        let at = now();
        if let Some(answer) = &*slot
            && (answer.moment > came || fresh == Freshness::Lately && answer.is_of_late(at))
            && let Some(object) = answer.object()
        {
            return object;
        }
        let moment = self.moments.fetch_add(1, Ordering::Relaxed);
        let object = ask().await.map(|object| match slot.as_ref().and_then(Answer::object) {
            Some(Ok(known)) if *known == object => known,
            _ => Arc::new(object),
        });
        let kept = object.as_ref().map(Arc::downgrade).map_err(ApiError::clone);
        *slot = Some(Answer { moment, at, object: kept });
        object
    }

    fn slot(&self, namespace: &str, name: &str) -> Option<Arc<Slot<T>>> {
        let key = (namespace.to_string(), name.to_string());
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&key) {
            return Some(slot.clone());
        }
        if slots.len() >= MOST_NAMES {
            slots.retain(|_, slot| is_wanted(slot));
        }
        (slots.len() < MOST_NAMES).then(|| slots.entry(key).or_default().clone())
    }
}

/// Whether somebody asks for it now, or holds it.
fn is_wanted<T>(slot: &Arc<Slot<T>>) -> bool {
    let holds = |answer: &Answer<T>| answer.object.as_ref().is_ok_and(|o| o.strong_count() > 0);
    Arc::strong_count(slot) > 1
        || slot.try_lock().map_or(true, |answer| answer.as_ref().is_some_and(holds))
}

impl<T> Answer<T> {
    /// A clock that went back makes every answer old.
    fn is_of_late(&self, now: Timestamp) -> bool {
        (SignedDuration::ZERO..LATELY).contains(&now.duration_since(self.at))
    }

    fn object(&self) -> Option<Result<Arc<T>, ApiError>> {
        match &self.object {
            Ok(object) => object.upgrade().map(Ok),
            Err(error) => Some(Err(error.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    const KEY: (&str, &str) = ("default", "a");

    fn at(second: i64) -> impl Fn() -> Timestamp {
        move || Timestamp::from_second(second).expect("a time")
    }

    async fn get(held: &Held<u32>, fresh: Freshness, second: i64, answer: u32) -> Arc<u32> {
        held.get(KEY, fresh, at(second), || async move { Ok(answer) }).await.expect("an answer")
    }

    #[tokio::test]
    async fn the_same_object_is_held_once() {
        let held = Held::default();
        let one = get(&held, Freshness::Now, 0, 1).await;
        assert!(Arc::ptr_eq(&one, &get(&held, Freshness::Now, 1, 1).await));
        let newer = get(&held, Freshness::Now, 2, 2).await;
        assert_eq!((*one, *newer), (1, 2));
        assert!(Arc::ptr_eq(&newer, &get(&held, Freshness::Now, 3, 2).await));
    }

    #[tokio::test]
    async fn only_who_needs_the_newest_asks_again_soon() {
        let held = Held::default();
        let one = get(&held, Freshness::Lately, 100, 1).await;
        assert_eq!(*get(&held, Freshness::Lately, 104, 2).await, 1, "of late");
        assert_eq!(*get(&held, Freshness::Lately, 106, 3).await, 3, "too old");
        let held_now = get(&held, Freshness::Now, 106, 4).await;
        assert_eq!(*held_now, 4, "the newest");
        assert_eq!(*get(&held, Freshness::Lately, 50, 5).await, 5, "the clock went back");
        drop((one, held_now));
        assert_eq!(*get(&held, Freshness::Lately, 50, 6).await, 6, "nobody held it");
    }

    #[tokio::test]
    async fn those_who_wait_share_the_next_answer() {
        let (held, asked, gate) = (Held::default(), Cell::new(0), Semaphore::new(0));
        let ask = |fresh| {
            held.get(KEY, fresh, at(0), || async {
                let n = asked.get() + 1;
                asked.set(n);
                gate.acquire().await.expect("open").forget();
                if n == 2 { Err(ApiError::unavailable("away")) } else { Ok(n) }
            })
        };
        // All of them come before the first answer, which was asked for before the others came.
        let answers = async { join_all((0..100).map(|_| ask(Freshness::Now))).await };
        let opened = async {
            tokio::task::yield_now().await;
            gate.add_permits(2);
        };
        let (answers, ()) = tokio::join!(answers, opened);
        assert_eq!(asked.get(), 2, "the first one's, and one for all the others");
        assert_eq!(answers[0].as_ref().map(|one| **one).ok(), Some(1));
        assert!(answers[1..].iter().all(Result::is_err), "an error is everybody's");
        gate.add_permits(1);
        assert_eq!(*ask(Freshness::Now).await.expect("a new attempt"), 3);
    }

    #[tokio::test]
    async fn names_are_bounded() {
        let held = Held::<u32>::default();
        for n in 0..2 * MOST_NAMES {
            let name = n.to_string();
            let one = held.get(("", &name), Freshness::Now, at(0), || async { Ok(1) }).await;
            assert_eq!(one.as_deref(), Ok(&1));
        }
        assert!(held.slots.lock().len() <= MOST_NAMES);
    }
}
