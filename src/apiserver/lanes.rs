//! How much is in flight: requests that read, requests that write, and streams (watches, logs),
//! each in a pool of its own.
//!
//! ```text
//!   administrators, node agents ─▶ reserved lane ─▶ reads | writes | streams
//!   everybody else ──────────────▶ common lane ───▶ reads | writes | streams
//! ```
//!
//! A flood in the common lane never takes a place of the reserved one. Within a lane a user may
//! hold no more places than are free beside them, so that one who floods leaves half of the pool
//! to others, two leave a third, and a newcomer always finds a place; administrators alone are not
//! held to their share. Requests that find all places taken wait for one in the order in which they
//! came, a bounded number of them for a bounded time: a burst of more clients than places costs
//! them time, and no errors. The rest is told to come again (429). Source of the sizes: upstream's
//! `--max-requests-inflight` and `--max-mutating-requests-inflight`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::User;
use super::authz;
use super::service::Options;
use super::user::SYSTEM_MASTERS;
use crate::api::ApiError;
use crate::base::metrics::{Looked, Metrics, Sample};

/// When a user who found no place may try again, in seconds.
const RETRY_SECONDS: u32 = 1;
/// How many requests may wait for each place.
const WAITING_FOR_EACH: usize = 8;
/// How long one waits at most: long for a burst, short for clients that time out themselves.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// What a request does, by which its pool is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Read,
    Write,
    /// It has no end of its own.
    Stream,
}

/// All pools.
pub struct Lanes {
    common: Lane,
    reserved: Lane,
}

struct Lane {
    reads: Arc<Pool>,
    writes: Arc<Pool>,
    streams: Arc<Pool>,
}

struct Pool {
    size: usize,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
    /// Only users who are held to their share, and who hold a place or wait for one.
    by_user: Mutex<HashMap<String, usize>>,
}

/// One pool of a lane, and the name that metrics have for what is in it.
type Named = (&'static str, fn(&Lane) -> &Arc<Pool>);

/// A place in a pool, given back when it is dropped.
pub struct Place {
    _place: OwnedSemaphorePermit,
    _share: Option<Share>,
}

/// One of a user's places.
struct Share {
    pool: Arc<Pool>,
    user: String,
}

/// Counts one that waits, however its wait ends.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lanes {
    pub fn new(options: &Options) -> Lanes {
        let reads = (options.max_reads_in_flight, options.reserved_reads_in_flight);
        let writes = (options.max_writes_in_flight, options.reserved_writes_in_flight);
        Lanes {
            common: Lane::new(reads.0, writes.0, options.max_streams),
            reserved: Lane::new(reads.1, writes.1, options.max_streams),
        }
    }

    /// A place for a request of a user.
    ///
    /// # Errors
    /// 429 if there is none for this user now.
    pub async fn enter(&self, user: &User, work: Work) -> Result<Place, ApiError> {
        let (masters, nodes) = (user.is_in(SYSTEM_MASTERS), authz::agent(user).is_some());
        let lane = if masters || nodes { &self.reserved } else { &self.common };
        let pool = match work {
            Work::Read => &lane.reads,
            Work::Write => &lane.writes,
            Work::Stream => &lane.streams,
        };
        let held_to_share = (!masters).then_some(user.name.as_str());
        pool.enter(held_to_share).await.ok_or_else(|| {
            let message = "Too many requests, please try again later.";
            ApiError::too_many_requests(message, RETRY_SECONDS)
        })
    }
}

impl Lanes {
    /// Shows how full the pools are.
    pub fn show(self: &Arc<Lanes>, metrics: &Metrics) {
        let (requests, streams) = (self.clone(), self.clone());
        metrics.look(
            "apiserver_current_inflight_requests",
            "Requests in flight, by lane",
            Looked::Gauge,
            move || requests.samples(&[("readOnly", |l| &l.reads), ("mutating", |l| &l.writes)]),
        );
        metrics.look(
            "apiserver_longrunning_requests",
            "Watches, logs and other streams that are open, by lane",
            Looked::Gauge,
            move || streams.samples(&[("stream", |lane| &lane.streams)]),
        );
    }

    fn samples(&self, pools: &[Named]) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (name, lane) in [("common", &self.common), ("reserved", &self.reserved)] {
            for (kind, pool) in pools {
                let labels = vec![("request_kind", kind.to_string()), ("lane", name.to_string())];
                let pool = pool(lane);
                let taken = pool.size - pool.places.available_permits().min(pool.size);
                samples.push(Sample { labels, value: taken as f64 });
            }
        }
        samples
    }
}

impl Lane {
    fn new(reads: usize, writes: usize, streams: usize) -> Lane {
        let waiting = WAITING_FOR_EACH;
        Lane {
            reads: Pool::new(reads, waiting),
            writes: Pool::new(writes, waiting),
            // A place of these comes free when somebody leaves: nothing to wait for.
            streams: Pool::new(streams, 0),
        }
    }
}

impl Pool {
    fn new(size: usize, waiting_for_each: usize) -> Arc<Pool> {
        Arc::new(Pool {
            size,
            places: Arc::new(Semaphore::new(size)),
            waiting: AtomicUsize::new(0),
            max_waiting: size.saturating_mul(waiting_for_each),
            by_user: Mutex::default(),
        })
    }

    async fn enter(self: &Arc<Pool>, user: Option<&str>) -> Option<Place> {
        let share = match user {
            Some(user) => Some(self.share(user)?),
            None => None,
        };
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => self.wait().await?,
        };
        Some(Place { _place: place, _share: share })
    }

    /// One more for a user, if it has no more than are free; where none is, one may wait.
    fn share(self: &Arc<Pool>, user: &str) -> Option<Share> {
        let free = self.places.available_permits().max(1);
        let mut by_user = self.by_user.lock();
        match by_user.get_mut(user) {
            Some(count) if *count >= free => return None,
            Some(count) => *count += 1,
            None => {
                by_user.insert(user.to_string(), 1);
            }
        }
        Some(Share { pool: self.clone(), user: user.to_string() })
    }

    async fn wait(&self) -> Option<OwnedSemaphorePermit> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.max_waiting {
            return None;
        }
        tokio::time::timeout(MAX_WAIT, self.places.clone().acquire_owned()).await.ok()?.ok()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut by_user = self.pool.by_user.lock();
        if let Some(count) = by_user.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn lanes() -> Lanes {
        let options = Options {
            max_reads_in_flight: 8,
            reserved_reads_in_flight: 8,
            max_streams: 2,
            ..Options::default()
        };
        Lanes::new(&options)
    }

    fn fill(lanes: &Lanes, user: &User) -> Vec<Place> {
        let enter = || lanes.enter(user, Work::Read).now_or_never()?.ok();
        std::iter::from_fn(enter).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_floods_leaves_room_for_others() {
        let lanes = lanes();
        let users: Vec<User> = (0..4).map(|n| User::new(format!("u{n}"), &[])).collect();
        let first = fill(&lanes, &users[0]);
        assert_eq!(first.len(), 4);
        let second = fill(&lanes, &users[1]);
        assert_eq!(second.len(), 2);
        assert_eq!(fill(&lanes, &users[2]).len(), 1);
        drop(first);
        assert_eq!(fill(&lanes, &users[3]).len(), 3);
        // Other kinds of work have pools of their own.
        assert!(lanes.enter(&users[1], Work::Write).now_or_never().unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_locks_out_neither_administrators_nor_nodes() {
        let lanes = lanes();
        let crowd: Vec<User> = (0..100).map(|n| User::new(format!("u{n}"), &[])).collect();
        let held: Vec<Place> = crowd.iter().flat_map(|user| fill(&lanes, user)).collect();
        assert_eq!(held.len(), 8);
        let refused = lanes.enter(&crowd[0], Work::Read).now_or_never().unwrap();
        assert_eq!(refused.map(|_| ()).unwrap_err().code, 429);
        let admin = User::new("admin", &[SYSTEM_MASTERS]);
        assert_eq!(fill(&lanes, &admin).len(), 8);
        let nodes = fill(&lanes, &User::node("n1"));
        assert_eq!(nodes.len(), 4);
        assert_eq!(fill(&lanes, &admin).len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_who_holds_no_place() {
        let lanes = lanes();
        drop(fill(&lanes, &User::new("u", &[])));
        assert_eq!(lanes.common.reads.by_user.lock().len(), 0);
        assert_eq!(lanes.common.reads.places.available_permits(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn those_beyond_the_places_wait_a_while_and_in_order() {
        let pool = Pool::new(1, WAITING_FOR_EACH);
        let place = pool.enter(None).await.unwrap();
        let second = async { pool.enter(None).await.is_some() };
        let first_goes = async {
            tokio::time::sleep(MAX_WAIT / 2).await;
            drop(place);
        };
        let (second, ()) = tokio::join!(second, first_goes);
        assert!(second);
        let _place = pool.enter(None).await.unwrap();
        assert!(pool.enter(None).await.is_none(), "too late");
        let waiters = futures::future::join_all((0..20).map(|_| async {
            let begin = tokio::time::Instant::now();
            assert!(pool.enter(None).await.is_none());
            begin.elapsed() == Duration::ZERO
        }));
        let at_once = waiters.await.into_iter().filter(|at_once| *at_once).count();
        assert_eq!(at_once, 20 - WAITING_FOR_EACH);
        assert_eq!(pool.waiting.load(Ordering::Relaxed), 0);
    }
}
