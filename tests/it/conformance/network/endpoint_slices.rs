//! `network/endpointslice.go` and `network/endpointslicemirroring.go`.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::endpoints::endpoints_are;
use crate::conformance::checks::{count_becomes, counts, is, label, name};
use crate::conformance::operations::{self, Subject};
use crate::conformance::workloads::{HTTPD, becomes, uid};
use crate::conformance::{Case, Collection, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "EndpointSlice should create and delete EndpointSlices for a Service with a selector that \
         matches no pods",
        without_pods
    ),
    case!(
        "EndpointSlice should create Endpoints and EndpointSlices for Pods matching a Service",
        with_pods
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

/// Two pods whose ports of one name differ, and a Service for one of them, for both by that name, and
/// for none; the pods, running.
pub async fn three_services(context: &Context) -> Result<[Value; 2]> {
    let (pods, services) = (context.own("v1/pods"), context.own("v1/services"));
    for (name, ports) in [
        ("pod1", json!([{"name": "example-name", "containerPort": 3000}])),
        (
            "pod2",
            json!([{"name": "example-name", "containerPort": 3001},
                {"name": "other-port", "containerPort": 3002}]),
        ),
    ] {
        let container = json!({"name": "container1", "image": HTTPD, "ports": ports});
        let labels = json!({name: "on", "shared12": "on"});
        let pod = json!({"metadata": {"name": name, "labels": labels},
            "spec": {"containers": [container]}});
        pods.create(&pod).await?;
    }
    for (name, label, port) in [
        ("example-int-port", "pod1", json!({"name": "example", "targetPort": 3000})),
        ("example-named-port", "shared12", json!({"name": "http", "targetPort": "example-name"})),
        ("example-no-match", "pod3", json!({"name": "example-no-match", "targetPort": 8080})),
    ] {
        let mut port = port;
        port["port"] = 80.into();
        let spec = json!({"selector": {label: "on"}, "publishNotReadyAddresses": true,
            "ports": [port]});
        services.create(&json!({"metadata": {"name": name}, "spec": spec})).await?;
    }
    let has_address = |pod: &Value| pod["status"]["podIP"].is_string();
    Ok([
        becomes(&pods, "pod1", "with an address", has_address).await?,
        becomes(&pods, "pod2", "with an address", has_address).await?,
    ])
}

/// A Service's slices: so many of them, and in them these pods with these ports.
async fn slices_are(
    context: &Context,
    service: &str,
    pods: &[(&Value, u16)],
    count: usize,
) -> Result<()> {
    let selector = format!("kubernetes.io/service-name={service}");
    let port_name = context.own("v1/services").get(service).await?["spec"]["ports"][0].take();
    let found = eventually(&format!("{count} slices of {service}"), async || {
        let found = context.own(SLICES).items_labelled(&selector).await?;
        let endpoints = found.iter().filter_map(|slice| slice["endpoints"].as_array());
        let endpoints: usize = endpoints.map(Vec::len).sum();
        Ok((found.len() == count && endpoints == pods.len()).then_some(found))
    })
    .await?;
    for slice in &found {
        is(
            label(slice, "endpointslice.kubernetes.io/managed-by"),
            "endpointslice-controller.k8s.io",
        )?;
        is(&slice["addressType"], "IPv4")?;
        let owners = &slice["metadata"]["ownerReferences"];
        is(&owners[0]["kind"], "Service")?;
        is(&owners[0]["name"], service)?;
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let wanted = pods.iter().find(|(pod, _)| endpoint["targetRef"]["name"] == name(pod));
            let (pod, port) = wanted.context("an endpoint of no pod")?;
            is(&endpoint["targetRef"]["kind"], "Pod")?;
            is(&endpoint["targetRef"]["uid"], uid(pod))?;
            is(&endpoint["addresses"], json!([pod["status"]["podIP"]]))?;
            is(&slice["ports"][0]["name"], port_name["name"].clone())?;
            is(&slice["ports"][0]["port"], *port)?;
            is(&slice["ports"][0]["protocol"], "TCP")?;
        }
    }
    Ok(())
}

async fn with_pods(context: &Context) -> Result<()> {
    let [one, two] = three_services(context).await?;
    let both = [(&one, 3000), (&two, 3001)];
    let all = async || {
        slices_are(context, "example-int-port", &both[..1], 1).await?;
        slices_are(context, "example-named-port", &both, 2).await?;
        slices_are(context, "example-no-match", &[], 1).await?;
        endpoints_are(context, "example-int-port", &both[..1]).await?;
        endpoints_are(context, "example-named-port", &both).await?;
        endpoints_are(context, "example-no-match", &[]).await
    };
    all().await?;
    let selector = "kubernetes.io/service-name=example-named-port";
    context.own(SLICES).delete_collection(&[("labelSelector", selector)]).await?;
    all().await
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
