//! `network/ingress.go` and `network/ingressclass.go`.

use anyhow::Result;
use serde_json::json;

use crate::conformance::operations::{self, Status, Subject};
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] = &[
    case!("Ingress API should support creating Ingress API operations", ingresses),
    case!("IngressClass API should support creating IngressClass API operations", classes),
];

async fn ingresses(context: &Context) -> Result<()> {
    let backend = |name: &str| json!({"service": {"name": name, "port": {"number": 8080}}});
    let path = json!({"path": "/", "pathType": "ImplementationSpecific",
        "backend": backend("test-backend")});
    let rule = json!({"host": "host1.bar.com", "http": {"paths": [path]}});
    let spec = json!({"defaultBackend": backend("default-backend"), "rules": [rule]});
    let status = |ip: &str| json!({"loadBalancer": {"ingress": [{"ip": ip}]}});
    let subject = Subject {
        resource: "networking.k8s.io/v1/ingresses",
        kind: "Ingress",
        namespaced: true,
        subresources: &["status"],
        object: json!({"spec": spec}),
        patch: json!({}),
        update: json!({}),
        status: Some(Status { patch: status("169.1.1.1"), update: status("169.1.1.2") }),
    };
    operations::run(context, &subject).await
}

async fn classes(context: &Context) -> Result<()> {
    let subject = Subject {
        resource: "networking.k8s.io/v1/ingressclasses",
        kind: "IngressClass",
        namespaced: false,
        subresources: &[],
        object: json!({"spec": {"controller": "example.com/controller"}}),
        patch: json!({}),
        update: json!({}),
        status: None,
    };
    operations::run(context, &subject).await
}
