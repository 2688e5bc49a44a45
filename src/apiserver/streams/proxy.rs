//! The proxy subresource of pods and Services: HTTP requests that go on to a pod, through its
//! node's tunnel. Everything behind `/proxy` is the pod's path. That of nodes: their agents answer
//! GETs of the paths of a kubelet themselves.
//!
//! Names are `[scheme:]name[:port]` (k8s.io/apimachinery/pkg/util/net/port_split.go). Of schemes
//! there is http: a pod's certificate could be checked against nothing. What an answer says about
//! where to go next (`Location`) is brought back under the path of the proxy; pages are not.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, Uri, request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::dial::{Dialled, dial};
use super::until_stop;
use crate::api::error::Reason;
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::body::RequestBody;
use crate::apiserver::lanes::Place;
use crate::apiserver::request::ResourcePath;
use crate::apiserver::service::{ApiServer, Call};
use crate::apiserver::stream::holding;
use crate::apiserver::subresource::method_not_allowed;
use crate::apiserver::{Body, reply};
use crate::base::tasks::Stop;

/// The subresource.
pub const PROXY: &str = "proxy";
/// The resources that have it, and the kinds of its options.
const KINDS: &[(&str, &str)] = &[
    (NODES, "NodeProxyOptions"),
    ("pods", "PodProxyOptions"),
    ("services", "ServiceProxyOptions"),
];
const NODES: &str = "nodes";
/// Where a kubelet listens: nothing else of a node is reached.
const KUBELET_PORTS: &[&str] = &["", "10250"];
/// Bytes on their way, in each direction, beside HTTP/2's window.
const BUFFER_BYTES: usize = 64 << 10;
/// What is between this server and its client alone.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// One request to a pod or Service.
pub struct Proxied<'a> {
    /// What is behind `/proxy`, as it was sent; empty, or with a slash first.
    pub rest: &'a str,
    pub parts: request::Parts,
    pub place: Place,
}

/// Where it goes.
struct Target {
    node: String,
    namespace: String,
    pod: String,
    port: u16,
}

/// The path up to `/proxy`, and what is behind it, where a URL is one of a proxy.
pub fn split(path: &str) -> Option<(&str, &str)> {
    let words: Vec<&str> = path.splitn(9, '/').collect();
    let at = match words.as_slice() {
        ["", "api", _, "namespaces", _, resource, _, PROXY, ..] if is_proxied(resource) => 8,
        ["", "api", _, NODES, _, PROXY, ..] => 6,
        _ => return None,
    };
    let length = words[..at].iter().map(|word| word.len() + 1).sum::<usize>() - 1;
    Some(path.split_at(length))
}

fn is_proxied(resource: &str) -> bool {
    KINDS.iter().any(|(name, _)| *name == resource)
}

/// The verb of a request, as authorization knows it (k8s.io/apiserver/pkg/endpoints/request).
pub fn verb(method: &Method) -> Result<&'static str, ApiError> {
    match method.as_str() {
        "GET" | "HEAD" | "OPTIONS" => Ok("get"),
        "POST" => Ok("create"),
        "PUT" => Ok("update"),
        "PATCH" => Ok("patch"),
        "DELETE" => Ok("delete"),
        _ => Err(method_not_allowed()),
    }
}

/// `[scheme:]name[:port]`.
fn split_name(text: &str) -> Result<(&str, &str), ApiError> {
    let bad = || ApiError::bad_request(format!("invalid request: {text:?} names no port of it"));
    let words: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match words.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return Err(bad()),
    };
    match scheme {
        _ if name.is_empty() => Err(bad()),
        "" | "http" => Ok((name, port)),
        "https" => {
            let message = "the proxy speaks HTTP to pods: their certificates could be checked \
                           against nothing";
            Err(ApiError::bad_request(message))
        }
        _ => Err(bad()),
    }
}

impl ApiServer {
    /// Sends a request on. `call` is authorized; its name is still the one of the URL.
    ///
    /// # Errors
    /// 404 and 400 for a target that is none, 503 for one that cannot be reached.
    pub(in crate::apiserver) async fn proxy<B: RequestBody + 'static>(
        self: &Arc<Self>,
        call: &Call,
        request: Proxied<'_>,
        body: B,
    ) -> Result<Response<Body>, ApiError> {
        let Proxied { rest, mut parts, place } = request;
        if rest.is_empty() && matches!(parts.method, Method::GET | Method::HEAD) {
            // What a page names relatively is below it only with a slash.
            return slash(&parts.uri);
        }
        if &*call.info.gvr.resource == NODES {
            return self.proxy_node(call, rest, parts, place).await;
        }
        let (name, port) = split_name(&call.name)?;
        let one = Call { name: name.to_string(), ..call.clone() };
        let target = match &*call.info.gvr.resource {
            "pods" => self.pod_target(&one, port)?,
            _ => self.service_target(&one, port)?,
        };
        let kind = KINDS.iter().find(|(known, _)| *known == call.info.gvr.resource);
        let options = json!({
            "apiVersion": "v1",
            "kind": kind.map(|(_, kind)| *kind).unwrap_or_default(),
            "path": if rest.is_empty() { "/" } else { rest },
        });
        self.admit_connect(call, Object::from_value(options)?).await?;
        let Target { node, namespace, pod, port } = &target;
        let path = format!("/portforward/{namespace}/{pod}/{port}");
        let unreachable = |why: &dyn std::fmt::Display| {
            unreachable(format!("error trying to reach service: {why}"))
        };
        let dialled = dial(&self.nodes, node, &path).await.map_err(|e| unreachable(&e.message))?;
        let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
        let stop = parts.extensions.get::<Stop>().cloned();
        tokio::spawn(until_stop(stop.clone(), pump(theirs, dialled)));
        let handshake = http1::handshake(TokioIo::new(ours)).await;
        let (mut sender, connection) = handshake.map_err(|e| unreachable(&e))?;
        tokio::spawn(connection.with_upgrades());
        let client: Option<OnUpgrade> = parts.extensions.remove();
        let prefix = prefix_of(&parts.uri, rest);
        let asked = forwarded(parts, rest, &target)?.map(|()| body);
        let response = sender.send_request(asked).await.map_err(|e| unreachable(&e))?;
        Ok(answered(response, client, &prefix, stop, place))
    }

    /// What the node's agent answers.
    async fn proxy_node(
        &self,
        call: &Call,
        rest: &str,
        parts: request::Parts,
        place: Place,
    ) -> Result<Response<Body>, ApiError> {
        // A kubelet's certificate says https; here the tunnel is what is trusted.
        let name = call.name.strip_prefix("https:").unwrap_or(&call.name);
        let (name, port) = split_name(name)?;
        if !KUBELET_PORTS.contains(&port) {
            let message = format!("nothing of a node is reached but its agent: no port {port:?}");
            return Err(ApiError::bad_request(message));
        }
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            return Err(method_not_allowed());
        }
        let one = Call { name: name.to_string(), ..call.clone() };
        self.entry(&one)?;
        let options = json!({"apiVersion": "v1", "kind": "NodeProxyOptions", "path": rest});
        self.admit_connect(call, Object::from_value(options)?).await?;
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("/kubelet{}{query}", rest.trim_end_matches('/'));
        let asked = Request::get(path).body(Full::new(Bytes::new()));
        let asked = asked.map_err(|error| ApiError::bad_request(error.to_string()))?;
        let response = self.nodes.request(name, asked).await?;
        let prefix = prefix_of(&parts.uri, rest);
        Ok(answered(response, None, &prefix, None, place))
    }

    fn pod_target(&self, call: &Call, port: &str) -> Result<Target, ApiError> {
        let pod: Pod = Raw(self.entry(call)?.value).decode()?;
        let spec = pod.spec.unwrap_or_default();
        let mut ports = spec.containers.iter().flat_map(|one| one.ports.iter().flatten());
        let number = match port.parse::<u16>() {
            Ok(number) => Some(number),
            Err(_) => {
                let found = ports.find(|one| port.is_empty() || one.name.as_deref() == Some(port));
                found.and_then(|one| u16::try_from(one.container_port).ok())
            }
        };
        let number = number.filter(|number| *number > 0).ok_or_else(|| {
            ApiError::bad_request(format!("pod {:?} has no port {port:?}", call.name))
        })?;
        let node = spec.node_name.filter(|node| !node.is_empty()).ok_or_else(|| {
            ApiError::bad_request(format!("pod {} does not have a host assigned", call.name))
        })?;
        let (namespace, pod) = (call.namespace.clone(), call.name.clone());
        Ok(Target { node, namespace, pod, port: number })
    }

    /// A ready endpoint of a Service, any of them.
    fn service_target(&self, call: &Call, port: &str) -> Result<Target, ApiError> {
        let service: Service = Raw(self.entry(call)?.value).decode()?;
        let spec = service.spec.unwrap_or_default();
        let ports = spec.ports.unwrap_or_default();
        let found = match port.parse::<i32>() {
            Ok(number) => ports.iter().find(|one| one.port == number),
            Err(_) if port.is_empty() && ports.len() == 1 => ports.first(),
            Err(_) => ports.iter().find(|one| one.name.as_deref().unwrap_or_default() == port),
        };
        let Some(found) = found else {
            let message = format!("no service port {port:?} found for service {:?}", call.name);
            return Err(unreachable(message));
        };
        let port_name = found.name.clone().unwrap_or_default();
        let mut targets = Vec::new();
        for slice in self.in_namespace::<EndpointSlice>(&call.namespace)? {
            let labels = slice.metadata.labels.as_ref();
            let of = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
            if of != Some(&call.name) {
                continue;
            }
            let mut ports = slice.ports.iter().flatten();
            let port = ports.find(|one| one.name.as_deref().unwrap_or_default() == port_name);
            let Some(port) = port.and_then(|one| u16::try_from(one.port?).ok()) else { continue };
            for endpoint in &slice.endpoints {
                let ready = endpoint.conditions.as_ref().and_then(|one| one.ready) != Some(false);
                let pod =
                    endpoint.target_ref.as_ref().filter(|one| one.kind.as_deref() == Some("Pod"));
                if let (true, Some(pod), Some(node)) = (ready, pod, &endpoint.node_name) {
                    let pod = pod.name.clone().unwrap_or_default();
                    targets.push(Target {
                        node: node.clone(),
                        namespace: call.namespace.clone(),
                        pod,
                        port,
                    });
                }
            }
        }
        if targets.is_empty() {
            let message = format!("no endpoints available for service {:?}", call.name);
            return Err(unreachable(message));
        }
        Ok(targets.swap_remove(rand::random_range(0..targets.len())))
    }
}

/// The same URL with a slash at the end of its path.
fn slash(uri: &Uri) -> Result<Response<Body>, ApiError> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = reply::empty(StatusCode::MOVED_PERMANENTLY);
    let to = HeaderValue::from_str(&format!("{}/{query}", uri.path()));
    response.headers_mut().insert(LOCATION, to.map_err(ApiError::internal)?);
    Ok(response)
}

/// Our own path of what is the pod's root.
fn prefix_of(uri: &Uri, rest: &str) -> String {
    uri.path().strip_suffix(rest).unwrap_or_default().to_string()
}

/// Carries bytes between a local pipe and the node.
async fn pump(pipe: DuplexStream, dialled: Dialled) {
    let Dialled { to, mut from } = dialled;
    let (mut reader, mut writer) = tokio::io::split(pipe);
    let up = async {
        let mut buffer = vec![0; BUFFER_BYTES / 2];
        while let Ok(read @ 1..) = reader.read(&mut buffer).await {
            if to.send(Bytes::copy_from_slice(&buffer[..read])).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        while let Some(bytes) = from.next().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    // Without the client there is nobody to answer.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// The request as the pod gets it: its own path, and nothing of who the client is.
fn forwarded(parts: request::Parts, rest: &str, target: &Target) -> Result<Request<()>, ApiError> {
    let path = if rest.is_empty() { "/" } else { rest };
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let bad = |error: http::Error| ApiError::bad_request(error.to_string());
    let uri = format!("{path}{query}");
    let mut request = Request::builder().method(parts.method).uri(uri).body(()).map_err(bad)?;
    let upgrade = parts.headers.get(UPGRADE).cloned();
    let mut headers = parts.headers;
    headers.remove(AUTHORIZATION);
    let impersonates = |name: &HeaderName| name.as_str().starts_with("impersonate-");
    let hidden: Vec<HeaderName> =
        headers.keys().filter(|name| impersonates(name)).cloned().collect();
    for name in &hidden {
        headers.remove(name);
    }
    strip(&mut headers);
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    let host = format!("{}:{}", target.pod, target.port);
    headers.insert(HOST, HeaderValue::from_str(&host).map_err(ApiError::internal)?);
    *request.headers_mut() = headers;
    Ok(request)
}

fn strip(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(*name);
    }
}

/// The pod's answer as the client gets it.
fn answered(
    mut response: Response<Incoming>,
    client: Option<OnUpgrade>,
    prefix: &str,
    stop: Option<Stop>,
    place: Place,
) -> Response<Body> {
    if let Some(path) = response.headers().get(LOCATION).and_then(|value| value.to_str().ok())
        && path.starts_with('/')
        && let Ok(path) = HeaderValue::from_str(&format!("{prefix}{path}"))
    {
        response.headers_mut().insert(LOCATION, path);
    }
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        strip(response.headers_mut());
        let body = |body: Incoming| body.map_err(std::io::Error::other).boxed();
        return response.map(|incoming| holding(body(incoming), place));
    }
    let mut switched = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
    *switched.headers_mut() = response.headers().clone();
    tokio::spawn(async move {
        let both = async {
            let (Some(client), Ok(pod)) = (client, hyper::upgrade::on(response).await) else {
                return;
            };
            if let Ok(client) = client.await {
                let (mut client, mut pod) = (TokioIo::new(client), TokioIo::new(pod));
                let _ = tokio::io::copy_bidirectional(&mut client, &mut pod).await;
            }
        };
        until_stop(stop, both).await;
        drop(place);
    });
    switched
}

/// Whether a path is one of a proxy.
pub fn is_proxy(path: &ResourcePath) -> bool {
    path.subresource == PROXY
        && path.info.gvr.group.is_empty()
        && is_proxied(&path.info.gvr.resource)
}

/// Without a time to try again at, as upstream: clients would wait, and ask ten times.
fn unreachable(message: impl Into<String>) -> ApiError {
    ApiError::new(503, Reason::ServiceUnavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_the_proxy_is_left_alone() {
        let pod = "/api/v1/namespaces/n/pods/http:p:80/proxy";
        assert_eq!(split(pod), Some((pod, "")));
        assert_eq!(split(&format!("{pod}/")), Some((pod, "/")));
        assert_eq!(split(&format!("{pod}/a//..%2f/proxy/x")), Some((pod, "/a//..%2f/proxy/x")));
        assert_eq!(split("/api/v1/namespaces/n/pods/p/log"), None);
        assert_eq!(split("/api/v1/namespaces/n/configmaps/p/proxy"), None);
        assert_eq!(split("/api/v1/namespaces/proxy"), None);
    }

    #[test]
    fn names_have_ports_and_schemes() {
        assert_eq!(split_name("web"), Ok(("web", "")));
        assert_eq!(split_name("web:http"), Ok(("web", "http")));
        assert_eq!(split_name("http:web:80"), Ok(("web", "80")));
        assert_eq!(split_name("http:web:"), Ok(("web", "")));
        for bad in ["https:web:443", "ftp:web:21", ":80", "a:b:c:d"] {
            assert_eq!(split_name(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
