//! What a program is, read from its bytes alone: its kind, what it imports and exports, what made
//! it, and whether a host of ours can run it.
//!
//! Owns: reading an artifact ([`inspect`]), the tables of what the host provides ([`interfaces`],
//! [`preview1`]), the bounds that are the same on every node ([`bounds`]), the list of proposals that
//! are on ([`features`]), what memory a program begins with ([`least_memory`]), and what files are that
//! are no program ([`mistakes`]). It has no engine: it
//! compiles and runs nothing, so that the registry and the command line need none.

pub mod bounds;
pub mod inspect;
pub mod interfaces;
pub mod least_memory;
pub mod mistakes;
pub mod preview1;
pub mod producers;

use wasmparser::WasmFeatures;

pub use inspect::{ArtifactKind, Inspection, LinkError, check_imports, inspect};
pub use producers::{Producer, producers};

/// The WebAssembly proposals a guest may use. Threads, 64-bit memories, garbage collection and
/// exceptions are off: each is a large attack surface that no supported toolchain needs for WASI.
pub fn features() -> WasmFeatures {
    let mut features = WasmFeatures::WASM2
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::MULTI_MEMORY
        | WasmFeatures::RELAXED_SIMD
        | WasmFeatures::COMPONENT_MODEL
        | WasmFeatures::CM_ASYNC;
    features.remove(SWITCHED_OFF);
    features
}

/// The proposals that an engine must have switched off.
pub const SWITCHED_OFF: WasmFeatures = WasmFeatures::THREADS
    .union(WasmFeatures::SHARED_EVERYTHING_THREADS)
    .union(WasmFeatures::MEMORY64)
    .union(WasmFeatures::GC)
    .union(WasmFeatures::FUNCTION_REFERENCES)
    .union(WasmFeatures::EXCEPTIONS)
    .union(WasmFeatures::LEGACY_EXCEPTIONS)
    .union(WasmFeatures::STACK_SWITCHING)
    .union(WasmFeatures::CUSTOM_PAGE_SIZES)
    .union(WasmFeatures::WIDE_ARITHMETIC);
