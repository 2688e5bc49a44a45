//! Compiling, in a program that has a compiler.

use wasmtime::Engine;

use super::{CompileError, check_here};
use crate::engine::target::Target;

/// Checks what a program imports, and compiles it in this thread (and, with `parallel`, on all cores):
/// for `target`, or for this very machine.
///
/// # Errors
/// When the artifact cannot run or does not compile, or there is no compiler for the target.
pub fn compile_here(
    wasm: &[u8],
    target: Option<Target>,
    parallel: bool,
) -> Result<Vec<u8>, CompileError> {
    check_here(wasm)?;
    compile_unchecked(wasm, target, parallel)
}

/// The same for any module.
pub(super) fn compile_unchecked(
    wasm: &[u8],
    target: Option<Target>,
    parallel: bool,
) -> Result<Vec<u8>, CompileError> {
    let mut config = crate::engine::config();
    config.parallel_compilation(parallel);
    let unable = |error: wasmtime::Error| CompileError::Internal(format!("{error:#}"));
    if let Some(target) = target {
        // With a target, nothing of this machine's CPU is taken for granted.
        config.target(target.triple()).map_err(unable)?;
        for flag in target.flags() {
            // SAFETY: the flags of a level are features that the machines of the level have; the
            // machine that loads the code looks, too.
            unsafe { config.cranelift_flag_enable(flag) };
        }
    }
    let engine = Engine::new(&config).map_err(unable)?;
    let compiled = if wasmparser::Parser::is_component(wasm) {
        engine.precompile_component(wasm)
    } else {
        engine.precompile_module(wasm)
    };
    compiled.map_err(|error| CompileError::Invalid(format!("does not compile: {error:#}")))
}

/// Whether there is a compiler for the target in this program.
pub fn has_compiler_for(target: Target) -> bool {
    cfg!(feature = "all-arch") || target.is_native()
}
