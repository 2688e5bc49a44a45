//! `wasmctl profile`: where a container's program spends its time.

use std::path::{Path, PathBuf};

use anyhow::Context;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;

use super::args::{LogsArgs, ProfileArgs};
use super::session::Session;
use super::{logs, printer};
use crate::client::remote::Query;

pub async fn run(session: &Session, args: &ProfileArgs) -> anyhow::Result<()> {
    let of = LogsArgs { container: args.container.clone(), ..LogsArgs::of_pod(&args.what) };
    let (pod, container) = logs::first(session, &of).await?;
    printer::note(&format!("sampling {pod}/{container} for {}s", args.seconds));
    let mut query = Query::default();
    query.add("container", &container);
    query.add("seconds", &args.seconds.to_string());
    let path = query.on(&format!("/api/v1/namespaces/{}/pods/{pod}/profile", session.namespace));
    let file = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{pod}-profile.json")));
    fetch(session, &path, &file).await?;
    let told = format!("{} written; open it at https://profiler.firefox.com", file.display());
    Ok(printer::line(&told)?)
}

/// Writes an answer to a file, which is there only if it is whole.
pub async fn fetch(session: &Session, path: &str, file: &Path) -> anyhow::Result<u64> {
    let mut body = session.remote.stream_as(path, "*/*").await?;
    let name = file.file_name().context("the output is no file")?.to_string_lossy();
    let unfinished = file.with_file_name(format!(".{name}.part"));
    let place = || unfinished.display().to_string();
    let mut out = tokio::fs::File::create(&unfinished).await.with_context(place)?;
    let written = async {
        let mut size = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.context("the answer broke off")?;
            if let Ok(bytes) = frame.into_data() {
                size += bytes.len() as u64;
                out.write_all(&bytes).await.with_context(place)?;
            }
        }
        out.flush().await.with_context(place)?;
        tokio::fs::rename(&unfinished, file).await.with_context(|| file.display().to_string())?;
        anyhow::Ok(size)
    };
    let written = written.await;
    if written.is_err() {
        let _ = tokio::fs::remove_file(&unfinished).await;
    }
    written
}
