//! `wasmctl rollout`: status, history, undo, restart, pause, resume of Deployments.

use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::args::{RolloutAction, RolloutArgs};
use super::discovery::text;
use super::printer;
use super::report;
use super::selection::{self, Selected};
use super::session::Session;
use super::three_way::LAST_APPLIED;
use super::watch;
use super::yaml;

const REVISION: &str = "deployment.kubernetes.io/revision";
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// Annotations that belong to one object and not to a revision; kubectl's list.
const OWN_ANNOTATIONS: &[&str] = &[
    LAST_APPLIED,
    REVISION,
    "deployment.kubernetes.io/revision-history",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
    "deprecated.deployment.rollback.to",
];
const HASH_LABEL: &str = "pod-template-hash";

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
    if one.resource.kind != "Deployment" {
        bail!("{} has no rollout; Deployments have", one.title());
    }
    let rollout = Rollout { session, path: one.path(Some(&session.namespace)), one };
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
}

/// How far a rollout is.
#[derive(Debug, PartialEq)]
enum Progress {
    Waiting(String),
    Done(String),
    Failed(String),
}

/// The judgement that `kubectl rollout status` makes of a Deployment.
fn progress(deployment: &Value) -> Progress {
    let name = text(deployment, "/metadata/name");
    let number = |path: &str| deployment.pointer(path).and_then(Value::as_i64).unwrap_or_default();
    if number("/metadata/generation") > number("/status/observedGeneration") {
        return Progress::Waiting("Waiting for deployment spec update to be observed...".into());
    }
    let conditions = deployment.pointer("/status/conditions").and_then(Value::as_array);
    let late = conditions.into_iter().flatten().any(|condition| {
        text(condition, "/type") == "Progressing"
            && text(condition, "/reason") == "ProgressDeadlineExceeded"
    });
    if late {
        return Progress::Failed(format!("deployment {name:?} exceeded its progress deadline"));
    }
    let wanted = deployment.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let (updated, total) = (number("/status/updatedReplicas"), number("/status/replicas"));
    let available = number("/status/availableReplicas");
    let waiting = |what: String| {
        Progress::Waiting(format!("Waiting for deployment {name:?} rollout to finish: {what}..."))
    };
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new replicas have been updated"));
    }
    if total > updated {
        return waiting(format!("{} old replicas are pending termination", total - updated));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Progress::Done(format!("deployment {name:?} successfully rolled out"))
}

impl Rollout<'_> {
    async fn deployment(&self) -> anyhow::Result<Value> {
        Ok(self.session.get_json(&self.path).await?)
    }

    async fn status(&self, timeout: Option<u64>, watch: bool) -> anyhow::Result<()> {
        if !watch {
            tell(&self.deployment().await?, &mut String::new())?;
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
        self.deployment().await?;
        let mut last = String::new();
        watch::until(self.session, &self.one, Some(&self.session.namespace), |deployment| {
            let deployment =
                deployment.with_context(|| format!("{} was deleted", self.one.title()))?;
            Ok(tell(deployment, &mut last)?.then_some(()))
        })
        .await
    }

    /// The ReplicaSets of the Deployment by revision.
    async fn revisions(&self, deployment: &Value) -> anyhow::Result<Vec<(i64, Value)>> {
        let path = format!("/apis/apps/v1/namespaces/{}/replicasets", self.session.namespace);
        let mut list = self.session.get_json(&path).await?;
        let uid = text(deployment, "/metadata/uid");
        let items = match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        let mut revisions: Vec<(i64, Value)> = items
            .into_iter()
            .filter(|set| {
                let owners = set.pointer("/metadata/ownerReferences").and_then(Value::as_array);
                owners.into_iter().flatten().any(|owner| text(owner, "/uid") == uid)
            })
            .filter_map(|set| {
                let revision = annotation(&set, REVISION).parse().ok()?;
                Some((revision, set))
            })
            .collect();
        revisions.sort_by_key(|(revision, _)| *revision);
        Ok(revisions)
    }

    async fn history(&self, revision: Option<i64>) -> anyhow::Result<()> {
        let revisions = self.revisions(&self.deployment().await?).await?;
        if let Some(wanted) = revision {
            let found = revisions.iter().find(|(revision, _)| *revision == wanted);
            let (_, set) = found.with_context(|| format!("there is no revision {wanted}"))?;
            printer::line(&format!("{} with revision #{wanted}", self.one.title()))?;
            return Ok(printer::raw(yaml::write(&template(set)).as_bytes())?);
        }
        printer::line(&self.one.title())?;
        let mut rows = vec![vec!["REVISION".to_string(), "IMAGES".into(), "CHANGE-CAUSE".into()]];
        for (revision, set) in &revisions {
            let containers =
                set.pointer("/spec/template/spec/containers").and_then(Value::as_array);
            let images: Vec<&str> =
                containers.into_iter().flatten().map(|c| text(c, "/image")).collect();
            let cause = annotation(set, CHANGE_CAUSE);
            let cause = if cause.is_empty() { "<none>" } else { cause };
            rows.push(vec![revision.to_string(), images.join(","), cause.to_string()]);
        }
        Ok(printer::columns(&rows)?)
    }

    async fn undo(&self, to_revision: i64) -> anyhow::Result<()> {
        let deployment = self.deployment().await?;
        if deployment.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) {
            bail!("{} is paused; resume it first", self.one.title());
        }
        let revisions = self.revisions(&deployment).await?;
        let current: i64 = annotation(&deployment, REVISION).parse().unwrap_or_default();
        let found = match to_revision {
            0 => revisions.iter().rev().find(|(revision, _)| *revision < current),
            wanted => revisions.iter().find(|(revision, _)| *revision == wanted),
        };
        let (revision, set) = found.with_context(|| match to_revision {
            0 => format!("{} has no earlier revision", self.one.title()),
            wanted => format!("unable to find specified revision {wanted} in history"),
        })?;
        let template = template(set);
        if deployment.pointer("/spec/template") == Some(&template) {
            return Ok(printer::line(&format!(
                "{} skipped rollback (current template already matches revision {revision})",
                self.one.title()
            ))?);
        }
        let patch = json!([
            {"op": "replace", "path": "/spec/template", "value": template},
            {"op": "add", "path": "/metadata/annotations",
             "value": annotations_of_revision(&deployment, set)},
        ]);
        self.patch("application/json-patch+json", &patch).await?;
        Ok(printer::line(&format!("{} rolled back", self.one.title()))?)
    }

    async fn restart(&self) -> anyhow::Result<()> {
        let deployment = self.deployment().await?;
        if deployment.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) {
            bail!("{} is paused; resume it first", self.one.title());
        }
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch =
            json!({"spec": {"template": {"metadata": {"annotations": {RESTARTED_AT: now}}}}});
        self.patch("application/strategic-merge-patch+json", &patch).await?;
        Ok(printer::line(&format!("{} restarted", self.one.title()))?)
    }

    async fn pause(&self, paused: bool) -> anyhow::Result<()> {
        let deployment = self.deployment().await?;
        let now = deployment.pointer("/spec/paused").and_then(Value::as_bool) == Some(true);
        if now == paused {
            let what = if paused { "is already paused" } else { "is not paused" };
            bail!("{} {what}", self.one.title());
        }
        let patch = json!({"spec": {"paused": paused}});
        self.patch("application/strategic-merge-patch+json", &patch).await?;
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

/// Prints the progress when it has changed; whether the rollout is done.
fn tell(deployment: &Value, last: &mut String) -> anyhow::Result<bool> {
    let (message, done) = match progress(deployment) {
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

fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    let annotations = object.pointer("/metadata/annotations");
    annotations.and_then(|a| a.get(name)).and_then(Value::as_str).unwrap_or_default()
}

/// The annotations of a Deployment that goes back to a ReplicaSet's template: the ReplicaSet's (its
/// change-cause among them), and of the Deployment's those that never follow a revision.
fn annotations_of_revision(deployment: &Value, set: &Value) -> Map<String, Value> {
    let of = |object: &Value, keep: fn(&str) -> bool| -> Map<String, Value> {
        let all = object.pointer("/metadata/annotations").and_then(Value::as_object);
        let kept = all.into_iter().flatten().filter(|(key, _)| keep(key));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let mut annotations = of(set, |key| !OWN_ANNOTATIONS.contains(&key));
    annotations.extend(of(deployment, |key| OWN_ANNOTATIONS.contains(&key)));
    annotations
}

/// A ReplicaSet's pod template without the label that the Deployment's controller adds.
fn template(set: &Value) -> Value {
    let mut template = set.pointer("/spec/template").cloned().unwrap_or_default();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    template
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(updated: i64, total: i64, available: i64) -> Value {
        json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3},
            "status": {"observedGeneration": 2, "updatedReplicas": updated, "replicas": total,
                "availableReplicas": available}})
    }

    #[test]
    fn progress_as_kubectl_tells_it() {
        let waiting = |d: Value| match progress(&d) {
            Progress::Waiting(text) => text,
            other => panic!("{other:?}"),
        };
        assert!(waiting(deployment(1, 4, 3)).contains("1 out of 3 new replicas have been updated"));
        assert!(waiting(deployment(3, 4, 3)).contains("1 old replicas are pending termination"));
        assert!(waiting(deployment(3, 3, 2)).contains("2 of 3 updated replicas are available"));
        let done = Progress::Done("deployment \"web\" successfully rolled out".into());
        assert_eq!(progress(&deployment(3, 3, 3)), done);
        let mut unseen = deployment(3, 3, 3);
        unseen["metadata"]["generation"] = json!(3);
        assert!(waiting(unseen).contains("spec update to be observed"));
    }

    #[test]
    fn going_back_takes_the_revisions_annotations_along() {
        let of = |annotations: Value| json!({"metadata": {"annotations": annotations}});
        let deployment = of(json!({CHANGE_CAUSE: "second", "mine": "1", REVISION: "2",
            LAST_APPLIED: "{}"}));
        let set = of(json!({CHANGE_CAUSE: "first", REVISION: "1",
            "deployment.kubernetes.io/desired-replicas": "3"}));
        assert_eq!(
            Value::Object(annotations_of_revision(&deployment, &set)),
            json!({CHANGE_CAUSE: "first", REVISION: "2", LAST_APPLIED: "{}"})
        );
    }
}
