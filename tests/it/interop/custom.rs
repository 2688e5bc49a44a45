//! Custom resources with the real kubectl, and with kube-rs as operators use it.

use futures::StreamExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use crate::cluster::tools::{self, has};
use crate::cluster::{Cluster, Space};

fn definition(plural: &str, kind: &str) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.interop.example.com")},
        "spec": {"group": "interop.example.com", "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas"}},
                "additionalPrinterColumns": [
                    {"name": "Cron", "type": "string", "jsonPath": ".spec.cron"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "cron": {"type": "string", "description": "When it runs."},
                        "replicas": {"type": "integer", "default": 1}}},
                    "status": {"type": "object", "properties": {
                        "replicas": {"type": "integer"}}}}}}}]}})
}

fn tab(kind: &str, name: &str, cron: &str) -> Value {
    json!({"apiVersion": "interop.example.com/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"cron": cron}})
}

#[test]
fn kubectl_defines_a_kind_and_uses_it() {
    let Some(space) = Space::with_kubectl("k-custom") else { return };
    let kubectl = |words: &str| space.kubectl(words).ok();
    let apply = |value: &Value| space.kubectl_with("apply -f -", &value.to_string(), &[]).ok();
    has(&apply(&definition("tabs", "Tab")), &["tabs.interop.example.com created"]);
    kubectl("wait --for=condition=Established crd/tabs.interop.example.com --timeout=60s");
    has(&kubectl("get crd"), &["NAME", "CREATED AT", "tabs.interop.example.com"]);
    let one = tab("Tab", "one", "* * *");
    has(&apply(&one), &["tab.interop.example.com/one created"]);
    has(&apply(&one), &["tab.interop.example.com/one unchanged"]);
    has(&apply(&tab("Tab", "one", "daily")), &["tab.interop.example.com/one configured"]);
    let table = kubectl("get tabs");
    let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    has(&table, &["NAME", "CRON", "REPLICAS"]);
    assert_eq!(row, ["one", "daily", "1"]);
    has(&kubectl("explain tab.spec.cron"), &["KIND:       Tab", "When it runs."]);
    // Another version with another schema, served as soon as the definition is.
    let mut both = definition("tabs", "Tab");
    let versions = both["spec"]["versions"].as_array_mut().unwrap();
    let mut newer = versions[0].clone();
    (newer["name"], newer["storage"]) = ("v2beta1".into(), false.into());
    newer["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["zone"] =
        json!({"type": "string", "description": "Where it runs."});
    versions.push(newer);
    apply(&both);
    let explained = kubectl("explain tab.spec.zone --api-version=interop.example.com/v2beta1");
    has(&explained, &["VERSION:    v2beta1", "Where it runs."]);
    has(&kubectl("explain tab.spec.cron"), &["VERSION:    v1", "When it runs."]);
    has(&space.kubectl("explain tab.spec.zone").fails(), &["field \"zone\" does not exist"]);
    has(
        &kubectl("get tabs.v2beta1.interop.example.com one -o yaml"),
        &["interop.example.com/v2beta1"],
    );
    kubectl("patch tab one --type merge -p '{\"spec\":{\"cron\":\"weekly\"}}'");
    kubectl("scale tab one --replicas=3");
    kubectl("patch tab one --subresource=status --type merge -p '{\"status\":{\"replicas\":2}}'");
    let path = "-o jsonpath={.spec.cron}-{.spec.replicas}-{.status.replicas}";
    assert_eq!(kubectl(&format!("get tab one {path}")), "weekly-3-2");
    let editor = [("KUBE_EDITOR", "sed -i s/weekly/monthly/")];
    space.kubectl_with("edit tab one", "", &editor).ok();
    assert_eq!(kubectl("get tab one -o jsonpath={.spec.cron}"), "monthly");
    let applied =
        space.kubectl_with("apply --server-side -f -", &tab("Tab", "two", "x").to_string(), &[]);
    has(&applied.ok(), &["serverside-applied"]);
    let mut wrong = tab("Tab", "three", "x");
    wrong["spec"]["crom"] = "y".into();
    let refused = space.kubectl_with("create -f -", &wrong.to_string(), &[]).fails();
    has(&refused, &["unknown field \"spec.crom\""]);
    kubectl("delete tab two");
    // A namespace that goes takes custom resources along.
    kubectl("create namespace k-custom-gone");
    let gone = tab("Tab", "gone", "x").to_string();
    space.cluster.run(tools::kubectl().unwrap(), "-n k-custom-gone apply -f -", &gone).ok();
    has(&kubectl("get tabs -A"), &["k-custom-gone"]);
    kubectl("delete namespace k-custom-gone --timeout=60s");
    assert!(!kubectl("get tabs -A").contains("k-custom-gone"));
    kubectl("delete crd tabs.interop.example.com");
    // kubectl words it by what its cache of discovery still says.
    has(&space.kubectl("get tabs").fails(), &["the server"]);
    has(&space.wasmctl("get tabs").fails(), &["tabs"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_applies_and_watches() {
    let space = tokio::task::spawn_blocking(|| Space::new("kube-custom")).await.unwrap();
    let config = Kubeconfig::read_from(Cluster::shared().kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let definitions: Api<DynamicObject> =
        Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    let object: DynamicObject = serde_json::from_value(definition("jobs", "CronJob")).unwrap();
    definitions.create(&PostParams::default(), &object).await.unwrap();
    // Served as soon as the creation is answered; operators wait for the condition all the same.
    let stored = definitions.get("jobs.interop.example.com").await.unwrap();
    assert!(stored.data["status"]["conditions"].to_string().contains("Established"));

    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("interop.example.com", "v1", "CronJob"),
        "jobs",
    );
    let tabs: Api<DynamicObject> = Api::namespaced_with(client, &space.name, &resource);
    let mut watch = tabs.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let params = PatchParams::apply("operator");
    let applied = tabs.patch("one", &params, &Patch::Apply(tab("CronJob", "one", "daily"))).await;
    assert_eq!(applied.unwrap().data["spec"], json!({"cron": "daily", "replicas": 1}));
    let patch = json!({"status": {"replicas": 4}});
    tabs.patch_status("one", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let scale = tabs.get_scale("one").await.unwrap();
    assert_eq!(scale.status.unwrap().replicas, 4);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match watch.next().await.unwrap().unwrap() {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                seen.push(object.data["status"]["replicas"].clone());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [Value::Null, json!(4)]);
    // Gone with its definition.
    definitions.delete("jobs.interop.example.com", &Default::default()).await.unwrap();
    while let Some(event) = watch.next().await {
        assert!(matches!(event.unwrap(), WatchEvent::Deleted(_) | WatchEvent::Modified(_)));
    }
    assert!(tabs.list(&Default::default()).await.is_err());
}
