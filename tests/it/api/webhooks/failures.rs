//! Webhooks that do not answer as they should.

use std::sync::atomic::Ordering;

use tokio::sync::Semaphore;

use super::*;

/// The failure of one create that a broken webhook is asked about; with `Ignore` it must not fail.
async fn broken(server: &HookServer, path: &str, more: Value) -> String {
    let cluster = Cluster::new().await;
    let mut hook = server.hook("h", more);
    configure(&cluster, path, "c", json!([hook])).await;
    let message = cluster.post(MAPS, &map("m")).await.failure(500);
    hook["failurePolicy"] = "Ignore".into();
    let patch = json!({"webhooks": [hook]});
    cluster.merge(&format!("{path}/c"), &patch).await.expect(200);
    cluster.post(MAPS, &map("m")).await.expect(201);
    let begin = "Internal error occurred: failed calling webhook \"h.example.com\": ";
    message.strip_prefix(begin).unwrap_or_else(|| panic!("{message}")).to_string()
}

#[tokio::test]
async fn answers_that_are_none_follow_the_failure_policy() {
    let raw = |code: u16, body: &str| {
        let body = body.as_bytes().to_vec();
        move |_: &str, _: &Value| Reply::Raw(code, body.clone())
    };
    let server = HookServer::start(raw(200, "hello")).await;
    let garbage = broken(&server, VALIDATING, json!({})).await;
    assert!(garbage.contains("json parse error"), "{garbage}");
    let server = HookServer::start(raw(500, "oh no")).await;
    let failed = broken(&server, MUTATING, json!({})).await;
    assert!(failed.contains("500 Internal Server Error: oh no"), "{failed}");
    let server = HookServer::start(raw(200, &"x".repeat(9 << 20))).await;
    let huge = broken(&server, VALIDATING, json!({})).await;
    assert!(huge.contains("more than 8388608 bytes"), "{huge}");
    let server = HookServer::start(|_, _| Reply::Response(json!({"uid": "x"}))).await;
    let uid = broken(&server, VALIDATING, json!({})).await;
    assert!(
        uid.starts_with("received invalid webhook response: expected response.uid=\""),
        "{uid}"
    );
    let server = HookServer::start(|_, _| Reply::Patch(json!([]))).await;
    let patch = broken(&server, VALIDATING, json!({})).await;
    assert!(patch.contains("validating webhook may not return response.patchType"), "{patch}");
    let half = json!({"allowed": true, "patch": "W10="});
    let server = HookServer::start(move |_, _| Reply::Response(half.clone())).await;
    let half = broken(&server, MUTATING, json!({})).await;
    assert!(half.ends_with("webhook returned response.patch but not response.patchType"), "{half}");
    let bad = json!({"allowed": true, "patchType": "JSONPatch", "patch": "***"});
    let server = HookServer::start(move |_, _| Reply::Response(bad.clone())).await;
    let bad = broken(&server, MUTATING, json!({})).await;
    assert!(bad.starts_with("received undecodable patch"), "{bad}");
}

#[tokio::test]
async fn webhooks_that_are_not_there_follow_the_failure_policy() {
    let server = HookServer::start(|_, _| Reply::Never).await;
    let late = broken(&server, VALIDATING, json!({"timeoutSeconds": 1})).await;
    let url = format!("https://127.0.0.1:{}/h?timeout=1s", server.port);
    assert_eq!(late, format!("failed to call webhook: Post \"{url}\": context deadline exceeded"));
    let other = HookServer::start(|_, _| Reply::Allow).await;
    let client = json!({"url": format!("https://127.0.0.1:{}/h", server.port),
        "caBundle": other.ca_bundle});
    let stranger = broken(&server, MUTATING, json!({"clientConfig": client})).await;
    assert!(stranger.contains("tls: invalid peer certificate"), "{stranger}");
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let client = json!({"url": format!("https://127.0.0.1:{port}/h")});
    let nobody = broken(&server, VALIDATING, json!({"clientConfig": client})).await;
    assert!(nobody.contains("Connection refused"), "{nobody}");
    let client = json!({"service": {"namespace": "default", "name": "none"}});
    let missing = broken(&server, VALIDATING, json!({"clientConfig": client})).await;
    assert!(missing.contains("Post \"https://none.default.svc:443/?timeout=10s\""), "{missing}");
    assert!(missing.ends_with("services \"none\" not found"), "{missing}");
}

#[tokio::test]
async fn only_webhooks_without_effects_see_dry_runs() {
    let cluster = Cluster::new().await;
    let server = HookServer::start(|_, _| Reply::Allow).await;
    configure(&cluster, VALIDATING, "v", json!([server.hook("v", json!({}))])).await;
    let dry = format!("{MAPS}?dryRun=All");
    cluster.post(&dry, &map("m")).await.expect(201);
    assert_eq!(server.last()["dryRun"], true);
    assert_eq!(server.last()["options"]["dryRun"], json!(["All"]));
    cluster.get(&format!("{MAPS}/m")).await.failure(404);
    // Stored by an older server, say.
    use wasmfleet::store::{Expect, Key, Op, Value as StoreValue};
    let mut hook = server.hook("old", json!({"sideEffects": "Unknown"}));
    hook["failurePolicy"] = "Ignore".into();
    let object = json!({"kind": "ValidatingWebhookConfiguration",
        "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "old"},
        "webhooks": [hook]});
    let key =
        Key::new(&["admissionregistration.k8s.io", "validatingwebhookconfigurations", "", "old"]);
    let put = Op::Put { key, value: StoreValue::plain(object.to_string()), expect: Expect::Absent };
    cluster.store.commit(vec![put]).await.unwrap();
    let again = Cluster::over(cluster.store.clone(), Options::default()).await;
    let message = again.post(&dry, &map("m")).await.failure(400);
    assert_eq!(message, "admission webhook \"old.example.com\" does not support dry run");
    again.post(MAPS, &map("m")).await.expect(201);
}

/// No lock is held while a webhook thinks, and validating webhooks think side by side.
#[tokio::test]
async fn a_slow_webhook_holds_nobody_else_up() {
    let cluster = Cluster::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let closed = gate.clone();
    let server = HookServer::start(move |_, request| {
        let slow = request["name"] == "slow";
        if slow { Reply::After(closed.clone()) } else { Reply::Allow }
    })
    .await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "9"}}});
    cluster.post("/api/v1/namespaces/default/resourcequotas", &quota).await.expect(201);
    let hooks = json!([server.hook("a", json!({})), server.hook("b", json!({}))]);
    configure(&cluster, VALIDATING, "v", hooks).await;
    let slow = async {
        let answer = cluster.post(MAPS, &map("slow")).await;
        answer.expect(201);
    };
    let others = async {
        while server.seen.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
        cluster.post(MAPS, &map("fast")).await.expect(201);
        gate.add_permits(2);
    };
    tokio::join!(slow, others);
    assert_eq!(server.paths(), ["a", "b", "a", "b"]);
}

/// A webhook that closes its connections is asked over new ones.
#[tokio::test]
async fn connections_are_kept_and_replaced() {
    let cluster = Cluster::new().await;
    let server = HookServer::start(|_, _| Reply::Allow).await;
    configure(&cluster, VALIDATING, "v", json!([server.hook("v", json!({}))])).await;
    for n in 0..5 {
        cluster.post(MAPS, &map(&format!("m{n}"))).await.expect(201);
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    // The same address under another configuration's name is another way.
    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    cluster.merge(&format!("{VALIDATING}/v"), &patch).await.expect(200);
    cluster.post(MAPS, &map("again")).await.expect(201);
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
    let creates = (0..40).map(|n| {
        let (cluster, object) = (&cluster, map(&format!("n{n}")));
        async move { cluster.post(MAPS, &object).await.expect(201) }
    });
    futures::future::join_all(creates).await;
    assert!(server.connections.load(Ordering::Relaxed) <= 40);
}
