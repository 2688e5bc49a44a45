//! Custom resources that a webhook converts between versions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use serde_json::{Value, json};
use wasmfleet::store::Key;

use super::webhooks::converter::{conversion, converted, start, versions};
use super::webhooks::server::{HookServer, Reply};
use super::{Answer, Cluster};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const DEFINITION: &str =
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tabs.stable.example.com";
const V1: &str = "/apis/stable.example.com/v1/namespaces/default/tabs";
const V2: &str = "/apis/stable.example.com/v2/namespaces/default/tabs";

fn definition(conversion: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "tabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced", "versions": versions("v1"),
            "names": {"plural": "tabs", "kind": "Tab"}, "conversion": conversion}})
}

fn tab(version: &str, name: &str, fields: Value) -> Value {
    let mut object = json!({"apiVersion": format!("stable.example.com/{version}"), "kind": "Tab",
        "metadata": {"name": name}});
    for (field, value) in fields.as_object().unwrap() {
        object[field] = value.clone();
    }
    object
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

fn stored(cluster: &Cluster, name: &str) -> Value {
    let key = Key::new(&["stable.example.com", "tabs", "default", name]);
    serde_json::from_slice(&cluster.store.get(&key).unwrap().unwrap().value).unwrap()
}

async fn send(cluster: &Cluster, method: &str, path: &str, kind: &str, body: &Value) -> Answer {
    cluster.send(method, path, &[("content-type", kind)], body.to_string()).await
}

#[tokio::test]
async fn each_version_is_read_and_written_as_itself() {
    let cluster = Cluster::new().await;
    let server = start().await;
    cluster.post(DEFINITIONS, &definition(conversion(&server))).await.expect(201);
    let made = cluster.post(V2, &tab("v2", "a", json!({"host": "h", "port": "1"}))).await;
    let made = made.expect(201);
    assert_eq!(
        (&made["host"], &made["port"], made.get("hostPort")),
        (&"h".into(), &"1".into(), None)
    );
    assert_eq!(made["apiVersion"], "stable.example.com/v2");
    // Stored in the storage version, which costs no question to read.
    assert_eq!(stored(&cluster, "a")["hostPort"], "h:1");
    assert_eq!(stored(&cluster, "a")["apiVersion"], "stable.example.com/v1");
    let before = server.seen.lock().len();
    assert_eq!(cluster.get(&format!("{V1}/a")).await.expect(200)["hostPort"], "h:1");
    assert_eq!(server.seen.lock().len(), before);
    assert_eq!(cluster.get(&format!("{V2}/a")).await.expect(200)["host"], "h");
    cluster.post(V1, &tab("v1", "b", json!({"hostPort": "h:2"}))).await.expect(201);
    // Lists ask once for all, and selectors are about the version that is read.
    let before = server.seen.lock().len();
    let all = cluster.get(V2).await.expect(200);
    assert_eq!(server.seen.lock().len(), before + 1);
    assert_eq!(server.last()["objects"].as_array().unwrap().len(), 2);
    assert_eq!(server.last()["desiredAPIVersion"], "stable.example.com/v2");
    assert_eq!((names(&all), &all["items"][1]["port"]), (vec!["a", "b"], &"2".into()));
    let some = cluster.get(&format!("{V2}?fieldSelector=host%3Dh,port%3D2")).await.expect(200);
    assert_eq!(names(&some), ["b"]);
    let some = cluster.get(&format!("{V1}?fieldSelector=hostPort%3Dh:1")).await.expect(200);
    assert_eq!(names(&some), ["a"]);
    let page = cluster.get(&format!("{V2}?limit=1")).await.expect(200);
    let token = page["metadata"]["continue"].as_str().unwrap();
    let rest = cluster.get(&format!("{V2}?limit=1&continue={token}")).await.expect(200);
    assert_eq!((names(&page), names(&rest)), (vec!["a"], vec!["b"]));
    // Every kind of write.
    let b = format!("{V2}/b");
    let merge = "application/merge-patch+json";
    let patched = send(&cluster, "PATCH", &b, merge, &json!({"port": "3"})).await.expect(200);
    assert_eq!((&patched["host"], &patched["port"]), (&"h".into(), &"3".into()));
    assert_eq!(stored(&cluster, "b")["hostPort"], "h:3");
    let json_patch = json!([{"op": "replace", "path": "/hostPort", "value": "i:4"}]);
    let kind = "application/json-patch+json";
    let v1 = format!("{V1}/b");
    assert_eq!(
        send(&cluster, "PATCH", &v1, kind, &json_patch).await.expect(200)["hostPort"],
        "i:4"
    );
    let applied = tab("v2", "c", json!({"host": "x", "port": "9"}));
    let path = format!("{V2}/c?fieldManager=me");
    let kind = "application/apply-patch+yaml";
    send(&cluster, "PATCH", &path, kind, &applied).await.expect(201);
    let applied = tab("v2", "c", json!({"host": "y", "port": "9"}));
    assert_eq!(send(&cluster, "PATCH", &path, kind, &applied).await.expect(200)["host"], "y");
    assert_eq!(stored(&cluster, "c")["hostPort"], "y:9");
    let mut object = cluster.get(&b).await.expect(200);
    object["port"] = "5".into();
    cluster.put(&b, &object).await.expect(200);
    assert_eq!(stored(&cluster, "b")["hostPort"], "i:5");
    let dry =
        cluster.post(&format!("{V2}?dryRun=All"), &tab("v2", "d", json!({"host": "d"}))).await;
    assert_eq!(dry.expect(201)["host"], "d");
    // Deletions, with finalizers and without.
    let held = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    send(&cluster, "PATCH", &b, merge, &held).await.expect(200);
    let marked = cluster.delete(&b, &json!({})).await.expect(200);
    assert_eq!(marked["port"], "5");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let free = json!({"metadata": {"finalizers": null}});
    send(&cluster, "PATCH", &b, merge, &free).await.expect(200);
    cluster.get(&b).await.failure(404);
    cluster.delete(&format!("{V2}?fieldSelector=host%3Dy"), &json!({})).await.expect(200);
    assert_eq!(names(&cluster.get(V1).await.expect(200)), ["a"]);
    cluster.delete(DEFINITION, &json!({})).await.expect(200);
    assert_eq!(cluster.get(V1).await.code, 404);
}

#[tokio::test]
async fn watches_see_the_version_that_they_ask_for() {
    let cluster = Cluster::new().await;
    let server = start().await;
    cluster.post(DEFINITIONS, &definition(conversion(&server))).await.expect(201);
    cluster.post(V1, &tab("v1", "a", json!({"hostPort": "h:1"}))).await.expect(201);
    let path = format!("{V2}?watch=1&fieldSelector=host%3Dh");
    let mut lines =
        cluster.open("GET", &path, &[], String::new()).await.into_body().into_data_stream();
    use http_body_util::BodyExt;
    let mut read = String::new();
    let mut next = async || -> (String, Value) {
        loop {
            if let Some((line, rest)) = read.split_once('\n') {
                let mut event: Value = serde_json::from_str(line).unwrap();
                read = rest.to_string();
                let kind = event["type"].as_str().unwrap().to_string();
                return (kind, event["object"].take());
            }
            let piece = lines.next().await.unwrap().unwrap();
            read.push_str(std::str::from_utf8(&piece).unwrap());
        }
    };
    let (kind, object) = next().await;
    assert_eq!((kind.as_str(), &object["port"]), ("ADDED", &"1".into()));
    cluster.post(V1, &tab("v1", "other", json!({"hostPort": "i:1"}))).await.expect(201);
    cluster.post(V2, &tab("v2", "b", json!({"host": "h", "port": "2"}))).await.expect(201);
    let (kind, object) = next().await;
    assert_eq!((kind.as_str(), &object["port"]), ("ADDED", &"2".into()));
    assert_eq!(object["apiVersion"], "stable.example.com/v2");
    // One that stops matching is deleted, one that begins to match is added.
    cluster.merge(&format!("{V1}/b"), &json!({"hostPort": "i:2"})).await.expect(200);
    assert_eq!(next().await.0, "DELETED");
    cluster.merge(&format!("{V1}/other"), &json!({"hostPort": "h:7"})).await.expect(200);
    let (kind, object) = next().await;
    assert_eq!((kind.as_str(), &object["port"]), ("ADDED", &"7".into()));
    cluster.delete(&format!("{V2}/a"), &json!({})).await.expect(200);
    let (kind, object) = next().await;
    assert_eq!((kind.as_str(), &object["port"]), ("DELETED", &"1".into()));
}

#[tokio::test]
async fn objects_of_older_storage_versions_are_converted_both_ways() {
    let cluster = Cluster::new().await;
    let server = start().await;
    cluster.post(DEFINITIONS, &definition(conversion(&server))).await.expect(201);
    cluster.post(V1, &tab("v1", "old", json!({"hostPort": "h:1"}))).await.expect(201);
    cluster.merge(DEFINITION, &json!({"spec": {"versions": versions("v2")}})).await.expect(200);
    cluster.post(V1, &tab("v1", "new", json!({"hostPort": "h:2"}))).await.expect(201);
    assert_eq!(stored(&cluster, "new")["port"], "2");
    assert_eq!(stored(&cluster, "old")["hostPort"], "h:1");
    let list = cluster.get(V1).await.expect(200);
    let ports: Vec<_> = list["items"].as_array().unwrap().iter().map(|i| &i["hostPort"]).collect();
    assert_eq!(ports, ["h:2", "h:1"]);
    let list = cluster.get(V2).await.expect(200);
    let ports: Vec<_> = list["items"].as_array().unwrap().iter().map(|i| &i["port"]).collect();
    assert_eq!(ports, ["2", "1"]);
    // A write brings an object into the newer one.
    cluster.merge(&format!("{V1}/old"), &json!({"hostPort": "h:3"})).await.expect(200);
    assert_eq!(stored(&cluster, "old")["port"], "3");
    let status = cluster.get(DEFINITION).await.expect(200);
    assert_eq!(status["status"]["storedVersions"], json!(["v1", "v2"]));
}

#[tokio::test]
async fn a_webhook_that_fails_or_changes_too_much_fails_the_request() {
    let cluster = Cluster::new().await;
    let mode = Arc::new(AtomicUsize::new(0));
    let asked = mode.clone();
    let server = HookServer::start(move |_, request| {
        let mut objects = converted(request);
        let meta = &mut objects[0]["metadata"];
        match asked.load(Ordering::Relaxed) {
            1 => return Reply::Response(json!({"result": {"status": "Failure", "message": "no"}})),
            2 => meta["name"] = "other".into(),
            3 => {
                objects.pop();
            }
            4 => objects[0]["apiVersion"] = "stable.example.com/v3".into(),
            5 => return Reply::Raw(500, b"broken".to_vec()),
            // What may change, what is put back, and what no schema knows.
            _ => {
                meta["labels"] = json!({"l": "m"});
                meta["annotations"] = json!({"n": "o"});
                meta["finalizers"] = json!(["example.com/mine"]);
                meta["resourceVersion"] = "1".into();
                objects[0]["unknown"] = 7.into();
            }
        }
        Reply::Converted(objects)
    })
    .await;
    cluster.post(DEFINITIONS, &definition(conversion(&server))).await.expect(201);
    let made = cluster.post(V1, &tab("v1", "a", json!({"hostPort": "h:1"}))).await.expect(201);
    let read = cluster.get(&format!("{V2}/a")).await.expect(200);
    assert_eq!(read["metadata"]["labels"], json!({"l": "m"}));
    assert_eq!(read["metadata"]["annotations"], json!({"n": "o"}));
    assert_eq!(read["metadata"].get("finalizers"), None);
    assert_eq!(read["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(read.get("unknown"), None);
    let head = "conversion webhook for stable.example.com/v1, Kind=Tab";
    for (number, why) in [
        (1, "failed: no"),
        (2, "must have the same name: a != other"),
        (3, "returned 0 objects, expected 1"),
        (4, "invalid groupVersion (expected stable.example.com/v2, received"),
        (5, "500 Internal Server Error: broken"),
    ] {
        mode.store(number, Ordering::Relaxed);
        for path in [format!("{V2}/a"), V2.to_string()] {
            let message = cluster.get(&path).await.failure(500);
            assert!(message.contains(head) && message.contains(why), "{message}");
        }
        // Nothing of a write that cannot be stored is stored.
        let object = tab("v2", "b", json!({"host": "h", "port": "2"}));
        cluster.post(V2, &object).await.failure(500);
        cluster.get(&format!("{V1}/b")).await.failure(404);
    }
}

#[tokio::test]
async fn definitions_say_where_the_webhook_is() {
    let cluster = Cluster::new().await;
    let server = start().await;
    let good = conversion(&server);
    let with = |change: fn(&mut Value)| {
        let mut conversion = good.clone();
        change(&mut conversion);
        conversion
    };
    for (conversion, field, why) in [
        (json!({"strategy": "Other"}), "strategy", "supported values: \"None\", \"Webhook\""),
        (json!({"strategy": "Webhook"}), "webhookClientConfig", "required when strategy is set"),
        (with(|c| c["strategy"] = "None".into()), "webhookClientConfig", "should not be set"),
        (
            with(|c| c["webhook"]["conversionReviewVersions"] = json!([])),
            "conversionReviewVersions",
            "must specify one of v1, v1beta1",
        ),
        (
            with(|c| c["webhook"]["conversionReviewVersions"] = json!(["v9"])),
            "conversionReviewVersions",
            "must include at least one of v1, v1beta1",
        ),
        (
            with(|c| c["webhook"]["clientConfig"]["url"] = "http://a".into()),
            "webhookClientConfig.url",
            "'https' is the only allowed URL scheme",
        ),
        (
            with(|c| {
                c["webhook"]["clientConfig"]["service"] = json!({"name": "a", "namespace": "b"})
            }),
            "webhookClientConfig",
            "exactly one of url or service is required",
        ),
    ] {
        let answer = cluster.post(DEFINITIONS, &definition(conversion)).await.expect(422);
        let causes = answer["details"]["causes"].as_array().unwrap();
        let found = causes.iter().any(|cause| {
            cause["field"] == format!("spec.conversion.{field}")
                && cause["message"].as_str().unwrap().contains(why)
        });
        assert!(found, "{why}: {answer}");
    }
    let service = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": "a", "namespace": "b"}}}});
    let made = cluster.post(DEFINITIONS, &definition(service)).await.expect(201);
    let client = &made["spec"]["conversion"]["webhook"]["clientConfig"];
    assert_eq!(client["service"]["port"], 443);
}
