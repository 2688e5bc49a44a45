//! `wasmctl run`: one pod of an image; with `--wait` as if its program were run here.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Map, Value, json};

use super::args::{DryRun, LogsArgs, RunArgs};
use super::create;
use super::discovery::text;
use super::logs;
use super::printer;
use super::report::{self, Report};
use super::selection::{self, Selected};
use super::session::Session;
use super::watch;

/// A pod that runs has its grace period to end in.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

/// The pod ended, and not well; `wasmctl` ends with its exit code.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("pod {name} ended with exit code {code}{why}")]
pub struct PodFailed {
    name: String,
    code: i64,
    /// ` (OOMKilled)`, or nothing.
    why: String,
}

impl PodFailed {
    pub fn exit_code(&self) -> ExitCode {
        match u8::try_from(self.code) {
            Ok(code) if code != 0 => ExitCode::from(code),
            _ => ExitCode::FAILURE,
        }
    }
}

pub async fn run(session: &Session, args: &RunArgs) -> anyhow::Result<()> {
    let dry_run = args.outcome.dry_run();
    let made = manifest(session, args)?;
    let (title, created) = create::create_made(session, made, dry_run).await?;
    if !args.wait || dry_run != DryRun::None {
        let output = args.outcome.output.as_deref();
        let output = output.or((dry_run == DryRun::Client).then_some("yaml"));
        let mut report = Report::new(output, dry_run)?;
        report.done(&title, "created", created)?;
        return report.finish();
    }
    let pod = selection::named(session, &["pods".to_string(), args.name.clone()]).await?.remove(0);
    let ended = tokio::select! {
        ended = end_and_log(session, &pod) => ended,
        _ = tokio::signal::ctrl_c(), if args.rm => Err(anyhow::anyhow!("interrupted")),
    };
    // Whatever happened, the pod goes; errors of both are told.
    let removed = match args.rm {
        true => remove(session, &pod).await,
        false => Ok(()),
    };
    let failed: Vec<anyhow::Error> = removed.err().into_iter().chain(ended.err()).collect();
    report::errors(failed)
}

fn manifest(session: &Session, args: &RunArgs) -> anyhow::Result<Value> {
    let mut labels = pairs(&args.labels)?;
    if labels.is_empty() {
        labels.insert("run".into(), json!(args.name));
    }
    let env = pairs(&args.env)?;
    let env: Vec<Value> =
        env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let mut container = json!({"name": args.name, "image": args.image});
    if !env.is_empty() {
        container["env"] = json!(env);
    }
    if !args.args.is_empty() {
        container["args"] = json!(args.args);
    }
    if let Some(port) = args.port {
        container["ports"] = json!([{"containerPort": port}]);
    }
    // A pod that is always restarted never ends.
    let restart = if args.wait && args.restart == "Always" { "Never" } else { &args.restart };
    Ok(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": args.name, "namespace": session.namespace, "labels": labels},
        "spec": {"containers": [container], "restartPolicy": restart},
    }))
}

fn pairs(words: &[String]) -> anyhow::Result<Map<String, Value>> {
    let pair = |word: &str| {
        let (name, value) =
            word.split_once('=').with_context(|| format!("{word:?} is not NAME=VALUE"))?;
        Ok((name.to_string(), json!(value)))
    };
    words.iter().map(|word| pair(word)).collect()
}

async fn end_and_log(session: &Session, pod: &Selected) -> anyhow::Result<()> {
    let namespace = Some(session.namespace.as_str());
    let mut told = String::new();
    let failed =
        watch::until(session, pod, namespace, |live| outcome(pod, live, &mut told)).await?;
    let log = logs::run(session, &LogsArgs::of_pod(pod.name.as_deref().unwrap_or_default())).await;
    match failed {
        // The exit code says more than a log that cannot be read.
        Some(failed) => {
            if let Err(error) = log {
                printer::note(&format!("error: {}", printer::error_text(&error)));
            }
            Err(failed.into())
        }
        None => log,
    }
}

/// How the pod ended, once it has; what it waits for is told once.
fn outcome(
    pod: &Selected,
    live: Option<&Value>,
    told: &mut String,
) -> anyhow::Result<Option<Option<PodFailed>>> {
    let name = pod.name.clone().unwrap_or_default();
    let live = live.with_context(|| format!("pod {name} was deleted before it ended"))?;
    let state = live.pointer("/status/containerStatuses/0/state");
    if let Some(waiting) = state.and_then(|s| s.get("waiting")) {
        let (reason, message) = (text(waiting, "/reason"), text(waiting, "/message"));
        if reason == "InvalidModule" {
            bail!("{reason}: {message}");
        }
        // What may still get better is told, and waited for.
        if !message.is_empty() && reason != told {
            printer::note(&format!("waiting: {reason}: {message}"));
            *told = reason.to_string();
        }
    }
    let phase = text(live, "/status/phase");
    if !matches!(phase, "Succeeded" | "Failed") {
        return Ok(None);
    }
    let ended = state.and_then(|s| s.get("terminated"));
    let code = ended.and_then(|e| e.get("exitCode")).and_then(Value::as_i64);
    match code {
        Some(0) if phase == "Succeeded" => Ok(Some(None)),
        Some(code) => {
            let reason = ended.map_or("", |e| text(e, "/reason"));
            let told = !matches!(reason, "" | "Error" | "Completed");
            let why = if told { format!(" ({reason})") } else { String::new() };
            Ok(Some(Some(PodFailed { name, code, why })))
        }
        None => {
            let (reason, message) = (text(live, "/status/reason"), text(live, "/status/message"));
            bail!("pod {name} ended without having run: {reason} {message}")
        }
    }
}

/// Deletes the pod, and waits until its name is free for the next run.
async fn remove(session: &Session, pod: &Selected) -> anyhow::Result<()> {
    let namespace = Some(session.namespace.as_str());
    let work = async {
        match session.json(Method::DELETE, &pod.path(namespace), None).await {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        watch::until(session, pod, namespace, |live| Ok(live.is_none().then_some(()))).await
    };
    let done = match tokio::time::timeout(REMOVAL_LIMIT, work).await {
        Ok(done) => done,
        Err(_) => Err(anyhow::anyhow!("still there after {} seconds", REMOVAL_LIMIT.as_secs())),
    };
    done.with_context(|| format!("{} could not be deleted", pod.title()))
}

#[cfg(test)]
mod tests {
    use super::super::discovery::Resource;
    use super::*;
    use crate::api::Gvr;

    fn ended(live: Value) -> anyhow::Result<Option<Option<PodFailed>>> {
        let resource = Resource {
            gvr: Gvr::new("", "v1", "pods", true),
            kind: "Pod".into(),
            singular: "pod".into(),
            short_names: vec![],
            categories: vec![],
            subresources: vec![],
        };
        let pod = Selected { resource, name: Some("p".into()) };
        outcome(&pod, Some(&live).filter(|live| !live.is_null()), &mut String::new())
    }

    fn terminated(phase: &str, code: i64, reason: &str) -> Value {
        let state = json!({"terminated": {"exitCode": code, "reason": reason}});
        json!({"status": {"phase": phase, "containerStatuses": [{"state": state}]}})
    }

    #[test]
    fn the_pods_exit_code_is_the_commands() {
        assert_eq!(ended(json!({"status": {"phase": "Running"}})).unwrap(), None);
        assert_eq!(ended(terminated("Succeeded", 0, "Completed")).unwrap(), Some(None));
        let failed = ended(terminated("Failed", 7, "Error")).unwrap().flatten().unwrap();
        assert_eq!(failed.to_string(), "pod p ended with exit code 7");
        assert_eq!(failed.exit_code(), ExitCode::from(7));
        let killed = ended(terminated("Failed", 137, "OOMKilled")).unwrap().flatten().unwrap();
        assert_eq!(killed.to_string(), "pod p ended with exit code 137 (OOMKilled)");
        let wide = PodFailed { code: 256, ..killed };
        assert_eq!(wide.exit_code(), ExitCode::FAILURE);
        assert!(ended(Value::Null).unwrap_err().to_string().contains("deleted before it ended"));
        let evicted = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
        assert!(ended(evicted).unwrap_err().to_string().contains("Evicted"));
    }
}
