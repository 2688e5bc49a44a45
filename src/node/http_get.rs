//! The GET that probes and lifecycle hooks send to a pod: where it goes, and what came of it. It
//! goes to the pod's own address alone (`api/kinds/pod_field_rows.rs` refuses other hosts), follows
//! no redirect, and no task outlives it.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

/// An answer is read up to this size, so that the server may finish it.
const MOST_BODY_BYTES: usize = 10 << 10;

/// One request.
#[derive(Clone, Debug)]
pub struct HttpGet {
    address: SocketAddr,
    host: String,
    path: String,
    headers: Vec<(String, String)>,
}

impl HttpGet {
    /// # Errors
    /// What of the action makes no request.
    pub fn of(
        get: &HTTPGetAction,
        container: &Container,
        pod_ip: IpAddr,
    ) -> Result<HttpGet, String> {
        if get.scheme.as_deref() == Some("HTTPS") {
            return Err("scheme HTTPS is not supported".to_string());
        }
        let address = address(get.host.as_deref(), &get.port, container, pod_ip)?;
        let path = match get.path.as_deref().unwrap_or("/") {
            path if path.starts_with('/') => path.to_string(),
            path => format!("/{path}"),
        };
        let list = get.http_headers.iter().flatten();
        let (hosts, headers): (Vec<_>, Vec<_>) = list
            .map(|h| (h.name.clone(), h.value.clone()))
            .partition(|(name, _)| name.eq_ignore_ascii_case("host"));
        let host = hosts.into_iter().next().map_or_else(|| address.to_string(), |(_, value)| value);
        Ok(HttpGet { address, host, path, headers })
    }

    /// Sends it as this user agent; the status of the answer.
    ///
    /// # Errors
    /// Why there was no answer.
    pub async fn send(&self, agent: &str) -> Result<u16, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|e| e.to_string())?;
        let mut request = http::Request::get(&self.path)
            .header(http::header::HOST, &self.host)
            .header(http::header::USER_AGENT, agent)
            .header(http::header::CONNECTION, "close");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        let talk = async {
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = response.status().as_u16();
            // A longer body is none of the caller's business.
            let _ = Limited::new(response.into_body(), MOST_BODY_BYTES).collect().await;
            Ok(status)
        };
        drive(talk, connection, |error| error.to_string()).await
    }
}

/// Drives a connection while something is said over it, so that no task outlives that.
pub async fn drive<T>(
    talk: impl Future<Output = Result<T, String>>,
    connection: impl Future<Output = hyper::Result<()>>,
    failed: impl FnOnce(hyper::Error) -> String,
) -> Result<T, String> {
    tokio::pin!(talk);
    tokio::select! {
        biased;
        answer = &mut talk => answer,
        result = connection => match result {
            Ok(()) => talk.await,
            Err(error) => Err(failed(error)),
        },
    }
}

impl std::fmt::Display for HttpGet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Get \"http://{}{}\"", self.address, self.path)
    }
}

/// A port of the pod, by number or by its name in the container.
///
/// # Errors
/// When the host is no address, or the container has no such port; which, the text says.
pub fn address(
    host: Option<&str>,
    port: &IntOrString,
    container: &Container,
    pod_ip: IpAddr,
) -> Result<SocketAddr, String> {
    let ip = match host {
        Some(host) => host.parse().map_err(|_| format!("the host {host:?} is not an address"))?,
        None => pod_ip,
    };
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|p| p.name.as_deref() == Some(name));
            let unknown = || format!("container {:?} has no port named {name:?}", container.name);
            named.ok_or_else(unknown)?.container_port
        }
    };
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err(format!("{number} is no port number")),
    }
}
