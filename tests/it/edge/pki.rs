//! The authority over restarts, what it signs, and the kubeconfig.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use crate::api::Cluster;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use wasmfleet::apiserver::pki::{Access, JoinToken, Pki, PkiError};
use wasmfleet::apiserver::{User, authn, join};

fn user_of(pem: &str) -> User {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a PEM certificate");
    authn::from_certificate(&der).expect("a user")
}

/// A request that claims to come from the cluster's master.
fn csr_of_an_impostor() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["evil.example".to_string()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    params.serialize_request(&key).unwrap().pem().unwrap()
}

#[test]
fn the_ca_and_the_join_secret_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("pki");
    let first = Pki::open(&home).unwrap();
    let second = Pki::open(&home).unwrap();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_eq!(first.join_token(), second.join_token());
    assert_ne!(first.ca_pem(), Pki::open(&dir.path().join("other")).unwrap().ca_pem());
    for file in ["ca.key", "join.secret", "service-account.key"] {
        let mode = std::fs::metadata(home.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let token: JoinToken = first.join_token().to_string().parse().unwrap();
    assert_eq!(token.ca_fingerprint, first.ca_fingerprint());
    assert!(second.accepts_join_secret(&token.secret));
    assert!(!second.accepts_join_secret(&token.secret[1..]));
}

#[test]
fn a_half_lost_authority_is_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    Pki::open(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    assert!(matches!(Pki::open(dir.path()), Err(PkiError::HalfLost(..))));
    // The key of another CA does not fit.
    let other = tempfile::tempdir().unwrap();
    Pki::open(other.path()).unwrap();
    std::fs::copy(other.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
    assert!(matches!(Pki::open(dir.path()), Err(PkiError::Unreadable { .. })));
}

#[test]
fn certificates_carry_users() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let admin = User::new("admin", &["system:masters", "ops"]);
    let (certificate, key) = pki.client_certificate(&admin, 1).unwrap();
    assert!(key.contains("PRIVATE KEY"));
    let expected = User::new("admin", &["system:masters", "ops", "system:authenticated"]);
    assert_eq!(user_of(&certificate), expected);
    let many = User::new("x", &["a", "b", "c"]);
    assert!(matches!(pki.client_certificate(&many, 1), Err(PkiError::TooManyGroups)));
}

#[test]
fn a_signed_request_takes_its_subject_from_the_user() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let signed = pki.sign_csr(&csr_of_an_impostor(), &User::node("n1")).unwrap();
    assert_eq!(user_of(&signed), User::node("n1"));
    assert!(matches!(pki.sign_csr("no PEM", &User::node("n1")), Err(PkiError::BadRequest(_))));
    let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    assert!(!certificate.is_ca());
}

#[test]
fn kubectl_can_read_the_kubeconfig() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let (certificate, key) = pki.client_certificate(&User::system("admin"), 1).unwrap();
    let access = Access {
        server: "https://127.0.0.1:6443".into(),
        ca: pki.ca_pem().into(),
        identity: Some((certificate, key)),
    };
    let config = kube::config::Kubeconfig::from_yaml(&access.to_kubeconfig()).unwrap();
    assert_eq!(config.current_context.as_deref(), Some("wasmfleet"));
    let cluster = config.clusters[0].cluster.as_ref().unwrap();
    assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:6443"));
    let user = config.auth_infos[0].auth_info.as_ref().unwrap();
    assert!(user.client_certificate_data.is_some() && user.client_key_data.is_some());
}

async fn join(cluster: &Cluster, secret: &str, body: String) -> (StatusCode, serde_json::Value) {
    let request = Request::post(join::JOIN_PATH)
        .header("authorization", format!("Bearer {secret}"))
        .body(Full::<bytes::Bytes>::from(body))
        .unwrap();
    let response = join::respond(&cluster.server, request).await;
    let code = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn machines_join_with_the_secret_only() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::open(dir.path()).unwrap());
    let cluster = Cluster::with_pki(pki.clone()).await;
    let secret = pki.join_token().secret;
    let csr = csr_of_an_impostor();
    let body = |node: &str| serde_json::json!({"node": node, "csr": csr}).to_string();
    let (code, answer) = join(&cluster, &secret, body("n1")).await;
    assert_eq!(code, StatusCode::CREATED);
    assert_eq!(answer["ca"], pki.ca_pem());
    assert!(answer["cluster_ranges"].is_array(), "{answer}");
    assert_eq!(user_of(answer["certificate"].as_str().unwrap()), User::node("n1"));
    let (code, answer) = join(&cluster, "wrong", body("n1")).await;
    assert_eq!((code, &answer["reason"]), (StatusCode::UNAUTHORIZED, &"Unauthorized".into()));
    // Names of simulated nodes are no machine's, and others no simulator's.
    let simulator =
        |name: &str| serde_json::json!({"node": name, "csr": csr, "simulator": true}).to_string();
    let (code, answer) = join(&cluster, &secret, simulator("sim-west")).await;
    assert_eq!(code, StatusCode::CREATED);
    let user = user_of(answer["certificate"].as_str().unwrap());
    assert_eq!(user, User::simulator("sim-west"));
    for name in ["n1", "", "sim-", "sim-West"] {
        let (code, _) = join(&cluster, &secret, simulator(name)).await;
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{name:?}");
    }
    let names = ["", "N1", "a/b", "-a", "a..b", "x\ny", "sim", "sim-0", &"a".repeat(64)];
    for name in names {
        let (code, answer) = join(&cluster, &secret, body(name)).await;
        assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY, "{name:?}");
        assert_eq!(answer["details"]["causes"][0]["field"], "node");
    }
    let (code, _) = join(&cluster, &secret, "{}".into()).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    let (code, _) = join(&cluster, &secret, "x".repeat(1 << 20)).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    // A node that exists is no other machine's, until it is deleted.
    cluster
        .post("/api/v1/nodes", &serde_json::json!({"metadata": {"name": "n1"}}))
        .await
        .expect(201);
    let (code, answer) = join(&cluster, &secret, body("n1")).await;
    assert_eq!((code, &answer["reason"]), (StatusCode::CONFLICT, &"AlreadyExists".into()));
    cluster.delete("/api/v1/nodes/n1", &serde_json::json!({})).await.expect(200);
    let (code, _) = join(&cluster, &secret, body("n1")).await;
    assert_eq!(code, StatusCode::CREATED);
}
