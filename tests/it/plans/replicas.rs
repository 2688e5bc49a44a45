//! What ReplicationControllers plan: the same as ReplicaSets, with a bare map for a selector.

use super::*;

const CONTROLLER: &str = "replication-controller";

fn old(replicas: i32, status: Value) -> Value {
    json!({"kind": "ReplicationController", "metadata": {"name": "old", "generation": 2},
        "spec": {"replicas": replicas, "selector": {"app": "web"}, "template": template(1)},
        "status": status})
}

fn own(name: &str) -> Value {
    let mut pod = pod(name, "n1", "True");
    pod["metadata"]["ownerReferences"] = json!([owner("v1", "ReplicationController", "old")]);
    pod
}

#[test]
fn a_replication_controller_adopts_what_matches() {
    let mut orphan = pod("orphan", "n1", "True");
    orphan["metadata"]["ownerReferences"] = json!([]);
    let objects = Objects::new(&[old(1, json!({"replicas": 1})), orphan]);
    let text = objects.text(&objects.plan(CONTROLLER, "default/old"));
    let live =
        "check presence of replicationcontrollers default/old\nthen\npatch pods default/orphan";
    assert!(text.contains(live), "{text}");
    assert!(text.contains(r#""kind":"ReplicationController","name":"old""#), "{text}");
}

#[test]
fn a_replication_controller_fills_up_and_counts() {
    let objects = Objects::new(&[old(2, json!({"replicas": 0})), own("a")]);
    objects.check(
        CONTROLLER,
        "default/old",
        r#"update replicationcontrollers default/old status {"status":{"availableReplicas":1,"fullyLabeledReplicas":1,"observedGeneration":2,"readyReplicas":1,"replicas":1}}
           create pods default/* {"metadata":{"generateName":"old-","labels":{"app":"web"},"namespace":"default","ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"ReplicationController","name":"old","uid":"old-uid"}]},"spec":{"containers":[{"image":"v1","name":"c"}]}}"#,
    );
    let counted = json!({"availableReplicas": 1, "fullyLabeledReplicas": 1, "observedGeneration": 2,
        "readyReplicas": 1, "replicas": 1});
    let objects = Objects::new(&[old(1, counted.clone()), own("a")]);
    objects.check(CONTROLLER, "default/old", "");
    let objects = Objects::new(&[old(0, counted), own("a")]);
    objects.check(CONTROLLER, "default/old", "delete pods default/a");
}

/// A rollout counts on the available pods that a status tells of: those that are ready for too short a
/// time go first, whatever else there is to be said for them.
#[test]
fn pods_that_are_not_available_yet_are_given_up_before_those_that_are() {
    let ready = |name: &str, node: &str, since: &str| {
        let mut pod = own(name);
        pod["spec"]["nodeName"] = json!(node);
        pod["status"]["conditions"] =
            json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]);
        pod
    };
    let mut controller = old(2, json!({}));
    controller["spec"]["minReadySeconds"] = json!(10);
    let deleted = |controller: &Value| {
        let objects = Objects::new(&[
            controller.clone(),
            ready("a", "n1", "2026-01-01T00:59:48Z"),
            ready("b", "n1", "2026-01-01T00:59:48Z"),
            ready("c", "n2", "2026-01-01T00:59:55Z"),
        ]);
        let text = objects.text(&objects.plan(CONTROLLER, "default/old"));
        let found = text.lines().find_map(|line| line.strip_prefix("delete pods default/"));
        found.unwrap_or_default().to_string()
    };
    assert_eq!(deleted(&controller), "c");
    // Where all count as available, the node decides that has two of them.
    controller["spec"]["minReadySeconds"] = json!(0);
    assert_eq!(deleted(&controller), "a");
}
