//! Server-side apply through the HTTP door: codes, texts, and who owns what afterwards.

use serde_json::json;

use super::*;

async fn apply(cluster: &Cluster, path: &str, query: &str, config: &Value) -> Answer {
    let media = [("content-type", "application/apply-patch+yaml")];
    // YAML, as the media type says; the query brings JSON along in the other tests.
    let body = serde_yaml::to_string(config).unwrap();
    cluster.send("PATCH", &format!("{path}?{query}"), &media, body).await
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data})
}

fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("-").to_string();
    let line = |entry: &Value| {
        let words = ["manager", "operation", "subresource"].map(|field| text(entry, field));
        format!("{} {}", words.join(" "), entry["fieldsV1"])
    };
    entries.iter().map(line).collect()
}

#[tokio::test(start_paused = true)]
async fn apply_creates_merges_and_prunes() {
    let cluster = Cluster::new().await;
    let path = format!("{MAPS}/x");
    let made = apply(&cluster, &path, "fieldManager=a", &map(json!({"k": "1", "l": "1"}))).await;
    let made = made.expect(201);
    assert_eq!(owners(&made), [r#"a Apply - {"f:data":{"f:k":{},"f:l":{}}}"#]);
    assert_eq!(made["metadata"]["managedFields"][0]["apiVersion"], "v1");
    assert_eq!(made["metadata"]["managedFields"][0]["time"], "2026-01-01T00:00:00Z");
    let again = apply(&cluster, &path, "fieldManager=a", &map(json!({"k": "1", "l": "1"}))).await;
    assert_eq!(again.expect(200), made, "nothing changed, so nothing is written");
    let both = apply(&cluster, &path, "fieldManager=b", &map(json!({"m": "2"}))).await.expect(200);
    assert_eq!(both["data"], json!({"k": "1", "l": "1", "m": "2"}));
    let less = apply(&cluster, &path, "fieldManager=a", &map(json!({"k": "1"}))).await.expect(200);
    assert_eq!(less["data"], json!({"k": "1", "m": "2"}));
    assert_eq!(
        owners(&less),
        [r#"a Apply - {"f:data":{"f:k":{}}}"#, r#"b Apply - {"f:data":{"f:m":{}}}"#]
    );
    // A dry run shows what would be, and stores nothing.
    let dry = apply(&cluster, &path, "fieldManager=a&dryRun=All", &map(json!({"k": "9"}))).await;
    assert_eq!(dry.expect(200)["data"]["k"], "9");
    assert_eq!(cluster.get(&path).await.expect(200), less);
}

#[tokio::test(start_paused = true)]
async fn conflicts_name_the_other_manager_and_force_takes_over() {
    let cluster = Cluster::new().await;
    let path = format!("{MAPS}/x");
    apply(&cluster, &path, "fieldManager=a", &map(json!({"k": "1"}))).await.expect(201);
    let refused = apply(&cluster, &path, "fieldManager=b", &map(json!({"k": "2"}))).await;
    let status = refused.expect(409);
    assert_eq!(status["message"], "Apply failed with 1 conflict: conflict with \"a\": .data.k");
    assert_eq!(status["reason"], "Conflict");
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"a\"",
            "field": ".data.k"}])
    );
    let query = "fieldManager=b&force=true";
    let taken = apply(&cluster, &path, query, &map(json!({"k": "2"}))).await.expect(200);
    assert_eq!(owners(&taken), [r#"b Apply - {"f:data":{"f:k":{}}}"#]);
    // Other writes take what they change; who wrote is the query's manager, or the program.
    let media = [("content-type", "application/merge-patch+json"), ("user-agent", "curl/8.0 x")];
    let body = json!({"data": {"k": "3"}}).to_string();
    let patched = cluster.send("PATCH", &path, &media, body).await.expect(200);
    assert_eq!(owners(&patched), [r#"curl Update - {"f:data":{"f:k":{}}}"#]);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_applied_carries_no_owners_until_it_is() {
    let cluster = Cluster::new().await;
    let made = cluster.config_map("x", json!({"l": "1"})).await;
    assert_eq!(made["metadata"].get("managedFields"), None);
    let path = format!("{MAPS}/x");
    let refused = apply(&cluster, &path, "fieldManager=a", &map(json!({"a": "other"}))).await;
    assert!(refused.failure(409).contains("before-first-apply"));
    let applied = apply(&cluster, &path, "fieldManager=a", &map(json!({"k": "1"}))).await;
    let applied = applied.expect(200);
    assert_eq!(applied["data"], json!({"a": "b", "k": "1"}));
    assert_eq!(owners(&applied).len(), 2);
    // One empty entry clears the owners, as kubectl's users do it.
    let cleared = cluster.merge(&path, &json!({"metadata": {"managedFields": [{}]}})).await;
    assert_eq!(cleared.expect(200)["metadata"].get("managedFields"), None);
}

#[tokio::test(start_paused = true)]
async fn status_and_spec_have_owners_of_their_own() {
    let cluster = Cluster::new().await;
    let path = format!("{DEPLOYMENTS}/web");
    let mut config = deployment("web");
    config["apiVersion"] = "apps/v1".into();
    config["kind"] = "Deployment".into();
    config["status"] = json!({"replicas": 9});
    let made = apply(&cluster, &path, "fieldManager=helm", &config).await.expect(201);
    assert_eq!(made["status"].get("replicas"), None);
    assert!(!owners(&made)[0].contains("f:status"));
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 7}, "status": {"replicas": 1}});
    let status_path = format!("{path}/status");
    let told = apply(&cluster, &status_path, "fieldManager=ctl", &status).await.expect(200);
    assert_eq!((&told["spec"]["replicas"], &told["status"]["replicas"]), (&json!(2), &json!(1)));
    assert!(owners(&told).contains(&r#"ctl Apply status {"f:status":{"f:replicas":{}}}"#.into()));
    // A scaler by /scale owns the number: helm's next apply is refused.
    let scale = format!("{path}/scale?fieldManager=hpa");
    cluster.merge(&scale, &json!({"spec": {"replicas": 5}})).await.expect(200);
    let refused = apply(&cluster, &path, "fieldManager=helm", &config).await.failure(409);
    assert!(refused.contains("conflict with \"hpa\" with subresource \"scale\""), "{refused}");
    config["spec"].as_object_mut().unwrap().remove("replicas");
    let left = apply(&cluster, &path, "fieldManager=helm", &config).await.expect(200);
    assert_eq!(left["spec"]["replicas"], 5);
    assert_eq!(left["metadata"]["generation"], 2, "only the scaling was a change");
}

#[tokio::test(start_paused = true)]
async fn bad_configurations_get_their_codes() {
    let cluster = Cluster::new().await;
    let path = format!("{MAPS}/x");
    for (query, config, code, text) in [
        ("", map(json!({})), 422, "fieldManager"),
        ("fieldManager=a", json!({"metadata": {"name": "x"}}), 400, "apiVersion and kind"),
        ("fieldManager=a", json!([1]), 400, "object"),
        ("fieldManager=a&fieldValidation=Strict", map(json!({"k": "v"})), 201, ""),
    ] {
        let answer = apply(&cluster, &path, query, &config).await;
        assert_eq!(answer.code, code, "{query} {config}: {}", answer.text());
        assert!(answer.text().contains(text), "{}", answer.text());
    }
    let mut named = map(json!({}));
    named["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    apply(&cluster, &path, "fieldManager=a", &named).await.failure(400);
    let mut other = map(json!({}));
    other["metadata"]["uid"] = "nobody".into();
    apply(&cluster, &path, "fieldManager=a", &other).await.failure(409);
    apply(&cluster, &format!("{MAPS}/y"), "fieldManager=a", &other).await.failure(400);
    let mut typo = map(json!({}));
    typo["datta"] = json!({"a": "b"});
    let strict = "fieldManager=a&fieldValidation=Strict";
    assert!(apply(&cluster, &path, strict, &typo).await.failure(400).contains("datta"));
}

#[tokio::test(start_paused = true)]
async fn a_creator_that_names_itself_owns_what_it_made() {
    let cluster = Cluster::new().await;
    let path = format!("{DEPLOYMENTS}/web");
    let query = format!("{DEPLOYMENTS}?fieldManager=kubectl-create");
    let made = cluster.post(&query, &deployment("web")).await.expect(201);
    let first = &owners(&made)[0];
    assert!(first.starts_with("kubectl-create Update - {"), "{first}");
    // Its defaults too, as on upstream; not what the system sets.
    for owned in ["\"f:replicas\":{}", "\"f:progressDeadlineSeconds\":{}"] {
        assert!(first.contains(owned), "{owned} is not in {first}");
    }
    assert!(!first.contains("f:uid") && !first.contains("f:status"), "{first}");
    // An applier is refused what the creator wants otherwise.
    let mut config = deployment("web");
    config["apiVersion"] = "apps/v1".into();
    config["kind"] = "Deployment".into();
    config["spec"]["replicas"] = 9.into();
    let refused = apply(&cluster, &path, "fieldManager=a", &config).await.failure(409);
    assert!(refused.contains("conflict with \"kubectl-create\" using apps/v1"), "{refused}");
    // A patch takes what it changes, and a PUT without managed fields keeps the owners.
    let patch = json!({"metadata": {"labels": {"x": "y"}}});
    let patched = cluster.merge(&format!("{path}?fieldManager=kubectl-label"), &patch).await;
    let mut patched = patched.expect(200);
    let label = r#"kubectl-label Update - {"f:metadata":{"f:labels":{".":{},"f:x":{}}}}"#;
    assert!(owners(&patched).iter().any(|owner| owner == label), "{:?}", owners(&patched));
    let before = owners(&patched);
    patched["metadata"].as_object_mut().unwrap().remove("managedFields");
    let replaced = cluster.put(&path, &patched).await.expect(200);
    assert_eq!(owners(&replaced), before);
}

/// What kubectl does when an object moves from client-side to server-side apply
/// (client-go/util/csaupgrade): the old entry becomes the new manager's, and what that manager no
/// longer applies then goes.
#[tokio::test(start_paused = true)]
async fn managed_fields_can_be_given_to_another_manager() {
    let cluster = Cluster::new().await;
    let path = format!("{MAPS}/x");
    let query = format!("{MAPS}?fieldManager=kubectl-client-side-apply");
    let made = cluster.post(&query, &map(json!({"k": "1", "l": "1"}))).await.expect(201);
    let mut entries = made["metadata"]["managedFields"].clone();
    entries[0]["manager"] = "kubectl".into();
    entries[0]["operation"] = "Apply".into();
    let version = made["metadata"]["resourceVersion"].clone();
    let patch = json!([
        {"op": "replace", "path": "/metadata/managedFields", "value": entries},
        {"op": "replace", "path": "/metadata/resourceVersion", "value": version}]);
    let media = [("content-type", "application/json-patch+json")];
    let moved = cluster.send("PATCH", &path, &media, patch.to_string()).await.expect(200);
    assert_eq!(owners(&moved), [r#"kubectl Apply - {"f:data":{".":{},"f:k":{},"f:l":{}}}"#]);
    // The second time the version is old.
    cluster.send("PATCH", &path, &media, patch.to_string()).await.failure(409);
    let applied = apply(&cluster, &path, "fieldManager=kubectl", &map(json!({"k": "1"}))).await;
    assert_eq!(applied.expect(200)["data"], json!({"k": "1"}), "l went");
}

#[tokio::test(start_paused = true)]
async fn scales_are_applied_to() {
    let cluster = Cluster::new().await;
    let path = format!("{DEPLOYMENTS}/web");
    let mut config = deployment("web");
    config["apiVersion"] = "apps/v1".into();
    config["kind"] = "Deployment".into();
    config["spec"]["replicas"] = 2.into();
    apply(&cluster, &path, "fieldManager=helm", &config).await.expect(201);
    let scale = |replicas: u32| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"},
            "spec": {"replicas": replicas}})
    };
    let at = format!("{path}/scale");
    let refused = apply(&cluster, &at, "fieldManager=hpa", &scale(5)).await.failure(409);
    assert!(refused.contains("conflict with \"helm\": .spec.replicas"), "{refused}");
    let scaled = apply(&cluster, &at, "fieldManager=hpa&force=true", &scale(5)).await.expect(200);
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(5)));
    assert_eq!(owners(&scaled), [r#"hpa Apply scale {"f:spec":{"f:replicas":{}}}"#]);
    let whole = cluster.get(&path).await.expect(200);
    assert_eq!(whole["spec"]["replicas"], 5);
    let owner = r#"hpa Apply scale {"f:spec":{"f:replicas":{}}}"#;
    assert!(owners(&whole).iter().any(|line| line == owner), "{:?}", owners(&whole));
    let refused = apply(&cluster, &path, "fieldManager=helm", &config).await.failure(409);
    assert!(refused.contains("conflict with \"hpa\" with subresource \"scale\""), "{refused}");
    // Unchanged is unchanged; wrong ones get their codes; nothing is created by it.
    let again = apply(&cluster, &at, "fieldManager=hpa", &scale(5)).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], whole["metadata"]["resourceVersion"]);
    let mut wrong = scale(1);
    wrong["spec"]["replicas"] = json!(-1);
    apply(&cluster, &at, "fieldManager=hpa", &wrong).await.failure(422);
    apply(&cluster, &at, "fieldManager=hpa", &config).await.failure(400);
    let nobody = format!("{DEPLOYMENTS}/nobody/scale");
    let mut other = scale(1);
    other["metadata"]["name"] = "nobody".into();
    apply(&cluster, &nobody, "fieldManager=hpa", &other).await.failure(404);
}

#[tokio::test(start_paused = true)]
async fn what_controllers_tell_of_statuses_is_nobodys() {
    let cluster = Cluster::new().await;
    let query = format!("{DEPLOYMENTS}?fieldManager=kubectl-create");
    let made = cluster.post(&query, &deployment("web")).await.expect(201);
    let client = wasmfleet::client::Client::new(cluster.api(), "deployment-controller");
    let mut object: k8s_openapi::api::apps::v1::Deployment =
        client.get("default", "web").await.unwrap();
    object.status.get_or_insert_default().replicas = Some(1);
    client.update_status(&object).await.unwrap();
    let told = cluster.get(&format!("{DEPLOYMENTS}/web")).await.expect(200);
    assert_eq!(told["status"]["replicas"], 1);
    assert_eq!(owners(&told), owners(&made));
    // What else they change is theirs.
    let mut object: k8s_openapi::api::apps::v1::Deployment =
        client.get("default", "web").await.unwrap();
    object.metadata.annotations.get_or_insert_default().insert("r".into(), "1".into());
    client.update(&object).await.unwrap();
    let told = cluster.get(&format!("{DEPLOYMENTS}/web")).await.expect(200);
    let owner =
        r#"deployment-controller Update - {"f:metadata":{"f:annotations":{".":{},"f:r":{}}}}"#;
    assert!(owners(&told).iter().any(|line| line == owner), "{:?}", owners(&told));
}

/// As Go reads them: in a map, a key with nothing is a key with the zero value.
#[tokio::test(start_paused = true)]
async fn a_null_in_a_map_is_the_zero_value() {
    let cluster = Cluster::new().await;
    let path = format!("{MAPS}/m");
    let map = json!({"metadata": {"name": "m", "labels": {"l": null}, "annotations": null},
        "data": {"k": null, "other": "x"}});
    let made = cluster.post(MAPS, &map).await.expect(201);
    assert_eq!(made["metadata"]["labels"], json!({"l": ""}));
    assert_eq!(made["metadata"].get("annotations"), None);
    assert_eq!(made["data"], json!({"k": "", "other": "x"}));
    let put = cluster.put(&path, &json!({"metadata": {"name": "m"}, "data": {"a": null}})).await;
    assert_eq!(put.expect(200)["data"], json!({"a": ""}));
    // A patch takes away what it names as null, and only a list or JSON patch can bring one in.
    let merged = cluster.merge(&path, &json!({"data": {"a": null, "b": "1"}})).await.expect(200);
    assert_eq!(merged["data"], json!({"b": "1"}));
    let media = [("content-type", "application/json-patch+json")];
    let added = json!([{"op": "add", "path": "/data/c", "value": null}]).to_string();
    let added = cluster.send("PATCH", &path, &media, added).await.expect(200);
    assert_eq!(added["data"], json!({"b": "1", "c": ""}));
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m",
        "labels": {"x": null}}, "data": {"b": null}});
    let applied = apply(&cluster, &path, "fieldManager=a&force=true", &config).await.expect(200);
    assert_eq!(applied["metadata"]["labels"], json!({"x": ""}));
    assert_eq!(applied["data"], json!({"b": "", "c": ""}));
    let owned = applied["metadata"]["managedFields"].to_string();
    assert!(owned.contains("f:x") && owned.contains("f:b"), "{owned}");

    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "data": {"a": null}, "stringData": {"b": null}});
    let made = cluster.post(secrets, &secret).await.expect(201);
    assert_eq!(made["data"], json!({"a": "", "b": ""}));
    let mut pod = pod("p");
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": null}});
    pod["spec"]["nodeSelector"] = json!({"disk": null});
    let made = cluster.post(PODS, &pod).await.expect(201);
    assert_eq!(made["spec"]["nodeSelector"], json!({"disk": ""}));
    assert_eq!(made["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "0"}));
    pod["spec"]["containers"] = json!([null]);
    let failed = cluster.post(PODS, &pod).await.failure(422);
    assert!(failed.contains("spec.containers[0].name"), "{failed}");
}

/// Each owner is told in the version that it wrote in, and an applier has one entry.
#[tokio::test(start_paused = true)]
async fn owners_are_translated_between_versions() {
    const OLD: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    const NEW: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let cluster = Cluster::new().await;
    let scaler = |version: &str, spec: Value| {
        let mut object = json!({"apiVersion": format!("autoscaling/{version}"),
            "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}, "spec": spec});
        object["spec"]["scaleTargetRef"] =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        object
    };
    let (old, new) = (format!("{OLD}/x"), format!("{NEW}/x"));
    let percent = scaler("v1", json!({"maxReplicas": 5, "targetCPUUtilizationPercentage": 50}));
    apply(&cluster, &old, "fieldManager=a", &percent).await.expect(201);
    let metric = |percent: i32| {
        json!([{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent}}}])
    };
    let metrics = scaler("v2", json!({"maxReplicas": 5, "metrics": metric(60)}));
    let refused = apply(&cluster, &new, "fieldManager=b", &metrics).await.failure(409);
    assert!(
        refused.contains("conflict with \"a\": .spec.targetCPUUtilizationPercentage"),
        "{refused}"
    );
    let forced = apply(&cluster, &new, "fieldManager=b&force=true", &metrics).await.expect(200);
    let entries = forced["metadata"]["managedFields"].as_array().unwrap().clone();
    let versions: Vec<&Value> = entries.iter().map(|entry| &entry["apiVersion"]).collect();
    assert_eq!(versions, [&json!("autoscaling/v1"), &json!("autoscaling/v2")]);
    assert!(!owners(&forced)[0].contains("targetCPU"), "{:?}", owners(&forced));
    // The first one moves to the newer version, and says less.
    let less = scaler("v2", json!({"maxReplicas": 5}));
    let moved = apply(&cluster, &new, "fieldManager=a", &less).await.expect(200);
    let entries = moved["metadata"]["managedFields"].as_array().unwrap().clone();
    assert!(entries.iter().all(|entry| entry["apiVersion"] == "autoscaling/v2"), "{entries:?}");
    assert_eq!(entries.len(), 2);
    assert_eq!(moved["spec"]["metrics"], metric(60));
}

/// What a creator owns is told as upstream tells it: structs that need not be there with a dot.
#[tokio::test(start_paused = true)]
async fn a_creator_owns_the_structs_that_it_made() {
    let cluster = Cluster::new().await;
    let mut object = deployment("web");
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 1}});
    let path = format!("{DEPLOYMENTS}?fieldManager=kubectl-create");
    let made = cluster.post(&path, &object).await.expect(201);
    let fields = &made["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"];
    assert_eq!(
        fields["f:strategy"],
        json!({"f:type": {},
            "f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}})
    );
    assert_eq!(fields["f:template"].get("."), None);
    assert_eq!(fields["f:template"]["f:spec"]["f:containers"].get("."), None);
    assert_eq!(fields["f:template"]["f:spec"]["f:securityContext"], json!({}));
}
