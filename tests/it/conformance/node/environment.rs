//! What a container is told in its environment: `common/node/configmap.go`, `secrets.go`,
//! `downwardapi.go` and `pods.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{has_lines, holds};
use crate::conformance::workloads::{BUSYBOX, SERVER, output, pod as server_pod, run};
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!("ConfigMap should be consumable via environment variable", map_key),
    case!("ConfigMap should be consumable via the environment", whole_map),
    case!(
        "ConfigMap should be consumable as environment variable names with various prefixes",
        map_prefixes
    ),
    case!(
        "Secrets should be consumable as environment variable names variable names with various \
         prefixes",
        secret_prefixes
    ),
    case!("Secrets should be consumable from pods in env vars", secret_key),
    case!("Secrets should be consumable via the environment", whole_secret),
    case!(
        "Downward API should provide container's limits.cpu/memory and requests.cpu/memory as env \
         vars",
        resources
    ),
    case!(
        "Downward API should provide default limits.cpu/memory from node allocatable",
        default_limits
    ),
    case!("Pods should contain environment variables for services", services),
    case!("Downward API should provide host IP as an env var", host_ip),
    case!("Downward API should provide hostIPs as an env var", host_ips),
    case!("Downward API should provide pod UID as env vars", pod_uid),
    case!("Downward API should provide pod name, namespace and IP address as env vars", names),
];

/// A pod that prints its environment.
fn pod(name: &str, container: Value) -> Value {
    let mut own = json!({"name": "env-test", "image": BUSYBOX});
    for (key, value) in container.as_object().into_iter().flatten() {
        own[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": {"restartPolicy": "Never", "containers": [own]}})
}

async fn services(context: &Context) -> Result<()> {
    let label = json!({"serverName": "server-envvars"});
    run(&context.own("v1/pods"), &server_pod("server-envvars", label.clone(), SERVER)).await?;
    let service = json!({"metadata": {"name": "fooservice"}, "spec": {"selector": label,
        "ports": [{"port": 8765, "targetPort": 8080}]}});
    let service = context.own("v1/services").create(&service).await?;
    let ip = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    let names = [
        ("SERVICE_HOST", ip),
        ("SERVICE_PORT", "8765"),
        ("PORT", &format!("tcp://{ip}:8765")),
        ("PORT_8765_TCP_PORT", "8765"),
        ("PORT_8765_TCP_PROTO", "tcp"),
        ("PORT_8765_TCP", &format!("tcp://{ip}:8765")),
        ("PORT_8765_TCP_ADDR", ip),
    ];
    let lines = names.map(|(name, value)| format!("env FOOSERVICE_{name}={value}"));
    let lines = lines.each_ref().map(String::as_str);
    // Nodes learn of Services by a watch, and pods are told once.
    eventually("variables of the service", async || {
        let name = context.unique("client-envvars");
        let told = output(context, &pod(&name, json!({}))).await?;
        Ok(has_lines(&told, &lines).is_ok().then_some(()))
    })
    .await
}

async fn map(context: &Context) -> Result<String> {
    let name = context.unique("configmap-test");
    let data = json!({"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"});
    context.own("v1/configmaps").create(&json!({"metadata": {"name": name}, "data": data})).await?;
    Ok(name)
}

async fn secret(context: &Context) -> Result<String> {
    let name = context.unique("secret-test");
    let data = json!({"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"});
    let secret = json!({"metadata": {"name": name}, "stringData": data});
    context.own("v1/secrets").create(&secret).await?;
    Ok(name)
}

async fn map_key(context: &Context) -> Result<()> {
    let from = json!({"configMapKeyRef": {"name": map(context).await?, "key": "data-1"}});
    let env = json!({"env": [{"name": "CONFIG_DATA_1", "valueFrom": from}]});
    let told = output(context, &pod("pod-configmaps", env)).await?;
    has_lines(&told, &["env CONFIG_DATA_1=value-1"])
}

async fn whole_map(context: &Context) -> Result<()> {
    let name = map(context).await?;
    let env = json!({"envFrom": [{"configMapRef": {"name": name}},
        {"prefix": "p-", "configMapRef": {"name": name}}]});
    has_all(&output(context, &pod("pod-configmaps", env)).await?, "p-")
}

async fn secret_key(context: &Context) -> Result<()> {
    let from = json!({"secretKeyRef": {"name": secret(context).await?, "key": "data-1"}});
    let env = json!({"env": [{"name": "SECRET_DATA", "valueFrom": from}]});
    let told = output(context, &pod("pod-secrets", env)).await?;
    has_lines(&told, &["env SECRET_DATA=value-1"])
}

async fn whole_secret(context: &Context) -> Result<()> {
    let name = secret(context).await?;
    let env = json!({"envFrom": [{"secretRef": {"name": name}},
        {"prefix": "p-", "secretRef": {"name": name}}]});
    has_all(&output(context, &pod("pod-secrets", env)).await?, "p-")
}

/// All that is printable but `=` may be in a prefix (KEP-4369).
const PREFIXES: [&str; 4] = ["1-", "$_-", "ABC_", "#@!"];

async fn prefixes(context: &Context, source: Value) -> Result<()> {
    let mut from = vec![source.clone()];
    for prefix in PREFIXES {
        let mut one = source.clone();
        one["prefix"] = prefix.into();
        from.push(one);
    }
    let told = output(context, &pod("pod-prefixes", json!({"envFrom": from}))).await?;
    PREFIXES.iter().try_for_each(|prefix| has_all(&told, prefix))
}

async fn map_prefixes(context: &Context) -> Result<()> {
    let name = map(context).await?;
    prefixes(context, json!({"configMapRef": {"name": name}})).await
}

async fn secret_prefixes(context: &Context) -> Result<()> {
    let name = secret(context).await?;
    prefixes(context, json!({"secretRef": {"name": name}})).await
}

fn has_all(told: &str, prefix: &str) -> Result<()> {
    for number in 1..=3 {
        for prefix in ["", prefix] {
            has_lines(told, &[&format!("env {prefix}data-{number}=value-{number}")])?;
        }
    }
    Ok(())
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
}

fn resource(name: &str, resource: &str) -> Value {
    json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource}}})
}

fn limits() -> Value {
    json!([
        resource("CPU_LIMIT", "limits.cpu"),
        resource("MEMORY_LIMIT", "limits.memory"),
        resource("CPU_REQUEST", "requests.cpu"),
        resource("MEMORY_REQUEST", "requests.memory"),
    ])
}

async fn resources(context: &Context) -> Result<()> {
    let resources = json!({"requests": {"cpu": "250m", "memory": "32Mi"},
        "limits": {"cpu": "1250m", "memory": "64Mi"}});
    let told =
        output(context, &pod("downward-api", json!({"env": limits(), "resources": resources})))
            .await?;
    let lines = [
        "env CPU_LIMIT=2",
        "env MEMORY_LIMIT=67108864",
        "env CPU_REQUEST=1",
        "env MEMORY_REQUEST=33554432",
    ];
    has_lines(&told, &lines)
}

async fn default_limits(context: &Context) -> Result<()> {
    let env =
        json!([resource("CPU_LIMIT", "limits.cpu"), resource("MEMORY_LIMIT", "limits.memory")]);
    let told = output(context, &pod("downward-api", json!({"env": env}))).await?;
    for name in ["CPU_LIMIT", "MEMORY_LIMIT"] {
        holds(value(&told, name).parse::<u64>().is_ok_and(|n| n > 0), name)?;
    }
    Ok(())
}

/// The value of a variable, "" without one.
fn value<'a>(told: &'a str, name: &str) -> &'a str {
    let head = format!("env {name}=");
    told.lines().find_map(|line| line.strip_prefix(&head)).unwrap_or_default()
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

async fn host_ip(context: &Context) -> Result<()> {
    let env = json!({"env": [field("HOST_IP", "status.hostIP")]});
    let told = output(context, &pod("downward-api", env)).await?;
    holds(is_address(value(&told, "HOST_IP")), &told)
}

async fn host_ips(context: &Context) -> Result<()> {
    let env = json!({"env": [field("HOST_IPS", "status.hostIPs")]});
    let told = output(context, &pod("downward-api", env)).await?;
    holds(value(&told, "HOST_IPS").split(',').all(is_address), &told)
}

async fn pod_uid(context: &Context) -> Result<()> {
    let env = json!({"env": [field("POD_UID", "metadata.uid")]});
    let told = output(context, &pod("downward-api", env)).await?;
    // In the form of RFC 4122.
    let lengths: Vec<usize> = value(&told, "POD_UID").split('-').map(str::len).collect();
    holds(lengths == [8, 4, 4, 4, 12], &told)
}

async fn names(context: &Context) -> Result<()> {
    let env = json!({"env": [field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"), field("POD_IP", "status.podIP")]});
    let told = output(context, &pod("downward-api", env)).await?;
    let namespace = format!("env POD_NAMESPACE={}", context.namespace);
    has_lines(&told, &["env POD_NAME=downward-api", &namespace])?;
    holds(is_address(value(&told, "POD_IP")), &told)
}
