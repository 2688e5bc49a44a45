//! Deployments and ReplicaSets.

use serde_json::Value;

use super::super::discovery::text;
use super::super::logs::selector_text;
use super::super::session::Session;
use super::page::{Page, items, number};
use super::pod;
use crate::api::Gvr;
use crate::api::jsonpath::plain;

const REVISION: &str = "/metadata/annotations/deployment.kubernetes.io~1revision";

pub async fn describe(session: &Session, page: &mut Page, object: &Value) -> anyhow::Result<()> {
    page.created(object);
    let none = Value::Null;
    let selector = selector_text(object.pointer("/spec/selector").unwrap_or(&none));
    page.field(0, "Selector", selector);
    let deployment = text(object, "/kind") == "Deployment";
    page.field(0, "Replicas", if deployment { replicas(object) } else { copies(object) });
    if deployment {
        strategy(page, object);
    }
    pod::template(page, object.pointer("/spec/template").unwrap_or(&none));
    page.conditions(object, &[("Type", "/type"), ("Status", "/status"), ("Reason", "/reason")]);
    if deployment {
        replica_sets(session, page, object).await?;
    }
    Ok(())
}

fn wanted(object: &Value) -> i64 {
    object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1)
}

fn replicas(deployment: &Value) -> String {
    let status = |field: &str| number(deployment, &format!("/status/{field}"));
    format!(
        "{} desired | {} updated | {} total | {} available | {} unavailable",
        wanted(deployment),
        status("updatedReplicas"),
        status("replicas"),
        status("availableReplicas"),
        status("unavailableReplicas")
    )
}

fn copies(set: &Value) -> String {
    format!(
        "{} current / {} desired / {} ready",
        number(set, "/status/replicas"),
        wanted(set),
        number(set, "/status/readyReplicas")
    )
}

fn strategy(page: &mut Page, deployment: &Value) {
    if deployment.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) {
        page.field(0, "Paused", "True");
    }
    page.field(0, "StrategyType", text(deployment, "/spec/strategy/type"));
    page.field(0, "MinReadySeconds", number(deployment, "/spec/minReadySeconds").to_string());
    if let Some(update) = deployment.pointer("/spec/strategy/rollingUpdate") {
        let bound = |field: &str| update.get(field).map(plain).unwrap_or_default();
        let (unavailable, surge) = (bound("maxUnavailable"), bound("maxSurge"));
        page.field(
            0,
            "RollingUpdateStrategy",
            format!("{unavailable} max unavailable, {surge} max surge"),
        );
    }
}

async fn replica_sets(
    session: &Session,
    page: &mut Page,
    deployment: &Value,
) -> anyhow::Result<()> {
    let gvr = Gvr::new("apps", "v1", "replicasets", true);
    let namespace = text(deployment, "/metadata/namespace");
    let list = session.get_json(&gvr.path(Some(namespace), None, None)).await?;
    let uid = text(deployment, "/metadata/uid");
    let own =
        |set: &&Value| items(set, "/metadata/ownerReferences").any(|o| text(o, "/uid") == uid);
    let revision = text(deployment, REVISION);
    let (new, old): (Vec<&Value>, Vec<&Value>) =
        items(&list, "/items").filter(own).partition(|set| text(set, REVISION) == revision);
    let told = |sets: &[&Value], all: bool| -> String {
        let sets = sets.iter().filter(|set| all || number(set, "/status/replicas") > 0);
        let texts: Vec<String> = sets
            .map(|set| {
                let (name, now) = (text(set, "/metadata/name"), number(set, "/status/replicas"));
                format!("{name} ({now}/{} replicas created)", wanted(set))
            })
            .collect();
        if texts.is_empty() { "<none>".into() } else { texts.join(", ") }
    };
    page.field(0, "OldReplicaSets", told(&old, false));
    page.field(0, "NewReplicaSet", told(&new, true));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn replicas_in_one_line() {
        let deployment = json!({"spec": {"replicas": 3}, "status": {"updatedReplicas": 2,
            "replicas": 4, "availableReplicas": 3, "unavailableReplicas": 1}});
        assert_eq!(
            replicas(&deployment),
            "3 desired | 2 updated | 4 total | 3 available | 1 unavailable"
        );
    }
}
