//! `apimachinery/webhook.go`. The webhooks are served by the test itself on loopback and decide as those
//! of upstream's test image do (`test/images/agnhost/webhook`), which run in a pod.
//!
//! Webhooks are for the case's own namespace, by a label, or for its own kinds: others must not
//! notice.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::crd::{self, Crd};
use crate::api::webhooks::server::{HookServer, Reply};
use crate::conformance::checks::{holds, is, is_refused, label_patch, name};
use crate::conformance::operations::{ensure_includes, includes};
use crate::conformance::workloads::{pause_pod, run};
use crate::conformance::{Case, Collection, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("AdmissionWebhook should include webhook resources in discovery documents", discovery),
    case!("AdmissionWebhook should be able to deny pod and configmap creation", deny),
    case!("AdmissionWebhook should be able to deny attaching pod", deny_attach),
    case!(
        "AdmissionWebhook should be able to deny custom resource creation, update and deletion",
        deny_custom
    ),
    case!(
        "AdmissionWebhook should unconditionally reject operations on fail closed webhook",
        fail_closed
    ),
    case!("AdmissionWebhook should mutate configmap", mutate_map),
    case!("AdmissionWebhook should mutate pod and apply defaults after mutation", mutate_pod),
    case!(
        "AdmissionWebhook should not be able to mutate or prevent deletion of webhook \
         configuration objects",
        own_kinds
    ),
    case!("AdmissionWebhook should mutate custom resource", mutate_custom),
    case!("AdmissionWebhook should mutate custom resource with pruning", mutate_pruned),
    case!(
        "AdmissionWebhook should mutate custom resource with different stored version",
        mutate_versions
    ),
    case!("AdmissionWebhook should deny crd creation", deny_definition),
    case!("AdmissionWebhook should honor timeout", timeouts),
];

pub(super) const VALIDATING: &str = "ValidatingWebhookConfiguration";
pub(super) const MUTATING: &str = "MutatingWebhookConfiguration";
/// How long the slow webhook takes.
const LATENCY: Duration = Duration::from_secs(3);

/// What upstream's image answers at a path.
pub(super) fn agnhost(path: &str, request: &Value) -> Reply {
    let denied = |why: &str| Reply::Response(json!({"allowed": false, "status": {"message": why}}));
    let object = &request["object"];
    let marked = |value: &Value| value["webhook-e2e-test"] == "webhook-disallow";
    let stages = |data: &Value| {
        let add =
            |stage: &str| json!({"op": "add", "path": format!("/data/{stage}"), "value": "yes"});
        match (&data["mutation-start"], &data["mutation-stage-1"]) {
            (_, stage) if stage == "yes" => Reply::Patch(json!([add("mutation-stage-2")])),
            (start, _) if start == "yes" => Reply::Patch(json!([add("mutation-stage-1")])),
            _ => Reply::Allow,
        }
    };
    match path {
        "pods" if object["metadata"]["labels"]["webhook-e2e-test"] == "wait-forever" => {
            Reply::Never
        }
        "pods" if marked(&object["metadata"]["labels"]) => {
            denied("the pod contains unwanted container name; the pod contains unwanted label")
        }
        "configmaps" if marked(&object["data"]) => {
            denied("the configmap contains unwanted key and value")
        }
        "pods-attach" if request["name"] == "to-be-attached-pod" => {
            denied("attaching to pod 'to-be-attached-pod' is not allowed")
        }
        "custom-resource" if request["operation"] == "DELETE" => {
            match request["oldObject"]["data"]["webhook-e2e-test"] == "webhook-nondeletable" {
                true => denied(
                    "the custom resource cannot be deleted because it contains unwanted \
                                key and value",
                ),
                false => Reply::Allow,
            }
        }
        "custom-resource" if marked(&object["data"]) => {
            denied("the custom resource contains unwanted data")
        }
        "crd" if marked(&object["metadata"]["labels"]) => denied("the crd contains unwanted label"),
        "mutating-pods" => Reply::Patch(json!([{"op": "add", "path": "/spec/initContainers",
            "value": [{"image": "webhook-added-image", "name": "webhook-added-init-container",
                "resources": {}}]}])),
        "stage-1" | "stage-2" => stages(&object["data"]),
        "always-deny" => denied("this webhook denies all requests"),
        "add-label" => Reply::Patch(json!([{"op": "add", "path": "/metadata/labels",
            "value": {"added-label": "yes"}}])),
        "delay" => Reply::Late(LATENCY),
        _ => Reply::Allow,
    }
}

pub(super) fn rules(group: &str, resource: &str, operations: &[&str]) -> Value {
    json!([{"operations": operations, "apiGroups": [group], "apiVersions": ["*"],
        "resources": [resource], "scope": "*"}])
}

/// A webhook at a path of the server, for the case's namespace.
pub(super) fn hook(context: &Context, server: &HookServer, path: &str, rules: Value) -> Value {
    let own = json!({"matchLabels": {(context.namespace.as_str()): "true"}});
    server.hook(path, json!({"rules": rules, "namespaceSelector": own}))
}

pub(super) fn configurations(context: &Context, kind: &str) -> Collection {
    context.all(&format!("admissionregistration.k8s.io/v1/{}s", kind.to_lowercase()))
}

/// Creates a configuration with these webhooks, which goes with the case.
pub(super) async fn register(context: &Context, kind: &str, hooks: Value) -> Result<Value> {
    let label = label_patch(&context.namespace, "true");
    context.all("v1/namespaces").patch(&context.namespace, Patch::Merge, &label).await?;
    let all = configurations(context, kind);
    let name = context.unique("e2e-test-webhook");
    context.remove_later(&all, &name);
    let labels = json!({"e2e-list-test-uuid": context.namespace});
    all.create(&json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "labels": labels}, "webhooks": hooks}))
        .await
}

pub(super) fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub(super) fn bad_map(name: &str) -> Value {
    map(name, json!({"webhook-e2e-test": "webhook-disallow"}))
}

/// A refusal that has this text.
pub(super) async fn denied(result: Result<Value>, text: &str) -> Result<()> {
    let failure = is_refused(result, &[400, 403, 500])?;
    holds(failure.to_string().contains(text), &format!("{text:?} in {failure}"))
}

async fn discovery(context: &Context) -> Result<()> {
    let group = "admissionregistration.k8s.io";
    let groups = context.client.get("/apis").await?;
    ensure_includes(
        &groups["groups"],
        &json!([{"name": group,
        "versions": [{"groupVersion": format!("{group}/v1"), "version": "v1"}]}]),
    )?;
    let one = context.client.get(&format!("/apis/{group}")).await?;
    ensure_includes(&one["versions"], &json!([{"version": "v1"}]))?;
    let list = context.client.get(&format!("/apis/{group}/v1")).await?;
    ensure_includes(
        &list["resources"],
        &json!([{"name": "mutatingwebhookconfigurations"},
            {"name": "validatingwebhookconfigurations"}]),
    )
}

async fn deny(context: &Context) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let mut pods = hook(context, &server, "pods", rules("", "pods", &["CREATE"]));
    pods["timeoutSeconds"] = 2.into();
    let maps = hook(context, &server, "configmaps", rules("", "configmaps", &["CREATE", "UPDATE"]));
    // Nobody can talk to it, and it fails open.
    let mut open = hook(context, &server, "fail-open", rules("", "configmaps", &["CREATE"]));
    open["clientConfig"]["caBundle"] = Value::Null;
    open["failurePolicy"] = "Ignore".into();
    register(context, VALIDATING, json!([pods, maps, open])).await?;
    let pod = |value: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "disallowed-pod", "labels": {"webhook-e2e-test": value}},
            "spec": {"containers": [{"name": value, "image": "pause"}]}})
    };
    let pods = context.own("v1/pods");
    let refused = pods.create(&pod("webhook-disallow")).await;
    denied(refused, "the pod contains unwanted container name").await?;
    let refused = pods.create(&pod("webhook-disallow")).await;
    denied(refused, "the pod contains unwanted label").await?;
    denied(pods.create(&pod("wait-forever")).await, "deadline").await?;
    let maps = context.own("v1/configmaps");
    let why = "the configmap contains unwanted key and value";
    denied(maps.create(&bad_map("disallowed-configmap")).await, why).await?;
    maps.create(&map("allowed-configmap", json!({"admit": "this"}))).await?;
    let update = maps.update("allowed-configmap", |object| {
        object["data"]["webhook-e2e-test"] = "webhook-disallow".into();
    });
    denied(update.await, why).await?;
    let patch = json!({"data": {"webhook-e2e-test": "webhook-disallow"}});
    denied(maps.patch("allowed-configmap", Patch::Strategic, &patch).await, why).await?;
    let other = context.create_namespace("exempted-namespace", json!({})).await?;
    context.within(&other, "v1/configmaps").create(&bad_map("disallowed-configmap")).await?;
    Ok(())
}

async fn deny_attach(context: &Context) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let rules = rules("", "pods/attach", &["CONNECT"]);
    let hooks = json!([hook(context, &server, "pods-attach", rules)]);
    register(context, VALIDATING, hooks).await?;
    run(&context.own("v1/pods"), &pause_pod("to-be-attached-pod", json!({}))).await?;
    let output = context.kubectl("attach to-be-attached-pod -i -c=main", "").await?;
    let why = "attaching to pod 'to-be-attached-pod' is not allowed";
    holds(output.code != 0 && output.stderr.contains(why), &output.told())
}

async fn fail_closed(context: &Context) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let mut closed = hook(context, &server, "fail-closed", rules("", "configmaps", &["CREATE"]));
    closed["clientConfig"]["caBundle"] = Value::Null;
    closed["failurePolicy"] = "Fail".into();
    register(context, VALIDATING, json!([closed])).await?;
    let result = context.own("v1/configmaps").create(&map("foo", json!({}))).await;
    let failure = is_refused(result, &[500])?;
    holds(failure.to_string().contains("failed calling webhook"), &failure.to_string())
}

fn staged(context: &Context, server: &HookServer, rules: Value) -> Value {
    json!(["stage-1", "stage-2"].map(|path| hook(context, server, path, rules.clone())))
}

async fn mutate_map(context: &Context) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let hooks = staged(context, &server, rules("", "configmaps", &["CREATE"]));
    register(context, MUTATING, hooks).await?;
    let object = map("to-be-mutated", json!({"mutation-start": "yes"}));
    let made = context.own("v1/configmaps").create(&object).await?;
    is(&made["data"], both_stages())
}

fn both_stages() -> Value {
    json!({"mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes"})
}

async fn mutate_pod(context: &Context) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let hooks = json!([hook(context, &server, "mutating-pods", rules("", "pods", &["CREATE"]))]);
    register(context, MUTATING, hooks).await?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "webhook-to-be-mutated"},
        "spec": {"containers": [{"name": "example", "image": "pause"}]}});
    let made = context.own("v1/pods").create(&pod).await?;
    let added = &made["spec"]["initContainers"];
    holds(added.as_array().is_some_and(|list| list.len() == 1), "one init container")?;
    is(&added[0]["name"], "webhook-added-init-container")?;
    is(&added[0]["terminationMessagePolicy"], "File")
}

async fn own_kinds(context: &Context) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let group = "admissionregistration.k8s.io";
    let all = |path: &str, operations: &[&str]| {
        let rules: Vec<Value> = [VALIDATING, MUTATING]
            .into_iter()
            .flat_map(|kind| {
                let resource = format!("{}s", kind.to_lowercase());
                rules(group, &resource, operations).as_array().cloned().unwrap_or_default()
            })
            .collect();
        server.hook(path, json!({"rules": rules}))
    };
    register(context, VALIDATING, json!([all("always-deny", &["DELETE"])])).await?;
    register(context, MUTATING, json!([all("add-label", &["CREATE"])])).await?;
    for kind in [VALIDATING, MUTATING] {
        let dummy = hook(context, &server, "dummy", rules("", "invalid", &["CREATE"]));
        let made = register(context, kind, json!([dummy])).await?;
        is(&made["metadata"]["labels"]["added-label"], Value::Null)?;
        configurations(context, kind).delete(name(&made)).await?;
    }
    Ok(())
}

async fn defined(context: &Context, versions: Value) -> Result<Crd> {
    let object = crd::definition(context, "webhook.example.com", "Namespaced", versions);
    crd::create(context, object).await
}

fn of_kind(crd: &Crd, version: &str, data: Value) -> Value {
    let mut object = crd.instance(version, "cr-instance-1");
    object["data"] = data;
    object
}

async fn deny_custom(context: &Context) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let crd = defined(context, json!([crd::version("v1", crd::any())])).await?;
    let rules = rules(&crd.group, &crd.plural, &["CREATE", "UPDATE", "DELETE"]);
    let hooks = json!([hook(context, &server, "custom-resource", rules)]);
    register(context, VALIDATING, hooks).await?;
    let objects = context.own(&crd.resource("v1"));
    let why = "the custom resource contains unwanted data";
    let bad = json!({"webhook-e2e-test": "webhook-disallow"});
    denied(objects.create(&of_kind(&crd, "v1", bad.clone())).await, why).await?;
    let held = json!({"webhook-e2e-test": "webhook-nondeletable"});
    objects.create(&of_kind(&crd, "v1", held)).await?;
    let update = objects.update("cr-instance-1", |object| object["data"] = bad.clone());
    denied(update.await, why).await?;
    let why = "the custom resource cannot be deleted because it contains unwanted key and value";
    denied(objects.delete("cr-instance-1").await, why).await?;
    let free = |object: &mut Value| object["data"]["webhook-e2e-test"] = "webhook-allow".into();
    objects.update("cr-instance-1", free).await?;
    objects.delete("cr-instance-1").await?;
    Ok(())
}

/// Creates an object that both stages change; answers with its data.
async fn mutated(context: &Context, schema: Value) -> Result<Value> {
    let server = HookServer::start(agnhost).await;
    let crd = defined(context, json!([crd::version("v1", schema)])).await?;
    let hooks = staged(context, &server, rules(&crd.group, &crd.plural, &["CREATE"]));
    register(context, MUTATING, hooks).await?;
    let object = of_kind(&crd, "v1", json!({"mutation-start": "yes"}));
    let mut made = context.own(&crd.resource("v1")).create(&object).await?;
    Ok(made["data"].take())
}

async fn mutate_custom(context: &Context) -> Result<()> {
    is(&mutated(context, crd::any()).await?, both_stages())
}

async fn mutate_pruned(context: &Context) -> Result<()> {
    // The schema does not know what the second stage adds.
    let fields = json!({"mutation-start": {"type": "string"},
        "mutation-stage-1": {"type": "string"}});
    let data = json!({"type": "object", "properties": fields});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"data": data}}});
    let wanted = json!({"mutation-start": "yes", "mutation-stage-1": "yes"});
    is(&mutated(context, schema).await?, wanted)
}

async fn mutate_versions(context: &Context) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let versions = |stored: &str| {
        json!(["v1", "v2"].map(|name| {
            let mut version = crd::version(name, crd::any());
            version["storage"] = (name == stored).into();
            version
        }))
    };
    let crd = defined(context, versions("v1")).await?;
    let hooks = staged(context, &server, rules(&crd.group, &crd.plural, &["CREATE", "UPDATE"]));
    register(context, MUTATING, hooks).await?;
    let objects = context.own(&crd.resource("v1"));
    let made = objects.create(&of_kind(&crd, "v1", json!({"mutation-start": "yes"}))).await?;
    is(&made["data"], both_stages())?;
    let patch = json!({"spec": {"versions": versions("v2")}});
    crd::definitions(context).patch(crd.name(), Patch::Merge, &patch).await?;
    let patch = json!({"data": {"dummy": "test"}});
    for version in ["v2", "v1"] {
        let objects = context.own(&crd.resource(version));
        let patched = objects.patch("cr-instance-1", Patch::Merge, &patch).await?;
        is(&patched["data"]["dummy"], "test")?;
        holds(includes(&patched["data"], &both_stages()), "the stages stay")?;
        is(&patched["apiVersion"], format!("{}/{version}", crd.group))?;
    }
    Ok(())
}

async fn deny_definition(context: &Context) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let rules = rules("apiextensions.k8s.io", "customresourcedefinitions", &["CREATE"]);
    let own = json!({"matchLabels": {"e2e-test": context.namespace}});
    let hooks = json!([server.hook("crd", json!({"rules": rules, "objectSelector": own}))]);
    register(context, VALIDATING, hooks).await?;
    let versions = json!([crd::version("v1", crd::any())]);
    let mut object = crd::definition(context, "webhook.example.com", "Cluster", versions);
    object["metadata"]["labels"] =
        json!({"webhook-e2e-test": "webhook-disallow", "e2e-test": context.namespace});
    let result = crd::definitions(context).create(&object).await;
    denied(result, "the crd contains unwanted label").await
}

async fn timeouts(context: &Context) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let maps = context.own("v1/configmaps");
    let slow = async |name: &str, timeout: Option<u32>, policy: &str| -> Result<Result<Value>> {
        let mut slow = hook(context, &server, "delay", rules("", "configmaps", &["CREATE"]));
        slow["failurePolicy"] = policy.into();
        if let Some(seconds) = timeout {
            slow["timeoutSeconds"] = seconds.into();
        }
        let made = register(context, VALIDATING, json!([slow])).await?;
        let result = maps.create(&map(name, json!({}))).await;
        configurations(context, VALIDATING).delete(self::name(&made)).await?;
        Ok(result)
    };
    denied(slow("shorter", Some(1), "Fail").await?, "deadline exceeded").await?;
    slow("ignored", Some(1), "Ignore").await??;
    slow("longer", Some(10), "Fail").await??;
    slow("default", None, "Fail").await??;
    Ok(())
}
