//! Accepts connections: TLS, HTTP/1.1 or HTTP/2, who the peer is, and an end within bounds.
//!
//! Knows nothing of paths or objects: each request goes to one handler, with the user of the
//! connection's client certificate. Every connection holds a permit until its socket is closed,
//! also after an upgrade (a node's tunnel, exec), so the number of sockets is bounded.

mod bodies;
mod counted;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::service::ApiServer;
use super::{Body, User, authn};
use crate::base::tasks::Stop;
use bodies::UntilStop;
use counted::Counted;

/// The bounds of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open sockets; further peers wait in the kernel's backlog.
    pub max_connections: usize,
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// For the head of an HTTP/1 request, which includes the idle time before it.
    pub header_read_timeout: Duration,
    /// HTTP/2 streams of a connection; client-go opens one for each watch.
    pub max_concurrent_streams: u32,
    /// Bytes of a request's headers.
    pub max_header_bytes: u32,
    /// HTTP/2 pings to a silent peer, and how long it may take to answer.
    pub keep_alive_interval: Duration,
    pub keep_alive_timeout: Duration,
    /// A connection without a client certificate is asked to end after this time; requests in
    /// flight are finished.
    pub anonymous_lifetime: Duration,
    /// How long requests in flight may take to finish after the stop.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 20_000,
            handshake_timeout: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(60),
            max_concurrent_streams: 1000,
            max_header_bytes: 64 << 10,
            keep_alive_interval: Duration::from_secs(30),
            keep_alive_timeout: Duration::from_secs(15),
            anonymous_lifetime: Duration::from_secs(300),
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
    let handler = move |user, request| super::http::handle(server.clone(), user, request);
    serve_with(handler, listener, tls, limits, stop).await;
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
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let server = Arc::new(Server {
        handler,
        acceptor: TlsAcceptor::from(tls),
        drain_timeout: limits.drain_timeout,
        limits,
        stop: stop.clone(),
    });
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.wait() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Some((stream, address)) = accepted else { break };
        connections.spawn(server.clone().connection(stream, address));
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    let drain_timeout = server.drain_timeout;
    if tokio::time::timeout(drain_timeout, drained).await.is_err() {
        tracing::info!("connections that did not end within {drain_timeout:?} are closed");
    }
}

/// The next connection with its permit; `None` when the listener is no longer usable.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(Counted<TcpStream>, SocketAddr)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Small answers must not wait for an acknowledgement; failing costs only speed.
                let _ = stream.set_nodelay(true);
                return Some((Counted::new(stream, permit), address));
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
    limits: Limits,
    drain_timeout: Duration,
    stop: Stop,
}

impl<F, R> Server<F>
where
    F: Fn(Option<User>, Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    /// One connection from its handshake to its end.
    async fn connection(self: Arc<Self>, stream: Counted<TcpStream>, address: SocketAddr) {
        let handshake = self.acceptor.accept(stream);
        let stream = tokio::select! {
            () = self.stop.wait() => return,
            result = tokio::time::timeout(self.limits.handshake_timeout, handshake) => match result {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%address, %error, "no TLS"),
                Err(_) => return tracing::debug!(%address, "the TLS handshake took too long"),
            },
        };
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let user = certificate.and_then(|der| authn::from_certificate(der));
        let lifetime = certificate.is_none().then_some(self.limits.anonymous_lifetime);
        // The protocol is the one that ALPN settled. Guessing from the first bytes would be a wait
        // that no timeout covers.
        let http2 = session.alpn_protocol() == Some(b"h2");
        let service = service_fn({
            let (handler, stop) = (self.handler.clone(), self.stop.clone());
            move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddress(address));
                let (answer, stop) = (handler(user.clone(), request), stop.clone());
                async move { Ok::<_, Infallible>(UntilStop::wrap(answer.await, stop)) }
            }
        });
        let io = TokioIo::new(stream);
        let end = if http2 {
            let connection = self.http2().serve_connection(io, service);
            self.drive(connection, http2::Connection::graceful_shutdown, lifetime).await
        } else {
            let connection = self.http1().serve_connection(io, service).with_upgrades();
            let shut_down = http1::UpgradeableConnection::graceful_shutdown;
            self.drive(connection, shut_down, lifetime).await
        };
        if let Err(error) = end {
            tracing::debug!(%address, %error, "a connection ended");
        }
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

    /// Runs a connection; asks it to end at the stop or at the end of its lifetime.
    async fn drive<C: Future>(
        &self,
        connection: C,
        shut_down: impl FnOnce(Pin<&mut C>),
        lifetime: Option<Duration>,
    ) -> C::Output {
        let mut connection = pin!(connection);
        let ending = async {
            match lifetime {
                Some(lifetime) => {
                    let _ = tokio::time::timeout(lifetime, self.stop.wait()).await;
                }
                None => self.stop.wait().await,
            }
        };
        let mut ending = pin!(ending);
        tokio::select! {
            end = connection.as_mut() => return end,
            () = ending.as_mut() => {}
        }
        shut_down(connection.as_mut());
        connection.await
    }
}
