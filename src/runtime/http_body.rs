//! The body of an HTTP handler's response, which drives its guest. As the request's it is bounded in
//! time, and not in size: it is streamed, and the host holds no more than some frames of it, which
//! count against the container's memory.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use wasmtime_wasi_http::{Error, WasiBody};

use super::http_activity::InFlight;
use super::http_complaints::Complaints;
use super::http_guest::{Guest, outcome};
use super::http_limits::HttpLimits;
use super::memory::{Lent, MemoryAccount};
use super::meter::Interrupted;
use super::tasks::Tasks;

/// Bytes of a body that are gathered before its head is sent, so that a short answer is one
/// packet with a known length.
const GATHER_BYTES: u64 = 64 << 10;

/// A gathered body below that is not worth counting: an instance has as much anyway.
const LENT_BYTES: u64 = 4 << 10;

pub type FrameResult = Result<Frame<Bytes>, Error>;

/// What a guest needs after its response's head.
pub struct Rest {
    /// Where a guest is finished that outlives its response.
    pub tasks: Arc<Tasks>,
    /// The place of its instance.
    pub permit: OwnedSemaphorePermit,
    /// Where it is told that it failed.
    pub complaints: Arc<Complaints>,
    /// Where its body is counted when its store is gone.
    pub memory: Arc<MemoryAccount>,
    pub limits: HttpLimits,
}

/// A response's body, and the guest that writes it.
pub struct GuestBody {
    gathered: VecDeque<Frame<Bytes>>,
    gathered_bytes: u64,
    /// What is gathered: it may outlive the store of its guest.
    lent: Option<Lent>,
    account: Option<Arc<MemoryAccount>>,
    /// `None` once it has ended.
    inner: Option<WasiBody>,
    /// `None` once it has ended.
    guest: Option<Guest>,
    /// What the guest needs while it runs.
    rest: Option<Rest>,
    /// The guest failed: the body must not look complete.
    failed: bool,
    /// How long nothing may come.
    silence: Timer,
    /// Holds the connection.
    pub in_flight: Option<InFlight>,
}

impl GuestBody {
    pub fn new(inner: WasiBody, rest: Rest) -> Self {
        Self {
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            lent: None,
            account: Some(rest.memory.clone()),
            inner: Some(inner),
            guest: None,
            failed: false,
            silence: Timer::new(rest.limits.silent_guest),
            rest: Some(rest),
            in_flight: None,
        }
    }

    /// A body that no guest writes.
    pub fn text(text: &'static str) -> Self {
        let bytes = Bytes::from_static(text.as_bytes());
        Self {
            gathered_bytes: bytes.len() as u64,
            gathered: VecDeque::from([Frame::data(bytes)]),
            lent: None,
            account: None,
            inner: None,
            guest: None,
            rest: None,
            failed: false,
            silence: Timer::new(Duration::MAX),
            in_flight: None,
        }
    }

    /// Goes on with a guest that has not ended.
    pub fn drive(&mut self, guest: Guest) {
        self.guest = Some(guest);
    }

    /// Its guest has ended: how is told in the container's log.
    pub fn guest_ended(&mut self, result: &Result<wasmtime::Result<()>, Interrupted>) {
        self.guest = None;
        let rest = self.rest.take();
        self.failed |= !matches!(result, Ok(Ok(())));
        if let (Some(message), Some(rest)) = (outcome(result), rest) {
            rest.complaints.tell(&message);
        }
    }

    /// Takes what is ready now, up to the bound, without waiting.
    pub fn gather(&mut self, cx: &mut Context<'_>) {
        while self.gathered_bytes < GATHER_BYTES && self.inner.is_some() {
            match self.poll_next(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.gathered_bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                    self.gathered.push_back(frame);
                }
                // An error is found again when the body is polled.
                Poll::Ready(Some(Err(_)) | None) | Poll::Pending => break,
            }
        }
        if self.gathered_bytes >= LENT_BYTES {
            let account = self.account.as_ref();
            self.lent = account.map(|account| account.lend(self.gathered_bytes));
        }
    }

    /// The next frame from the guest, which may not be silent for ever.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<FrameResult>> {
        if let Poll::Ready(next) = self.poll_guest(cx) {
            self.silence.stop();
            return Poll::Ready(next);
        }
        ready!(self.silence.poll_over(cx));
        (self.inner, self.guest, self.failed) = (None, None, true);
        if let Some(rest) = self.rest.take() {
            let limit = rest.limits.silent_guest;
            let text = format!("the handler wrote nothing of its response for {limit:?}");
            rest.complaints.tell(&text);
        }
        Poll::Ready(Some(Err(Error::HttpResponseIncomplete)))
    }

    /// Runs the guest, then looks what it wrote.
    fn poll_guest(&mut self, cx: &mut Context<'_>) -> Poll<Option<FrameResult>> {
        if let Some(guest) = self.guest.as_mut()
            && let Poll::Ready(result) = Pin::new(guest).poll(cx)
        {
            self.guest_ended(&result);
        }
        let Some(inner) = self.inner.as_mut() else {
            return Poll::Ready(self.failed.then(|| Err(Error::HttpResponseIncomplete)));
        };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(frame)) => Poll::Ready(Some(frame)),
            Poll::Ready(None) => {
                self.inner = None;
                self.finish_in_background();
                Poll::Ready(self.failed.then(|| Err(Error::HttpResponseIncomplete)))
            }
            Poll::Pending if self.guest.is_none() && self.failed => {
                self.inner = None;
                Poll::Ready(Some(Err(Error::HttpResponseIncomplete)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// The response is complete and its guest is not: it goes on without a client.
    fn finish_in_background(&mut self) {
        let (Some(guest), Some(rest)) = (self.guest.take(), self.rest.take()) else { return };
        let Rest { tasks, permit, complaints, limits, .. } = rest;
        let limit = limits.background;
        tasks.spawn(async move {
            let _permit = permit;
            let message = match timeout(limit, guest).await {
                Ok(result) => outcome(&result),
                Err(_) => Some(format!("the handler still ran {limit:?} after its response")),
            };
            if let Some(message) = message {
                complaints.tell(&message);
            }
        });
    }

    /// Drives the guest by a task of its own, and ends it when nobody takes its frames.
    ///
    /// For HTTP/2, where a client that takes nothing blocks only its own stream: the connection
    /// does not show it, and hyper does not poll the body meanwhile.
    pub fn pumped(mut self) -> Self {
        let Some(rest) = self.rest.as_ref().filter(|_| self.guest.is_some()) else { return self };
        let (tasks, limit) = (rest.tasks.clone(), rest.limits.stalled_client);
        let (sender, receiver) = mpsc::channel(1);
        tasks.spawn(async move {
            loop {
                let next = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    next = self.frame() => next,
                };
                let is_last = !matches!(next, Some(Ok(_)));
                if !matches!(timeout(limit, sender.send(next)).await, Ok(Ok(()))) || is_last {
                    return;
                }
            }
        });
        let mut body = Self::text("");
        body.gathered.clear();
        body.inner = Some(Pumped { receiver, is_over: false }.boxed_unsync());
        body
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<FrameResult>> {
        if let Some(frame) = self.gathered.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        self.lent = None;
        self.poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.gathered.is_empty() && self.inner.is_none() && !self.failed
    }

    fn size_hint(&self) -> SizeHint {
        let trailers = self.gathered.iter().any(Frame::is_trailers);
        match &self.inner {
            None if !trailers && !self.failed => SizeHint::with_exact(
                self.gathered.iter().filter_map(Frame::data_ref).map(|b| b.len() as u64).sum(),
            ),
            _ => SizeHint::default(),
        }
    }
}

/// The receiving end of a body that a task drives.
struct Pumped {
    /// `None` is the body's end; a channel that closes without it was given up.
    receiver: mpsc::Receiver<Option<FrameResult>>,
    is_over: bool,
}

impl Body for Pumped {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<FrameResult>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let next = ready!(self.receiver.poll_recv(cx));
        self.is_over = !matches!(next, Some(Some(Ok(_))));
        Poll::Ready(next.unwrap_or(Some(Err(Error::HttpResponseIncomplete))))
    }
}

/// Runs while something waits; made when it first does.
pub struct Timer {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    pub fn new(limit: Duration) -> Self {
        Self { limit, sleep: None }
    }

    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.get_or_insert_with(|| Box::pin(sleep(self.limit))).as_mut().poll(cx)
    }

    pub fn stop(&mut self) {
        self.sleep = None;
    }
}
