//! Routes, media types, tables, limits, headers.

use super::*;

async fn anonymous(cluster: &Cluster, path: &str) -> Answer {
    let request = Request::get(path).body(Full::new(Bytes::new())).unwrap();
    Answer::of(door::handle(cluster.server.clone(), None, request).await).await
}

#[tokio::test(start_paused = true)]
async fn only_health_and_version_are_open() {
    let cluster = Cluster::new().await;
    let version = anonymous(&cluster, "/version").await;
    assert_eq!(version.expect(200)["gitVersion"], "v1.35.0+wasm.1");
    for path in ["/healthz", "/livez", "/readyz", "/readyz/store"] {
        let answer = anonymous(&cluster, path).await;
        assert_eq!((answer.code, answer.text()), (200, "ok"), "{path}");
    }
    let verbose = anonymous(&cluster, "/readyz?verbose").await;
    assert_eq!(verbose.text(), "[+]ping ok\n[+]store ok\n[+]shutdown ok\nreadyz check passed\n");
    for path in ["/", "/api", "/apis", "/openapi/v3", MAPS, "/nothing", "/readyz/none"] {
        assert_eq!(anonymous(&cluster, path).await.failure(401), "Unauthorized", "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_failed_is_not_healthy() {
    let store = Arc::new(MemoryStore::default());
    let cluster = Cluster::over(store.clone(), Options::default()).await;
    store.fail("the flush failed");
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = anonymous(&cluster, path).await;
        assert_eq!(answer.code, 500);
        assert!(answer.text().contains("[-]store failed"), "{}", answer.text());
    }
    cluster.get(MAPS).await.expect(200);
    let message = cluster.post(MAPS, &json!({"metadata": {"name": "x"}})).await.failure(503);
    assert!(message.contains("the flush failed"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn paths_that_are_nothing() {
    let cluster = Cluster::new().await;
    for path in [
        "/nothing",
        "/api/v1/unknown",
        "/api/v2/configmaps",
        "/apis/x/v1/y",
        "/api/v1/namespaces/default/configmaps/x/status",
        "/api/v1/configmaps/x",
    ] {
        let answer = cluster.get(path).await;
        assert_eq!((answer.code, answer.text()), (404, "404 page not found\n"), "{path}");
    }
    for path in [
        "/api/v1/../../etc",
        "/api/v1/namespaces/a%2fb/configmaps",
        "/api/v1/%00",
        "/api//v1/configmaps",
    ] {
        assert_eq!(cluster.get(path).await.code, 400, "{path}");
    }
    cluster.send("PUT", MAPS, &[], "{}").await.failure(405);
    cluster.send("POST", &format!("{MAPS}/x"), &[], "{}").await.failure(405);
    cluster.send("POST", "/api/v1/configmaps", &[], "{}").await.failure(405);
    let long = format!("{MAPS}?labelSelector={}", "a".repeat(20_000));
    cluster.get(&long).await.failure(400);
}

#[tokio::test(start_paused = true)]
async fn every_answer_has_its_headers() {
    let cluster = Cluster::new().await;
    let answer = cluster.get(MAPS).await;
    assert_eq!(answer.header("audit-id").len(), 36);
    assert_eq!(answer.header("cache-control"), "no-cache, private");
    assert_eq!(answer.header("content-type"), "application/json");
    let failure = cluster.get("/nothing").await;
    assert_eq!(failure.header("audit-id").len(), 36);
}

#[tokio::test(start_paused = true)]
async fn bodies_in_three_languages() {
    let cluster = Cluster::new().await;
    let yaml = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: y}\ndata: {a: b}\n";
    let send = async |media: &str, body: Bytes| {
        cluster.send("POST", MAPS, &[("content-type", media)], body).await
    };
    send("application/yaml", yaml.into()).await.expect(201);
    let json = r#"{"metadata":{"name":"j"}}"#;
    send("application/json; charset=utf-8", json.into()).await.expect(201);
    let proto: &[u8] = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x05\x0a\x03\x0a\x01p";
    assert_eq!(
        send("application/vnd.kubernetes.protobuf", Bytes::from_static(proto)).await.expect(201)["metadata"]
            ["name"],
        "p"
    );
    send("text/plain", json.into()).await.failure(415);
    send("application/json", "{".into()).await.failure(400);
    send("application/yaml", "a: [".into()).await.failure(400);
    send("application/vnd.kubernetes.protobuf", "rubbish".into()).await.failure(400);
    let big = format!("{{\"data\":\"{}\"}}", "x".repeat(3 << 20));
    let refused = send("application/json", big.into()).await;
    refused.failure(413);
    assert_eq!(refused.json()["reason"], "RequestEntityTooLarge");
}

#[tokio::test(start_paused = true)]
async fn tables_and_metadata() {
    let cluster = Cluster::new().await;
    cluster.config_map("a", json!({"l": "1"})).await;
    let accept = async |path: &str, form: &str| {
        let form = format!("application/json;as={form};g=meta.k8s.io");
        cluster.send("GET", path, &[("accept", &form)], "").await
    };
    let table = accept(MAPS, "Table;v=v1").await.expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["columnDefinitions"][0]["format"], "name");
    assert_eq!(table["rows"][0]["cells"], json!(["a", 1, "0s"]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["metadata"]["labels"]["l"], "1");
    assert_eq!(version(&table), cluster.store.revision());
    let whole = accept(&format!("{MAPS}?includeObject=Object"), "Table;v=v1").await.expect(200);
    assert_eq!(whole["rows"][0]["object"]["data"]["a"], "b");
    let none = accept(&format!("{MAPS}?includeObject=None"), "Table;v=v1beta1").await.expect(200);
    assert_eq!(none["rows"][0]["object"], Value::Null);
    accept(&format!("{MAPS}?includeObject=x"), "Table;v=v1").await.failure(400);
    let one = accept(&format!("{MAPS}/a"), "Table;v=v1").await.expect(200);
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
    let meta = accept(&format!("{MAPS}/a"), "PartialObjectMetadata;v=v1").await.expect(200);
    assert_eq!((meta.get("data"), &meta["metadata"]["name"]), (None, &json!("a")));
    let metas = accept(MAPS, "PartialObjectMetadataList;v=v1").await.expect(200);
    assert_eq!(metas["kind"], "PartialObjectMetadataList");
    assert_eq!(metas["items"][0]["kind"], "PartialObjectMetadata");
    let refused = cluster.send("GET", MAPS, &[("accept", "image/png")], "").await;
    assert_eq!(refused.expect(406)["reason"], "NotAcceptable");
    cluster.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    accept(&format!("{DEPLOYMENTS}/web/scale"), "Table;v=v1").await.failure(406);
}

#[tokio::test(start_paused = true)]
async fn people_get_indented_answers_and_yaml() {
    let cluster = Cluster::new().await;
    cluster.config_map("a", json!({})).await;
    let path = format!("{MAPS}/a");
    let curl = cluster.send("GET", &path, &[("user-agent", "curl/8.0")], "").await;
    assert!(curl.text().starts_with("{\n  \"kind\": \"ConfigMap\",\n  \"apiVersion\": \"v1\",\n"));
    let pretty = cluster.get(&format!("{path}?pretty=true")).await;
    assert_eq!(pretty.body, curl.body);
    let flat = format!("{path}?pretty=false");
    let plain = cluster.send("GET", &flat, &[("user-agent", "curl/8")], "").await;
    assert!(plain.text().starts_with("{\"kind\""));
    let yaml = cluster.send("GET", &path, &[("accept", "application/yaml")], "").await;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    assert!(yaml.text().contains("kind: ConfigMap\n"));
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_are_sent_away() {
    let options =
        Options { reserved_reads_in_flight: 0, reserved_writes_in_flight: 0, ..Options::default() };
    let cluster = Cluster::with(MemoryStore::default(), options).await;
    let read = cluster.get(MAPS).await;
    read.failure(429);
    assert_eq!(read.header("retry-after"), "1");
    cluster.post(MAPS, &json!({})).await.failure(429);
    // Watches do not count.
    let watch = cluster.get(&format!("{MAPS}?watch=true&timeoutSeconds=1")).await;
    assert_eq!(watch.code, 200);
}

#[tokio::test(start_paused = true)]
async fn a_node_writes_only_what_is_its_own() {
    use k8s_openapi::api::core::v1::Pod;
    use wasmfleet::client::{DeleteOptions, Target};
    let cluster = Cluster::new().await;
    cluster.pod("p").await;
    let binding = json!({"target": {"name": "n1"}});
    cluster.post(&format!("{PODS}/p/binding"), &binding).await.expect(201);
    let target = Target::one::<Pod>("default", "p");
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    let other = cluster.server.api(User::node("n2"));
    assert_eq!(other.delete(&target, &options).await.unwrap_err().code, 403);
    let own = cluster.server.api(User::node("n1"));
    own.delete(&target, &options).await.unwrap();
}

/// An answer that nobody takes keeps its place; others and administrators find theirs.
#[tokio::test(start_paused = true)]
async fn a_flood_costs_who_floods() {
    let options = Options { max_reads_in_flight: 4, max_streams: 4, ..Options::default() };
    let cluster = Cluster::with(MemoryStore::default(), options).await;
    let long = json!({"metadata": {"name": "long"}, "data": {"a": "x".repeat(100_000)}});
    cluster.post(MAPS, &long).await.expect(201);
    let binding = json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "all"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    cluster.post(bindings, &binding).await.expect(201);
    let flood = User::new("flood", &["all"]);
    for path in [MAPS.to_string(), format!("{MAPS}?watch=1")] {
        let held = [
            cluster.open_as(&flood, "GET", &path, &[], "").await,
            cluster.open_as(&flood, "GET", &path, &[], "").await,
        ];
        let refused = Answer::of(cluster.open_as(&flood, "GET", &path, &[], "").await).await;
        refused.failure(429);
        assert_eq!(refused.header("retry-after"), "1");
        let other = User::new("other", &["all"]);
        assert_eq!(cluster.open_as(&other, "GET", &path, &[], "").await.status(), 200);
        assert_eq!(cluster.open("GET", &path, &[], "").await.status(), 200);
        drop(held);
        assert_eq!(cluster.open_as(&flood, "GET", &path, &[], "").await.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_is_refused() {
    use futures::StreamExt;
    use http_body_util::StreamBody;
    let cluster = Cluster::new().await;
    let begin = tokio::time::Instant::now();
    let trickle = futures::stream::repeat(()).then(|()| async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b" ")))
    });
    let request = Request::post(MAPS).body(StreamBody::new(trickle)).unwrap();
    let user = Some(User::system("test"));
    let answer = Answer::of(door::handle(cluster.server.clone(), user, request).await).await;
    assert_eq!(answer.expect(408)["reason"], "Timeout");
    assert_eq!(begin.elapsed().as_secs(), 10);
}
