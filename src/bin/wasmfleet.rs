//! `wasmfleet`: a cluster, a control plane, or a node agent.

fn main() -> std::process::ExitCode {
    wasmfleet::daemon::main()
}
