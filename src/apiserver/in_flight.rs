//! How many requests are worked on at the same time. Those beyond wait for a place in the order in
//! which they came, a bounded number of them for a bounded time, and the rest is sent away: a burst
//! of more clients than places costs them time, and no errors.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::api::ApiError;

/// How many requests may wait for each place.
const WAITING_FOR_EACH: usize = 8;
/// How long one waits at most: long for a burst, short for clients that time out themselves.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub struct InFlight {
    places: Semaphore,
    waiting: AtomicUsize,
    max_waiting: usize,
}

/// Counts one that waits, however its wait ends.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InFlight {
    pub fn new(places: usize) -> InFlight {
        let max_waiting = places.saturating_mul(WAITING_FOR_EACH);
        InFlight { places: Semaphore::new(places), waiting: AtomicUsize::new(0), max_waiting }
    }

    /// A place, free again when it is dropped.
    ///
    /// # Errors
    /// 429 when too many wait already, or for too long.
    pub async fn enter(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let place = match before < self.max_waiting {
            true => tokio::time::timeout(MAX_WAIT, self.places.acquire()).await.ok(),
            false => None,
        };
        place.and_then(Result::ok).ok_or_else(|| {
            let message = "Too many requests, please try again later.";
            ApiError::too_many_requests(message, 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_beyond_the_places_wait_a_while_and_in_order() {
        let flight = InFlight::new(1);
        let place = flight.enter().await.unwrap();
        let second = async { flight.enter().await.is_ok() };
        let first_goes = async {
            tokio::time::sleep(MAX_WAIT / 2).await;
            drop(place);
        };
        let (second, ()) = tokio::join!(second, first_goes);
        assert!(second);
        let _place = flight.enter().await.unwrap();
        let late = flight.enter().await.unwrap_err();
        assert_eq!((late.code, late.retry_after_seconds()), (429, Some(1)));
        let waiters = futures::future::join_all((0..20).map(|_| async {
            let begin = tokio::time::Instant::now();
            assert!(flight.enter().await.is_err());
            begin.elapsed() == Duration::ZERO
        }));
        let at_once = waiters.await.into_iter().filter(|at_once| *at_once).count();
        assert_eq!(at_once, 20 - WAITING_FOR_EACH);
        assert_eq!(flight.waiting.load(Ordering::Relaxed), 0);
    }
}
