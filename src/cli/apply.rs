//! `wasmctl apply`: makes objects be as files say.

use anyhow::Context;
use http::Method;
use serde_json::Value;

use super::args::FileArgs;
use super::manifest::{self, Manifest};
use super::printer::{self, Format};
use super::selection::title;
use super::session::Session;
use super::three_way::{self, LAST_APPLIED};
use crate::api::Object;
use crate::client::Target;
use crate::client::remote::Query;

const MANAGER: &str = "wasmctl-apply";

/// Applies every object; the first error does not keep the rest from being applied.
pub async fn run(session: &Session, args: &FileArgs) -> anyhow::Result<()> {
    let format = Format::parse(args.output.as_deref())?;
    let mut failed = Vec::new();
    for manifest in manifest::read(&args.filename)? {
        let source = manifest.source.clone();
        if let Err(error) = apply(session, manifest, args, &format).await {
            failed.push(error.context(source));
        }
    }
    super::create::report(failed)
}

async fn apply(
    session: &Session,
    mut manifest: Manifest,
    args: &FileArgs,
    format: &Format,
) -> anyhow::Result<()> {
    let (resource, target) = manifest.locate(session).await?;
    target.name.as_ref().context("the object has no metadata.name, which apply needs")?;
    let mut object = manifest.object;
    let name = object.name().to_string();
    note_last_applied(&mut object)?;
    let query = query(args.dry_run);
    let (result, what) = match session.object(Method::GET, &target.path(), None).await {
        Ok(live) => change(session, &target, &query, &live, object).await?,
        Err(error) if error.is_not_found() => {
            let path = query.on(&target.collection().path());
            let body = Some(("application/json", object.to_json()));
            (session.object(Method::POST, &path, body).await?, "created")
        }
        Err(error) => return Err(error.into()),
    };
    let dry = if args.dry_run { " (server dry run)" } else { "" };
    match format {
        Format::Table { .. } => {
            printer::line(&format!("{} {what}{dry}", title(&resource, &name)))?;
        }
        format => printer::object(&result.into_value(), format, &title(&resource, &name))?,
    }
    Ok(())
}

/// Keeps the file in an annotation, so that the next apply knows what has left it.
fn note_last_applied(object: &mut Object) -> anyhow::Result<()> {
    let text = String::from_utf8(object.to_json())? + "\n";
    let annotations =
        object.meta_mut().entry("annotations").or_insert_with(|| Value::Object(Default::default()));
    if annotations.is_null() {
        *annotations = Value::Object(Default::default());
    }
    let annotations = annotations.as_object_mut().context("metadata.annotations is not a map")?;
    annotations.insert(LAST_APPLIED.into(), Value::String(text));
    Ok(())
}

async fn change(
    session: &Session,
    target: &Target,
    query: &Query,
    live: &Object,
    object: Object,
) -> anyhow::Result<(Object, &'static str)> {
    let annotations = live.annotations();
    let last = match annotations.get(LAST_APPLIED) {
        Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        None => Value::Null,
    };
    let kind = object.kind().to_string();
    let (content_type, mut patch) =
        three_way::patch(&target.resource, &kind, &last, &object.into_value());
    // The annotation is not in the file itself, so it must not be taken for removed.
    if let Some(Value::Object(metadata)) = patch.get_mut("metadata") {
        metadata.remove("resourceVersion");
    }
    let body = Some((content_type, serde_json::to_vec(&patch)?));
    let result = session.object(Method::PATCH, &query.on(&target.path()), body).await?;
    let same = result.resource_version() == live.resource_version();
    Ok((result, if same { "unchanged" } else { "configured" }))
}

fn query(dry_run: bool) -> Query {
    let mut query = Query::default();
    query.add("fieldManager", MANAGER);
    query.add("fieldValidation", "Strict");
    if dry_run {
        query.add("dryRun", "All");
    }
    query
}
