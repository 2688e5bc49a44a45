//! Outgoing `wasi:http` requests of a container: to the cluster, and to allowed hosts.
//!
//! The policy resolves the name and judges every address, so that a `Host` header or a name that
//! points elsewhere opens nothing. One request is one HTTP/1.1 connection; HTTPS trusts the
//! system's certificate authorities, and at the Service of the Kubernetes API the cluster's alone.
//! That Service is reached without the proxy, which may listen on its port only with a privilege.
//! What has come of a response and waits for its guest counts against the container's memory.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, Sleep, timeout};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody,
    WasiHttpHooks,
};

use super::limits::MAX_HTTP_FIELDS_BYTES;
use super::policy::{LookupError, NetworkPolicy, host_of};
use super::socket_count::{SocketAccount, SocketPermit};
use super::store_memory::{Buffer, Share};

/// Time to connect when the guest names none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to the response's head, and between two parts of its body, when the guest names none.
const READ_TIMEOUT: Duration = Duration::from_secs(600);
/// Bytes a guest may hand over at once; the host buffers two such chunks at most.
const BODY_CHUNK_BYTES: usize = 64 << 10;
/// Bytes that are read of a connection at once, and those of a response's head, which must fit.
const READ_BYTES: usize = 2 * MAX_HTTP_FIELDS_BYTES;

/// Where Linux systems keep their certificate authorities.
const CA_FILES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How guests reach the API server by HTTPS.
#[derive(Clone)]
pub struct ApiAccess {
    /// The address of its Service, where guests look for it.
    service: SocketAddr,
    /// Where it listens, as `host:port`.
    server: String,
    config: Arc<rustls::ClientConfig>,
}

impl ApiAccess {
    /// # Errors
    /// When the certificate is none.
    pub fn new(service: SocketAddr, server: &str, ca_pem: &[u8]) -> Result<Self, rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(ca_pem)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        roots.add(ca)?;
        let config = Arc::new(trusting(roots)?);
        Ok(Self { service, server: server.to_owned(), config })
    }
}

/// The TLS configuration of every outgoing connection; the system's authorities are read when the
/// first guest needs them.
#[derive(Clone, Default)]
pub struct Tls {
    system: Arc<OnceLock<Arc<rustls::ClientConfig>>>,
    api: Option<Arc<ApiAccess>>,
}

impl Tls {
    pub fn new(api: Option<ApiAccess>) -> Tls {
        Tls { system: Arc::default(), api: api.map(Arc::new) }
    }

    fn config(&self) -> Result<Arc<rustls::ClientConfig>, Error> {
        if let Some(config) = self.system.get() {
            return Ok(config.clone());
        }
        let config = Arc::new(tls_config()?);
        Ok(self.system.get_or_init(|| config).clone())
    }
}

fn tls_config() -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    let file = CA_FILES.iter().find(|file| Path::new(file).exists());
    if let Some(file) = file
        && let Ok(certificates) = CertificateDer::pem_file_iter(file)
    {
        roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    }
    trusting(roots).map_err(|error| Error::InternalError(Some(error.to_string())))
}

fn trusting(roots: rustls::RootCertStore) -> Result<rustls::ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The hooks of wasmtime-wasi-http: what a container's outgoing requests go through.
#[derive(Clone)]
pub struct OutgoingHttp {
    network: Arc<NetworkPolicy>,
    tls: Tls,
    sockets: Arc<SocketAccount>,
    forbidden: ForbiddenHeaderFilter,
    /// Where what has come is counted; `None`: nowhere, since no guest is behind it.
    share: Option<Arc<Share>>,
}

impl OutgoingHttp {
    pub fn new(network: Arc<NetworkPolicy>, tls: Tls, sockets: Arc<SocketAccount>) -> Self {
        let forbidden = Arc::new(|name: &HeaderName| DEFAULT_FORBIDDEN_HEADERS.contains(name));
        Self { network, tls, sockets, forbidden, share: None }
    }

    /// The same, for the guest of one store.
    pub fn of_store(&self, share: &Arc<Share>) -> Self {
        Self { share: Some(share.clone()), ..self.clone() }
    }
}

type Driver = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(Response<WasiBody>, Driver), Error>;

impl WasiHttpHooks for OutgoingHttp {
    // These three are asked for every request that is served, too: no allocation.
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        self.forbidden.clone()
    }

    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _body_sent: Driver,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let (network, tls, sockets) =
            (self.network.clone(), self.tls.clone(), self.sockets.clone());
        let waiting = self.share.as_ref().map(Buffer::none);
        Box::new(async move {
            let permit = sockets.permit().ok_or(Error::ConnectionLimitReached)?;
            let (response, driver) =
                send(network, tls, permit, request, options.unwrap_or_default()).await?;
            let body = |body| Counted { body, waiting }.boxed_unsync();
            Ok((response.map(body), driver))
        })
    }
}

async fn send(
    network: Arc<NetworkPolicy>,
    tls: Tls,
    permit: SocketPermit,
    mut request: Request<WasiBody>,
    options: RequestOptions,
) -> Sent {
    let authority = request.uri().authority().cloned().ok_or(Error::HttpRequestUriInvalid)?;
    let secure = request.uri().scheme() == Some(&Scheme::HTTPS);
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let host = host_of(authority.as_str()).to_owned();
    let connect_timeout = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT);

    let api = tls.api.as_deref().filter(|_| secure);
    let connected = timeout(connect_timeout, connect(&network, &host, port, api)).await;
    let (stream, api) = connected.map_err(|_| Error::ConnectionTimeout)??;
    // WASI's `host` header is the authority's; a proxy behind it must see no other.
    let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Error::HttpProtocolError)?;
    request.headers_mut().insert(http::header::HOST, value);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| Error::HttpRequestUriInvalid)?;

    let first = options.first_byte_timeout.unwrap_or(READ_TIMEOUT);
    let between = options.between_bytes_timeout.unwrap_or(READ_TIMEOUT);
    if secure {
        let name = ServerName::try_from(host).map_err(|_| Error::HttpRequestUriInvalid)?;
        let config = api.map_or_else(|| tls.config(), |api| Ok(api.config.clone()))?;
        let connector = tokio_rustls::TlsConnector::from(config);
        let stream = timeout(connect_timeout, connector.connect(name, stream))
            .await
            .map_err(|_| Error::ConnectionTimeout)?
            .map_err(Error::Tls)?;
        exchange(TokioIo::new(stream), permit, request, first, between).await
    } else {
        exchange(TokioIo::new(stream), permit, request, first, between).await
    }
}

/// Connects to the first address of a host that answers and that the policy allows. `api` is given
/// back where that is the API's.
async fn connect<'a>(
    network: &NetworkPolicy,
    host: &str,
    port: u16,
    api: Option<&'a ApiAccess>,
) -> Result<(TcpStream, Option<&'a ApiAccess>), Error> {
    let addresses = network.look_up(host, Some(port)).await.map_err(|error| match error {
        LookupError::Denied => Error::HttpRequestDenied,
        LookupError::Invalid => Error::HttpRequestUriInvalid,
        LookupError::NotFound => {
            Error::DnsError { rcode: Some("NXDOMAIN".to_owned()), info_code: None }
        }
    })?;
    // Whatever the name is, the address is judged: a pod's aliases and a Service's endpoints may be any.
    let mut last = Error::DestinationIpProhibited;
    for address in addresses {
        if !network.let_connect(SocketAddr::new(address, port)) {
            continue;
        }
        let to = SocketAddr::new(address, port);
        let api = api.filter(|api| api.service == to);
        let connected = match api {
            Some(api) => connect_to_api(api).await,
            None => connect_to(network, to).await,
        };
        match connected {
            Ok(stream) => return Ok((stream, api)),
            Err(error) => last = Error::Connect(error),
        }
    }
    Err(last)
}

async fn connect_to_api(api: &ApiAccess) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(&api.server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn connect_to(network: &NetworkPolicy, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = if network.is_cluster(to.ip()) && network.pod_ip.is_ipv4() {
        // Inside the cluster the other end sees which pod speaks.
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(network.pod_ip, 0))?;
        socket.connect(to).await?
    } else {
        TcpStream::connect(to).await?
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Aborts a connection's task when nobody waits for it any more.
struct AbortOnDrop(tokio::task::JoinHandle<Result<(), hyper::Error>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn exchange<I>(
    io: I,
    permit: SocketPermit,
    request: Request<WasiBody>,
    first: Duration,
    between: Duration,
) -> Sent
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = hyper::client::conn::http1::Builder::new();
    let (mut sender, connection) = builder.max_buf_size(READ_BYTES).handshake(io).await?;
    let mut driver = AbortOnDrop(tokio::spawn(async move {
        let _permit = permit;
        connection.await
    }));
    let response = timeout(first, sender.send_request(request))
        .await
        .map_err(|_| Error::HttpResponseTimeout)??;
    let body = |inner| TimedBody { inner, between, timer: Box::pin(tokio::time::sleep(between)) };
    let response = response.map(|incoming| body(incoming).boxed_unsync());
    let driver: Driver = Box::new(async move {
        match (&mut driver.0).await {
            Ok(result) => result.map_err(Error::from),
            Err(_) => Err(Error::ConnectionTerminated),
        }
    });
    Ok((response, driver))
}

/// A body whose last frame is counted until its guest wants the next one.
pub struct Counted<B> {
    pub body: B,
    /// `None`: it is nobody's.
    pub waiting: Option<Buffer>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(waiting) = &mut self.waiting {
            let data = match &polled {
                Poll::Ready(Some(Ok(frame))) => frame.data_ref(),
                _ => None,
            };
            // It is read already: the reader's own bound is how much it may be.
            waiting.count(data.map_or(0, Bytes::len) as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body that ends with an error when the other end falls silent.
struct TimedBody {
    inner: Incoming,
    between: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                let next = Instant::now() + this.between;
                this.timer.as_mut().reset(next);
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => {
                ready!(this.timer.as_mut().poll(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http_body_util::{BodyExt, Empty};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::runtime::Names;
    use crate::runtime::policy::IpRange;

    struct Shop(IpAddr);

    impl Names for Shop {
        fn resolve(&self, _: &str, name: &str) -> Option<Vec<IpAddr>> {
            match name {
                "shop" => Some(vec![self.0]),
                "alias" => Some(vec![[127, 0, 0, 1].into()]),
                _ => None,
            }
        }
    }

    /// An address of the pods' range that other processes running this test do not use.
    fn address(last: u8) -> IpAddr {
        let pid = std::process::id();
        IpAddr::from([127, 110, (pid % 251) as u8, last])
    }

    fn get(uri: &str) -> Request<WasiBody> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        Request::get(uri).header("host", "liar.example").body(body).expect("a request")
    }

    #[tokio::test]
    async fn requests_go_to_services_and_nowhere_else() {
        let listener = TcpListener::bind((address(2), 0)).await.expect("listens");
        let port = listener.local_addr().expect("an address").port();
        let server = tokio::spawn(async move {
            let (mut stream, peer) = listener.accept().await.expect("a connection");
            let mut head = vec![0; 1024];
            let count = stream.read(&mut head).await.expect("reads");
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes";
            stream.write_all(answer).await.expect("writes");
            (String::from_utf8_lossy(&head[..count]).into_owned(), peer)
        });
        let names = Arc::new(Shop(address(2)));
        let cluster = Arc::new([IpRange::ALL_PODS]);
        let network = NetworkPolicy::new(address(1), cluster, "default".to_owned(), names, &[]);
        let (network, sockets) = (Arc::new(network), SocketAccount::new(2));
        let mut outgoing = OutgoingHttp::new(network.clone(), Tls::default(), sockets.clone());
        let mut send = |uri: &str| {
            let done: Driver = Box::new(std::future::ready(Ok(())));
            Box::into_pin(outgoing.send_request(get(uri), None, done))
        };
        let sent = send(&format!("http://shop:{port}/price?of=tea")).await;
        let (response, driver) = sent.map_err(|error| error.to_string()).expect("an answer");
        let body = response.into_body().collect().await.map_err(|error| error.to_string());
        assert_eq!(body.expect("whole").to_bytes(), "yes");
        drop(driver);
        let (head, peer) = server.await.expect("served");
        assert!(head.starts_with("GET /price?of=tea HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: shop:{port}\r\n")), "{head}");
        assert!(!head.contains("liar"), "the host header is the authority's: {head}");
        assert_eq!(peer.ip(), address(1), "it comes from the pod");

        let refused = |result: Sent| result.err().expect("refused");
        // The host listens there, and the pod does not.
        let host = TcpListener::bind(("127.0.0.1", 0)).await.expect("listens");
        let at = host.local_addr().expect("an address").port();
        for own in ["127.0.0.1", "localhost", "[::1]", "alias"] {
            let own = refused(send(&format!("http://{own}:{at}/")).await);
            assert!(matches!(own, Error::Connect(_)), "{own:?}");
        }
        for closed in ["127.129.0.1", "169.254.169.254", "0.0.0.0"] {
            let closed = refused(send(&format!("http://{closed}:{port}/")).await);
            assert!(matches!(closed, Error::DestinationIpProhibited), "{closed:?}");
        }
        let world = refused(send("https://example.com/").await);
        assert!(matches!(world, Error::HttpRequestDenied), "{world:?}");
        assert_eq!(network.denials.count(), 4);
        let _others: Vec<_> = std::iter::from_fn(|| sockets.permit()).collect();
        let many = refused(send(&format!("http://shop:{port}/")).await);
        assert!(matches!(many, Error::ConnectionLimitReached), "{many:?}");
    }

    #[test]
    fn tls_is_configured_from_the_system() {
        assert!(Tls::default().config().is_ok());
    }
}
