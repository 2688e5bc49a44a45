//! `wasmctl attach`: the streams of a container that runs.

use super::args::AttachArgs;
use super::session::Session;
use super::streams::{self, Wanted};

pub async fn run(session: &Session, args: &AttachArgs) -> anyhow::Result<()> {
    let AttachArgs { what, container, stdin, tty } = args;
    let wanted = Wanted { what, container: container.as_deref(), stdin: *stdin, tty: *tty };
    streams::run(session, "attach", &wanted, &[]).await
}
