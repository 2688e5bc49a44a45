//! `wasmctl cordon` and `wasmctl uncordon`: whether the scheduler puts new pods onto a node.

use http::Method;
use serde_json::{Value, json};

use super::args::NodeArgs;
use super::printer;
use super::report;
use super::selection::{self, Selected};
use super::session::Session;
use crate::client::remote::Query;

pub async fn run(session: &Session, args: &NodeArgs, cordon: bool) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for node in &nodes(session, args).await? {
        failed.extend(set(session, node, cordon).await.err());
    }
    report::errors(failed)
}

/// The nodes that are meant.
pub async fn nodes(session: &Session, args: &NodeArgs) -> anyhow::Result<Vec<Selected>> {
    let mut words = vec!["nodes".to_string()];
    // `node/a`, as `get -o name` prints it, is taken too.
    let name = |word: &String| word.strip_prefix("node/").unwrap_or(word).to_string();
    words.extend(args.nodes.iter().map(name));
    let mut nodes = selection::resolve(session, &words).await?;
    if let (Some(selector), [all]) = (&args.selector, &nodes[..]) {
        let mut query = Query::default();
        query.add("labelSelector", selector);
        nodes = selection::members(session, all, &query).await?;
    }
    Ok(nodes)
}

pub async fn set(session: &Session, node: &Selected, cordon: bool) -> anyhow::Result<()> {
    let path = node.path(None);
    let live = session.get_json(&path).await?;
    let now = live.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true);
    let what = if cordon { "cordoned" } else { "uncordoned" };
    if now == cordon {
        return Ok(printer::line(&format!("{} already {what}", node.title()))?);
    }
    let patch = json!({"spec": {"unschedulable": if cordon { json!(true) } else { Value::Null }}});
    let body = Some(("application/merge-patch+json", patch.to_string().into_bytes()));
    session.json(Method::PATCH, &format!("{path}?fieldManager=wasmctl-cordon"), body).await?;
    Ok(printer::line(&format!("{} {what}", node.title()))?)
}
