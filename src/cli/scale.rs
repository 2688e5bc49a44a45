//! `wasmctl scale`: sets the number of replicas of any kind that has a scale.

use anyhow::bail;
use http::Method;
use serde_json::{Value, json};

use super::args::ScaleArgs;
use super::printer;
use super::selection;
use super::session::Session;
use crate::client::remote::Query;

pub async fn run(session: &Session, args: &ScaleArgs) -> anyhow::Result<()> {
    for one in selection::named(session, &args.what).await? {
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
        printer::line(&format!("{} scaled", one.title()))?;
    }
    Ok(())
}
