//! `wasmctl`: the command line of a cluster.

fn main() -> std::process::ExitCode {
    wasmfleet::cli::main()
}
