//! What Deployments plan.

use super::*;

/// The sizes that a Deployment's plan gives, as `web-h1 3→2`.
fn sizes(objects: &[Value]) -> Vec<String> {
    let objects = Objects::new(objects);
    let plan = objects.plan("deployment-controller", "default/web");
    let events = plan.notices.iter().filter(|notice| notice.reason == "ScalingReplicaSet");
    events.map(|notice| notice.message.clone()).collect()
}

#[test]
fn a_deployment_creates_its_replica_set() {
    let mut deployment = web(3, 1, json!({"maxSurge": "25%", "maxUnavailable": "25%"}));
    deployment["spec"]["progressDeadlineSeconds"] = json!(600);
    let objects = Objects::new(&[deployment]);
    let plan = objects.plan("deployment-controller", "default/web");
    let Write::Create { object, .. } = &plan.writes[0] else { panic!("{plan:?}") };
    let name = object.name().to_string();
    let hash = name.strip_prefix("web-").unwrap();
    assert_eq!(hash.len(), 10);
    assert_eq!(object.at(&["spec", "replicas"]), Some(&json!(3)));
    assert_eq!(object.labels()["pod-template-hash"], hash);
    let path = ["spec", "template", "metadata", "labels", "pod-template-hash"];
    assert_eq!(object.at(&path), Some(&json!(hash)));
    assert_eq!(
        object.at(&["spec", "selector", "matchLabels", "pod-template-hash"]),
        Some(&json!(hash))
    );
    assert_eq!(
        serde_json::to_value(object.annotations()).unwrap(),
        json!({"deployment.kubernetes.io/desired-replicas": "3",
            "deployment.kubernetes.io/max-replicas": "4",
            "deployment.kubernetes.io/revision": "1"})
    );
    assert!(matches!(plan.writes[1], Write::Then));
    let status = objects.line(&plan.writes[2]);
    for text in ["NewReplicaSetCreated", "MinimumReplicasUnavailable", "\"observedGeneration\":1"] {
        assert!(status.contains(text), "{status}");
    }
    assert_eq!(plan.notices[0].message, format!("Scaled up replica set {name} from 0 to 3"));
}

#[test]
fn a_taken_hash_counts_as_a_collision() {
    let first = Objects::new(&[web(3, 1, json!({}))]);
    let plan = first.plan("deployment-controller", "default/web");
    let Write::Create { object, .. } = &plan.writes[0] else { panic!("{plan:?}") };
    let mut other = set(9, 1, 1, 1, 1);
    other["metadata"]["name"] = json!(object.name());
    other["metadata"]["ownerReferences"] = json!([owner("apps/v1", "Deployment", "other")]);
    let objects = Objects::new(&[web(3, 1, json!({})), other]);
    objects.check(
        "deployment-controller",
        "default/web",
        r#"update deployments.apps default/web status {"status":{"collisionCount":1}}"#,
    );
}

#[test]
fn a_rolling_update_goes_step_by_step() {
    let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
    let step = |old: Value, new: Value| sizes(&[web(3, 2, rolling.clone()), old, new]);
    let scaled = |set: &str, from: i32, to: i32| {
        let way = if to > from { "up" } else { "down" };
        vec![format!("Scaled {way} replica set {set} from {from} to {to}")]
    };
    assert_eq!(step(set(1, 3, 3, 3, 4), set(2, 0, 0, 3, 4)), scaled("web-h2", 0, 1));
    // The new pod is not available yet: nothing goes.
    assert_eq!(step(set(1, 3, 3, 3, 4), set(2, 1, 0, 3, 4)), Vec::<String>::new());
    assert_eq!(step(set(1, 3, 3, 3, 4), set(2, 1, 1, 3, 4)), scaled("web-h1", 3, 2));
    assert_eq!(step(set(1, 2, 2, 3, 4), set(2, 1, 1, 3, 4)), scaled("web-h2", 1, 2));
    // The old ReplicaSet still has the pod that it is to give up: no third new one yet.
    let mut slow = set(1, 1, 1, 3, 4);
    slow["status"]["replicas"] = json!(2);
    assert_eq!(step(slow, set(2, 2, 2, 3, 4)), Vec::<String>::new());
    let mut unseen = set(1, 1, 1, 3, 4);
    unseen["metadata"]["generation"] = json!(2);
    assert_eq!(step(unseen, set(2, 2, 2, 3, 4)), Vec::<String>::new());
    assert_eq!(step(set(1, 1, 1, 3, 4), set(2, 3, 3, 3, 4)), scaled("web-h1", 1, 0));
}

#[test]
fn what_is_not_available_goes_first() {
    // Two broken pods of version 2 make room for version 3, and the good ones of version 1 stay.
    let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
    let mut newest = set(3, 0, 0, 3, 4);
    newest["metadata"]["generation"] = json!(1);
    let got = sizes(&[web(3, 3, rolling), set(1, 3, 3, 3, 4), set(2, 1, 0, 3, 4), newest]);
    assert_eq!(got, ["Scaled down replica set web-h2 from 1 to 0"]);
}

#[test]
fn percentages_round_up_for_surge_and_down_for_unavailable() {
    // 25 % of 10: 3 more, 2 fewer.
    let rolling = json!({"maxSurge": "25%", "maxUnavailable": "25%"});
    let got = sizes(&[web(10, 2, rolling.clone()), set(1, 10, 10, 10, 13), set(2, 0, 0, 10, 13)]);
    assert_eq!(got, ["Scaled up replica set web-h2 from 0 to 3"]);
    let got = sizes(&[web(10, 2, rolling), set(1, 10, 10, 10, 13), set(2, 3, 0, 10, 13)]);
    assert_eq!(got, ["Scaled down replica set web-h1 from 10 to 8"]);
}

#[test]
fn a_resized_rollout_is_scaled_in_proportion() {
    // 10 (+3) becomes 20 (+5), half way through: 8 and 5 get their shares of 12 more.
    let rolling = json!({"maxSurge": "25%", "maxUnavailable": "25%"});
    let got = sizes(&[web(20, 2, rolling), set(1, 8, 8, 10, 13), set(2, 5, 0, 10, 13)]);
    assert_eq!(
        got,
        ["Scaled up replica set web-h1 from 8 to 15", "Scaled up replica set web-h2 from 5 to 10"]
    );
}

#[test]
fn a_paused_deployment_is_scaled_but_not_rolled() {
    let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
    let mut paused = web(3, 2, rolling.clone());
    paused["spec"]["paused"] = json!(true);
    assert_eq!(sizes(&[paused, set(1, 3, 3, 3, 4)]), Vec::<String>::new());
    let mut paused = web(5, 2, rolling);
    paused["spec"]["paused"] = json!(true);
    let got = sizes(&[paused, set(1, 3, 3, 3, 4)]);
    assert_eq!(got, ["Scaled up replica set web-h1 from 3 to 5"]);
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut deployment = web(2, 2, json!(null));
    deployment["spec"]["strategy"] = json!({"type": "Recreate"});
    let old = pod("web-h1-a", "n1", "True");
    let got = sizes(&[deployment.clone(), set(1, 2, 2, 2, 2), old.clone()]);
    assert_eq!(got, ["Scaled down replica set web-h1 from 2 to 0"]);
    assert_eq!(sizes(&[deployment.clone(), set(1, 0, 0, 2, 2), old]), Vec::<String>::new());
    let got = sizes(&[deployment, set(1, 0, 0, 2, 2)]);
    assert!(got[0].ends_with("from 0 to 2"), "{got:?}");
}

#[test]
fn a_rollback_gives_the_old_set_a_new_revision() {
    let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
    let mut deployment = web(3, 1, rolling);
    deployment["metadata"]["annotations"] = json!({"deployment.kubernetes.io/revision": "2"});
    let objects = Objects::new(&[deployment, set(1, 0, 0, 3, 4), set(2, 3, 3, 3, 4)]);
    objects.check(
        "deployment-controller",
        "default/web",
        r#"
        update deployments.apps default/web status {"metadata":{"annotations":{"deployment.kubernetes.io/revision":"3"}}}
        update replicasets.apps default/web-h1 {"metadata":{"annotations":{"deployment.kubernetes.io/revision":"3","deployment.kubernetes.io/revision-history":"1"}}}
        "#,
    );
}

#[test]
fn a_rollout_that_stands_still_runs_into_its_deadline() {
    let mut deployment = web(3, 1, json!({"maxSurge": 1, "maxUnavailable": 0}));
    deployment["spec"]["progressDeadlineSeconds"] = json!(60);
    let since = |time: &str| {
        json!([{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
            "lastUpdateTime": time, "lastTransitionTime": time}])
    };
    let counts = json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3,
        "unavailableReplicas": 3});
    deployment["status"] = counts.clone();
    deployment["status"]["conditions"] = since("2026-01-01T00:58:00Z");
    let objects = Objects::new(&[deployment.clone(), set(1, 3, 0, 3, 4)]);
    let text = objects.text(&objects.plan("deployment-controller", "default/web"));
    assert!(text.contains("ProgressDeadlineExceeded"), "{text}");
    deployment["status"]["conditions"] = since("2026-01-01T00:59:30Z");
    let objects = Objects::new(&[deployment, set(1, 3, 0, 3, 4)]);
    let text = objects.text(&objects.plan("deployment-controller", "default/web"));
    assert!(text.contains("again after 31s"), "{text}");
}

/// `web` at version 1 with a condition Progressing and the counts of a status, and a deadline of a
/// minute.
fn progressing(reason: &str, since: &str, counts: Value) -> Value {
    let mut deployment = web(3, 1, json!({"maxSurge": 1, "maxUnavailable": 0}));
    deployment["spec"]["progressDeadlineSeconds"] = json!(60);
    deployment["status"] = counts;
    deployment["status"]["observedGeneration"] = json!(1);
    deployment["status"]["conditions"] = json!([{"type": "Progressing", "status": "Unknown",
        "reason": reason, "lastUpdateTime": since, "lastTransitionTime": since}]);
    deployment
}

#[test]
fn a_resumed_deployment_has_its_deadline_anew() {
    let counts = json!({"replicas": 3, "updatedReplicas": 3, "unavailableReplicas": 3});
    let deployment = progressing("DeploymentPaused", "2026-01-01T00:10:00Z", counts);
    let objects = Objects::new(&[deployment, set(1, 3, 0, 3, 4)]);
    let text = objects.text(&objects.plan("deployment-controller", "default/web"));
    assert!(text.contains("DeploymentResumed"), "{text}");
    assert!(text.contains("again after 61s"), "{text}");
}

#[test]
fn a_complete_deployment_that_lost_pods_waits_for_no_deadline() {
    let counts = json!({"replicas": 3, "updatedReplicas": 3, "availableReplicas": 2,
        "readyReplicas": 2, "unavailableReplicas": 1});
    let deployment = progressing("NewReplicaSetAvailable", "2026-01-01T00:10:00Z", counts);
    let objects = Objects::new(&[deployment, set(1, 3, 2, 3, 4)]);
    let plan = objects.plan("deployment-controller", "default/web");
    assert_eq!(plan.again_after, None, "{}", objects.text(&plan));
}

#[test]
fn a_paused_deployment_keeps_its_records() {
    let mut paused = web(3, 1, json!({"maxSurge": 1, "maxUnavailable": 0}));
    paused["spec"]["paused"] = json!(true);
    paused["metadata"]["annotations"] = json!({"deployment.kubernetes.io/revision": "2"});
    let objects = Objects::new(&[paused, set(1, 0, 0, 3, 4), set(2, 3, 3, 3, 4)]);
    objects.check(
        "deployment-controller",
        "default/web",
        r#"
        update deployments.apps default/web status {"metadata":{"annotations":{"deployment.kubernetes.io/revision":"3"}}}
        update replicasets.apps default/web-h1 {"metadata":{"annotations":{"deployment.kubernetes.io/revision":"3","deployment.kubernetes.io/revision-history":"1"}}}
        "#,
    );
}

#[test]
fn nothing_is_created_in_a_namespace_that_ends() {
    let namespace = json!({"kind": "Namespace",
        "metadata": {"name": "default", "deletionTimestamp": "2026-01-01T00:59:00Z"}});
    let objects = Objects::new(&[web(3, 1, json!({})), namespace.clone()]);
    objects.check("deployment-controller", "default/web", "");
    let objects = Objects::new(&[set(1, 3, 0, 3, 4), namespace]);
    let text = objects.text(&objects.plan("replicaset-controller", "default/web-h1"));
    assert!(!text.contains("create"), "{text}");
}
