//! `wasmctl push` and `wasmctl images`: the cluster's own registry.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::args::PushArgs;
use super::session::Session;
use super::{printer, reading};
use crate::images::layout::{Interfaces, MANIFEST_TYPES};
use crate::images::{Reference, push};

pub async fn run(session: &Session, args: &PushArgs) -> anyhow::Result<()> {
    let place = args.file.display().to_string();
    if !args.file.exists() && Path::new(&args.image).is_file() {
        anyhow::bail!(
            "there is no file {place}: the file comes first, `wasmctl push FILE NAME:TAG`"
        );
    }
    let wasm = reading::file(&args.file)?;
    let size = wasm.len();
    let image: Reference = args.image.parse()?;
    let program = reading::program(wasm.clone()).await.with_context(|| place.clone())?;
    let imports = program.imports.into_iter().map(|import| import.name).collect();
    let interfaces = Interfaces { exports: program.exports, imports };
    let pushed = push::push(&session.remote, &image, wasm, interfaces).await.context(place)?;
    Ok(printer::line(&format!("pushed {} ({size} bytes, {})", args.image, pushed.digest))?)
}

pub async fn images(session: &Session) -> anyhow::Result<()> {
    let catalog = session.get_json("/v2/_catalog").await?;
    let mut rows = vec![["IMAGE", "TAG", "DIGEST", "SIZE"].map(str::to_string).to_vec()];
    for name in strings(&catalog, "repositories") {
        let tags = session.get_json(&format!("/v2/{name}/tags/list")).await?;
        for tag in strings(&tags, "tags") {
            let path = format!("/v2/{name}/manifests/{tag}");
            let types = MANIFEST_TYPES.join(", ");
            let headers = [("accept", &*types)];
            let answer = session.remote.send(http::Method::GET, &path, &headers, "").await?;
            let digest = answer.headers.get("docker-content-digest");
            let digest = digest.and_then(|d| d.to_str().ok()).unwrap_or_default().to_string();
            let manifest: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let size = match manifest.get("manifests").and_then(Value::as_array) {
                Some(entries) => format!("index of {}", entries.len()),
                None => {
                    let size = manifest.pointer("/layers/0/size").and_then(Value::as_u64);
                    size.unwrap_or_default().to_string()
                }
            };
            let short = digest.get(..19).unwrap_or(&digest).to_string();
            rows.push(vec![name.clone(), tag, short, size]);
        }
    }
    Ok(printer::columns(&rows)?)
}

fn strings(value: &Value, field: &str) -> Vec<String> {
    let list = value.get(field).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|v| Some(v.as_str()?.to_string())).collect()
}
