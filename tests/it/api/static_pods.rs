//! Mirrors of static pods: what a node may create, and what holds for all of them.

use super::*;

const NODES: &str = "/api/v1/nodes";
const MIRROR: &str = "kubernetes.io/config.mirror";

async fn ask(cluster: &Cluster, node: &str, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Answer::of(cluster.open_as(&User::node(node), method, path, &[], body).await).await
}

async fn node_uid(cluster: &Cluster) -> String {
    let node = cluster.post(NODES, &json!({"metadata": {"name": "n1"}})).await.expect(201);
    node["metadata"]["uid"].as_str().unwrap().to_string()
}

fn mirror(node_uid: &str) -> Value {
    json!({"metadata": {"name": "web-n1", "annotations": {MIRROR: "hash"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node_uid,
                "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test(start_paused = true)]
async fn a_node_creates_mirrors_of_its_own_and_nothing_else() {
    let cluster = Cluster::new().await;
    let uid = node_uid(&cluster).await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut pod = mirror(&uid);
        change(&mut pod);
        pod
    };
    let cases = [
        (
            with(&|pod| pod["metadata"]["annotations"] = json!({})),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create \
             mirror pods",
        ),
        (
            with(&|pod| pod["spec"]["nodeName"] = "n2".into()),
            "node \"n1\" can only create pods with spec.nodeName set to itself",
        ),
        (
            with(&|pod| pod["metadata"]["ownerReferences"] = json!([])),
            "node \"n1\" can only create pods with a single owner reference set to itself",
        ),
        (
            with(&|pod| pod["metadata"]["ownerReferences"][0]["name"] = "n2".into()),
            "node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            with(&|pod| pod["metadata"]["ownerReferences"][0]["controller"] = false.into()),
            "node \"n1\" can only create pods with a controller owner reference set to itself",
        ),
        (
            with(&|pod| pod["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = true.into()),
            "node \"n1\" must not set blockOwnerDeletion on an owner reference",
        ),
        (
            with(&|pod| pod["metadata"]["ownerReferences"][0]["uid"] = "x".into()),
            &*format!("node n1 UID mismatch: expected {uid} got x"),
        ),
        (
            with(&|pod| {
                pod["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": "m"}}]);
            }),
            "node \"n1\" can not create pods that reference configmaps",
        ),
        (
            with(&|pod| pod["spec"]["imagePullSecrets"] = json!([{"name": "s"}])),
            "a mirror pod may not reference secrets",
        ),
        (
            with(&|pod| pod["spec"]["serviceAccountName"] = "default".into()),
            "a mirror pod may not reference service accounts",
        ),
    ];
    for (pod, why) in &cases {
        let message = ask(&cluster, "n1", "POST", PODS, pod).await.failure(403);
        assert!(message.ends_with(why), "{message}");
    }
    let made = ask(&cluster, "n1", "POST", PODS, &mirror(&uid)).await.expect(201);
    // As its static pod is: with no account and no token.
    assert_eq!(made["spec"]["serviceAccountName"], Value::Null);
    assert_eq!(made["spec"]["volumes"], Value::Null);
    let path = format!("{PODS}/web-n1");
    ask(&cluster, "n2", "DELETE", &path, &json!({"gracePeriodSeconds": 0})).await.failure(403);
    ask(&cluster, "n1", "DELETE", &path, &json!({"gracePeriodSeconds": 0})).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_stays_one() {
    let cluster = Cluster::new().await;
    let uid = node_uid(&cluster).await;
    let mut unbound = mirror(&uid);
    unbound["spec"]["nodeName"] = "".into();
    let message = cluster.post(PODS, &unbound).await.failure(422);
    assert!(
        message.contains("must set spec.nodeName if mirror pod annotation is set"),
        "{message}"
    );
    cluster.post(PODS, &mirror(&uid)).await.expect(201);
    cluster.pod("plain").await;
    let set = |value: Value| json!({"metadata": {"annotations": {MIRROR: value}}});
    for (name, value, why) in [
        ("web-n1", json!("other"), "may not remove or update mirror pod annotation"),
        ("web-n1", Value::Null, "may not remove or update mirror pod annotation"),
        ("plain", json!("hash"), "may not add mirror pod annotation"),
    ] {
        let message = cluster.merge(&format!("{PODS}/{name}"), &set(value)).await.failure(422);
        assert!(message.contains(why), "{message}");
    }
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}});
    let path = format!("{PODS}/web-n1/ephemeralcontainers");
    let message = cluster.merge(&path, &debug).await.failure(422);
    assert!(message.contains("static pods do not support ephemeral containers"), "{message}");
}
