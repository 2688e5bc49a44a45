//! Which answers of a connection wait for their client, and since when.
//!
//! A client that takes nothing of an answer (it does not read, or keeps its HTTP/2 window shut)
//! holds the answer's bytes and its place among the requests in flight. A quiet watch is not one of
//! these: it waits for events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The answers of one connection.
#[derive(Default)]
pub(super) struct Stalls {
    /// How many requests came.
    requests: AtomicU64,
    /// One for HTTP/1.1, and as many as there may be streams for HTTP/2.
    waiting: Mutex<Vec<(u64, Instant)>>,
}

/// One answer.
pub(super) struct Ticket {
    stalls: Arc<Stalls>,
    id: u64,
}

impl Stalls {
    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn has_requests(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// An answer begins, which the client has to take.
    pub(super) fn answer(self: &Arc<Stalls>, id: u64) -> Ticket {
        let ticket = Ticket { stalls: self.clone(), id };
        ticket.waits_for_client();
        ticket
    }

    /// Since when the answer that waits longest has waited for the client.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.lock().iter().map(|(_, since)| *since).min()
    }
}

impl Ticket {
    pub(super) fn waits_for_client(&self) {
        let now = Instant::now();
        let mut waiting = self.stalls.waiting.lock();
        match waiting.iter_mut().find(|(id, _)| *id == self.id) {
            Some((_, since)) => *since = now,
            None => waiting.push((self.id, now)),
        }
    }

    pub(super) fn waits_for_us(&self) {
        self.stalls.waiting.lock().retain(|(id, _)| *id != self.id);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.waits_for_us();
    }
}
