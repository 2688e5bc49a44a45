//! `wasmctl rollout`: status, history, undo and restart of Deployments, DaemonSets and StatefulSets,
//! pause and resume of Deployments.

mod progress;
mod revisions;

use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use self::progress::Progress;
use super::args::{RolloutAction, RolloutArgs};
use super::printer;
use super::report;
use super::selection::{self, Selected};
use super::session::Session;
use super::watch;
use super::yaml;

const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// What has a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    Deployment,
    DaemonSet,
    StatefulSet,
}

impl Workload {
    fn of(kind: &str) -> Option<Workload> {
        match kind {
            "Deployment" => Some(Workload::Deployment),
            "DaemonSet" => Some(Workload::DaemonSet),
            "StatefulSet" => Some(Workload::StatefulSet),
            _ => None,
        }
    }
}

pub async fn run(session: &Session, args: &RolloutArgs) -> anyhow::Result<()> {
    let (RolloutAction::Status { what, .. }
    | RolloutAction::History { what, .. }
    | RolloutAction::Undo { what, .. }
    | RolloutAction::Restart { what }
    | RolloutAction::Pause { what }
    | RolloutAction::Resume { what }) = &args.action;
    let selected = selection::named_or_all(session, what).await?;
    if selected.is_empty() {
        printer::nothing_found(Some(&session.namespace));
    }
    let mut failed = Vec::new();
    for one in selected {
        failed.extend(act(session, one, &args.action).await.err());
    }
    report::errors(failed)
}

async fn act(session: &Session, one: Selected, action: &RolloutAction) -> anyhow::Result<()> {
    let Some(workload) = Workload::of(&one.resource.kind) else {
        bail!("{} has no rollout; Deployments, DaemonSets and StatefulSets have", one.title());
    };
    let rollout = Rollout { session, path: one.path(Some(&session.namespace)), one, workload };
    match action {
        RolloutAction::Status { timeout, watch, .. } => rollout.status(*timeout, *watch).await,
        RolloutAction::History { revision, .. } => rollout.history(*revision).await,
        RolloutAction::Undo { to_revision, .. } => rollout.undo(*to_revision).await,
        RolloutAction::Restart { .. } => rollout.restart().await,
        RolloutAction::Pause { .. } => rollout.pause(true).await,
        RolloutAction::Resume { .. } => rollout.pause(false).await,
    }
}

struct Rollout<'a> {
    session: &'a Session,
    one: Selected,
    path: String,
    workload: Workload,
}

impl Rollout<'_> {
    async fn object(&self) -> anyhow::Result<Value> {
        Ok(self.session.get_json(&self.path).await?)
    }

    /// The object, unless its changes are held back.
    async fn unpaused(&self) -> anyhow::Result<Value> {
        let object = self.object().await?;
        if is_paused(&object) {
            bail!("{} is paused; resume it first", self.one.title());
        }
        Ok(object)
    }

    async fn status(&self, timeout: Option<u64>, watch: bool) -> anyhow::Result<()> {
        if !watch {
            self.tell(&self.object().await?, &mut String::new())?;
            return Ok(());
        }
        let Some(seconds) = timeout else { return self.follow().await };
        match tokio::time::timeout(Duration::from_secs(seconds), self.follow()).await {
            Ok(done) => done,
            Err(_) => bail!("{} is not rolled out after {seconds} seconds", self.one.title()),
        }
    }

    async fn follow(&self) -> anyhow::Result<()> {
        // That it does not exist at all is the server's to say.
        self.object().await?;
        let mut last = String::new();
        watch::until(self.session, &self.one, Some(&self.session.namespace), |object| {
            let object = object.with_context(|| format!("{} was deleted", self.one.title()))?;
            Ok(self.tell(object, &mut last)?.then_some(()))
        })
        .await
    }

    /// Prints the progress when it has changed; whether the rollout is done.
    fn tell(&self, object: &Value, last: &mut String) -> anyhow::Result<bool> {
        let (message, done) = match progress::of(self.workload, object) {
            Progress::Waiting(message) => (message, false),
            Progress::Done(message) => (message, true),
            Progress::Failed(message) => bail!(message),
        };
        if message != *last {
            printer::line(&message)?;
            *last = message;
        }
        Ok(done)
    }

    async fn revisions(&self, object: &Value) -> anyhow::Result<Vec<revisions::Revision>> {
        let resource = revisions::resource(self.workload);
        let path = format!("/apis/apps/v1/namespaces/{}/{resource}", self.session.namespace);
        Ok(revisions::of(self.workload, object, self.session.get_json(&path).await?))
    }

    async fn history(&self, revision: Option<i64>) -> anyhow::Result<()> {
        let revisions = self.revisions(&self.object().await?).await?;
        if let Some(wanted) = revision {
            let found = revisions.iter().find(|revision| revision.number == wanted);
            let found = found.with_context(|| format!("there is no revision {wanted}"))?;
            printer::line(&format!("{} with revision #{wanted}", self.one.title()))?;
            return Ok(printer::raw(yaml::write(&found.template).as_bytes())?);
        }
        printer::line(&self.one.title())?;
        let mut rows = vec![vec!["REVISION".to_string(), "IMAGES".into(), "CHANGE-CAUSE".into()]];
        for revision in &revisions {
            let cause = if revision.cause.is_empty() { "<none>" } else { &revision.cause };
            rows.push(vec![revision.number.to_string(), revision.images(), cause.to_string()]);
        }
        Ok(printer::columns(&rows)?)
    }

    async fn undo(&self, to_revision: i64) -> anyhow::Result<()> {
        let object = self.unpaused().await?;
        let revisions = self.revisions(&object).await?;
        let found = revisions::find(self.workload, &object, &revisions, to_revision);
        let found = found.with_context(|| match to_revision {
            0 => format!("{} has no earlier revision", self.one.title()),
            wanted => format!("unable to find specified revision {wanted} in history"),
        })?;
        if object.pointer("/spec/template") == Some(&found.template) {
            return Ok(printer::line(&format!(
                "{} skipped rollback (current template already matches revision {})",
                self.one.title(),
                found.number
            ))?);
        }
        let (content_type, patch) = found.patch(self.workload, &object);
        self.patch(content_type, &patch).await?;
        Ok(printer::line(&format!("{} rolled back", self.one.title()))?)
    }

    async fn restart(&self) -> anyhow::Result<()> {
        self.unpaused().await?;
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch =
            json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: now}}}}});
        self.patch(STRATEGIC, &patch).await?;
        Ok(printer::line(&format!("{} restarted", self.one.title()))?)
    }

    async fn pause(&self, paused: bool) -> anyhow::Result<()> {
        if self.workload != Workload::Deployment {
            bail!("{} cannot be paused; Deployments can", self.one.title());
        }
        if is_paused(&self.object().await?) == paused {
            let what = if paused { "is already paused" } else { "is not paused" };
            bail!("{} {what}", self.one.title());
        }
        self.patch(STRATEGIC, &json!({"spec": {"paused": paused}})).await?;
        let what = if paused { "paused" } else { "resumed" };
        Ok(printer::line(&format!("{} {what}", self.one.title()))?)
    }

    async fn patch(&self, content_type: &str, patch: &Value) -> anyhow::Result<()> {
        let path = format!("{}?fieldManager=wasmctl-rollout", self.path);
        let body = Some((content_type, patch.to_string().into_bytes()));
        self.session.json(Method::PATCH, &path, body).await?;
        Ok(())
    }
}

fn is_paused(object: &Value) -> bool {
    object.pointer("/spec/paused").and_then(Value::as_bool) == Some(true)
}
