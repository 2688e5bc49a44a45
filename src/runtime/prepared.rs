//! Compiled code, loaded and linked once: what a container starts from.
//!
//! It turns trusted native code into pre-instances, one kind for each way to run. Where the code
//! comes from (cache or compiler) is the runtime's affair.

use std::any::Any;

use wasmtime::component::Component;
use wasmtime::{Engine, InstancePre, Module, Precompiled};
use wasmtime_wasi::p2::bindings::CommandPre as P2CommandPre;
use wasmtime_wasi::p3::bindings::CommandPre as P3CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre as P2ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre as P3ServicePre;

use super::host::{HostState, Linkers, ModuleState};
use super::{ArtifactKind, PrepareError, Prepared};
use crate::artifact::inspect::{WasiVersion, entry_of};

/// Code of one artifact, ready to be instantiated.
pub struct PreparedCode {
    pub(super) code: Code,
    /// Length of the native code, in bytes: what keeping it in memory costs.
    pub(super) size_bytes: usize,
}

/// One pre-instance for each way to run.
pub(super) enum Code {
    Preview1(InstancePre<ModuleState>),
    P2Command(P2CommandPre<HostState>),
    P3Command(P3CommandPre<HostState>),
    P2Http(P2ProxyPre<HostState>),
    P3Http(P3ServicePre<HostState>),
}

impl Prepared for PreparedCode {
    fn kind(&self) -> ArtifactKind {
        match self.code {
            Code::Preview1(_) => ArtifactKind::Preview1Command,
            Code::P2Command(_) | Code::P3Command(_) => ArtifactKind::Command,
            Code::P2Http(_) | Code::P3Http(_) => ArtifactKind::Http,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl PreparedCode {
    /// Loads native code that [`crate::engine::compile`] made with our settings.
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
        native: &[u8],
    ) -> Result<Self, PrepareError> {
        let internal = |error: wasmtime::Error| PrepareError::Internal(format!("{error:#}"));
        let invalid = |error: wasmtime::Error| PrepareError::InvalidModule(format!("{error:#}"));
        let code = match Engine::detect_precompiled(native) {
            Some(Precompiled::Module) => {
                // SAFETY: the caller's promise.
                let module = unsafe { Module::deserialize(engine, native) }.map_err(internal)?;
                Code::Preview1(linkers.modules.instantiate_pre(&module).map_err(invalid)?)
            }
            Some(Precompiled::Component) => {
                // SAFETY: the caller's promise.
                let component = unsafe { Component::deserialize(engine, native) };
                component_code(engine, linkers, &component.map_err(internal)?)?
            }
            None => return Err(PrepareError::Internal("not compiled code".to_owned())),
        };
        Ok(Self { code, size_bytes: native.len() })
    }
}

fn component_code(
    engine: &Engine,
    linkers: &Linkers,
    component: &Component,
) -> Result<Code, PrepareError> {
    let invalid = |error: wasmtime::Error| PrepareError::InvalidModule(format!("{error:#}"));
    let entry = component
        .component_type()
        .exports(engine)
        .filter_map(|(name, _)| entry_of(name))
        .min_by_key(|(kind, wasi)| (*kind != ArtifactKind::Http, *wasi != WasiVersion::P3));
    let pre = linkers.components.instantiate_pre(component).map_err(invalid)?;
    match entry {
        Some((ArtifactKind::Http, WasiVersion::P3)) => P3ServicePre::new(pre).map(Code::P3Http),
        Some((ArtifactKind::Http, _)) => P2ProxyPre::new(pre).map(Code::P2Http),
        Some((_, WasiVersion::P3)) => P3CommandPre::new(pre).map(Code::P3Command),
        Some(_) => P2CommandPre::new(pre).map(Code::P2Command),
        None => Err(wasmtime::Error::msg("the component exports no entry point")),
    }
    .map_err(invalid)
}
