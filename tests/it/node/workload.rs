//! What containers are given beside WASI, from their pod's annotations and the API.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use wasmfleet::client::event::Severity;
use wasmfleet::runtime::Denial;
use wasmfleet::runtime::fake::Script;
use wasmfleet::runtime::workload::WriteError;

use super::harness::{Rig, create};

fn pod(name: &str, annotations: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations,
            "labels": {"app": name}},
        "spec": {"nodeName": "n1", "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "hello"}]}})
}

#[tokio::test(start_paused = true)]
async fn configuration_and_identity_come_from_the_pod() {
    let rig = Rig::start().await;
    let annotations = json!({"wasmfleet.dev/config": "base, site"});
    create(&rig.api, "pods", pod("a", annotations)).await.unwrap();
    // As with every ConfigMap that is missing: the pod waits, and goes on by itself.
    let notice = rig.told("Failed").await;
    assert!(notice.message.contains("configmap \"base\" not found"), "{}", notice.message);
    for (name, data) in
        [("base", json!({"color": "red", "size": "1"})), ("site", json!({"color": "blue"}))]
    {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default"}, "data": data});
        rig.create_other("configmaps", map).await;
    }
    rig.pod_is("a", "Running ready main:running/0").await;
    let workload = rig.running().workload;
    let values: Vec<_> = workload.config.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(values, ["color=blue", "size=1"]);
    let own = &workload.identity;
    assert_eq!((own.pod.as_str(), own.node.as_str(), own.container.as_str()), ("a", "n1", "main"));
    assert_eq!(own.labels["app"], "a");
}

#[tokio::test(start_paused = true)]
async fn a_bucket_is_a_config_map() {
    let rig = Rig::start().await;
    let annotations = json!({"wasmfleet.dev/keyvalue": "shop",
        "wasmfleet.dev/token-audiences": "vault"});
    create(&rig.api, "pods", pod("a", annotations)).await.unwrap();
    rig.pod_is("a", "Running ready main:running/0").await;
    let workload = rig.running().workload;
    assert_eq!(
        (&*workload.buckets, &*workload.audiences),
        (&["shop".into()][..], &["vault".into()][..])
    );
    let platform = &workload.platform;
    let empty = platform.read("shop").await.unwrap();
    assert_eq!((empty.version, empty.entries.len()), (None, 0));
    let put = |key: &str, value: &str| (key.to_string(), Some(value.as_bytes().to_vec()));
    // Of a bucket that is not there nobody knows a version.
    let first = platform.write("shop", Some(""), vec![put("n", "1")]).await;
    assert_eq!(first, Err(WriteError::Conflict));
    platform.write("shop", None, vec![put("user:1", "a"), put("b", "c")]).await.unwrap();
    let read = platform.read("shop").await.unwrap();
    assert_eq!(read.entries["user:1"], b"a");
    let version = read.version.unwrap();
    platform.write("shop", Some(&version), vec![("b".to_string(), None)]).await.unwrap();
    let again = platform.write("shop", Some(&version), vec![put("b", "d")]).await;
    assert_eq!(again, Err(WriteError::Conflict));
    let map: ConfigMap = rig.client.get("default", "keyvalue.shop").await.unwrap();
    let keys: Vec<_> = map.binary_data.unwrap_or_default().into_keys().collect();
    assert_eq!(keys, ["user_3a1"]);
    // A text that somebody put there by hand is a value, too, until it is written over.
    let text = wasmfleet::client::Patch::Merge(json!({"data": {"greeting": "hi"}}));
    rig.client.patch::<ConfigMap>("default", "keyvalue.shop", text).await.unwrap();
    assert_eq!(platform.read("shop").await.unwrap().entries["greeting"], b"hi");
    platform.write("shop", None, vec![put("greeting", "ho")]).await.unwrap();
    assert_eq!(platform.read("shop").await.unwrap().entries["greeting"], b"ho");
    // No more goes in than a ConfigMap holds, and what does not fit changes nothing.
    let big = "x".repeat(600 << 10);
    platform.write("shop", None, vec![put("one", &big)]).await.unwrap();
    let refused = platform.write("shop", None, vec![put("two", &big)]).await;
    assert!(
        matches!(&refused, Err(WriteError::Failed(why)) if why.contains("Too long")),
        "{refused:?}"
    );
    assert!(!platform.read("shop").await.unwrap().entries.contains_key("two"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_not_ready_until_its_guest_says_so() {
    let rig = Rig::start().await;
    let mut script = Script::runs();
    script.tells_readiness = true;
    rig.runtime.script("sha256:hello", script);
    create(&rig.api, "pods", pod("a", json!({}))).await.unwrap();
    rig.pod_is("a", "Running unready main:running/0").await;
    let id = rig.running().id;
    assert!(rig.runtime.say_ready(&id, true).await);
    rig.pod_is("a", "Running ready main:running/0").await;
    assert!(rig.runtime.say_ready(&id, false).await);
    rig.pod_is("a", "Running unready main:running/0").await;
    rig.delete("a", Some(0)).await;
    tokio::time::timeout(Duration::from_secs(60), rig.gone("a")).await.unwrap();
    assert!(!rig.runtime.say_ready(&id, true).await);
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_does_not_grant_is_not_started() {
    let rig = Rig::start().await;
    let mut script = Script::runs();
    script.imports = vec!["wasi:keyvalue/store@0.2.0-draft".to_string()];
    rig.runtime.script("sha256:hello", script);
    create(&rig.api, "pods", pod("a", json!({}))).await.unwrap();
    let pod_a = rig.pod_is("a", "Pending unready main:InvalidModule/0").await;
    let statuses = pod_a.status.as_ref().and_then(|s| s.container_statuses.as_ref()).unwrap();
    let waiting = statuses[0].state.as_ref().and_then(|s| s.waiting.as_ref()).unwrap();
    let text = waiting.message.as_deref().unwrap_or_default();
    assert!(text.contains("wasi:keyvalue/store@0.2.0-draft"), "{text}");
    assert!(text.contains("`wasmfleet.dev/keyvalue`"), "{text}");
    create(&rig.api, "pods", pod("b", json!({"wasmfleet.dev/keyvalue": "shop"}))).await.unwrap();
    rig.pod_is("b", "Running ready main:running/0").await;
    // What a pod was given stays.
    let more = wasmfleet::client::Patch::Merge(
        json!({"metadata": {"annotations": {"wasmfleet.dev/keyvalue": "shop,other"}}}),
    );
    let refused = rig.client.patch::<k8s_openapi::api::core::v1::Pod>("default", "b", more).await;
    let refused = refused.unwrap_err();
    assert!(refused.code == 422 && refused.message.contains("keyvalue"), "{}", refused.message);
}

#[tokio::test(start_paused = true)]
async fn what_the_network_refuses_is_told_of_the_container() {
    let rig = Rig::start().await;
    create(&rig.api, "pods", pod("a", json!({}))).await.unwrap();
    rig.pod_is("a", "Running ready main:running/0").await;
    let platform = rig.running().workload.platform.clone();
    let denial =
        |host: &str, port, can_be_listed| Denial { host: host.into(), port, can_be_listed };
    platform.denied(denial("api.example.com", Some(443), true));
    let told = rig.told("OutboundDenied").await;
    assert_eq!(told.severity, Severity::Warning);
    assert_eq!(told.regarding.field_path.as_deref(), Some("spec.containers{main}"));
    assert_eq!(
        told.message,
        "Connection to api.example.com:443 denied: outside of the cluster a pod reaches only hosts that its \
         annotation wasmfleet.dev/allowed-hosts lists, and \"api.example.com\" is not among them"
    );
    platform.denied(denial("fe80::1", Some(80), false));
    platform.denied(denial("::1", Some(80), false));
    platform.denied(denial("example.com", None, true));
    let texts: Vec<String> = rig.notices.lock().iter().map(|n| n.message.clone()).collect();
    for begin in [
        "Connection to [fe80::1]:80 denied: addresses of the node's",
        "Connection to [::1]:80 denied: pods have no addresses of IPv6",
        "Look-up of example.com denied: outside of the cluster",
    ] {
        assert!(texts.iter().any(|text| text.starts_with(begin)), "{begin}: {texts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_is_told_of_its_container() {
    let rig = Rig::start().await;
    create(&rig.api, "pods", pod("a", json!({}))).await.unwrap();
    rig.pod_is("a", "Running ready main:running/0").await;
    let platform = rig.running().workload.platform.clone();
    platform.failed("trap: wasm `unreachable` instruction executed".to_string());
    let told = rig.told("RequestFailed").await;
    assert_eq!(told.severity, Severity::Warning);
    assert_eq!(told.regarding.field_path.as_deref(), Some("spec.containers{main}"));
    assert_eq!(
        told.message,
        "The handler failed at a request: trap: wasm `unreachable` instruction executed"
    );
}
