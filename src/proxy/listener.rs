//! Accepts connections on a cluster IP, each of which is carried to the endpoint that is chosen for it
//! ([`super::carrying`]).
//!
//! A connection takes two file descriptors. What the process may open is shared: all ports together
//! take half of it, one port at most half of that, so that a Service that is flooded neither starves
//! the others nor the API server. Of those places half may be held ([`super::holding`]).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::balancer::{Balancer, Lease};
use super::carrying;
use super::holding::{self, HOLD_LIMIT, HoldPlaces};
use crate::base::SharedClock;

/// Connections waiting to be accepted.
const BACKLOG: u32 = 1024;
/// Open connections of one port; more wait in the backlog.
const MAX_CONNECTIONS: usize = 4096;
/// Open connections of all ports where the process has no limit of descriptors.
const MAX_ALL_CONNECTIONS: usize = 65_536;
/// Descriptors that a connection takes.
const CONNECTION_DESCRIPTORS: usize = 2;
/// Endpoints tried for one connection before it is closed.
const MAX_TRIES: usize = 4;
/// Endpoints are on this machine or near it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The wait after a failed accept (out of file descriptors, most often).
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How many connections there may be.
pub struct Places {
    all: Arc<Semaphore>,
    count: usize,
    held: Arc<Semaphore>,
    per_port: usize,
}

/// The places of one port.
pub struct PortPlaces {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    held: Arc<HoldPlaces>,
}

impl PortPlaces {
    pub fn held(&self) -> Arc<HoldPlaces> {
        self.held.clone()
    }
}

/// What a port's connections share.
pub struct Port {
    pub balancer: Arc<Balancer>,
    pub clock: SharedClock,
    /// Tells that a connection is held.
    pub tell_held: Arc<dyn Fn() + Send + Sync>,
    /// Says when connections are to end at which nothing is under way.
    pub leaving: watch::Receiver<bool>,
}

impl Places {
    /// As many as this process may open.
    pub fn of_process() -> Places {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let descriptors = descriptors.and_then(|limit| usize::try_from(limit).ok());
        Places::of_descriptors(descriptors.unwrap_or(usize::MAX))
    }

    fn of_descriptors(descriptors: usize) -> Places {
        let all = (descriptors / 2 / CONNECTION_DESCRIPTORS).clamp(2, MAX_ALL_CONNECTIONS);
        Places {
            all: Arc::new(Semaphore::new(all)),
            count: all,
            held: Arc::new(Semaphore::new(all / 2)),
            per_port: (all / 2).min(MAX_CONNECTIONS),
        }
    }

    /// Waits until no connection is left.
    pub async fn all_free(&self) {
        // Never closed, and there are at most 65,536.
        let _ = self.all.acquire_many(u32::try_from(self.count).unwrap_or(u32::MAX)).await;
    }

    pub fn of_port(&self) -> PortPlaces {
        PortPlaces {
            all: self.all.clone(),
            own: Arc::new(Semaphore::new(self.per_port)),
            held: Arc::new(HoldPlaces::new(self.held.clone(), self.per_port / 2)),
        }
    }
}

/// Opens a listener that other processes of this machine may share.
pub fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What the user can do about a listener that cannot be opened.
pub fn advice(address: SocketAddr, error: &io::Error) -> String {
    let why = format!("cannot listen on {address}: {error}");
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "{why}; ports below 1024 need a privilege: use a higher Service port, or run `sysctl -w \
             net.ipv4.ip_unprivileged_port_start={}`",
            address.port()
        ),
        io::ErrorKind::AddrInUse => format!("{why}; another program listens there"),
        _ => why,
    }
}

/// Accepts until the other end of `closed` is dropped. Connections live on when the listener goes,
/// also those that it had not accepted yet: the kernel would reset them.
pub async fn accept(
    listener: TcpListener,
    places: PortPlaces,
    port: Arc<Port>,
    closed: oneshot::Receiver<()>,
) {
    tokio::select! {
        biased;
        _ = closed => {}
        () = accept_all(&listener, &places, &port) => {}
    }
    if let Err(error) = accept_queued(listener, &places, &port) {
        tracing::debug!(%error, "connections may have been lost");
    }
}

async fn accept_all(listener: &TcpListener, places: &PortPlaces, port: &Arc<Port>) {
    let mut failing = false;
    loop {
        let Ok(own) = places.own.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "accepting a connection failed");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        failing = false;
        // Taken for a connection that is there: a port that nobody calls holds no place of all.
        let Ok(all) = places.all.clone().acquire_owned().await else { return };
        spawn_carry(stream, peer, places, port, [own, all]);
    }
}

/// Takes what waits in the kernel's queue, as far as there are places.
fn accept_queued(listener: TcpListener, places: &PortPlaces, port: &Arc<Port>) -> io::Result<()> {
    let listener = listener.into_std()?;
    let free = || {
        let own = places.own.clone().try_acquire_owned().ok()?;
        Some([own, places.all.clone().try_acquire_owned().ok()?])
    };
    while let Some(taken) = free() {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        spawn_carry(TcpStream::from_std(stream)?, peer, places, port, taken);
    }
    Ok(())
}

fn spawn_carry(
    stream: TcpStream,
    peer: SocketAddr,
    places: &PortPlaces,
    port: &Arc<Port>,
    taken: [OwnedSemaphorePermit; 2],
) {
    let (port, held) = (port.clone(), places.held.clone());
    tokio::spawn(async move {
        if let Err(error) = carry(stream, peer, &port, &held).await {
            tracing::debug!(%peer, %error, "a proxied connection ended");
        }
        drop(taken);
    });
}

async fn carry(
    mut client: TcpStream,
    peer: SocketAddr,
    port: &Port,
    held: &HoldPlaces,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut changes = port.balancer.watch();
    let is_held = *changes.borrow_and_update();
    let (mut endpoint, _lease) = match connect(peer, &port.balancer, &port.clock).await {
        Ok(connected) => connected,
        Err(error) if !is_held => return Err(error),
        Err(error) => match hold(&client, peer, port, held, changes).await {
            Some(connected) => connected,
            None => {
                holding::refuse(client).await?;
                return Err(error);
            }
        },
    };
    endpoint.set_nodelay(true)?;
    carrying::carry(&mut client, &mut endpoint, port.leaving.clone()).await;
    Ok(())
}

/// Waits for an endpoint that takes the connection; `None` where none comes.
async fn hold(
    client: &TcpStream,
    peer: SocketAddr,
    port: &Port,
    held: &HoldPlaces,
    mut changes: watch::Receiver<bool>,
) -> Option<(TcpStream, Lease)> {
    let _places = held.take()?;
    (port.tell_held)();
    let wait = async {
        loop {
            changes.changed().await.ok()?;
            let is_held = *changes.borrow_and_update();
            if let Ok(connected) = connect(peer, &port.balancer, &port.clock).await {
                return Some(connected);
            }
            if !is_held {
                return None;
            }
        }
    };
    tokio::select! {
        connected = tokio::time::timeout(HOLD_LIMIT, wait) => connected.ok().flatten(),
        () = holding::gone(client) => None,
    }
}

/// Connects to an endpoint. Nothing of the client was read yet, so another can be tried.
async fn connect(
    peer: SocketAddr,
    balancer: &Balancer,
    clock: &SharedClock,
) -> io::Result<(TcpStream, Lease)> {
    let mut tried = Vec::new();
    let mut last = io::Error::new(io::ErrorKind::ConnectionRefused, "no endpoint is ready");
    while tried.len() < MAX_TRIES {
        let Some(lease) = balancer.choose(peer.ip(), &tried, clock.now()) else { break };
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(lease.address())).await {
            Ok(Ok(stream)) => return Ok((stream, lease)),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
        tried.push(lease.address());
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_shared() {
        let places = Places::of_descriptors(1024);
        assert_eq!((places.all.available_permits(), places.per_port), (256, 128));
        let places = Places::of_descriptors(usize::MAX);
        assert_eq!((places.all.available_permits(), places.per_port), (65_536, 4096));
    }
}
