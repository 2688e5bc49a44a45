//! `common/node/configmap.go` and `common/node/secrets.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{counts, holds, is, is_refused, label, name, namespace};
use crate::conformance::{Case, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("ConfigMap should fail to create ConfigMap with empty key", map_with_empty_key),
    case!("ConfigMap should run through a ConfigMap lifecycle", map_lifecycle),
    case!("ConfigMap should update ConfigMap successfully", map_update),
    case!("Secrets should fail to create secret due to empty secret key", secret_with_empty_key),
    case!("Secrets should patch a secret", secret_patch),
];

async fn map_with_empty_key(context: &Context) -> Result<()> {
    let name = context.unique("configmap-test-emptykey");
    let map = json!({"metadata": {"name": name}, "data": {"": "value-1"}});
    is_refused(context.own("v1/configmaps").create(&map).await, &[422]).map(drop)
}

async fn map_lifecycle(context: &Context) -> Result<()> {
    let (maps, everywhere) = (context.own("v1/configmaps"), context.all("v1/configmaps"));
    let map_name = context.unique("test-configmap");
    let map = json!({
        "metadata": {"name": map_name, "labels": {"test-configmap-static": "true"}},
        "data": {"valueName": "value"}});
    maps.create(&map).await?;
    let read = maps.get(&map_name).await?;
    is(&read["data"]["valueName"], "value")?;
    is(label(&read, "test-configmap-static"), "true")?;
    let patch = json!({"metadata": {"labels": {"test-configmap": "patched"}},
        "data": {"valueName": "value1"}});
    maps.patch(&map_name, Patch::Strategic, &patch).await?;
    let found = everywhere.items_labelled("test-configmap=patched").await?;
    let is_mine = |map: &Value| name(map) == map_name && namespace(map) == context.namespace;
    let mine = found.into_iter().find(is_mine).unwrap_or_default();
    is(label(&mine, "test-configmap-static"), "true")?;
    is(label(&mine, "test-configmap"), "patched")?;
    is(&mine["data"]["valueName"], "value1")?;
    maps.delete_collection(&[("labelSelector", "test-configmap-static=true")]).await?;
    counts(&maps.items_labelled("test-configmap-static=true").await?, 0)
}

/// What is sent has no version: it replaces whatever is there.
async fn map_update(context: &Context) -> Result<()> {
    let maps = context.own("v1/configmaps");
    let name = context.unique("configmap-test");
    let data = json!({"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"});
    maps.create(&json!({"metadata": {"name": name}, "data": data})).await?;
    let wanted = json!({"data": "value"});
    maps.replace(&json!({"metadata": {"name": name}, "data": wanted})).await?;
    is(&maps.get(&name).await?["data"], wanted)
}

async fn secret_with_empty_key(context: &Context) -> Result<()> {
    let name = context.unique("secret-emptykey-test");
    let secret = json!({"metadata": {"name": name}, "data": {"": "dmFsdWUtMQo="}});
    is_refused(context.own("v1/secrets").create(&secret).await, &[422]).map(drop)
}

async fn secret_patch(context: &Context) -> Result<()> {
    let (secrets, everywhere) = (context.own("v1/secrets"), context.all("v1/secrets"));
    let secret_name = context.unique("test-secret");
    let secret = json!({
        "metadata": {"name": secret_name, "labels": {"testsecret-constant": "true"}},
        "data": {"key": "dmFsdWU="}, "type": "Opaque"});
    secrets.create(&secret).await?;
    let is_mine = |s: &Value| name(s) == secret_name && namespace(s) == context.namespace;
    let found = everywhere.items_labelled("testsecret-constant=true").await?;
    holds(found.iter().any(is_mine), "the secret is among all secrets with its label")?;
    // The base64 of "value1" is the data, and so encoded once more.
    let data = json!({"key": "ZG1Gc2RXVXg="});
    let patch = json!({"metadata": {"labels": {"testsecret": "true"}}, "data": data});
    secrets.patch(&secret_name, Patch::Strategic, &patch).await?;
    is(&secrets.get(&secret_name).await?["data"], data)?;
    secrets.delete_collection(&[("labelSelector", "testsecret=true")]).await?;
    let left = everywhere.items_labelled("testsecret-constant=true").await?;
    holds(!left.iter().any(is_mine), "the secret is gone")
}
