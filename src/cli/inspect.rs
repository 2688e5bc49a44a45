//! `wasmctl inspect`: what a program is, needs, offers, and was made with; of a file or of an image
//! in the cluster's registry. A file needs no cluster.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;

use super::args::{Connection, InspectArgs};
use super::printer::{self, Format};
use super::session::Session;
use crate::artifact::inspect::{LinkError, check_import};
use crate::artifact::{ArtifactKind, Producer, check_imports, inspect, producers};
use crate::client::Api;
use crate::images::layout::Manifest;
use crate::images::{MAX_BLOB_BYTES, Reference, digest_of};

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
    kind: ArtifactKind,
    /// The export that is called.
    entry: String,
    imports: Vec<Import>,
    exports: Vec<String>,
    producers: Vec<Producer>,
    /// Why it cannot run here; none if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize)]
struct Import {
    name: String,
    provided: bool,
}

pub async fn run(connection: &Connection, args: &InspectArgs) -> anyhow::Result<()> {
    let format = Format::parse(args.output.as_deref())?;
    let report = match file(&args.what) {
        Some(path) => {
            let place = path.display().to_string();
            let size = std::fs::metadata(&path).with_context(|| place.clone())?.len();
            anyhow::ensure!(
                size <= MAX_BLOB_BYTES,
                "{place} is larger than {MAX_BLOB_BYTES} bytes"
            );
            let wasm = std::fs::read(&path).with_context(|| place.clone())?;
            report(place, None, &wasm)?
        }
        None => {
            let session = Session::connect(connection).await?;
            let (digest, wasm) = fetch(&session, &args.what).await?;
            report(args.what.clone(), Some(digest), &wasm)?
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
    let manifest = Manifest::parse(&text).with_context(|| what.to_string())?;
    let layer = manifest.wasm().context("its manifest has no layer")?;
    let wasm = session.remote.get_bytes(&at(format!("blobs/{}", layer.digest))).await?;
    anyhow::ensure!(digest_of(&wasm) == layer.digest, "{what} came damaged; try again");
    Ok((digest_of(&text), wasm))
}

fn report(name: String, digest: Option<String>, wasm: &[u8]) -> anyhow::Result<Report> {
    let found = inspect(wasm).with_context(|| name.clone())?;
    let provided = |import: &String| Import {
        name: import.clone(),
        provided: check_import(&found, import).is_ok(),
    };
    let problem = check_imports(wasm).err().filter(|e| !matches!(e, LinkError::NotWasm));
    Ok(Report {
        name,
        digest,
        wasm_digest: digest_of(wasm),
        size_bytes: wasm.len() as u64,
        kind: found.kind,
        entry: found.entry.clone(),
        imports: found.imports.iter().map(provided).collect(),
        exports: found.exports.clone(),
        producers: producers(wasm),
        problem: problem.map(|error| error.to_string()),
    })
}

fn print(report: &Report) -> anyhow::Result<()> {
    let kind = match report.kind {
        ArtifactKind::Preview1Command => "module of WASI preview 1, runs as a process",
        ArtifactKind::Command => "component, runs as a process",
        ArtifactKind::Http => "component, serves HTTP",
    };
    let runs = report.problem.as_deref().map_or("yes".into(), |why| format!("no: {why}"));
    let rows = [
        ("Name:", &*report.name),
        ("Digest:", report.digest.as_deref().unwrap_or("<none>")),
        ("Program:", &report.wasm_digest),
        ("Size:", &format!("{} bytes", report.size_bytes)),
        ("Kind:", kind),
        ("Entry:", &report.entry),
        ("Runs here:", &runs),
    ];
    let rows: Vec<Vec<String>> =
        rows.iter().map(|(title, text)| vec![title.to_string(), text.to_string()]).collect();
    printer::columns(&rows)?;
    let imports = report.imports.iter().map(|import| match import.provided {
        true => import.name.clone(),
        false => format!("{}   (nothing provides it)", import.name),
    });
    list("Imports:", imports)?;
    list("Exports:", report.exports.iter().cloned())?;
    let made = report.producers.iter().map(|p| format!("{}: {} {}", p.field, p.name, p.version));
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
