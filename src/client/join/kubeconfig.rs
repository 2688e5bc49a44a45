//! The file with which kubectl and every other client reaches the cluster.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// The name of the cluster, context and user in the file.
const NAME: &str = "wasmfleet";

/// A kubeconfig (clientcmd.k8s.io/v1 `Config`) with the certificates inside, as YAML. The caller
/// writes it to a file that only its owner can read: it holds a private key.
pub fn kubeconfig(server_url: &str, ca_pem: &str, cert_pem: &str, key_pem: &str) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": {
            "server": server_url,
            "certificate-authority-data": STANDARD.encode(ca_pem),
        }}],
        "users": [{"name": NAME, "user": {
            "client-certificate-data": STANDARD.encode(cert_pem),
            "client-key-data": STANDARD.encode(key_pem),
        }}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
        "preferences": {},
    });
    // JSON is YAML too: should the YAML writer ever fail, the file still works.
    serde_yaml::to_string(&config).unwrap_or_else(|_| config.to_string())
}
