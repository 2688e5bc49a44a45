//! `network/endpointslice.go` and `network/endpointslicemirroring.go`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::conformance::checks::{count_becomes, counts, is, label};
use crate::conformance::operations::{self, Subject};
use crate::conformance::{Case, Collection, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "EndpointSlice should create and delete EndpointSlices for a Service with a selector that \
         matches no pods",
        without_pods
    ),
    case!("EndpointSlice should support creating EndpointSlice API operations", api_operations),
    case!(
        "EndpointSliceMirroring should mirror a custom Endpoints resource through create update \
         and delete",
        mirroring
    ),
];

const SLICES: &str = "discovery.k8s.io/v1/endpointslices";

/// A Service that no pod matches.
pub fn empty_service() -> Value {
    let selector = json!({"does-not-match-anything":
        "endpoints-and-endpoint-slices-should-still-be-created"});
    let port = json!({"name": "example", "port": 80, "protocol": "TCP"});
    json!({"metadata": {"name": "example-empty-selector"},
        "spec": {"selector": selector, "ports": [port]}})
}

async fn without_pods(context: &Context) -> Result<()> {
    let (services, slices) = (context.own("v1/services"), context.own(SLICES));
    services.create(&empty_service()).await?;
    let selector = "kubernetes.io/service-name=example-empty-selector";
    let slice = eventually("an EndpointSlice", async || {
        Ok(slices.items_labelled(selector).await?.into_iter().next())
    })
    .await?;
    let manager = label(&slice, "endpointslice.kubernetes.io/managed-by");
    is(manager, "endpointslice-controller.k8s.io")?;
    counts(slice["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default(), 0)?;
    services.delete("example-empty-selector").await?;
    count_becomes(&slices, selector, 0).await
}

async fn api_operations(context: &Context) -> Result<()> {
    let subject = Subject {
        resource: SLICES,
        kind: "EndpointSlice",
        namespaced: true,
        subresources: &[],
        object: json!({"addressType": "IPv4", "endpoints": [
            {"addresses": ["1.2.3.4", "5.6.7.8"]}, {"addresses": ["2.2.3.4", "6.6.7.8"]}]}),
        patch: json!({}),
        update: json!({}),
        status: None,
    };
    operations::run(context, &subject).await
}

/// Every slice of the Service has this one address and port 80.
async fn mirror(slices: &Collection, address: &str) -> Result<()> {
    let selector = "kubernetes.io/service-name=example-custom-endpoints";
    eventually(&format!("a slice with {address}"), async || {
        let found = slices.items_labelled(selector).await?;
        let [slice] = &found[..] else { return Ok(None) };
        let is_right = slice["ports"].as_array().is_some_and(|ports| ports.len() == 1)
            && slice["ports"][0]["port"] == 80
            && slice["endpoints"].as_array().is_some_and(|endpoints| endpoints.len() == 1)
            && slice["endpoints"][0]["addresses"] == json!([address]);
        Ok(is_right.then_some(()))
    })
    .await
}

async fn mirroring(context: &Context) -> Result<()> {
    let (endpoints, slices) = (context.own("v1/endpoints"), context.own(SLICES));
    let port = json!({"name": "example", "port": 80, "protocol": "TCP"});
    let service = json!({"metadata": {"name": "example-custom-endpoints"},
        "spec": {"ports": [port]}});
    context.own("v1/services").create(&service).await?;
    let of = |ip: &str| {
        json!({"metadata": {"name": "example-custom-endpoints"},
            "subsets": [{"ports": [{"port": 80}], "addresses": [{"ip": ip}]}]})
    };
    endpoints.create(&of("10.1.2.3")).await?;
    mirror(&slices, "10.1.2.3").await?;
    let updated = endpoints.replace(&of("10.2.3.4")).await?;
    ensure!(updated["subsets"][0]["addresses"][0]["ip"] == "10.2.3.4", "{updated}");
    mirror(&slices, "10.2.3.4").await?;
    endpoints.delete("example-custom-endpoints").await?;
    count_becomes(&slices, "kubernetes.io/service-name=example-custom-endpoints", 0).await
}
