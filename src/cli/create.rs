//! `wasmctl create`: creates objects from files, or a simple one from arguments.

use http::Method;
use serde_json::Value;

use super::args::{CreateArgs, DryRun};
use super::manifest::{self, Manifest};
use super::report::Report;
use super::selection::title;
use super::session::Session;
use crate::api::Object;
use crate::client::remote::Query;

pub async fn run(session: &Session, args: &CreateArgs) -> anyhow::Result<()> {
    if let Some(simple) = &args.simple {
        return super::generate::run(session, simple).await;
    }
    let files = &args.files;
    let mut report = Report::of(&files.outcome)?;
    for manifest in manifest::read(&files.filename, files.recursive)? {
        let source = manifest.source.clone();
        match create(session, manifest, files.outcome.dry_run()).await {
            Ok((title, object)) => report.done(&title, "created", object)?,
            Err(error) => report.fail(error.context(source)),
        }
    }
    report.finish()
}

/// Answers with the object's title and the object as it is now.
async fn create(
    session: &Session,
    mut manifest: Manifest,
    dry_run: DryRun,
) -> anyhow::Result<(String, Value)> {
    let (resource, target) = manifest.locate(session).await?;
    let object = manifest.object;
    if dry_run == DryRun::Client {
        return Ok((title(&resource, object.name()), object.into_value()));
    }
    let mut query = Query::default();
    query.add("fieldManager", "wasmctl-create");
    query.add("fieldValidation", "Strict");
    dry_run.add_to(&mut query);
    let path = query.on(&target.collection().path());
    let body = Some(("application/json", object.to_json()));
    let created = session.object(Method::POST, &path, body).await?;
    Ok((title(&resource, created.name()), created.into_value()))
}

/// The same with an object that arguments make, not a file.
pub async fn create_made(
    session: &Session,
    made: Value,
    dry_run: DryRun,
) -> anyhow::Result<(String, Value)> {
    let manifest = Manifest { object: Object::from_value(made)?, source: String::new() };
    let (title, mut created) = create(session, manifest, dry_run).await?;
    if dry_run == DryRun::Client {
        without_implied_namespace(session, &mut created);
    }
    Ok((title, created))
}

/// Takes away a namespace that nobody said, of an object that is only printed: a manifest that is
/// kept in a file is then of use in any namespace.
fn without_implied_namespace(session: &Session, object: &mut Value) {
    if !session.namespace_is_explicit
        && let Some(Value::Object(metadata)) = object.get_mut("metadata")
    {
        metadata.remove("namespace");
    }
}
