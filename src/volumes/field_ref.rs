//! The downward API: values of the pod's fields and of its containers' resources, for environment
//! variables and files. Source: core/v1 ObjectFieldSelector, ResourceFieldSelector.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ResourceFieldSelector};

use super::{Context, VolumeError, named_container};
use crate::api::quantity::Quantity;

/// The value of a field path. Whole label and annotation maps are only of use in files.
pub fn field(context: &Context, path: &str) -> Result<String, VolumeError> {
    let meta = &context.pod.metadata;
    let spec = context.pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(text(meta.labels.as_ref().and_then(|map| map.get(key))));
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(text(meta.annotations.as_ref().and_then(|map| map.get(key))));
    }
    Ok(match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => map_text(meta.labels.as_ref()),
        "metadata.annotations" => map_text(meta.annotations.as_ref()),
        "spec.nodeName" => context.node_name.to_string(),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.podIP" | "status.podIPs" => context.pod_ip.to_string(),
        "status.hostIP" | "status.hostIPs" => context.host_ip.to_string(),
        other => {
            return Err(VolumeError::Invalid(format!("field path {other:?} is not supported")));
        }
    })
}

/// The key of `base['key']`.
fn subscript<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(base)?;
    let single = rest.strip_prefix("['").and_then(|rest| rest.strip_suffix("']"));
    single.or_else(|| rest.strip_prefix("[\"").and_then(|rest| rest.strip_suffix("\"]")))
}

/// `key="value"` a line, sorted by key, as upstream formats maps.
fn map_text(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// A resource of a container in units of the divisor, rounded up. `container` is used where the
/// reference names none.
pub fn resource(
    context: &Context,
    container: &str,
    reference: &ResourceFieldSelector,
) -> Result<String, VolumeError> {
    let name = reference.container_name.as_deref().filter(|name| !name.is_empty());
    let name = name.unwrap_or(container);
    let Some(container) = named_container(context.pod, name) else {
        return Err(VolumeError::Invalid(format!("container {name:?} not found")));
    };
    let (side, resource) = reference.resource.split_once('.').unwrap_or_default();
    let nanos_of = |q: &Quantity| i128::from(q.milli());
    let value = match (side, resource) {
        ("limits" | "requests", "cpu" | "memory" | "ephemeral-storage") => {
            amount(context, container, side, resource)?
        }
        _ => {
            let text = format!("resource {:?} is not supported", reference.resource);
            return Err(VolumeError::Invalid(text));
        }
    };
    let divisor = match reference.divisor.as_ref().map(|d| parse(&d.0)).transpose()? {
        Some(divisor) if !divisor.is_zero() => divisor,
        _ => Quantity::from_value(1),
    };
    let (value, divisor) = (nanos_of(&value), nanos_of(&divisor));
    if divisor <= 0 {
        return Err(VolumeError::Invalid("the divisor must be positive".into()));
    }
    Ok(((value + divisor - 1) / divisor).to_string())
}

/// What the container asks for; a missing limit is what the node can give.
fn amount(
    context: &Context,
    container: &Container,
    side: &str,
    resource: &str,
) -> Result<Quantity, VolumeError> {
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let map = if side == "limits" { limits } else { requests };
    match map.and_then(|map| map.get(resource)) {
        Some(quantity) => parse(&quantity.0),
        None if side == "requests" => Ok(Quantity::from_value(0)),
        None if resource == "cpu" => Ok(Quantity::from_milli(context.allocatable.cpu_millicores)),
        None if resource == "memory" => Ok(Quantity::from_value(context.allocatable.memory_bytes)),
        None => Ok(Quantity::from_value(context.allocatable.storage_bytes)),
    }
}

fn parse(text: &str) -> Result<Quantity, VolumeError> {
    Quantity::parse(text).map_err(|e| VolumeError::Invalid(format!("quantity {text:?}: {e}")))
}
