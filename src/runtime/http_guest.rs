//! One HTTP request to a guest: a fresh instance, its response's head, and its body.
//!
//! The guest runs inside the future that serves the request and then inside the body that is
//! sent, not as a task of its own: head and body are handed over without waking another thread,
//! and a client that goes away takes its instance with it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::p2::bindings::ProxyPre as P2ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p3::bindings::ServicePre as P3ServicePre;
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use super::StartError;
use super::host::{HostState, Sandbox};
use super::meter::{Interrupted, Meter, Metered};
use super::tasks::Tasks;

/// Bytes of a body that are gathered before its head is sent, so that a short answer is one
/// packet with a known length.
const GATHER_BYTES: u64 = 64 << 10;

/// A handler that any number of requests are given to.
pub enum Handler {
    P2(P2ProxyPre<HostState>),
    P3(P3ServicePre<HostState>),
}

/// Why a request got no response from its guest.
#[derive(Debug)]
pub enum Failure {
    /// No instance could be made.
    Start(StartError),
    /// The guest ended with an error before it responded.
    Guest(wasmtime::Error),
    /// The guest ended well and never responded.
    NoResponse,
    Interrupted(Interrupted),
}

type Head = Response<WasiBody>;
type HeadSender = oneshot::Sender<Head>;
type Guest = Metered<wasmtime::Result<()>>;

/// What outlives a response whose guest has not ended: where it is finished, and its place.
pub struct Background {
    pub tasks: Arc<Tasks>,
    pub permit: OwnedSemaphorePermit,
}

impl Handler {
    /// Gives a request to a fresh instance and returns its response; the body drives the guest.
    ///
    /// # Errors
    /// When there was no response; the message for the log is the caller's to make.
    pub async fn handle(
        &self,
        engine: &Engine,
        sandbox: &Sandbox,
        meter: &Arc<Meter>,
        background: Background,
        request: Request<Incoming>,
    ) -> Result<Response<GuestBody>, Failure> {
        let store = sandbox.store(engine).map_err(Failure::Start)?;
        let (sender, receiver) = oneshot::channel();
        let guest = match self {
            Self::P2(pre) => {
                Metered::new(meter.clone(), run_p2(store, pre.clone(), request, sender))
            }
            Self::P3(pre) => {
                Metered::new(meter.clone(), run_p3(store, pre.clone(), request, sender))
            }
        };
        respond(guest, receiver, background).await
    }
}

async fn run_p2(
    mut store: Store<HostState>,
    pre: P2ProxyPre<HostState>,
    request: Request<Incoming>,
    sender: HeadSender,
) -> wasmtime::Result<()> {
    let proxy = pre.instantiate_async(&mut store).await?;
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(Scheme::Http, request)?;
    let out = http.new_response_outparam_from_callback(move |response| match response {
        Ok(response) => {
            let _ = sender.send(response);
        }
        Err(code) => tracing::debug!(?code, "the guest answered with an error code"),
    })?;
    proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await
}

async fn run_p3(
    mut store: Store<HostState>,
    pre: P3ServicePre<HostState>,
    request: Request<Incoming>,
    sender: HeadSender,
) -> wasmtime::Result<()> {
    let service = pre.instantiate_async(&mut store).await?;
    let hooks = store.data_mut().http().hooks;
    let (request, sent) = wasmtime_wasi_http::p3::Request::from_http(hooks, request);
    store
        .run_concurrent(async |accessor| {
            let response = service.handle(accessor, request).await??;
            let head = accessor.with(|mut access| response.into_http(&mut access, sent))?;
            let _ = sender.send(head);
            // The guest may still be writing its body and what comes after.
            poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            Ok(())
        })
        .await?
}

/// Runs the guest until its response's head is there, and gathers a short body with it.
async fn respond(
    mut guest: Guest,
    mut receiver: oneshot::Receiver<Head>,
    background: Background,
) -> Result<Response<GuestBody>, Failure> {
    let mut ended = None;
    let head = poll_fn(|cx| {
        if ended.is_none()
            && let Poll::Ready(result) = Pin::new(&mut guest).poll(cx)
        {
            ended = Some(result);
        }
        match Pin::new(&mut receiver).poll(cx) {
            Poll::Ready(Ok(head)) => Poll::Ready(Some(head)),
            Poll::Ready(Err(_)) if ended.is_some() => Poll::Ready(None),
            // The sender is gone and the guest still runs: it answered with an error code, or is
            // about to fail.
            Poll::Ready(Err(_)) | Poll::Pending => match &ended {
                Some(_) => Poll::Ready(None),
                None => Poll::Pending,
            },
        }
    })
    .await;
    let Some(head) = head else {
        return Err(match ended {
            Some(Ok(Err(error))) => Failure::Guest(error),
            Some(Err(interrupted)) => Failure::Interrupted(interrupted),
            Some(Ok(Ok(()))) | None => Failure::NoResponse,
        });
    };
    let (parts, inner) = head.into_parts();
    let mut body = GuestBody {
        gathered: VecDeque::new(),
        gathered_bytes: 0,
        inner: Some(inner),
        guest: None,
        failed: false,
        background: Some(background),
    };
    match ended {
        None => body.guest = Some(guest),
        Some(result) => body.guest_ended(result),
    }
    poll_fn(|cx| {
        body.gather(cx);
        Poll::Ready(())
    })
    .await;
    Ok(Response::from_parts(parts, body))
}

/// A response's body, and the guest that writes it.
pub struct GuestBody {
    gathered: VecDeque<Frame<Bytes>>,
    gathered_bytes: u64,
    /// `None` once it has ended.
    inner: Option<WasiBody>,
    /// `None` once it has ended.
    guest: Option<Guest>,
    /// The guest failed: the body must not look complete.
    failed: bool,
    background: Option<Background>,
}

impl GuestBody {
    /// A body that no guest writes.
    pub fn text(text: &'static str) -> Self {
        let bytes = Bytes::from_static(text.as_bytes());
        Self {
            gathered_bytes: bytes.len() as u64,
            gathered: VecDeque::from([Frame::data(bytes)]),
            inner: None,
            guest: None,
            failed: false,
            background: None,
        }
    }

    fn guest_ended(&mut self, result: Result<wasmtime::Result<()>, Interrupted>) {
        self.guest = None;
        self.background = None;
        if !matches!(result, Ok(Ok(()))) {
            tracing::debug!(?result, "a guest failed after its response began");
            self.failed = true;
        }
    }

    /// Takes what is ready now, up to the bound, without waiting.
    fn gather(&mut self, cx: &mut Context<'_>) {
        while self.gathered_bytes < GATHER_BYTES && self.inner.is_some() {
            match self.poll_next(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.gathered_bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                    self.gathered.push_back(frame);
                }
                // An error is found again when the body is polled.
                Poll::Ready(Some(Err(_)) | None) | Poll::Pending => return,
            }
        }
    }

    /// The next frame from the guest: runs it, then looks what it wrote.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(guest) = self.guest.as_mut()
            && let Poll::Ready(result) = Pin::new(guest).poll(cx)
        {
            self.guest_ended(result);
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
        if let (Some(guest), Some(background)) = (self.guest.take(), self.background.take()) {
            background.tasks.clone().spawn(async move {
                let _permit = background.permit;
                let _ = guest.await;
            });
        }
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(frame) = self.gathered.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
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
