//! `wasi:sockets/ip-name-lookup` for pods: names of the cluster come from its watch cache, names
//! outside only for allowed hosts.
//!
//! The whole interface is ours, in both generations: wasmtime-wasi's would ask the host's
//! resolver, which knows nothing of services.

use std::net::IpAddr;
use std::sync::Arc;
use std::vec;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use wasmtime::StoreContextMut;
use wasmtime::component::{Accessor, Linker, LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::p3::bindings::sockets::{ip_name_lookup as p3, types as p3_types};

use super::host::HostState;
use super::policy::LookupError;
use super::sockets::{p2_lookup_interface, p3_lookup_interface};

/// Replaces both generations' interface.
///
/// # Errors
/// When wasmtime refuses a definition, which a test would have shown.
pub fn shadow(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    shadow_p2(&mut linker.instance(&p2_lookup_interface())?)?;
    shadow_p3(&mut linker.instance(&p3_lookup_interface())?)
}

type Answer = Result<Vec<IpAddr>, LookupError>;

/// A look-up under way, and then its addresses one by one.
struct AddressStream {
    answer: Shared<BoxFuture<'static, Answer>>,
    rest: Option<vec::IntoIter<IpAddr>>,
}

#[async_trait]
impl Pollable for AddressStream {
    async fn ready(&mut self) {
        let _ = self.answer.clone().await;
    }
}

impl AddressStream {
    fn next(&mut self) -> Result<Option<IpAddr>, ErrorCode> {
        if self.rest.is_none() {
            let answer = self.answer.clone().now_or_never().ok_or(ErrorCode::WouldBlock)?;
            self.rest = Some(answer.map_err(p2_error)?.into_iter());
        }
        Ok(self.rest.as_mut().and_then(Iterator::next))
    }
}

fn p2_error(error: LookupError) -> ErrorCode {
    match error {
        LookupError::Denied => ErrorCode::AccessDenied,
        LookupError::Invalid => ErrorCode::InvalidArgument,
        LookupError::NotFound => ErrorCode::NameUnresolvable,
    }
}

fn p3_error(error: LookupError) -> p3::ErrorCode {
    match error {
        LookupError::Denied => p3::ErrorCode::AccessDenied,
        LookupError::Invalid => p3::ErrorCode::InvalidArgument,
        LookupError::NotFound => p3::ErrorCode::NameUnresolvable,
    }
}

fn shadow_p2(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.resource(
        "resolve-address-stream",
        ResourceType::host::<AddressStream>(),
        |mut store: StoreContextMut<'_, HostState>, rep| {
            store.data_mut().ctx().table.delete(Resource::<AddressStream>::new_own(rep))?;
            Ok(())
        },
    )?;
    instance.func_wrap(
        "resolve-addresses",
        |mut store: StoreContextMut<'_, HostState>,
         (network, name): (Resource<Network>, String)| {
            let state = store.data_mut();
            state.ctx().table.get(&network)?;
            let policy = Arc::clone(&state.network);
            let answer = async move { policy.look_up(&name, None).await }.boxed().shared();
            let stream = AddressStream { answer, rest: None };
            let made: Result<_, ErrorCode> = Ok(state.ctx().table.push(stream)?);
            Ok((made,))
        },
    )?;
    instance.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, HostState>, (this,): (Resource<AddressStream>,)| {
            let next = store.data_mut().ctx().table.get_mut(&this)?.next();
            Ok((next.map(|address| address.map(IpAddress::from)),))
        },
    )?;
    instance.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, HostState>, (this,): (Resource<AddressStream>,)| {
            let pollable: Resource<DynPollable> = subscribe(store.data_mut().ctx().table, this)?;
            Ok((pollable,))
        },
    )
}

fn shadow_p3(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
    instance.func_wrap_concurrent(
        "resolve-addresses",
        |accessor: &Accessor<HostState>, (name,): (String,)| {
            Box::pin(async move {
                let policy = accessor.with(|mut access| Arc::clone(&access.data_mut().network));
                let answer: Answer = policy.look_up(&name, None).await;
                let addresses = answer.map_err(p3_error).map(|addresses| {
                    addresses.into_iter().map(p3_types::IpAddress::from).collect::<Vec<_>>()
                });
                Ok((addresses,))
            })
        },
    )
}
