//! Evictions ask the budgets that guard a Pod.

use super::*;

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A running Pod with a label.
async fn running(cluster: &Cluster, name: &str, ready: &str) {
    let mut pod = pod(name);
    pod["metadata"]["labels"] = json!({"app": "web"});
    cluster.post(PODS, &pod).await.expect(201);
    let binding = json!({"target": {"name": "n1"}});
    cluster.post(&format!("{PODS}/{name}/binding"), &binding).await.expect(201);
    let status = json!({"status": {"phase": "Running",
        "conditions": [{"type": "Ready", "status": ready}]}});
    cluster.merge(&format!("{PODS}/{name}/status"), &status).await.expect(200);
}

async fn budget(cluster: &Cluster, name: &str, spec: Value) {
    let mut object = json!({"metadata": {"name": name},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    let answer = cluster.post(BUDGETS, &object).await;
    assert_eq!(answer.header("warning"), "");
    answer.expect(201);
}

/// What the disruption controller would write.
async fn counted(cluster: &Cluster, name: &str, allowed: i32, healthy: i32, desired: i32) {
    let status = json!({"status": {"disruptionsAllowed": allowed, "currentHealthy": healthy,
        "desiredHealthy": desired, "expectedPods": 3, "observedGeneration": 1}});
    cluster.merge(&format!("{BUDGETS}/{name}/status"), &status).await.expect(200);
}

async fn evict(cluster: &Cluster, name: &str, options: Value) -> Answer {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name}, "deleteOptions": options});
    cluster.post(&format!("{PODS}/{name}/eviction"), &eviction).await
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_spent_and_then_refuses() {
    let cluster = Cluster::new().await;
    for name in ["a", "b", "c"] {
        running(&cluster, name, "True").await;
    }
    budget(&cluster, "web", json!({})).await;
    // Nobody has counted yet.
    let early = evict(&cluster, "a", json!({})).await;
    assert_eq!(early.header("retry-after"), "10");
    let causes = early.expect(429)["details"]["causes"].clone();
    let why = "The disruption budget web is still being processed by the server.";
    assert_eq!(causes, json!([{"reason": "DisruptionBudget", "message": why}]));
    counted(&cluster, "web", 1, 3, 2).await;
    evict(&cluster, "a", json!({"dryRun": ["All"]})).await.expect(201);
    evict(&cluster, "a", json!({"preconditions": {"uid": "x"}})).await.failure(409);
    evict(&cluster, "a", json!({"preconditions": {"resourceVersion": "1"}})).await.failure(409);
    let path = format!("{BUDGETS}/web");
    assert_eq!(cluster.get(&path).await.expect(200)["status"]["disruptionsAllowed"], 1);
    evict(&cluster, "a", json!({})).await.expect(201);
    let status = cluster.get(&path).await.expect(200)["status"].clone();
    assert_eq!(status["disruptionsAllowed"], 0);
    assert!(status["disruptedPods"]["a"].is_string(), "{status}");
    let condition = &status["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("DisruptionAllowed"), &json!("False"), &json!("InsufficientPods"))
    );
    let marked = cluster.get(&format!("{PODS}/a")).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let refused = evict(&cluster, "b", json!({})).await.expect(429);
    assert_eq!(refused["reason"], "TooManyRequests");
    assert_eq!(
        refused["message"],
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    let why = "The disruption budget web needs 2 healthy pods and has 3 currently";
    let cause = json!([{"reason": "DisruptionBudget", "message": why}]);
    assert_eq!(refused["details"]["causes"], cause);
    assert!(
        cluster.get(&format!("{PODS}/b")).await.json()["metadata"]["deletionTimestamp"].is_null()
    );
    // One that is on its way out already costs nothing, nor does a deletion.
    evict(&cluster, "a", json!({})).await.expect(201);
    cluster.delete(&format!("{PODS}/b"), &json!({})).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn many_evictions_at_once_share_a_budget() {
    let cluster = Cluster::new().await;
    let names: Vec<String> = (0..12).map(|n| format!("p{n}")).collect();
    for name in &names {
        running(&cluster, name, "True").await;
    }
    budget(&cluster, "web", json!({})).await;
    counted(&cluster, "web", 9, 12, 3).await;
    let answers =
        futures::future::join_all(names.iter().map(|name| evict(&cluster, name, json!({})))).await;
    let codes = |code: u16| answers.iter().filter(|answer| answer.code == code).count();
    assert_eq!((codes(201), codes(429)), (9, 3));
}

#[tokio::test(start_paused = true)]
async fn unhealthy_pods_go_by_policy() {
    let cluster = Cluster::new().await;
    running(&cluster, "sick", "False").await;
    running(&cluster, "sicker", "False").await;
    budget(&cluster, "web", json!({})).await;
    counted(&cluster, "web", 0, 1, 2).await;
    evict(&cluster, "sick", json!({})).await.failure(429);
    counted(&cluster, "web", 0, 2, 2).await;
    evict(&cluster, "sick", json!({})).await.expect(201);
    counted(&cluster, "web", 0, 1, 2).await;
    evict(&cluster, "sicker", json!({})).await.failure(429);
    let always = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    cluster.merge(&format!("{BUDGETS}/web"), &always).await.expect(200);
    evict(&cluster, "sicker", json!({})).await.expect(201);
}

#[tokio::test(start_paused = true)]
async fn two_budgets_are_one_too_many() {
    let cluster = Cluster::new().await;
    running(&cluster, "a", "True").await;
    budget(&cluster, "one", json!({})).await;
    budget(&cluster, "all", json!({"selector": {}})).await;
    let message = evict(&cluster, "a", json!({})).await.failure(500);
    assert!(message.starts_with("This pod has more than one PodDisruptionBudget"), "{message}");
    // A Pod that does not run yet is no disruption; nor is one that no budget selects.
    let mut waiting = pod("waiting");
    waiting["metadata"]["labels"] = json!({"app": "web"});
    cluster.post(PODS, &waiting).await.expect(201);
    evict(&cluster, "waiting", json!({})).await.expect(201);
    cluster.get(&format!("{PODS}/waiting")).await.failure(404);
}

/// KEP-3329: the pod tells why it goes, and a precondition holds for it as it was before.
#[tokio::test(start_paused = true)]
async fn an_evicted_pod_tells_so() {
    let cluster = Cluster::new().await;
    for name in ["kept", "a", "b"] {
        running(&cluster, name, "True").await;
    }
    let conditions = async |name: &str| {
        let pod = cluster.get(&format!("{PODS}/{name}")).await.expect(200);
        let list = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let of_it = list.iter().filter(|one| one["type"] == "DisruptionTarget").cloned();
        (pod.clone(), of_it.collect::<Vec<Value>>())
    };
    evict(&cluster, "kept", json!({"dryRun": ["All"]})).await.expect(201);
    assert_eq!(conditions("kept").await.1, Vec::<Value>::new());

    let (before, _) = conditions("a").await;
    let meta = &before["metadata"];
    let preconditions = json!({"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]});
    evict(&cluster, "a", json!({"preconditions": preconditions})).await.expect(201);
    evict(&cluster, "b", json!({"gracePeriodSeconds": 7})).await.expect(201);
    for name in ["a", "b"] {
        let (pod, told) = conditions(name).await;
        assert!(pod["metadata"]["deletionTimestamp"].is_string(), "{pod}");
        let [told] = &told[..] else { panic!("{told:?}") };
        assert_eq!(told["status"], "True");
        assert_eq!(told["reason"], "EvictionByEvictionAPI");
        assert_eq!(told["message"], "Eviction API: evicting");
        assert!(told["lastTransitionTime"].is_string());
    }
}
