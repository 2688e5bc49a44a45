//! Delete, finalizers, grace, collections, namespaces, evictions.

use super::*;

async fn bind(cluster: &Cluster, pod: &str) {
    let binding = json!({"target": {"name": "n1"}});
    cluster.post(&format!("{PODS}/{pod}/binding"), &binding).await.expect(201);
}

#[tokio::test(start_paused = true)]
async fn what_nothing_holds_goes_at_once() {
    let cluster = Cluster::new().await;
    let object = cluster.config_map("x", json!({})).await;
    let path = format!("{MAPS}/x");
    let answer = cluster.send("DELETE", &path, &[], "").await;
    let uid = object["metadata"]["uid"].as_str().unwrap();
    assert_eq!(
        answer.text(),
        format!(
            "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"status\":\"Success\",\
             \"details\":{{\"name\":\"x\",\"kind\":\"configmaps\",\"uid\":\"{uid}\"}}}}\n"
        )
    );
    cluster.delete(&path, &json!({})).await.failure(404);
    // Pods answer with themselves.
    cluster.pod("p").await;
    assert_eq!(cluster.delete(&format!("{PODS}/p"), &json!({})).await.expect(200)["kind"], "Pod");
}

#[tokio::test(start_paused = true)]
async fn preconditions_and_bad_options_are_refused() {
    let cluster = Cluster::new().await;
    cluster.config_map("x", json!({})).await;
    let path = format!("{MAPS}/x");
    for (body, code) in [
        (json!({"preconditions": {"uid": "other"}}), 409),
        (json!({"preconditions": {"resourceVersion": "1"}}), 409),
        (json!({"propagationPolicy": "Sideways"}), 422),
        (json!({"orphanDependents": true, "propagationPolicy": "Orphan"}), 422),
        (json!({"gracePeriodSeconds": "x"}), 400),
        (json!({"kind": "Pod"}), 400),
    ] {
        assert_eq!(cluster.delete(&path, &body).await.code, code, "{body}");
    }
    cluster.delete(&format!("{path}?gracePeriodSeconds=x"), &json!({})).await.failure(400);
    cluster.get(&path).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn finalizers_hold_until_the_last_is_removed() {
    let cluster = Cluster::new().await;
    let body = json!({"metadata": {"name": "x", "finalizers": ["a.b/c"]}});
    cluster.post(MAPS, &body).await.expect(201);
    let path = format!("{MAPS}/x");
    let marked = cluster.delete(&path, &json!({})).await.expect(200);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    // A second deletion changes nothing.
    let again = cluster.delete(&path, &json!({})).await.expect(200);
    assert_eq!(version(&again), version(&marked));
    let more = json!({"metadata": {"finalizers": ["a.b/c", "a.b/d"]}});
    let message = cluster.merge(&path, &more).await.failure(422);
    assert!(message.contains("no new finalizers can be added"), "{message}");
    let none = json!({"metadata": {"finalizers": null}});
    cluster.merge(&path, &none).await.expect(200);
    cluster.get(&path).await.failure(404);
}

#[tokio::test(start_paused = true)]
async fn propagation_is_a_finalizer() {
    let cluster = Cluster::new().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        cluster.config_map("x", json!({})).await;
        let path = format!("{MAPS}/x");
        let body = json!({"propagationPolicy": policy});
        let marked = cluster.delete(&path, &body).await.expect(200);
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        let done = json!({"metadata": {"finalizers": []}});
        cluster.merge(&path, &done).await.expect(200);
        cluster.get(&path).await.failure(404);
    }
    cluster.config_map("x", json!({})).await;
    let query = format!("{MAPS}/x?propagationPolicy=Background");
    assert_eq!(cluster.send("DELETE", &query, &[], "").await.expect(200)["status"], "Success");
}

#[tokio::test(start_paused = true)]
async fn bound_pods_have_a_grace_that_only_shrinks() {
    let cluster = Cluster::new().await;
    cluster.pod("p").await;
    bind(&cluster, "p").await;
    let path = format!("{PODS}/p");
    let marked = cluster.delete(&path, &json!({})).await.expect(200);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let longer = cluster.delete(&path, &json!({"gracePeriodSeconds": 90})).await.expect(200);
    assert_eq!(version(&longer), version(&marked));
    let shorter = cluster.delete(&path, &json!({"gracePeriodSeconds": 5})).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
    // A Pod on its way out takes status from its node.
    let status = json!({"status": {"phase": "Running"}});
    cluster.merge(&format!("{path}/status"), &status).await.expect(200);
    cluster.delete(&path, &json!({"gracePeriodSeconds": 0})).await.expect(200);
    cluster.get(&path).await.failure(404);
}

#[tokio::test(start_paused = true)]
async fn finished_pods_go_at_once_and_evictions_delete() {
    let cluster = Cluster::new().await;
    cluster.pod("done").await;
    bind(&cluster, "done").await;
    let path = format!("{PODS}/done");
    let status = json!({"status": {"phase": "Succeeded"}});
    cluster.merge(&format!("{path}/status"), &status).await.expect(200);
    cluster.delete(&path, &json!({})).await.expect(200);
    cluster.get(&path).await.failure(404);

    cluster.pod("evicted").await;
    bind(&cluster, "evicted").await;
    let path = format!("{PODS}/evicted");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": "evicted"}, "deleteOptions": {"gracePeriodSeconds": 7}});
    let answer = cluster.post(&format!("{path}/eviction"), &eviction).await;
    assert_eq!(answer.expect(201)["code"], 201);
    let marked = cluster.get(&path).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
}

#[tokio::test(start_paused = true)]
async fn collections_are_deleted_by_selector() {
    let cluster = Cluster::new().await;
    for n in 0..5 {
        cluster.config_map(&format!("x{n}"), json!({"go": (n < 3).to_string()})).await;
    }
    let path = format!("{MAPS}?labelSelector=go%3Dtrue");
    let deleted = cluster.delete(&path, &json!({})).await.expect(200);
    assert_eq!(names(&deleted), ["x0", "x1", "x2"]);
    assert_eq!(names(&cluster.get(MAPS).await.expect(200)), ["x3", "x4"]);
    cluster.delete("/api/v1/configmaps", &json!({})).await.failure(405);
    cluster.delete("/api/v1/namespaces", &json!({})).await.failure(405);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_goes_when_it_is_finalized() {
    let cluster = Cluster::new().await;
    let body = json!({"metadata": {"name": "n"}});
    let namespace = cluster.post("/api/v1/namespaces", &body).await.expect(201);
    assert_eq!(namespace["status"]["phase"], "Active");
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
    let path = "/api/v1/namespaces/n";
    let mut marked = cluster.delete(path, &json!({})).await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    let map = json!({"metadata": {"name": "x"}});
    let refused = cluster.post(&format!("{path}/configmaps"), &map).await;
    let message = refused.failure(403);
    assert!(message.contains("because it is being terminated"), "{message}");
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    marked["spec"]["finalizers"] = json!([]);
    cluster.put(&format!("{path}/finalize"), &marked).await.expect(200);
    cluster.get(path).await.failure(404);
    for name in ["default", "kube-system", "kube-public"] {
        cluster.delete(&format!("/api/v1/namespaces/{name}"), &json!({})).await.failure(403);
    }
}
