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

/// A server that has too much to do says so before it does anything, and when to come again: it is
/// asked so often in all.
#[cfg(feature = "cli")]
const BUSY_TRIES: usize = 5;
/// Who is to come again later than this is told so instead.
#[cfg(feature = "cli")]
const BUSY_WAIT: Duration = Duration::from_secs(2);

/// kube-client, set up by a user's kubeconfig.
#[cfg(feature = "cli")]
pub(super) struct Configured(kube::Client);

#[cfg(feature = "cli")]
impl Configured {
    /// # Errors
    /// What the configuration has that cannot be used. Nothing is sent.
    pub(super) fn new(mut config: kube::Config) -> Result<Arc<Configured>, ApiError> {
        // It would ask again for minutes, and tell nobody why: also where a budget lets no pod go,
        // or a node is away.
        config.default_retry = false;
        let client = kube::Client::try_from(config).map_err(|e| super::unreachable_(&e))?;
        Ok(Arc::new(Configured(client)))
    }

    async fn send_once(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<kube::client::Body>, ApiError> {
        let sent = self.0.send(request.map(kube::client::Body::from)).await;
        sent.map_err(|error| super::unreachable_(&error))
    }
}

/// When to ask a server again that had no time for a request. Source of the rule: client-go's
/// rest/with_retry.go, for 429 alone: what else fails is told.
#[cfg(feature = "cli")]
fn busy_for<B>(answer: &Response<B>) -> Option<Duration> {
    if answer.status() != http::StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let seconds = answer.headers().get(http::header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds)).filter(|wait| *wait <= BUSY_WAIT)
}

#[cfg(feature = "cli")]
impl Transport for Configured {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Body>, ApiError>> {
        Box::pin(async move {
            for _ in 1..BUSY_TRIES {
                let answer = self.send_once(request.clone()).await?;
                let Some(wait) = busy_for(&answer) else { return Ok(boxed(answer)) };
                tokio::time::sleep(wait).await;
            }
            self.send_once(request).await.map(boxed)
        })
    }
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use std::sync::Mutex;

    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    /// What a server answers, one after the other: a code and when to come again. Then 200.
    type Script = &'static [(u16, Option<&'static str>)];

    /// The codes that callers see of such a server, and how often it was asked.
    async fn told(script: Script, calls: usize) -> (Vec<u16>, usize) {
        super::super::install_crypto();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(0));
        let count = asked.clone();
        let answer = move |_: Request<hyper::body::Incoming>| {
            let mut asked = count.lock().unwrap();
            let (code, again) = script.get(*asked).copied().unwrap_or((200, None));
            *asked += 1;
            let mut answer = Response::builder().status(code);
            if let Some(again) = again {
                answer = answer.header("retry-after", again);
            }
            std::future::ready(answer.body(Full::new(Bytes::from_static(b"{}"))))
        };
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(answer.clone());
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        let remote = super::super::Remote::new(kube::Config::new(url.parse().unwrap())).unwrap();
        let mut codes = Vec::new();
        for _ in 0..calls {
            let answer = remote.send(http::Method::POST, "/x", &[], "body").await.unwrap();
            codes.push(answer.status.as_u16());
        }
        server.abort();
        let asked = *asked.lock().unwrap();
        (codes, asked)
    }

    #[tokio::test]
    async fn what_a_server_answers_comes_through_at_once() {
        // A node that is away, one that does not answer, a budget that lets no pod go, and one that
        // is not counted yet.
        let script: Script = &[(503, Some("1")), (504, None), (429, None), (429, Some("10"))];
        assert_eq!(told(script, 5).await, (vec![503, 504, 429, 429, 200], 5));
    }

    #[tokio::test]
    async fn a_server_that_is_busy_for_a_moment_is_asked_again_some_times() {
        const BUSY: [(u16, Option<&str>); 9] = [(429, Some("0")); 9];
        assert_eq!(told(&BUSY[..3], 1).await, (vec![200], 4));
        assert_eq!(told(&BUSY, 1).await, (vec![429], BUSY_TRIES));
    }
}
