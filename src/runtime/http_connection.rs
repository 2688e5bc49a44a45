//! One connection to an HTTP handler: which protocol it speaks, how long it may be idle or stuck,
//! and how it ends without losing a request.
//!
//! hyper speaks the protocol; here its connection is polled together with one timer. What the
//! timer is for is known from [`Activity`], which the streams below and the requests above tell
//! what happens.
//!
//! An HTTP/1 server that closes an idle connection cannot know whether a request is on its way.
//! So a connection is closed only when nothing is in its kernel's queue, and when the container
//! stops, only after the time in which responses tell the clients that the connection ends.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use parking_lot::Mutex;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use super::http::{Phase, Server};
use super::http_limits::HttpLimits;
use super::tasks::TaskExecutor;
use crate::base::head::answered;

/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Header fields of a request.
const MAX_HEADERS: usize = 100;
/// How often an HTTP/2 client is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How every HTTP/2 connection begins (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HT";

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves a connection until it ends.
///
/// # Errors
/// When the client broke the protocol, went away in the middle or was too slow.
pub async fn serve(server: Arc<Server>, stream: TcpStream) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    let address = stream.local_addr()?;
    let accepted = Instant::now();
    let Some(http2) = protocol(&server, &stream, accepted).await? else { return Ok(()) };
    let activity = Arc::new(Activity::new(accepted, http2));
    let io = TokioIo::new(Watched { stream, activity: activity.clone() });
    let service = {
        let (server, activity) = (server.clone(), activity.clone());
        service_fn(move |request: Request<Incoming>| {
            let (server, in_flight) = (server.clone(), InFlight::new(&activity));
            async move {
                let method = request.method().clone();
                let mut response = server.serve(request, address).await;
                response.body_mut().in_flight = Some(in_flight);
                Ok::<_, Infallible>(answered(&method, response))
            }
        })
    };
    if http2 {
        let tasks = TaskExecutor(server.tasks.clone());
        let connection = hyper::server::conn::http2::Builder::new(tasks)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .keep_alive_interval(PING_INTERVAL)
            .serve_connection(io, service);
        // GOAWAY loses no request, so it need not wait.
        return drive(connection, &activity, &server, Phase::Stopping).await;
    }
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .pipeline_flush(true)
        .serve_connection(io, service);
    drive(connection, &activity, &server, Phase::Closing).await
}

/// Waits for the first bytes: `Some(true)` for HTTP/2, `None` when there are none.
async fn protocol(
    server: &Server,
    stream: &TcpStream,
    accepted: Instant,
) -> io::Result<Option<bool>> {
    let limits = &server.limits;
    let is_over = async {
        tokio::select! {
            () = sleep(limits.idle) => {}
            () = server.reaches(Phase::Closing) => sleep_until(accepted + limits.first_byte).await,
        }
    };
    tokio::select! {
        biased;
        http2 = speaks_http2(stream) => return http2.map(Some),
        () = is_over => {}
    }
    if has_unread(stream) { speaks_http2(stream).await.map(Some) } else { Ok(None) }
}

/// Looks at a connection's first bytes and leaves them where they are.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0_u8; HTTP2_PREFACE.len()];
    let count = stream.peek(&mut first).await?;
    Ok(count == first.len() && first == *HTTP2_PREFACE)
}

/// Whether the kernel holds bytes that were not read, known to tokio or not.
fn has_unread(stream: &TcpStream) -> bool {
    let mut byte = [0_u8; 1];
    let peeked = rustix::net::recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    peeked.is_ok_and(|(_, count)| count > 0)
}

/// Polls a connection to its end, and ends it when it is idle or stuck for too long, or when the
/// container has come to `last_phase`.
async fn drive<C>(
    connection: C,
    activity: &Activity,
    server: &Server,
    last_phase: Phase,
) -> Result<(), BoxError>
where
    C: GracefulConnection,
    C::Error: Into<BoxError>,
{
    let mut connection = pin!(connection);
    let mut is_last = pin!(server.reaches(last_phase));
    let mut timer = pin!(sleep(server.limits.idle));
    poll_fn(|cx| {
        loop {
            if !activity.is_ending() && is_last.as_mut().poll(cx).is_ready() {
                activity.end();
            }
            // Before all else: it reads what has come.
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(Into::into));
            }
            match activity.next(&server.limits) {
                Next::Close => connection.as_mut().graceful_shutdown(),
                Next::Look(at) => {
                    // A timer that fires too early costs one more look, less than many resets.
                    if at < timer.deadline() || timer.is_elapsed() {
                        timer.as_mut().reset(at);
                    }
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Next::End => activity.end(),
                Next::Fail(why) => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, why);
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
    })
    .await
}

/// What is happening on a connection.
pub struct Activity(Mutex<State>);

struct State {
    accepted: Instant,
    http2: bool,
    /// Requests whose response is not yet handed to the connection as a whole.
    in_flight: usize,
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
enum Next {
    /// Ask again then.
    Look(Instant),
    /// It was idle for too long.
    End,
    /// Nothing is lost any more: no further request is taken.
    Close,
    /// The client was too slow.
    Fail(&'static str),
}

impl Activity {
    fn new(accepted: Instant, http2: bool) -> Self {
        Self(Mutex::new(State {
            accepted,
            http2,
            in_flight: 0,
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

    fn is_ending(&self) -> bool {
        self.0.lock().end.is_some()
    }

    fn end(&self) {
        self.0.lock().end.get_or_insert_with(Instant::now);
    }

    fn next(&self, limits: &HttpLimits) -> Next {
        let mut state = self.0.lock();
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
        self.in_flight > 0 || is_quiet
    }

    /// When the connection has waited for too long, and what then.
    fn due(&self, now: Instant, limits: &HttpLimits) -> (Instant, Next) {
        if let Some(since) = self.unsent_since {
            return (since + limits.stalled_client, Next::Fail("the client takes no bytes"));
        }
        if self.in_flight > 0 {
            return (now + limits.idle, Next::Look(now + limits.idle));
        }
        if let Some(since) = self.head_since {
            return (since + limits.request_head, Next::Fail("a request's head was not completed"));
        }
        let Some(end) = self.end else { return (self.idle_since + limits.idle, Next::End) };
        if self.http2 && !self.is_closed {
            return (self.accepted + limits.first_byte, Next::End);
        }
        let since = end.max(self.idle_since);
        (since + limits.request_head, Next::Fail("the client does not let go"))
    }
}

/// Counts a request until its response was handed to the connection, or is given up.
pub struct InFlight(Arc<Activity>);

impl InFlight {
    fn new(activity: &Arc<Activity>) -> Self {
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

/// A stream that tells what it carries.
struct Watched {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Watched {
    fn note_read(&self, count: usize) {
        let mut state = self.activity.0.lock();
        state.has_unread = false;
        if count > 0 && state.in_flight == 0 && !state.http2 {
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
            Poll::Ready(_) => self.note_read(buffer.filled().len() - before),
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
        let limits = HttpLimits::default();
        let mut buffer = [0; 64];
        let (mut client, mut io) = idle();
        io.activity.end();
        client.write_all(REQUEST).expect("it is taken");
        assert!(io.read(&mut buffer).now_or_never().is_none(), "not seen");
        assert!(matches!(io.activity.next(&limits), Next::Look(_)));

        let (_client, mut io) = idle();
        io.activity.end();
        assert!(io.read(&mut buffer).now_or_never().is_none(), "nothing there");
        assert!(matches!(io.activity.next(&limits), Next::Close));
    }

    #[tokio::test]
    async fn a_head_that_has_begun_keeps_a_connection_open() {
        let limits = HttpLimits::default();
        let (mut client, mut io) = idle();
        client.write_all(REQUEST).expect("it is taken");
        let count = io.read(&mut [0; 64]).await.expect("reads");
        assert_eq!(count, REQUEST.len());
        io.activity.end();
        assert!(matches!(io.activity.next(&limits), Next::Look(_)));
        let request = InFlight::new(&io.activity);
        assert!(matches!(io.activity.next(&limits), Next::Close), "it is the last");
        assert!(matches!(io.activity.next(&limits), Next::Look(_)), "said once");
        drop(request);
    }
}
