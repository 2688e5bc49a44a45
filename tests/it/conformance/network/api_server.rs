//! `network/apiserver.go`.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::conformance::checks::holds;
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] = &[
    case!("API Server should have Endpoints and EndpointSlices pointing to API Server", endpoints),
    case!("API Server should provide secure master service", service),
];

async fn service(context: &Context) -> Result<()> {
    context.within("default", "v1/services").get("kubernetes").await.map(drop)
}

fn each<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

async fn endpoints(context: &Context) -> Result<()> {
    service(context).await?;
    let endpoints = context.within("default", "v1/endpoints").get("kubernetes").await?;
    holds(each(&endpoints, "subsets").next().is_some(), "there is a subset")?;
    let slices = context.within("default", "discovery.k8s.io/v1/endpointslices");
    let slices = slices.items_labelled("kubernetes.io/service-name=kubernetes").await?;
    holds(!slices.is_empty(), "there is an EndpointSlice")?;
    let (mut ips, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for subset in each(&endpoints, "subsets") {
        let addresses = each(subset, "addresses").chain(each(subset, "notReadyAddresses"));
        ips.extend(addresses.map(|address| address["ip"].to_string()));
        ports.extend(each(subset, "ports").map(|port| port["port"].to_string()));
    }
    let (mut slice_ips, mut slice_ports) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices.iter().filter(|slice| slice["addressType"] == "IPv4") {
        let addresses = each(slice, "endpoints").flat_map(|e| each(e, "addresses"));
        slice_ips.extend(addresses.map(Value::to_string));
        slice_ports.extend(each(slice, "ports").map(|port| port["port"].to_string()));
    }
    ensure!(slice_ips == ips && slice_ports == ports, "{slices:?} and {endpoints}");
    Ok(())
}
