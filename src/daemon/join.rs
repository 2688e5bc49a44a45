//! How a machine becomes a node: it shows the join token's secret to the server whose CA has the
//! token's fingerprint, and gets a certificate for a key that never leaves it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

use super::data_dir::write_private;
use crate::apiserver::join::{JOIN_PATH, JoinRequest, JoinResponse};
use crate::apiserver::pki::JoinToken;
use crate::apiserver::pki::kubeconfig;
use crate::client::remote::Remote;

/// The kubeconfig of the node itself: with it no token is needed any more.
pub const KUBECONFIG: &str = "node.kubeconfig";

/// Joins as `node` and writes the node's kubeconfig into `dir`.
pub async fn join(server: &str, token: &str, node: &str, dir: &Path) -> anyhow::Result<()> {
    let token: JoinToken = token.parse()?;
    let ca = fetch_ca(server, &token.ca_fingerprint).await?;
    let mut config = kube::Config::new(server.parse().context("--server is no URL")?);
    config.root_cert = Some(vec![ca.to_vec()]);
    let remote = Remote::new(config)?;
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?.pem()?;
    let body = serde_json::to_vec(&JoinRequest { node: node.to_string(), csr })?;
    let authorization = format!("Bearer {}", token.secret);
    let headers = [("authorization", &*authorization), ("content-type", "application/json")];
    let answer = remote.send(http::Method::POST, JOIN_PATH, &headers, body).await?;
    if !answer.status.is_success() {
        let error = crate::api::ApiError::from_response(answer.status.as_u16(), &answer.body);
        if answer.status == http::StatusCode::UNAUTHORIZED {
            bail!("the server does not accept the join token; take the one in its join-token file");
        }
        bail!("the server refused {node}: {error}");
    }
    let joined: JoinResponse = serde_json::from_slice(&answer.body)?;
    let text = kubeconfig(server, &joined.ca, &joined.certificate, &key.serialize_pem());
    write_private(&dir.join(KUBECONFIG), &text).context("writing the node's kubeconfig")
}

/// The CA certificate that the server shows, if it is the one of the token.
async fn fetch_ca(server: &str, fingerprint: &str) -> anyhow::Result<CertificateDer<'static>> {
    let uri: http::Uri = server.parse().context("--server is no URL")?;
    let host = uri.host().context("--server has no host; write https://HOST:PORT")?;
    let port = uri.port_u16().unwrap_or(443);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let seen = Arc::new(Mutex::new(None));
    let verifier =
        Pinned { fingerprint: fingerprint.into(), provider: provider.clone(), seen: seen.clone() };
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let reach = || format!("cannot reach the server at {server}");
    let stream = TcpStream::connect((host, port)).await.with_context(reach)?;
    let name = ServerName::try_from(host.to_string()).context("--server has a bad host")?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.with_context(reach)?;
    let ca = seen.lock().take();
    ca.context("the server showed no certificate")
}

/// Accepts the server whose chain holds the certificate of the token; this connection sends
/// nothing, it only learns the CA.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
    seen: Arc<Mutex<Option<CertificateDer<'static>>>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let same = |der: &&CertificateDer| hex::encode(Sha256::digest(der)) == self.fingerprint;
        let Some(ca) = intermediates.iter().find(same) else {
            let text =
                "the server is not the one of the join token: its CA has another fingerprint";
            return Err(rustls::Error::General(text.into()));
        };
        *self.seen.lock() = Some(ca.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
