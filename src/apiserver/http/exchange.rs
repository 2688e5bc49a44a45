//! One request about a resource: its body in, the pipeline's stage for its verb, its answer's form.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONTENT_TYPE, HeaderValue, USER_AGENT, WARNING};
use http::{HeaderMap, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;

use crate::api::error::Reason;
use crate::api::{ApiError, strict};
use crate::apiserver::body::RequestBody;
use crate::apiserver::lanes::{Place, Work};
use crate::apiserver::negotiate::{Content, Form, Shape, negotiate};
use crate::apiserver::patch::Patch;
use crate::apiserver::request::{self, Query, ResourcePath, Verb};
use crate::apiserver::service::{Answer, ApiServer, Call};
use crate::apiserver::stream::{StreamBody, holding};
use crate::apiserver::streams;
use crate::apiserver::subresource::inspect::{CORE_DUMP, PROFILE};
use crate::apiserver::subresource::why::WHY;
use crate::apiserver::write::{Tracking, WriteParams};
use crate::apiserver::{Body, User, authz, body, filter, options, respond, update, websocket};
use crate::base::tasks::Stop;

/// Answers that are longer keep their place among the requests in flight until they are sent.
const LONG_ANSWER_BYTES: usize = 64 << 10;
/// The longest text of one `Warning:` header where all together are too long, how long those are,
/// and how many there are at most (upstream's bounds).
pub(super) const MAX_WARNING_CHARACTERS: usize = 256;
const MAX_WARNINGS_CHARACTERS: usize = 4096;
const MAX_WARNINGS: usize = 50;

/// One request about a resource.
pub(super) struct Exchange<'a> {
    pub server: &'a Arc<ApiServer>,
    pub user: Arc<User>,
    pub path: ResourcePath,
    pub query: Query,
    pub headers: &'a HeaderMap,
    pub switch: Switch,
}

/// What it takes to switch protocols, and to end what was switched to.
pub(super) struct Switch {
    pub upgrade: Option<OnUpgrade>,
    pub stop: Option<Stop>,
}

impl Exchange<'_> {
    /// Answers it.
    ///
    /// # Errors
    /// What the pipeline says; nothing was answered then.
    pub async fn answer<B: RequestBody + 'static>(
        self,
        verb: Verb,
        body: B,
    ) -> Result<Response<Body>, ApiError> {
        // Before anything is read; the pipeline asks again for itself.
        self.server.authorize(&self.call(verb), verb.name())?;
        if streams::connects(&self.path) {
            let place = self.enter(Work::Stream).await?;
            return Box::pin(self.connect(verb, place)).await;
        }
        if verb == Verb::Get && self.path.subresource == "log" {
            let place = self.enter(Work::Stream).await?;
            let call = self.call(verb);
            let response = Box::pin(self.server.log(&call, &self.query)).await?;
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
        if verb == Verb::Get && matches!(&*self.path.subresource, PROFILE | CORE_DUMP) {
            let place = self.enter(Work::Stream).await?;
            let response = self.server.inspect(&self.call(verb), &self.query).await?;
            return Ok(response.map(|body| holding(body, place)));
        }
        if verb == Verb::Watch {
            let place = self.enter(Work::Stream).await?;
            return Box::pin(self.watch(place)).await;
        }
        let place = self.enter(if verb.writes() { Work::Write } else { Work::Read }).await?;
        let call = self.call(verb);
        let now = self.server.clock.now();
        match verb {
            Verb::Get => {
                if self.path.subresource == WHY {
                    let most = self.query.number("limit")?.unwrap_or_default();
                    let most = usize::try_from(most).unwrap_or(usize::MAX);
                    return self.respond(Box::pin(self.server.why(&call, most)).await?);
                }
                let answer = self.server.get_part(&call, self.query.get("resourceVersion")).await?;
                self.respond(answer)
            }
            Verb::List => {
                let form = negotiate(self.headers, &self.query, Content::List)?;
                let options = self.query.list_options()?;
                let listed = Box::pin(self.server.list(&call, &options)).await?;
                let json = Box::pin(respond::list(&call.info, form, &listed, now)).await?;
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

    async fn write<B: RequestBody + 'static>(
        &self,
        verb: Verb,
        call: &Call,
        body: B,
    ) -> Result<Response<Body>, ApiError> {
        // Refused before the write, and not after it.
        let content = self.content(verb);
        let form = negotiate(self.headers, &self.query, content)?;
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
                // The connection reads on into the same buffer.
                drop(bytes);
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
                Box::pin(server.patch(call, &patch, &params)).await?
            }
            _ => {
                let value = body::decode(media, &bytes)?.value;
                let options = options::delete_options(&value)?;
                let options = self.query.delete_options(options)?;
                match verb {
                    Verb::Delete => Box::pin(server.delete(call, &options)).await?,
                    _ => {
                        let list = self.query.list_options()?;
                        Box::pin(server.delete_collection(call, &list, &options)).await?
                    }
                }
            }
        };
        match answer.is_resource == (content == Content::Object) {
            true => self.respond_as(answer, form),
            false => self.respond(answer),
        }
    }

    /// Who writes: as the query says, or the first word of the program's name.
    fn manager(&self) -> Result<String, ApiError> {
        let named = self.query.field_manager()?;
        if !named.is_empty() {
            return Ok(named);
        }
        let agent = self.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        let word = agent.unwrap_or_default().split(['/', ' ']).next().unwrap_or_default();
        let word: String = word.chars().take(request::MAX_MANAGER_CHARACTERS).collect();
        Ok(if word.is_empty() { "unknown".into() } else { word })
    }

    fn tracking(&self, call: &Call) -> Tracking {
        if authz::agent(&call.user).is_some() {
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
        let main = matches!(part, "" | "finalize" | update::EPHEMERAL_CONTAINERS)
            || update::writes_status(part);
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
        self.respond_as(answer, form)
    }

    fn respond_as(&self, answer: Answer, form: Form) -> Result<Response<Body>, ApiError> {
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
            fence: None,
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
pub(super) fn warning(text: &str, most: usize) -> String {
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
