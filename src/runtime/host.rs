//! What stands behind a guest's imports: the data of its store, and the linkers.
//!
//! One struct holds every WASI context of a component ([`HostState`]); preview 1 modules have a
//! twin of their own ([`ModuleState`]), because wasmtime-wasi keeps their files in another table.
//! Linkers are made once for a process; a store is made for each instance.

use std::sync::Arc;

use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::limits::{MAX_HANDLES, MAX_HTTP_FIELDS_BYTES, MAX_RANDOM_BYTES, bound, bound_waiting};
use super::memory::{MemoryAccount, StoreLimits};
use super::outgoing::OutgoingHttp;
use super::policy::NetworkPolicy;
use super::stdio::LogWriter;
use super::{ContainerSpec, LogStream, StartError};
use crate::engine::interfaces::PREVIEW1_MODULE;

/// What every instance of one container shares.
pub struct Sandbox {
    pub spec: ContainerSpec,
    pub memory: Arc<MemoryAccount>,
    pub network: Arc<NetworkPolicy>,
    pub stdout: LogWriter,
    pub stderr: LogWriter,
    pub outgoing: OutgoingHttp,
}

impl Sandbox {
    pub fn new(spec: ContainerSpec, tls: super::outgoing::Tls) -> Self {
        let network = Arc::new(NetworkPolicy::new(
            spec.pod_ip,
            spec.namespace.clone(),
            spec.names.clone(),
            &spec.allowed_hosts,
        ));
        Self {
            memory: Arc::new(MemoryAccount::new(spec.memory_limit_bytes)),
            stdout: LogWriter::new(spec.logs.clone(), LogStream::Stdout),
            stderr: LogWriter::new(spec.logs.clone(), LogStream::Stderr),
            outgoing: OutgoingHttp::new(network.clone(), tls),
            network,
            spec,
        }
    }

    /// The arguments, environment, files, streams and network of one instance.
    ///
    /// # Errors
    /// When a mount's directory cannot be opened.
    fn wasi(&self) -> Result<WasiCtxBuilder, StartError> {
        let mut builder = WasiCtxBuilder::new();
        builder
            .args(&self.spec.args)
            .envs(&self.spec.env)
            .stdout(self.stdout.clone())
            .stderr(self.stderr.clone())
            .max_random_size(MAX_RANDOM_BYTES)
            .allow_tcp(true)
            .allow_udp(true);
        for mount in &self.spec.mounts {
            let perms = if mount.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
            builder.preopened_dir(&mount.host_path, &mount.guest_path, perms).map_err(|error| {
                StartError::Container(format!("cannot mount {}: {error:#}", mount.guest_path))
            })?;
        }
        let network = self.network.clone();
        builder.socket_addr_check(move |address, reason| {
            let allowed = super::sockets::is_allowed(&network, address, reason);
            Box::pin(std::future::ready(allowed))
        });
        Ok(builder)
    }

    /// A store for the only instance of a component.
    ///
    /// # Errors
    /// When a mount's directory cannot be opened.
    pub fn store(&self, engine: &Engine) -> Result<Store<HostState>, StartError> {
        let state = self.state(StoreLimits::new(self.memory.clone()))?;
        let mut store = Store::new(engine, state);
        bound(&mut store, |state| &mut state.limits);
        Ok(store)
    }

    /// A store for one of many instances; [`MemoryAccount::admit`] gives the limits.
    ///
    /// # Errors
    /// When a mount's directory cannot be opened.
    pub fn admitted_store(
        &self,
        engine: &Engine,
        limits: StoreLimits,
    ) -> Result<Store<HostState>, StartError> {
        let mut store = Store::new(engine, self.state(limits)?);
        bound_waiting(&mut store, |state| &mut state.limits);
        Ok(store)
    }

    fn state(&self, limits: StoreLimits) -> Result<HostState, StartError> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_HTTP_FIELDS_BYTES);
        Ok(HostState {
            wasi: self.wasi()?.build(),
            table,
            http,
            outgoing: self.outgoing.clone(),
            network: self.network.clone(),
            limits,
        })
    }

    /// A store for a preview 1 module.
    ///
    /// # Errors
    /// When a mount's directory cannot be opened.
    pub fn module_store(&self, engine: &Engine) -> Result<Store<ModuleState>, StartError> {
        let state = ModuleState {
            wasi: self.wasi()?.build_p1(),
            limits: StoreLimits::new(self.memory.clone()),
        };
        let mut store = Store::new(engine, state);
        bound(&mut store, |state| &mut state.limits);
        Ok(store)
    }
}

/// The data of a component's store.
pub struct HostState {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    outgoing: OutgoingHttp,
    pub(super) network: Arc<NetworkPolicy>,
    limits: StoreLimits,
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for HostState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}

/// The data of a preview 1 module's store.
pub struct ModuleState {
    wasi: WasiP1Ctx,
    limits: StoreLimits,
}

/// The linkers of one engine.
pub struct Linkers {
    pub components: Linker<HostState>,
    pub modules: wasmtime::Linker<ModuleState>,
}

impl Linkers {
    /// # Errors
    /// When wasmtime refuses a definition, which a test would have shown.
    pub fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let mut components = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut components)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut components)?;
        wasmtime_wasi::p3::add_to_linker(&mut components)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut components)?;
        components.allow_shadowing(true);
        super::sockets::shadow(&mut components)?;
        super::lookup::shadow(&mut components)?;

        let mut modules = wasmtime::Linker::new(engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut modules, |state: &mut ModuleState| {
            &mut state.wasi
        })?;
        // wasmtime-wasi refuses codes from 126; a process may end with any of 0 to 255.
        modules.allow_shadowing(true);
        modules.func_wrap(PREVIEW1_MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> {
            Err(I32Exit(code).into())
        })?;
        Ok(Self { components, modules })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use wasmtime::component::Component;

    use super::*;
    use crate::engine::interfaces::{PACKAGES, PREVIEW1_FUNCTIONS};

    #[test]
    fn everything_that_is_said_to_be_provided_is() {
        let engine = crate::engine::new_engine().expect("an engine");
        let linkers = Linkers::new(&engine).expect("linkers");
        let mut text = String::from("(component ");
        for package in PACKAGES {
            for interface in package.interfaces {
                let (name, track) = (package.name, package.track);
                write!(text, "(import \"{name}/{interface}@{track}.0\" (instance)) ")
                    .expect("writes");
            }
        }
        text.push(')');
        let wasm = wat::parse_str(text).expect("a component");
        let component = Component::new(&engine, wasm).expect("compiles");
        linkers.components.instantiate_pre(&component).map(|_| ()).expect("all are there");

        let state = ModuleState {
            wasi: WasiCtxBuilder::new().build_p1(),
            limits: StoreLimits::new(Arc::new(MemoryAccount::new(0))),
        };
        let mut store = Store::new(&engine, state);
        let mut provided: Vec<String> = linkers
            .modules
            .iter(&mut store)
            .map(|(module, name, _)| {
                assert_eq!(module, PREVIEW1_MODULE);
                name.to_owned()
            })
            .collect();
        provided.sort();
        assert_eq!(provided, PREVIEW1_FUNCTIONS, "the table and the linker differ");
    }
}
