//! `network/endpointslice.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{count_becomes, counts, is, label};
use crate::conformance::operations::{self, Subject};
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "EndpointSlice should create and delete EndpointSlices for a Service with a selector that \
         matches no pods",
        without_pods
    ),
    case!("EndpointSlice should support creating EndpointSlice API operations", api_operations),
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
