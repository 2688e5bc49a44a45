//! `apimachinery/resource_quota.go`.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};
use wasmfleet::api::quantity::Quantity;

use crate::conformance::context::eventually_within;
use crate::conformance::operations::ensure_includes;
use crate::conformance::{Case, Collection, Context, Patch, case, eventually, refused};

pub const CASES: &[Case] = &[
    case!(
        "ResourceQuota should create a ResourceQuota and ensure its status is promptly calculated.",
        promptly
    ),
    case!(
        "ResourceQuota should create a ResourceQuota and capture the life of a service.",
        service
    ),
    case!("ResourceQuota should create a ResourceQuota and capture the life of a secret.", secret),
    case!("ResourceQuota should create a ResourceQuota and capture the life of a pod.", pod),
    case!(
        "ResourceQuota should create a ResourceQuota and capture the life of a configMap.",
        config_map
    ),
    case!(
        "ResourceQuota should create a ResourceQuota and capture the life of a replication \
         controller.",
        replication_controller
    ),
    case!(
        "ResourceQuota should create a ResourceQuota and capture the life of a replica set.",
        replica_set
    ),
    case!("ResourceQuota should be able to update and delete ResourceQuota.", update_and_delete),
    case!("ResourceQuota should manage the lifecycle of a ResourceQuota", lifecycle),
    case!("ResourceQuota should apply changes to a resourcequota status", status)
        .within(RESYNC.as_secs() + 180),
];

/// The controller resets a status that others wrote at its next full pass, at the latest.
const RESYNC: Duration = Duration::from_secs(360);

pub fn quota(name: &str, hard: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name},
        "spec": {"hard": hard}})
}

/// Upstream's quota of everything, with more or other amounts.
fn full(other: Value) -> Value {
    let mut hard = json!({"pods": "5", "services": "10", "services.nodeports": "1",
        "services.loadbalancers": "1", "replicationcontrollers": "10", "resourcequotas": "1",
        "cpu": "1", "memory": "500Mi", "configmaps": "10", "secrets": "10",
        "persistentvolumeclaims": "10", "requests.storage": "10Gi", "ephemeral-storage": "50Gi",
        "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "10",
        "gold.storageclass.storage.k8s.io/requests.storage": "10Gi",
        "count/replicasets.apps": "5", "requests.example.com/dongle": "3"});
    json_patch::merge(&mut hard, &other);
    quota("test-quota", hard)
}

/// A pod that no node takes, so that only its quota matters.
pub fn pod_with(name: &str, requests: Value, limits: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeSelector": {"x-test.k8s.io/unsatisfiable": "not-schedulable"},
            "containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10.1",
                "resources": {"requests": requests, "limits": limits}}]}})
}

fn same_amount(have: &Value, want: &Value) -> bool {
    let parse = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    parse(have).is_some_and(|have| Some(have) == parse(want))
}

/// Waits until a quota tells at least these amounts as used.
pub async fn used(quotas: &Collection, name: &str, used: Value) -> Result<()> {
    let mut last = Value::Null;
    let wanted = used.as_object().context("amounts")?;
    let waited = eventually("the used amounts", async || {
        last = quotas.get(name).await?["status"]["used"].take();
        let all = wanted.iter().all(|(name, want)| same_amount(&last[name], want));
        Ok(all.then_some(()))
    });
    waited.await.map_err(|error| anyhow!("{error:#}: {used} is not in {last}"))
}

/// How many quotas there are with one more.
async fn count(quotas: &Collection) -> Result<String> {
    Ok((quotas.items(&[]).await?.len() + 1).to_string())
}

/// Makes the full quota and waits for its status.
async fn begin(context: &Context, other: Value, first: Value) -> Result<Collection> {
    let quotas = context.own("v1/resourcequotas");
    let mut expected = first;
    expected["resourcequotas"] = count(&quotas).await?.into();
    quotas.create(&full(other)).await?;
    used(&quotas, "test-quota", expected).await?;
    Ok(quotas)
}

async fn promptly(context: &Context) -> Result<()> {
    begin(context, json!({}), json!({})).await?;
    Ok(())
}

fn service_of(name: &str, kind: &str, other: Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": kind, "ports": [{"port": 80, "targetPort": 80}]}});
    json_patch::merge(&mut service["spec"], &other);
    service
}

async fn service(context: &Context) -> Result<()> {
    let quotas = begin(context, json!({}), json!({})).await?;
    let services = context.own("v1/services");
    services.create(&service_of("test-service", "ClusterIP", json!({}))).await?;
    services.create(&service_of("test-service-np", "NodePort", json!({}))).await?;
    let other = json!({"allocateLoadBalancerNodePorts": true});
    let balancer = service_of("test-service-lb", "LoadBalancer", other);
    refused(services.create(&balancer).await, 403)?;
    let two = json!({"resourcequotas": "1", "services": "2", "services.nodeports": "1"});
    used(&quotas, "test-quota", two).await?;
    services.delete("test-service").await?;
    services.delete("test-service-np").await?;
    let none = json!({"resourcequotas": "1", "services": "0", "services.nodeports": "0"});
    used(&quotas, "test-quota", none).await
}

async fn secret(context: &Context) -> Result<()> {
    let secrets = context.own("v1/secrets");
    let found = secrets.items(&[]).await?.len();
    let (before, after) = (found.to_string(), (found + 1).to_string());
    let quotas = begin(context, json!({"secrets": after}), json!({ "secrets": before })).await?;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "test-secret"},
        "data": {"data-1": "dmFsdWUtMQo=", "data-2": "dmFsdWUtMgo=", "data-3": "dmFsdWUtMwo="}});
    secrets.create(&secret).await?;
    used(&quotas, "test-quota", json!({ "secrets": after })).await?;
    secrets.delete("test-secret").await?;
    used(&quotas, "test-quota", json!({ "secrets": before })).await
}

async fn config_map(context: &Context) -> Result<()> {
    let maps = context.own("v1/configmaps");
    // The one that every namespace gets.
    eventually("kube-root-ca.crt", async || Ok(maps.get("kube-root-ca.crt").await.ok())).await?;
    let found = maps.items(&[]).await?.len();
    let (before, after) = (found.to_string(), (found + 1).to_string());
    let quotas =
        begin(context, json!({"configmaps": after}), json!({ "configmaps": before })).await?;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "test-configmap"}, "data": {"a": "b"}});
    maps.create(&map).await?;
    used(&quotas, "test-quota", json!({"resourcequotas": "1", "configmaps": after})).await?;
    maps.delete("test-configmap").await?;
    used(&quotas, "test-quota", json!({"resourcequotas": "1", "configmaps": before})).await
}

fn template(name: &str) -> Value {
    json!({"metadata": {"labels": {"name": name}},
        "spec": {"containers": [{"name": name, "image": "nginx"}]}})
}

async fn replication_controller(context: &Context) -> Result<()> {
    let amount = |amount: &str| json!({ "replicationcontrollers": amount });
    let quotas = begin(context, json!({}), amount("0")).await?;
    let controllers = context.own("v1/replicationcontrollers");
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "test-rc"}, "spec": {"replicas": 0,
            "selector": {"name": "test-rc"}, "template": template("test-rc")}});
    controllers.create(&controller).await?;
    used(&quotas, "test-quota", amount("1")).await?;
    // Its default is to leave pods behind, which would need a controller to finish.
    let options = json!({"propagationPolicy": "Background"});
    controllers.delete_with("test-rc", &options).await?;
    used(&quotas, "test-quota", amount("0")).await
}

async fn replica_set(context: &Context) -> Result<()> {
    let amount = |amount: &str| json!({ "count/replicasets.apps": amount });
    let quotas = begin(context, json!({}), amount("0")).await?;
    let sets = context.own("apps/v1/replicasets");
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "test-rs"}, "spec": {"replicas": 0,
            "selector": {"matchLabels": {"name": "test-rs"}}, "template": template("test-rs")}});
    sets.create(&set).await?;
    used(&quotas, "test-quota", amount("1")).await?;
    sets.delete("test-rs").await?;
    used(&quotas, "test-quota", amount("0")).await
}

async fn pod(context: &Context) -> Result<()> {
    let quotas = begin(context, json!({}), json!({})).await?;
    let pods = context.own("v1/pods");
    let dongles = json!({"example.com/dongle": "2"});
    let requests = json!({"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi",
        "example.com/dongle": "2"});
    pods.create(&pod_with("test-pod", requests, dongles.clone())).await?;
    let taken = json!({"resourcequotas": "1", "pods": "1", "cpu": "500m", "memory": "252Mi",
        "ephemeral-storage": "30Gi", "requests.example.com/dongle": "2"});
    used(&quotas, "test-quota", taken.clone()).await?;
    let requests = json!({"cpu": "600m", "memory": "100Mi"});
    refused(pods.create(&pod_with("fail-pod", requests, json!({}))).await, 403)?;
    let requests = json!({"cpu": "500m", "memory": "100Mi", "ephemeral-storage": "30Gi",
        "example.com/dongle": "2"});
    let extended = pod_with("fail-pod-for-extended-resource", requests, dongles);
    refused(pods.create(&extended).await, 403)?;
    let requests = json!({"cpu": "100m", "memory": "100Mi", "ephemeral-storage": "10Gi"});
    // The scheduler writes to its status meanwhile.
    let changed = pods.update("test-pod", |pod| {
        pod["spec"]["containers"][0]["resources"]["requests"] = requests.clone();
    });
    refused(changed.await, 422)?;
    used(&quotas, "test-quota", taken).await?;
    pods.delete_with("test-pod", &json!({"gracePeriodSeconds": 0})).await?;
    let none = json!({"resourcequotas": "1", "pods": "0", "cpu": "0", "memory": "0",
        "ephemeral-storage": "0", "requests.example.com/dongle": "0"});
    used(&quotas, "test-quota", none).await
}

async fn update_and_delete(context: &Context) -> Result<()> {
    let quotas = context.own("v1/resourcequotas");
    let mut quota = quota("test-quota", json!({"cpu": "1", "memory": "500Mi"}));
    quotas.create(&quota).await?;
    ensure_includes(&quotas.get("test-quota").await?["spec"], &quota["spec"])?;
    // Without a version, as upstream does: whatever is there is replaced.
    quota["spec"]["hard"] = json!({"cpu": "2", "memory": "1Gi"});
    ensure_includes(&quotas.replace(&quota).await?["spec"], &quota["spec"])?;
    ensure_includes(&quotas.get("test-quota").await?["spec"], &quota["spec"])?;
    quotas.delete("test-quota").await?;
    refused(quotas.get("test-quota").await, 404)?;
    Ok(())
}

fn labelled(name: &str, hard: Value) -> Value {
    let mut quota = quota(name, hard);
    quota["metadata"]["labels"] = json!({"e2e-rq-label": name});
    quota
}

async fn lifecycle(context: &Context) -> Result<()> {
    let (quotas, name) = (context.own("v1/resourcequotas"), context.unique("e2e-quota"));
    let selector = format!("e2e-rq-label={name}");
    let quota = labelled(&name, json!({"cpu": "1", "memory": "500Mi"}));
    quotas.create(&quota).await?;
    ensure_includes(&quotas.get(&name).await?["spec"], &quota["spec"])?;
    let found = context.all("v1/resourcequotas").items_labelled(&selector).await?.len();
    ensure!(found == 1, "{found} in all namespaces, not 1");
    let patch = json!({"metadata": {"labels": {(name.as_str()): "patched"}},
        "spec": {"hard": {"memory": "750Mi"}}});
    ensure_includes(&quotas.patch(&name, Patch::Strategic, &patch).await?, &patch)?;
    quotas.delete_collection(&[("labelSelector", &selector)]).await?;
    refused(quotas.get(&name).await, 404)?;
    Ok(())
}

async fn status(context: &Context) -> Result<()> {
    let (quotas, name) = (context.own("v1/resourcequotas"), context.unique("e2e-rq-status"));
    let (selector, path) = (format!("e2e-rq-label={name}"), format!("{name}/status"));
    let mut watch = quotas.watch_labelled(&selector).await?;
    let quota = labelled(&name, json!({"cpu": "500m", "memory": "500Mi"}));
    quotas.create(&quota).await?;
    ensure_includes(&quotas.get(&name).await?["spec"], &quota["spec"])?;
    let hard = quota["spec"]["hard"].clone();
    quotas.update(&path, |quota| quota["status"] = json!({ "hard": hard })).await?;
    let has = |object: &Value, hard: &Value| object["status"]["hard"] == *hard;
    watch.until("MODIFIED", |object| has(object, &hard)).await?;

    let mut watch = quotas.watch_labelled(&selector).await?;
    let hard = json!({"cpu": "1", "memory": "1Gi"});
    let patch = json!({"spec": {"hard": hard}});
    ensure_includes(&quotas.patch(&name, Patch::Strategic, &patch).await?, &patch)?;
    let patch = json!({"status": {"hard": hard}});
    ensure_includes(&quotas.patch(&path, Patch::Strategic, &patch).await?, &patch)?;
    watch.until("MODIFIED", |object| has(object, &hard)).await?;
    ensure!(has(&quotas.get(&path).await?, &hard), "the status is not {hard}");

    let mut watch = quotas.watch_labelled(&selector).await?;
    let other = json!({"cpu": "2", "memory": "2Gi"});
    let patch = json!({"status": {"hard": other}});
    ensure_includes(&quotas.patch(&path, Patch::Strategic, &patch).await?, &patch)?;
    watch.until("MODIFIED", |object| has(object, &other)).await?;
    eventually_within(RESYNC, "the status as the spec says", async || {
        let quota = quotas.get(&name).await?;
        ensure!(quota["spec"]["hard"] == hard, "the spec was changed: {quota}");
        Ok(has(&quota, &hard).then_some(()))
    })
    .await
}

/// Quotas that count some pods only.
pub const SCOPES: &[Case] = &[
    case!("ResourceQuota should verify ResourceQuota with terminating scopes.", terminating),
    case!("ResourceQuota should verify ResourceQuota with best effort scope.", best_effort),
];

/// Makes a quota of each of two scopes that exclude each other.
async fn two_scopes(context: &Context, scopes: [&str; 2], hard: Value) -> Result<Collection> {
    let quotas = context.own("v1/resourcequotas");
    for scope in scopes {
        let mut quota = quota(&format!("quota-{}", scope.to_lowercase()), hard.clone());
        quota["spec"]["scopes"] = json!([scope]);
        let created = quotas.create(&quota).await?;
        let name = created["metadata"]["name"].as_str().context("a name")?;
        used(&quotas, name, json!({"pods": "0"})).await?;
    }
    Ok(quotas)
}

/// The pod counts in the first of two quotas and not in the second, and in neither once it is gone.
async fn counts_in(
    context: &Context,
    [first, second]: [&str; 2],
    pod: &Value,
    amounts: Value,
) -> Result<()> {
    let (quotas, pods) = (context.own("v1/resourcequotas"), context.own("v1/pods"));
    let zero = amounts.as_object().into_iter().flatten().map(|(k, _)| (k.clone(), json!("0")));
    let zero: Value = Value::Object(zero.collect());
    let created = pods.create(pod).await?;
    used(&quotas, first, amounts).await.context(first.to_string())?;
    used(&quotas, second, zero.clone()).await.context(second.to_string())?;
    let name = created["metadata"]["name"].as_str().context("a name")?;
    pods.delete_with(name, &json!({"gracePeriodSeconds": 0})).await?;
    used(&quotas, first, zero).await.context("after the pod's end")
}

async fn terminating(context: &Context) -> Result<()> {
    let hard = json!({"pods": "5", "requests.cpu": "1", "requests.memory": "500Mi",
        "limits.cpu": "2", "limits.memory": "1Gi"});
    two_scopes(context, ["Terminating", "NotTerminating"], hard).await?;
    let requests = json!({"cpu": "500m", "memory": "200Mi"});
    let limits = json!({"cpu": "1", "memory": "400Mi"});
    let amounts = json!({"pods": "1", "requests.cpu": "500m", "requests.memory": "200Mi",
        "limits.cpu": "1", "limits.memory": "400Mi"});
    let pod = pod_with("test-pod", requests.clone(), limits.clone());
    let (ends, runs) = ("quota-terminating", "quota-notterminating");
    counts_in(context, [runs, ends], &pod, amounts.clone()).await?;
    let mut pod = pod_with("terminating-pod", requests, limits);
    pod["spec"]["activeDeadlineSeconds"] = 3600.into();
    counts_in(context, [ends, runs], &pod, amounts).await
}

async fn best_effort(context: &Context) -> Result<()> {
    two_scopes(context, ["BestEffort", "NotBestEffort"], json!({"pods": "5"})).await?;
    let (best, other) = ("quota-besteffort", "quota-notbesteffort");
    let pod = pod_with("pfpod", json!({}), json!({}));
    counts_in(context, [best, other], &pod, json!({"pods": "1"})).await?;
    let requests = json!({"cpu": "500m", "memory": "200Mi"});
    let pod = pod_with("burstable-pod", requests, json!({"cpu": "1", "memory": "400Mi"}));
    counts_in(context, [other, best], &pod, json!({"pods": "1"})).await
}
