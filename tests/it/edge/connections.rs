//! The listener over real sockets, and tunnels to nodes.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::client::TlsStream;
use wasmfleet::apiserver::listener::{Limits, serve_with};
use wasmfleet::apiserver::nodes::{TUNNEL_PROTOCOL, Tunnels, accept_tunnel, tunnel_path};
use wasmfleet::apiserver::pki::{Pki, pinned_client_config};
use wasmfleet::apiserver::{Body, User, full};
use wasmfleet::base::tasks::{Stop, Tasks};

pub(super) const LIMIT: Duration = Duration::from_secs(20);

pub(super) struct Served {
    pub address: std::net::SocketAddr,
    pub pki: Pki,
    pub tasks: Tasks,
    _dir: tempfile::TempDir,
}

/// A server on a free port with a handler.
async fn served<F, R>(handler: F) -> Served
where
    F: Fn(Option<User>, Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let limits = Limits { drain_timeout: Duration::from_secs(5), ..Limits::default() };
    served_within(limits, handler).await
}

pub(super) async fn served_within<F, R>(limits: Limits, handler: F) -> Served
where
    F: Fn(Option<User>, Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    Served::start(|listener, tls, stop| serve_with(handler, listener, tls, limits, stop)).await
}

impl Served {
    /// A server on a free port.
    pub async fn start<R: Future<Output = ()> + Send + 'static>(
        serve: impl FnOnce(TcpListener, Arc<rustls::ServerConfig>, Stop) -> R,
    ) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let ips = ["127.0.0.1".parse().unwrap()];
        let tls = pki.server_config(&["localhost".into()], &ips).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::default();
        tasks.spawn_until_done("listener", serve(listener, tls, tasks.stop()));
        Served { address, pki, tasks, _dir: dir }
    }

    pub async fn connect(&self, user: Option<&User>, alpn: &str) -> TlsStream<TcpStream> {
        self.try_connect(user, alpn).await.unwrap()
    }

    pub async fn try_connect(
        &self,
        user: Option<&User>,
        alpn: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut config =
            Arc::unwrap_or_clone(pinned_client_config(&self.pki.ca_fingerprint()).unwrap());
        if let Some(user) = user {
            let (certificate, key) = self.pki.client_certificate(user, 1).unwrap();
            let mut roots = rustls::RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(self.pki.ca_pem().as_bytes()).unwrap())
                .unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap();
        }
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }
}

pub(super) async fn who(user: Option<User>, _request: Request<Incoming>) -> Response<Body> {
    Response::new(full(user.map_or("nobody".into(), |u| u.name)))
}

pub(super) async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(super) fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "127.0.0.1").body(Empty::new()).unwrap()
}

#[tokio::test]
async fn both_protocols_know_the_user() {
    let server = served(who).await;
    let user = User::node("n1");
    let io = TokioIo::new(server.connect(Some(&user), "http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(text(sender.send_request(get("/")).await.unwrap()).await, "system:node:n1");

    let io = TokioIo::new(server.connect(None, "h2").await);
    let executor = TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://127.0.0.1/").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(text(sender.send_request(request).await.unwrap()).await, "nobody");
    assert_eq!(server.tasks.shut_down(LIMIT).await, [""; 0]);
}

#[tokio::test]
async fn a_head_comes_alone() {
    let server = served(who).await;
    let request =
        || Request::head("https://127.0.0.1/").body(Empty::<Bytes>::new()).expect("a request");
    let io = TokioIo::new(server.connect(None, "http/1.1").await);
    let (mut first, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let io = TokioIo::new(server.connect(None, "h2").await);
    let (mut second, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    // A body after a head is an error in HTTP/2; in HTTP/1 the next answer would be garbled.
    for _ in 0..2 {
        let one = first.send_request(request()).await.unwrap();
        let other = second.send_request(request()).await.unwrap();
        for response in [one, other] {
            assert_eq!(response.headers()["content-length"], "6", "nobody");
            assert_eq!(text(response).await, "");
        }
    }
}

#[tokio::test]
async fn a_server_of_another_ca_is_not_trusted() {
    let server = served(who).await;
    let config = pinned_client_config(&"00".repeat(32)).unwrap();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let error = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    // The right CA, a name that its certificate does not have.
    let config = pinned_client_config(&server.pki.ca_fingerprint()).unwrap();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("other.example").unwrap();
    assert!(tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.is_err());
}

#[tokio::test]
async fn a_watch_ends_cleanly_when_the_server_stops() {
    let server = served(|_, _| async {
        let first = futures::stream::once(async {
            Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"event\n")))
        });
        Response::new(BodyExt::boxed(StreamBody::new(first.chain(futures::stream::pending()))))
    })
    .await;
    let io = TokioIo::new(server.connect(None, "http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let mut body = sender.send_request(get("/")).await.unwrap().into_body();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "event\n");
    let (late, rest) =
        tokio::join!(server.tasks.shut_down(LIMIT), tokio::time::timeout(LIMIT, body.frame()));
    assert_eq!(late, [""; 0]);
    assert!(rest.unwrap().is_none(), "the body ends, and not with an error");
}

/// A node's side of a tunnel: answers with its name and the path.
async fn answer(
    name: &'static str,
    request: Request<Incoming>,
) -> hyper::Result<Response<Full<Bytes>>> {
    let path = request.uri().path().to_string();
    let body = request.into_body().collect().await?.to_bytes();
    let text = format!("{name} {path} {}", String::from_utf8_lossy(&body));
    Ok(Response::new(Full::from(text)))
}

fn serve_node(
    name: &'static str,
    io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
) {
    let service = service_fn(move |request| answer(name, request));
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    tokio::spawn(builder.serve_connection(TokioIo::new(io), service));
}

async fn ask(tunnels: &Tunnels, path: &str) -> Result<String, wasmfleet::api::ApiError> {
    let request = Request::post(path).body(Full::from("body")).unwrap();
    Ok(text(tunnels.request("n1", request).await?).await)
}

#[tokio::test]
async fn requests_reach_a_node_over_a_duplex() {
    let tunnels = Tunnels::default();
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    serve_node("old", theirs);
    tunnels.attach("n1", ours);
    assert_eq!(ask(&tunnels, "/logs/x?follow=1").await.unwrap(), "old /logs/x body");
    assert!(tunnels.is_connected("n1") && !tunnels.is_connected("n2"));
    // A newer tunnel takes over at once, whatever becomes of the older.
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    tunnels.attach("n1", ours);
    serve_node("new", theirs);
    while ask(&tunnels, "/").await.unwrap() != "new / body" {
        tokio::task::yield_now().await;
    }
    tunnels.detach("n1");
    assert!(!tunnels.is_connected("n1"));
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_a_little_for_its_node() {
    let tunnels = Tunnels::default();
    let error = ask(&tunnels, "/").await.unwrap_err();
    assert_eq!(error.code, 503);
    assert!(error.message.contains("\"n1\" is not connected"), "{error}");
    let later = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        serve_node("late", theirs);
        tunnels.attach("n1", ours);
    };
    let (answer, ()) = tokio::join!(ask(&tunnels, "/"), later);
    assert_eq!(answer.unwrap(), "late / body");
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_is_noticed() {
    let tunnels = Tunnels::default();
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    // It took part in the handshake and then says nothing any more.
    tunnels.attach("n1", ours);
    let error = ask(&tunnels, "/").await.unwrap_err();
    assert!(matches!(error.code, 502..=504), "{error:?}");
    while tunnels.is_connected("n1") {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    drop(theirs);
}

#[tokio::test]
async fn a_node_dials_out_and_is_reached() {
    let tunnels = Tunnels::default();
    let server = served({
        let tunnels = tunnels.clone();
        move |user, request| {
            let tunnels = tunnels.clone();
            async move {
                let user = user.unwrap_or_else(|| User::new("system:anonymous", &[]));
                accept_tunnel(&tunnels, Duration::from_secs(8), &user, request).unwrap_or_else(
                    |error| {
                        let mut response = Response::new(full(error.to_json()));
                        *response.status_mut() = StatusCode::from_u16(error.code).unwrap();
                        response
                    },
                )
            }
        }
    })
    .await;
    let upgrade = |node: &str| {
        Request::get(tunnel_path(node))
            .header("host", "127.0.0.1")
            .header("connection", "Upgrade")
            .header("upgrade", TUNNEL_PROTOCOL)
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let io = TokioIo::new(server.connect(Some(&User::node("n1")), "http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let refused = sender.send_request(upgrade("n2")).await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    text(refused).await;
    let plain = sender.send_request(get(&tunnel_path("n1"))).await.unwrap();
    assert_eq!(plain.status(), StatusCode::UPGRADE_REQUIRED);
    text(plain).await;
    let response = sender.send_request(upgrade("n1")).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["wasmfleet-node-grace-seconds"], "8");
    let (done, waits) = oneshot::channel();
    tokio::spawn(async move {
        let io = hyper::upgrade::on(response).await.unwrap();
        serve_node("dialled", TokioIo::new(io));
        let _ = done.send(());
    });
    waits.await.unwrap();
    assert_eq!(ask(&tunnels, "/exec").await.unwrap(), "dialled /exec body");
}
