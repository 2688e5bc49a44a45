//! What stands behind a guest's imports: the data of its store, and the linkers.
//!
//! One struct holds every WASI context of a component ([`HostState`]); preview 1 modules have a
//! twin of their own ([`ModuleState`]), because wasmtime-wasi keeps their files in another table.
//! Linkers are made once for a process; a store is made for each instance.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::sync::watch;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::denials::Denials;
use super::held_fields::Fields;
use super::input::GuestInput;
use super::limits::{
    MAX_HTTP_FIELDS_BYTES, MAX_RANDOM_BYTES, MAX_REQUEST_HANDLES, bound, bound_waiting, max_handles,
};
use super::memory::MemoryAccount;
use super::outgoing::{OutgoingHttp, Tls};
use super::policy::{IpRange, NetworkPolicy};
use super::profile::Profiling;
use super::signals::Signals;
use super::socket_count::{SocketAccount, StoreSockets};
use super::stdio::LogWriter;
use super::store_memory::{Buffer, Share, StoreLimits};
use super::workload::Workload;
use super::{ContainerSpec, ExecSpec, LogStream, Mount, StartError};
use crate::artifact::preview1;
use crate::base::beneath;

/// What every instance of one container shares.
pub struct Sandbox {
    pub spec: ContainerSpec,
    pub memory: Arc<MemoryAccount>,
    pub network: Arc<NetworkPolicy>,
    pub stdout: LogWriter,
    pub stderr: LogWriter,
    pub outgoing: OutgoingHttp,
    /// Turns true when the container is killed or ended: what runs beside it ends, too.
    pub ended: watch::Sender<bool>,
    /// The profile that is being made of its guests.
    pub profiling: Arc<Profiling>,
    pub signals: Arc<Signals>,
    /// The mounts, opened once: what a guest puts in their places later is never opened.
    files: WasiFilesystemCtx,
    sockets: Arc<SocketAccount>,
}

impl Sandbox {
    /// `cluster`: the addresses of the cluster's pods and Services.
    ///
    /// # Errors
    /// When a mount's directory cannot be opened.
    pub fn new(spec: ContainerSpec, tls: Tls, cluster: Arc<[IpRange]>) -> Result<Self, StartError> {
        let network = NetworkPolicy::new(
            spec.pod_ip,
            cluster,
            spec.namespace.clone(),
            spec.names.clone(),
            &spec.allowed_hosts,
        );
        let network = Arc::new(network.telling(Denials::to(spec.workload.platform.clone())));
        let sockets = SocketAccount::of_process();
        Ok(Self {
            files: open_mounts(&spec.mounts)?,
            memory: Arc::new(MemoryAccount::new(spec.memory_limit_bytes)),
            stdout: LogWriter::new(spec.logs.clone(), LogStream::Stdout, spec.tty),
            stderr: LogWriter::new(spec.logs.clone(), LogStream::Stderr, spec.tty),
            ended: watch::Sender::new(false),
            profiling: Arc::default(),
            signals: Arc::default(),
            outgoing: OutgoingHttp::new(network.clone(), tls, sockets.clone()),
            sockets,
            network,
            spec,
        })
    }

    /// The same sandbox for one more run of the program: only its arguments and streams differ.
    pub fn beside(&self, exec: ExecSpec) -> Self {
        let ExecSpec { id, args, logs, stdin, tty } = exec;
        Self {
            memory: self.memory.clone(),
            network: self.network.clone(),
            stdout: LogWriter::new(logs.clone(), LogStream::Stdout, tty),
            stderr: LogWriter::new(logs.clone(), LogStream::Stderr, tty),
            ended: self.ended.clone(),
            profiling: self.profiling.clone(),
            signals: self.signals.clone(),
            outgoing: self.outgoing.clone(),
            files: self.files.clone(),
            sockets: self.sockets.clone(),
            spec: ContainerSpec { id, args, logs, stdin, tty, ..self.spec.clone() },
        }
    }

    /// The arguments, environment, streams and network of one instance; its files are put in when
    /// it is built.
    fn wasi(&self, open_sockets: &Arc<StoreSockets>) -> WasiCtxBuilder {
        let mut builder = WasiCtxBuilder::new();
        builder
            .args(&self.spec.args)
            .envs(&self.spec.env)
            .stdout(self.stdout.clone())
            .stderr(self.stderr.clone())
            .max_random_size(MAX_RANDOM_BYTES)
            .allow_tcp(true)
            .allow_udp(true);
        if let Some(input) = &self.spec.stdin {
            builder.stdin(GuestInput { input: input.clone(), tty: self.spec.tty });
        }
        let (network, open_sockets) = (self.network.clone(), open_sockets.clone());
        builder.socket_addr_check(move |address, reason| {
            let allowed = match reason {
                // One more for the container, and nobody asks again before the guest has it.
                SocketAddrUse::TcpAccept => open_sockets.take(),
                _ => super::sockets::is_allowed(&network, address, reason),
            };
            Box::pin(std::future::ready(allowed))
        });
        builder
    }

    fn limits(&self) -> Result<StoreLimits, StartError> {
        StoreLimits::begin(self.memory.clone())
            .map_err(|error| StartError::Container(error.to_string()))
    }

    /// A store for the only instance of a component.
    ///
    /// # Errors
    /// When the container has not even the memory for an instance.
    pub fn store(&self, engine: &Engine) -> Result<Store<HostState>, StartError> {
        let state = self.state(self.limits()?, max_handles());
        let mut store = Store::new(engine, state);
        bound(&mut store, &self.profiling, |state| &mut state.limits);
        Ok(store)
    }

    /// A store for one of many instances; [`MemoryAccount::admit`] gives the limits.
    pub fn admitted_store(&self, engine: &Engine, limits: StoreLimits) -> Store<HostState> {
        let mut store = Store::new(engine, self.state(limits, MAX_REQUEST_HANDLES));
        bound_waiting(&mut store, &self.profiling, |state| &mut state.limits);
        store
    }

    fn state(&self, limits: StoreLimits, max_handles: usize) -> HostState {
        let mut table = ResourceTable::new();
        table.set_max_capacity(max_handles);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_HTTP_FIELDS_BYTES);
        let open_sockets = StoreSockets::new(self.sockets.clone());
        let mut wasi = self.wasi(&open_sockets).build();
        wasi.filesystem().clone_from(&self.files);
        HostState {
            wasi,
            table,
            http,
            fields: Fields::new(Buffer::none(limits.share())),
            outgoing: self.outgoing.of_store(limits.share()),
            network: self.network.clone(),
            open_sockets,
            workload: self.spec.workload.clone(),
            signals: self.signals.clone(),
            limits,
        }
    }

    /// A store for a preview 1 module.
    ///
    /// # Errors
    /// When the container has not even the memory for an instance.
    pub fn module_store(&self, engine: &Engine) -> Result<Store<ModuleState>, StartError> {
        let limits = self.limits()?;
        let open_sockets = StoreSockets::new(self.sockets.clone());
        let mut wasi = self.wasi(&open_sockets).build_p1();
        let view = wasi.ctx();
        view.table.set_max_capacity(max_handles());
        view.ctx.filesystem().clone_from(&self.files);
        let mut store = Store::new(engine, ModuleState { wasi, limits });
        bound(&mut store, &self.profiling, |state| &mut state.limits);
        Ok(store)
    }
}

/// Opens every mount's directory. The handles live as long as the container.
fn open_mounts(mounts: &[Mount]) -> Result<WasiFilesystemCtx, StartError> {
    let mut builder = WasiCtxBuilder::new();
    for mount in mounts {
        let failed =
            |error: &dyn std::fmt::Display| format!("cannot mount {}: {error}", mount.guest_path);
        let opened = beneath::root(&mount.host_path)
            .and_then(|root| beneath::find(root.as_fd(), &mount.sub_path));
        let directory = opened.map_err(|error| start_error(failed(&error), &error))?;
        let perms = if mount.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        // wasmtime-wasi takes paths only; this one is the handle's own.
        builder
            .preopened_dir(beneath::path_of(directory.as_fd()), &mount.guest_path, perms)
            .map_err(|error| StartError::Container(failed(&format_args!("{error:#}"))))?;
    }
    Ok(builder.build().filesystem().clone())
}

/// A start's failure: the pod's own, unless the process is out of something.
pub(super) fn start_error(message: String, error: &io::Error) -> StartError {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
            StartError::Internal(message)
        }
        _ => StartError::Container(message),
    }
}

/// The data of a component's store.
pub struct HostState {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    fields: Fields,
    outgoing: OutgoingHttp,
    pub(super) network: Arc<NetworkPolicy>,
    pub(super) open_sockets: Arc<StoreSockets>,
    pub(super) workload: Arc<Workload>,
    pub(super) signals: Arc<Signals>,
    limits: StoreLimits,
}

impl HostState {
    /// Where the host's buffers for the guest are counted.
    pub(super) fn share(&self) -> &Arc<Share> {
        self.limits.share()
    }

    /// The count of its fields, and the table that they are in.
    pub(super) fn fields(&mut self) -> (&mut Fields, &mut ResourceTable) {
        (&mut self.fields, &mut self.table)
    }
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
        super::workload_host::add_to_linker(&mut components)?;
        components.allow_shadowing(true);
        super::sockets::shadow(&mut components)?;
        super::socket_count::shadow(&mut components)?;
        super::held_streams::shadow(&mut components)?;
        super::held_fields::shadow(&mut components)?;
        super::listings::shadow(&mut components)?;
        super::lookup::shadow(&mut components)?;

        let mut modules = wasmtime::Linker::new(engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut modules, |state: &mut ModuleState| {
            &mut state.wasi
        })?;
        // wasmtime-wasi refuses codes from 126; a process may end with any of 0 to 255.
        modules.allow_shadowing(true);
        modules.func_wrap(preview1::MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> {
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
    use crate::artifact::interfaces::PACKAGES;

    fn list(types: impl IntoIterator<Item = impl ToString>) -> String {
        types.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn everything_that_is_said_to_be_provided_is() {
        let engine = crate::engine::new_engine().expect("an engine");
        let linkers = Linkers::new(&engine).expect("linkers");
        let mut text = String::from("(component ");
        for package in PACKAGES {
            for interface in package.interfaces {
                let version = package.versions().replace(".x", ".0");
                let name = package.name;
                write!(text, "(import \"{name}/{interface}@{version}\" (instance)) ")
                    .expect("writes");
            }
        }
        text.push(')');
        let wasm = wat::parse_str(text).expect("a component");
        let component = Component::new(&engine, wasm).expect("compiles");
        linkers.components.instantiate_pre(&component).map(|_| ()).expect("all are there");

        let state = ModuleState {
            wasi: WasiCtxBuilder::new().build_p1(),
            limits: StoreLimits::begin(MemoryAccount::new(u64::MAX).into()).expect("fits"),
        };
        let mut store = Store::new(&engine, state);
        let found = linkers.modules.iter(&mut store).map(|(module, name, item)| {
            assert_eq!(module, preview1::MODULE);
            (name.to_owned(), item.into_func().expect("a function"))
        });
        let found: Vec<_> = found.collect();
        let mut provided: Vec<String> = found
            .iter()
            .map(|(name, function)| {
                let found = function.ty(&store);
                format!("{name}({}) {}", list(found.params()), list(found.results()))
            })
            .collect();
        provided.sort();
        let said = preview1::FUNCTIONS.iter().map(|function| {
            let said = function.func_type();
            format!("{}({}) {}", function.name, list(said.params()), list(said.results()))
        });
        assert_eq!(provided, said.collect::<Vec<_>>(), "the table and the linker differ");
    }

    struct NoCode;
    impl super::super::Prepared for NoCode {
        fn kind(&self) -> super::super::ArtifactKind {
            super::super::ArtifactKind::Preview1Command
        }

        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    #[derive(Default)]
    struct Nowhere;
    impl super::super::LogSink for Nowhere {
        fn write(&self, _: LogStream, _: &[u8]) {}
    }
    impl super::super::Names for Nowhere {
        fn resolve(&self, _: &str, _: &str) -> Option<Vec<std::net::IpAddr>> {
            None
        }
    }

    fn spec(mount: Mount, arg: &str) -> ContainerSpec {
        ContainerSpec {
            id: "c".to_owned(),
            namespace: "default".to_owned(),
            pod_name: "pod".to_owned(),
            pod_uid: "uid".to_owned(),
            container_name: "main".to_owned(),
            artifact: Arc::new(NoCode),
            args: vec!["guest".to_owned(), arg.to_owned()],
            env: Vec::new(),
            mounts: vec![mount],
            pod_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            http_ports: vec![0],
            requests_per_instance: 1,
            memory_limit_bytes: 64 << 20,
            cpu_limit_millicores: None,
            cpu_request_millicores: None,
            logs: Arc::new(Nowhere),
            stdin: None,
            tty: false,
            names: Arc::new(Nowhere),
            allowed_hosts: Vec::new(),
            core_dumps: None,
            workload: Arc::default(),
        }
    }

    /// What a guest puts in a mount's place while its container runs is not what the container's
    /// next instance gets: each request to an HTTP handler has an instance of its own.
    #[tokio::test]
    async fn a_mount_that_was_replaced_by_a_link_leads_nowhere_new() {
        let directory = tempfile::tempdir().expect("a directory");
        let (volume, outside) = (directory.path().join("v"), directory.path().join("outside"));
        std::fs::create_dir_all(volume.join("d")).expect("made");
        std::fs::create_dir(&outside).expect("made");
        let engine = crate::engine::new_engine().expect("an engine");
        let linkers = Linkers::new(&engine).expect("linkers");
        let wasm = include_bytes!("../../examples/guests/built/rust-cmd-p1.wasm");
        let module = wasmtime::Module::new(&engine, wasm).expect("compiles");
        let pre = linkers.modules.instantiate_pre(&module).expect("links");
        let mount = Mount {
            host_path: volume.clone(),
            sub_path: "d".into(),
            guest_path: "/d".to_owned(),
            read_only: false,
        };
        let sandbox = |arg| Sandbox::new(spec(mount.clone(), arg), Tls::default(), [].into());
        let opened = Arc::new(sandbox("write=/d/new").expect("opens"));
        std::fs::rename(volume.join("d"), volume.join("old")).expect("moves");
        std::os::unix::fs::symlink("../outside", volume.join("d")).expect("links");
        for _ in 0..2 {
            let command = super::super::command::Command::Preview1(pre.clone());
            let code = command.start(&engine, &opened).expect("starts").await.expect("runs");
            assert_eq!(code, 0);
        }
        assert!(!outside.join("new").exists(), "it wrote outside of its volume");
        assert!(volume.join("old/new").exists());
        let Err(error) = sandbox("write=/d/new") else { panic!("a link out of the volume opens") };
        assert!(matches!(&error, StartError::Container(text) if text.contains("/d")), "{error}");
    }
}
