//! The WebAssembly engine's settings, shared by the half that compiles and the half that runs.
//!
//! Owns: the one wasmtime `Config` and its hash, the machines that code can be for ([`target`]),
//! compilation in bounds ([`compile`]), sealed code on disk ([`cache`], [`seal`]), and the two ways to
//! come by code: of a node ([`supply`]), and of a control plane that compiles for all ([`service`]).
//! What a program is, the room `artifact` reads; it never runs a guest: that is the room `runtime`.

pub mod cache;
pub mod compile;
pub mod seal;
#[cfg(feature = "compiler")]
pub mod service;
pub mod supply;
pub mod target;

use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine, WasmBacktraceDetails};

use crate::artifact::{SWITCHED_OFF, features};

/// Address space reserved for one linear memory: what a container may have that has no limit of its
/// own. Hundreds of thousands of instances fit into a 47-bit address space, and two thousand into the
/// 39 bits of a small machine; a memory that grows beyond it is moved.
pub const MEMORY_RESERVATION_BYTES: u64 = 256 << 20;

/// Unmapped pages after a linear memory; small constant offsets need no bounds check of their own.
pub const MEMORY_GUARD_BYTES: u64 = 64 << 10;

/// What is reserved beyond a memory that had to be moved, so that it need not move at every step.
pub const MEMORY_GROWTH_BYTES: u64 = 16 << 20;

/// Stack of WebAssembly frames a guest may use before it traps with a stack overflow.
pub const WASM_STACK_BYTES: usize = 512 << 10;

/// Stack of a fiber: the WebAssembly frames and, above them, the host functions they call.
pub const FIBER_STACK_BYTES: usize = 1 << 20;

/// Frames that a trap's backtrace lists at most.
const BACKTRACE_MAX_FRAMES: usize = 16;

/// The version of the wasmtime crates; compiled code of another version is never loaded.
pub const WASMTIME_VERSION: &str = "48.0.8";

/// The configuration of every engine, compiling or running: whatever changes the compiled code
/// must be set here and appear in [`settings_text`].
pub fn config() -> Config {
    let mut config = Config::new();
    config.wasm_features(SWITCHED_OFF, false);
    config.wasm_features(features(), true);
    config.epoch_interruption(true);
    config.memory_reservation(MEMORY_RESERVATION_BYTES);
    config.memory_guard_size(MEMORY_GUARD_BYTES);
    config.memory_reservation_for_growth(MEMORY_GROWTH_BYTES);
    config.guard_before_linear_memory(false);
    config.memory_init_cow(true);
    config.max_wasm_stack(WASM_STACK_BYTES);
    config.async_stack_size(FIBER_STACK_BYTES);
    // What a trap leaves behind; it is written only where a container asks for it.
    config.coredump_on_trap(true);
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(BACKTRACE_MAX_FRAMES));
    // Line numbers cost memory for each module; names of functions are enough for a user.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

/// An engine with [`config`].
///
/// # Errors
/// When the host cannot support a setting, for instance a CPU that Cranelift does not know.
pub fn new_engine() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// What [`settings_hash`] covers, as text: version, target and every setting above.
fn settings_text(target: &str) -> String {
    format!(
        "wasmtime={WASMTIME_VERSION} target={target} features={:#x} reservation={} guard={} \
         growth={} stack={} fiber={} epochs=1 cow=1 guard_before=0",
        features().bits(),
        MEMORY_RESERVATION_BYTES,
        MEMORY_GUARD_BYTES,
        MEMORY_GROWTH_BYTES,
        WASM_STACK_BYTES,
        FIBER_STACK_BYTES,
    )
}

/// Hex sha256 over wasmtime's version, this very machine and our settings: the second half of the key
/// of code that is compiled where it runs. Wasmtime's own compatibility hash needs the compiler, which
/// a node may lack. Code that is compiled for others has [`target::Target::settings_hash`].
pub fn settings_hash() -> String {
    let machine = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    hex::encode(Sha256::digest(settings_text(&machine)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_make_an_engine() {
        new_engine().expect("an engine");
        assert!(!features().intersects(SWITCHED_OFF), "a proposal is on and off");
    }

    #[test]
    fn the_version_is_the_one_in_the_lock_file() {
        let lock = include_str!("../../Cargo.lock");
        let entry = format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"");
        assert!(lock.contains(&entry), "WASMTIME_VERSION is stale");
    }

    #[test]
    fn the_hash_is_stable_within_a_build() {
        assert_eq!(settings_hash(), settings_hash());
        assert_eq!(settings_hash().len(), 64);
    }
}
