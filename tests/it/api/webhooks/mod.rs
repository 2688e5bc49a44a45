//! Admission webhooks, asked for real: over TLS, so on the real clock.

pub mod converter;
mod failures;
mod parts;
pub mod server;

use self::server::{HookServer, Reply};
use super::*;

const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

async fn configure(cluster: &Cluster, path: &str, name: &str, hooks: Value) {
    let object = json!({"metadata": {"name": name}, "webhooks": hooks});
    cluster.post(path, &object).await.expect(201);
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "b"}})
}

fn warnings(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test]
async fn a_refusal_is_told_in_the_webhooks_words() {
    let cluster = Cluster::new().await;
    let server = HookServer::start(|_, request| {
        Reply::Response(match request["name"].as_str().unwrap() {
            "silent" => json!({"allowed": false, "warnings": ["look out"]}),
            "reason" => json!({"allowed": false, "status": {"code": 200, "reason": "Nothing"}}),
            "full" => json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden",
                "message": "not here", "details": {"causes": [{"message": "m"}]}}}),
            _ => json!({"allowed": true, "warnings": ["mind the gap"],
                "auditAnnotations": {"k": "v"}}),
        })
    })
    .await;
    configure(&cluster, VALIDATING, "v", json!([server.hook("v", json!({}))])).await;
    let silent = cluster.post(MAPS, &map("silent")).await;
    let name = "admission webhook \"v.example.com\" denied the request";
    assert_eq!(silent.failure(400), format!("{name} without explanation"));
    assert_eq!(silent.json().get("reason"), None);
    let reason = cluster.post(MAPS, &map("reason")).await.failure(400);
    assert_eq!(reason, format!("{name}: Nothing"));
    let full = cluster.post(MAPS, &map("full")).await;
    assert_eq!(full.failure(403), format!("{name}: not here"));
    assert_eq!(full.json()["reason"], "Forbidden");
    assert_eq!(full.json()["details"]["causes"][0]["message"], "m");
    let fine = cluster.post(MAPS, &map("fine")).await;
    fine.expect(201);
    assert_eq!(warnings(&fine), ["299 - \"mind the gap\""]);
    // What nobody asked about is not sent.
    let secret = json!({"metadata": {"name": "s"}});
    cluster.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    assert_eq!(server.seen.lock().len(), 4);
    assert_eq!(server.connections.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_question_says_who_does_what() {
    let cluster = Cluster::new().await;
    let server = HookServer::start(|_, _| Reply::Allow).await;
    configure(&cluster, VALIDATING, "v", json!([server.hook("v", json!({}))])).await;
    let user = User { extra: [("k".into(), vec!["v".into()])].into(), ..User::system("ann") };
    let path = format!("{MAPS}?fieldManager=me&fieldValidation=Strict");
    let body = map("m").to_string();
    Answer::of(cluster.open_as(&user, "POST", &path, &[], body).await).await.expect(201);
    let created = server.last();
    let kind = json!({"group": "", "version": "v1", "kind": "ConfigMap"});
    let resource = json!({"group": "", "version": "v1", "resource": "configmaps"});
    assert_eq!((&created["kind"], &created["requestKind"]), (&kind, &kind));
    assert_eq!((&created["resource"], &created["requestResource"]), (&resource, &resource));
    assert_eq!((&created["name"], &created["namespace"]), (&json!("m"), &json!("default")));
    assert_eq!(created["operation"], "CREATE");
    let user =
        json!({"username": "system:ann", "groups": ["system:masters"], "extra": {"k": ["v"]}});
    assert_eq!(created["userInfo"], user);
    assert_eq!((&created["oldObject"], &created["dryRun"]), (&json!(null), &json!(false)));
    assert_eq!(created["object"]["data"], json!({"a": "b"}));
    assert!(created["object"]["metadata"]["uid"].is_string());
    let options = json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1",
        "fieldManager": "me", "fieldValidation": "Strict"});
    assert_eq!(created["options"], options);
    let m = format!("{MAPS}/m");
    cluster.merge(&m, &json!({"data": {"a": "c"}})).await.expect(200);
    let patched = server.last();
    assert_eq!(
        (&patched["operation"], &patched["options"]["kind"]),
        (&json!("UPDATE"), &json!("PatchOptions"))
    );
    assert_eq!(patched["oldObject"]["data"]["a"], "b");
    assert_eq!(patched["object"]["data"]["a"], "c");
    let options = json!({"propagationPolicy": "Foreground", "dryRun": ["All"]});
    cluster.delete(&m, &options).await.expect(200);
    let deleted = server.last();
    assert_eq!((&deleted["operation"], &deleted["object"]), (&json!("DELETE"), &json!(null)));
    assert_eq!(deleted["oldObject"]["data"]["a"], "c");
    assert_eq!(
        deleted["options"],
        json!({"kind": "DeleteOptions", "dryRun": ["All"],
        "apiVersion": "meta.k8s.io/v1", "propagationPolicy": "Foreground"})
    );
    assert_eq!(deleted["dryRun"], true);
    // Each of a collection.
    cluster.post(MAPS, &map("n")).await.expect(201);
    let before = server.seen.lock().len();
    cluster.delete(MAPS, &json!({})).await.expect(200);
    assert!(server.seen.lock()[before..].iter().any(|(_, one)| one["name"] == "n"));
}

#[tokio::test]
async fn patches_are_applied_in_the_order_of_names() {
    let cluster = Cluster::new().await;
    let server = HookServer::start(|path, request| {
        let before = request["object"]["data"]["a"].as_str().unwrap_or_default();
        Reply::Patch(
            json!([{"op": "replace", "path": "/data/a", "value": format!("{before}{path}")}]),
        )
    })
    .await;
    let rules = json!({"rules": [{"operations": ["CREATE"], "apiGroups": ["*"],
        "apiVersions": ["*"], "resources": ["*"], "scope": "Namespaced"}]});
    let second = json!([server.hook("2", rules.clone()), server.hook("3", rules.clone())]);
    configure(&cluster, MUTATING, "b", second).await;
    configure(&cluster, MUTATING, "a", json!([server.hook("1", rules)])).await;
    let made = cluster.post(MAPS, &map("m")).await.expect(201);
    assert_eq!(made["data"]["a"], "b123");
    // The rules speak of creations only.
    let put = cluster.put(&format!("{MAPS}/m"), &map("m")).await.expect(200);
    assert_eq!(put["data"]["a"], "b");
    // What is gone is not asked any more.
    cluster.delete(&format!("{MUTATING}/b"), &json!({})).await.expect(200);
    let made = cluster.post(MAPS, &map("n")).await.expect(201);
    assert_eq!(made["data"]["a"], "b1");
}

#[tokio::test]
async fn a_mutated_object_is_defaulted_pruned_and_validated() {
    let cluster = Cluster::new().await;
    let server = HookServer::start(|_, request| {
        let label = request["object"]["metadata"]["labels"]["do"].as_str().unwrap_or_default();
        Reply::Patch(match label {
            "add" => json!([{"op": "add", "path": "/spec/containers/-",
                "value": {"name": "side", "image": "registry.example/side:v1", "junk": 1}},
                {"op": "add", "path": "/status", "value": {"phase": "Running"}}]),
            "break" => json!([{"op": "replace", "path": "/spec/containers", "value": []}]),
            "rename" => json!([{"op": "replace", "path": "/metadata/name", "value": "x"}]),
            "uid" => json!([{"op": "replace", "path": "/metadata/uid", "value": "x"}]),
            "type" => json!([{"op": "replace", "path": "/spec", "value": 7}]),
            _ => json!([{"op": "remove", "path": "/none"}]),
        })
    })
    .await;
    let rules = json!({"rules": [{"operations": ["CREATE"], "apiGroups": [""],
        "apiVersions": ["v1"], "resources": ["pods"]}]});
    configure(&cluster, MUTATING, "m", json!([server.hook("m", rules)])).await;
    let send = async |what: &str| {
        let mut pod = super::pod("p");
        pod["metadata"]["labels"] = json!({"do": what});
        cluster.post(PODS, &pod).await
    };
    let made = send("add").await.expect(201);
    let side = &made["spec"]["containers"][1];
    assert_eq!(side["imagePullPolicy"], "IfNotPresent");
    assert_eq!(side.get("junk"), None);
    assert_eq!(made["status"]["phase"], "Pending");
    // Admission saw the new container as well.
    assert!(side["volumeMounts"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    cluster.delete(&format!("{PODS}/p"), &json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert!(send("break").await.failure(422).contains("spec.containers: Required value"));
    let renamed = send("rename").await.failure(400);
    assert!(renamed.contains("attempted to change what the object is"), "{renamed}");
    assert!(send("none").await.failure(500).contains("the patch of admission webhook"));
    assert!((400..500).contains(&send("type").await.code));
    let kept = send("uid").await.expect(201);
    assert_ne!(kept["metadata"]["uid"], "x");
}

#[tokio::test]
async fn webhooks_are_called_again_where_they_want() {
    let cluster = Cluster::new().await;
    // The first counts its calls in the object, the second changes it once.
    let server = HookServer::start(|path, request| {
        let data = &request["object"]["data"];
        let value = |key: &str| data[key].as_str().unwrap_or_default().to_string();
        match path {
            "second" if value("second").is_empty() => {
                Reply::Patch(json!([{"op": "add", "path": "/data/second", "value": "1"}]))
            }
            "second" => Reply::Allow,
            _ => Reply::Patch(json!([{"op": "add", "path": format!("/data/{path}"),
                "value": format!("{}x", value(path))}])),
        }
    })
    .await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let hooks = json!([
        server.hook("first", again),
        server.hook("never", json!({})),
        server.hook("second", json!({}))
    ]);
    configure(&cluster, MUTATING, "m", hooks).await;
    let made = cluster.post(MAPS, &map("m")).await.expect(201);
    assert_eq!(made["data"], json!({"a": "b", "first": "xx", "never": "x", "second": "1"}));
    assert_eq!(server.paths(), ["first", "never", "second", "first"]);
}

#[tokio::test]
async fn selectors_and_scopes_choose() {
    let cluster = Cluster::new().await;
    let server =
        HookServer::start(|path, _| Reply::Response(json!({"allowed": true, "warnings": [path]})))
            .await;
    let all = |scope: &str| {
        json!([{"operations": ["CREATE", "UPDATE"], "apiGroups": [""],
        "apiVersions": ["v1"], "resources": ["configmaps", "namespaces"], "scope": scope}])
    };
    let labelled = json!({"matchLabels": {"on": "yes"}});
    let hooks = json!([
        server.hook("object", json!({"objectSelector": labelled})),
        server.hook("space", json!({"namespaceSelector": labelled, "rules": all("*")})),
        server.hook("cluster", json!({"rules": all("Cluster")})),
        server.hook("namespaced", json!({"rules": all("Namespaced")})),
    ]);
    configure(&cluster, VALIDATING, "v", hooks).await;
    let mut labelled = map("m");
    labelled["metadata"]["labels"] = json!({"on": "yes"});
    let told = |answer: &Answer| -> Vec<String> {
        let texts = warnings(answer);
        texts.iter().map(|text| text.split('"').nth(1).unwrap().to_string()).collect()
    };
    assert_eq!(told(&cluster.post(MAPS, &labelled).await), ["object", "namespaced"]);
    // The old object counts as well.
    assert_eq!(told(&cluster.put(&format!("{MAPS}/m"), &map("m")).await), ["object", "namespaced"]);
    assert_eq!(told(&cluster.put(&format!("{MAPS}/m"), &map("m")).await), ["namespaced"]);
    let space = |labels: Value| json!({"metadata": {"name": "n", "labels": labels}});
    let made = cluster.post("/api/v1/namespaces", &space(json!({"on": "yes"}))).await;
    assert_eq!(told(&made), ["space", "cluster"]);
    let inside = cluster.post("/api/v1/namespaces/n/configmaps", &map("m")).await;
    assert_eq!(told(&inside), ["space", "namespaced"]);
    let created = server.seen.lock().iter().find(|(path, _)| path == "space").unwrap().1.clone();
    assert_eq!((&created["name"], &created["namespace"]), (&json!("n"), &json!("n")));
}

#[tokio::test]
async fn conditions_decide_who_is_asked() {
    let cluster = Cluster::new().await;
    let server =
        HookServer::start(|path, _| Reply::Response(json!({"allowed": true, "warnings": [path]})))
            .await;
    let when = |expressions: &[&str]| {
        let list = expressions.iter().enumerate();
        let list = list.map(|(n, text)| json!({"name": format!("c{n}"), "expression": text}));
        json!({"matchConditions": list.collect::<Vec<_>>()})
    };
    let hooks = json!([
        server.hook("name", when(&["object.metadata.name.startsWith('a')"])),
        server.hook(
            "both",
            when(&["request.operation == 'CREATE'", "request.userInfo.username == 'nobody'"])
        ),
        server.hook(
            "rights",
            when(&["authorizer.group('').resource('configmaps')\
             .namespace('default').check('delete').allowed()"])
        ),
    ]);
    configure(&cluster, VALIDATING, "v", hooks).await;
    assert_eq!(
        warnings(&cluster.post(MAPS, &map("a")).await),
        ["299 - \"name\"", "299 - \"rights\""]
    );
    assert_eq!(warnings(&cluster.post(MAPS, &map("b")).await), ["299 - \"rights\""]);
    // There is no object to look at: who fails closed refuses.
    let message = cluster.delete(&format!("{MAPS}/a"), &json!({})).await.failure(403);
    assert!(message.starts_with("configmaps \"a\" is forbidden: expression"), "{message}");
    let mut open = server.hook("name", when(&["object.metadata.name.startsWith('a')"]));
    open["failurePolicy"] = "Ignore".into();
    cluster.merge(&format!("{VALIDATING}/v"), &json!({"webhooks": [open]})).await.expect(200);
    cluster.delete(&format!("{MAPS}/a"), &json!({})).await.expect(200);
    let bad = json!({"metadata": {"name": "w"},
        "webhooks": [server.hook("bad", when(&["object.", "1 + 1"]))]});
    for path in [VALIDATING, MUTATING] {
        let message = cluster.post(path, &bad).await.failure(422);
        assert!(message.contains("matchConditions[0].expression: Invalid value"), "{message}");
        assert!(message.contains("compilation failed"), "{message}");
        assert!(message.contains("must evaluate to bool"), "{message}");
    }
}

#[tokio::test]
async fn nobody_is_asked_about_webhooks() {
    let cluster = Cluster::new().await;
    let server = HookServer::start(|_, _| Reply::Response(json!({"allowed": false}))).await;
    let everything = json!({"rules": [{"operations": ["*"], "apiGroups": ["*"],
        "apiVersions": ["*"], "resources": ["*/*"]}]});
    configure(&cluster, VALIDATING, "v", json!([server.hook("v", everything.clone())])).await;
    configure(&cluster, MUTATING, "m", json!([server.hook("m", everything)])).await;
    cluster.post(MAPS, &map("m")).await.failure(400);
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    cluster.post(reviews, &review).await.expect(201);
    // A start does not wait for anybody.
    cluster.server.bootstrap(None).await.unwrap();
    cluster.delete(&format!("{MUTATING}/m"), &json!({})).await.expect(200);
    cluster.delete(VALIDATING, &json!({})).await.expect(200);
    cluster.post(MAPS, &map("m")).await.expect(201);
}

#[tokio::test]
async fn the_table_is_there_after_a_restart() {
    let store: SharedStore = Arc::new(MemoryStore::default());
    let cluster = Cluster::over(store.clone(), Options::default()).await;
    let server = HookServer::start(|_, _| Reply::Response(json!({"allowed": false}))).await;
    configure(&cluster, VALIDATING, "v", json!([server.hook("v", json!({}))])).await;
    let again = Cluster::over(store, Options::default()).await;
    again.post(MAPS, &map("m")).await.failure(400);
}
