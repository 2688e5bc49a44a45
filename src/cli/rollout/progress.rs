//! How far a rollout is: the judgements that `kubectl rollout status` makes of a Deployment, a
//! DaemonSet and a StatefulSet. Pure.
//! Source: k8s.io/kubectl pkg/polymorphichelpers/rollout_status.go.

use serde_json::Value;

use crate::cli::discovery::text;

use super::Workload;

/// How far a rollout is.
#[derive(Debug, PartialEq)]
pub enum Progress {
    Waiting(String),
    Done(String),
    Failed(String),
}

use Progress::{Done, Failed, Waiting};

pub fn of(workload: Workload, object: &Value) -> Progress {
    match workload {
        Workload::Deployment => deployment(object),
        Workload::DaemonSet => rolling(object).unwrap_or_else(|| daemon_set(object)),
        Workload::StatefulSet => rolling(object).unwrap_or_else(|| stateful_set(object)),
    }
}

fn number(object: &Value, path: &str) -> i64 {
    object.pointer(path).and_then(Value::as_i64).unwrap_or_default()
}

fn is_seen(object: &Value) -> bool {
    number(object, "/metadata/generation") <= number(object, "/status/observedGeneration")
}

/// Nobody replaces the pods of a set whose strategy is OnDelete.
fn rolling(object: &Value) -> Option<Progress> {
    let is_rolling = text(object, "/spec/updateStrategy/type") == "RollingUpdate";
    let why = "rollout status is only available for RollingUpdate strategy type";
    (!is_rolling).then(|| Failed(why.into()))
}

fn deployment(object: &Value) -> Progress {
    let name = text(object, "/metadata/name");
    if !is_seen(object) {
        return Waiting("Waiting for deployment spec update to be observed...".into());
    }
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let late = conditions.into_iter().flatten().any(|condition| {
        text(condition, "/type") == "Progressing"
            && text(condition, "/reason") == "ProgressDeadlineExceeded"
    });
    if late {
        return Failed(format!("deployment {name:?} exceeded its progress deadline"));
    }
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let updated = number(object, "/status/updatedReplicas");
    let total = number(object, "/status/replicas");
    let available = number(object, "/status/availableReplicas");
    let waiting = |what: String| {
        Waiting(format!("Waiting for deployment {name:?} rollout to finish: {what}..."))
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
    Done(format!("deployment {name:?} successfully rolled out"))
}

fn daemon_set(object: &Value) -> Progress {
    let name = text(object, "/metadata/name");
    if !is_seen(object) {
        return Waiting("Waiting for daemon set spec update to be observed...".into());
    }
    let wanted = number(object, "/status/desiredNumberScheduled");
    let updated = number(object, "/status/updatedNumberScheduled");
    let available = number(object, "/status/numberAvailable");
    let waiting = |what: String| {
        Waiting(format!("Waiting for daemon set {name:?} rollout to finish: {what}..."))
    };
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new pods have been updated"));
    }
    if available < wanted {
        return waiting(format!("{available} of {wanted} updated pods are available"));
    }
    Done(format!("daemon set {name:?} successfully rolled out"))
}

fn stateful_set(object: &Value) -> Progress {
    if number(object, "/status/observedGeneration") == 0 || !is_seen(object) {
        return Waiting("Waiting for statefulset spec update to be observed...".into());
    }
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let ready = number(object, "/status/readyReplicas");
    if ready < wanted {
        return Waiting(format!("Waiting for {} pods to be ready...", wanted - ready));
    }
    let updated = number(object, "/status/updatedReplicas");
    let partition = number(object, "/spec/updateStrategy/rollingUpdate/partition");
    if partition > 0 {
        let due = wanted - partition;
        return if updated < due {
            Waiting(format!(
                "Waiting for partitioned roll out to finish: {updated} out of {due} new pods have \
                 been updated..."
            ))
        } else {
            Done(format!("partitioned roll out complete: {updated} new pods have been updated..."))
        };
    }
    let (current, update) =
        (text(object, "/status/currentRevision"), text(object, "/status/updateRevision"));
    if current != update {
        return Waiting(format!(
            "waiting for statefulset rolling update to complete {updated} pods at revision {update}..."
        ));
    }
    let pods = number(object, "/status/currentReplicas");
    Done(format!("statefulset rolling update complete {pods} pods at revision {current}..."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn waiting(workload: Workload, object: &Value) -> String {
        match of(workload, object) {
            Waiting(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn deployments_as_kubectl_tells_it() {
        let of_counts = |updated: i64, total: i64, available: i64| {
            json!({"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 3},
                "status": {"observedGeneration": 2, "updatedReplicas": updated,
                    "replicas": total, "availableReplicas": available}})
        };
        let waiting = |d: Value| waiting(Workload::Deployment, &d);
        assert!(waiting(of_counts(1, 4, 3)).contains("1 out of 3 new replicas have been updated"));
        assert!(waiting(of_counts(3, 4, 3)).contains("1 old replicas are pending termination"));
        assert!(waiting(of_counts(3, 3, 2)).contains("2 of 3 updated replicas are available"));
        let done = Done("deployment \"web\" successfully rolled out".into());
        assert_eq!(of(Workload::Deployment, &of_counts(3, 3, 3)), done);
        let mut unseen = of_counts(3, 3, 3);
        unseen["metadata"]["generation"] = json!(3);
        assert!(waiting(unseen).contains("spec update to be observed"));
    }

    #[test]
    fn daemon_sets_as_kubectl_tells_it() {
        let of_counts = |generation: i64, updated: i64, available: i64| {
            json!({"metadata": {"name": "log", "generation": generation},
                "spec": {"updateStrategy": {"type": "RollingUpdate"}},
                "status": {"observedGeneration": 2, "desiredNumberScheduled": 2,
                    "updatedNumberScheduled": updated, "numberAvailable": available}})
        };
        let waiting = |d: Value| waiting(Workload::DaemonSet, &d);
        assert!(waiting(of_counts(3, 2, 2)).contains("spec update to be observed"));
        assert!(waiting(of_counts(2, 1, 2)).contains("1 out of 2 new pods have been updated"));
        assert!(waiting(of_counts(2, 2, 1)).contains("1 of 2 updated pods are available"));
        let done = Done("daemon set \"log\" successfully rolled out".into());
        assert_eq!(of(Workload::DaemonSet, &of_counts(2, 2, 2)), done);
        let mut by_hand = of_counts(2, 2, 2);
        by_hand["spec"]["updateStrategy"]["type"] = "OnDelete".into();
        assert!(matches!(of(Workload::DaemonSet, &by_hand), Failed(_)));
    }

    #[test]
    fn stateful_sets_as_kubectl_tells_it() {
        let set = |ready: i64, updated: i64, partition: i64, current: &str| {
            json!({"metadata": {"name": "db", "generation": 1}, "spec": {"replicas": 3,
                "updateStrategy": {"type": "RollingUpdate",
                    "rollingUpdate": {"partition": partition}}},
                "status": {"observedGeneration": 1, "readyReplicas": ready,
                    "updatedReplicas": updated, "currentReplicas": 3, "currentRevision": current,
                    "updateRevision": "db-2"}})
        };
        let waiting = |s: Value| waiting(Workload::StatefulSet, &s);
        assert_eq!(waiting(set(2, 1, 0, "db-1")), "Waiting for 1 pods to be ready...");
        assert!(waiting(set(3, 1, 0, "db-1")).contains("1 pods at revision db-2"));
        assert!(waiting(set(3, 0, 2, "db-1")).contains("0 out of 1 new pods have been updated"));
        let done = |s: Value| matches!(of(Workload::StatefulSet, &s), Done(_));
        assert!(done(set(3, 1, 2, "db-1")) && done(set(3, 3, 0, "db-2")));
        let mut unseen = set(3, 3, 0, "db-2");
        unseen["status"] = json!({});
        assert!(waiting(unseen).contains("spec update to be observed"));
    }
}
