//! Objects that are stored once and served in several forms.

use super::*;

const CORE: &str = "/api/v1/namespaces/default/events";
const NEW: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn new_event(name: &str) -> Value {
    json!({"metadata": {"name": name}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.com/c", "reportingInstance": "c-1", "action": "Test",
        "reason": "Tried", "type": "Normal", "note": "a note",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}})
}

#[tokio::test(start_paused = true)]
async fn events_of_both_groups_are_the_same_objects() {
    let cluster = Cluster::new().await;
    let made = cluster.post(NEW, &new_event("a")).await.expect(201);
    assert_eq!(
        (&made["apiVersion"], &made["note"]),
        (&json!("events.k8s.io/v1"), &json!("a note"))
    );
    let core = cluster.get(&format!("{CORE}/a")).await.expect(200);
    assert_eq!((&core["apiVersion"], &core["message"]), (&json!("v1"), &json!("a note")));
    assert_eq!(core["involvedObject"], made["regarding"]);
    assert_eq!(core["reportingComponent"], "example.com/c");
    assert!(core.get("note").is_none() && core.get("regarding").is_none(), "{core}");
    assert_eq!((version(&core), &core["metadata"]), (version(&made), &made["metadata"]));

    let old = json!({"metadata": {"name": "b"}, "message": "old", "count": 3, "type": "Warning",
        "involvedObject": {"kind": "Pod", "name": "q", "namespace": "default"},
        "source": {"component": "here"}});
    cluster.post(CORE, &old).await.expect(201);
    let list = cluster.get(NEW).await.expect(200);
    assert_eq!((names(&list), &list["kind"]), (vec!["a", "b"], &json!("EventList")));
    assert_eq!(list["items"][1]["deprecatedCount"], 3);
    assert_eq!(list["items"][1]["deprecatedSource"]["component"], "here");
    let found = async |path: String| cluster.get(&path).await.expect(200);
    let by_name = found(format!("{NEW}?fieldSelector=regarding.name=p,type=Normal")).await;
    assert_eq!(names(&by_name), ["a"]);
    let by_name = found(format!("{CORE}?fieldSelector=involvedObject.name=q,type=Warning")).await;
    assert_eq!(names(&by_name), ["b"]);
    cluster.get(&format!("{NEW}?fieldSelector=involvedObject.name=p")).await.failure(400);

    // One changes it, the other sees it.
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:05.000000Z"}});
    let changed = cluster.merge(&format!("{NEW}/a"), &series).await.expect(200);
    let core = cluster.get(&format!("{CORE}/a")).await.expect(200);
    assert_eq!((version(&core), &core["series"]), (version(&changed), &changed["series"]));
    let same = cluster.merge(&format!("{NEW}/a"), &series).await.expect(200);
    assert_eq!(version(&same), version(&changed), "nothing changed, so nothing is written");
    let gone = cluster.delete(&format!("{NEW}/a"), &json!({})).await.expect(200);
    assert_eq!(gone["status"], "Success");
    cluster.get(&format!("{CORE}/a")).await.failure(404);
    cluster.delete(CORE, &json!({})).await.expect(200);
    assert_eq!(names(&cluster.get(NEW).await.expect(200)), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_newer_form_of_events_has_stricter_rules() {
    let cluster = Cluster::new().await;
    let mut bad = new_event("a");
    bad["series"] = json!({"count": 1, "lastObservedTime": "2026-01-01T00:00:05.000000Z"});
    bad["type"] = "Odd".into();
    bad["deprecatedCount"] = 4.into();
    let message = cluster.post(NEW, &bad).await.failure(422);
    for part in [
        "series.count: Invalid value: \"\": should be at least 2",
        "type: Invalid value: \"\": has invalid value: Odd",
        "count: Invalid value: \"\": needs to be unset",
    ] {
        assert!(message.contains(part), "{message}");
    }
    cluster.post(NEW, &new_event("a")).await.expect(201);
    let change = json!({"note": "another"});
    let message = cluster.merge(&format!("{NEW}/a"), &change).await.failure(422);
    assert!(
        message.contains("message: Invalid value: \"another\": field is immutable"),
        "{message}"
    );
    // Through the older form it may be changed.
    let change = json!({"message": "another"});
    cluster.merge(&format!("{CORE}/a"), &change).await.expect(200);
    assert_eq!(cluster.get(&format!("{NEW}/a")).await.expect(200)["note"], "another");
}

#[tokio::test(start_paused = true)]
async fn watches_of_each_form_see_every_change() {
    let cluster = Cluster::new().await;
    let path = format!("{NEW}?watch=1&timeoutSeconds=2&fieldSelector=regarding.name=p");
    let watch = cluster.open("GET", &path, &[], "").await;
    let core = json!({"metadata": {"name": "x"}, "message": "m",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    cluster.post(CORE, &core).await.expect(201);
    cluster.merge(&format!("{CORE}/x"), &json!({"message": "n"})).await.expect(200);
    cluster.delete(&format!("{CORE}/x"), &json!({})).await.expect(200);
    let text = Answer::of(watch).await;
    let events: Vec<Value> =
        text.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<(&Value, &Value, &Value)> = events
        .iter()
        .map(|e| (&e["type"], &e["object"]["note"], &e["object"]["apiVersion"]))
        .collect();
    let group = json!("events.k8s.io/v1");
    assert_eq!(
        seen,
        [
            (&json!("ADDED"), &json!("m"), &group),
            (&json!("MODIFIED"), &json!("n"), &group),
            (&json!("DELETED"), &json!("n"), &group),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn autoscalers_of_both_versions_are_the_same_objects() {
    const OLD: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    const NEW: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let cluster = Cluster::new().await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let old = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 5,
        "scaleTargetRef": target, "targetCPUUtilizationPercentage": 50}});
    let made = cluster.post(OLD, &old).await.expect(201);
    let new = cluster.get(&format!("{NEW}/a")).await.expect(200);
    assert_eq!(version(&new), version(&made));
    let utilization = "/spec/metrics/0/resource/target/averageUtilization";
    assert_eq!(new.pointer(utilization), Some(&json!(50)));
    assert_eq!(new["spec"].get("targetCPUUtilizationPercentage"), None);
    // What the older form has no fields for is kept in annotations, there alone.
    let metric = json!({"type": "Pods", "pods": {"metric": {"name": "m"},
        "target": {"type": "AverageValue", "averageValue": "5"}}});
    let metrics = json!([new["spec"]["metrics"][0], metric]);
    let patch = json!({"spec": {"metrics": metrics, "behavior": {"scaleUp": {}}}});
    let changed = cluster.merge(&format!("{NEW}/a"), &patch).await.expect(200);
    assert_eq!(changed["metadata"].get("annotations"), None);
    let shown = cluster.get(&format!("{OLD}/a")).await.expect(200);
    let key = "autoscaling.alpha.kubernetes.io/metrics";
    let kept = shown["metadata"]["annotations"][key].as_str().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(kept).unwrap(),
        json!([{"type": "Pods", "pods": {"metricName": "m", "targetAverageValue": "5"}}])
    );
    let patch = json!({"spec": {"targetCPUUtilizationPercentage": 60}});
    cluster.merge(&format!("{OLD}/a"), &patch).await.expect(200);
    let new = cluster.get(&format!("{NEW}/a")).await.expect(200);
    assert_eq!(new.pointer(utilization), Some(&json!(60)));
    assert_eq!(new["spec"]["metrics"][1], metrics[1]);
    assert_eq!(new["spec"]["behavior"], changed["spec"]["behavior"]);
    let listed = cluster.get(OLD).await.expect(200);
    assert_eq!((&listed["apiVersion"], names(&listed)), (&json!("autoscaling/v1"), vec!["a"]));
    cluster.delete(&format!("{OLD}/a"), &json!({})).await.expect(200);
    cluster.get(&format!("{NEW}/a")).await.failure(404);
}
