//! `wasmctl delete`: by files, names, labels, or all of a type; waits until the objects are gone.

use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;

use super::args::{DeleteArgs, DryRun};
use super::discovery::text;
use super::printer;
use super::report;
use super::session::Session;
use super::targets::{self, Target};
use super::watch;
use crate::api::ApiError;
use crate::client::remote::delete_body;
use crate::client::{DeleteOptions, Propagation};

/// A pod's grace period can be long; beyond this the user is told.
const WAIT_LIMIT: Duration = Duration::from_secs(600);

pub async fn run(session: &Session, args: &DeleteArgs) -> anyhow::Result<()> {
    let names_only = match args.output.as_deref() {
        None => false,
        Some("name") => true,
        Some(other) => bail!("unknown output format {other:?}; delete has only name"),
    };
    let options = options(args)?;
    let victims = targets::resolve(session, &args.targets).await?;
    if victims.is_empty() {
        printer::nothing_found(None);
    }
    if args.force {
        printer::note(
            "Warning: Immediate deletion does not wait for confirmation that the running resource \
             has been terminated. The resource may continue to run on the cluster indefinitely.",
        );
    }
    let mut failed = Vec::new();
    let mut going = Vec::new();
    for victim in victims {
        let deleted = match args.trial.dry_run {
            DryRun::Client => Ok(String::new()),
            _ => delete(session, &victim, &options).await,
        };
        match deleted {
            Ok(uid) => {
                let how = if args.force { "force deleted" } else { "deleted" };
                let title = victim.selected.title();
                printer::line(&match names_only {
                    true => title,
                    false => format!("{title} {how}{}", args.trial.dry_run.suffix()),
                })?;
                going.push((victim, uid));
            }
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) => failed.push(error.into()),
        }
    }
    if args.wait && !args.no_wait && args.trial.dry_run == DryRun::None {
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
        dry_run: args.trial.dry_run == DryRun::Server,
        ..DeleteOptions::default()
    })
}

/// Answers with the uid of what was deleted.
async fn delete(
    session: &Session,
    victim: &Target,
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
    going: &[(Target, String)],
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
async fn wait_gone(session: &Session, victim: &Target, uid: &str) -> anyhow::Result<()> {
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
