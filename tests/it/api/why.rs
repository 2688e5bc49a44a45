//! `pods/why`, over the door of HTTP: the scheduler's own answer, for those who may ask.

use k8s_openapi::api::core::v1::{Node, Pod};
use wasmfleet::base::Tasks;
use wasmfleet::client::Client;
use wasmfleet::client::cache::Cache;
use wasmfleet::scheduler::{Options as SchedulerOptions, Scheduler};

use super::*;

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";

#[tokio::test]
async fn the_scheduler_explains_a_pod_to_those_who_may_ask() {
    let cluster = Cluster::new().await;
    let path = format!("{PODS}/p/why");
    cluster.get(&path).await.failure(404);
    cluster.pod("p").await;
    let message = cluster.get(&path).await.failure(503);
    assert!(message.contains("no scheduler runs"), "{message}");
    for name in ["n1", "n2"] {
        let node = json!({"metadata": {"name": name}, "spec": {"unschedulable": true}});
        cluster.post("/api/v1/nodes", &node).await.expect(201);
    }
    let (cache, tasks) = (Cache::new(), Tasks::default());
    let clock = Arc::new(VirtualClock::new("2026-01-01T00:00:00Z".parse().unwrap()));
    let client = Client::new(cluster.api(), "scheduler");
    let options = SchedulerOptions::default();
    let scheduler = Scheduler::new(client, &cache, clock, Arc::new(|_, _| {}), options);
    let explainer = scheduler.explainer();
    cluster.server.explain_with(Arc::new(move |pod, most| explainer.explain(pod, most)));
    cache.keep::<Node>(cluster.api(), "", &tasks);
    cache.keep::<Pod>(cluster.api(), "", &tasks);
    cache.wait_synced().await;

    let told = cluster.get(&path).await.expect(200);
    assert_eq!(told["kind"], "SchedulingExplanation");
    let message = "0/2 nodes are available: 2 node(s) were unschedulable.";
    assert_eq!(told["message"], message);
    assert_eq!(told["nodes"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!(told["nodes"][0]["filter"], "NodeUnschedulable");
    let one = cluster.get(&format!("{path}?limit=1")).await.expect(200);
    assert_eq!(one["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(one["nodesTotal"], 2);
    cluster.get(&format!("{path}?limit=many")).await.failure(400);
    cluster.post(&path, &json!({})).await.failure(405);
    cluster.get(&format!("{PODS}/none/why")).await.failure(404);

    // Who reads pods need not know the nodes.
    let ann = User::new("ann", &["system:authenticated"]);
    let rules = |resources: &[&str]| {
        json!({"metadata": {"name": "reader"},
            "rules": [{"apiGroups": [""], "resources": resources, "verbs": ["get"]}]})
    };
    let binding = json!({"metadata": {"name": "ann"}, "roleRef": {"name": "reader", "kind": "Role",
        "apiGroup": "rbac.authorization.k8s.io"}, "subjects": [{"kind": "User", "name": "ann"}]});
    cluster.post(ROLES, &rules(&["pods"])).await.expect(201);
    cluster.post(BINDINGS, &binding).await.expect(201);
    let ask = async || Answer::of(cluster.open_as(&ann, "GET", &path, &[], "").await).await;
    ask().await.failure(403);
    cluster.put(&format!("{ROLES}/reader"), &rules(&["pods/why"])).await.expect(200);
    ask().await.expect(200);
    assert!(tasks.shut_down(std::time::Duration::from_secs(30)).await.is_empty());
}
