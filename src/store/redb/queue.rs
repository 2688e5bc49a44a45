//! What waits for the writer: bounded in requests and in bytes, and taken in batches.
//!
//! Whoever was just answered tends to come again at once. A writer that began with the first of them
//! would leave the others to the next flush, and so give everybody every second one. So it waits a
//! little for them, a part of what a flush takes, unless that has not paid lately.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::writer::Request;

/// The writer waits for at most this part of what a flush takes, …
const PART_OF_FLUSH: u32 = 4;
/// … and at most this long.
const MOST_WAIT: Duration = Duration::from_millis(2);
/// Up to this many writers are waited for together. More keep the processors busy while a flush goes
/// on: then two batches that take turns are better.
const FEW: usize = 64;
/// After a wait in vain, so many batches begin at once; twice as many after each further one, up to
/// the most.
const FIRST_PENANCE: u32 = 4;
const MOST_PENANCE: u32 = 256;

/// Why a request is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Full,
    Closed,
}

pub(super) struct Queue {
    max_requests: usize,
    max_bytes: usize,
    state: Mutex<State>,
    /// Told when what the writer waits for is there.
    ready: Condvar,
    /// Told when there is room again.
    room: tokio::sync::Notify,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    bytes: usize,
    /// How many requests the writer sleeps for; 0 while it is awake.
    wanted: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(max_requests: usize, max_bytes: usize) -> Queue {
        Queue {
            max_requests: max_requests.max(1),
            max_bytes,
            state: Mutex::default(),
            ready: Condvar::new(),
            room: tokio::sync::Notify::new(),
        }
    }

    /// Adds a request; one always fits, whatever its size.
    pub(super) fn push(&self, request: Request) -> Result<(), Refusal> {
        let bytes = request.bytes();
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refusal::Closed);
        }
        let too_large = state.bytes > 0 && state.bytes.saturating_add(bytes) > self.max_bytes;
        if state.requests.len() >= self.max_requests || too_large {
            return Err(Refusal::Full);
        }
        state.bytes += bytes;
        state.requests.push(request);
        let is_enough = state.wanted > 0 && state.requests.len() >= state.wanted;
        if is_enough {
            state.wanted = 0;
            drop(state);
            self.ready.notify_one();
        }
        Ok(())
    }

    /// [`Queue::push`] that waits for room; `false` if the queue is closed.
    pub(super) async fn push_patiently(&self, mut make: impl FnMut() -> Request) -> bool {
        loop {
            let room = self.room.notified();
            match self.push(make()) {
                Ok(()) => return true,
                Err(Refusal::Closed) => return false,
                Err(Refusal::Full) => room.await,
            }
        }
    }

    /// Nothing is taken in any more; what is there is still taken out.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.wanted = 0;
        drop(state);
        self.ready.notify_one();
        self.room.notify_waiters();
    }

    /// Everything that waits; blocks until there is something, and a little longer if that is worth
    /// while. Nothing once the queue is closed and empty.
    pub(super) fn take(&self, patience: &mut Patience) -> Vec<Request> {
        let mut state = self.state.lock();
        let target = patience.target(state.requests.len());
        if let Some((wanted, until)) = target {
            let before = state.requests.len();
            while state.requests.len() < wanted && !state.closed {
                state.wanted = wanted;
                if self.ready.wait_until(&mut state, until).timed_out() {
                    break;
                }
            }
            patience.waited(wanted - before, state.requests.len() - before);
        }
        while state.requests.is_empty() && !state.closed {
            state.wanted = 1;
            self.ready.wait(&mut state);
        }
        state.wanted = 0;
        state.bytes = 0;
        let requests = std::mem::take(&mut state.requests);
        drop(state);
        self.room.notify_waiters();
        requests
    }
}

/// Decides how long the writer waits for more.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// What a flush took lately.
    flush: Duration,
    /// The last batch: when it was answered, and how many were.
    answered: Option<(Instant, usize)>,
    /// Batches that begin at once, and how many that were to be after the last wait in vain.
    penance: u32,
    last_penance: u32,
}

impl Patience {
    /// A batch of so many requests was answered; the flush took so long.
    pub(super) fn answered(&mut self, count: usize, flush: Duration, now: Instant) {
        self.flush = (self.flush * 3 + flush) / 4;
        self.answered = Some((now, count));
        self.penance = self.penance.saturating_sub(1);
    }

    /// How many requests to wait for and until when, while so many are there.
    fn target(&self, waiting: usize) -> Option<(usize, Instant)> {
        let (since, answered) = self.answered?;
        let wanted = match answered + waiting {
            few @ ..=FEW => few,
            _ => answered / 2,
        };
        let worth = wanted > waiting && wanted > 1 && self.penance == 0;
        worth.then(|| (wanted, since + (self.flush / PART_OF_FLUSH).min(MOST_WAIT)))
    }

    /// So many were waited for, and so many came.
    fn waited(&mut self, wanted: usize, came: usize) {
        if came * 2 >= wanted {
            self.last_penance = 0;
        } else {
            self.last_penance = (self.last_penance * 2).clamp(FIRST_PENANCE, MOST_PENANCE);
            self.penance = self.last_penance;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn request(bytes: usize) -> Request {
        let (reply, _) = oneshot::channel();
        Request::Commit { ops: Vec::new(), bytes, reply }
    }

    #[test]
    fn the_queue_is_bounded_and_one_request_always_fits() {
        let queue = Queue::new(3, 100);
        assert_eq!(queue.push(request(500)), Ok(()));
        assert_eq!(queue.push(request(1)), Err(Refusal::Full));
        assert_eq!(queue.take(&mut Patience::default()).len(), 1);
        for _ in 0..3 {
            assert_eq!(queue.push(request(1)), Ok(()));
        }
        assert_eq!(queue.push(request(1)), Err(Refusal::Full));
        queue.close();
        assert_eq!(queue.push(request(1)), Err(Refusal::Closed));
        assert_eq!(queue.take(&mut Patience::default()).len(), 3);
        assert!(queue.take(&mut Patience::default()).is_empty());
    }

    #[test]
    fn few_are_waited_for_together_and_many_by_half() {
        let now = Instant::now();
        let mut patience = Patience::default();
        assert_eq!(patience.target(0), None);
        patience.answered(1, Duration::from_millis(4), now);
        assert_eq!(patience.target(0), None, "a single writer waits for nobody");
        patience.answered(15, Duration::from_millis(4), now);
        assert_eq!(patience.target(1).map(|(wanted, _)| wanted), Some(16));
        patience.answered(128, Duration::from_millis(4), now);
        assert_eq!(patience.target(100), None);
        assert_eq!(patience.target(10).map(|(wanted, _)| wanted), Some(64));
        let (_, until) = patience.target(10).unwrap();
        assert!(until - now <= MOST_WAIT);
    }

    #[test]
    fn waits_in_vain_are_given_up_for_a_while() {
        let now = Instant::now();
        let mut patience = Patience::default();
        patience.answered(8, Duration::from_millis(4), now);
        patience.waited(8, 1);
        for _ in 0..FIRST_PENANCE {
            assert_eq!(patience.target(0), None);
            patience.answered(8, Duration::from_millis(4), now);
        }
        assert!(patience.target(0).is_some());
        patience.waited(8, 1);
        assert_eq!(patience.penance, 2 * FIRST_PENANCE);
        patience.waited(8, 8);
        assert_eq!(patience.last_penance, 0);
    }
}
