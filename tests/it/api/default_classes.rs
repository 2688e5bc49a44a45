//! Classes that are the default: of storage and of Ingresses.

use super::*;

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";

fn claim(name: &str, more: Value) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

#[tokio::test(start_paused = true)]
async fn claims_get_the_newest_default_class() {
    let cluster = Cluster::new().await;
    let class_of = async |name: &str, more: Value| {
        let made = cluster.post(CLAIMS, &claim(name, more)).await.expect(201);
        made["spec"]["storageClassName"].clone()
    };
    assert_eq!(class_of("first", json!({})).await, "local", "every cluster begins with it");
    cluster.delete(&format!("{CLASSES}/local"), &json!({})).await.expect(200);
    assert_eq!(class_of("none", json!({})).await, Value::Null);
    let class = |name: &str, annotation: &str, value: &str| {
        json!({"metadata": {"name": name, "annotations": {annotation: value}},
            "provisioner": "example.com/p"})
    };
    const MARK: &str = "storageclass.kubernetes.io/is-default-class";
    cluster.post(CLASSES, &class("no", MARK, "false")).await.expect(201);
    assert_eq!(class_of("still-none", json!({})).await, Value::Null);
    let beta = "storageclass.beta.kubernetes.io/is-default-class";
    cluster.post(CLASSES, &class("b", beta, "true")).await.expect(201);
    assert_eq!(class_of("one", json!({})).await, "b");
    // All are as old here: then the name decides.
    cluster.post(CLASSES, &class("a", MARK, "true")).await.expect(201);
    assert_eq!(class_of("two", json!({})).await, "a");
    assert_eq!(class_of("named", json!({"storageClassName": "no"})).await, "no");
    assert_eq!(class_of("empty", json!({"storageClassName": ""})).await, "");
    let mut annotated = claim("annotated", json!({}));
    annotated["metadata"]["annotations"] = json!({"volume.beta.kubernetes.io/storage-class": "x"});
    let made = cluster.post(CLAIMS, &annotated).await.expect(201);
    assert_eq!(made["spec"]["storageClassName"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn ingresses_get_the_only_default_class() {
    const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    const INGRESS_CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";
    let cluster = Cluster::new().await;
    let ingress = |name: &str, annotations: Value| {
        json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"defaultBackend":
            {"service": {"name": "s", "port": {"number": 80}}}}})
    };
    let class = |name: &str| {
        json!({"metadata": {"name": name, "annotations":
            {"ingressclass.kubernetes.io/is-default-class": "true"}},
            "spec": {"controller": "example.com/c"}})
    };
    let made = cluster.post(INGRESSES, &ingress("a", json!({}))).await.expect(201);
    assert_eq!(made["spec"]["ingressClassName"], Value::Null);
    cluster.post(INGRESS_CLASSES, &class("first")).await.expect(201);
    let made = cluster.post(INGRESSES, &ingress("b", json!({}))).await.expect(201);
    assert_eq!(made["spec"]["ingressClassName"], "first");
    let old = json!({"kubernetes.io/ingress.class": "x"});
    let made = cluster.post(INGRESSES, &ingress("c", old)).await.expect(201);
    assert_eq!(made["spec"]["ingressClassName"], Value::Null);
    cluster.post(INGRESS_CLASSES, &class("second")).await.expect(201);
    let message = cluster.post(INGRESSES, &ingress("d", json!({}))).await.failure(403);
    assert_eq!(
        message,
        "ingresses.networking.k8s.io \"d\" is forbidden: Internal error occurred: 2 default \
         IngressClasses were found, only 1 allowed"
    );
}

#[tokio::test(start_paused = true)]
async fn claims_grow_where_their_class_lets_them() {
    let cluster = Cluster::new().await;
    for (name, grows) in [("fixed", false), ("growing", true)] {
        let class = json!({"metadata": {"name": name}, "provisioner": "example.com/p",
            "allowVolumeExpansion": grows});
        cluster.post(CLASSES, &class).await.expect(201);
        cluster.post(CLAIMS, &claim(name, json!({"storageClassName": name}))).await.expect(201);
    }
    cluster.post(CLAIMS, &claim("bare", json!({"storageClassName": ""}))).await.expect(201);
    let grow = async |name: &str, size: &str| {
        let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
        cluster.merge(&format!("{CLAIMS}/{name}"), &patch).await
    };
    grow("growing", "2Gi").await.failure(422);
    for name in ["fixed", "growing", "bare"] {
        let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        cluster.merge(&format!("{CLAIMS}/{name}/status"), &bound).await.expect(200);
    }
    for name in ["fixed", "bare"] {
        assert_eq!(
            grow(name, "2Gi").await.failure(403),
            format!(
                "persistentvolumeclaims \"{name}\" is forbidden: only dynamically provisioned pvc \
                 can be resized and the storageclass that provisions the pvc must support resize"
            )
        );
    }
    grow("growing", "2Gi").await.expect(200);
    // Less than was asked for, and more than there is: growth that failed is given up.
    grow("growing", "1536Mi").await.expect(200);
    grow("growing", "1Gi").await.failure(422);
}
