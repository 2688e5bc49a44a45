//! What happens on one connection to an HTTP handler, as its stream, its requests and their bodies
//! tell it; and what is to be done about it when nothing happens.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::http_limits::HttpLimits;
use crate::base::tcp::has_unread;

/// What is happening on a connection.
pub struct Activity(Mutex<State>);

struct State {
    accepted: Instant,
    http2: bool,
    /// Requests whose response is not yet handed to the connection as a whole.
    in_flight: usize,
    /// Requests whose body is still read, though they may be answered.
    read_off: usize,
    /// Told when that ends.
    waker: Option<Waker>,
    /// A request's body was not read to its end.
    is_left: bool,
    /// A request came.
    is_used: bool,
    /// Since when no request is in flight.
    idle_since: Instant,
    /// Since when bytes of a head have come, and not all of them (HTTP/1).
    head_since: Option<Instant>,
    /// Since when the client takes none of the bytes that wait for it.
    unsent_since: Option<Instant>,
    /// Bytes were in the kernel's queue after the last read; looked at only when `end` is set.
    has_unread: bool,
    /// Since when the connection is to end as soon as it may.
    end: Option<Instant>,
    is_closed: bool,
}

/// What to do about a connection that waits.
pub enum Next {
    /// Ask again then.
    Look(Instant),
    /// It was idle for too long.
    End,
    /// Nothing is lost any more: no further request is taken.
    Close,
    Fail(TooSlow),
}

/// What a client had no more time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooSlow {
    #[error("a request's head was not completed")]
    Head,
    #[error("the client takes no bytes")]
    Taking,
    #[error("the client does not let go")]
    LettingGo,
}

impl Activity {
    pub fn new(accepted: Instant, http2: bool) -> Self {
        Self(Mutex::new(State {
            accepted,
            http2,
            in_flight: 0,
            read_off: 0,
            waker: None,
            is_left: false,
            is_used: false,
            idle_since: accepted,
            // The bytes that told the protocol.
            head_since: (!http2).then(Instant::now),
            unsent_since: None,
            has_unread: false,
            end: None,
            is_closed: false,
        }))
    }

    pub fn is_ending(&self) -> bool {
        self.0.lock().end.is_some()
    }

    pub fn end(&self) {
        self.0.lock().end.get_or_insert_with(Instant::now);
    }

    /// Whether bytes of a request's body may still come.
    pub fn is_left(&self) -> bool {
        self.0.lock().is_left
    }

    pub fn next(&self, cx: &mut Context<'_>, limits: &HttpLimits) -> Next {
        let mut state = self.0.lock();
        state.waker = (state.read_off > 0).then(|| cx.waker().clone());
        let now = Instant::now();
        if state.end.is_some() && !state.is_closed && state.may_close(now, limits) {
            state.is_closed = true;
            return Next::Close;
        }
        let (at, then) = state.due(now, limits);
        if now < at { Next::Look(at) } else { then }
    }
}

impl State {
    fn may_close(&self, now: Instant, limits: &HttpLimits) -> bool {
        if self.http2 {
            // Not before the first request of a connection that was just made: a client that
            // learns of the end between two requests tries elsewhere, one that never came to
            // ask reports an error.
            return self.is_used || now >= self.accepted + limits.first_byte;
        }
        // With a request in flight this only says that its response is the last.
        let is_quiet = self.head_since.is_none() && self.unsent_since.is_none() && !self.has_unread;
        self.in_flight > 0 || (is_quiet && self.read_off == 0)
    }

    /// When the connection has waited for too long, and what then.
    fn due(&self, now: Instant, limits: &HttpLimits) -> (Instant, Next) {
        if let Some(since) = self.unsent_since {
            return (since + limits.stalled_client, Next::Fail(TooSlow::Taking));
        }
        if self.in_flight > 0 {
            return (now + limits.idle, Next::Look(now + limits.idle));
        }
        if let Some(since) = self.head_since {
            return (since + limits.request_head, Next::Fail(TooSlow::Head));
        }
        let Some(end) = self.end else { return (self.idle_since + limits.idle, Next::End) };
        if self.http2 && !self.is_closed {
            return (self.accepted + limits.first_byte, Next::End);
        }
        let since = end.max(self.idle_since);
        (since + limits.request_head, Next::Fail(TooSlow::LettingGo))
    }
}

/// Counts a request until its response was handed to the connection, or is given up.
pub struct InFlight(Arc<Activity>);

impl InFlight {
    pub fn new(activity: &Arc<Activity>) -> Self {
        let mut state = activity.0.lock();
        state.in_flight += 1;
        state.is_used = true;
        state.head_since = None;
        drop(state);
        Self(activity.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.in_flight -= 1;
        state.idle_since = Instant::now();
    }
}

/// Counts a request's body until it was read to its end, or is given up.
pub struct ReadOff(Arc<Activity>);

impl ReadOff {
    pub fn new(activity: &Arc<Activity>) -> Self {
        activity.0.lock().read_off += 1;
        Self(activity.clone())
    }

    /// It is given up before its end.
    pub fn leave(&self) {
        self.0.0.lock().is_left = true;
    }
}

impl Drop for ReadOff {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.read_off -= 1;
        state.idle_since = Instant::now();
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A stream that tells what it carries.
pub struct Watched {
    pub stream: TcpStream,
    pub activity: Arc<Activity>,
}

impl Watched {
    fn note_read(&self, bytes: &[u8]) {
        let mut state = self.activity.0.lock();
        state.has_unread = false;
        // Empty lines begin nothing (RFC 9112, section 2.2).
        let is_head = state.in_flight == 0 && state.read_off == 0 && !state.http2;
        if is_head && bytes.iter().any(|byte| !b"\r\n".contains(byte)) {
            state.head_since.get_or_insert_with(Instant::now);
        }
    }

    fn note_no_read(&self) {
        let mut state = self.activity.0.lock();
        if state.end.is_some() {
            state.has_unread = has_unread(&self.stream);
        }
    }

    fn note_write<T>(&self, written: &Poll<io::Result<T>>) {
        let mut state = self.activity.0.lock();
        match written {
            Poll::Ready(_) => state.unsent_since = None,
            Poll::Pending => {
                state.unsent_since.get_or_insert_with(Instant::now);
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match &read {
            Poll::Ready(_) => self.note_read(&buffer.filled()[before..]),
            Poll::Pending => self.note_no_read(),
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures::FutureExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n";

    fn next(activity: &Activity) -> Next {
        activity.next(&mut Context::from_waker(Waker::noop()), &HttpLimits::default())
    }

    /// Both ends of a connection that served a request and is idle.
    fn idle() -> (std::net::TcpStream, Watched) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = std::net::TcpStream::connect(address).expect("it listens");
        let (server, _) = listener.accept().expect("accepts");
        server.set_nonblocking(true).expect("a socket");
        let stream = TcpStream::from_std(server).expect("a socket");
        let activity = Arc::new(Activity::new(Instant::now(), false));
        drop(InFlight::new(&activity));
        (client, Watched { stream, activity })
    }

    // The runtime's only thread looks for what has come when the test awaits; it never does.
    #[tokio::test]
    async fn bytes_that_the_runtime_has_not_seen_keep_a_connection_open() {
        let mut buffer = [0; 64];
        let (mut client, mut io) = idle();
        io.activity.end();
        client.write_all(REQUEST).expect("it is taken");
        assert!(io.read(&mut buffer).now_or_never().is_none(), "not seen");
        assert!(matches!(next(&io.activity), Next::Look(_)));

        let (_client, mut io) = idle();
        io.activity.end();
        assert!(io.read(&mut buffer).now_or_never().is_none(), "nothing there");
        assert!(matches!(next(&io.activity), Next::Close));
    }

    #[tokio::test]
    async fn a_head_that_has_begun_keeps_a_connection_open() {
        let (mut client, mut io) = idle();
        client.write_all(REQUEST).expect("it is taken");
        let count = io.read(&mut [0; 64]).await.expect("reads");
        assert_eq!(count, REQUEST.len());
        io.activity.end();
        assert!(matches!(next(&io.activity), Next::Look(_)));
        let request = InFlight::new(&io.activity);
        assert!(matches!(next(&io.activity), Next::Close), "it is the last");
        assert!(matches!(next(&io.activity), Next::Look(_)), "said once");
        drop(request);
    }

    #[tokio::test]
    async fn a_body_that_is_read_off_keeps_a_connection_open() {
        let (mut client, mut io) = idle();
        let body = ReadOff::new(&io.activity);
        client.write_all(b"the rest of a body").expect("it is taken");
        let count = io.read(&mut [0; 64]).await.expect("reads");
        assert_eq!(count, 18);
        io.activity.end();
        assert!(matches!(next(&io.activity), Next::Look(_)));
        drop(body);
        assert!(matches!(next(&io.activity), Next::Close), "it was no head");
    }

    #[tokio::test(start_paused = true)]
    async fn empty_lines_begin_no_head() {
        let limits = HttpLimits::default();
        let (mut client, mut io) = idle();
        client.write_all(b"\r\n").expect("it is taken");
        let count = io.read(&mut [0; 64]).await.expect("reads");
        assert_eq!(count, 2);
        tokio::time::advance(limits.request_head * 2).await;
        assert!(matches!(next(&io.activity), Next::Look(_)));
    }
}
