//! Two schedulers at once: a Binding that says who binds, and what was known then.

use super::*;

async fn bind(cluster: &Cluster, pod: &str, node: &str, who: Option<(&str, &str)>) -> Answer {
    let mut binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
        "target": {"kind": "Node", "name": node}});
    if let Some((binder, seen)) = who {
        binding["metadata"]["annotations"] = json!({"wasmfleet.dev/binder": binder,
            "wasmfleet.dev/seen-pods": seen, "example.com/kept": "yes"});
    }
    cluster.post(&format!("{PODS}/{pod}/binding"), &binding).await
}

#[tokio::test]
async fn a_place_is_not_given_away_twice() {
    let cluster = Cluster::new().await;
    for pod in ["a", "b", "c", "d", "e"] {
        cluster.pod(pod).await;
    }
    let revision = cluster.get(PODS).await.expect(200)["metadata"]["resourceVersion"].clone();
    let revision = revision.as_str().unwrap().to_string();
    bind(&cluster, "a", "n1", Some(("first", &revision))).await.expect(201);
    let why = bind(&cluster, "b", "n1", Some(("second", &revision))).await.failure(409);
    assert!(why.contains("node \"n1\" was given pods that second did not know of"), "{why}");
    bind(&cluster, "b", "n2", Some(("second", &revision))).await.expect(201);
    bind(&cluster, "c", "n1", Some(("first", &revision))).await.expect(201);
    let list = cluster.get(PODS).await.expect(200);
    let now = list["metadata"]["resourceVersion"].as_str().unwrap().to_string();
    bind(&cluster, "d", "n1", Some(("second", &now))).await.expect(201);
    bind(&cluster, "e", "n1", None).await.expect(201);
    let pod = cluster.get(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(pod["metadata"]["annotations"], json!({"example.com/kept": "yes"}));
}
