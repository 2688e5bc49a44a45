//! Rules that cross kinds.

use super::*;

fn service(name: &str, more: Value) -> Value {
    let mut spec = json!({"ports": [{"port": 80}], "selector": {"app": name}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn small_range() -> Cluster {
    let options = Options { service_cidr: "10.0.0.0/29".parse().unwrap(), ..Options::default() };
    Cluster::with(MemoryStore::default(), options).await
}

#[tokio::test(start_paused = true)]
async fn namespaces_must_exist() {
    let cluster = Cluster::new().await;
    let path = "/api/v1/namespaces/none/configmaps";
    let message = cluster.post(path, &json!({"metadata": {"name": "x"}})).await.failure(404);
    assert_eq!(message, "namespaces \"none\" not found");
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        cluster.get(&format!("/api/v1/namespaces/{name}")).await.expect(200);
    }
    // Again is nothing.
    let revision = cluster.store.revision();
    cluster.server.bootstrap(None).await.unwrap();
    assert_eq!(cluster.store.revision(), revision);
}

#[tokio::test(start_paused = true)]
async fn pods_are_given_an_account_and_tolerations() {
    let cluster = Cluster::new().await;
    let pod = cluster.pod("p").await;
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
    let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
    let keys: Vec<_> = tolerations.iter().map(|t| t["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
    assert!(tolerations.iter().all(|t| t["tolerationSeconds"] == 300));
    let mut own = super::pod("q");
    own["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    let pod = cluster.post(PODS, &own).await.expect(201);
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn cluster_ips_are_unique_and_come_back() {
    let cluster = small_range().await;
    let kubernetes = cluster.get(&format!("{SERVICES}/kubernetes")).await.expect(200);
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.0.0.1");
    // Five more addresses: .2 to .6.
    let mut taken = std::collections::BTreeSet::new();
    for n in 0..5 {
        let made = cluster.post(SERVICES, &service(&format!("s{n}"), json!({}))).await.expect(201);
        let ip = made["spec"]["clusterIP"].as_str().unwrap().to_string();
        assert_eq!(made["spec"]["clusterIPs"], json!([ip]));
        assert!(taken.insert(ip));
    }
    cluster.post(SERVICES, &service("full", json!({}))).await.failure(500);
    let headless = cluster.post(SERVICES, &service("headless", json!({"clusterIP": "None"}))).await;
    assert_eq!(headless.expect(201)["spec"]["clusterIP"], "None");
    let last = taken.last().unwrap().clone();
    let given = service("given", json!({"clusterIP": last}));
    let message = cluster.post(SERVICES, &given).await.failure(422);
    assert!(message.contains("provided IP is already allocated"), "{message}");
    let outside = service("outside", json!({"clusterIP": "10.0.1.1"}));
    cluster.post(SERVICES, &outside).await.failure(422);

    let list = cluster.get(SERVICES).await.expect(200);
    let items = list["items"].as_array().unwrap();
    let owner = items.iter().find(|s| s["spec"]["clusterIP"] == last.as_str()).unwrap();
    let owner = owner["metadata"]["name"].as_str().unwrap();
    // A dry run takes nothing and gives nothing back.
    let dry = format!("{SERVICES}/{owner}?dryRun=All");
    cluster.delete(&dry, &json!({})).await.expect(200);
    cluster.post(SERVICES, &given).await.failure(422);
    cluster.delete(&format!("{SERVICES}/{owner}"), &json!({})).await.expect(200);
    let given = cluster.post(SERVICES, &given).await.expect(201);
    assert_eq!(given["spec"]["clusterIP"], last.as_str());
}

#[tokio::test(start_paused = true)]
async fn a_service_keeps_its_ip_through_updates() {
    let cluster = small_range().await;
    let made = cluster.post(SERVICES, &service("s", json!({}))).await.expect(201);
    let path = format!("{SERVICES}/s");
    let patched =
        cluster.merge(&path, &json!({"spec": {"ports": [{"port": 81}]}})).await.expect(200);
    assert_eq!(patched["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    let replaced = cluster.put(&path, &service("s", json!({}))).await.expect(200);
    assert_eq!(replaced["spec"]["clusterIP"], made["spec"]["clusterIP"]);
}

#[tokio::test(start_paused = true)]
async fn many_services_at_once_share_no_ip() {
    let cluster = small_range().await;
    let posts = (0..5).map(|n| {
        let (cluster, body) = (&cluster, service(&format!("s{n}"), json!({})));
        async move { cluster.post(SERVICES, &body).await.expect(201) }
    });
    let made = futures::future::join_all(posts).await;
    let ips: std::collections::BTreeSet<_> =
        made.iter().map(|s| s["spec"]["clusterIP"].as_str().unwrap()).collect();
    assert_eq!(ips.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn events_expire_and_history_is_compacted() {
    let cluster = Cluster::new().await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"},
        "reason": "Tested", "message": "m", "type": "Normal"});
    let path = "/api/v1/namespaces/default/events";
    cluster.post(path, &event).await.expect(201);
    let at = |minutes: i64| -> jiff::Timestamp {
        let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        start + jiff::SignedDuration::from_mins(minutes)
    };
    let old = cluster.store.revision();
    for minute in 0..10 {
        cluster.config_map(&format!("x{minute}"), json!({})).await;
        cluster.server.housekeep(at(minute)).await.unwrap();
    }
    let exact = format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion={old}");
    cluster.get(&exact).await.failure(410);
    let recent = cluster.store.revision() - 3;
    let exact = format!("{MAPS}?resourceVersionMatch=Exact&resourceVersion={recent}");
    cluster.get(&exact).await.expect(200);
    cluster.get(&format!("{path}/e")).await.expect(200);
    cluster.server.housekeep(at(61)).await.unwrap();
    cluster.get(&format!("{path}/e")).await.failure(404);
}
