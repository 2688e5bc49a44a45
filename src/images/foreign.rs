//! Other registries than the cluster's own, over HTTPS (OCI distribution-spec, by `oci-client`).
//!
//! A client is made for each pull: its tokens are those of one pod's credentials and must not
//! serve another pod. Registries on this machine (`localhost`, 127.0.0.1) are spoken to without
//! TLS, as every container tool does.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};
use serde::Deserialize;

use super::pull::{PullError, invalid, network};
use super::{MAX_MANIFEST_BYTES, Reference, layout};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The longest silence in the middle of an answer.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// For a manifest, with the authentication before it.
const MANIFEST_LIMIT: Duration = Duration::from_secs(60);
/// For a program.
const BLOB_LIMIT: Duration = Duration::from_secs(600);

/// One registry as one pod sees it.
pub struct Registry {
    client: Client,
    auth: RegistryAuth,
}

impl Registry {
    /// `registry` is host and port; the first of `docker_configs` that names it gives the
    /// credentials.
    pub fn new(registry: &str, docker_configs: &[Bytes]) -> Registry {
        // Fails when one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let config = ClientConfig {
            protocol: if local { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_LIMIT),
            read_timeout: Some(SILENCE_LIMIT),
            // Several Wasm programs in an index have nothing that we could choose by.
            platform_resolver: None,
            ..ClientConfig::default()
        };
        let auth = docker_configs.iter().find_map(|config| credentials(config, registry));
        Registry { client: Client::new(config), auth: auth.unwrap_or(RegistryAuth::Anonymous) }
    }

    /// The manifest's bytes.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn manifest(&self, image: &Reference) -> Result<Bytes, PullError> {
        let target = target(image)?;
        let work = async {
            self.client.auth(&target, &self.auth, RegistryOperation::Pull).await?;
            let accepted = [layout::MANIFEST_TYPE];
            self.client.pull_manifest_raw(&target, &self.auth, &accepted).await
        };
        let (bytes, _) = tokio::time::timeout(MANIFEST_LIMIT, work)
            .await
            .map_err(|_| network(image, "its registry is too slow"))?
            .map_err(|error| of_registry(image, error))?;
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(invalid(image, "its manifest is too large"));
        }
        Ok(bytes)
    }

    /// A blob's bytes, at most `max_bytes`; the caller checks the digest.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn blob(
        &self,
        image: &Reference,
        digest: &str,
        max_bytes: u64,
    ) -> Result<Bytes, PullError> {
        let target = target(image)?;
        let descriptor = OciDescriptor { digest: digest.to_string(), ..OciDescriptor::default() };
        let work = async {
            let mut stream = self
                .client
                .pull_blob_stream(&target, &descriptor)
                .await
                .map_err(|error| of_registry(image, error))?;
            let mut bytes = BytesMut::new();
            while let Some(chunk) = stream.stream.next().await {
                let chunk = chunk.map_err(|error| network(image, error))?;
                if (bytes.len() + chunk.len()) as u64 > max_bytes {
                    let why = format!("its registry sends more than {max_bytes} bytes");
                    return Err(invalid(image, why));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes.freeze())
        };
        let slow = |_| network(image, "its registry is too slow");
        tokio::time::timeout(BLOB_LIMIT, work).await.map_err(slow)?
    }
}

fn target(image: &Reference) -> Result<oci_client::Reference, PullError> {
    image.to_string().parse().map_err(|error| invalid(image, format!("{error}")))
}

fn of_registry(image: &Reference, error: OciDistributionError) -> PullError {
    use OciDistributionError as E;
    let name = image.to_string();
    match &error {
        E::ImageManifestNotFoundError(_) | E::ServerError { code: 404, .. } => {
            PullError::NotFound(name)
        }
        E::RegistryError { envelope, .. } => {
            let codes = || envelope.errors.iter().map(|e| &e.code);
            use OciErrorCode::{Denied, ManifestUnknown, NameUnknown, NotFound, Unauthorized};
            if codes().any(|c| matches!(c, ManifestUnknown | NameUnknown | NotFound)) {
                PullError::NotFound(name)
            } else if codes().any(|c| matches!(c, Denied | Unauthorized)) {
                PullError::Unauthorized { name, why: error.to_string() }
            } else {
                network(image, error)
            }
        }
        E::AuthenticationFailure(_) | E::UnauthorizedError { .. } => {
            PullError::Unauthorized { name, why: error.to_string() }
        }
        E::DigestError(_) | E::ManifestParsingError(_) | E::ManifestEncodingError(_) => {
            invalid(image, error)
        }
        _ => network(image, error),
    }
}

/// The credentials for a registry in a `.dockerconfigjson`; `None` if it names another.
fn credentials(config: &[u8], registry: &str) -> Option<RegistryAuth> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        auths: std::collections::BTreeMap<String, Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        auth: String,
        #[serde(default)]
        username: String,
        #[serde(default)]
        password: String,
    }
    let config: Config = serde_json::from_slice(config).ok()?;
    let host = |key: &str| {
        let key = key.split_once("://").map_or(key, |(_, rest)| rest);
        key.split('/').next().unwrap_or_default().to_string()
    };
    let entry = config.auths.into_iter().find(|(key, _)| host(key) == registry)?.1;
    if !entry.username.is_empty() {
        return Some(RegistryAuth::Basic(entry.username, entry.password));
    }
    let decoded = String::from_utf8(STANDARD.decode(entry.auth).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some(RegistryAuth::Basic(username.into(), password.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_by_host() {
        let config = br#"{"auths":{"https://ghcr.io/v1/":{"auth":"dTpw"},
            "localhost:5000":{"username":"a","password":"b"}}}"#;
        let basic = |u: &str, p: &str| Some(RegistryAuth::Basic(u.into(), p.into()));
        assert_eq!(credentials(config, "ghcr.io"), basic("u", "p"));
        assert_eq!(credentials(config, "localhost:5000"), basic("a", "b"));
        assert_eq!(credentials(config, "docker.io"), None);
        assert_eq!(credentials(b"no json", "ghcr.io"), None);
    }
}
