//! `pods/ephemeralcontainers`: only additions, with upstream's words.

use serde_json::{Value, json};

use super::Cluster;

const POD: &str = "/api/v1/namespaces/default/pods/a";

async fn pod(cluster: &Cluster) -> Value {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "main", "image": "x:v1"}],
            "volumes": [{"name": "v", "emptyDir": {}}]}});
    cluster.post("/api/v1/namespaces/default/pods", &pod).await.expect(201)
}

async fn patch(cluster: &Cluster, container: Value) -> super::Answer {
    let body = json!({"spec": {"ephemeralContainers": [container]}});
    let media = [("content-type", "application/strategic-merge-patch+json")];
    let path = format!("{POD}/ephemeralcontainers");
    cluster.send("PATCH", &path, &media, body.to_string()).await
}

#[tokio::test(start_paused = true)]
async fn containers_are_added_and_stay_as_they_are() {
    let cluster = Cluster::new().await;
    pod(&cluster).await;
    let debug = json!({"name": "debug", "image": "tool:v1", "stdin": true, "tty": true,
        "targetContainerName": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let changed = patch(&cluster, debug.clone()).await.expect(200);
    let added = &changed["spec"]["ephemeralContainers"][0];
    assert_eq!(added["name"], "debug");
    assert_eq!(added["imagePullPolicy"], "IfNotPresent", "defaults are set");
    assert_eq!(changed["metadata"]["generation"], 2);
    let read = cluster.get(&format!("{POD}/ephemeralcontainers")).await.expect(200);
    assert_eq!(read, changed);

    let mut other = debug.clone();
    other["image"] = json!("tool:v2");
    let told = patch(&cluster, other).await.expect(422);
    let text = told["message"].as_str().unwrap();
    assert!(text.contains("existing ephemeral containers \"debug\" may not be changed"), "{text}");
    let mut without = read.clone();
    without["spec"].as_object_mut().unwrap().remove("ephemeralContainers");
    let path = format!("{POD}/ephemeralcontainers");
    let told = cluster.put(&path, &without).await.expect(422);
    let text = told["message"].as_str().unwrap();
    assert!(text.contains("existing ephemeral containers \"debug\" may not be removed"), "{text}");
    // Another part of the Pod is not changed that way, nor this one by the main resource.
    let mut labelled = read.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    labelled["spec"]["containers"][0]["image"] = json!("y:v1");
    let same = cluster.put(&path, &labelled).await.expect(200);
    assert_eq!(same["spec"]["containers"][0]["image"], "x:v1");
    assert!(same["metadata"]["labels"].is_null(), "{same}");
    cluster.put(POD, &without).await.expect(422);
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused() {
    let cluster = Cluster::new().await;
    pod(&cluster).await;
    for (container, wanted) in [
        (json!({"name": "main", "image": "x"}), "spec.ephemeralContainers[0].name: Duplicate"),
        (json!({"name": "d"}), "spec.ephemeralContainers[0].image: Required value"),
        (
            json!({"name": "d", "image": "x", "targetContainerName": "no"}),
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"no\"",
        ),
        (
            json!({"name": "d", "image": "x", "ports": [{"containerPort": 80}]}),
            "ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (
            json!({"name": "d", "image": "x", "resources": {"limits": {"cpu": "1"}}}),
            "resources: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (
            json!({"name": "d", "image": "x",
                "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "a"}]}),
            "subPath: Forbidden: cannot be set for an Ephemeral Container",
        ),
    ] {
        let told = patch(&cluster, container).await.expect(422);
        let text = told["message"].as_str().unwrap().to_string();
        assert!(text.contains(wanted), "{text}");
    }
    let debug = json!([{"name": "d", "image": "x"}]);
    let spec = json!({"containers": [{"name": "main", "image": "x:v1"}],
        "ephemeralContainers": debug});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}, "spec": spec});
    let told = cluster.post("/api/v1/namespaces/default/pods", &pod).await.expect(422);
    let text = told["message"].as_str().unwrap();
    assert!(
        text.contains("spec.ephemeralContainers: Forbidden: cannot be set on create"),
        "{text}"
    );
    let template = json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"},
        "template": {"spec": spec}});
    let path = "/api/v1/namespaces/default/podtemplates";
    let told = cluster.post(path, &template).await.expect(422);
    let text = told["message"].as_str().unwrap();
    assert!(text.contains("ephemeral containers not allowed in pod template"), "{text}");
}
