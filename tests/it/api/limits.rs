//! What bounds the objects of a namespace: LimitRanges.

use super::*;

const RANGES: &str = "/api/v1/namespaces/default/limitranges";

async fn range(cluster: &Cluster, name: &str, limits: Value) {
    let object = json!({"metadata": {"name": name}, "spec": {"limits": limits}});
    let answer = cluster.post(RANGES, &object).await;
    assert_eq!(answer.header("warning"), "");
    answer.expect(201);
}

fn sized(name: &str, resources: Value) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = resources;
    pod
}

#[tokio::test(start_paused = true)]
async fn containers_are_given_what_they_leave_out() {
    let cluster = Cluster::new().await;
    let limits = json!([{"type": "Container", "default": {"memory": "64Mi", "cpu": "500m"},
        "defaultRequest": {"memory": "32Mi"}}]);
    range(&cluster, "r", limits).await;
    let mut two = sized("p", json!({"requests": {"cpu": "100m"}}));
    two["spec"]["initContainers"] = json!([{"name": "i", "image": "registry.example/app:v1",
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]);
    let made = cluster.post(PODS, &two).await.expect(201);
    let main = &made["spec"]["containers"][0]["resources"];
    assert_eq!(
        main,
        &json!({"limits": {"cpu": "500m", "memory": "64Mi"},
            "requests": {"cpu": "100m", "memory": "32Mi"}})
    );
    let init = &made["spec"]["initContainers"][0]["resources"];
    assert_eq!(init["requests"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: memory request for container main; \
         cpu, memory limit for container main"
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    // Other namespaces have limits of their own.
    cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await.expect(201);
    let free = cluster.post("/api/v1/namespaces/n/pods", &pod("p")).await.expect(201);
    assert_eq!(free["spec"]["containers"][0]["resources"], json!({}));
    assert_eq!(free["status"]["qosClass"], "BestEffort");
    // What exists is not touched by later limits.
    cluster.merge(&format!("{RANGES}/r"), &json!({"spec": {"limits": []}})).await.expect(200);
    range(&cluster, "s", json!([{"type": "Container", "max": {"memory": "1Mi"}}])).await;
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    cluster.merge(&format!("{PODS}/p"), &labels).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn amounts_stay_within_bounds() {
    let cluster = Cluster::new().await;
    let limits = json!([
        {"type": "Container", "min": {"memory": "64Mi"}, "max": {"memory": "1Gi"},
            "maxLimitRequestRatio": {"memory": "2"}},
        {"type": "Pod", "max": {"cpu": "2"}},
    ]);
    range(&cluster, "r", limits).await;
    let refused = async |resources: Value| {
        let message = cluster.post(PODS, &sized("p", resources)).await.failure(403);
        message.strip_prefix("pods \"p\" is forbidden: ").unwrap().to_string()
    };
    let memory = |request: &str, limit: &str| {
        json!({"requests": {"memory": request, "cpu": "1"}, "limits": {"memory": limit, "cpu": "1"}})
    };
    assert_eq!(
        refused(memory("1Gi", "2Gi")).await,
        "maximum memory usage per Container is 1Gi, but limit is 2Gi"
    );
    assert_eq!(
        refused(memory("32Mi", "64Mi")).await,
        "minimum memory usage per Container is 64Mi, but request is 32Mi"
    );
    assert_eq!(
        refused(memory("64Mi", "160Mi")).await,
        "memory max limit to request ratio per Container is 2, but provided ratio is 2.500000"
    );
    assert_eq!(
        refused(json!({"limits": {"memory": "1Gi"}})).await,
        "maximum cpu usage per Pod is 2.  No limit is specified"
    );
    assert_eq!(
        refused(json!({"limits": {"memory": "32Mi", "cpu": "3"}})).await,
        "[minimum memory usage per Container is 64Mi, but request is 32Mi, \
         maximum cpu usage per Pod is 2, but limit is 3]"
    );
    cluster.post(PODS, &sized("p", memory("512Mi", "1Gi"))).await.expect(201);
}
