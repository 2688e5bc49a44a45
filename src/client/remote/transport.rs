//! How requests get to a server: with a certificate of the cluster's, which is all that nodes have
//! and all that is written for people; or through kube-client, with whatever a user's kubeconfig
//! may say (programs that give tokens, files, a name for TLS).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, Uri, uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::api::ApiError;
use crate::client::join::Access;

/// The time for a connection, TLS aside.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection is kept without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// An answer's body, as it comes.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// What went wrong in the middle of a body.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct BodyError(Box<dyn std::error::Error + Send + Sync>);

/// Sends requests, each of which names a path.
pub(super) trait Transport: Send + Sync {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Body>, ApiError>>;
}

fn boxed<B>(response: Response<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    response.map(|body| body.map_err(|error| BodyError(error.into())).boxed_unsync())
}

type Https = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// TLS with the cluster's CA and a certificate of its own.
pub(super) struct Certified {
    https: Https,
    base: Uri,
}

impl Certified {
    /// # Errors
    /// Those of the URL and of the PEM texts. Nothing is sent.
    pub(super) fn new(access: &Access) -> Result<Arc<Certified>, ApiError> {
        let base: Uri = access.server.parse().map_err(|_| bad("the server is no URL"))?;
        if base.scheme() != Some(&uri::Scheme::HTTPS) || base.host().is_none() {
            return Err(bad("the server is no URL; write https://HOST:PORT"));
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(access)?)
            .https_only()
            .enable_http1()
            .wrap_connector(connector);
        let https = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Arc::new(Certified { https, base }))
    }
}

fn tls(access: &Access) -> Result<ClientConfig, ApiError> {
    let chain = |pem: &str, what: &str| {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        read.map_err(|error| bad(&format!("{what}: {error}")))
    };
    let mut roots = RootCertStore::empty();
    for ca in chain(&access.ca, "the cluster's CA")? {
        roots.add(ca).map_err(|error| bad(&format!("the cluster's CA: {error}")))?;
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let Some((certificate, key)) = &access.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| bad(&format!("the private key: {error}")))?;
    builder
        .with_client_auth_cert(chain(certificate, "the client certificate")?, key)
        .map_err(|error| bad(&format!("the client certificate: {error}")))
}

fn bad(what: &str) -> ApiError {
    ApiError::bad_request(what.to_string())
}

impl Transport for Certified {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Body>, ApiError>> {
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            let mut uri = self.base.clone().into_parts();
            uri.path_and_query = parts.uri.into_parts().path_and_query;
            parts.uri = Uri::from_parts(uri).map_err(|error| bad(&error.to_string()))?;
            let sent = self.https.request(Request::from_parts(parts, Full::new(body))).await;
            sent.map(boxed).map_err(|error| super::unreachable_(&error))
        })
    }
}

/// kube-client, set up by a user's kubeconfig.
#[cfg(feature = "cli")]
pub(super) struct Configured(kube::Client);

#[cfg(feature = "cli")]
impl Configured {
    /// # Errors
    /// What the configuration has that cannot be used. Nothing is sent.
    pub(super) fn new(config: kube::Config) -> Result<Arc<Configured>, ApiError> {
        let client = kube::Client::try_from(config).map_err(|e| super::unreachable_(&e))?;
        Ok(Arc::new(Configured(client)))
    }
}

#[cfg(feature = "cli")]
impl Transport for Configured {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Body>, ApiError>> {
        let request = request.map(kube::client::Body::from);
        Box::pin(async move {
            let sent = self.0.send(request).await;
            sent.map(boxed).map_err(|error| super::unreachable_(&error))
        })
    }
}
