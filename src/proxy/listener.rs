//! Accepts connections on a cluster IP and copies bytes to and from the chosen endpoint.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use super::balancer::{Balancer, Lease};
use crate::base::SharedClock;

/// Connections waiting to be accepted.
const BACKLOG: u32 = 1024;
/// Open connections of one port; more wait in the backlog.
const MAX_CONNECTIONS: usize = 4096;
/// Endpoints tried for one connection before it is closed.
const MAX_TRIES: usize = 4;
/// Endpoints are on this machine or near it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The wait after a failed accept (out of file descriptors, most often).
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Each direction's buffer.
const BUFFER_BYTES: usize = 8 << 10;

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

/// Accepts until the task is aborted. Connections live on when the listener goes.
pub async fn accept(listener: TcpListener, balancer: Arc<Balancer>, clock: SharedClock) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (balancer, clock) = (balancer.clone(), clock.clone());
                tokio::spawn(async move {
                    if let Err(error) = carry(stream, peer, &balancer, &clock).await {
                        tracing::debug!(%peer, %error, "a proxied connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn carry(
    mut client: TcpStream,
    peer: SocketAddr,
    balancer: &Balancer,
    clock: &SharedClock,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (mut endpoint, _lease) = connect(peer, balancer, clock).await?;
    endpoint.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER_BYTES, BUFFER_BYTES)
        .await
        .map(|_| ())
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
