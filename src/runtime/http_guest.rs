//! One HTTP request to a guest: its instance, and its response's head. The body is
//! `http_body`'s.
//!
//! The guest runs inside the future that serves the request and then inside the body that is
//! sent, not as a task of its own: head and body are handed over without waking another thread,
//! and a client that goes away takes its instance with it.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::bindings::ProxyPre as P2ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme as P2Scheme;
use wasmtime_wasi_http::p3::bindings::ServicePre as P3ServicePre;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use super::container::describe;
use super::core_dump;
use super::host::{HostState, Sandbox};
use super::http_body::{GuestBody, Rest};
use super::http_request_body::RequestBody;
use super::http_reuse::{Exports, Instance, Resting};
use super::memory::OutOfMemory;
use super::meter::{Interrupted, Meter, Metered};
use super::outgoing::Counted;

/// Bytes of a page of linear memory.
const PAGE_BYTES: u64 = 64 << 10;

/// A handler that any number of requests are given to.
pub enum Handler {
    /// Plain, and for instances in places of the pool.
    P2(P2ProxyPre<HostState>, Option<P2ProxyPre<HostState>>),
    P3(P3ServicePre<HostState>),
}

/// Why a request got no response from its guest.
#[derive(Debug)]
pub enum Failure {
    /// There was no room for an instance in this time.
    Busy(Duration),
    /// The guest ended with an error before it responded.
    Guest(wasmtime::Error),
    /// The guest ended well and never responded.
    NoResponse,
    /// The guest did not respond in this time.
    Late(Duration),
    Interrupted(Interrupted),
}

impl Failure {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Busy(_) | Self::Interrupted(Interrupted::Killed) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Guest(error) if error.downcast_ref::<OutOfMemory>().is_some() => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Late(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Guest(_) | Self::NoResponse | Self::Interrupted(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// What the container's log says of it, if anything.
    pub fn message(&self) -> Option<String> {
        Some(match self {
            Self::Busy(limit) => format!("no room for another instance within {limit:?}"),
            Self::Guest(error) => complaint(error),
            Self::NoResponse => "the handler set no response".to_owned(),
            Self::Late(limit) => format!("the handler did not respond within {limit:?}"),
            Self::Interrupted(interrupted) => return interruption(interrupted),
        })
    }
}

/// What the container's log says of how a guest ended; `None`: it ended well, or was killed with
/// its container.
pub fn outcome(result: &Result<wasmtime::Result<()>, Interrupted>) -> Option<String> {
    match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(complaint(error)),
        Err(interrupted) => interruption(interrupted),
    }
}

fn complaint(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<OutOfMemory>() {
        Some(error) => error.to_string(),
        None => describe(error),
    }
}

fn interruption(interrupted: &Interrupted) -> Option<String> {
    match interrupted {
        Interrupted::Killed => None,
        Interrupted::Panicked(text) => Some(format!("a host function failed: {text}")),
    }
}

type Head = Response<WasiBody>;
type HeadSender = oneshot::Sender<Head>;
/// A guest at work on one request.
pub type Guest = Metered<wasmtime::Result<()>>;

/// Gives a request the form that guests of both generations find its host in: scheme, authority
/// and path in the URI. `None`: it names no valid host (RFC 9112, section 3.2).
pub fn with_authority<B>(mut request: Request<B>, ours: SocketAddr) -> Option<Request<B>> {
    if request.uri().authority().is_some() {
        return Some(request);
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.clone(),
        // Only HTTP/1.1 made it a duty.
        (None, _) if request.version() < Version::HTTP_11 => {
            HeaderValue::try_from(ours.to_string()).ok()?
        }
        _ => return None,
    };
    let authority = Authority::try_from(host.as_bytes()).ok()?;
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    Some(request)
}

impl Handler {
    /// Whether its instances may be in places of the pool.
    pub fn is_poolable(&self) -> bool {
        matches!(self, Self::P2(_, Some(_)))
    }

    /// The linear memory that an instance begins with, at most; 0: not known.
    pub fn initial_memory_bytes(&self) -> u64 {
        let component = match self {
            Self::P2(pre, _) => pre.instance_pre().component(),
            Self::P3(pre) => pre.instance_pre().component(),
        };
        let Some(resources) = component.resources_required() else { return 0 };
        let pages = resources.max_initial_memory_size.unwrap_or(0);
        pages.saturating_mul(PAGE_BYTES).saturating_mul(u64::from(resources.num_memories))
    }

    /// Gives a request to an instance and returns its response; the body drives the guest.
    ///
    /// # Errors
    /// When there was no response.
    pub async fn handle(
        &self,
        instance: Instance,
        meter: &Arc<Meter>,
        after: After,
        rest: Rest,
        request: Request<Counted<RequestBody>>,
    ) -> Result<Response<GuestBody>, Failure> {
        let (sender, receiver) = oneshot::channel();
        let guest = match self {
            Self::P2(plain, pooled) => {
                let pre = pooled.as_ref().filter(|_| instance.is_pooled()).unwrap_or(plain);
                Metered::new(meter.clone(), run_p2(instance, pre.clone(), request, sender, after))
            }
            Self::P3(pre) => {
                Metered::new(meter.clone(), run_p3(instance, pre.clone(), request, sender, after))
            }
        };
        respond(guest, receiver, rest).await
    }
}

/// What becomes of an instance that has served its request.
#[derive(Default)]
pub struct After {
    /// Where one that did well rests; without it each serves one request.
    pub resting: Option<Arc<Resting>>,
    /// Whose core dump is kept of one that trapped.
    pub dumps: Option<Arc<Sandbox>>,
}

impl After {
    /// Passes the result on.
    fn done(self, result: wasmtime::Result<()>, mut instance: Instance) -> wasmtime::Result<()> {
        match (&result, self) {
            (Ok(()), After { resting: Some(resting), .. }) => resting.keep(instance),
            (Err(error), After { dumps: Some(sandbox), .. }) => {
                core_dump::keep(&mut instance.store, &sandbox, error);
            }
            _ => {}
        }
        result
    }
}

async fn run_p2(
    mut instance: Instance,
    pre: P2ProxyPre<HostState>,
    request: Request<Counted<RequestBody>>,
    sender: HeadSender,
    after: After,
) -> wasmtime::Result<()> {
    let result = serve_p2(&mut instance, pre, request, sender).await;
    after.done(result, instance)
}

async fn run_p3(
    mut instance: Instance,
    pre: P3ServicePre<HostState>,
    request: Request<Counted<RequestBody>>,
    sender: HeadSender,
    after: After,
) -> wasmtime::Result<()> {
    let result = serve_p3(&mut instance, pre, request, sender).await;
    after.done(result, instance)
}

async fn serve_p2(
    instance: &mut Instance,
    pre: P2ProxyPre<HostState>,
    request: Request<Counted<RequestBody>>,
    sender: HeadSender,
) -> wasmtime::Result<()> {
    let Instance { store, exports, .. } = instance;
    let proxy = match exports {
        Some(Exports::P2(proxy)) => proxy,
        _ => {
            let made = Exports::P2(pre.instantiate_async(&mut *store).await?);
            let Exports::P2(proxy) = exports.insert(made) else { unreachable!("just made") };
            proxy
        }
    };
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(P2Scheme::Http, request)?;
    let out = http.new_response_outparam_from_callback(move |response| match response {
        Ok(response) => {
            let _ = sender.send(response);
        }
        Err(code) => tracing::debug!(?code, "the guest answered with an error code"),
    })?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, out).await
}

async fn serve_p3(
    instance: &mut Instance,
    pre: P3ServicePre<HostState>,
    request: Request<Counted<RequestBody>>,
    sender: HeadSender,
) -> wasmtime::Result<()> {
    let Instance { store, exports, .. } = instance;
    let service = match exports {
        Some(Exports::P3(service)) => service,
        _ => {
            let made = Exports::P3(pre.instantiate_async(&mut *store).await?);
            let Exports::P3(service) = exports.insert(made) else { unreachable!("just made") };
            service
        }
    };
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
    rest: Rest,
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
    let mut body = GuestBody::new(inner, rest);
    match ended {
        None => body.drive(guest),
        Some(result) => body.guest_ended(&result),
    }
    poll_fn(|cx| {
        body.gather(cx);
        Poll::Ready(())
    })
    .await;
    Ok(Response::from_parts(parts, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_their_host() {
        let ours = "127.64.0.2:8080".parse().expect("an address");
        let uri = |version, uri: &str, hosts: &[&str]| {
            let mut request = Request::builder().version(version).uri(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            let request = with_authority(request.body(()).expect("a request"), ours)?;
            Some(request.uri().to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        assert_eq!(uri(new, "/a?b", &["web:80"]), some("http://web:80/a?b"));
        assert_eq!(uri(new, "http://web/a", &["other"]), some("http://web/a"));
        assert_eq!(uri(old, "/", &[]), some("http://127.64.0.2:8080/"));
        assert_eq!(uri(new, "/", &[]), None);
        assert_eq!(uri(new, "/", &["a", "b"]), None);
        assert_eq!(uri(new, "/", &["a b"]), None);
        assert_eq!(uri(new, "/", &[""]), None);
    }
}
