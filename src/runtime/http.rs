//! Serves an HTTP handler on its pod's address: listeners, admission of requests, graceful end.
//!
//! What a request means to a guest is `http_guest`'s, how a connection lives `http_connection`'s;
//! here is the server around them. An idle handler costs its listening sockets (`http_listen`) and
//! this one task.
//!
//! ```text
//!   Serving ──drain()──▶ Draining ──stop(grace)──▶ Stopping ──no connection is left──▶ ended
//!                        responses end             the same, and     │ or linger is over
//!                        their connections         HTTP/2: GOAWAY    ▼
//!                                                                 Closing: not listening, idle
//!                                                                 connections are closed
//! ```
//!
//! Stopping loses no request: connections are accepted until the last moment, and one that is idle
//! is closed only after a time in which most clients have learned from a response to reconnect.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::container::{End, Reporter, usage};
use super::exec::{Again, exec};
use super::host::{Sandbox, start_error};
use super::http_body::{GuestBody, Rest};
use super::http_complaints::Complaints;
use super::http_connection;
use super::http_guest::{After, Failure, Handler, with_authority};
use super::http_limits::HttpLimits;
use super::http_listen::Listeners;
use super::http_request_body::RequestBody;
use super::http_reuse::{Instance, Resting};
use super::meter::Meter;
use super::outgoing::Counted;
use super::pool::Pool;
use super::profile::profile;
use super::store_memory::Buffer;
use super::tasks::Tasks;
use super::{Container, ExecSpec, RuntimeEvent, StartError, Usage};

/// Connections one container serves at once; more wait in the listeners' queues.
const MAX_CONNECTIONS: usize = 1024;
/// Instances one container has at once; more requests wait on their connection.
const MAX_INSTANCES: usize = 512;
/// Pause after a failed accept (no file descriptors left), so that it is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How far the container is on its way to its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    Serving,
    /// Every response ends its connection.
    Draining,
    /// The container ends as soon as it has no connection.
    Stopping,
    /// Idle connections are closed.
    Closing,
}

/// What the connections of one container share.
pub struct Server {
    pub(super) limits: HttpLimits,
    pub(super) tasks: Arc<Tasks>,
    again: Arc<Again>,
    sandbox: Arc<Sandbox>,
    meter: Arc<Meter>,
    complaints: Arc<Complaints>,
    handler: Handler,
    instances: Arc<Semaphore>,
    resting: Option<Arc<Resting>>,
    requests: AtomicU64,
    failed_requests: AtomicU64,
    phase: watch::Sender<Phase>,
}

/// A running HTTP handler. Dropping it kills its guests.
pub struct HttpContainer {
    server: Arc<Server>,
    stop_by: watch::Sender<Option<Instant>>,
    killed: Arc<Notify>,
    again: Arc<Again>,
}

impl HttpContainer {
    /// Listens on the pod's address and serves from the guests' threads.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn spawn(
        again: Arc<Again>,
        sandbox: Arc<Sandbox>,
        meter: Arc<Meter>,
        reporter: Reporter,
        handler: Handler,
        limits: HttpLimits,
    ) -> Result<Self, StartError> {
        let listeners = {
            let _guests = again.guests.enter();
            let bound = Listeners::bind(sandbox.spec.pod_ip, &sandbox.spec.http_ports);
            bound.map_err(|(address, error)| {
                start_error(format!("cannot listen on {address}: {error}"), &error)
            })?
        };
        // A guess, until one has ended: as much again as it begins with.
        sandbox.memory.expect(handler.initial_memory_bytes().saturating_mul(2));
        let resting = Resting::of(&sandbox);
        if let Some(resting) = &resting {
            again.guests.spawn(resting.clone().sweep(sandbox.clone()));
        }
        let server = Arc::new(Server {
            limits,
            tasks: Arc::default(),
            again: again.clone(),
            complaints: Arc::new(Complaints::of(&sandbox)),
            sandbox,
            meter,
            handler,
            instances: Arc::new(Semaphore::new(MAX_INSTANCES)),
            resting,
            requests: AtomicU64::new(0),
            failed_requests: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Serving),
        });
        let stop_by = watch::Sender::new(None);
        let killed = Arc::new(Notify::new());
        let supervisor =
            supervise(server.clone(), listeners, stop_by.subscribe(), killed.clone(), reporter);
        again.guests.spawn(supervisor);
        Ok(Self { server, stop_by, killed, again })
    }
}

#[async_trait::async_trait]
impl Container for HttpContainer {
    fn drain(&self) {
        self.server.enter(Phase::Draining);
    }

    fn stop(&self, grace: Duration) {
        // At once, not when the supervisor comes to know of it.
        self.server.enter(Phase::Draining);
        self.server.sandbox.signals.stop(grace);
        let by = Instant::now() + grace;
        self.stop_by.send_modify(|stop_by| {
            *stop_by = Some(stop_by.map_or(by, |earlier| earlier.min(by)));
        });
    }

    fn usage(&self) -> Usage {
        let server = &self.server;
        let resting = server.resting.as_ref().map_or(0, |resting| resting.count());
        Usage {
            instances: (MAX_INSTANCES - server.instances.available_permits() + resting) as u64,
            is_handler: true,
            requests: server.requests.load(Ordering::Relaxed),
            failed_requests: server.failed_requests.load(Ordering::Relaxed),
            ..usage(&server.sandbox, &server.meter)
        }
    }

    async fn exec(
        &self,
        spec: ExecSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Box<dyn Container>, StartError> {
        exec(&self.again, &self.server.sandbox, &self.server.meter, spec, events)
    }

    async fn profile(&self, until: BoxFuture<'static, ()>) -> Result<Vec<u8>, StartError> {
        let engine = match self.server.pool() {
            Some(pool) => (&pool.engine, true),
            None => (&self.again.engine, false),
        };
        profile(engine, &self.server.sandbox, until).await
    }
}

impl Drop for HttpContainer {
    fn drop(&mut self) {
        self.server.meter.kill();
        self.server.sandbox.ended.send_replace(true);
        self.killed.notify_one();
    }
}

async fn supervise(
    server: Arc<Server>,
    listeners: Listeners,
    mut stop_by: watch::Receiver<Option<Instant>>,
    killed: Arc<Notify>,
    reporter: Reporter,
) {
    let started_at = reporter.started().await;
    let end = tokio::select! {
        biased;
        () = killed.notified() => End::killed("killed"),
        end = serve_until_stopped(&server, listeners, &mut stop_by) => end,
    };
    server.meter.kill();
    server.sandbox.ended.send_replace(true);
    server.tasks.abort();
    server.tasks.wait().await;
    if let Some(resting) = &server.resting {
        resting.close();
    }
    server.sandbox.signals.disconnect();
    reporter.exited(started_at, end).await;
}

async fn serve_until_stopped(
    server: &Arc<Server>,
    listeners: Listeners,
    stop_by: &mut watch::Receiver<Option<Instant>>,
) -> End {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        tokio::select! {
            biased;
            _ = stop_by.changed() => break,
            accepted = accept(&listeners, &connections) => server.take(accepted).await,
        }
    }
    server.enter(Phase::Stopping);
    let mut linger = Linger::new(server.limits.linger);
    let mut idle = pin!(server.tasks.wait());
    loop {
        let by = linger.by(stop_by.borrow_and_update().unwrap_or_else(Instant::now));
        tokio::select! {
            biased;
            () = &mut idle => break,
            () = sleep_until(by) => break,
            _ = stop_by.changed() => {}
            accepted = accept(&listeners, &connections) => server.take(accepted).await,
        }
    }
    // Places are not waited for.
    let queued = listeners
        .take_queued(|stream| server.connect(stream, connections.clone().try_acquire_owned().ok()));
    if let Err(error) = queued {
        tracing::debug!(%error, "connections may have been lost");
    }
    server.enter(Phase::Closing);
    finish(server, stop_by).await
}

/// When lingering is over: the nearest of what was ever asked for.
struct Linger {
    most: Duration,
    until: Option<Instant>,
}

impl Linger {
    fn new(most: Duration) -> Self {
        Self { most, until: None }
    }

    fn by(&mut self, stop_by: Instant) -> Instant {
        let now = Instant::now();
        let grace = stop_by.saturating_duration_since(now);
        let asked = now + self.most.min(grace / HttpLimits::LINGER_PART);
        *self.until.insert(self.until.map_or(asked, |until| until.min(asked)))
    }
}

async fn accept(
    listeners: &Listeners,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok((listeners.accept().await?, permit))
}

/// Waits for the requests in flight, until the deadline; the deadline may come nearer meanwhile.
async fn finish(server: &Server, stop_by: &mut watch::Receiver<Option<Instant>>) -> End {
    let mut idle = pin!(server.tasks.wait());
    loop {
        let by = stop_by.borrow_and_update().unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            () = &mut idle => return End::completed(),
            () = sleep_until(by) => {
                return End::killed("requests were still in flight when the grace period ended");
            }
            _ = stop_by.changed() => {}
        }
    }
}

impl Server {
    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let is_later = *now < phase;
            *now = phase.max(*now);
            is_later
        });
    }

    /// Returns when the container is in this phase or a later one.
    pub async fn reaches(&self, phase: Phase) {
        // The sender is ours: there is no error.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// What comes of something that needs not be done, if it is done before the container ends.
    pub async fn before_its_end<F: Future>(&self, optional: F) -> Option<F::Output> {
        let over = async {
            self.reaches(Phase::Closing).await;
            sleep(self.limits.first_byte).await;
        };
        tokio::select! {
            biased;
            output = optional => Some(output),
            () = over => None,
        }
    }

    async fn take(self: &Arc<Self>, accepted: io::Result<(TcpStream, OwnedSemaphorePermit)>) {
        match accepted {
            Ok((stream, permit)) => self.connect(stream, Some(permit)),
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    fn connect(self: &Arc<Self>, stream: TcpStream, permit: Option<OwnedSemaphorePermit>) {
        let server = self.clone();
        self.tasks.spawn(async move {
            let _permit = permit;
            if let Err(error) = http_connection::serve(server, stream).await {
                tracing::debug!(%error, "a connection ended with an error");
            }
        });
    }

    /// Answers one request that came to this address.
    pub async fn serve(
        &self,
        request: Request<RequestBody>,
        address: SocketAddr,
    ) -> Response<GuestBody> {
        let version = request.version();
        let mut response = match with_authority(request, address) {
            // It asks for a tunnel, and a handler is no proxy.
            Some(request) if request.method() == Method::CONNECT => {
                plain(StatusCode::NOT_IMPLEMENTED)
            }
            Some(request) => self.answer(request).await,
            None => plain(StatusCode::BAD_REQUEST),
        };
        if version == Version::HTTP_2 {
            response = response.map(GuestBody::pumped);
        } else if *self.phase.borrow() >= Phase::Draining {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    async fn answer(&self, request: Request<RequestBody>) -> Response<GuestBody> {
        if !is_probe(&request) {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        let by = Instant::now() + self.limits.response_head;
        let place = async {
            let permit = self.instances.clone().acquire_owned().await.ok()?;
            let rested = self.resting.as_ref().and_then(|resting| resting.take());
            Some((
                permit,
                match rested {
                    Some(instance) => instance,
                    None => self.fresh_instance().await,
                },
            ))
        };
        let Ok(Some((permit, instance))) = timeout_at(by, place).await else {
            let waited = self.limits.response_head;
            return self.refuse(&Failure::Busy(waited));
        };
        let rest = Rest {
            tasks: self.tasks.clone(),
            permit,
            complaints: self.complaints.clone(),
            memory: self.sandbox.memory.clone(),
            limits: self.limits,
        };
        let waiting = Some(Buffer::none(instance.store.data().share()));
        let request = request.map(|body| Counted { body, waiting });
        let dumps = self.sandbox.spec.core_dumps.is_some().then(|| self.sandbox.clone());
        let after = After { resting: self.resting.clone(), dumps };
        let handled = self.handler.handle(instance, &self.meter, after, rest, request);
        match timeout_at(by, handled).await {
            Ok(Ok(response)) => response,
            Ok(Err(failure)) => self.refuse(&failure),
            Err(_) => self.refuse(&Failure::Late(self.limits.response_head)),
        }
    }

    /// Waits for memory for one more.
    async fn fresh_instance(&self) -> Instance {
        let memory = self.sandbox.memory.admit().await;
        let place = self.pool().and_then(|pool| Some((pool, pool.take()?)));
        let (engine, place) = match place {
            Some((pool, place)) => (&pool.engine, Some(place)),
            None => (&self.again.engine, None),
        };
        Instance::fresh(self.sandbox.admitted_store(engine, memory), place)
    }

    /// Where its instances have places, if they may.
    fn pool(&self) -> Option<&Pool> {
        let pool = self.again.pool.as_ref().filter(|_| self.handler.is_poolable())?;
        pool.fits(self.sandbox.spec.memory_limit_bytes).then_some(pool)
    }

    /// The user reads why in the log and in the pod's events, the client learns only whose fault it
    /// was.
    fn refuse(&self, failure: &Failure) -> Response<GuestBody> {
        self.failed_requests.fetch_add(1, Ordering::Relaxed);
        if let Some(message) = failure.message() {
            self.complaints.tell(&message);
        }
        plain(failure.status())
    }
}

/// The node's own probes and hooks are no load: by the requests that come autoscalers size workloads,
/// and what is only probed may go to zero.
fn is_probe(request: &Request<RequestBody>) -> bool {
    let agent = request.headers().get(header::USER_AGENT).map(|agent| agent.as_bytes());
    let own: [&[u8]; 2] = [b"kube-probe/", b"kube-lifecycle/"];
    agent.is_some_and(|agent| own.iter().any(|own| agent.starts_with(own)))
}

fn plain(status: StatusCode) -> Response<GuestBody> {
    let text = match status {
        StatusCode::BAD_REQUEST => "the request names no valid host\n",
        StatusCode::NOT_IMPLEMENTED => "the service is no proxy\n",
        StatusCode::SERVICE_UNAVAILABLE => "the service is out of resources\n",
        StatusCode::GATEWAY_TIMEOUT => "the service did not answer in time\n",
        _ => "the service failed\n",
    };
    let mut response = Response::new(GuestBody::text(text));
    *response.status_mut() = status;
    response
}
