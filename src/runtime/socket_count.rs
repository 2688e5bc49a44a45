//! How many sockets a container has open, over all of its instances: file descriptors are the
//! whole process's, and one guest must not take them all.
//!
//! A socket is counted when a guest makes one, when one is accepted for it, and while an outgoing
//! HTTP request has its connection. It is given back when the guest drops the socket, at the latest
//! with the instance. wasmtime-wasi makes and drops sockets; the functions by which it does are
//! shadowed in the linker. Files need no count of their own: each takes a handle, and handles are
//! bounded ([`super::limits::max_handles`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::p2;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::{tcp, tcp_create_socket, udp, udp_create_socket};
use wasmtime_wasi::p3::bindings::sockets::types as p3;
use wasmtime_wasi::sockets::WasiSocketsView;

use super::host::HostState;
use super::limits::descriptors;
use super::sockets::{P2_VERSION, P3_VERSION, settle};

/// Sockets of one container, at most.
const MAX_SOCKETS: usize = 1024;
/// And at most this part of the process's file descriptors.
const PART_OF_DESCRIPTORS: usize = 8;

/// The sockets of one container.
pub struct SocketAccount {
    most: usize,
    open: AtomicUsize,
}

impl SocketAccount {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: AtomicUsize::new(0) })
    }

    /// An account of what this process has room for.
    pub fn of_process() -> Arc<Self> {
        Self::new((descriptors() / PART_OF_DESCRIPTORS).clamp(1, MAX_SOCKETS))
    }

    fn take(&self) -> bool {
        let more = |open: usize| (open < self.most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, count: usize) {
        self.open.fetch_sub(count, Ordering::Relaxed);
    }

    /// A socket of the host's, for a guest; counted until the permit is dropped.
    pub fn permit(self: &Arc<Self>) -> Option<SocketPermit> {
        self.take().then(|| SocketPermit(self.clone()))
    }
}

/// One counted socket.
pub struct SocketPermit(Arc<SocketAccount>);

impl Drop for SocketPermit {
    fn drop(&mut self) {
        self.0.give_back(1);
    }
}

/// The sockets of one store; gives back what it held when the last of them is gone.
pub struct StoreSockets {
    account: Arc<SocketAccount>,
    held: AtomicUsize,
}

impl StoreSockets {
    pub fn new(account: Arc<SocketAccount>) -> Arc<Self> {
        Arc::new(Self { account, held: AtomicUsize::new(0) })
    }

    /// Counts one more; false: the container has as many as it may.
    pub fn take(&self) -> bool {
        let taken = self.account.take();
        if taken {
            self.held.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    fn give_back(&self) {
        // An accept that failed is a socket that was never counted: not below nothing.
        let less = |held: usize| held.checked_sub(1);
        if self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            self.account.give_back(1);
        }
    }
}

impl Drop for StoreSockets {
    fn drop(&mut self) {
        self.account.give_back(*self.held.get_mut());
    }
}

/// Replaces the functions that make and drop sockets, in both generations.
///
/// # Errors
/// When wasmtime refuses a definition, which a test would have shown.
pub fn shadow(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    let p2 = |interface: &str| format!("wasi:sockets/{interface}@{P2_VERSION}");
    make_p2_tcp(&mut linker.instance(&p2("tcp-create-socket"))?)?;
    make_p2_udp(&mut linker.instance(&p2("udp-create-socket"))?)?;
    drops::<p2::TcpSocket>(&mut linker.instance(&p2("tcp"))?, "tcp-socket", |state, socket| {
        tcp::HostTcpSocket::drop(&mut state.sockets(), socket)
    })?;
    drops::<p2::UdpSocket>(&mut linker.instance(&p2("udp"))?, "udp-socket", |state, socket| {
        udp::HostUdpSocket::drop(&mut state.sockets(), socket)
    })?;
    let mut types = linker.instance(&format!("wasi:sockets/types@{P3_VERSION}"))?;
    make_p3(&mut types)?;
    drops::<p3::TcpSocket>(&mut types, "tcp-socket", |state, socket| {
        p3::HostTcpSocket::drop(&mut state.sockets(), socket)
    })?;
    drops::<p3::UdpSocket>(&mut types, "udp-socket", |state, socket| {
        p3::HostUdpSocket::drop(&mut state.sockets(), socket)
    })
}

fn drops<S: 'static>(
    instance: &mut LinkerInstance<'_, HostState>,
    name: &str,
    drop_socket: fn(&mut HostState, Resource<S>) -> wasmtime::Result<()>,
) -> wasmtime::Result<()> {
    let destructor = move |mut store: StoreContextMut<'_, HostState>, rep| {
        let state = store.data_mut();
        drop_socket(state, Resource::new_own(rep))?;
        state.open_sockets.give_back();
        Ok(())
    };
    instance.resource(name, ResourceType::host::<S>(), destructor)
}

fn make_p2_tcp(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "create-tcp-socket",
        |mut store: StoreContextMut<'_, HostState>, (family,): (IpAddressFamily,)| {
            let state = store.data_mut();
            if !state.open_sockets.take() {
                return Ok((Err(ErrorCode::NewSocketLimit),));
            }
            let made = tcp_create_socket::Host::create_tcp_socket(&mut state.sockets(), family);
            if made.is_err() {
                state.open_sockets.give_back();
            }
            settle(made)
        },
    )
}

fn make_p2_udp(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.func_wrap_async(
        "create-udp-socket",
        |mut store: StoreContextMut<'_, HostState>, (family,): (IpAddressFamily,)| {
            Box::new(async move {
                let state = store.data_mut();
                if !state.open_sockets.take() {
                    return Ok((Err(ErrorCode::NewSocketLimit),));
                }
                let made =
                    udp_create_socket::Host::create_udp_socket(&mut state.sockets(), family).await;
                if made.is_err() {
                    state.open_sockets.give_back();
                }
                settle(made)
            })
        },
    )
}

fn make_p3(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.func_wrap(
        "[static]tcp-socket.create",
        |mut store: StoreContextMut<'_, HostState>, (family,): (p3::IpAddressFamily,)| {
            let state = store.data_mut();
            if !state.open_sockets.take() {
                return Ok((Err(p3_limit()),));
            }
            let made = p3::HostTcpSocket::create(&mut state.sockets(), family);
            if made.is_err() {
                state.open_sockets.give_back();
            }
            settle(made)
        },
    )?;
    instance.func_wrap_async(
        "[static]udp-socket.create",
        |mut store: StoreContextMut<'_, HostState>, (family,): (p3::IpAddressFamily,)| {
            Box::new(async move {
                let state = store.data_mut();
                if !state.open_sockets.take() {
                    return Ok((Err(p3_limit()),));
                }
                let made = p3::HostUdpSocket::create(&mut state.sockets(), family).await;
                if made.is_err() {
                    state.open_sockets.give_back();
                }
                settle(made)
            })
        },
    )
}

/// WASI 0.3 has no code for it; this one is what `ENOBUFS` becomes.
fn p3_limit() -> p3::ErrorCode {
    p3::ErrorCode::OutOfMemory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_counted_over_stores_and_given_back() {
        let account = SocketAccount::new(3);
        let (one, two) = (StoreSockets::new(account.clone()), StoreSockets::new(account.clone()));
        assert!(one.take() && one.take() && two.take());
        assert!(!two.take() && account.permit().is_none());
        one.give_back();
        let permit = account.permit().expect("one is free");
        assert!(!two.take());
        drop((one, permit));
        assert!(two.take() && two.take() && !two.take());
        for _ in 0..9 {
            two.give_back();
        }
        drop(two);
        assert_eq!(account.open.load(Ordering::Relaxed), 0);
        assert!(SocketAccount::of_process().most >= 1);
    }
}
