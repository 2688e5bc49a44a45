//! Disruption budgets: how many pods may be evicted now.

use super::*;

fn budget(spec: Value, status: Value) -> Value {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    json!({"kind": "PodDisruptionBudget", "metadata": {"name": "web", "generation": 2},
        "spec": spec, "status": status})
}

/// `expectedPods`, `currentHealthy`, `desiredHealthy` and `disruptionsAllowed` as planned.
fn counts(objects: &Objects) -> (i64, i64, i64, i64) {
    let plan = objects.plan("disruption-controller", "default/web");
    let Some(Write::Update { object, target }) = plan.writes.first() else {
        panic!("{}", objects.text(&plan))
    };
    assert_eq!(target.subresource.as_deref(), Some("status"));
    assert_eq!(object.at(&["status", "observedGeneration"]), Some(&json!(2)));
    let number =
        |field: &str| object.at(&["status", field]).and_then(Value::as_i64).unwrap_or_default();
    (
        number("expectedPods"),
        number("currentHealthy"),
        number("desiredHealthy"),
        number("disruptionsAllowed"),
    )
}

fn with_pods(budget: Value) -> Vec<Value> {
    let mut going = pod("going", "n1", "True");
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:59Z");
    let mut stranger = pod("stranger", "n1", "True");
    stranger["metadata"]["labels"] = json!({"app": "other"});
    vec![
        budget,
        web(4, 1, json!({})),
        {
            let mut set = set(1, 4, 4, 4, 5);
            set["spec"]["replicas"] = json!(9);
            set
        },
        pod("a", "n1", "True"),
        pod("b", "n1", "True"),
        pod("c", "n2", "True"),
        pod("sick", "n2", "False"),
        going,
        stranger,
    ]
}

#[test]
fn disruptions_are_what_is_healthy_beyond_need() {
    let of = |spec: Value| counts(&Objects::new(&with_pods(budget(spec, json!({})))));
    assert_eq!(of(json!({"minAvailable": 2})), (5, 3, 2, 1));
    assert_eq!(of(json!({"minAvailable": 9})), (5, 3, 9, 0));
    // Percentages are of what the Deployment is asked for, not of what its ReplicaSet has.
    assert_eq!(of(json!({"minAvailable": "30%"})), (4, 3, 2, 1));
    assert_eq!(of(json!({"maxUnavailable": 2})), (4, 3, 2, 1));
    assert_eq!(of(json!({"maxUnavailable": "100%"})), (4, 3, 0, 3));
    // A budget that guards nothing allows nothing: its first pod may not be counted yet.
    let alone = Objects::new(&[budget(json!({"minAvailable": 0}), json!({}))]);
    assert_eq!(counts(&alone), (0, 0, 0, 0));
}

#[test]
fn a_budget_that_is_right_stays_and_one_that_cannot_be_counted_allows_nothing() {
    let condition = json!([{"type": "DisruptionAllowed", "status": "True", "message": "",
        "reason": "SufficientPods", "observedGeneration": 2,
        "lastTransitionTime": "2026-01-01T00:10:00Z"}]);
    let status = json!({"expectedPods": 5, "currentHealthy": 3, "desiredHealthy": 2,
        "disruptionsAllowed": 1, "observedGeneration": 2, "conditions": condition});
    let spec = json!({"minAvailable": 2});
    let objects = Objects::new(&with_pods(budget(spec, status.clone())));
    objects.check("disruption-controller", "default/web", "");
    let mut lost = with_pods(budget(json!({"maxUnavailable": 1}), status));
    lost.retain(|object| object["kind"] != "ReplicaSet");
    let objects = Objects::new(&lost);
    let text = objects.text(&objects.plan("disruption-controller", "default/web"));
    assert!(text.contains(r#""disruptionsAllowed":0"#), "{text}");
    assert!(text.contains(r#""reason":"SyncFailed","status":"False""#), "{text}");
    assert!(text.contains(r#"found no controllers for pod "a""#), "{text}");
}

#[test]
fn evicted_pods_count_as_gone_for_a_while() {
    let status = json!({"disruptedPods": {"a": "2026-01-01T00:59:00Z",
        "b": "2026-01-01T00:57:00Z", "going": "2026-01-01T00:59:00Z",
        "gone": "2026-01-01T00:59:00Z"}});
    let objects = Objects::new(&with_pods(budget(json!({"minAvailable": 1}), status)));
    assert_eq!(counts(&objects), (5, 2, 1, 1));
    let text = objects.text(&objects.plan("disruption-controller", "default/web"));
    // `b` was to be deleted two minutes ago; the others are seen to go, or are gone.
    assert!(text.contains(r#""disruptedPods":{"b":null,"going":null,"gone":null}"#), "{text}");
    assert!(text.contains("event NotDeleted"), "{text}");
    assert!(text.ends_with("again after 60s"), "{text}");
}
