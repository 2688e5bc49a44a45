//! The file with which kubectl and every other client reaches the cluster: written for people and
//! nodes, and read again by this program. What else a user's file may say is kube-client's part.

use std::path::Path;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

/// The name of the cluster, context and user in the file.
const NAME: &str = "wasmfleet";

/// Where an API server is, whom to trust there, and who we are: what a file of ours says. All but
/// the URL are PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    pub server: String,
    pub ca: String,
    /// A client certificate and its private key; without one requests say who sends them.
    pub identity: Option<(String, String)>,
}

#[derive(Deserialize)]
struct File {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

impl Access {
    /// A kubeconfig (clientcmd.k8s.io/v1 `Config`) with the certificates inside, as YAML. The caller
    /// writes it to a file that only its owner can read: it holds a private key.
    pub fn to_kubeconfig(&self) -> String {
        let user = self.identity.as_ref().map_or(json!({}), |(certificate, key)| {
            json!({
                "client-certificate-data": STANDARD.encode(certificate),
                "client-key-data": STANDARD.encode(key),
            })
        });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": NAME, "cluster": {
                "server": self.server,
                "certificate-authority-data": STANDARD.encode(&self.ca),
            }}],
            "users": [{"name": NAME, "user": user}],
            "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
            "current-context": NAME,
            "preferences": {},
        });
        // JSON is YAML too: should the YAML writer ever fail, the file still works.
        serde_yaml::to_string(&config).unwrap_or_else(|_| config.to_string())
    }

    /// Reads a file that [`Access::to_kubeconfig`] made: one cluster, one user, all inside.
    ///
    /// # Errors
    /// When the file cannot be read, or is not as we write it.
    pub fn read(path: &Path) -> anyhow::Result<Access> {
        let text = std::fs::read_to_string(path)?;
        Access::parse(&text)
    }

    fn parse(text: &str) -> anyhow::Result<Access> {
        let file: File = serde_yaml::from_str(text).context("it is no kubeconfig of ours")?;
        let (cluster, user) =
            match (file.clusters.into_iter().next(), file.users.into_iter().next()) {
                (Some(cluster), Some(user)) => (cluster.cluster, user.user),
                _ => anyhow::bail!("it names no cluster, or no user"),
            };
        let pem = |what: &str, data: &str| -> anyhow::Result<String> {
            let bytes = STANDARD.decode(data).with_context(|| what.to_string())?;
            String::from_utf8(bytes).with_context(|| what.to_string())
        };
        Ok(Access {
            server: cluster.server,
            ca: pem("certificate-authority-data", &cluster.certificate_authority_data)?,
            identity: Some((
                pem("client-certificate-data", &user.client_certificate_data)?,
                pem("client-key-data", &user.client_key_data)?,
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let access = Access {
            server: "https://127.0.0.1:6443".into(),
            ca: "-----BEGIN CERTIFICATE-----\nA\n".into(),
            identity: Some(("certificate".into(), "key".into())),
        };
        assert!(Access::parse(&access.to_kubeconfig()).unwrap() == access);
    }

    #[test]
    fn a_file_that_is_not_ours_is_told() {
        for text in ["", "a: [", "clusters: []\nusers: []", "clusters: 1\nusers: 2"] {
            assert!(Access::parse(text).is_err(), "{text:?}");
        }
        let bad = "clusters: [{cluster: {server: s, certificate-authority-data: '%'}}]\n\
                   users: [{user: {client-certificate-data: '', client-key-data: ''}}]";
        let error = Access::parse(bad).err().unwrap();
        assert!(error.to_string().contains("certificate-authority-data"), "{error:#}");
    }
}
