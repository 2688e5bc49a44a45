//! Copies the bytes of one connection between a client and an endpoint, both ways. A side that ends
//! its stream is passed on as such: the other one may go on sending.
//!
//! ```text
//!   the client is gone ──────────────▶ both are closed
//!   the endpoint takes no more ──────▶ what it has said is passed on, and what the client still sends
//!                                      is dropped: it has its answer, and is not reset
//!   this process ends, and nothing is under way ──▶ both are closed
//! ```

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::base::tcp::{Linger, has_unread};

/// Each direction's buffer.
const BUFFER_BYTES: usize = 8 << 10;
/// Nothing is under way when the endpoint spoke last, and nobody since this time.
const QUIET: Duration = Duration::from_millis(10);

/// Carries a connection to its end. Once `leaving` says so, it ends when nothing is under way.
pub async fn carry(
    client: &mut TcpStream,
    endpoint: &mut TcpStream,
    mut leaving: watch::Receiver<bool>,
) {
    let mut flow = Flow::new();
    let leaves = async {
        // Where the sender is gone, nobody leaves any more.
        if leaving.wait_for(|leaves| *leaves).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        biased;
        end = flow.run(client, endpoint) => Some(end),
        () = leaves => None,
    };
    let end = match ended {
        Some(end) => end,
        None => flow.run_until_quiet(client, endpoint).await,
    };
    if end == End::Endpoint {
        Linger::AFTER_ANSWER.close(client).await;
    }
}

/// Who has ended a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The client is gone, or both have ended their streams.
    Client,
    /// The endpoint neither says nor takes anything; the client may still be sending.
    Endpoint,
    /// Nothing is under way.
    Quiet,
}

/// What is under way on a connection.
struct Flow {
    up: Pass,
    down: Pass,
    /// The endpoint spoke last.
    is_answered: bool,
}

impl Flow {
    fn new() -> Flow {
        Flow { up: Pass::new(), down: Pass::new(), is_answered: false }
    }

    /// Copies until the connection has ended; goes on where it was dropped before.
    async fn run(&mut self, client: &mut TcpStream, endpoint: &mut TcpStream) -> End {
        poll_fn(|cx| self.poll(cx, client, endpoint)).await
    }

    async fn run_until_quiet(&mut self, client: &mut TcpStream, endpoint: &mut TcpStream) -> End {
        loop {
            let before = (self.up.count, self.down.count);
            if let Ok(end) = timeout(QUIET, self.run(client, endpoint)).await {
                return end;
            }
            let is_still = before == (self.up.count, self.down.count);
            let is_done = self.is_answered && self.down.is_empty();
            if is_still && is_done && !has_unread(client) && !has_unread(endpoint) {
                return End::Quiet;
            }
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut TcpStream,
        endpoint: &mut TcpStream,
    ) -> Poll<End> {
        let before = (self.up.count, self.down.count);
        let up = self.up.poll(cx, client, endpoint);
        let down = self.down.poll(cx, endpoint, client);
        if self.up.count > before.0 {
            // Where both spoke, nobody knows who did last.
            self.is_answered = false;
        } else if self.down.count > before.1 {
            self.is_answered = true;
        }
        match (up, down) {
            (Some(Passed::Broken), _) | (_, Some(Passed::Refused)) => Poll::Ready(End::Client),
            (Some(Passed::Whole), Some(Passed::Whole)) => Poll::Ready(End::Client),
            (_, Some(Passed::Broken)) => Poll::Ready(End::Endpoint),
            (Some(Passed::Refused), Some(Passed::Whole)) => Poll::Ready(End::Endpoint),
            _ => Poll::Pending,
        }
    }
}

/// How one direction has ended.
#[derive(Clone, Copy)]
enum Passed {
    /// All was passed on, and that it is all.
    Whole,
    /// The side that is read is gone.
    Broken,
    /// The side that is written to takes no more; what comes is dropped.
    Refused,
}

/// One direction.
struct Pass {
    buffer: Box<[u8]>,
    /// What of it is to be written.
    from: usize,
    to: usize,
    /// Bytes that were read.
    count: u64,
    /// The side that is read has ended its stream.
    is_read: bool,
    passed: Option<Passed>,
    /// Bytes that were read since nobody takes them.
    dropped: u64,
}

impl Pass {
    fn new() -> Pass {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Pass { buffer, from: 0, to: 0, count: 0, is_read: false, passed: None, dropped: 0 }
    }

    fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Copies what there is, and tells how it has ended, if it has.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut TcpStream,
        writer: &mut TcpStream,
    ) -> Option<Passed> {
        if self.passed.is_none()
            && let Poll::Ready(passed) = self.poll_copy(cx, reader, writer)
        {
            self.passed = Some(passed);
        }
        if matches!(self.passed, Some(Passed::Refused)) {
            (self.from, self.to) = (0, 0);
            let bound = Linger::AFTER_ANSWER.bytes;
            while self.dropped < bound
                && let Poll::Ready(Ok(count @ 1..)) = self.poll_read(cx, reader)
            {
                self.to = 0;
                self.dropped += count as u64;
            }
        }
        self.passed
    }

    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut TcpStream,
        writer: &mut TcpStream,
    ) -> Poll<Passed> {
        loop {
            while !self.is_empty() {
                let bytes = &self.buffer[self.from..self.to];
                match ready!(Pin::new(&mut *writer).poll_write(cx, bytes)) {
                    Ok(count @ 1..) => self.from += count,
                    Ok(0) | Err(_) => return Poll::Ready(Passed::Refused),
                }
            }
            if self.is_read {
                let ended = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                return Poll::Ready(ended.map_or(Passed::Refused, |()| Passed::Whole));
            }
            match ready!(self.poll_read(cx, reader)) {
                Ok(count) => self.is_read = count == 0,
                Err(_) => return Poll::Ready(Passed::Broken),
            }
        }
    }

    /// Fills the buffer, of which nothing is to be written any more.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut TcpStream,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(reader).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        (self.from, self.to) = (0, count);
        self.count += count as u64;
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn soon<F: Future>(future: F) -> F::Output {
        timeout(PATIENCE, future).await.expect("in time")
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        (near.expect("it listens"), far.expect("accepts").0)
    }

    /// A client and an endpoint that a connection is carried between.
    async fn carried() -> (TcpStream, TcpStream, watch::Sender<bool>, JoinHandle<()>) {
        let (client, mut near) = pair().await;
        let (mut far, endpoint) = pair().await;
        let (leaves, leaving) = watch::channel(false);
        let carried = tokio::spawn(async move { carry(&mut near, &mut far, leaving).await });
        (client, endpoint, leaves, carried)
    }

    async fn says(from: &mut TcpStream, to: &mut TcpStream, text: &str) {
        from.write_all(text.as_bytes()).await.expect("it is taken");
        let mut heard = vec![0; text.len()];
        soon(to.read_exact(&mut heard)).await.expect("it comes");
        assert_eq!(heard, text.as_bytes());
    }

    /// What comes until the other side has ended.
    async fn rest(of: &mut TcpStream) -> String {
        let mut text = String::new();
        soon(of.read_to_string(&mut text)).await.expect("no reset");
        text
    }

    #[tokio::test]
    async fn a_side_that_ends_its_stream_may_still_hear() {
        let (mut client, mut endpoint, _leaves, carried) = carried().await;
        says(&mut client, &mut endpoint, "question").await;
        client.shutdown().await.expect("it is open");
        assert_eq!(rest(&mut endpoint).await, "");
        says(&mut endpoint, &mut client, "answer").await;
        drop(endpoint);
        assert_eq!(rest(&mut client).await, "");
        soon(carried).await.expect("no panic");
    }

    #[tokio::test]
    async fn an_endpoint_that_answers_early_resets_no_client() {
        for _ in 0..20 {
            let (mut client, mut endpoint, _leaves, carried) = carried().await;
            let client = tokio::spawn(async move {
                soon(client.write_all(&vec![b'x'; 3 << 20])).await.expect("all is taken");
                rest(&mut client).await
            });
            soon(endpoint.read_exact(&mut [0; 1000])).await.expect("it comes");
            endpoint.write_all(b"enough").await.expect("it is taken");
            // With bytes unread: it is a reset.
            drop(endpoint);
            assert_eq!(soon(client).await.expect("no panic"), "enough");
            soon(carried).await.expect("no panic");
        }
    }

    #[tokio::test]
    async fn a_client_that_goes_away_ends_its_connection() {
        let (client, mut endpoint, _leaves, carried) = carried().await;
        drop(client);
        assert_eq!(rest(&mut endpoint).await, "");
        drop(endpoint);
        soon(carried).await.expect("no panic");
    }

    #[tokio::test]
    async fn who_leaves_ends_a_connection_between_requests() {
        let (mut client, mut endpoint, leaves, mut carried) = carried().await;
        says(&mut client, &mut endpoint, "question").await;
        says(&mut endpoint, &mut client, "answer").await;
        says(&mut client, &mut endpoint, "another").await;
        leaves.send_replace(true);
        // What is asked is under way, for however long.
        assert!(timeout(QUIET * 4, &mut carried).await.is_err());
        says(&mut endpoint, &mut client, "answer").await;
        assert_eq!(rest(&mut client).await, "");
        assert_eq!(rest(&mut endpoint).await, "");
        soon(carried).await.expect("no panic");
    }
}
