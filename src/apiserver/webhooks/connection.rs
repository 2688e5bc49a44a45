//! Connections to webhooks: HTTP/1.1 over TLS, kept for the next question, bounded in number, and
//! never through a proxy. A webhook's Service is reached at its ready endpoints.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::admissionregistration::v1::WebhookClientConfig;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::api::{ApiError, Gvr, Raw};
use crate::apiserver::service::{ApiServer, read_error};
use crate::base::causes;
use crate::store::Key;

/// The longest answer: a patch may replace a whole object, in base64.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// Questions that one webhook has at once, and so its connections; others wait in their time.
const MAX_AT_ONCE: usize = 64;
/// Connections that are kept for later, and for how long: shorter than servers keep theirs.
const MAX_IDLE: usize = 8;
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);
/// How much of an answer that is no success is told.
const MAX_TOLD_CHARACTERS: usize = 256;
const HTTPS_PORT: u16 = 443;

const SERVICES: Gvr = Gvr::of::<Service>();

/// Where a webhook is.
enum Target {
    Host {
        host: String,
        port: u16,
    },
    Service {
        namespace: String,
        name: String,
        port: i32,
    },
    /// The configuration cannot be used; why.
    Nowhere(String),
}

/// The way to one webhook.
pub struct Caller {
    target: Target,
    /// The value of `Host`, and what the URL shows.
    authority: String,
    /// Without a query.
    path: String,
    roots: Vec<u8>,
    tls: OnceLock<Result<Arc<ClientConfig>, String>>,
    idle: Mutex<Vec<Idle>>,
    places: Semaphore,
}

struct Idle {
    sender: Sender,
    since: Instant,
}

type Sender = SendRequest<Full<Bytes>>;

/// What sending a question over one connection came to.
enum Sent {
    Answer(Bytes),
    /// The connection was closed before anything was answered.
    Closed,
    Failed(String),
}

impl Caller {
    pub fn of(config: &WebhookClientConfig) -> Caller {
        let roots = config.ca_bundle.clone().map(|bundle| bundle.0).unwrap_or_default();
        let (target, authority, path) = match (&config.service, config.url.as_deref()) {
            (Some(service), _) => {
                let port = service.port.unwrap_or(i32::from(HTTPS_PORT));
                let authority = format!("{}.{}.svc:{port}", service.name, service.namespace);
                let (namespace, name) = (service.namespace.clone(), service.name.clone());
                let path = service.path.clone().filter(|path| !path.is_empty());
                let path = path.unwrap_or_else(|| "/".into());
                (Target::Service { namespace, name, port }, authority, path)
            }
            (None, url) => of_url(url.unwrap_or_default()),
        };
        Caller {
            target,
            authority,
            path,
            roots,
            tls: OnceLock::new(),
            idle: Mutex::default(),
            places: Semaphore::new(MAX_AT_ONCE),
        }
    }

    /// The URL as messages show it.
    pub fn url(&self, timeout_seconds: u64) -> String {
        format!("https://{}{}", self.authority, self.path_and_query(timeout_seconds))
    }

    fn path_and_query(&self, timeout_seconds: u64) -> String {
        format!("{}?timeout={timeout_seconds}s", self.path)
    }

    /// Sends a body and reads the answer's. The caller bounds the time.
    pub async fn post(
        &self,
        server: &ApiServer,
        body: Bytes,
        timeout_seconds: u64,
    ) -> Result<Bytes, String> {
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        let path = self.path_and_query(timeout_seconds);
        // A kept connection may have been closed by the other side: then the next one, and in the
        // end a new one.
        while let Some(sender) = self.kept() {
            match self.send(sender, &path, body.clone()).await {
                Sent::Answer(answer) => return Ok(answer),
                Sent::Closed => {}
                Sent::Failed(why) => return Err(why),
            }
        }
        let sender = self.connect(server).await?;
        match self.send(sender, &path, body).await {
            Sent::Answer(answer) => Ok(answer),
            Sent::Closed => Err("EOF".into()),
            Sent::Failed(why) => Err(why),
        }
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock();
        // The newest last: what is behind an old one is older.
        let Idle { sender, since } = idle.pop()?;
        if since.elapsed() > MAX_IDLE_TIME {
            idle.clear();
            return None;
        }
        Some(sender)
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE && !sender.is_closed() {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    async fn send(&self, mut sender: Sender, path: &str, body: Bytes) -> Sent {
        if sender.ready().await.is_err() {
            return Sent::Closed;
        }
        let request = http::Request::post(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(body));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Sent::Failed(error.to_string()),
        };
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(error) if error.is_canceled() || error.is_incomplete_message() => {
                return Sent::Closed;
            }
            Err(error) => return Sent::Failed(causes::told(&error)),
        };
        let status = response.status();
        let answer = match Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await {
            Ok(answer) => answer.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Sent::Failed(format!("the answer has more than {MAX_ANSWER_BYTES} bytes"));
            }
            Err(error) => return Sent::Failed(error.to_string()),
        };
        self.keep(sender);
        if status.is_success() {
            return Sent::Answer(answer);
        }
        let text: String =
            String::from_utf8_lossy(&answer).trim().chars().take(MAX_TOLD_CHARACTERS).collect();
        Sent::Failed(format!("the webhook answered {status}: {text}"))
    }

    async fn connect(&self, server: &ApiServer) -> Result<Sender, String> {
        let config = self.tls.get_or_init(|| client_config(&self.roots)).clone()?;
        let (name, addresses) = self.addresses(server).await?;
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let tcp = TcpStream::connect(&addresses[..]).await.map_err(|error| {
            let to: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("dial tcp {}: connect: {error}", to.join(", "))
        })?;
        let _ = tcp.set_nodelay(true);
        let tls = TlsConnector::from(config).connect(name, tcp).await;
        let tls = tls.map_err(|error| format!("tls: {error}"))?;
        let handshake = http1::handshake(TokioIo::new(tls)).await;
        let (sender, connection) = handshake.map_err(|error| causes::told(&error))?;
        // It ends when its sender is dropped or the other side closes; its errors are those of the
        // questions that it carries.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// The name in the webhook's certificate, and where it is.
    async fn addresses(&self, server: &ApiServer) -> Result<(String, Vec<SocketAddr>), String> {
        let (name, host, port) = match &self.target {
            Target::Nowhere(why) => return Err(why.clone()),
            Target::Host { host, port } => (host.clone(), host.clone(), *port),
            Target::Service { namespace, name, port } => {
                let server_name = format!("{name}.{namespace}.svc");
                match of_service(server, namespace, name, *port)? {
                    Place::Addresses(addresses) => return Ok((server_name, addresses)),
                    Place::Host(host, port) => (server_name, host, port),
                }
            }
        };
        let found = tokio::net::lookup_host((host.as_str(), port)).await;
        let found = found.map_err(|error| format!("dial tcp: lookup {host}: {error}"))?;
        let addresses: Vec<SocketAddr> = found.collect();
        match addresses.is_empty() {
            true => Err(format!("dial tcp: lookup {host}: no such host")),
            false => Ok((name, addresses)),
        }
    }
}

fn of_url(url: &str) -> (Target, String, String) {
    let uri: http::Uri = match url.parse() {
        Ok(uri) => uri,
        Err(error) => {
            let why = format!("{url:?} is no URL: {error}");
            return (Target::Nowhere(why), url.into(), String::new());
        }
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_string();
    let port = uri.port_u16().unwrap_or(HTTPS_PORT);
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    (Target::Host { host, port }, authority, uri.path().to_string())
}

/// TLS with these roots (PEM), or with those of the machine if there are none.
fn client_config(pem: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if pem.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
    } else {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("caBundle: {error}"))?;
            roots.add(certificate).map_err(|error| format!("caBundle: {error}"))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Where a Service's connections go.
enum Place {
    Addresses(Vec<SocketAddr>),
    Host(String, u16),
}

/// The ready endpoints of a Service's port, in random order.
fn of_service(server: &ApiServer, namespace: &str, name: &str, port: i32) -> Result<Place, String> {
    let stored = service(server, namespace, name).map_err(|error| error.message)?;
    let spec = stored.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let port = u16::try_from(port).unwrap_or(HTTPS_PORT);
        return Ok(Place::Host(spec.external_name.unwrap_or_default(), port));
    }
    let wanted = spec.ports.iter().flatten().find(|one| one.port == port);
    let wanted =
        wanted.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let wanted = wanted.name.as_deref().unwrap_or_default();
    let mut addresses = Vec::new();
    for slice in slices(server, namespace, name).map_err(|error| error.message)? {
        let mut ports = slice.ports.iter().flatten();
        let port = ports.find(|one| one.name.as_deref().unwrap_or_default() == wanted);
        let port = port.and_then(|port| u16::try_from(port.port?).ok());
        let Some(port) = port else { continue };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.as_ref();
            if conditions.and_then(|conditions| conditions.ready) != Some(false) {
                let parsed = endpoint.addresses.iter().filter_map(|ip| ip.parse().ok());
                addresses.extend(parsed.map(|ip| SocketAddr::new(ip, port)));
            }
        }
    }
    if addresses.is_empty() {
        return Err(format!("no endpoints available for service {name:?}"));
    }
    let turn = rand::random_range(0..addresses.len());
    addresses.rotate_left(turn);
    Ok(Place::Addresses(addresses))
}

fn service(server: &ApiServer, namespace: &str, name: &str) -> Result<Service, ApiError> {
    let key = Key::new(&["", "services", namespace, name]);
    let entry = server.store.get(&key).map_err(read_error)?;
    let entry = entry.ok_or_else(|| ApiError::not_found(&SERVICES, name))?;
    Raw(entry.value).decode()
}

/// The slices of a Service: of those in its namespace only the ones that name it are decoded.
fn slices(server: &ApiServer, namespace: &str, name: &str) -> Result<Vec<EndpointSlice>, ApiError> {
    const LABEL: &str = "kubernetes.io/service-name";
    let entries = server.entries_in::<EndpointSlice>(namespace)?;
    let mark = format!("\"{LABEL}\":\"{name}\"");
    let marked = entries
        .into_iter()
        .filter(|entry| entry.value.windows(mark.len()).any(|window| window == mark.as_bytes()));
    let decoded = marked.map(|entry| Raw(entry.value).decode::<EndpointSlice>());
    let of_service = |slice: &EndpointSlice| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(LABEL)).is_some_and(|found| found == name)
    };
    decoded.filter(|slice| slice.as_ref().map_or(true, of_service)).collect()
}
