//! The sockets that an HTTP handler listens on: one for each TCP port that its container declares.
//! What comes in is told apart by nobody: all of it goes to the same guests.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Ports that one handler is served on, at most: each takes a file descriptor for as long as the
/// container runs.
pub const MAX_HTTP_PORTS: usize = 16;
/// Connections the kernel queues for each of them.
const BACKLOG: u32 = 1024;

/// The listening sockets of one container.
pub struct Listeners {
    all: Vec<TcpListener>,
    /// Who is asked first the next time, so that none keeps the others waiting.
    first: AtomicUsize,
}

impl Listeners {
    /// # Errors
    /// The first address that cannot be listened on, and why.
    pub fn bind(ip: IpAddr, ports: &[u16]) -> Result<Self, (SocketAddr, io::Error)> {
        let addresses = ports.iter().map(|port| SocketAddr::new(ip, *port));
        let all = addresses.map(|address| listen(address).map_err(|error| (address, error)));
        Ok(Self { all: all.collect::<Result<_, _>>()?, first: AtomicUsize::new(0) })
    }

    /// The next connection to any of them.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let (first, count) = (self.first.load(Ordering::Relaxed), self.all.len());
        for at in (0..count).map(|next| (first + next) % count) {
            if let Poll::Ready(accepted) = self.all[at].poll_accept(cx) {
                self.first.store(at + 1, Ordering::Relaxed);
                return Poll::Ready(accepted.map(|(stream, _)| stream));
            }
        }
        Poll::Pending
    }

    /// Closes them, and gives away what waits in the kernel's queues, which would be reset. The
    /// queues bound its number.
    ///
    /// # Errors
    /// When something of it may have been lost.
    pub fn take_queued(self, mut take: impl FnMut(TcpStream)) -> io::Result<()> {
        let drained = self.all.into_iter().map(|listener| drain(listener, &mut take));
        drained.fold(Ok(()), io::Result::and)
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted container must not wait for its old connections to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn drain(listener: TcpListener, take: &mut impl FnMut(TcpStream)) -> io::Result<()> {
    let listener = listener.into_std()?;
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        take(TcpStream::from_std(stream)?);
    }
}
