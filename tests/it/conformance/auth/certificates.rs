//! `auth/certificates.go`: requests as objects; the signer is one that nobody plays.

use anyhow::{Context as _, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::conformance::checks::{annotation, counts, is, is_refused, name};
use crate::conformance::operations::is_discovered;
use crate::conformance::{Case, Context, Patch, case};

pub const CASES: &[Case] =
    &[case!("Certificates API should support CSR API operations", operations)];

const REQUESTS: &str = "certificates.k8s.io/v1/certificatesigningrequests";
const KIND: &str = "CertificateSigningRequest";

fn conditions(request: &Value) -> &[Value] {
    request["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default()
}

async fn operations(context: &Context) -> Result<()> {
    is_discovered(context, REQUESTS, KIND, false, &["approval", "status"]).await?;
    let requests = context.all(REQUESTS);
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(vec!["e2e.example.com".to_string()])?;
    let request = STANDARD.encode(params.serialize_request(&key)?.pem()?);
    let certificate = STANDARD.encode(params.self_signed(&key)?.pem());
    let signer = format!("example.com/e2e-{}", context.namespace);
    let selector = format!("spec.signerName={signer}");
    let query = [("fieldSelector", selector.as_str())];
    let template = json!({"metadata": {"generateName": "e2e-example-csr-"},
        "spec": {"request": request, "signerName": signer, "expirationSeconds": 3600,
            "usages": ["digital signature", "key encipherment", "server auth"]}});
    let mut created = Value::Null;
    for _ in 0..3 {
        created = requests.create(&template).await?;
        context.remove_later(&requests, name(&created));
    }
    let own_name = name(&created);
    let read = requests.get(own_name).await?;
    is(&read["metadata"]["uid"], created["metadata"]["uid"].clone())?;
    is(&read["spec"]["expirationSeconds"], 3600)?;
    let list = requests.list(&query).await?;
    counts(list["items"].as_array().context("no items")?, 3)?;
    let since = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let by_name = format!("metadata.name={own_name}");
    let mut watch =
        requests.watch(&[("resourceVersion", since), ("fieldSelector", &by_name)]).await?;
    let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    let mut patched = requests.patch(own_name, Patch::Merge, &patch).await?;
    is(annotation(&patched, "patched"), "true")?;
    patched["metadata"]["annotations"]["updated"] = "true".into();
    is(annotation(&requests.replace(&patched).await?, "updated"), "true")?;
    while *annotation(&watch.expect("MODIFIED").await?, "patched") != "true" {}
    drop(watch);
    approval_and_status(context, &created, &certificate).await?;

    requests.delete(own_name).await?;
    is_refused(requests.get(own_name).await, &[404])?;
    counts(&requests.items(&query).await?, 2)?;
    requests.delete_collection(&query).await?;
    counts(&requests.items(&query).await?, 0)
}

async fn approval_and_status(context: &Context, created: &Value, certificate: &str) -> Result<()> {
    let requests = context.all(REQUESTS);
    let (approval, status) =
        (format!("{}/approval", name(created)), format!("{}/status", name(created)));
    let is_it = |read: &Value| {
        is(&read["apiVersion"], "certificates.k8s.io/v1")?;
        is(&read["kind"], KIND)?;
        is(&read["metadata"]["uid"], created["metadata"]["uid"].clone())
    };
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "E2E",
            "message": "Set from an e2e test"})
    };
    is_it(&requests.get(&approval).await?)?;
    let patch = json!({"metadata": {"annotations": {"patchedapproval": "true"}},
        "status": {"conditions": [{"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]}});
    let mut patched = requests.patch(&approval, Patch::Merge, &patch).await?;
    counts(conditions(&patched), 1)?;
    is(&conditions(&patched)[0]["type"], "ApprovalPatch")?;
    is(annotation(&patched, "patchedapproval"), "true")?;
    let list = patched["status"]["conditions"].as_array_mut().context("no conditions")?;
    list.push(condition("Approved"));
    let updated = requests.replace_at(&approval, &patched).await?;
    counts(conditions(&updated), 2)?;
    is(&conditions(&updated)[1]["type"], "Approved")?;

    is_it(&requests.get(&status).await?)?;
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"certificate": certificate}});
    let mut patched = requests.patch(&status, Patch::Merge, &patch).await?;
    is(&patched["status"]["certificate"], certificate)?;
    is(annotation(&patched, "patchedstatus"), "true")?;
    let list = patched["status"]["conditions"].as_array_mut().context("no conditions")?;
    list.push(condition("StatusUpdate"));
    let count = list.len();
    let updated = requests.replace_at(&status, &patched).await?;
    counts(conditions(&updated), count)?;
    is(&conditions(&updated)[count - 1]["type"], "StatusUpdate")
}
