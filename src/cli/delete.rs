//! `wasmctl delete`: by files, names, labels, or all of a type; waits until the objects are gone.

use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use serde_json::Value;

use super::args::{DeleteArgs, DryRun};
use super::discovery::text;
use super::manifest;
use super::printer;
use super::report;
use super::selection::Selected;
use super::session::Session;
use super::watch;
use crate::api::ApiError;
use crate::client::remote::delete_body;
use crate::client::{DeleteOptions, Propagation};

/// A pod's grace period can be long; beyond this the user is told.
const WAIT_LIMIT: Duration = Duration::from_secs(600);

/// An object to delete, with the namespace that it is in.
struct Victim {
    selected: Selected,
    namespace: Option<String>,
}

pub async fn run(session: &Session, args: &DeleteArgs) -> anyhow::Result<()> {
    let names_only = match args.output.as_deref() {
        None => false,
        Some("name") => true,
        Some(other) => bail!("unknown output format {other:?}; delete has only name"),
    };
    let options = options(args)?;
    let victims = victims(session, args).await?;
    if args.force {
        printer::note(
            "Warning: Immediate deletion does not wait for confirmation that the running resource \
             has been terminated. The resource may continue to run on the cluster indefinitely.",
        );
    }
    let mut failed = Vec::new();
    let mut going = Vec::new();
    for victim in victims {
        let deleted = match args.dry_run {
            DryRun::Client => Ok(String::new()),
            _ => delete(session, &victim, &options).await,
        };
        match deleted {
            Ok(uid) => {
                let how = if args.force { "force deleted" } else { "deleted" };
                let title = victim.selected.title();
                printer::line(&match names_only {
                    true => title,
                    false => format!("{title} {how}{}", args.dry_run.suffix()),
                })?;
                going.push((victim, uid));
            }
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) => failed.push(error.into()),
        }
    }
    if args.wait && !args.no_wait && args.dry_run == DryRun::None {
        failed.extend(wait_all(session, &going, args.timeout).await.err());
    }
    report::errors(failed)
}

fn options(args: &DeleteArgs) -> anyhow::Result<DeleteOptions> {
    let propagation = match args.cascade.as_str() {
        "background" => Propagation::Background,
        "foreground" => Propagation::Foreground,
        "orphan" => Propagation::Orphan,
        other => bail!("--cascade is background, foreground or orphan, not {other:?}"),
    };
    let grace = match args.grace_period.filter(|seconds| *seconds >= 0) {
        Some(seconds) if args.force && seconds > 0 => {
            bail!("--force and --grace-period greater than 0 cannot be specified together")
        }
        _ if args.force => Some(0),
        _ if args.now => Some(1),
        // Zero takes the object away while the pod may still run, which only --force may.
        Some(0) => Some(1),
        grace => grace,
    };
    Ok(DeleteOptions {
        grace_period_seconds: grace,
        propagation_policy: Some(propagation),
        dry_run: args.dry_run == DryRun::Server,
        ..DeleteOptions::default()
    })
}

/// Refuses options of which one would be ignored: with deletion that is dangerous.
fn check(args: &DeleteArgs) -> anyhow::Result<()> {
    let select = &args.select;
    if !args.filename.is_empty() {
        if !select.what.is_empty() {
            bail!("TYPE and NAME cannot be given when a file is (-f)");
        }
        if select.selector.is_some() || args.all || select.all_namespaces {
            bail!("-l, --all and -A cannot be given when a file is (-f)");
        }
    }
    if args.all && select.selector.is_some() {
        bail!("--all and a selector (-l) cannot be given together");
    }
    Ok(())
}

async fn victims(session: &Session, args: &DeleteArgs) -> anyhow::Result<Vec<Victim>> {
    check(args)?;
    let mut victims = Vec::new();
    if !args.filename.is_empty() {
        for mut manifest in manifest::read(&args.filename, args.recursive)? {
            let source = manifest.source.clone();
            let (resource, target) =
                manifest.locate(session).await.with_context(|| source.clone())?;
            let name = Some(target.name.with_context(|| format!("{source}: no metadata.name"))?);
            victims.push(Victim {
                selected: Selected { resource, name },
                namespace: target.namespace,
            });
        }
        return Ok(victims);
    }
    for selected in args.select.resolve(session).await? {
        if selected.name.is_some() {
            if args.all {
                bail!("a name cannot be given with --all");
            }
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
        printer::nothing_found(None);
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

async fn wait_all(
    session: &Session,
    going: &[(Victim, String)],
    timeout: Option<u64>,
) -> anyhow::Result<()> {
    let limit = timeout.map_or(WAIT_LIMIT, Duration::from_secs);
    let mut waiting_for = String::new();
    let work = async {
        for (victim, uid) in going {
            waiting_for = victim.selected.title();
            wait_gone(session, victim, uid)
                .await
                .with_context(|| format!("waiting for the end of {}", victim.selected.title()))?;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => bail!(
            "{waiting_for} is still there after {} seconds; finalizers may hold it",
            limit.as_secs()
        ),
    }
}

/// Waits until the object is gone, or another one has its name.
async fn wait_gone(session: &Session, victim: &Victim, uid: &str) -> anyhow::Result<()> {
    watch::until(session, &victim.selected, victim.namespace.as_deref(), |live| {
        let same = live.filter(|live| uid.is_empty() || text(live, "/metadata/uid") == uid);
        Ok(same.is_none().then_some(()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Verb};
    use super::*;
    use clap::Parser;

    fn args(words: &str) -> DeleteArgs {
        let words = ["wasmctl", "delete"].into_iter().chain(words.split(' '));
        match Cli::parse_from(words).verb {
            Verb::Delete(args) => args,
            _ => panic!("another verb"),
        }
    }

    #[test]
    fn nothing_that_narrows_a_deletion_is_ignored() {
        let refused = |words: &str| check(&args(words)).is_err();
        assert!(refused("-f x.yaml pod a"));
        assert!(refused("-f x.yaml -l a=b"));
        assert!(refused("-f x.yaml -A"));
        assert!(refused("pods --all -l a=b"));
        assert!(!refused("-f x.yaml"));
        assert!(!refused("pods -l a=b -A"));
    }

    #[test]
    fn grace_periods_as_kubectl_sends_them() {
        let grace = |words: &str| options(&args(words)).map(|o| o.grace_period_seconds);
        assert_eq!(grace("pod a").unwrap(), None);
        assert_eq!(grace("pod a --grace-period=-1").unwrap(), None);
        assert_eq!(grace("pod a --grace-period=5").unwrap(), Some(5));
        assert_eq!(grace("pod a --now").unwrap(), Some(1));
        assert_eq!(grace("pod a --grace-period=0").unwrap(), Some(1));
        assert_eq!(grace("pod a --grace-period=0 --force").unwrap(), Some(0));
        assert_eq!(grace("pod a --force").unwrap(), Some(0));
        grace("pod a --force --grace-period=5").unwrap_err();
    }
}
