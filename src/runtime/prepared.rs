//! Compiled code, loaded and linked once: what a container starts from.
//!
//! It turns trusted native code into pre-instances, one kind for each way to run. Where the code
//! comes from (cache or compiler) is the runtime's affair.

use std::any::Any;
use std::time::Duration;

use wasmtime::component::Component;
use wasmtime::{Engine, GuestProfiler, Module, Precompiled};
use wasmtime_wasi::p2::bindings::CommandPre as P2CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as P3CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre as P2ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre as P3ServicePre;

use super::command::Command;
use super::host::{HostState, Linkers};
use super::pool::Pool;
use super::{ArtifactKind, PrepareError, Prepared};
use crate::artifact::inspect::{WasiVersion, entry_of};
use crate::artifact::interfaces::grant_of;
use crate::engine::supply::Native;

/// Code of one artifact, ready to be instantiated.
pub struct PreparedCode {
    pub(super) code: Code,
    /// What it can be run as beside serving, where a handler exports a command, too.
    pub(super) command: Option<Command>,
    /// See [`Prepared::special_imports`].
    special_imports: Vec<String>,
    /// Length of the native code, in bytes: what keeping it in memory costs.
    pub(super) size_bytes: usize,
}

/// One pre-instance for each way to run.
pub(super) enum Code {
    Command(ArtifactKind),
    /// Plain, and for instances in places of the pool.
    P2Http(P2ProxyPre<HostState>, Option<P2ProxyPre<HostState>>),
    P3Http(P3ServicePre<HostState>),
}

impl Prepared for PreparedCode {
    fn kind(&self) -> ArtifactKind {
        match self.code {
            Code::Command(kind) => kind,
            Code::P2Http(..) | Code::P3Http(_) => ArtifactKind::Http,
        }
    }

    fn special_imports(&self) -> &[String] {
        &self.special_imports
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl PreparedCode {
    /// Loads native code that [`crate::engine::compile`] made with our settings. A file is mapped: its
    /// pages are shared, and the kernel may drop them.
    ///
    /// # Errors
    /// When the code is of other settings, or the artifact wants a function of an interface that
    /// this host's version of the interface lacks.
    ///
    /// # Safety
    /// `native` must be what the compiler wrote, unchanged: it is executed.
    pub unsafe fn load(
        engine: &Engine,
        linkers: &Linkers,
        pool: Option<&Pool>,
        native: &Native,
    ) -> Result<Self, PrepareError> {
        let internal = |error: wasmtime::Error| PrepareError::Internal(format!("{error:#}"));
        let invalid = |error: wasmtime::Error| PrepareError::InvalidModule(format!("{error:#}"));
        let mut special_imports = Vec::new();
        let found = match native {
            Native::File(file) => Engine::detect_precompiled_file(file.path()).map_err(internal)?,
            Native::Bytes(code) => Engine::detect_precompiled(code),
        };
        let (code, command) = match found {
            Some(Precompiled::Module) => {
                // SAFETY: the caller's promise.
                let module = unsafe {
                    match native {
                        Native::File(file) => Module::deserialize_file(engine, file.path()),
                        Native::Bytes(code) => Module::deserialize(engine, code),
                    }
                };
                let module = module.map_err(internal)?;
                let pre = linkers.modules.instantiate_pre(&module).map_err(invalid)?;
                (Code::Command(ArtifactKind::Preview1Command), Some(Command::Preview1(pre)))
            }
            Some(Precompiled::Component) => {
                // SAFETY: the caller's promise.
                let component = unsafe {
                    match native {
                        Native::File(file) => Component::deserialize_file(engine, file.path()),
                        Native::Bytes(code) => Component::deserialize(engine, code),
                    }
                };
                let component = component.map_err(internal)?;
                let imports = component.component_type();
                let imports = imports.imports(engine).map(|(name, _)| name);
                special_imports.extend(imports.filter(is_special).map(str::to_owned));
                let mut made = component_code(engine, linkers, &component)?;
                if let (Code::P2Http(_, pooled), Some(pool)) = (&mut made.0, pool) {
                    // SAFETY: the caller's promise.
                    *pooled = unsafe { pool.load(native) };
                }
                made
            }
            None => return Err(PrepareError::Internal("not compiled code".to_owned())),
        };
        let size_bytes = match native {
            Native::File(file) => usize::try_from(file.code_bytes()).unwrap_or(usize::MAX),
            Native::Bytes(code) => code.len(),
        };
        Ok(Self { code, command, special_imports, size_bytes })
    }
}

impl PreparedCode {
    /// A profiler that knows the program's functions.
    ///
    /// # Errors
    /// When the engine does not let itself be profiled.
    pub fn profiler(
        &self,
        engine: &Engine,
        is_pooled: bool,
        name: &str,
        interval: Duration,
    ) -> wasmtime::Result<GuestProfiler> {
        let component = match (&self.code, &self.command) {
            (Code::P2Http(plain, pooled), _) => {
                let pre = pooled.as_ref().filter(|_| is_pooled).unwrap_or(plain);
                pre.instance_pre().component()
            }
            (Code::P3Http(pre), _) => pre.instance_pre().component(),
            (Code::Command(_), Some(Command::P2(pre))) => pre.instance_pre().component(),
            (Code::Command(_), Some(Command::P3(pre))) => pre.instance_pre().component(),
            (Code::Command(_), Some(Command::Preview1(pre))) => {
                let module = pre.module().clone();
                let of = module.name().unwrap_or(name).to_owned();
                return GuestProfiler::new(engine, name, interval, [(of, module)]);
            }
            (Code::Command(_), None) => return Err(wasmtime::Error::msg("there is no program")),
        };
        GuestProfiler::new_component(engine, name, interval, component.clone(), [])
    }
}

/// See [`Prepared::special_imports`].
fn is_special(import: &&str) -> bool {
    import.starts_with("wasmfleet:") || grant_of(import).is_some()
}

fn component_code(
    engine: &Engine,
    linkers: &Linkers,
    component: &Component,
) -> Result<(Code, Option<Command>), PrepareError> {
    let invalid = |error: wasmtime::Error| PrepareError::InvalidModule(format!("{error:#}"));
    let exports = component.component_type();
    let entries: Vec<_> = exports.exports(engine).filter_map(|(name, _)| entry_of(name)).collect();
    let pre = linkers.components.instantiate_pre(component).map_err(invalid)?;
    // The newer version of WASI, where both are there.
    let newest = |wanted: ArtifactKind| {
        let fit = entries.iter().filter(|(kind, _)| *kind == wanted).map(|(_, wasi)| *wasi);
        fit.min_by_key(|wasi| *wasi != WasiVersion::P3)
    };
    let command = match newest(ArtifactKind::Command) {
        Some(WasiVersion::P3) => {
            Some(P3CommandPre::new(pre.clone()).map(Command::P3).map_err(invalid)?)
        }
        Some(_) => Some(P2CommandPre::new(pre.clone()).map(Command::P2).map_err(invalid)?),
        None => None,
    };
    let code = match newest(ArtifactKind::Http) {
        Some(WasiVersion::P3) => P3ServicePre::new(pre).map(Code::P3Http),
        Some(_) => P2ProxyPre::new(pre).map(|pre| Code::P2Http(pre, None)),
        None if command.is_some() => Ok(Code::Command(ArtifactKind::Command)),
        None => Err(wasmtime::Error::msg("the component exports no entry point")),
    };
    Ok((code.map_err(invalid)?, command))
}
