//! How a machine becomes a node, as both ends know it: the request and its answer, the join token,
//! TLS that trusts what the token names, and the kubeconfig that comes of it. Who is let in, the API
//! server decides.

mod kubeconfig;
mod pinned;
mod token;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use kubeconfig::Access;
pub use pinned::pinned_client_config;
pub use token::{BadToken, JoinToken, MIN_SECRET_CHARS, new_secret, same_secret};

/// Where machines join.
pub const JOIN_PATH: &str = "/wasmfleet/v1/join";

/// What a machine sends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The name of the Node, or of the simulator.
    pub node: String,
    /// Whether a process joins that stands for simulated nodes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub simulator: bool,
    /// A PKCS #10 request, PEM; only its public key is used.
    pub csr: String,
}

/// What it is given: PEM texts, and what it cannot ask for.
#[derive(Debug, Serialize, Deserialize)]
pub struct JoinResponse {
    /// The client certificate for the user `system:node:<name>`, or `system:simulator:<name>`.
    pub certificate: String,
    pub ca: String,
    /// The ranges of pods' and Services' addresses: where its guests may connect to.
    pub cluster_ranges: Vec<String>,
}

/// SHA-256 of a certificate's DER, in hexadecimal.
pub fn fingerprint(der: &[u8]) -> String {
    hex::encode(Sha256::digest(der))
}
