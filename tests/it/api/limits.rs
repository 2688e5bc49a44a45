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
    let memory = |request: &str, limit: &str| json!({"requests": {"memory": request, "cpu": "1"}, "limits": {"memory": limit, "cpu": "1"}});
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

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

/// A quota that the controller has counted.
async fn quota(cluster: &Cluster, name: &str, spec: Value, used: Value) {
    let object = json!({"metadata": {"name": name}, "spec": spec});
    let answer = cluster.post(QUOTAS, &object).await;
    assert_eq!(answer.header("warning"), "");
    answer.expect(201);
    let status = json!({"status": {"hard": spec["hard"], "used": used}});
    cluster.merge(&format!("{QUOTAS}/{name}/status"), &status).await.expect(200);
}

async fn used(cluster: &Cluster, name: &str) -> Value {
    cluster.get(&format!("{QUOTAS}/{name}")).await.expect(200)["status"]["used"].clone()
}

#[tokio::test(start_paused = true)]
async fn creations_are_charged_to_quotas() {
    let cluster = Cluster::new().await;
    let hard = json!({"hard": {"pods": "2", "requests.memory": "1Gi", "limits.cpu": "2",
        "count/configmaps": "1", "services": "0"}});
    let none = json!({"pods": "0", "requests.memory": "0", "limits.cpu": "0",
        "count/configmaps": "0", "services": "0"});
    quota(&cluster, "q", hard, none).await;
    let amounts = |memory: &str| json!({"requests": {"memory": memory}, "limits": {"memory": "1Gi", "cpu": "500m"}});
    let message = cluster.post(PODS, &pod("a")).await.failure(403);
    assert_eq!(
        message,
        "pods \"a\" is forbidden: failed quota: q: must specify limits.cpu for: main; \
         requests.memory for: main"
    );
    // What is refused or only tried costs nothing.
    let path = format!("{PODS}?dryRun=All");
    cluster.post(&path, &sized("a", amounts("512Mi"))).await.expect(201);
    let mut wrong = sized("a", amounts("512Mi"));
    wrong["spec"]["containers"][0]["name"] = "A B".into();
    cluster.post(PODS, &wrong).await.failure(422);
    cluster.post(PODS, &sized("a", amounts("512Mi"))).await.expect(201);
    cluster.post(PODS, &sized("a", amounts("256Mi"))).await.failure(409);
    let message = cluster.post(PODS, &sized("b", amounts("768Mi"))).await.failure(403);
    assert_eq!(
        message,
        "pods \"b\" is forbidden: exceeded quota: q, requested: requests.memory=768Mi, \
         used: requests.memory=512Mi, limited: requests.memory=1Gi"
    );
    cluster.post(PODS, &sized("b", amounts("256Mi"))).await.expect(201);
    let message = cluster.post(PODS, &sized("c", amounts("1Mi"))).await.failure(403);
    assert_eq!(
        message,
        "pods \"c\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, \
         limited: pods=2"
    );
    cluster.config_map("one", json!({})).await;
    let two = json!({"metadata": {"name": "two"}});
    let message = cluster.post(MAPS, &two).await.failure(403);
    assert!(
        message.ends_with(
            "requested: count/configmaps=1, used: count/configmaps=1, \
        limited: count/configmaps=1"
        ),
        "{message}"
    );
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    cluster.post(SERVICES, &service).await.failure(403);
    assert_eq!(
        used(&cluster, "q").await,
        json!({"pods": "2", "requests.memory": "768Mi", "limits.cpu": "1",
            "count/configmaps": "1", "services": "0"})
    );
    // Others have quotas of their own.
    cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await.expect(201);
    cluster.post("/api/v1/namespaces/n/pods", &pod("c")).await.expect(201);
}

#[tokio::test(start_paused = true)]
async fn quotas_look_at_what_their_scopes_say() {
    let cluster = Cluster::new().await;
    let scoped = |scope: &str| json!({"hard": {"pods": "1"}, "scopes": [scope]});
    let zero = || json!({"pods": "0"});
    quota(&cluster, "best", scoped("BestEffort"), zero()).await;
    quota(&cluster, "sized", scoped("NotBestEffort"), zero()).await;
    quota(&cluster, "ends", scoped("Terminating"), zero()).await;
    quota(&cluster, "stays", scoped("NotTerminating"), zero()).await;
    let class = json!({"hard": {"pods": "0"}, "scopeSelector": {"matchExpressions": [{
        "scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]}]}});
    quota(&cluster, "class", class, zero()).await;
    cluster.post(PODS, &pod("a")).await.expect(201);
    let message = cluster.post(PODS, &pod("b")).await.failure(403);
    assert!(message.contains("exceeded quota: best"), "{message}");
    let message =
        cluster.post(PODS, &sized("b", json!({"limits": {"cpu": "1"}}))).await.failure(403);
    assert!(message.contains("exceeded quota: stays"), "{message}");
    let mut ends = sized("b", json!({"limits": {"cpu": "1"}}));
    ends["spec"]["activeDeadlineSeconds"] = 60.into();
    let mut critical = ends.clone();
    critical["spec"]["priorityClassName"] = "system-node-critical".into();
    let message = cluster.post(PODS, &critical).await.failure(403);
    assert!(message.contains("exceeded quota: class"), "{message}");
    cluster.post(PODS, &ends).await.expect(201);
    for (name, pods) in [("best", "1"), ("sized", "1"), ("ends", "1"), ("stays", "1")] {
        assert_eq!(used(&cluster, name).await["pods"], pods, "{name}");
    }
    // Scopes are about Pods.
    cluster.config_map("m", json!({})).await;
}

#[tokio::test(start_paused = true)]
async fn a_quota_holds_however_many_write_at_once() {
    let cluster = Cluster::new().await;
    quota(&cluster, "q", json!({"hard": {"pods": "20"}}), json!({"pods": "0"})).await;
    let names: Vec<String> = (0..30).map(|n| format!("p{n}")).collect();
    let create = async |name: &String| cluster.post(PODS, &pod(name)).await.code;
    let codes = futures::future::join_all(names.iter().map(create)).await;
    let count = |code: u16| codes.iter().filter(|found| **found == code).count();
    assert_eq!((count(201), count(403)), (20, 10));
    assert_eq!(used(&cluster, "q").await["pods"], "20");
    let object = json!({"metadata": {"name": "w"}, "spec": {"hard": {"example.com/x": "1"}}});
    let warned = cluster.post(QUOTAS, &object).await;
    assert!(warned.header("warning").contains("spec.hard[example.com/x]: is not counted"));
    // Those that go at once give back what they had.
    let delete = async |name: &String| {
        let path = format!("{PODS}/{name}");
        cluster.delete(&path, &json!({"gracePeriodSeconds": 0})).await.code
    };
    let codes = futures::future::join_all(names.iter().map(delete)).await;
    assert_eq!(codes.iter().filter(|code| **code == 200).count(), 20);
    assert_eq!(used(&cluster, "q").await["pods"], "0");
}

#[tokio::test(start_paused = true)]
async fn what_grows_is_charged_and_what_shrinks_is_given_back() {
    let cluster = Cluster::new().await;
    let hard = json!({"hard": {"pods": "2", "count/pods": "9", "requests.cpu": "1",
        "services.nodeports": "2", "count/services": "2"}});
    let zero = json!({"pods": "0", "count/pods": "0", "requests.cpu": "0",
        "services.nodeports": "0", "count/services": "0"});
    quota(&cluster, "q", hard, zero).await;
    let service = |kind: &str, ports: &[i32]| {
        let ports: Vec<Value> =
            ports.iter().map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
        json!({"metadata": {"name": "s"}, "spec": {"type": kind, "ports": ports}})
    };
    cluster.post(SERVICES, &service("ClusterIP", &[80])).await.expect(201);
    let path = format!("{SERVICES}/s");
    let three = cluster.put(&path, &service("NodePort", &[80, 81, 82])).await.failure(403);
    assert_eq!(
        three,
        "services \"s\" is forbidden: exceeded quota: q, requested: services.nodeports=3, used: \
         services.nodeports=0, limited: services.nodeports=2"
    );
    cluster.put(&path, &service("NodePort", &[80, 81])).await.expect(200);
    assert_eq!(used(&cluster, "q").await["services.nodeports"], "2");
    // One that is tried only costs nothing.
    let dry = format!("{path}?dryRun=All");
    cluster.put(&dry, &service("ClusterIP", &[80])).await.expect(200);
    assert_eq!(used(&cluster, "q").await["services.nodeports"], "2");
    cluster.put(&path, &service("ClusterIP", &[80])).await.expect(200);
    assert_eq!(used(&cluster, "q").await["services.nodeports"], "0");
    cluster.delete(&path, &json!({})).await.expect(200);
    assert_eq!(used(&cluster, "q").await["count/services"], "0");
    // A Pod that ends needs nothing any more but its place in the store.
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
    cluster.post(PODS, &sized("a", cpu("1"))).await.expect(201);
    let done = json!({"status": {"phase": "Succeeded"}});
    cluster.merge(&format!("{PODS}/a/status"), &done).await.expect(200);
    let now = used(&cluster, "q").await;
    assert_eq!(
        (&now["pods"], &now["count/pods"], &now["requests.cpu"]),
        (&json!("0"), &json!("1"), &json!("0"))
    );
    let held = json!({"metadata": {"finalizers": ["example.com/wait"]}});
    cluster.post(PODS, &sized("b", cpu("1"))).await.expect(201);
    cluster.merge(&format!("{PODS}/b"), &held).await.expect(200);
    cluster.delete(&format!("{PODS}/b"), &json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(used(&cluster, "q").await["pods"], "1");
    let free = json!({"metadata": {"finalizers": null}});
    cluster.merge(&format!("{PODS}/b"), &free).await.expect(200);
    assert_eq!(used(&cluster, "q").await["pods"], "0");
    cluster.delete(PODS, &json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(used(&cluster, "q").await["count/pods"], "0");
}

#[tokio::test(start_paused = true)]
async fn objects_of_every_kind_are_counted() {
    let cluster = Cluster::new().await;
    let definition = json!({"metadata": {"name": "things.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing",
            "listKind": "ThingList"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.post(definitions, &definition).await.expect(201);
    let hard = json!({"hard": {"count/things.example.com": "1", "count/cronjobs.batch": "0",
        "resourcequotas": "1"}});
    let zero = json!({"count/things.example.com": "0", "count/cronjobs.batch": "0",
        "resourcequotas": "1"});
    quota(&cluster, "q", hard, zero).await;
    let things = "/apis/example.com/v1/namespaces/default/things";
    let thing = |name: &str| {
        json!({"apiVersion": "example.com/v1", "kind": "Thing",
        "metadata": {"name": name}})
    };
    cluster.post(things, &thing("a")).await.expect(201);
    let message = cluster.post(things, &thing("b")).await.failure(403);
    assert!(message.contains("requested: count/things.example.com=1"), "{message}");
    cluster.delete(&format!("{things}/a"), &json!({})).await.expect(200);
    cluster.post(things, &thing("b")).await.expect(201);
    let other = json!({"metadata": {"name": "r"}, "spec": {"hard": {"pods": "1"}}});
    cluster.post(QUOTAS, &other).await.failure(403);
    // The quota itself goes without being charged.
    cluster.delete(&format!("{QUOTAS}/q"), &json!({})).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn claims_have_bounds_and_are_counted_by_class() {
    const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
    const GOLD: &str = "gold.storageclass.storage.k8s.io/requests.storage";
    let cluster = Cluster::new().await;
    let limits = json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"},
        "max": {"storage": "4Gi"}}]);
    range(&cluster, "r", limits).await;
    let hard = json!({"hard": {"requests.storage": "6Gi", GOLD: "3Gi",
        "persistentvolumeclaims": "2"}});
    let zero = json!({"requests.storage": "0", GOLD: "0", "persistentvolumeclaims": "0"});
    quota(&cluster, "q", hard, zero).await;
    let create = async |size: &str, class: &str| {
        let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": class, "resources": {"requests": {"storage": size}}}});
        cluster.post(CLAIMS, &claim).await
    };
    let begin = "persistentvolumeclaims \"c\" is forbidden: ";
    let small = create("512Mi", "gold").await.failure(403);
    let why = "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi";
    assert_eq!(small, format!("{begin}{why}"));
    let large = create("5Gi", "iron").await.failure(403);
    let why = "maximum storage usage per PersistentVolumeClaim is 4Gi, but request is 5Gi";
    assert_eq!(large, format!("{begin}{why}"));
    let dear = create("4Gi", "gold").await.failure(403);
    let why =
        format!("exceeded quota: q, requested: {GOLD}=4Gi, used: {GOLD}=0, limited: {GOLD}=3Gi");
    assert_eq!(dear, format!("{begin}{why}"));
    create("2Gi", "gold").await.expect(201);
    assert_eq!(
        used(&cluster, "q").await,
        json!({"requests.storage": "2Gi", GOLD: "2Gi", "persistentvolumeclaims": "1"})
    );
}

#[tokio::test(start_paused = true)]
async fn one_class_is_everybodys() {
    const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let cluster = Cluster::new().await;
    let class = |name: &str| json!({"metadata": {"name": name}, "value": 3, "globalDefault": true});
    cluster.post(CLASSES, &class("a")).await.expect(201);
    let message = cluster.post(CLASSES, &class("b")).await.failure(403);
    assert!(
        message
            .ends_with("PriorityClass a is already marked as default. Only one default can exist"),
        "{message}"
    );
    cluster.merge(&format!("{CLASSES}/a"), &json!({"description": "d"})).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn runtime_classes_add_what_they_say() {
    const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";
    let cluster = Cluster::new().await;
    let of_class = |name: &str, class: &str| {
        let mut pod = pod(name);
        pod["spec"]["runtimeClassName"] = class.into();
        pod
    };
    let message = cluster.post(PODS, &of_class("p", "wasm")).await.failure(403);
    assert_eq!(message, "pods \"p\" is forbidden: pod rejected: RuntimeClass \"wasm\" not found");
    let class = json!({"metadata": {"name": "wasm"}, "handler": "wasm",
        "overhead": {"podFixed": {"memory": "16Mi", "cpu": "10m"}},
        "scheduling": {"nodeSelector": {"speed": "fast"},
            "tolerations": [{"key": "wasm", "operator": "Exists", "effect": "NoSchedule"}]}});
    cluster.post(CLASSES, &class).await.expect(201);
    let mut own = of_class("p", "wasm");
    own["spec"]["nodeSelector"] = json!({"zone": "a"});
    let made = cluster.post(PODS, &own).await.expect(201);
    assert_eq!(made["spec"]["overhead"], json!({"memory": "16Mi", "cpu": "10m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"zone": "a", "speed": "fast"}));
    let tolerations = made["spec"]["tolerations"].as_array().unwrap();
    assert!(tolerations.iter().any(|one| one["key"] == "wasm"), "{tolerations:?}");
    own["metadata"]["name"] = "q".into();
    own["spec"]["nodeSelector"] = json!({"speed": "slow"});
    let message = cluster.post(PODS, &own).await.failure(403);
    assert!(
        message.ends_with(
            "conflict: runtimeClass.scheduling.nodeSelector[speed] = fast; \
             pod.spec.nodeSelector[speed] = slow"
        ),
        "{message}"
    );
    // The overhead is the class's to say.
    let mut dear = of_class("q", "wasm");
    dear["spec"]["overhead"] = json!({"memory": "1Gi"});
    let message = cluster.post(PODS, &dear).await.failure(403);
    assert!(message.ends_with("doesn't match RuntimeClass's defined Overhead"), "{message}");
    let mut none = pod("q");
    none["spec"]["overhead"] = json!({"memory": "1Gi"});
    let message = cluster.post(PODS, &none).await.failure(403);
    assert!(message.contains("without corresponding RuntimeClass defined"), "{message}");
    // A class that went is no reason to lose the pod that has it, nor to take another.
    cluster.delete(&format!("{CLASSES}/wasm"), &json!({})).await.expect(200);
    cluster
        .merge(&format!("{PODS}/p"), &json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .expect(200);
    cluster.post(PODS, &of_class("q", "wasm")).await.failure(403);
}
