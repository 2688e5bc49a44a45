//! The pipeline over HTTP: routes, limits, bodies in, forms out. Generic over the body, so that
//! tests need no connection.

mod exchange;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, WARNING, WWW_AUTHENTICATE,
};
use http::{Method, Request, Response, StatusCode, request};

use super::lanes::Work;
use super::negotiate::{self, Content, negotiate};
use super::request::{self as parse, Query, ResourcePath, Verb};
use super::service::{ApiServer, Call};
use super::streams::proxy;
use super::subresource::method_not_allowed;
use super::websocket;
use super::{
    Body, User, authn, authz, code, discovery, full, health, impersonation, join, nodes, openid,
    reply, respond,
};
use crate::api::ApiError;
use crate::api::error::Reason;
use crate::apiserver::body::RequestBody;
use crate::client::controller_status;
use exchange::{Exchange, MAX_WARNING_CHARACTERS, Switch, warning};

/// How long a request may take, streams apart.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const REGISTRY_CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"wasmfleet\"");
const PRIVATE: HeaderValue = HeaderValue::from_static("no-cache, private");

/// Parts of a Pod that are streams: how long they take is up to the client.
const LONG_SUBRESOURCES: &[&str] =
    &["log", "exec", "attach", "portforward", "proxy", "profile", "coredump"];

/// Answers one request. `user` is `None` for callers who did not authenticate.
pub async fn handle<B: RequestBody + 'static>(
    server: Arc<ApiServer>,
    user: Option<User>,
    request: Request<B>,
) -> Response<Body> {
    let audit_id = server.ids.uid();
    let (mut parts, body) = request.into_parts();
    websocket::take_bearer(&mut parts.headers);
    let query = parts.uri.query().map(Query::parse).and_then(Result::ok).unwrap_or_default();
    let pretty = negotiate::is_pretty(&parts.headers, &query);
    let path = parts.uri.path();
    let is_registry = path == "/v2" || path.starts_with("/v2/");
    if is_registry {
        authn::take_password_as_bearer(&mut parts.headers);
    }
    let user = match user {
        // As upstream does: a certificate comes first. A join token is no user's.
        None if path != join::JOIN_PATH => server.bearer(&parts.headers),
        user => Ok(user),
    };
    let user = user.and_then(|user| impersonation::effective(&server, user, &parts.headers));
    let result = match user {
        Err(refused) => Err(refused),
        // Programs are large: the registry bounds their silence and not their time.
        Ok(user) if is_registry => {
            Box::pin(registry(&server, user, Request::from_parts(parts, body))).await
        }
        Ok(user) if code::is_path(path) => {
            Box::pin(code::respond(&server, user, Request::from_parts(parts, body))).await
        }
        Ok(user) => {
            // Boxed, since the connection moves what it drives.
            let work = Box::pin(route(server, user, parts, body));
            tokio::time::timeout(REQUEST_TIMEOUT, work).await.unwrap_or_else(|_| {
                let message = "the request did not end within a minute";
                Err(ApiError::new(504, Reason::Timeout, message))
            })
        }
    };
    let mut response = result.unwrap_or_else(|error| respond::failure(&error, pretty));
    if is_registry && response.status() == StatusCode::UNAUTHORIZED {
        // Without it, tools keep their credentials to themselves.
        response.headers_mut().insert(WWW_AUTHENTICATE, REGISTRY_CHALLENGE);
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&audit_id) {
        headers.insert(AUDIT_ID, value);
    }
    headers.entry(CACHE_CONTROL).or_insert(PRIVATE);
    response
}

async fn route<B: RequestBody + 'static>(
    server: Arc<ApiServer>,
    user: Option<User>,
    mut parts: request::Parts,
    body: B,
) -> Result<Response<Body>, ApiError> {
    let path = parts.uri.path();
    let length = path.len() + parts.uri.query().map_or(0, str::len);
    if length > parse::MAX_URI_BYTES {
        return Err(ApiError::bad_request("the URL is too long"));
    }
    let query = Query::parse(parts.uri.query().unwrap_or_default())?;
    if let Some(response) = open_path(&server, &parts, &query)? {
        return Ok(response);
    }
    if path == join::JOIN_PATH {
        return Ok(join::respond(&server, Request::from_parts(parts, body)).await);
    }
    let user = Arc::new(user.ok_or_else(ApiError::unauthorized)?);
    if matches!(path, "/" | "") {
        return Ok(reply::no_such_path());
    }
    // What is behind a proxy is another server's path, and nothing of it is read here.
    let (own, rest) = proxy::split(path).unwrap_or((path, ""));
    let rest = rest.to_string();
    let segments = parse::segments(own)?;
    let first = segments.first().map(String::as_str).unwrap_or_default();
    match first {
        "api" if segments.len() > 2 => {}
        "apis" if segments.len() > 3 => {}
        "api" | "apis" => {
            authorize_path(&server, &user, &parts)?;
            return Ok(discovery::respond(&server.registry(), &bare(&parts)));
        }
        "openapi" => {
            authorize_path(&server, &user, &parts)?;
            let (request, now) = (bare(&parts), server.clock.now());
            return Ok(server.openapi.respond(&server.registry(), &request, now).await);
        }
        "wasmfleet" => {
            authorize_path(&server, &user, &parts)?;
            let request = Request::from_parts(parts, body);
            return nodes::accept_tunnel(&server.nodes, server.options.node_grace, &user, request);
        }
        "metrics" if segments.len() == 1 => {
            authorize_path(&server, &user, &parts)?;
            if !matches!(parts.method, Method::GET | Method::HEAD) {
                return Err(method_not_allowed());
            }
            return Ok(metrics_text(&server));
        }
        "debug" if own == controller_status::PATH => {
            authorize_path(&server, &user, &parts)?;
            if !matches!(parts.method, Method::GET | Method::HEAD) {
                return Err(method_not_allowed());
            }
            return Ok(controllers_page(&server, &parts));
        }
        ".well-known" | "openid" => {
            authorize_path(&server, &user, &parts)?;
            return openid::respond(&server.tokens, &parts);
        }
        _ => return Ok(reply::no_such_path()),
    }
    let Some(path) = parse::resource(&server.registry(), &segments) else {
        return Ok(reply::no_such_path());
    };
    if proxy::is_proxy(&path) {
        return proxied(&server, user, path, parts, &rest, body).await;
    }
    let verb = parse::verb(&parts.method, &path, &query)?;
    let info = path.info.clone();
    let switch =
        Switch { upgrade: parts.extensions.remove(), stop: parts.extensions.get().cloned() };
    let (began, subresource) = (Instant::now(), path.subresource.clone());
    let exchange = Exchange { server: &server, user, path, query, headers: &parts.headers, switch };
    let result = exchange.answer(verb, body).await;
    let has_end = verb != Verb::Watch && !LONG_SUBRESOURCES.contains(&&*subresource);
    let took = has_end.then(|| began.elapsed());
    let code = result.as_ref().map_or_else(|error| error.code, |found| found.status().as_u16());
    server.request_metrics.observe(&info, &subresource, verb, code, took);
    let mut response = result?;
    if let Some(text) = info.deprecation()
        && let Ok(value) = HeaderValue::from_str(&warning(text, MAX_WARNING_CHARACTERS))
    {
        response.headers_mut().append(WARNING, value);
    }
    Ok(response)
}

/// A request to a pod or Service.
async fn proxied<B: RequestBody + 'static>(
    server: &Arc<ApiServer>,
    user: Arc<User>,
    path: ResourcePath,
    parts: request::Parts,
    rest: &str,
    body: B,
) -> Result<Response<Body>, ApiError> {
    let verb = proxy::verb(&parts.method)?;
    let ResourcePath { info, namespace, name, subresource, .. } = path;
    let call = Call { user, info, namespace, name, subresource, fence: None };
    server.authorize(&call, verb)?;
    let place = server.lanes.enter(&call.user, Work::Stream).await?;
    let request = proxy::Proxied { rest, parts, place };
    server.proxy(&call, request, body).await
}

/// The registry of artifacts, if there is one.
async fn registry<B: RequestBody + 'static>(
    server: &ApiServer,
    user: Option<User>,
    request: Request<B>,
) -> Result<Response<Body>, ApiError> {
    let user = user.ok_or_else(ApiError::unauthorized)?;
    match &server.artifacts {
        Some(artifacts) => Ok(artifacts.respond(&server.rules, &user, request).await),
        None => Ok(reply::no_such_path()),
    }
}

/// What needs no user: health and version.
fn open_path(
    server: &ApiServer,
    parts: &request::Parts,
    query: &Query,
) -> Result<Option<Response<Body>>, ApiError> {
    let path = parts.uri.path();
    let is_version = path == "/version" || path == "/version/";
    if !is_version && !health::is_health(path) {
        return Ok(None);
    }
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(method_not_allowed());
    }
    if is_version {
        let form = negotiate(&parts.headers, query, Content::Other)?;
        return Ok(Some(respond::response(200, form, health::version().into())));
    }
    Ok(Some(health::respond(server, path, query)))
}

/// The program's numbers, for Prometheus.
fn metrics_text(server: &ApiServer) -> Response<Body> {
    let mut response = Response::new(full(server.metrics().text()));
    let value = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

/// The page about controllers: JSON for those who ask for it, else a table.
fn controllers_page(server: &ApiServer, parts: &request::Parts) -> Response<Body> {
    let Some(page) = server.controllers_page.get() else { return reply::no_such_path() };
    let page = page();
    let accept = parts.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    if !accept.unwrap_or_default().contains("json") {
        return health::text_response(page.text());
    }
    // Numbers and texts alone: it does not fail.
    let mut response = Response::new(full(serde_json::to_vec(&page).unwrap_or_default()));
    let media = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}

fn authorize_path(server: &ApiServer, user: &User, parts: &request::Parts) -> Result<(), ApiError> {
    let verb = parts.method.as_str().to_ascii_lowercase();
    server.authorize_user(user, &authz::Attributes::of_path(&verb, parts.uri.path()))
}

fn bare(parts: &request::Parts) -> Request<()> {
    Request::from_parts(parts.clone(), ())
}
