//! `wasi:sockets` for pods: a guest binds its pod's address and no other, which is also what its
//! loopback means, and what it opens inside the cluster comes from that address.
//!
//! wasmtime-wasi's implementation stays in charge; the functions that take an address are shadowed
//! in the linker, change the address and delegate. Connects, sends and binds are also checked
//! there, by [`is_allowed`], after everything a guest could do to an address.

use std::net::SocketAddr;

use futures::FutureExt;
use wasmtime::StoreContextMut;
use wasmtime::component::{Accessor, Linker, LinkerInstance, Resource};
use wasmtime_wasi::p2::bindings::sockets::network::{IpSocketAddress, Network};
use wasmtime_wasi::p2::bindings::sockets::tcp::HostTcpSocket;
use wasmtime_wasi::p2::bindings::sockets::udp::{
    HostOutgoingDatagramStream, HostUdpSocket, OutgoingDatagram, OutgoingDatagramStream,
};
use wasmtime_wasi::p3::bindings::sockets::types as p3;
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSockets, WasiSocketsView};
use wasmtime_wasi::{TrappableError, p2};

use super::host::HostState;
use super::policy::NetworkPolicy;

/// The version under which wasmtime-wasi defines its interfaces of WASI 0.2.
pub const P2_VERSION: &str = "0.2.12";
/// The same of WASI 0.3.
pub const P3_VERSION: &str = "0.3.0";

/// Whether a guest may use a socket address so: wasmtime-wasi asks before every system call.
pub fn is_allowed(network: &NetworkPolicy, address: SocketAddr, reason: SocketAddrUse) -> bool {
    match reason {
        SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => network.may_bind(address),
        SocketAddrUse::TcpListen => address.ip() == network.pod_ip,
        SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend => network.let_connect(address),
        // Who may reach a pod is decided before it is reached; how many is `socket_count`'s.
        SocketAddrUse::TcpAccept | SocketAddrUse::UdpReceive => true,
    }
}

/// Replaces the functions that take an address.
///
/// # Errors
/// When wasmtime refuses a definition, which a test would have shown.
pub fn shadow(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    shadow_p2_tcp(&mut linker.instance(&format!("wasi:sockets/tcp@{P2_VERSION}"))?)?;
    shadow_p2_udp(&mut linker.instance(&format!("wasi:sockets/udp@{P2_VERSION}"))?)?;
    shadow_p3(&mut linker.instance(&format!("wasi:sockets/types@{P3_VERSION}"))?)
}

/// A result of wasmtime-wasi as the component model wants it: its error code is the guest's, a
/// trap is ours.
pub(super) fn settle<T, E>(
    result: Result<T, TrappableError<E>>,
) -> wasmtime::Result<(Result<T, E>,)>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

type P2Params<S> = (Resource<S>, Resource<Network>, IpSocketAddress);

fn shadow_p2_tcp(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "[method]tcp-socket.start-bind",
        |mut store: StoreContextMut<'_, HostState>, params: P2Params<p2::TcpSocket>| {
            Box::new(async move {
                let (socket, network, wanted) = params;
                let address = store.data().network.bind_address(wanted.into());
                let mut host = store.data_mut().sockets();
                settle(HostTcpSocket::start_bind(&mut host, socket, network, address.into()).await)
            })
        },
    )?;
    instance.func_wrap_async(
        "[method]tcp-socket.start-connect",
        |mut store: StoreContextMut<'_, HostState>, params: P2Params<p2::TcpSocket>| {
            Box::new(async move {
                let (socket, network, wanted) = params;
                let remote = store.data().network.remote_address(wanted.into()).into();
                p2_bind_before_connect(&mut store, &socket, &network, remote).await;
                let mut host = store.data_mut().sockets();
                settle(HostTcpSocket::start_connect(&mut host, socket, network, remote))
            })
        },
    )
}

/// Gives an unbound socket the pod's address before it connects inside the cluster, so that the
/// other end sees which pod speaks. Fails silently: the socket is bound already, or the system
/// picks an address and the other end sees a stranger.
async fn p2_bind_before_connect(
    store: &mut StoreContextMut<'_, HostState>,
    socket: &Resource<p2::TcpSocket>,
    network: &Resource<Network>,
    remote: IpSocketAddress,
) {
    let Some(local) = source_address(&store.data().network, remote.into()) else { return };
    let mut host = store.data_mut().sockets();
    let borrowed = Resource::new_borrow(socket.rep());
    let network = Resource::new_borrow(network.rep());
    let bound = HostTcpSocket::start_bind(&mut host, borrowed, network, local.into()).await;
    if bound.is_ok() {
        let _ = HostTcpSocket::finish_bind(&mut host, Resource::new_borrow(socket.rep()));
    }
}

/// The pod's own address for connections inside the cluster; `None`: the system's choice.
fn source_address(network: &NetworkPolicy, remote: SocketAddr) -> Option<SocketAddr> {
    let inside = network.is_cluster(remote.ip()) && remote.is_ipv4() == network.pod_ip.is_ipv4();
    inside.then(|| SocketAddr::new(network.pod_ip, 0))
}

fn shadow_p2_udp(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "[method]udp-socket.start-bind",
        |mut store: StoreContextMut<'_, HostState>, params: P2Params<p2::UdpSocket>| {
            Box::new(async move {
                let (socket, network, wanted) = params;
                let address = store.data().network.bind_address(wanted.into());
                let mut host = store.data_mut().sockets();
                settle(HostUdpSocket::start_bind(&mut host, socket, network, address.into()).await)
            })
        },
    )?;
    instance.func_wrap_async(
        "[method]udp-socket.stream",
        |mut store: StoreContextMut<'_, HostState>,
         (socket, wanted): (Resource<p2::UdpSocket>, Option<IpSocketAddress>)| {
            Box::new(async move {
                let state = store.data_mut();
                let remote = wanted.map(|wanted| state.network.remote_address(wanted.into()));
                let mut host = state.sockets();
                settle(HostUdpSocket::stream(&mut host, socket, remote.map(Into::into)).await)
            })
        },
    )?;
    instance.func_wrap(
        "[method]outgoing-datagram-stream.send",
        |mut store: StoreContextMut<'_, HostState>,
         (stream, mut datagrams): (Resource<OutgoingDatagramStream>, Vec<OutgoingDatagram>)| {
            let state = store.data_mut();
            for remote in datagrams.iter_mut().filter_map(|one| one.remote_address.as_mut()) {
                *remote = state.network.remote_address((*remote).into()).into();
            }
            settle(HostOutgoingDatagramStream::send(&mut state.sockets(), stream, datagrams))
        },
    )
}

type P3SendParams = (Resource<p3::UdpSocket>, Vec<u8>, Option<p3::IpSocketAddress>);

/// As [`p2_bind_before_connect`], for datagrams of WASI 0.3, whose sockets need no bind.
fn p3_bind_before_send(
    state: &mut HostState,
    socket: &Resource<p3::UdpSocket>,
    remote: p3::IpSocketAddress,
) {
    let Some(local) = source_address(&state.network, remote.into()) else { return };
    let again = Resource::new_borrow(socket.rep());
    let mut host = state.sockets();
    // Our check answers at once, so this bind never waits.
    let _ = p3::HostUdpSocket::bind(&mut host, again, local.into()).now_or_never();
}

fn shadow_p3(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "[method]tcp-socket.bind",
        |mut store: StoreContextMut<'_, HostState>,
         (socket, wanted): (Resource<p3::TcpSocket>, p3::IpSocketAddress)| {
            Box::new(async move {
                let address = store.data().network.bind_address(wanted.into());
                let mut host = store.data_mut().sockets();
                settle(p3::HostTcpSocket::bind(&mut host, socket, address.into()).await)
            })
        },
    )?;
    instance.func_wrap_async(
        "[method]udp-socket.bind",
        |mut store: StoreContextMut<'_, HostState>,
         (socket, wanted): (Resource<p3::UdpSocket>, p3::IpSocketAddress)| {
            Box::new(async move {
                let address = store.data().network.bind_address(wanted.into());
                let mut host = store.data_mut().sockets();
                settle(p3::HostUdpSocket::bind(&mut host, socket, address.into()).await)
            })
        },
    )?;
    instance.func_wrap_async(
        "[method]udp-socket.connect",
        |mut store: StoreContextMut<'_, HostState>,
         (socket, wanted): (Resource<p3::UdpSocket>, p3::IpSocketAddress)| {
            Box::new(async move {
                let remote = store.data().network.remote_address(wanted.into()).into();
                p3_bind_before_send(store.data_mut(), &socket, remote);
                let mut host = store.data_mut().sockets();
                settle(p3::HostUdpSocket::connect(&mut host, socket, remote).await)
            })
        },
    )?;
    instance.func_wrap_concurrent(
        "[method]udp-socket.send",
        |accessor: &Accessor<HostState>, params: P3SendParams| {
            Box::pin(async move {
                let (socket, data, wanted) = params;
                let remote = wanted.map(|wanted| {
                    accessor.with(|mut access| {
                        let state = access.data_mut();
                        let remote = state.network.remote_address(wanted.into()).into();
                        p3_bind_before_send(state, &socket, remote);
                        remote
                    })
                });
                let sockets = accessor.with_getter::<WasiSockets>(HostState::sockets);
                let sent = <WasiSockets as p3::HostUdpSocketWithStore<HostState>>::send(
                    &sockets, socket, data, remote,
                );
                settle(sent.await)
            })
        },
    )?;
    instance.func_wrap_concurrent(
        "[method]tcp-socket.connect",
        |accessor: &Accessor<HostState>,
         (socket, wanted): (Resource<p3::TcpSocket>, p3::IpSocketAddress)| {
            Box::pin(async move {
                let remote = accessor.with(|mut access| {
                    let state = access.data_mut();
                    let remote = state.network.remote_address(wanted.into());
                    if let Some(local) = source_address(&state.network, remote) {
                        // Our check answers at once, so this bind never waits.
                        let again = Resource::new_borrow(socket.rep());
                        let mut host = state.sockets();
                        let bound = p3::HostTcpSocket::bind(&mut host, again, local.into());
                        let _ = bound.now_or_never();
                    }
                    remote.into()
                });
                let sockets = accessor.with_getter::<WasiSockets>(HostState::sockets);
                let connected = <WasiSockets as p3::HostTcpSocketWithStore<HostState>>::connect(
                    &sockets, socket, remote,
                );
                settle(connected.await)
            })
        },
    )
}

/// The interface under which a name of WASI 0.2 sockets is defined.
pub(super) fn p2_lookup_interface() -> String {
    format!("wasi:sockets/ip-name-lookup@{P2_VERSION}")
}

pub(super) fn p3_lookup_interface() -> String {
    format!("wasi:sockets/ip-name-lookup@{P3_VERSION}")
}
