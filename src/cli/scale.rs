//! `wasmctl scale`: sets the number of replicas of any kind that has a scale.

use anyhow::bail;
use http::Method;
use serde_json::{Value, json};

use super::args::ScaleArgs;
use super::printer;
use super::report;
use super::selection::{self, Selected};
use super::session::Session;
use crate::client::remote::Query;

pub async fn run(session: &Session, args: &ScaleArgs) -> anyhow::Result<()> {
    let selected = match args.all {
        true => selection::named_or_all(session, &args.what).await?,
        false => selection::named(session, &args.what).await?,
    };
    if selected.is_empty() {
        printer::nothing_found(Some(&session.namespace));
    }
    let mut failed = Vec::new();
    for one in &selected {
        failed.extend(scale(session, args, one).await.err());
    }
    report::errors(failed)
}

async fn scale(session: &Session, args: &ScaleArgs, one: &Selected) -> anyhow::Result<()> {
    if !one.resource.subresources.iter().any(|s| s == "scale") {
        bail!("{} cannot be scaled", one.title());
    }
    let path = format!("{}/scale", one.path(Some(&session.namespace)));
    let mut patch = json!({"spec": {"replicas": args.replicas}});
    if let Some(wanted) = args.current_replicas {
        let scale = session.get_json(&path).await?;
        let now = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or_default();
        if now != i64::from(wanted) {
            bail!("{} has {now} replicas, not {wanted}", one.title());
        }
        // The version makes the check and the change one.
        patch["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
    }
    let mut query = Query::default();
    query.add("fieldManager", "wasmctl-scale");
    let body = Some(("application/merge-patch+json", patch.to_string().into_bytes()));
    session.json(Method::PATCH, &query.on(&path), body).await?;
    Ok(printer::line(&format!("{} scaled", one.title()))?)
}
