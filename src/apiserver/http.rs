//! The pipeline over HTTP: routes, limits, bodies in, forms out. Generic over the body, so that
//! tests need no connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT, WARNING, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;

use super::filter;
use super::lanes::{Place, Work};
use super::negotiate::{self, Content, Form, Shape, negotiate};
use super::patch::Patch;
use super::request::{self as parse, Query, ResourcePath, Verb};
use super::service::{Answer, ApiServer, Call};
use super::stream::{StreamBody, holding};
use super::streams::{self, proxy};
use super::subresource::method_not_allowed;
use super::websocket;
use super::write::{Tracking, WriteParams};
use super::{
    Body, User, authn, authz, body, discovery, full, health, impersonation, join, nodes, openid,
    options, reply, respond, update,
};
use crate::api::error::Reason;
use crate::api::{ApiError, strict};
use crate::base::tasks::Stop;

/// Answers that are longer keep their place among the requests in flight until they are sent.
const LONG_ANSWER_BYTES: usize = 64 << 10;
/// How long a request may take, streams apart.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const REGISTRY_CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"wasmfleet\"");
const PRIVATE: HeaderValue = HeaderValue::from_static("no-cache, private");

/// Parts of a Pod that are streams: how long they take is up to the client.
const LONG_SUBRESOURCES: &[&str] = &["log", "exec", "attach", "portforward", "proxy"];

/// The longest text of one `Warning:` header where all together are too long, how long those are,
/// and how many there are at most (upstream's bounds).
const MAX_WARNING_CHARACTERS: usize = 256;
const MAX_WARNINGS_CHARACTERS: usize = 4096;
const MAX_WARNINGS: usize = 50;

/// Answers one request. `user` is `None` for callers who did not authenticate.
pub async fn handle<B>(
    server: Arc<ApiServer>,
    user: Option<User>,
    request: Request<B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
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
        Ok(user) if is_registry => registry(&server, user, Request::from_parts(parts, body)).await,
        Ok(user) => {
            let work = route(server, user, parts, body);
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

async fn route<B>(
    server: Arc<ApiServer>,
    user: Option<User>,
    mut parts: request::Parts,
    body: B,
) -> Result<Response<Body>, ApiError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
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
            return nodes::accept_tunnel(&server.nodes, &user, request);
        }
        "metrics" if segments.len() == 1 => {
            authorize_path(&server, &user, &parts)?;
            if !matches!(parts.method, Method::GET | Method::HEAD) {
                return Err(method_not_allowed());
            }
            return Ok(metrics_text(&server));
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
async fn proxied<B>(
    server: &Arc<ApiServer>,
    user: Arc<User>,
    path: ResourcePath,
    parts: request::Parts,
    rest: &str,
    body: B,
) -> Result<Response<Body>, ApiError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let verb = proxy::verb(&parts.method)?;
    let ResourcePath { info, namespace, name, subresource, .. } = path;
    let call = Call { user, info, namespace, name, subresource };
    server.authorize(&call, verb)?;
    let place = server.lanes.enter(&call.user, Work::Stream).await?;
    let request = proxy::Proxied { rest, parts, place };
    server.proxy(&call, request, body).await
}

/// The registry of artifacts, if there is one.
async fn registry<B>(
    server: &ApiServer,
    user: Option<User>,
    request: Request<B>,
) -> Result<Response<Body>, ApiError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
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

fn authorize_path(server: &ApiServer, user: &User, parts: &request::Parts) -> Result<(), ApiError> {
    let verb = parts.method.as_str().to_ascii_lowercase();
    server.authorize_user(user, &authz::Attributes::of_path(&verb, parts.uri.path()))
}

fn bare(parts: &request::Parts) -> Request<()> {
    Request::from_parts(parts.clone(), ())
}

/// One request about a resource.
struct Exchange<'a> {
    server: &'a Arc<ApiServer>,
    user: Arc<User>,
    path: ResourcePath,
    query: Query,
    headers: &'a HeaderMap,
    switch: Switch,
}

/// What it takes to switch protocols, and to end what was switched to.
struct Switch {
    upgrade: Option<OnUpgrade>,
    stop: Option<Stop>,
}

impl Exchange<'_> {
    async fn answer<B>(self, verb: Verb, body: B) -> Result<Response<Body>, ApiError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // Before anything is read; the pipeline asks again for itself.
        self.server.authorize(&self.call(verb), verb.name())?;
        if streams::connects(&self.path) {
            let place = self.enter(Work::Stream).await?;
            return self.connect(verb, place).await;
        }
        if verb == Verb::Get && self.path.subresource == "log" {
            let place = self.enter(Work::Stream).await?;
            let response = self.server.log(&self.call(verb), &self.query).await?;
            let response = response.map(|body| holding(body, place));
            if !websocket::is_requested(self.headers) {
                return Ok(response);
            }
            // A log that breaks off ends, as it does without WebSocket.
            let pieces = response.into_body().into_data_stream();
            let pieces = pieces.filter_map(|piece| std::future::ready(piece.ok())).boxed();
            let Switch { upgrade, stop } = self.switch;
            return websocket::respond_bytes(self.headers, upgrade, stop, pieces);
        }
        if verb == Verb::Watch {
            let place = self.enter(Work::Stream).await?;
            return self.watch(place).await;
        }
        let place = self.enter(if verb.writes() { Work::Write } else { Work::Read }).await?;
        let call = self.call(verb);
        let now = self.server.clock.now();
        match verb {
            Verb::Get => {
                let answer = self.server.get_part(&call, self.query.get("resourceVersion")).await?;
                self.respond(answer)
            }
            Verb::List => {
                let form = negotiate(self.headers, &self.query, Content::List)?;
                let listed = self.server.list(&call, &self.query.list_options()?).await?;
                let json = respond::list(&call.info, form, &listed, now).await?;
                let is_long = json.len() > LONG_ANSWER_BYTES;
                let response = respond::response(200, form, json);
                Ok(if is_long { response.map(|body| holding(body, place)) } else { response })
            }
            _ => self.write(verb, &call, body).await,
        }
    }

    /// Exec, attach and port-forward.
    async fn connect(self, verb: Verb, place: Place) -> Result<Response<Body>, ApiError> {
        let call = self.call(verb);
        let Switch { upgrade, stop } = self.switch;
        let request = streams::Connecting {
            verb,
            headers: self.headers,
            query: &self.query,
            upgrade,
            stop,
            place,
        };
        self.server.connect(&call, request).await
    }

    async fn write<B>(&self, verb: Verb, call: &Call, body: B) -> Result<Response<Body>, ApiError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // Refused before the write, and not after it.
        negotiate(self.headers, &self.query, self.content(verb))?;
        let manager = self.manager()?;
        let bytes = body::read(body).await?;
        let media = body::media_type(self.headers);
        let mut params = WriteParams {
            dry_run: self.query.dry_run()?,
            field_validation: self.query.field_validation()?,
            duplicates: Vec::new(),
            manager,
            tracking: self.tracking(call),
            ..WriteParams::default()
        };
        let server = self.server;
        let answer = match verb {
            Verb::Create | Verb::Update => {
                let decoded = body::decode(media, &bytes)?;
                params.duplicates = decoded.duplicates;
                match verb {
                    Verb::Create => server.post(call, decoded.value, &params).await?,
                    _ => server.put(call, decoded.value, &params).await?,
                }
            }
            Verb::Patch => {
                let (patch, duplicates) = read_patch(media, &bytes, self.query.flag("force"))?;
                params.duplicates = duplicates;
                let applies = matches!(patch, Patch::Apply { .. });
                if applies {
                    // Nobody is taken for a manager by the name of their program.
                    params.manager = self.query.field_manager()?;
                } else if self.query.flag("force") {
                    let message = "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may \
                                   not be specified for non-apply patch";
                    return Err(ApiError::new(422, Reason::Invalid, message));
                }
                server.patch(call, &patch, &params).await?
            }
            _ => {
                let value = body::decode(media, &bytes)?.value;
                let options = options::delete_options(&value)?;
                let options = self.query.delete_options(options)?;
                match verb {
                    Verb::Delete => server.delete(call, &options).await?,
                    _ => {
                        let list = self.query.list_options()?;
                        server.delete_collection(call, &list, &options).await?
                    }
                }
            }
        };
        self.respond(answer)
    }

    /// Who writes: as the query says, or the first word of the program's name.
    fn manager(&self) -> Result<String, ApiError> {
        let named = self.query.field_manager()?;
        if !named.is_empty() {
            return Ok(named);
        }
        let agent = self.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        let word = agent.unwrap_or_default().split(['/', ' ']).next().unwrap_or_default();
        let word: String = word.chars().take(parse::MAX_MANAGER_CHARACTERS).collect();
        Ok(if word.is_empty() { "unknown".into() } else { word })
    }

    fn tracking(&self, call: &Call) -> Tracking {
        if authz::node_name(&call.user).is_some() {
            Tracking::System
        } else if self.query.get("fieldManager").is_empty() {
            Tracking::Owned
        } else {
            Tracking::Named
        }
    }

    /// Whether the answer may be asked for as a table.
    fn is_resource(&self, verb: Verb) -> bool {
        let part = self.path.subresource.as_str();
        let main = matches!(part, "" | "finalize") || update::writes_status(part);
        main && !self.path.info.meta.review && verb != Verb::DeleteCollection
    }

    fn respond(&self, answer: Answer) -> Result<Response<Body>, ApiError> {
        let content = if answer.is_resource { Content::Object } else { Content::Other };
        // A deletion that was asked for as a table answers its Status plainly.
        let form = match negotiate(self.headers, &self.query, content) {
            Ok(form) => form,
            Err(_) if !answer.is_resource && self.content(Verb::Get) == Content::Object => {
                Form { shape: Shape::Plain, yaml: false, pretty: false }
            }
            Err(error) => return Err(error),
        };
        let json = if answer.is_resource {
            respond::object(&self.path.info, form, &answer.raw, self.server.clock.now())?
        } else {
            answer.raw
        };
        let mut response = respond::response(answer.code, form, json);
        let length: usize = answer.warnings.iter().map(|text| text.chars().count()).sum();
        let most = match length {
            0..=MAX_WARNINGS_CHARACTERS => MAX_WARNINGS_CHARACTERS,
            _ => MAX_WARNING_CHARACTERS,
        };
        for text in answer.warnings.iter().take(MAX_WARNINGS) {
            if let Ok(value) = HeaderValue::from_str(&warning(text, most)) {
                response.headers_mut().append(WARNING, value);
            }
        }
        Ok(response)
    }

    /// What a write answers with.
    fn content(&self, verb: Verb) -> Content {
        if self.is_resource(verb) { Content::Object } else { Content::Other }
    }

    async fn watch(self, place: Place) -> Result<Response<Body>, ApiError> {
        let form = negotiate(self.headers, &self.query, Content::Watch)?;
        let call = self.call(Verb::Watch);
        let (mut options, initial) = self.query.watch_options()?;
        if !self.path.name.is_empty() {
            options.field_selector = format!("metadata.name={}", self.path.name);
        }
        let stream = match self.server.watch(&call, &options, &initial).await {
            Ok(stream) => stream,
            Err(error) if error.is_expired() => {
                futures::stream::once(async move { Err(error) }).boxed()
            }
            Err(error) => return Err(error),
        };
        let (info, clock) = (call.info.clone(), self.server.clock.clone());
        let lines = futures::StreamExt::map(stream, move |batch| {
            // Held for as long as the stream is.
            let _place = &place;
            let mut out = Vec::new();
            let lines = batch.and_then(|batch| {
                let now = clock.now();
                batch.iter().try_for_each(|sent| respond::event(&mut out, &info, form, sent, now))
            });
            if let Err(error) = lines {
                respond::error_event(&mut out, &error);
            }
            Bytes::from(out)
        });
        if websocket::is_requested(self.headers) {
            let Switch { upgrade, stop } = self.switch;
            return websocket::respond(self.headers, upgrade, stop, lines.boxed());
        }
        let mut response = Response::new(StreamBody::body(lines.map(|out| Ok(Frame::data(out)))));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        Ok(response)
    }

    /// Of a collection of which one name is asked for, that name counts when it is authorized
    /// (k8s.io/apiserver/pkg/endpoints/request/requestinfo.go).
    fn call(&self, verb: Verb) -> Call {
        let path = &self.path;
        let mut name = path.name.clone();
        let collection = matches!(verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
        if collection && let Some(only) = filter::named(self.query.get("fieldSelector")) {
            name = only;
        }
        Call {
            user: self.user.clone(),
            info: path.info.clone(),
            namespace: path.namespace.clone(),
            name,
            subresource: path.subresource.clone(),
        }
    }

    /// A place among what is in flight.
    async fn enter(&self, work: Work) -> Result<Place, ApiError> {
        self.server.lanes.enter(&self.user, work).await
    }
}

const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// A patch by its content type, and the keys that its body has twice.
fn read_patch(media: &str, bytes: &[u8], force: bool) -> Result<(Patch, Vec<String>), ApiError> {
    const SUPPORTED: &[&str] = &[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        APPLY_PATCH,
    ];
    if !SUPPORTED.contains(&media) {
        return Err(body::unsupported(media, SUPPORTED));
    }
    if media == APPLY_PATCH {
        let decoded = body::yaml(bytes)?;
        let twice = !decoded.duplicates.is_empty();
        let lines = if twice { strict::yaml_duplicates(bytes) } else { Vec::new() };
        return Ok((Patch::Apply { config: decoded.value, force }, lines));
    }
    let decoded = body::json(bytes)?;
    let patch = match media {
        "application/json-patch+json" => Patch::Json(decoded.value),
        "application/merge-patch+json" => Patch::Merge(decoded.value),
        _ => Patch::Strategic(decoded.value),
    };
    Ok((patch, decoded.duplicates))
}

/// `299 - "text"` (RFC 7234, 5.5).
fn warning(text: &str, most: usize) -> String {
    let mut quoted = String::with_capacity(text.len() + 8);
    for c in text.chars().take(most) {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push(' '),
            c if c.is_ascii() => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    format!("299 - \"{quoted}\"")
}
