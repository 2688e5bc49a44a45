//! The body of a request to an HTTP handler, and what its guest does not read of it.
//!
//! The next request of an HTTP/1 connection comes after the whole body of this one. So what is not
//! read is taken off and dropped, as far as it is short; of a longer one the answer says that the
//! connection ends. HTTP/2 has no such order, and a guest that reads nothing is told to the client.
//!
//! ```text
//!   with the guest ──to its end──▶ over: the connection is kept
//!                  ──error, no bytes for too long──▶ broken: the connection ends
//!                  ──dropped──▶ left ──taken off──▶ over
//!                                    ──too long──▶ the connection ends
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version, header};
use http_body::{Body, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::timeout;
use wasmtime_wasi_http::Error;

use super::http_body::{FrameResult, Timer};
use crate::base::tcp::Linger;

/// Bytes that are taken off so that a connection may be kept (`maxPostHandlerReadBytes` of Go's
/// net/http).
const KEPT_BYTES: u64 = 256 << 10;
/// How long an answer waits for the end of a rest whose length no one has told. Most have come by
/// then as a whole; a client that waits for the answer first should not have to wait for long.
const END_WAIT: Duration = Duration::from_millis(100);

/// A request's body; a client that stops sending in the middle does not hold its instance.
pub struct RequestBody<B = Incoming> {
    /// `None` once it has come to its end.
    inner: Option<B>,
    stall: Timer,
    /// `None` where nobody cares, and once it has ended.
    watched: Option<Watched<B>>,
}

/// What is told of a body.
struct Watched<B> {
    begun: Arc<AtomicBool>,
    /// What is not read is handed over; nothing, if the body is broken.
    rest: oneshot::Sender<Option<B>>,
}

/// What becomes of a request's body, for its connection.
pub struct Unread<B = Incoming> {
    begun: Arc<AtomicBool>,
    length: Option<u64>,
    /// The client sends it only when it is asked to.
    is_held_back: bool,
    rest: Rest<B>,
}

enum Rest<B> {
    /// The guest has it yet.
    Guest(oneshot::Receiver<Option<B>>),
    Left(B),
    Over,
    Broken,
}

impl RequestBody {
    /// Gives a request its body; and of HTTP/1, where there is one, what tells how much of it is
    /// read.
    pub fn of(request: Request<Incoming>, limit: Duration) -> (Request<Self>, Option<Unread>) {
        if request.version() == Version::HTTP_2 {
            return (request.map(|body| RequestBody::new(body, limit)), None);
        }
        let expects = request.headers().get(header::EXPECT);
        let is_held_back =
            expects.is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let (parts, body) = request.into_parts();
        let (body, unread) = RequestBody::watched(body, limit, is_held_back);
        (Request::from_parts(parts, body), unread)
    }
}

impl<B> RequestBody<B> {
    pub fn new(inner: B, limit: Duration) -> Self {
        Self { inner: Some(inner), stall: Timer::new(limit), watched: None }
    }

    fn broken(&mut self) {
        if let Some(watched) = self.watched.take() {
            let _ = watched.rest.send(None);
        }
    }
}

impl<B: Body> RequestBody<B> {
    fn watched(inner: B, limit: Duration, is_held_back: bool) -> (Self, Option<Unread<B>>) {
        let mut body = Self::new(inner, limit);
        let Some(inner) = body.inner.as_ref().filter(|inner| !inner.is_end_stream()) else {
            return (body, None);
        };
        let length = inner.size_hint().exact();
        let begun = Arc::<AtomicBool>::default();
        let (rest, left) = oneshot::channel();
        body.watched = Some(Watched { begun: begun.clone(), rest });
        (body, Some(Unread { begun, length, is_held_back, rest: Rest::Guest(left) }))
    }
}

impl<B> Drop for RequestBody<B> {
    fn drop(&mut self) {
        if let (Some(watched), Some(inner)) = (self.watched.take(), self.inner.take()) {
            let _ = watched.rest.send(Some(inner));
        }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<FrameResult>> {
        let body = &mut *self;
        let Some(inner) = body.inner.as_mut() else { return Poll::Ready(None) };
        if let Some(watched) = &body.watched {
            watched.begun.store(true, Ordering::Relaxed);
        }
        if let Poll::Ready(frame) = Pin::new(&mut *inner).poll_frame(cx) {
            body.stall.stop();
            let is_over = frame.is_none() || inner.is_end_stream();
            if matches!(frame, Some(Err(_))) {
                body.broken();
            } else if is_over {
                (body.inner, body.watched) = (None, None);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(body.stall.poll_over(cx));
        body.broken();
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Unread<B> {
    /// Whether the connection may be kept after the answer that is about to be sent.
    pub async fn lets_keep(&mut self) -> bool {
        let begun = self.begun.load(Ordering::Relaxed);
        let is_held_back = self.is_held_back && !begun;
        let Rest::Guest(left) = &mut self.rest else { return false };
        let mut rest = match left.try_recv() {
            // Whoever has begun is taken to read on.
            Err(TryRecvError::Empty) => {
                let is_short = self.length.is_some_and(|length| length <= KEPT_BYTES);
                return begun || (is_short && !is_held_back);
            }
            Err(TryRecvError::Closed) => {
                self.rest = Rest::Over;
                return true;
            }
            Ok(Some(rest)) if !is_held_back => rest,
            // To read would be to ask for it.
            Ok(_) => {
                self.rest = Rest::Broken;
                return false;
            }
        };
        if let Some(bytes) = rest.size_hint().exact() {
            self.rest = Rest::Left(rest);
            return bytes <= KEPT_BYTES;
        }
        let end = read_off(&mut rest, KEPT_BYTES, END_WAIT);
        let is_over = timeout(END_WAIT, end).await == Ok(true);
        self.rest = if is_over { Rest::Over } else { Rest::Left(rest) };
        is_over
    }

    /// Nothing more is to be done.
    pub fn is_over(&self) -> bool {
        matches!(self.rest, Rest::Over | Rest::Broken)
    }

    /// Reads and drops what the guest leaves, within bounds; returns whether the body came to its
    /// end.
    pub async fn take_off(&mut self) -> bool {
        if let Rest::Guest(left) = &mut self.rest {
            self.rest = match left.await {
                Ok(Some(rest)) => Rest::Left(rest),
                Ok(None) => Rest::Broken,
                Err(_) => Rest::Over,
            };
        }
        let Linger { silence, most, bytes } = Linger::AFTER_ANSWER;
        match &mut self.rest {
            Rest::Left(rest) => timeout(most, read_off(rest, bytes, silence)).await == Ok(true),
            Rest::Over => true,
            Rest::Guest(_) | Rest::Broken => false,
        }
    }
}

/// Whether it came to its end within so many bytes, none of which was waited for longer.
async fn read_off<B>(body: &mut B, most: u64, silence: Duration) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut count = 0;
    while count <= most {
        match timeout(silence, body.frame()).await {
            Ok(Some(Ok(frame))) => count += frame.data_ref().map_or(0, Bytes::len) as u64,
            Ok(None) => return true,
            Ok(Some(Err(_))) | Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A body of unknown length that has come as a whole.
    fn chunks(count: usize) -> impl Body<Data = Bytes, Error = Error> + Unpin {
        let chunk = || Ok(Frame::data(Bytes::from_static(&[b'x'; 1024])));
        StreamBody::new(stream::iter((0..count).map(move |_| chunk())))
    }

    fn full(count: usize) -> impl Body<Data = Bytes, Error = Error> + Unpin {
        Full::new(Bytes::from(vec![b'x'; count])).map_err(|never| match never {})
    }

    fn watched<B: Body>(body: B, is_held_back: bool) -> (RequestBody<B>, Unread<B>) {
        let (body, unread) = RequestBody::watched(body, LIMIT, is_held_back);
        (body, unread.expect("there is a body"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_not_stop_in_the_middle() {
        let frames = stream::unfold(0_u64, |count| async move {
            if count == 3 {
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_secs(50)).await;
            Some((Ok::<_, Error>(Frame::data(Bytes::from_static(b"x"))), count + 1))
        });
        let (mut body, mut unread) = watched(StreamBody::new(Box::pin(frames)), false);
        for _ in 0..3 {
            body.frame().await.expect("a frame").expect("in time, though slow");
        }
        let error = body.frame().await.expect("an end").expect_err("too slow");
        assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");
        assert!(!unread.lets_keep().await && unread.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_rest_is_taken_off() {
        let (body, mut unread) = watched(full(2000), false);
        assert!(unread.lets_keep().await, "the guest has it yet");
        drop(body);
        assert!(unread.take_off().await);

        let (body, mut unread) = watched(full(2000), false);
        drop(body);
        assert!(unread.lets_keep().await && !unread.is_over());
        assert!(unread.take_off().await);

        let (mut body, mut unread) = watched(full(3 << 20), false);
        while body.frame().await.is_some() {}
        assert!(unread.lets_keep().await && unread.is_over(), "it was read");

        let (body, mut unread) = watched(chunks(2), false);
        drop(body);
        assert!(unread.lets_keep().await && unread.is_over());
        assert!(RequestBody::watched(full(0), LIMIT, false).1.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_rest_ends_the_connection() {
        let (body, mut unread) = watched(full(3 << 20), false);
        assert!(!unread.lets_keep().await, "the guest has it yet");
        drop(body);
        assert!(unread.take_off().await, "so that the answer is read");

        let (body, mut unread) = watched(chunks(1024), false);
        drop(body);
        assert!(!unread.lets_keep().await);

        let endless = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Error>>());
        let (body, mut unread) = watched(endless, false);
        drop(body);
        assert!(!unread.lets_keep().await, "nothing comes");
        assert!(!unread.take_off().await);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_asks_for_a_body_that_is_not_wanted() {
        let (body, mut unread) = watched(full(5), true);
        drop(body);
        assert!(!unread.lets_keep().await && unread.is_over());
        let (mut body, mut unread) = watched(chunks(2), true);
        body.frame().await.expect("a frame").expect("of the body");
        assert!(unread.lets_keep().await, "it was asked for");
        drop(body);
        assert!(unread.take_off().await);
    }
}
