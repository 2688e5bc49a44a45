//! `wasmctl create`: creates objects from files.

use http::Method;

use super::args::FileArgs;
use super::manifest::{self, Manifest};
use super::printer::{self, Format};
use super::selection::title;
use super::session::Session;
use crate::client::remote::Query;

pub async fn run(session: &Session, args: &FileArgs) -> anyhow::Result<()> {
    let format = Format::parse(args.output.as_deref())?;
    let mut failed = Vec::new();
    for manifest in manifest::read(&args.filename)? {
        let source = manifest.source.clone();
        if let Err(error) = create(session, manifest, args, &format).await {
            failed.push(error.context(source));
        }
    }
    report(failed)
}

async fn create(
    session: &Session,
    mut manifest: Manifest,
    args: &FileArgs,
    format: &Format,
) -> anyhow::Result<()> {
    let (resource, target) = manifest.locate(session).await?;
    let mut query = Query::default();
    query.add("fieldManager", "wasmctl-create");
    query.add("fieldValidation", "Strict");
    if args.dry_run {
        query.add("dryRun", "All");
    }
    let path = query.on(&target.collection().path());
    let body = Some(("application/json", manifest.object.to_json()));
    let created = session.object(Method::POST, &path, body).await?;
    let title = title(&resource, created.name());
    let dry = if args.dry_run { " (server dry run)" } else { "" };
    match format {
        Format::Table { .. } => printer::line(&format!("{title} created{dry}"))?,
        format => printer::object(&created.into_value(), format, &title)?,
    }
    Ok(())
}

/// The last error is the command's; the others are told before it.
pub fn report(mut failed: Vec<anyhow::Error>) -> anyhow::Result<()> {
    let Some(last) = failed.pop() else { return Ok(()) };
    for error in &failed {
        printer::note(&format!("error: {}", printer::error_text(error)));
    }
    Err(last)
}
