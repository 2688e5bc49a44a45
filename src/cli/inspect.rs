//! `wasmctl inspect`: what a program is, needs, offers, and was made with; of a file or of an image
//! in the cluster's registry. A file needs no cluster.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;

use super::args::{Connection, InspectArgs};
use super::printer::{self, Format};
use super::reading::{self, Program};
use super::session::Session;
use crate::artifact::ArtifactKind;
use crate::client::Api;
use crate::images::layout::{Document, LayoutError};
use crate::images::{Reference, digest_of};

/// Everything that is told of a program.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    name: String,
    /// Of the manifest; none for a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    wasm_digest: String,
    size_bytes: u64,
    #[serde(flatten)]
    program: Program,
}

pub async fn run(connection: &Connection, args: &InspectArgs) -> anyhow::Result<()> {
    let format = Format::parse(args.output.as_deref())?;
    let report = match file(&args.what) {
        Some(path) => report(path.display().to_string(), None, reading::file(&path)?).await?,
        None => {
            let session = Session::connect(connection).await?;
            let (digest, wasm) = fetch(&session, &args.what).await?;
            report(args.what.clone(), Some(digest), wasm).await?
        }
    };
    match format {
        Format::Table { .. } => print(&report),
        _ => printer::object(&serde_json::to_value(&report)?, &format, &args.what),
    }
}

/// What is the name of a file, and no image: it exists, or is written like a path to one.
fn file(what: &str) -> Option<PathBuf> {
    let path = Path::new(what);
    let like_a_path = what.starts_with(['.', '/']) || what.ends_with(".wasm");
    (path.is_file() || like_a_path).then(|| path.to_path_buf())
}

/// The digest of an image's manifest and its program.
async fn fetch(session: &Session, what: &str) -> anyhow::Result<(String, Bytes)> {
    let image: Reference = what.parse()?;
    anyhow::ensure!(
        !image.is_foreign(),
        "{what} is in another registry; inspect a file, or an image of the cluster's registry"
    );
    let at = |rest: String| format!("/v2/{}/{rest}", image.repository);
    let text = session.remote.get_bytes(&at(format!("manifests/{}", image.version()))).await?;
    let read = |text: &[u8]| Document::parse(text).with_context(|| what.to_string());
    let below = match read(&text)? {
        Document::Manifest(manifest) => Document::Manifest(manifest),
        Document::Index(digest) => {
            read(&session.remote.get_bytes(&at(format!("manifests/{digest}"))).await?)?
        }
    };
    let Document::Manifest(manifest) = below else {
        anyhow::bail!("{what}: {}", LayoutError::Nested);
    };
    let layer = manifest.wasm().context("its manifest has no layer")?;
    let wasm = session.remote.get_bytes(&at(format!("blobs/{}", layer.digest))).await?;
    anyhow::ensure!(digest_of(&wasm) == layer.digest, "{what} came damaged; try again");
    Ok((digest_of(&text), wasm))
}

async fn report(name: String, digest: Option<String>, wasm: Bytes) -> anyhow::Result<Report> {
    let (wasm_digest, size_bytes) = (digest_of(&wasm), wasm.len() as u64);
    let program = reading::program(wasm).await.with_context(|| name.clone())?;
    Ok(Report { name, digest, wasm_digest, size_bytes, program })
}

fn print(report: &Report) -> anyhow::Result<()> {
    let program = &report.program;
    let kind = match program.kind {
        ArtifactKind::Preview1Command => "module of WASI preview 1, runs as a process",
        ArtifactKind::Command => "component, runs as a process",
        ArtifactKind::Http => "component, serves HTTP",
    };
    let runs = program.problem.as_deref().map_or("yes".into(), |why| format!("no: {why}"));
    let rows = [
        ("Name:", &*report.name),
        ("Digest:", report.digest.as_deref().unwrap_or("<none>")),
        ("Program:", &report.wasm_digest),
        ("Size:", &format!("{} bytes", report.size_bytes)),
        ("Kind:", kind),
        ("Entry:", &program.entry),
        ("Runs here:", &runs),
    ];
    let rows: Vec<Vec<String>> =
        rows.iter().map(|(title, text)| vec![title.to_string(), text.to_string()]).collect();
    printer::columns(&rows)?;
    let imports = program.imports.iter().map(|import| match import.provided {
        true => import.name.clone(),
        false => format!("{}   (nothing provides it)", import.name),
    });
    list("Imports:", imports)?;
    list("Exports:", program.exports.iter().cloned())?;
    let made = program.producers.iter().map(|p| format!("{}: {} {}", p.field, p.name, p.version));
    list("Made with:", made)
}

/// A heading and what is below it.
fn list(heading: &str, mut items: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let Some(first) = items.next() else {
        return Ok(printer::line(&format!("{heading} <none>"))?);
    };
    printer::line(heading)?;
    for item in std::iter::once(first).chain(items) {
        printer::line(format!("  {item}").trim_end())?;
    }
    Ok(())
}
