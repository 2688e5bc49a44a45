//! `wasmctl run`: one pod of an image.

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Map, Value, json};

use super::args::{LogsArgs, RunArgs};
use super::discovery::text;
use super::get::Events;
use super::printer;
use super::session::Session;
use crate::api::Object;
use crate::client::remote::Query;

pub async fn run(session: &Session, args: &RunArgs) -> anyhow::Result<()> {
    let pod = Object::from_value(manifest(session, args)?)?;
    if args.dry_run {
        return Ok(printer::raw(serde_yaml::to_string(&pod.into_value())?.as_bytes())?);
    }
    let path = format!("/api/v1/namespaces/{}/pods?fieldManager=wasmctl-run", session.namespace);
    let created =
        session.object(Method::POST, &path, Some(("application/json", pod.to_json()))).await?;
    if !args.wait {
        return Ok(printer::line(&format!("pod/{} created", args.name))?);
    }
    let code = wait_end(session, &args.name, created.resource_version()).await?;
    let logs = LogsArgs {
        what: Some(args.name.clone()),
        selector: None,
        container: None,
        follow: false,
        previous: false,
        tail: None,
        since: None,
        timestamps: false,
        prefix: false,
    };
    super::logs::run(session, &logs).await?;
    if args.rm {
        let path = format!("/api/v1/namespaces/{}/pods/{}", session.namespace, args.name);
        session.json(Method::DELETE, &path, None).await?;
    }
    if code != 0 {
        bail!("the pod ended with exit code {code}");
    }
    Ok(())
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
    let restart = if args.wait && args.restart == "Always" { "Never" } else { &args.restart };
    Ok(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": args.name, "namespace": session.namespace, "labels": labels},
        "spec": {"containers": [container], "restartPolicy": restart},
    }))
}

fn pairs(words: &[String]) -> anyhow::Result<Map<String, Value>> {
    let pair = |word: &String| {
        let (name, value) =
            word.split_once('=').with_context(|| format!("{word:?} is not NAME=VALUE"))?;
        Ok((name.to_string(), json!(value)))
    };
    words.iter().map(pair).collect()
}

/// Waits until the pod has ended; its container's exit code.
async fn wait_end(session: &Session, name: &str, from: &str) -> anyhow::Result<i64> {
    let mut query = Query::default();
    query.add("watch", "true");
    query.add("fieldSelector", &format!("metadata.name={name}"));
    query.add("resourceVersion", from);
    let path = query.on(&format!("/api/v1/namespaces/{}/pods", session.namespace));
    let mut events = Events::open(session, &path, "application/json").await?;
    while let Some((kind, pod)) = events.next().await? {
        if kind == "DELETED" {
            bail!("pod {name} was deleted before it ended");
        }
        let state = pod.pointer("/status/containerStatuses/0/state");
        if let Some(waiting) = state.and_then(|s| s.get("waiting"))
            && matches!(text(waiting, "/reason"), "InvalidModule" | "CreateContainerConfigError")
        {
            bail!("{}: {}", text(waiting, "/reason"), text(waiting, "/message"));
        }
        if matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed") {
            let code =
                state.and_then(|s| s.pointer("/terminated/exitCode")).and_then(Value::as_i64);
            return code.context("the pod ended without an exit code");
        }
    }
    bail!("the watch ended before pod {name} did")
}
