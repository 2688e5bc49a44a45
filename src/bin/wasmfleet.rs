//! `wasmfleet`: a cluster, a control plane, or a node agent.

/// Objects are trees of small strings, made and dropped on every core: a quarter of the CPU of a write
/// went to glibc's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    wasmfleet::daemon::main()
}
