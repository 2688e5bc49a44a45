//! `wasmfleet`: a cluster, a control plane, or a node agent.

/// Objects are trees of small strings, made and dropped on every core: a quarter of the CPU of a write
/// went to glibc's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

unsafe extern "C" {
    /// Takes back what other threads freed of this thread's memory, and gives free pages to the system
    /// (mimalloc.h).
    safe fn mi_collect(force: bool);
}

fn main() -> std::process::ExitCode {
    wasmfleet::base::rest::set(|| mi_collect(true));
    wasmfleet::daemon::main()
}
