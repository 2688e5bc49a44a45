//! How a machine becomes a node: it shows the join token's secret to the server whose CA has the
//! token's fingerprint, and gets a certificate for a key that never leaves it.

use std::path::Path;

use anyhow::{Context, bail};
use base64::Engine as _;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

use super::data_dir::write_private;
use crate::client::join::{
    Access, JOIN_PATH, JoinRequest, JoinResponse, JoinToken, fingerprint as fingerprint_of,
    pinned_client_config,
};
use crate::client::remote::Remote;
use crate::runtime::IpRange;

/// The kubeconfig of the node itself: with it no token is needed any more.
pub const KUBECONFIG: &str = "node.kubeconfig";

/// The cluster's ranges of addresses, one a line, as the server told.
const RANGES: &str = "cluster-ranges";

/// Who joins.
#[derive(Clone, Copy)]
pub enum Joiner<'a> {
    Node(&'a str),
    /// A process that stands for simulated nodes.
    Simulator(&'a str),
}

impl<'a> Joiner<'a> {
    pub fn name(self) -> &'a str {
        match self {
            Joiner::Node(name) | Joiner::Simulator(name) => name,
        }
    }
}

/// Joins and writes the kubeconfig and the cluster's ranges into `dir`.
pub async fn join(server: &str, token: &str, who: Joiner<'_>, dir: &Path) -> anyhow::Result<()> {
    let token: JoinToken = token.parse()?;
    let ca = fetch_ca(server, &token.ca_fingerprint).await?;
    let mut access = Access { server: server.to_string(), ca: pem_of(&ca), identity: None };
    let remote = Remote::certified(&access)?;
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?.pem()?;
    let node = who.name();
    let simulator = matches!(who, Joiner::Simulator(_));
    let body = serde_json::to_vec(&JoinRequest { node: node.to_string(), simulator, csr })?;
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
    // The kubeconfig is last: with it the node has joined.
    let ranges = joined.cluster_ranges.join("\n") + "\n";
    write_private(&dir.join(RANGES), &ranges).context("writing the cluster's ranges")?;
    access.ca = joined.ca;
    access.identity = Some((joined.certificate, key.serialize_pem()));
    write_private(&dir.join(KUBECONFIG), &access.to_kubeconfig())
        .context("writing the node's kubeconfig")
}

/// The ranges of addresses of the cluster that was joined into `dir`.
pub fn cluster_ranges(dir: &Path) -> anyhow::Result<Vec<IpRange>> {
    let path = dir.join(RANGES);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let ranges: Result<Vec<IpRange>, _> = text.lines().map(str::parse).collect();
    ranges.with_context(|| path.display().to_string())
}

fn pem_of(certificate: &CertificateDer) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

/// The CA certificate that the server shows, if it is the one of the token.
async fn fetch_ca(server: &str, fingerprint: &str) -> anyhow::Result<CertificateDer<'static>> {
    let uri: http::Uri = server.parse().context("--server is no URL")?;
    let host = uri.host().context("--server has no host; write https://HOST:PORT")?;
    let port = uri.port_u16().unwrap_or(443);
    let config = pinned_client_config(fingerprint)?;
    let reach = || format!("cannot reach the server at {server}");
    let stream = TcpStream::connect((host, port)).await.with_context(reach)?;
    let name = ServerName::try_from(host.to_string()).context("--server has a bad host")?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector.connect(name, stream).await.with_context(reach)?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let same = |der: &&CertificateDer| fingerprint_of(der) == fingerprint;
    let ca = shown.iter().find(same).context("the server showed no CA certificate")?;
    Ok(ca.clone().into_owned())
}
