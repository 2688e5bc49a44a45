//! Create, update and patch.

use serde_json::json;
use wasmfleet::store::memory::{Faults, MemoryStore, Options as StoreOptions};

use super::*;

#[tokio::test(start_paused = true)]
async fn create_answers_the_stored_bytes() {
    let cluster = Cluster::new().await;
    let created = cluster
        .post(
            MAPS,
            &json!({"metadata": {"name": "x", "uid": "mine",
        "generation": 7, "creationTimestamp": null}, "data": {"a": "b"}}),
        )
        .await;
    let object = created.expect(201);
    assert!(created.text().starts_with(r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"#));
    assert!(created.text().ends_with("}\n"));
    assert_eq!(object["metadata"]["namespace"], "default");
    assert_ne!(object["metadata"]["uid"], "mine");
    assert_eq!(object["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(version(&object), cluster.store.revision());
    let got = cluster.get(&format!("{MAPS}/x")).await;
    assert_eq!(got.body, created.body);
}

#[tokio::test(start_paused = true)]
async fn create_refuses_what_contradicts_the_url() {
    let cluster = Cluster::new().await;
    for (body, code) in [
        (json!({"kind": "Secret", "metadata": {"name": "x"}}), 400),
        (json!({"apiVersion": "v2", "metadata": {"name": "x"}}), 400),
        (json!({"metadata": {"name": "x", "namespace": "other"}}), 400),
        (json!({"metadata": {"name": "x", "resourceVersion": "3"}}), 400),
        (json!({"metadata": {"name": "No Name"}}), 422),
        (json!({"metadata": {}}), 422),
        (json!([1]), 400),
        (json!({"metadata": {"name": 3}}), 400),
        (json!({"metadata": "x"}), 400),
        (json!({"kind": 1, "metadata": {"name": "x"}}), 400),
        (json!({"apiVersion": ["v1"], "metadata": {"name": "x"}}), 400),
        (json!({"metadata": {"name": "x", "generation": "1"}}), 400),
        (json!({"metadata": {"name": "x", "creationTimestamp": "yesterday"}}), 400),
        (json!({"metadata": {"name": "x", "managedFields": {}}}), 400),
    ] {
        let answer = cluster.post(MAPS, &body).await;
        assert_eq!(answer.code, code, "{body}: {}", answer.text());
    }
    let empty = cluster.send("POST", MAPS, &[], "").await;
    empty.failure(400);
    let twice = cluster.config_map("x", json!({})).await;
    let again = cluster.post(MAPS, &json!({"metadata": {"name": "x"}})).await;
    assert_eq!(
        again.text(),
        concat!(
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
            r#""message":"configmaps \"x\" already exists","reason":"AlreadyExists","#,
            r#""details":{"name":"x","kind":"configmaps"},"code":409}"#,
            "\n"
        )
    );
    assert_eq!(version(&twice), cluster.store.revision());
}

#[tokio::test(start_paused = true)]
async fn names_are_generated() {
    let cluster = Cluster::new().await;
    let body = json!({"metadata": {"generateName": "web-"}});
    let one = cluster.post(MAPS, &body).await.expect(201);
    let two = cluster.post(MAPS, &body).await.expect(201);
    let name = one["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    assert_ne!(name, two["metadata"]["name"]);
}

#[tokio::test(start_paused = true)]
async fn dry_run_stores_nothing() {
    let cluster = Cluster::new().await;
    let revision = cluster.store.revision();
    let path = format!("{MAPS}?dryRun=All");
    let object = cluster.post(&path, &json!({"metadata": {"name": "x"}})).await.expect(201);
    assert_eq!(object["metadata"]["resourceVersion"], Value::Null);
    assert!(object["metadata"]["uid"].is_string());
    cluster.get(&format!("{MAPS}/x")).await.failure(404);
    cluster.post(&format!("{MAPS}?dryRun=Some"), &json!({})).await.failure(422);
    cluster.config_map("y", json!({})).await;
    let again = cluster.post(&path, &json!({"metadata": {"name": "y"}})).await;
    assert_eq!(again.expect(409)["reason"], "AlreadyExists");
    let path = format!("{MAPS}/y?dryRun=All");
    let patched = cluster.merge(&path, &json!({"data": {"a": "c"}})).await.expect(200);
    assert_eq!(patched["data"]["a"], "c");
    cluster.delete(&path, &json!({})).await.expect(200);
    let kept = cluster.get(&format!("{MAPS}/y")).await.expect(200);
    assert_eq!(kept["data"]["a"], "b");
    assert_eq!(cluster.store.revision(), revision + 1);
}

#[tokio::test(start_paused = true)]
async fn unknown_and_duplicate_fields_are_told() {
    let cluster = Cluster::new().await;
    let body = r#"{"metadata":{"name":"x"},"data":{"a":"1","a":"2"},"spec":{"foo":1}}"#;
    let strict = cluster.send("POST", &format!("{MAPS}?fieldValidation=Strict"), &[], body).await;
    assert_eq!(
        strict.failure(400),
        r#"strict decoding error: unknown field "spec", duplicate field "data.a""#
    );
    let warned = cluster.send("POST", &format!("{MAPS}?dryRun=All"), &[], body).await;
    let warnings: Vec<_> = warned.headers.get_all("warning").iter().collect();
    assert_eq!(warnings.len(), 2);
    assert_eq!(warnings[0], r#"299 - "unknown field \"spec\"""#);
    let quiet = cluster.send("POST", &format!("{MAPS}?fieldValidation=Ignore"), &[], body).await;
    assert_eq!(quiet.header("warning"), "");
    assert_eq!(quiet.expect(201)["data"]["a"], "2");
    cluster.send("POST", &format!("{MAPS}?fieldValidation=No"), &[], body).await.failure(422);
    let yaml = "metadata: {name: y}\ndata: {a: '1'}\ndata: {b: '2'}\n";
    let media = [("content-type", "application/yaml")];
    let path = format!("{MAPS}?fieldValidation=Strict");
    let strict = cluster.send("POST", &path, &media, yaml).await;
    assert_eq!(strict.failure(400), r#"strict decoding error: duplicate field "data""#);
    let warned = cluster.send("POST", MAPS, &media, yaml).await;
    assert_eq!(warned.header("warning"), r#"299 - "duplicate field \"data\"""#);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_no_text_is_no_unconditional_write() {
    let cluster = Cluster::new().await;
    let mut object = cluster.config_map("x", json!({})).await;
    let path = format!("{MAPS}/x");
    for version in [json!(1), json!({}), json!([]), json!(true)] {
        object["metadata"]["resourceVersion"] = version.clone();
        let message = cluster.put(&path, &object).await.failure(400);
        assert!(message.starts_with("metadata.resourceVersion: invalid type"), "{message}");
        let patch = json!({"metadata": {"resourceVersion": version}});
        cluster.merge(&path, &patch).await.failure(400);
    }
    cluster.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    let scale = json!({"metadata": {"name": "web", "resourceVersion": 7}, "spec": {"replicas": 1}});
    cluster.put(&format!("{DEPLOYMENTS}/web/scale"), &scale).await.failure(400);
}

#[tokio::test(start_paused = true)]
async fn objects_have_a_largest_size() {
    use wasmfleet::apiserver::write::MAX_OBJECT_BYTES;
    let cluster = Cluster::new().await;
    // Any kind whose content the kind itself does not bound.
    let pod_of = |texts: usize| {
        let args: Vec<String> = (0..texts).map(|n| format!("{n:0100}")).collect();
        let mut pod = pod("big");
        pod["spec"]["containers"][0]["args"] = json!(args);
        pod
    };
    let too_many = MAX_OBJECT_BYTES / 103 + 1;
    let refused = cluster.post(PODS, &pod_of(too_many)).await;
    assert_eq!(refused.expect(413)["reason"], "RequestEntityTooLarge");
    cluster.post(PODS, &pod_of(too_many - 100)).await.expect(201);
    // Patches are small, what they make may not be.
    let path = format!("{PODS}/big");
    let grow = json!({"metadata": {"annotations": {"a": "x".repeat(20_000)}}});
    cluster.merge(&path, &grow).await.failure(413);
    cluster.merge(&format!("{path}?dryRun=All"), &grow).await.failure(413);
    cluster.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
}

#[tokio::test(start_paused = true)]
async fn cluster_scoped_objects_lose_a_namespace() {
    let cluster = Cluster::new().await;
    let body = json!({"metadata": {"name": "n1", "namespace": "default"},
        "status": {"capacity": {"cpu": "4"}}});
    let node = cluster.post("/api/v1/nodes", &body).await.expect(201);
    assert_eq!(node["metadata"].get("namespace"), None);
    // A node registers with its status.
    assert_eq!(node["status"]["capacity"]["cpu"], "4");
    let replaced = cluster.put("/api/v1/nodes/n1", &body).await.expect(200);
    assert_eq!(replaced["metadata"].get("namespace"), None);
}

#[tokio::test(start_paused = true)]
async fn updates_are_optimistic() {
    let cluster = Cluster::new().await;
    let mut object = cluster.config_map("x", json!({})).await;
    let path = format!("{MAPS}/x");
    let first = version(&object);
    // The same again changes nothing.
    assert_eq!(version(&cluster.put(&path, &object).await.expect(200)), first);
    object["data"]["a"] = "c".into();
    let updated = cluster.put(&path, &object).await.expect(200);
    assert_eq!(version(&updated), first + 1);
    object["data"]["a"] = "d".into();
    let message = cluster.put(&path, &object).await.failure(409);
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"x\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
    object["metadata"]["resourceVersion"] = Value::Null;
    object["metadata"]["creationTimestamp"] = Value::Null;
    let last = cluster.put(&path, &object).await.expect(200);
    assert_eq!(last["data"]["a"], "d");
    assert_eq!(last["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    object["metadata"]["uid"] = "another".into();
    cluster.put(&path, &object).await.failure(409);
    object["metadata"]["uid"] = Value::Null;
    object["metadata"]["name"] = "y".into();
    cluster.put(&path, &object).await.failure(400);
    object["metadata"]["name"] = Value::Null;
    cluster.put(&path, &object).await.expect(200);
    cluster.put(&format!("{MAPS}/z"), &object).await.failure(404);
}

#[tokio::test(start_paused = true)]
async fn three_kinds_of_patches() {
    let cluster = Cluster::new().await;
    cluster.config_map("x", json!({"l": "1"})).await;
    let path = format!("{MAPS}/x");
    let merged = cluster.merge(&path, &json!({"data": {"a": null, "c": "d"}})).await.expect(200);
    assert_eq!(merged["data"], json!({"c": "d"}));
    let send = async |media: &str, body: Value| {
        cluster.send("PATCH", &path, &[("content-type", media)], body.to_string()).await
    };
    let json_patch = "application/json-patch+json";
    let tested = json!([{"op": "test", "path": "/data/c", "value": "no"}]);
    send(json_patch, tested).await.failure(422);
    let replaced = json!([{"op": "replace", "path": "/data/c", "value": "e"}]);
    assert_eq!(send(json_patch, replaced).await.expect(200)["data"]["c"], "e");
    let strategic = "application/strategic-merge-patch+json";
    let labels = json!({"metadata": {"labels": {"m": "2"}}});
    let patched = send(strategic, labels).await.expect(200);
    assert_eq!(patched["metadata"]["labels"], json!({"l": "1", "m": "2"}));
    send("application/apply-patch+yaml", json!({})).await.failure(422);
    send("application/json", json!({})).await.failure(415);
    let old = json!({"metadata": {"resourceVersion": "1"}, "data": {"z": "z"}});
    cluster.merge(&path, &old).await.failure(409);
    cluster.merge(&path, &json!({"metadata": {"name": "y"}})).await.failure(400);
    cluster.merge(&format!("{MAPS}/none"), &json!({})).await.failure(404);
    cluster.merge(&format!("{path}?force=true"), &json!({})).await.failure(422);
}

#[tokio::test(start_paused = true)]
async fn spec_and_status_are_written_apart() {
    let cluster = Cluster::new().await;
    let mut body = deployment("web");
    body["status"] = json!({"replicas": 9});
    let created = cluster.post(DEPLOYMENTS, &body).await.expect(201);
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["status"].get("replicas"), None);
    let path = format!("{DEPLOYMENTS}/web");
    let both = json!({"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
        "spec": {"replicas": 5}, "status": {"replicas": 4}});
    let status = cluster.merge(&format!("{path}/status"), &both).await.expect(200);
    assert_eq!(
        (&status["spec"]["replicas"], &status["status"]["replicas"]),
        (&json!(2), &json!(4))
    );
    assert_eq!(status["metadata"]["annotations"]["c"], "d");
    assert_eq!(status["metadata"].get("labels"), None);
    assert_eq!(status["metadata"]["generation"], 1);
    let main = json!({"spec": {"replicas": 5}, "status": {"replicas": 0}});
    let spec = cluster.merge(&path, &main).await.expect(200);
    assert_eq!((&spec["spec"]["replicas"], &spec["status"]["replicas"]), (&json!(5), &json!(4)));
    assert_eq!(spec["metadata"]["generation"], 2);
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let labelled = cluster.merge(&path, &labels).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 2);
    // Annotations of a Deployment say how it is rolled out.
    let notes = json!({"metadata": {"annotations": {"a": "b"}}});
    assert_eq!(cluster.merge(&path, &notes).await.expect(200)["metadata"]["generation"], 3);
}

#[tokio::test(start_paused = true)]
async fn scale_is_a_door_to_replicas() {
    let cluster = Cluster::new().await;
    cluster.post(DEPLOYMENTS, &deployment("web")).await.expect(201);
    let path = format!("{DEPLOYMENTS}/web/scale");
    let mut scale = cluster.get(&path).await.expect(200);
    assert_eq!(scale["kind"], "Scale");
    assert_eq!(scale["spec"]["replicas"], 2);
    assert_eq!(scale["status"]["selector"], "app=web");
    let patched = cluster.merge(&path, &json!({"spec": {"replicas": 3}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 3);
    scale["spec"]["replicas"] = 4.into();
    cluster.put(&path, &scale).await.failure(409);
    scale["metadata"]["resourceVersion"] = Value::Null;
    assert_eq!(cluster.put(&path, &scale).await.expect(200)["spec"]["replicas"], 4);
    cluster.merge(&path, &json!({"spec": {"replicas": -1}})).await.failure(422);
    let deployment = cluster.get(&format!("{DEPLOYMENTS}/web")).await.expect(200);
    assert_eq!(deployment["spec"]["replicas"], 4);
    assert_eq!(deployment["metadata"]["generation"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_once() {
    let cluster = Cluster::new().await;
    cluster.pod("p").await;
    let path = format!("{PODS}/p/binding");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n1"}});
    let bound = cluster.post(&path, &binding).await;
    assert_eq!(
        bound.text(),
        "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Success\",\"code\":201}\n"
    );
    let pod = cluster.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(pod["spec"]["nodeName"], "n1");
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "PodScheduled" && c["status"] == "True"));
    let message = cluster.post(&path, &binding).await.failure(409);
    assert!(message.contains("already assigned to node"), "{message}");
    cluster.post(&path, &json!({"target": {"name": ""}})).await.failure(422);
    cluster
        .post(&format!("{PODS}/none/binding"), &json!({"target": {"name": "n"}}))
        .await
        .failure(404);
}

#[tokio::test(start_paused = true)]
async fn writes_survive_conflicts_that_are_not_theirs() {
    let cluster = Cluster::new().await;
    cluster.config_map("x", json!({})).await;
    let body = json!({"data": {"n": "1"}});
    let patches = (0..20).map(|n| {
        let body = json!({"data": {(n.to_string()): "x"}});
        let cluster = &cluster;
        async move { cluster.merge(&format!("{MAPS}/x"), &body).await.code }
    });
    let codes = futures::future::join_all(patches).await;
    assert!(codes.iter().all(|code| *code == 200), "{codes:?}");
    let object = cluster.merge(&format!("{MAPS}/x"), &body).await.expect(200);
    assert_eq!(object["data"].as_object().unwrap().len(), 22);
}

#[tokio::test(start_paused = true)]
async fn injected_conflicts_are_tried_again() {
    let store = Arc::new(MemoryStore::new(StoreOptions { seed: 3, ..Default::default() }));
    let cluster = Cluster::over(store.clone(), Options::default()).await;
    store.set_faults(Faults { conflict: 0.3, ..Faults::default() });
    for n in 0..20 {
        cluster.config_map(&format!("x{n}"), json!({})).await;
        cluster.merge(&format!("{MAPS}/x{n}"), &json!({"data": {"a": "z"}})).await.expect(200);
        cluster.delete(&format!("{MAPS}/x{n}"), &json!({})).await.expect(200);
    }
}

/// Patches are held to the same rules as bodies.
#[tokio::test(start_paused = true)]
async fn patches_are_validated_by_field_too() {
    let cluster = Cluster::new().await;
    cluster.config_map("x", json!({})).await;
    let path = format!("{MAPS}/x");
    for (media, body) in [
        ("merge-patch+json", r#"{"datta":{"a":"b"}}"#),
        ("strategic-merge-patch+json", r#"{"datta":{"a":"b"}}"#),
        ("json-patch+json", r#"[{"op":"add","path":"/datta","value":{"a":"b"}}]"#),
    ] {
        let media = format!("application/{media}");
        let send = async |validation: &str| {
            let path = format!("{path}?fieldValidation={validation}");
            cluster.send("PATCH", &path, &[("content-type", &media)], body).await
        };
        let refused = send("Strict").await.failure(400);
        assert!(refused.contains(r#"unknown field "datta""#), "{media}: {refused}");
        let warned = send("Warn").await;
        assert!(warned.header("warning").contains("unknown field"), "{media}");
        assert_eq!(warned.expect(200).get("datta"), None);
        let ignored = send("Ignore").await;
        assert_eq!(ignored.headers.get("warning"), None, "{media}");
        ignored.expect(200);
    }
    // A key that is there twice.
    for (media, body) in [
        ("merge-patch+json", r#"{"data":{"a":"b","a":"c"}}"#),
        ("strategic-merge-patch+json", r#"{"data":{"a":"b","a":"c"}}"#),
    ] {
        let media = format!("application/{media}");
        let path = format!("{path}?fieldValidation=Strict");
        let answer = cluster.send("PATCH", &path, &[("content-type", &media)], body).await;
        let refused = answer.failure(400);
        assert!(refused.contains(r#"duplicate field "data.a""#), "{media}: {refused}");
    }
}
