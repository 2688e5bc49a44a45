//! Limits that a process sets for itself before it reads what nobody vouches for: a program alone can
//! be made to take all memory, all time, or the whole stack of who reads it.

use std::io;

use rustix::process::{Resource, Rlimit, nice, setrlimit};

/// Such work gives way to everything else on the machine.
const NICENESS: i32 = 19;
/// The first to be killed where the machine is out of memory (proc(5), `oom_score_adj`).
const OOM_SCORE: &str = "1000";
/// For the environment of the process: what its allocator reserves of the address space at once, in
/// KiB. By default it is a gibibyte, as much as such a process may have in all.
pub const ARENA_RESERVE: (&str, &str) = ("MIMALLOC_ARENA_RESERVE", "16384");

/// Address space of this process, in bytes (proc(5), `statm`).
fn address_space() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').next().and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as u64
}

/// Limits this process, for the rest of its life: so many bytes of address space more than it has,
/// so many seconds of processor time, no core dump, and the lowest priority.
///
/// # Errors
/// When the system refuses a limit.
pub fn confine(memory_bytes: u64, cpu_seconds: u64) -> io::Result<()> {
    // A core dump of a process that was killed would be larger than anything else on the disk.
    let hard = |value| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Core, hard(0))?;
    // Beyond what it has already: the program itself, and what its allocator reserved.
    setrlimit(Resource::As, hard(address_space().saturating_add(memory_bytes)))?;
    setrlimit(Resource::Cpu, hard(cpu_seconds))?;
    // Best effort: a container may forbid it.
    let _ = nice(NICENESS);
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    Ok(())
}
