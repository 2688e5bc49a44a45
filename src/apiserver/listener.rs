//! Accepts connections: TLS, HTTP/1.1 or HTTP/2, who the peer is, and an end within bounds.
//!
//! Knows nothing of paths or objects: each request goes to one handler, with the user of the
//! connection's client certificate. Every connection holds a permit until its socket is closed,
//! also after an upgrade (a node's tunnel, exec), so the number of sockets is bounded ([`crowd`]).
//!
//! ```text
//!   accepted ─▶ handshake ─▶ first request ─▶ requests … ─▶ stop ─▶ drained
//!               each within its time; a peer that takes nothing of an answer ([`stalls`]), or sends
//!               frames for nothing ([`frames`]), is cut off
//! ```
//!
//! At the stop the server stops being ready, after a delay listens no more, ends streams, tells
//! peers to go away, and finishes what is in flight.

mod bodies;
mod counted;
mod crowd;
mod frames;
mod stalls;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::service::ApiServer;
use super::{Body, User, authn};
use crate::base::head::answered;
use crate::base::tasks::Stop;
use bodies::Served;
use counted::Counted;
use crowd::Crowd;
use frames::Frames;
use stalls::Stalls;

/// The bounds of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open sockets; further peers wait in the kernel's backlog.
    pub max_connections: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the handshake to the first request, head and all; HTTP/2's settings come before it.
    pub first_request_timeout: Duration,
    /// For the head of a later HTTP/1 request, which includes the idle time before it.
    pub header_read_timeout: Duration,
    /// HTTP/2 streams of a connection; client-go opens one for each watch.
    pub max_concurrent_streams: u32,
    /// Bytes of a request's headers.
    pub max_header_bytes: u32,
    /// HTTP/2 pings to a silent peer, and how long it may take to answer.
    pub keep_alive_interval: Duration,
    pub keep_alive_timeout: Duration,
    /// How long a peer may take nothing of what waits in its socket,
    pub write_timeout: Duration,
    /// and nothing of an answer, which HTTP/2 can hold back while the socket is read.
    pub stall_timeout: Duration,
    /// A connection without a client certificate is asked to end after this time; requests in
    /// flight are finished.
    pub anonymous_lifetime: Duration,
    /// For how long new requests are still served after the stop, so that who asks for readiness
    /// can send them elsewhere (upstream's `--shutdown-delay-duration`).
    pub shutdown_delay: Duration,
    /// How long requests in flight may take to finish after that.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 20_000,
            handshake_timeout: Duration::from_secs(10),
            first_request_timeout: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(60),
            max_concurrent_streams: 1000,
            max_header_bytes: 64 << 10,
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(15),
            write_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            anonymous_lifetime: Duration::from_secs(300),
            shutdown_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Resets of streams that a peer may cause before it is cut off (the "rapid reset" attack,
/// CVE-2023-44487), and errors that we may have to answer with resets.
const MAX_PENDING_RESET_STREAMS: usize = 50;
const MAX_LOCAL_ERROR_RESETS: usize = 1024;
/// Bytes in flight that a peer may send for one stream, and for a connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// How often within [`Limits::stall_timeout`] a connection is looked at.
const STALL_LOOKS: u32 = 4;
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a request came from; an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// Serves the API: [`serve_with`] and [`super::http::handle`].
pub async fn serve(
    server: Arc<ApiServer>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    limits: Limits,
    stop: Stop,
) {
    let drained = server.clone();
    let end = stop.delayed(limits.shutdown_delay);
    let handler = move |user, request| super::http::handle(server.clone(), user, request);
    let not_ready = async {
        stop.wait().await;
        drained.drain();
    };
    tokio::join!(not_ready, serve_with(handler, listener, tls, limits, end));
}

/// Accepts and serves until `stop`, then lets requests in flight finish within
/// [`Limits::drain_timeout`]; streams without an end (watches, logs) are ended at once.
pub async fn serve_with<F, R>(
    handler: F,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    limits: Limits,
    stop: Stop,
) where
    F: Fn(Option<User>, Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let server = Arc::new(Server {
        handler,
        acceptor: TlsAcceptor::from(tls),
        crowd: Crowd::new(limits.max_connections),
        limits,
        stop: stop.clone(),
    });
    let mut connections = JoinSet::new();
    loop {
        let (stream, address) = tokio::select! {
            () = stop.wait() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener) => accepted,
        };
        let mut place = pin!(server.crowd.enter());
        let permit = loop {
            tokio::select! {
                () = stop.wait() => break None,
                Some(_) = connections.join_next() => {}
                permit = place.as_mut() => break permit,
            }
        };
        let Some(permit) = permit else { break };
        let stream = Counted::new(stream, server.limits.write_timeout, permit);
        connections.spawn(server.clone().connection(stream, address));
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    let drain_timeout = server.limits.drain_timeout;
    if tokio::time::timeout(drain_timeout, drained).await.is_err() {
        tracing::info!("connections that did not end within {drain_timeout:?} are closed");
    }
}

/// The next connection.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Small answers must not wait for an acknowledgement; failing costs only speed.
                let _ = stream.set_nodelay(true);
                return (stream, address);
            }
            Err(error) if is_one_peers_fault(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of the connection that was to be accepted; everything else (EMFILE and its like) would
/// repeat at once.
fn is_one_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

struct Server<F> {
    handler: F,
    acceptor: TlsAcceptor,
    crowd: Arc<Crowd>,
    limits: Limits,
    stop: Stop,
}

impl<F, R> Server<F>
where
    F: Fn(Option<User>, Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    /// One connection from its handshake to its end.
    async fn connection(self: Arc<Self>, stream: Counted<TcpStream>, address: SocketAddr) {
        let under_way = self.crowd.handshake();
        let handshake = self.acceptor.accept(stream);
        let stream = tokio::select! {
            () = self.stop.wait() => return,
            () = under_way.gives_way() => {
                return tracing::debug!(%address, "a handshake gave way to another");
            }
            result = tokio::time::timeout(self.limits.handshake_timeout, handshake) => match result {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%address, %error, "no TLS"),
                Err(_) => return tracing::debug!(%address, "the TLS handshake took too long"),
            },
        };
        drop(under_way);
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let user = certificate.and_then(|der| authn::from_certificate(der));
        let lifetime = certificate.is_none().then_some(self.limits.anonymous_lifetime);
        let stranger = match certificate {
            Some(_) => None,
            None => match self.crowd.stranger() {
                Some(place) => Some(place),
                None => return tracing::debug!(%address, "too many peers without a certificate"),
            },
        };
        // The protocol is the one that ALPN settled. Guessing from the first bytes would be a wait
        // that no timeout covers.
        let http2 = session.alpn_protocol() == Some(b"h2");
        let stalls = Arc::<Stalls>::default();
        let service = service_fn({
            let (handler, stop) = (self.handler.clone(), self.stop.clone());
            let (stalls, answers) = (stalls.clone(), AtomicU64::new(0));
            move |mut request: Request<Incoming>| {
                stalls.request();
                request.extensions_mut().insert(PeerAddress(address));
                request.extensions_mut().insert(stop.clone());
                let id = answers.fetch_add(1, Ordering::Relaxed);
                let method = request.method().clone();
                let (answer, stop) = (handler(user.clone(), request), stop.clone());
                let stalls = stalls.clone();
                async move {
                    let answer = answer.await;
                    Ok::<_, Infallible>(answered(
                        &method,
                        Served::wrap(answer, stop, stalls.answer(id)),
                    ))
                }
            }
        });
        let end = if http2 {
            let io = TokioIo::new(Frames::new(stream));
            let connection = self.http2().serve_connection(io, service);
            self.drive(connection, http2::Connection::graceful_shutdown, lifetime, &stalls).await
        } else {
            let connection = self.http1().serve_connection(TokioIo::new(stream), service);
            let shut_down = http1::UpgradeableConnection::graceful_shutdown;
            self.drive(connection.with_upgrades(), shut_down, lifetime, &stalls).await
        };
        if let Err(error) = end {
            tracing::debug!(%address, %error, "a connection ended");
        }
        drop(stranger);
    }

    fn http1(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read_timeout)
            .max_buf_size(self.limits.max_header_bytes as usize);
        builder
    }

    fn http2(&self) -> http2::Builder<TokioExecutor> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.limits.max_concurrent_streams)
            .max_header_list_size(self.limits.max_header_bytes)
            .max_pending_accept_reset_streams(MAX_PENDING_RESET_STREAMS)
            .max_local_error_reset_streams(MAX_LOCAL_ERROR_RESETS)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(self.limits.keep_alive_interval)
            .keep_alive_timeout(self.limits.keep_alive_timeout);
        builder
    }

    /// Runs a connection; asks it to end at the stop or at the end of its lifetime, and cuts it off
    /// when its peer keeps us waiting.
    async fn drive<C: Future<Output = hyper::Result<()>>>(
        &self,
        connection: C,
        shut_down: impl FnOnce(Pin<&mut C>),
        lifetime: Option<Duration>,
        stalls: &Stalls,
    ) -> Result<(), End> {
        let mut connection = pin!(connection);
        let ending = async {
            match lifetime {
                Some(lifetime) => {
                    let _ = tokio::time::timeout(lifetime, self.stop.wait()).await;
                }
                None => self.stop.wait().await,
            }
        };
        let mut late = pin!(self.late(stalls));
        tokio::select! {
            end = connection.as_mut() => return Ok(end?),
            why = late.as_mut() => return Err(End::Late(why)),
            () = ending => {}
        }
        shut_down(connection.as_mut());
        tokio::select! {
            end = connection => Ok(end?),
            why = late => Err(End::Late(why)),
        }
    }

    /// Resolves when the peer has kept us waiting for too long.
    async fn late(&self, stalls: &Stalls) -> &'static str {
        tokio::time::sleep(self.limits.first_request_timeout).await;
        if !stalls.has_requests() {
            return "no request came";
        }
        let most = self.limits.stall_timeout;
        loop {
            tokio::time::sleep(most / STALL_LOOKS).await;
            if stalls.oldest().is_some_and(|since| since.elapsed() > most) {
                return "the client takes nothing of an answer";
            }
        }
    }
}

/// How a connection ended that did not end well.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Failed(#[from] hyper::Error),
    #[error("cut off: {0}")]
    Late(&'static str),
}
