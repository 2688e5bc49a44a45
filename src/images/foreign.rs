//! Other registries than the cluster's own, over HTTPS (OCI distribution-spec, by `oci-client`).
//!
//! A client is made for each pull: its tokens are those of one pod's credentials and must not
//! serve another pod.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};

use super::pull::{PullError, invalid, network};
use super::registries::{Candidate, Settings};
use super::{MAX_MANIFEST_BYTES, Reference, credentials, layout};

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
    /// The registry of a candidate, with what [`auth`] found.
    pub fn new(candidate: &Candidate, settings: Settings, auth: RegistryAuth) -> Registry {
        // Fails when one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = settings.ca.map(|data| Certificate { encoding: CertificateEncoding::Pem, data });
        let config = ClientConfig {
            protocol: if candidate.plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_LIMIT),
            read_timeout: Some(SILENCE_LIMIT),
            accept_invalid_certificates: settings.insecure,
            extra_root_certificates: ca.into_iter().collect(),
            ..ClientConfig::default()
        };
        Registry { client: Client::new(config), auth }
    }

    /// The manifest's bytes.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn manifest(&self, image: &Reference) -> Result<Bytes, PullError> {
        let target = target(image)?;
        let work = async {
            self.client.auth(&target, &self.auth, RegistryOperation::Pull).await?;
            self.client.pull_manifest_raw(&target, &self.auth, layout::MANIFEST_TYPES).await
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
            let auth = self.client.auth(&target, &self.auth, RegistryOperation::Pull);
            auth.await.map_err(|error| of_registry(image, error))?;
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

/// The credentials for an image: a pod's own come before those of the settings.
pub fn auth(image: &Reference, settings: &Settings, docker_configs: &[Bytes]) -> RegistryAuth {
    credentials::find(docker_configs, image)
        .or_else(|| settings.credentials.as_ref()?.auth())
        .unwrap_or(RegistryAuth::Anonymous)
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
