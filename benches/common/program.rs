//! Which program is measured.

use std::path::PathBuf;

/// The one that was built with the driver, or the one that this variable names: so that two builds
/// can be compared by one driver.
pub const VARIABLE: &str = "WASMFLEET_BENCH_PROGRAM";

pub fn path() -> PathBuf {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    named.unwrap_or_else(|| env!("CARGO_BIN_EXE_wasmfleet").into())
}
