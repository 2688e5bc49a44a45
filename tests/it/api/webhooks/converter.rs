//! A conversion as upstream's test image has it (test/images/agnhost/crd-conversion-webhook): version
//! `v1` has a field `hostPort`, version `v2` has `host` and `port`.

use serde_json::{Value, json};

use super::server::{HookServer, Reply};

pub async fn start() -> HookServer {
    HookServer::start(|_, request| Reply::Converted(converted(request))).await
}

pub fn converted(request: &Value) -> Vec<Value> {
    let version = request["desiredAPIVersion"].as_str().unwrap();
    let objects = request["objects"].as_array().unwrap();
    objects.iter().map(|object| one(object.clone(), version)).collect()
}

fn one(mut object: Value, version: &str) -> Value {
    let fields = object.as_object_mut().unwrap();
    if version.ends_with("/v2") {
        if let Some(Value::String(both)) = fields.remove("hostPort") {
            let (host, port) = both.split_once(':').unwrap_or((&both, ""));
            fields.insert("host".into(), host.into());
            fields.insert("port".into(), port.into());
        }
    } else {
        let mut take = |name: &str| fields.remove(name);
        if let (Some(Value::String(host)), port) = (take("host"), take("port")) {
            let port = port.as_ref().and_then(Value::as_str).unwrap_or_default();
            fields.insert("hostPort".into(), format!("{host}:{port}").into());
        }
    }
    fields.insert("apiVersion".into(), version.into());
    object
}

/// Both versions, as `spec.versions` of a definition; `stored` is the storage version.
pub fn versions(stored: &str) -> Value {
    let version = |name: &str, fields: &[&str]| {
        let properties: Value =
            fields.iter().map(|field| (field.to_string(), json!({"type": "string"}))).collect();
        let selectable: Vec<Value> =
            fields.iter().map(|field| json!({"jsonPath": format!(".{field}")})).collect();
        json!({"name": name, "served": true, "storage": name == stored,
            "selectableFields": selectable,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    };
    json!([version("v1", &["hostPort"]), version("v2", &["host", "port"])])
}

/// `spec.conversion` of a definition.
pub fn conversion(server: &HookServer) -> Value {
    let url = format!("https://127.0.0.1:{}/crdconvert", server.port);
    json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1", "v1beta1"],
        "clientConfig": {"url": url, "caBundle": server.ca_bundle}}})
}
