//! Core dumps of guests that trapped, where the container asks for them
//! (github.com/WebAssembly/tool-conventions, Coredump.md): stack, globals and memories.

use std::panic::{AssertUnwindSafe, catch_unwind};

use parking_lot::Mutex;
use wasmtime::{Store, WasmCoreDump};
use wasmtime_wasi::I32Exit;

use super::host::Sandbox;

/// The memories of a guest that is dumped, in bytes. A dump is made in memory, of what is not zero.
pub const MAX_MEMORY_BYTES: u64 = 64 << 20;

/// One dump is made at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Takes the core dump of a container's program.
pub trait CoreDumps: Send + Sync + 'static {
    /// Replaces an earlier one. Must not block for long.
    fn keep(&self, dump: Vec<u8>);
}

/// Keeps the dump of a guest that ended with this error, if it was a trap and somebody wants it.
pub fn keep<T: 'static>(store: &mut Store<T>, sandbox: &Sandbox, error: &wasmtime::Error) {
    let Some(place) = &sandbox.spec.core_dumps else { return };
    // A program that exits ends with an error, too.
    if error.downcast_ref::<I32Exit>().is_some() {
        return;
    }
    let Some(dump) = error.downcast_ref::<WasmCoreDump>() else { return };
    let held = sandbox.memory.used_bytes();
    let told = if held > MAX_MEMORY_BYTES {
        format!("no core dump: {held} bytes are more than {MAX_MEMORY_BYTES}")
    } else {
        let _one = ONE.lock();
        let name = &sandbox.spec.container_name;
        match catch_unwind(AssertUnwindSafe(|| dump.serialize(&mut *store, name))) {
            Ok(bytes) => {
                let told = format!("a core dump of {} bytes is kept", bytes.len());
                place.keep(bytes);
                told
            }
            Err(_) => "no core dump: it could not be written".to_owned(),
        }
    };
    sandbox.stderr.write_line(&told);
}
