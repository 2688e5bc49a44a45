//! `wasmctl drain`: keeps new pods off nodes, and lets those that are there leave by eviction, so that
//! their disruption budgets are kept (or by deletion, whatever they say, where the user wants that).
//! What would be lost is left alone unless the user says so.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::args::DrainArgs;
use super::discovery::text;
use super::selection::Selected;
use super::session::Session;
use super::{cordon, printer, report};
use crate::api::ApiError;
use crate::client::remote::Query;

/// Pods that leave at the same time.
const AT_ONCE: usize = 16;
/// Between two tries where a budget does not let a pod go (kubectl's).
const BUDGET_WAIT: Duration = Duration::from_secs(5);
/// Between two looks whether a pod is gone.
const GONE_WAIT: Duration = Duration::from_millis(250);
/// The annotation of pods that a node made of a file of its own; nobody evicts those.
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

pub async fn run(session: &Session, args: &DrainArgs) -> anyhow::Result<()> {
    let deadline = args.timeout.filter(|seconds| *seconds > 0);
    let deadline = deadline.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let nodes = cordon::nodes(session, &args.which).await?;
    let mut failed = Vec::new();
    for node in &nodes {
        cordon::set(session, node, true).await?;
    }
    for node in &nodes {
        match drain(session, args, node, deadline).await {
            Ok(()) => printer::line(&format!("{} drained", node.title()))?,
            Err(error) => {
                failed.push(error.context(format!("unable to drain {}", node.title())));
            }
        }
    }
    report::errors(failed)
}

async fn drain(
    session: &Session,
    args: &DrainArgs,
    node: &Selected,
    deadline: Option<Instant>,
) -> anyhow::Result<()> {
    let name = node.name.as_deref().unwrap_or_default();
    let mut query = Query::default();
    query.add("fieldSelector", &format!("spec.nodeName={name}"));
    query.add("labelSelector", args.pod_selector.as_deref().unwrap_or_default());
    let list = session.get_json(&query.on("/api/v1/pods")).await?;
    let pods = list.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
    let (mut leaving, mut hindered, mut ignored) = (Vec::new(), Vec::new(), Vec::new());
    for pod in &pods {
        match look(pod, args) {
            Fate::Leaves => leaving.push(pod),
            Fate::Stays(why) => ignored.push(format!("{} ({why})", title(pod))),
            Fate::Hinders(why) => hindered.push(format!("{}: {why}", title(pod))),
        }
    }
    if !hindered.is_empty() {
        bail!("{}", hindered.join("; "));
    }
    if !ignored.is_empty() {
        printer::note(&format!("Warning: left where they are: {}", ignored.join(", ")));
    }
    let leave = |pod| leave(session, args, pod, deadline);
    let results: Vec<anyhow::Result<()>> =
        futures::stream::iter(leaving).map(leave).buffer_unordered(AT_ONCE).collect().await;
    report::errors(results.into_iter().filter_map(Result::err).collect())
}

/// What a drain does with a pod.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Leaves,
    Stays(&'static str),
    /// Nothing leaves until the user says what to do.
    Hinders(&'static str),
}

fn look(pod: &Value, args: &DrainArgs) -> Fate {
    if pod.pointer(MIRROR).is_some() {
        return Fate::Stays("of its node itself");
    }
    // What has ended has nothing to lose.
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return Fate::Leaves;
    }
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let controller = owners.into_iter().flatten().find(|owner| owner["controller"] == true);
    if controller.is_some_and(|owner| owner["kind"] == "DaemonSet") {
        // Its controller would make it anew, since DaemonSets go where nobody else may.
        return match args.ignore_daemonsets {
            true => Fate::Stays("of a DaemonSet"),
            false => Fate::Hinders("is managed by a DaemonSet (use --ignore-daemonsets)"),
        };
    }
    if controller.is_none() && !args.force {
        return Fate::Hinders("is managed by no controller, and would be lost (use --force)");
    }
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let keeps_data = volumes.into_iter().flatten().any(|one| one.get("emptyDir").is_some());
    if keeps_data && !args.delete_emptydir_data {
        return Fate::Hinders("has data of its own in an emptyDir (use --delete-emptydir-data)");
    }
    Fate::Leaves
}

fn title(pod: &Value) -> String {
    format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name"))
}

/// The request by which a pod leaves, and the word for it.
fn request(pod: &Value, args: &DrainArgs) -> (Method, String, Value, &'static str) {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let mut options = json!({"preconditions": {"uid": text(pod, "/metadata/uid")}});
    if let Some(seconds) = args.grace_period.filter(|seconds| *seconds >= 0) {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    if args.disable_eviction {
        options["apiVersion"] = json!("v1");
        options["kind"] = json!("DeleteOptions");
        return (Method::DELETE, path, options, "deleted");
    }
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace}, "deleteOptions": options});
    (Method::POST, format!("{path}/eviction"), eviction, "evicted")
}

/// Evicts a pod, again and again while its budget does not let it go, and waits until it is gone.
async fn leave(
    session: &Session,
    args: &DrainArgs,
    pod: &Value,
    deadline: Option<Instant>,
) -> anyhow::Result<()> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let uid = text(pod, "/metadata/uid");
    let (method, path, body, done) = request(pod, args);
    let body = body.to_string().into_bytes();
    let word = if args.disable_eviction { "deleting" } else { "evicting" };
    printer::note(&format!("{word} pod {namespace}/{name}"));
    loop {
        let body = Some(("application/json", body.clone()));
        match session.json(method.clone(), &path, body).await {
            Ok(_) => break,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) if error.code == 429 => {
                let text = &error.message;
                printer::note(&format!("{namespace}/{name}: {text} (again in {BUDGET_WAIT:?})"));
                wait(BUDGET_WAIT, deadline, pod).await?;
            }
            Err(error) => return Err(error).with_context(|| format!("{word} {}", title(pod))),
        }
    }
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    loop {
        match session.get_json(&path).await {
            Ok(now) if text(&now, "/metadata/uid") == uid => {
                wait(GONE_WAIT, deadline, pod).await?;
            }
            Ok(_) => break,
            Err(error) if error.is_not_found() => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(printer::line(&format!("pod/{name} {done}"))?)
}

/// The pod is not there, or another one has its name.
fn is_gone(error: &ApiError) -> bool {
    error.is_not_found() || error.is_conflict()
}

async fn wait(time: Duration, deadline: Option<Instant>, pod: &Value) -> anyhow::Result<()> {
    if deadline.is_some_and(|deadline| Instant::now() + time > deadline) {
        bail!("{} did not leave in time", title(pod));
    }
    tokio::time::sleep(time).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn args(words: &[&str]) -> DrainArgs {
        let words = [&["wasmctl", "drain", "n1"], words].concat();
        match crate::cli::args::Cli::try_parse_from(words).map(|cli| cli.verb) {
            Ok(crate::cli::args::Verb::Drain(args)) => args,
            Ok(_) => panic!("another verb"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn what_would_be_lost_hinders_until_the_user_says_so() {
        let owned = |kind: &str| json!([{"kind": kind, "name": "x", "controller": true}]);
        let pod = |owners: Value, volumes: Value, phase: &str| {
            json!({"metadata": {"ownerReferences": owners}, "spec": {"volumes": volumes},
                "status": {"phase": phase}})
        };
        let hinders =
            |pod: &Value, words: &[&str]| matches!(look(pod, &args(words)), Fate::Hinders(_));
        let replica = pod(owned("ReplicaSet"), json!([]), "Running");
        assert_eq!(look(&replica, &args(&[])), Fate::Leaves);
        let daemon = pod(owned("DaemonSet"), json!([]), "Running");
        assert!(hinders(&daemon, &["--force"]));
        let ignored = look(&daemon, &args(&["--ignore-daemonsets"]));
        assert!(matches!(ignored, Fate::Stays(_)), "{ignored:?}");
        let alone = pod(json!([]), json!([]), "Running");
        assert!(hinders(&alone, &[]) && !hinders(&alone, &["--force"]));
        let data = pod(owned("StatefulSet"), json!([{"name": "v", "emptyDir": {}}]), "Running");
        assert!(hinders(&data, &["--force"]) && !hinders(&data, &["--delete-emptydir-data"]));
        let ended = pod(json!([]), json!([{"name": "v", "emptyDir": {}}]), "Succeeded");
        assert_eq!(look(&ended, &args(&[])), Fate::Leaves);
        let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}});
        assert!(matches!(look(&mirror, &args(&[])), Fate::Stays(_)));
    }

    #[test]
    fn pods_leave_by_eviction_unless_the_user_says_so() {
        let pod = json!({"metadata": {"namespace": "n", "name": "p", "uid": "u"}});
        let (method, path, body, word) = request(&pod, &args(&["--grace-period", "5"]));
        assert_eq!((method, path.as_str()), (Method::POST, "/api/v1/namespaces/n/pods/p/eviction"));
        let options = json!({"preconditions": {"uid": "u"}, "gracePeriodSeconds": 5});
        assert_eq!((&body["deleteOptions"], word), (&options, "evicted"));
        let (method, path, body, word) = request(&pod, &args(&["--disable-eviction"]));
        assert_eq!((method, path.as_str()), (Method::DELETE, "/api/v1/namespaces/n/pods/p"));
        assert_eq!((&body["preconditions"]["uid"], word), (&json!("u"), "deleted"));
    }
}
