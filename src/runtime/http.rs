//! Serves an HTTP handler on its pod's address: listener, connections, limits, graceful end.
//!
//! What a request means to a guest is `http_guest`'s; here is the server around it. An idle
//! handler costs a listening socket and this one task.
//!
//! Stopping loses no request: what waits in the listener's queue is still accepted, responses
//! carry `connection: close` (HTTP/2: GOAWAY), and a connection that is idle is closed only after
//! a moment in which a request already on its way arrives.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use wasmtime::Engine;

use super::container::{End, Reporter, describe, usage};
use super::host::Sandbox;
use super::http_guest::{Background, Failure, GuestBody, Handler};
use super::limits::OutOfMemory;
use super::meter::{Interrupted, Meter};
use super::tasks::{TaskExecutor, Tasks};
use super::{Container, StartError, Usage};

/// Connections one container serves at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Instances one container has at once; more requests wait on their connection.
const MAX_INSTANCES: usize = 512;
/// Streams of one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// Connections the kernel queues for the container.
const BACKLOG: u32 = 1024;
/// Time for a request's head, and for which an idle connection is kept.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Header fields of a request.
const MAX_HEADERS: usize = 100;
/// How long idle connections are kept when the container stops: longer than a request that was
/// sent before the client could know is on its way.
const LINGER: Duration = Duration::from_millis(250);
/// Pause after a failed accept (no file descriptors left), so that it is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How every HTTP/2 connection begins (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HT";

/// What the connections of one container share.
struct Server {
    engine: Engine,
    sandbox: Arc<Sandbox>,
    meter: Arc<Meter>,
    handler: Handler,
    instances: Arc<Semaphore>,
    tasks: Arc<Tasks>,
    /// Set first when stopping: every response ends its connection.
    draining: AtomicBool,
    /// Set a moment later: idle connections are closed.
    closing: watch::Sender<bool>,
}

/// A running HTTP handler. Dropping it kills its guests.
pub struct HttpContainer {
    server: Arc<Server>,
    stop_by: watch::Sender<Option<Instant>>,
    killed: Arc<Notify>,
}

impl HttpContainer {
    /// Listens on the pod's address and serves from the guests' threads.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the sandbox cannot be made.
    pub fn spawn(
        guests: &tokio::runtime::Handle,
        engine: Engine,
        sandbox: Arc<Sandbox>,
        meter: Arc<Meter>,
        reporter: Reporter,
        handler: Handler,
    ) -> Result<Self, StartError> {
        // A mount that is missing is known now, not at the first request.
        drop(sandbox.store(&engine)?);
        let address = SocketAddr::new(sandbox.spec.pod_ip, sandbox.spec.http_port);
        let listener = {
            let _guests = guests.enter();
            listen(address).map_err(|error| {
                StartError::Container(format!("cannot listen on {address}: {error}"))
            })?
        };
        let server = Arc::new(Server {
            engine,
            sandbox,
            meter,
            handler,
            instances: Arc::new(Semaphore::new(MAX_INSTANCES)),
            tasks: Arc::default(),
            draining: AtomicBool::new(false),
            closing: watch::Sender::new(false),
        });
        let stop_by = watch::Sender::new(None);
        let killed = Arc::new(Notify::new());
        let supervisor =
            supervise(server.clone(), listener, stop_by.subscribe(), killed.clone(), reporter);
        guests.spawn(supervisor);
        Ok(Self { server, stop_by, killed })
    }
}

impl Container for HttpContainer {
    fn stop(&self, grace: Duration) {
        let by = Instant::now() + grace;
        self.stop_by.send_modify(|stop_by| {
            *stop_by = Some(stop_by.map_or(by, |earlier| earlier.min(by)));
        });
    }

    fn usage(&self) -> Usage {
        usage(&self.server.sandbox, &self.server.meter)
    }
}

impl Drop for HttpContainer {
    fn drop(&mut self) {
        self.server.meter.kill();
        self.killed.notify_one();
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted container must not wait for its old connections to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn supervise(
    server: Arc<Server>,
    listener: TcpListener,
    mut stop_by: watch::Receiver<Option<Instant>>,
    killed: Arc<Notify>,
    reporter: Reporter,
) {
    let started_at = reporter.started().await;
    let end = tokio::select! {
        biased;
        () = killed.notified() => End::killed("killed"),
        end = serve_until_stopped(&server, listener, &mut stop_by) => end,
    };
    server.meter.kill();
    server.tasks.abort();
    server.tasks.wait().await;
    reporter.exited(started_at, end).await;
}

async fn serve_until_stopped(
    server: &Arc<Server>,
    listener: TcpListener,
    stop_by: &mut watch::Receiver<Option<Instant>>,
) -> End {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop_by.changed() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => server.connect(stream, permit),
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    server.draining.store(true, Ordering::Release);
    while let Some(Ok((stream, permit))) = accept(&listener, &connections).now_or_never() {
        server.connect(stream, permit);
    }
    drop(listener);
    drain(server, stop_by).await
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// Waits for the requests in flight, until the deadline; the deadline may come nearer meanwhile.
async fn drain(server: &Server, stop_by: &mut watch::Receiver<Option<Instant>>) -> End {
    let mut idle = pin!(server.tasks.wait());
    let mut linger = pin!(sleep(LINGER));
    loop {
        let by = stop_by.borrow_and_update().unwrap_or_else(Instant::now);
        let closing = *server.closing.borrow();
        tokio::select! {
            biased;
            () = &mut idle => return End::completed(),
            () = sleep_until(by) => {
                return End::killed("requests were still in flight when the grace period ended");
            }
            () = &mut linger, if !closing => {
                server.closing.send_replace(true);
            }
            _ = stop_by.changed() => {}
        }
    }
}

impl Server {
    fn connect(self: &Arc<Self>, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let server = self.clone();
        self.tasks.spawn(async move {
            let _permit = permit;
            if let Err(error) = server.serve_connection(stream).await {
                tracing::debug!(%error, "a connection ended with an error");
            }
        });
    }

    async fn serve_connection(self: Arc<Self>, stream: TcpStream) -> Result<(), BoxError> {
        stream.set_nodelay(true)?;
        let mut closing = self.closing.subscribe();
        let http2 = tokio::select! {
            http2 = timeout(HEADER_READ_TIMEOUT, speaks_http2(&stream)) => http2??,
            // No byte has come: nothing is lost.
            _ = closing.wait_for(|closing| *closing) => return Ok(()),
        };
        let io = TokioIo::new(stream);
        let server = self.clone();
        let service = service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.serve(request).await) }
        });
        if http2 {
            let connection =
                hyper::server::conn::http2::Builder::new(TaskExecutor(self.tasks.clone()))
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(MAX_STREAMS)
                    .max_header_list_size(MAX_HEAD_BYTES as u32)
                    .keep_alive_interval(HEADER_READ_TIMEOUT)
                    .serve_connection(io, service);
            let mut connection = pin!(connection);
            tokio::select! {
                result = connection.as_mut() => return Ok(result?),
                _ = closing.wait_for(|closing| *closing) => {}
            }
            connection.as_mut().graceful_shutdown();
            return Ok(connection.await?);
        }
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_READ_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .pipeline_flush(true)
            .serve_connection(io, service);
        let mut connection = pin!(connection);
        tokio::select! {
            result = connection.as_mut() => return Ok(result?),
            _ = closing.wait_for(|closing| *closing) => {}
        }
        connection.as_mut().graceful_shutdown();
        Ok(connection.await?)
    }

    async fn serve(&self, request: Request<Incoming>) -> Response<GuestBody> {
        let http1 = request.version() <= Version::HTTP_11;
        let mut response = match self.instances.clone().acquire_owned().await {
            Ok(permit) => self.run_guest(request, permit).await,
            Err(_) => failed(StatusCode::SERVICE_UNAVAILABLE),
        };
        if http1 && self.draining.load(Ordering::Acquire) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    async fn run_guest(
        &self,
        request: Request<Incoming>,
        permit: OwnedSemaphorePermit,
    ) -> Response<GuestBody> {
        let background = Background { tasks: self.tasks.clone(), permit };
        let handled = self
            .handler
            .handle(&self.engine, &self.sandbox, &self.meter, background, request)
            .await;
        let failure = match handled {
            Ok(response) => return response,
            Err(failure) => failure,
        };
        let (status, message) = match failure {
            Failure::Start(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            Failure::Guest(error) => match error.downcast_ref::<OutOfMemory>() {
                Some(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
                None => (StatusCode::INTERNAL_SERVER_ERROR, describe(&error)),
            },
            Failure::NoResponse => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the handler set no response".to_owned())
            }
            Failure::Interrupted(Interrupted::Killed) => {
                return failed(StatusCode::SERVICE_UNAVAILABLE);
            }
            Failure::Interrupted(Interrupted::Panicked(text)) => {
                (StatusCode::INTERNAL_SERVER_ERROR, format!("a host function failed: {text}"))
            }
        };
        self.sandbox.stderr.write_chunks(format!("{message}\n").as_bytes());
        failed(status)
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn failed(status: StatusCode) -> Response<GuestBody> {
    let text = match status {
        StatusCode::SERVICE_UNAVAILABLE => "the service is out of resources\n",
        _ => "the service failed\n",
    };
    let mut response = Response::new(GuestBody::text(text));
    *response.status_mut() = status;
    response
}

/// Looks at a connection's first bytes and leaves them where they are.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0_u8; HTTP2_PREFACE.len()];
    let count = stream.peek(&mut first).await?;
    Ok(count == first.len() && first == *HTTP2_PREFACE)
}
