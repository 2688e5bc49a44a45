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
async fn pods_run_as_an_account_that_exists() {
    let cluster = Cluster::new().await;
    let mut named = super::pod("p");
    named["spec"]["serviceAccountName"] = "robot".into();
    let message = cluster.post(PODS, &named).await.failure(403);
    assert_eq!(
        message,
        "pods \"p\" is forbidden: error looking up service account default/robot: \
         serviceaccount \"robot\" not found"
    );
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let robot = json!({"metadata": {"name": "robot"}, "imagePullSecrets": [{"name": "s"}]});
    cluster.post(accounts, &robot).await.expect(201);
    let pod = cluster.post(PODS, &named).await.expect(201);
    assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "s"}]));
    // A new namespace has its account from the first moment.
    cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await.expect(201);
    cluster.post("/api/v1/namespaces/n/pods", &super::pod("p")).await.expect(201);
    let path = "/api/v1/namespaces/n/serviceaccounts/default";
    let account = cluster.get(path).await.expect(200);
    assert!(account["metadata"]["uid"].is_string());
    assert!(version(&account) > 0);
}

#[tokio::test(start_paused = true)]
async fn priorities_follow_from_classes() {
    let cluster = Cluster::new().await;
    let send = async |name: &str, more: Value| {
        let mut pod = super::pod(name);
        for (key, value) in more.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        cluster.post(PODS, &pod).await
    };
    let plain = send("a", json!({})).await;
    assert_eq!(plain.header("warning"), "");
    let plain = plain.expect(201);
    assert_eq!(plain["spec"]["priority"], 0);
    assert_eq!(plain["spec"]["preemptionPolicy"], "PreemptLowerPriority");
    let critical = json!({"priorityClassName": "system-node-critical"});
    let critical = send("b", critical).await;
    assert_eq!(critical.header("warning"), "");
    assert_eq!(critical.expect(201)["spec"]["priority"], 2_000_001_000);
    let quiet =
        json!({"priorityClassName": "system-cluster-critical", "preemptionPolicy": "Never"});
    let quiet = send("c", quiet).await;
    assert_eq!(quiet.header("warning"), "");
    assert_eq!(quiet.expect(201)["spec"]["priority"], 2_000_000_000);
    let unknown = send("d", json!({"priorityClassName": "high"})).await.failure(403);
    assert!(unknown.ends_with("no PriorityClass with name high was found"), "{unknown}");
    const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let high = json!({"metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"});
    cluster.post(CLASSES, &high).await.expect(201);
    let made = send("d", json!({"priorityClassName": "high"})).await.expect(201);
    assert_eq!(
        (&made["spec"]["priority"], &made["spec"]["preemptionPolicy"]),
        (&json!(7), &json!("Never"))
    );
    let usual = json!({"metadata": {"name": "usual"}, "value": 3, "globalDefault": true});
    cluster.post(CLASSES, &usual).await.expect(201);
    let defaulted = send("f", json!({})).await.expect(201);
    assert_eq!(defaulted["spec"]["priority"], 3);
    assert_eq!(defaulted["spec"]["priorityClassName"], "usual");
    let own = send("e", json!({"priority": 7})).await.failure(403);
    assert!(own.contains("the integer value of priority (7) must not be provided"), "{own}");
    // Clients that do not know the fields may leave them out.
    let mut again = plain.clone();
    again["spec"].as_object_mut().unwrap().remove("priority");
    again["spec"].as_object_mut().unwrap().remove("preemptionPolicy");
    assert_eq!(cluster.put(&format!("{PODS}/a"), &again).await.expect(200), plain);
}

#[tokio::test(start_paused = true)]
async fn a_node_reads_what_its_pods_refer_to() {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use wasmfleet::client::Client;
    let store: SharedStore = Arc::new(MemoryStore::default());
    let cluster = Cluster::over(store.clone(), Options::default()).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    cluster.post(secrets, &json!({"metadata": {"name": "s"}})).await.expect(201);
    cluster.config_map("m", json!({})).await;
    let node = Client::new(cluster.server.api(User::node("n1")), "kubelet");
    let codes = async |node: &Client| {
        let secret = node.get::<Secret>("default", "s").await;
        let map = node.get::<ConfigMap>("default", "m").await;
        [secret.err().map(|e| e.code), map.err().map(|e| e.code)]
    };
    assert_eq!(codes(&node).await, [Some(403); 2]);
    let mut pod = super::pod("p");
    pod["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "m"}}]);
    pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    cluster.post(PODS, &pod).await.expect(201);
    assert_eq!(codes(&node).await, [Some(403); 2]);
    let binding = json!({"target": {"name": "n1"}});
    cluster.post(&format!("{PODS}/p/binding"), &binding).await.expect(201);
    assert_eq!(codes(&node).await, [None; 2]);
    let other = Client::new(cluster.server.api(User::node("n2")), "kubelet");
    assert_eq!(codes(&other).await, [Some(403); 2]);
    // So it is after a restart.
    let again = Cluster::over(store, Options::default()).await;
    let node = Client::new(again.server.api(User::node("n1")), "kubelet");
    assert_eq!(codes(&node).await, [None; 2]);
    again.delete(&format!("{PODS}/p"), &json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(codes(&node).await, [Some(403); 2]);
}

#[tokio::test(start_paused = true)]
async fn a_node_does_not_choose_its_pods() {
    use k8s_openapi::api::core::v1::Node;
    use wasmfleet::client::Client;
    let cluster = Cluster::new().await;
    let node = Client::new(cluster.server.api(User::node("n1")), "kubelet");
    let admin = Client::new(cluster.api(), "admin");
    let object = |value: Value| -> Node {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Node", "metadata": value}))
            .unwrap()
    };
    let restricted = "node-restriction.kubernetes.io/tier";
    let refused = node.create(&object(json!({"name": "n1", "labels": {restricted: "gold"}}))).await;
    let message = refused.unwrap_err().message;
    assert!(message.ends_with(&format!("not allowed to set the following labels: {restricted}")));
    let labels = json!({"kubernetes.io/hostname": "n1", "zone": "a"});
    let mut own = node.create(&object(json!({"name": "n1", "labels": labels}))).await.unwrap();
    own.metadata.labels.get_or_insert_default().insert("zone".into(), "b".into());
    let mut own = node.update(&own).await.unwrap();
    let taints = json!([{"key": "k", "effect": "NoSchedule"}]);
    own.spec = Some(serde_json::from_value(json!({"taints": taints})).unwrap());
    let message = node.update(&own).await.unwrap_err().message;
    assert!(message.ends_with("node \"n1\" is not allowed to modify taints"), "{message}");
    let mut own = admin.update(&own).await.unwrap();
    // What administrators set does not hinder the node.
    own.metadata.labels.get_or_insert_default().insert(restricted.into(), "gold".into());
    let mut own = admin.update(&own).await.unwrap();
    own.metadata.labels.get_or_insert_default().insert("zone".into(), "c".into());
    let mut own = node.update(&own).await.unwrap();
    own.metadata.labels.get_or_insert_default().remove(restricted);
    assert_eq!(node.update(&own).await.unwrap_err().code, 403);
}

#[tokio::test(start_paused = true)]
async fn a_node_reads_the_volumes_of_its_pods_and_holds_its_own() {
    use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
    use wasmfleet::client::{Client, Patch};
    let cluster = Cluster::new().await;
    let claim = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let volume = |name: &str, claim: &str, by: Value| {
        let term = json!({"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]});
        json!({"metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": by}},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                "claimRef": {"namespace": "default", "name": claim}, "local": {"path": "/v"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}})
    };
    const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
    const VOLUMES: &str = "/api/v1/persistentvolumes";
    for name in ["used", "unused"] {
        cluster.post(CLAIMS, &claim(name)).await.expect(201);
        cluster.post(VOLUMES, &volume(name, name, json!("other"))).await.expect(201);
    }
    let own = volume("own", "unused", json!("wasmfleet.dev/local"));
    cluster.post(VOLUMES, &own).await.expect(201);
    let mut pod = super::pod("p");
    pod["spec"]["nodeName"] = json!("n1");
    pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "used"}}]);
    cluster.post(PODS, &pod).await.expect(201);
    let node = |name: &str| Client::new(cluster.server.api(User::node(name)), "kubelet");
    let reads = async |client: &Client| {
        let mut codes = Vec::new();
        for name in ["used", "unused"] {
            codes.push(client.get::<PersistentVolumeClaim>("default", name).await.is_ok());
        }
        for name in ["used", "unused", "own", "none"] {
            codes.push(client.get::<PersistentVolume>("", name).await.is_ok());
        }
        codes
    };
    let (n1, n2) = (node("n1"), node("n2"));
    assert_eq!(reads(&n1).await, [true, false, true, false, true, false]);
    assert_eq!(reads(&n2).await, [false; 6]);
    let write = async |client: &Client, name: &str, patch: Value| {
        client.patch::<PersistentVolume>("", name, Patch::Merge(patch)).await.map_err(|e| e.code)
    };
    const HOLD: &str = "external-provisioner.volume.kubernetes.io/finalizer";
    let hold = || json!({"metadata": {"finalizers": ["kubernetes.io/pv-protection", HOLD]}});
    let policy = json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}});
    for (client, name, patch) in [
        (&n1, "own", policy),
        (&n1, "own", json!({"metadata": {"finalizers": [HOLD]}})),
        (&n1, "own", json!({"metadata": {"annotations": {"a": "b"}}})),
        (&n1, "used", hold()),
        (&n2, "own", hold()),
    ] {
        assert_eq!(write(client, name, patch.clone()).await.unwrap_err(), 403, "{name}: {patch}");
    }
    write(&n1, "own", hold()).await.unwrap();
    let back = json!({"metadata": {"finalizers": ["kubernetes.io/pv-protection"]}});
    write(&n1, "own", back).await.unwrap();
    let listed = n1.list::<PersistentVolume>(None, &Default::default()).await;
    assert_eq!(listed.unwrap_err().code, 403);
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
