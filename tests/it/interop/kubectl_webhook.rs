//! The real kubectl: webhooks and Pod Security as their users see them.

use serde_json::{Value, json};

use crate::api::webhooks::server::{HookServer, Reply};
use crate::cluster::Space;
use crate::cluster::tools::has;

#[test]
fn webhooks_deny_change_and_warn() {
    let Some(space) = Space::with_kubectl("k-webhook") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(HookServer::start(|path, request| {
        let data = &request["object"]["data"];
        match (path, data["secret"].as_str()) {
            ("deny", Some(_)) => Reply::Response(json!({"allowed": false,
                "status": {"code": 403, "reason": "Forbidden", "message": "secrets are no data"}})),
            ("deny", _) => Reply::Response(json!({"allowed": true, "warnings": ["seen"]})),
            _ => Reply::Patch(json!([{"op": "add", "path": "/data/by", "value": "webhook"}])),
        }
    }));
    let configuration = |kind: &str, hook: &str| -> Value {
        let here = json!({"namespaceSelector": {"matchLabels":
            {"kubernetes.io/metadata.name": "k-webhook"}}});
        let mut hook = server.hook(hook, here);
        hook["rules"][0]["operations"] = json!(["CREATE"]);
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": "k-webhook"}, "webhooks": [hook]})
    };
    for (kind, hook) in
        [("MutatingWebhookConfiguration", "change"), ("ValidatingWebhookConfiguration", "deny")]
    {
        let manifest = configuration(kind, hook).to_string();
        space.kubectl_with("apply -f -", &manifest, &[]).ok();
    }
    let told = space.kubectl("create configmap good --from-literal=a=b");
    assert!(told.stderr.contains("Warning: seen"), "{}", told.stderr);
    told.ok();
    space.wait_value("configmap good", ".data.by", "webhook");
    has(
        &space.kubectl("create configmap bad --from-literal=secret=x").fails(),
        &["admission webhook \"deny.example.com\" denied the request: secrets are no data"],
    );
    has(&space.kubectl("get validatingwebhookconfigurations k-webhook").ok(), &["WEBHOOKS"]);
    for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
        space.kubectl(&format!("delete {kind} k-webhook")).ok();
    }
    space.kubectl("create configmap bad --from-literal=secret=x").ok();
}

#[test]
fn a_restricted_namespace_refuses_what_is_not_hardened() {
    let Some(space) = Space::with_kubectl("k-security") else { return };
    space.kubectl("label namespace k-security pod-security.kubernetes.io/enforce=restricted").ok();
    let refused = space.kubectl("run plain --image=hello:v1").fails();
    has(&refused, &["Error from server (Forbidden)", "violates PodSecurity \"restricted:latest\""]);
    let told = space.kubectl("create deployment web --image=hello:v1");
    assert!(told.stderr.contains("would violate PodSecurity"), "{}", told.stderr);
    told.ok();
}
