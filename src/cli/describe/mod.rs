//! `wasmctl describe`: an object for a person, and its events. Pods, Deployments, ReplicaSets,
//! Services and Nodes have forms of their own, as kubectl has them; all other kinds are shown field
//! by field.

mod events;
mod generic;
mod node;
mod page;
mod pod;
mod service;
mod workload;

use serde_json::Value;

use self::page::Page;
use super::args::SelectArgs;
use super::discovery::text;
use super::printer;
use super::report;
use super::selection::Selected;
use super::session::Session;
use super::three_way::LAST_APPLIED;
use crate::api::ApiError;

pub async fn run(session: &Session, args: &SelectArgs) -> anyhow::Result<()> {
    let selected = args.resolve(session).await?;
    let mut first = true;
    let mut failed = Vec::new();
    for one in &selected {
        let found = match fetch(session, one, args).await {
            Ok(found) => found,
            Err(error) => {
                failed.push(error.into());
                continue;
            }
        };
        for object in found {
            if !std::mem::take(&mut first) {
                printer::line("\n")?;
            }
            let mut lines = describe(session, one, &object).await?;
            lines.extend(events::lines(session, &object).await?);
            printer::raw((lines.join("\n") + "\n").as_bytes())?;
        }
    }
    if first && failed.is_empty() {
        let namespaced = selected.iter().any(|one| one.resource.gvr.namespaced);
        printer::nothing_found(args.namespace(session).filter(|_| namespaced));
    }
    report::errors(failed)
}

async fn fetch(
    session: &Session,
    one: &Selected,
    args: &SelectArgs,
) -> Result<Vec<Value>, ApiError> {
    let path = one.path(args.namespace(session));
    if one.name.is_some() {
        return Ok(vec![session.get_json(&path).await?]);
    }
    let mut list = session.get_json(&args.query().on(&path)).await?;
    match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

async fn describe(
    session: &Session,
    one: &Selected,
    object: &Value,
) -> anyhow::Result<Vec<String>> {
    let mut page = head(one, object);
    match (&*one.resource.gvr.group, one.resource.kind.as_str()) {
        ("", "Pod") => pod::describe(&mut page, object),
        ("", "Service") => service::describe(session, &mut page, object).await?,
        ("", "Node") => node::describe(session, &mut page, object).await?,
        ("apps", "Deployment" | "ReplicaSet") => {
            workload::describe(session, &mut page, object).await?;
        }
        _ => {
            page.field(0, "API Version", one.resource.gvr.api_version());
            page.field(0, "Kind", &one.resource.kind);
            page.created(object);
            let mut lines = page.lines();
            lines.extend(generic::lines(object));
            return Ok(lines);
        }
    }
    Ok(page.lines())
}

fn head(one: &Selected, object: &Value) -> Page {
    let mut page = Page::default();
    page.field(0, "Name", text(object, "/metadata/name"));
    if one.resource.gvr.namespaced {
        page.field(0, "Namespace", text(object, "/metadata/namespace"));
    }
    page.map(0, "Labels", object.pointer("/metadata/labels"), "=");
    let mut annotations = object.pointer("/metadata/annotations").cloned().unwrap_or_default();
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    page.map(0, "Annotations", Some(&annotations), ": ");
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let owner = owners
        .into_iter()
        .flatten()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    if let Some(owner) = owner {
        page.field(
            0,
            "Controlled By",
            format!("{}/{}", text(owner, "/kind"), text(owner, "/name")),
        );
    }
    page
}
