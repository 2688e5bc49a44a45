//! `network/endpoints.go`.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::endpoint_slices::{empty_service, three_services};
use crate::conformance::checks::{is, is_later, is_refused, label, name, namespace};
use crate::conformance::operations::gone;
use crate::conformance::workloads::uid;
use crate::conformance::{Case, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!("Endpoints should test the lifecycle of an Endpoint", lifecycle),
    case!(
        "EndpointsController should create and delete Endpoints for a Service with a selector \
         that matches no pods",
        without_pods
    ),
    case!("EndpointsController should create Endpoints for Pods matching a Service", with_pods),
];

async fn lifecycle(context: &Context) -> Result<()> {
    let (endpoints, everywhere) = (context.own("v1/endpoints"), context.all("v1/endpoints"));
    let selector = "test-endpoint-static=true";
    let mut watch = endpoints.watch_labelled(selector).await?;
    let labels = json!({"test-endpoint-static": "true"});
    let port = json!({"name": "http", "port": 80, "protocol": "TCP"});
    let subset = json!({"addresses": [{"ip": "10.0.0.24"}], "ports": [port]});
    let created = json!({"metadata": {"name": "testservice", "labels": labels},
        "subsets": [subset]});
    let created = endpoints.create(&created).await?;
    let is_labelled = |e: &Value| *label(e, "test-endpoint-static") == "true";
    watch.until("ADDED", is_labelled).await?;
    let is_mine = |e: &Value| name(e) == "testservice" && namespace(e) == context.namespace;
    let found = everywhere.items_labelled(selector).await?;
    let mut found = found.into_iter().find(is_mine).context("not in the list")?;
    found["metadata"]["labels"]["test-service"] = "updated".into();
    endpoints.replace(&found).await?;
    watch.until("MODIFIED", is_labelled).await?;
    is(label(&endpoints.get("testservice").await?, "test-service"), "updated")?;
    let port = json!({"name": "http-test", "port": 8080});
    let subset = json!({"addresses": [{"ip": "10.0.0.25"}], "ports": [port]});
    let patch = json!({"metadata": {"labels": {"test-service": "patched"}}, "subsets": [subset]});
    let patched = endpoints.patch("testservice", Patch::Strategic, &patch).await?;
    is_later(&patched, &created)?;
    watch.until("MODIFIED", is_labelled).await?;
    let read = endpoints.get("testservice").await?;
    is(label(&read, "test-service"), "patched")?;
    let subset = &read["subsets"][0];
    is(&subset["addresses"][0]["ip"], "10.0.0.25")?;
    is(&subset["ports"][0]["name"], "http-test")?;
    is(&subset["ports"][0]["port"], 8080)?;
    endpoints.delete_collection(&[("labelSelector", selector)]).await?;
    watch.until("DELETED", is_labelled).await?;
    is_refused(endpoints.get("testservice").await, &[404]).map(drop)
}

async fn without_pods(context: &Context) -> Result<()> {
    let (services, endpoints) = (context.own("v1/services"), context.own("v1/endpoints"));
    let service = services.create(&empty_service()).await?;
    let name = name(&service);
    eventually("the Endpoints", async || Ok(endpoints.get(name).await.ok())).await?;
    services.delete(name).await?;
    gone(&endpoints, name).await
}

/// A Service's Endpoints: these pods, those of each port in a subset of their own.
pub async fn endpoints_are(context: &Context, service: &str, pods: &[(&Value, u16)]) -> Result<()> {
    let endpoints = context.own("v1/endpoints");
    let port = context.own("v1/services").get(service).await?["spec"]["ports"][0].take();
    let found = eventually(&format!("{} addresses of {service}", pods.len()), async || {
        let Ok(found) = endpoints.get(service).await else { return Ok(None) };
        let subsets = found["subsets"].as_array().cloned().unwrap_or_default();
        let addresses = subsets.iter().filter_map(|subset| subset["addresses"].as_array());
        let addresses: usize = addresses.map(Vec::len).sum();
        Ok((addresses == pods.len()).then_some(subsets))
    })
    .await?;
    is(&found.len().into(), pods.len())?;
    for subset in &found {
        let address = &subset["addresses"][0];
        let wanted = pods.iter().find(|(pod, _)| address["targetRef"]["name"] == name(pod));
        let (pod, number) = wanted.context("an address of no pod")?;
        is(&address["ip"], pod["status"]["podIP"].clone())?;
        is(&address["targetRef"]["kind"], "Pod")?;
        is(&address["targetRef"]["uid"], uid(pod))?;
        is(&subset["ports"], json!([{"name": port["name"], "port": number, "protocol": "TCP"}]))?;
    }
    Ok(())
}

async fn with_pods(context: &Context) -> Result<()> {
    let [one, two] = three_services(context).await?;
    let both = [(&one, 3000), (&two, 3001)];
    endpoints_are(context, "example-int-port", &both[..1]).await?;
    endpoints_are(context, "example-named-port", &both).await?;
    endpoints_are(context, "example-no-match", &[]).await
}
