//! Which sockets are open: all within a bound, and never all of them strangers'.
//!
//! Peers that have shown no client certificate may hold three quarters of the sockets, so that
//! administrators and nodes find one. A handshake that is not done gives way to a new peer when
//! there is no socket left: peers that are honest are done in a moment.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// All sockets of a listener.
pub(super) struct Crowd {
    all: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// Oldest first.
    handshakes: Mutex<VecDeque<Arc<Notify>>>,
}

/// A handshake under way.
pub(super) struct Handshake {
    crowd: Arc<Crowd>,
    give_way: Arc<Notify>,
}

impl Crowd {
    pub(super) fn new(max_connections: usize) -> Arc<Crowd> {
        let strangers = max_connections - max_connections / 4;
        Arc::new(Crowd {
            all: Arc::new(Semaphore::new(max_connections)),
            strangers: Arc::new(Semaphore::new(strangers)),
            handshakes: Mutex::default(),
        })
    }

    /// A place for a new peer; the oldest handshake ends for it if there is none.
    pub(super) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.all.clone().try_acquire_owned() {
            return Some(permit);
        }
        if let Some(oldest) = self.handshakes.lock().pop_front() {
            oldest.notify_one();
        }
        self.all.clone().acquire_owned().await.ok()
    }

    pub(super) fn handshake(self: &Arc<Crowd>) -> Handshake {
        let give_way = Arc::new(Notify::new());
        self.handshakes.lock().push_back(give_way.clone());
        Handshake { crowd: self.clone(), give_way }
    }

    /// A place among the peers without a certificate.
    pub(super) fn stranger(&self) -> Option<OwnedSemaphorePermit> {
        self.strangers.clone().try_acquire_owned().ok()
    }
}

impl Handshake {
    /// Resolves when somebody else needs the socket.
    pub(super) async fn gives_way(&self) {
        self.give_way.notified().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut handshakes = self.crowd.handshakes.lock();
        // Most are done in the order in which they came.
        if let Some(at) = handshakes.iter().position(|one| Arc::ptr_eq(one, &self.give_way)) {
            handshakes.remove(at);
        }
    }
}
