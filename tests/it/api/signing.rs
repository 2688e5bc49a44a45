//! Requests for certificates: who asks, who approves, what is signed.

use rcgen::{CertificateParams, DnType, KeyPair};

use super::*;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// A request in the name of a user of a group, as PEM in base64.
fn request(user: &str, group: &str) -> String {
    use base64::Engine;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, group);
    let key = KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    base64::engine::general_purpose::STANDARD.encode(pem)
}

fn csr(name: &str, signer: &str, request: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"request": request, "signerName": signer,
        "usages": ["client auth", "digital signature"], "username": "somebody-else"}})
}

fn condition(type_: &str) -> Value {
    json!({"status": {"conditions": [{"type": type_, "status": "True", "reason": "Test"}]}})
}

async fn cluster() -> (Cluster, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::open(dir.path()).unwrap());
    (Cluster::with_pki(pki).await, dir)
}

#[tokio::test(start_paused = true)]
async fn what_is_approved_for_a_client_is_signed() {
    let (cluster, _dir) = cluster().await;
    let body = csr("a", CLIENT, &request("jane", "developers"));
    let made = cluster.post(REQUESTS, &body).await.expect(201);
    assert_eq!(made["spec"]["username"], "system:test", "nobody asks in another's name");
    assert_eq!(made["spec"]["groups"], json!(["system:masters"]));
    assert_eq!(made["status"], json!({}));
    // Neither approved nor signed by a write of the wrong part.
    let early = cluster.merge(&format!("{REQUESTS}/a/status"), &condition("Approved")).await;
    assert!(early.failure(422).contains("may not add a condition of type"), "{}", early.text());
    let early = json!({"status": {"certificate": "YQ=="}});
    let early = cluster.merge(&format!("{REQUESTS}/a/approval"), &early).await;
    assert!(early.failure(422).contains("may not set certificate content"), "{}", early.text());

    let path = format!("{REQUESTS}/a/approval");
    let approved = cluster.merge(&path, &condition("Approved")).await.expect(200);
    let conditions = &approved["status"]["conditions"];
    assert_eq!(conditions[0]["lastUpdateTime"], "2026-01-01T00:00:00Z");
    assert_eq!(conditions[0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    let certificate = approved["status"]["certificate"].as_str().unwrap();
    use base64::Engine;
    let pem = base64::engine::general_purpose::STANDARD.decode(certificate).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let subject = certificate.subject().to_string();
    assert!(subject.contains("CN=jane") && subject.contains("O=developers"), "{subject}");
    let bad = json!({"status": {"conditions": []}});
    let gone = cluster.merge(&path, &bad).await.failure(422);
    assert!(gone.contains("updates may not remove a condition of type \"Approved\""), "{gone}");
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = cluster.send("GET", REQUESTS, &table, "").await.expect(200);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap().last().unwrap(), "Approved,Issued");
}

#[tokio::test(start_paused = true)]
async fn bad_requests_and_greedy_ones_are_refused() {
    let (cluster, _dir) = cluster().await;
    let message = cluster.post(REQUESTS, &csr("a", CLIENT, "YQ==")).await.failure(422);
    assert!(message.contains("PEM block type must be CERTIFICATE REQUEST"), "{message}");
    let masters = csr("a", CLIENT, &request("jane", "system:masters"));
    let message = cluster.post(REQUESTS, &masters).await.failure(403);
    assert!(message.contains("with system:masters group is not allowed"), "{message}");
    // A kubelet's certificate has a certain subject: what is approved all the same has failed.
    let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
    cluster.post(REQUESTS, &csr("k", kubelet, &request("jane", "developers"))).await.expect(201);
    let path = format!("{REQUESTS}/k/approval");
    let failed = cluster.merge(&path, &condition("Approved")).await.expect(200);
    assert_eq!(failed["status"]["conditions"][1]["type"], "Failed");
    assert_eq!(failed["status"].get("certificate"), None);
}

#[tokio::test(start_paused = true)]
async fn other_signers_wait_for_somebody_who_may_sign() {
    let (cluster, _dir) = cluster().await;
    let signer = "example.com/signer";
    cluster.post(REQUESTS, &csr("a", signer, &request("jane", "developers"))).await.expect(201);
    let found = cluster.get(&format!("{REQUESTS}?fieldSelector=spec.signerName={signer}")).await;
    assert_eq!(names(&found.expect(200)), ["a"]);
    let rules = json!([{"apiGroups": ["certificates.k8s.io"], "verbs": ["*"],
        "resources": ["certificatesigningrequests", "certificatesigningrequests/approval",
            "certificatesigningrequests/status"]}]);
    let role = json!({"metadata": {"name": "r"}, "rules": rules});
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    cluster.post(roles, &role).await.expect(201);
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"kind": "ClusterRole", "name": "r"},
        "subjects": [{"kind": "User", "name": "bob"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    cluster.post(bindings, &binding).await.expect(201);
    let bob = User::new("bob", &["system:authenticated"]);
    let media = [("content-type", "application/merge-patch+json")];
    let patch = async |part: &str, body: Value| {
        let path = format!("{REQUESTS}/a/{part}");
        let response = cluster.open_as(&bob, "PATCH", &path, &media, body.to_string()).await;
        Answer::of(response).await
    };
    let message = patch("approval", condition("Approved")).await.failure(403);
    assert!(message.contains("not permitted to approve requests"), "{message}");
    let more = json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
        "resourceNames": ["example.com/*"], "verbs": ["approve"]}, rules[0]]);
    cluster.merge(&format!("{roles}/r"), &json!({"rules": more})).await.expect(200);
    let approved = patch("approval", condition("Approved")).await.expect(200);
    assert_eq!(approved["status"].get("certificate"), None, "nobody here signs for it");
    let signed = json!({"status": {"certificate": "YQ=="}});
    let message = patch("status", signed).await.failure(403);
    assert!(message.contains("not permitted to sign requests"), "{message}");
}
