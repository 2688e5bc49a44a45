//! `scheduling/limit_range.go`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use wasmfleet::api::quantity::Quantity;

use crate::conformance::checks::{count_becomes, counts, is, is_refused, label};
use crate::conformance::{Case, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "LimitRange should create a LimitRange with defaults and ensure pod has those defaults \
         applied.",
        defaults
    ),
    case!("LimitRange should list, patch and delete a LimitRange by collection", collection),
];

/// Of cpu, memory and ephemeral storage; "" leaves one out.
fn amounts(cpu: &str, memory: &str, storage: &str) -> Value {
    let all = [("cpu", cpu), ("memory", memory), ("ephemeral-storage", storage)];
    let given = all.iter().filter(|(_, amount)| !amount.is_empty());
    given.map(|(name, amount)| (name.to_string(), Value::from(*amount))).collect()
}

fn limit_range(name: &str, labels: &Value) -> Value {
    let limits = json!({
        "type": "Container",
        "min": amounts("50m", "100Mi", "100Gi"),
        "max": amounts("500m", "500Mi", "500Gi"),
        "default": amounts("500m", "500Mi", "500Gi"),
        "defaultRequest": amounts("100m", "200Mi", "200Gi"),
        "maxLimitRequestRatio": {}});
    json!({"metadata": {"name": name, "labels": labels}, "spec": {"limits": [limits]}})
}

fn pod(name: &str, requests: Value, limits: Value) -> Value {
    let resources = json!({"requests": requests, "limits": limits});
    json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "pause", "image": "pause:v1", "resources": resources}]}})
}

/// Both hold the same amounts, however they are written.
fn same(found: &Value, wanted: &Value) -> Result<()> {
    let parsed = |amounts: &Value| -> Result<BTreeMap<String, Quantity>> {
        let amounts = amounts.as_object().context("no amounts")?.iter();
        let parse = |(name, amount): (&String, &Value)| {
            let amount = amount.as_str().context("an amount that is no text")?;
            Ok((name.clone(), Quantity::parse(amount)?))
        };
        amounts.map(parse).collect()
    };
    let (a, b) = (parsed(found)?, parsed(wanted)?);
    let same = a.len() == b.len()
        && a.iter().zip(&b).all(|((name, x), (other, y))| name == other && x.cmp(y).is_eq());
    ensure!(same, "{found}; expected: {wanted}");
    Ok(())
}

/// Every container asks for these amounts.
fn containers_ask(pod: &Value, requests: &Value, limits: &Value) -> Result<()> {
    for container in pod["spec"]["containers"].as_array().context("no containers")? {
        same(&container["resources"]["requests"], requests).context("requests")?;
        same(&container["resources"]["limits"], limits).context("limits")?;
    }
    Ok(())
}

async fn defaults(context: &Context) -> Result<()> {
    let (ranges, pods) = (context.own("v1/limitranges"), context.own("v1/pods"));
    let value = context.unique("time");
    let selector = format!("time={value}");
    counts(&ranges.items_labelled(&selector).await?, 0)?;
    let mut watch = ranges.watch_labelled(&selector).await?;
    ranges.create(&limit_range("limit-range", &json!({"time": value}))).await?;
    watch.expect("ADDED").await?;
    let mut range = ranges.get("limit-range").await?;
    let (requests, limits) = (amounts("100m", "200Mi", "200Gi"), amounts("500m", "500Mi", "500Gi"));
    same(&range["spec"]["limits"][0]["defaultRequest"], &requests)?;
    same(&range["spec"]["limits"][0]["default"], &limits)?;

    pods.create(&pod("pod-no-resources", json!({}), json!({}))).await?;
    containers_ask(&pods.get("pod-no-resources").await?, &requests, &limits)?;
    let asked = (amounts("", "150Mi", "150Gi"), amounts("300m", "", ""));
    pods.create(&pod("pod-partial-resources", asked.0, asked.1)).await?;
    // A limit without a request is the request.
    let (requests, limits) = (amounts("300m", "150Mi", "150Gi"), amounts("300m", "500Mi", "500Gi"));
    containers_ask(&pods.get("pod-partial-resources").await?, &requests, &limits)?;
    let small = pod("pfpod", amounts("10m", "50Mi", "50Gi"), json!({}));
    let large = pod("pfpod", amounts("600m", "600Mi", "600Gi"), json!({}));
    // Its default limit is below its request.
    is_refused(pods.create(&small).await, &[403])?;
    is_refused(pods.create(&large).await, &[403, 422])?;

    let lower = amounts("9m", "49Mi", "49Gi");
    range["spec"]["limits"][0]["min"] = lower.clone();
    ranges.replace(&range).await?;
    same(&ranges.get("limit-range").await?["spec"]["limits"][0]["min"], &lower)?;
    pods.create(&small).await?;
    is_refused(pods.create(&large).await, &[403, 422])?;
    ranges.delete_with("limit-range", &json!({"gracePeriodSeconds": 30})).await?;
    count_becomes(&ranges, "", 0).await?;
    let mut large = large;
    large["metadata"]["name"] = "pfpod2".into();
    // Upstream looks again, because its admission keeps what it knows for a while.
    eventually("a pod beyond former limits", async || Ok(pods.create(&large).await.ok())).await?;
    Ok(())
}

async fn collection(context: &Context) -> Result<()> {
    let (ranges, everywhere) = (context.own("v1/limitranges"), context.all("v1/limitranges"));
    let lr = context.unique("e2e-limitrange");
    let labels = json!({"e2e-test": lr, lr.as_str(): "created"});
    let created = ranges.create(&limit_range(&lr, &labels)).await?;
    let other = context.create_namespace(&lr, json!({})).await?;
    context.within(&other, "v1/limitranges").create(&limit_range(&lr, &labels)).await?;
    let both = format!("e2e-test={lr}");
    counts(&everywhere.items_labelled(&both).await?, 2)?;
    let lower = amounts("9m", "49Mi", "49Gi");
    let mut limits = created["spec"]["limits"].clone();
    limits[0]["min"] = lower.clone();
    let time = created["metadata"]["creationTimestamp"].clone();
    let patch = json!({
        "metadata": {"creationTimestamp": time, "labels": {lr.as_str(): "patched"}},
        "spec": {"limits": limits}});
    let patched = ranges.patch(&lr, Patch::Strategic, &patch).await?;
    is(label(&patched, &lr), "patched")?;
    same(&patched["spec"]["limits"][0]["min"], &lower)?;
    let selector = format!("{lr}=patched");
    ranges.delete_collection(&[("labelSelector", &selector)]).await?;
    count_becomes(&ranges, &selector, 0).await?;
    counts(&everywhere.items_labelled(&both).await?, 1)
}
