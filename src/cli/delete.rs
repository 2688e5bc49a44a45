//! `wasmctl delete`: by files, names, labels, or all of a type; waits until the objects are gone.

use std::time::Duration;

use anyhow::bail;
use http::Method;
use serde_json::Value;

use super::args::DeleteArgs;
use super::discovery::text;
use super::get::Events;
use super::manifest;
use super::printer;
use super::selection::{self, Selected};
use super::session::Session;
use crate::api::ApiError;
use crate::client::remote::{Query, delete_body};
use crate::client::{DeleteOptions, Propagation};

/// A pod's grace period can be long; beyond this the user is told.
const WAIT_LIMIT: Duration = Duration::from_secs(600);

/// An object to delete, with the namespace that it is in.
struct Victim {
    selected: Selected,
    namespace: Option<String>,
}

pub async fn run(session: &Session, args: &DeleteArgs) -> anyhow::Result<()> {
    let options = options(args)?;
    let victims = victims(session, args).await?;
    let mut failed = Vec::new();
    let mut going = Vec::new();
    for victim in victims {
        match delete(session, &victim, &options).await {
            Ok(uid) => {
                let how = if args.force { "force deleted" } else { "deleted" };
                printer::line(&format!("{} {how}", victim.selected.title()))?;
                going.push((victim, uid));
            }
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) => failed.push(error.into()),
        }
    }
    if !args.no_wait {
        let work = async {
            for (victim, uid) in &going {
                wait_gone(session, victim, uid).await?;
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(WAIT_LIMIT, work).await {
            Ok(done) => done?,
            Err(_) => bail!("still there after {WAIT_LIMIT:?}; finalizers may hold the objects"),
        }
    }
    super::create::report(failed)
}

fn options(args: &DeleteArgs) -> anyhow::Result<DeleteOptions> {
    let propagation = match args.cascade.as_str() {
        "background" => Propagation::Background,
        "foreground" => Propagation::Foreground,
        "orphan" => Propagation::Orphan,
        other => bail!("--cascade is background, foreground or orphan, not {other:?}"),
    };
    let grace = if args.force { Some(0) } else { args.grace_period };
    Ok(DeleteOptions {
        grace_period_seconds: grace,
        propagation_policy: Some(propagation),
        ..DeleteOptions::default()
    })
}

async fn victims(session: &Session, args: &DeleteArgs) -> anyhow::Result<Vec<Victim>> {
    if !args.filename.is_empty() {
        let mut victims = Vec::new();
        for mut manifest in manifest::read(&args.filename)? {
            let (resource, target) = manifest.locate(session).await?;
            let selected = Selected { resource, name: target.name };
            victims.push(Victim { selected, namespace: target.namespace });
        }
        return Ok(victims);
    }
    let mut victims = Vec::new();
    for selected in selection::resolve(session, &args.select.what).await? {
        if selected.name.is_some() {
            victims.push(Victim { selected, namespace: Some(session.namespace.clone()) });
            continue;
        }
        if args.select.selector.is_none() && !args.all {
            bail!(
                "name the {} to delete, or give -l LABELS or --all",
                selected.resource.gvr.resource
            );
        }
        let namespace = args.select.namespace(session);
        let path = args.select.query().on(&selected.path(namespace));
        let list = session.get_json(&path).await?;
        for item in list.get("items").and_then(Value::as_array).into_iter().flatten() {
            let name = Some(text(item, "/metadata/name").to_string());
            let selected = Selected { name, ..selected.clone() };
            let namespace = Some(text(item, "/metadata/namespace").to_string());
            victims.push(Victim { selected, namespace });
        }
    }
    if victims.is_empty() {
        printer::note("No resources found.");
    }
    Ok(victims)
}

/// Answers with the uid of what was deleted.
async fn delete(
    session: &Session,
    victim: &Victim,
    options: &DeleteOptions,
) -> Result<String, ApiError> {
    let path = victim.selected.path(victim.namespace.as_deref());
    let body = Some(("application/json", delete_body(options).to_string().into_bytes()));
    let answer = session.json(Method::DELETE, &path, body).await?;
    let uid = match text(&answer, "/kind") {
        "Status" => text(&answer, "/details/uid"),
        _ => text(&answer, "/metadata/uid"),
    };
    Ok(uid.to_string())
}

/// Waits until the object is gone, or another one has its name.
async fn wait_gone(session: &Session, victim: &Victim, uid: &str) -> anyhow::Result<()> {
    let one = &victim.selected;
    let namespace = victim.namespace.as_deref();
    loop {
        let live = match session.get_json(&one.path(namespace)).await {
            Ok(live) => live,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if !uid.is_empty() && text(&live, "/metadata/uid") != uid {
            return Ok(());
        }
        let mut query = Query::default();
        query.add("watch", "true");
        query.add("resourceVersion", text(&live, "/metadata/resourceVersion"));
        let name = one.name.as_deref().unwrap_or_default();
        query.add("fieldSelector", &format!("metadata.name={name}"));
        let path = query.on(&one.resource.gvr.path(namespace, None, None));
        let mut events = Events::open(session, &path, "application/json").await?;
        while let Some((kind, _)) = events.next().await? {
            if kind == "DELETED" {
                return Ok(());
            }
        }
    }
}
