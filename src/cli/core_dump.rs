//! `wasmctl core-dump`: what a container's program left when it trapped.

use std::path::PathBuf;

use super::args::{CoreDumpArgs, LogsArgs};
use super::session::Session;
use super::{logs, printer, profile};
use crate::client::remote::Query;

pub async fn run(session: &Session, args: &CoreDumpArgs) -> anyhow::Result<()> {
    let of = LogsArgs { container: args.container.clone(), ..LogsArgs::of_pod(&args.what) };
    let (pod, container) = logs::first(session, &of).await?;
    let mut query = Query::default();
    query.add("container", &container);
    let path = query.on(&format!("/api/v1/namespaces/{}/pods/{pod}/coredump", session.namespace));
    let file = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{pod}.coredump")));
    let size = profile::fetch(session, &path, &file).await?;
    Ok(printer::line(&format!("{} written, {size} bytes", file.display()))?)
}
