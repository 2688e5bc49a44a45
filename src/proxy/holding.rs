//! Connections that are held: an autoscaler has the pods of their Service at zero, and one is on its
//! way. Nothing is read of what is held, so that it costs a descriptor and what the kernel keeps.
//!
//! ```text
//!   no endpoint, and the Service says ScaledToZero ──▶ held, and told once (Awaited)
//!   held ──an endpoint──▶ connected
//!        ──ScaledToZero is gone, the time is over, no place──▶ 503 for HTTP/1, else closed
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::base::tcp::Linger;

/// How long a connection waits for a pod.
pub const HOLD_LIMIT: Duration = Duration::from_secs(30);
/// Held connections of one port of a Service: as many as one handler takes at once.
const MAX_HELD: usize = 1024;
/// What begins so is taken for a request of HTTP/1.
const METHODS: &[&str] =
    &["GET ", "HEAD ", "POST ", "PUT ", "PATCH ", "DELETE ", "OPTIONS ", "CONNECT ", "TRACE "];
/// A client that is refused has sent its request, or does so within this time.
const HEAD_LIMIT: Duration = Duration::from_millis(500);
/// What a refused client still sends is taken from it, so that it reads the answer.
const LINGER: Linger =
    Linger { silence: Duration::from_secs(1), most: Duration::from_secs(1), bytes: 64 << 10 };
const REFUSAL: &str = "no pod of the Service became ready in time\n";

/// Places of held connections; the half of those that may be open.
pub struct HoldPlaces {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    most: usize,
}

impl HoldPlaces {
    pub fn new(all: Arc<Semaphore>, most: usize) -> HoldPlaces {
        let most = most.clamp(1, MAX_HELD);
        HoldPlaces { all, own: Arc::new(Semaphore::new(most)), most }
    }

    /// `None`: too many wait already.
    pub fn take(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let own = self.own.clone().try_acquire_owned().ok()?;
        Some((own, self.all.clone().try_acquire_owned().ok()?))
    }

    /// Whether a connection is held at this port.
    pub fn is_waited_for(&self) -> bool {
        self.own.available_permits() < self.most
    }
}

/// Resolves when a client went away without having sent anything, or with an error. Of one that sent
/// a request nothing more is seen until it is read.
pub async fn gone(client: &TcpStream) {
    match client.peek(&mut [0; 1]).await {
        Ok(0) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// Answers a client of HTTP/1 that there is no pod, and closes.
pub async fn refuse(mut client: TcpStream) -> io::Result<()> {
    let mut head = [0; 8];
    let read = match tokio::time::timeout(HEAD_LIMIT, client.peek(&mut head)).await {
        Ok(read) => read?,
        Err(_) => 0,
    };
    if !is_http(&head[..read]) {
        return Ok(());
    }
    let length = REFUSAL.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\
         retry-after: 5\r\nconnection: close\r\n\r\n{REFUSAL}"
    );
    match tokio::time::timeout(LINGER.most, client.write_all(answer.as_bytes())).await {
        Ok(written) => written?,
        Err(_) => return Ok(()),
    }
    LINGER.close(&mut client).await;
    Ok(())
}

fn is_http(head: &[u8]) -> bool {
    let begins = |method: &&str| {
        let length = method.len().min(head.len());
        !head.is_empty() && method.as_bytes()[..length] == head[..length]
    };
    METHODS.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_http_are_known_by_their_method() {
        for head in ["GET / HT", "G", "DELETE /", "OPTIONS "] {
            assert!(is_http(head.as_bytes()), "{head}");
        }
        for head in ["", "PRI * HT", "GETA", "\u{16}\u{3}\u{1}"] {
            assert!(!is_http(head.as_bytes()), "{head}");
        }
    }

    #[test]
    fn places_are_bounded_by_port_and_in_all() {
        let all = Arc::new(Semaphore::new(3));
        let (first, second) = (HoldPlaces::new(all.clone(), 2), HoldPlaces::new(all, 9));
        let held: Vec<_> = (0..3).filter_map(|_| first.take()).collect();
        assert_eq!(held.len(), 2);
        assert!(first.is_waited_for() && !second.is_waited_for());
        let other = second.take();
        assert!(other.is_some() && second.take().is_none(), "none is left in all");
        drop(held);
        assert!(!first.is_waited_for() && first.take().is_some());
    }
}
