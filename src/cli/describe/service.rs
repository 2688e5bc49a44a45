//! Services, with the endpoints that they lead to.

use serde_json::Value;

use super::super::discovery::text;
use super::super::session::Session;
use super::page::{Page, items, number};
use crate::api::Gvr;
use crate::api::jsonpath::plain;
use crate::client::remote::Query;

/// Endpoints shown of one port.
const MAX_ENDPOINTS: usize = 10;

pub async fn describe(session: &Session, page: &mut Page, service: &Value) -> anyhow::Result<()> {
    page.map(0, "Selector", service.pointer("/spec/selector"), "=");
    page.field(0, "Type", text(service, "/spec/type"));
    page.some(0, "External Name", text(service, "/spec/externalName"));
    page.some(0, "IP", text(service, "/spec/clusterIP"));
    let gvr = Gvr::new("discovery.k8s.io", "v1", "endpointslices", true);
    let mut query = Query::default();
    let name = text(service, "/metadata/name");
    query.add("labelSelector", &format!("kubernetes.io/service-name={name}"));
    let namespace = text(service, "/metadata/namespace");
    let slices = session.get_json(&query.on(&gvr.path(Some(namespace), None, None))).await?;
    for port in items(service, "/spec/ports") {
        let (name, protocol) = (text(port, "/name"), text(port, "/protocol"));
        let title = if name.is_empty() { "<unset>" } else { name };
        page.field(0, "Port", format!("{title}  {}/{protocol}", number(port, "/port")));
        let target = port.get("targetPort").map(plain).unwrap_or_default();
        page.field(0, "TargetPort", format!("{target}/{protocol}"));
        page.field(0, "Endpoints", endpoints(&slices, name));
    }
    page.field(0, "Session Affinity", text(service, "/spec/sessionAffinity"));
    Ok(())
}

/// `10.0.0.1:80,10.0.0.2:80`: the ready addresses of a port.
fn endpoints(slices: &Value, port_name: &str) -> String {
    let mut found = Vec::new();
    for slice in items(slices, "/items") {
        let port = items(slice, "/ports").find(|port| text(port, "/name") == port_name);
        let Some(port) = port.map(|port| number(port, "/port")) else { continue };
        for endpoint in items(slice, "/endpoints") {
            let ready = endpoint.pointer("/conditions/ready").and_then(Value::as_bool);
            if ready != Some(false) {
                let addresses = items(endpoint, "/addresses").filter_map(Value::as_str);
                found.extend(addresses.map(|address| format!("{address}:{port}")));
            }
        }
    }
    let more = found.len().saturating_sub(MAX_ENDPOINTS);
    found.truncate(MAX_ENDPOINTS);
    match (found.is_empty(), more) {
        (true, _) => "<none>".into(),
        (false, 0) => found.join(","),
        (false, more) => format!("{} + {more} more...", found.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_ready_endpoints_of_the_port_are_shown() {
        let slices = json!({"items": [{
            "ports": [{"name": "http", "port": 80}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                          {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]}]});
        assert_eq!(endpoints(&slices, "http"), "10.0.0.1:80");
        assert_eq!(endpoints(&slices, "other"), "<none>");
    }
}
