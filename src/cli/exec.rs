//! `wasmctl exec`: a container's program once more, in its sandbox.

use super::args::ExecArgs;
use super::session::Session;
use super::streams::{self, Wanted};

pub async fn run(session: &Session, args: &ExecArgs) -> anyhow::Result<()> {
    let ExecArgs { what, container, stdin, tty, command } = args;
    let wanted = Wanted { what, container: container.as_deref(), stdin: *stdin, tty: *tty };
    streams::run(session, "exec", &wanted, command).await
}
