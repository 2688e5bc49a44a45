//! What the server serves: `/api`, `/apis` and the documents below them, in the plain form and in
//! the aggregated one (apidiscovery.k8s.io/v2) that newer clients read at once.
//!
//! Everything comes from the registry's rows; this file knows no kind. The documents are made for
//! each request: they are small, and clients keep them for hours.

mod aggregated;
mod plain;

use http::header::{ACCEPT, CACHE_CONTROL, ETAG, HOST, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Body, reply};
use crate::api::error::Reason;
use crate::api::registry::Registry;
use crate::api::resource::KindInfo;
use crate::api::{ApiError, Gvr};

/// Exactly what upstream writes; clients compare it.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A subresource as both forms list it.
struct Sub<'a> {
    name: &'a str,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    verbs: &'a [&'a str],
}

/// Answers `/api`, `/apis` and the paths below that name a group or a group version.
pub fn respond(registry: &Registry, request: &Request<()>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let message = "discovery is only read";
        return reply::status(&ApiError::new(405, Reason::MethodNotAllowed, message));
    }
    let Some(form) = negotiate(request.headers()) else {
        let message = "only the following media types are accepted: application/json";
        return reply::status(&ApiError::new(406, Reason::NotAcceptable, message));
    };
    let path = request.uri().path().trim_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    let document = match (&parts[..], form) {
        (["api"], Form::Aggregated) => {
            return conditional(request.headers(), &aggregated::list(registry, true));
        }
        (["apis"], Form::Aggregated) => {
            return conditional(request.headers(), &aggregated::list(registry, false));
        }
        (["api"], Form::Plain) => Some(plain::core_versions(registry, &host(request.headers()))),
        (["apis"], Form::Plain) => Some(plain::group_list(registry)),
        (["api", version], _) => plain::resources(registry, "", version),
        (["apis", group], _) => plain::group(registry, group),
        (["apis", group, version], _) if !group.is_empty() => {
            plain::resources(registry, group, version)
        }
        _ => None,
    };
    match document {
        Some(document) => varying(reply::json(StatusCode::OK, &document)),
        None => reply::no_such_path(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Plain,
    Aggregated,
}

/// The first form of `Accept` that can be given; v2beta1 is none, as upstream since 1.35.
fn negotiate(headers: &HeaderMap) -> Option<Form> {
    let mut items = headers.get_all(ACCEPT).into_iter().filter_map(|v| v.to_str().ok()).peekable();
    if items.peek().is_none() {
        return Some(Form::Plain);
    }
    items.flat_map(|value| value.split(',')).find_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let (mut group, mut version, mut kind) = ("", "", "");
        for (key, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            match key.trim() {
                "g" => group = value.trim(),
                "v" => version = value.trim(),
                "as" => kind = value.trim(),
                _ => {}
            }
        }
        match (media, group, version, kind) {
            ("application/json", "apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => {
                Some(Form::Aggregated)
            }
            ("application/json" | "application/*" | "*/*" | "", "", "", "") => Some(Form::Plain),
            _ => None,
        }
    })
}

/// The aggregated form with its entity tag; 304 for who has it already.
fn conditional(headers: &HeaderMap, document: &Value) -> Response<Body> {
    let text = format!("{document}\n");
    let tag = format!("\"{}\"", hex::encode_upper(Sha256::digest(text.as_bytes())));
    let known = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|v| v.to_str().ok());
    let unchanged =
        known.flat_map(|v| v.split(',')).any(|v| matches!(v.trim(), "*") || v.trim() == tag);
    let mut response = match unchanged {
        true => reply::empty(StatusCode::NOT_MODIFIED),
        false => reply::bytes(StatusCode::OK, AGGREGATED, text),
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    varying(response)
}

/// The answer depends on `Accept`.
fn varying(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

fn host(headers: &HeaderMap) -> String {
    headers.get(HOST).and_then(|v| v.to_str().ok()).unwrap_or_default().to_string()
}

/// The groups in the registry's order, each with its versions in order of
/// preference (the registry lists the preferred one first).
fn groups(registry: &Registry) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for gvr in registry.rows().iter().map(|info| &info.gvr) {
        let (group, version) = (&*gvr.group, &*gvr.version);
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, versions)) if versions.contains(&version) => {}
            Some((_, versions)) => versions.push(version),
            None => groups.push((group, vec![version])),
        }
    }
    groups
}

/// The rows of a group version, by name as upstream lists them.
fn rows<'a>(registry: &'a Registry, group: &str, version: &str) -> Vec<&'a KindInfo> {
    let fits = |gvr: &Gvr| gvr.group == group && gvr.version == version;
    let mut rows: Vec<&KindInfo> =
        registry.rows().iter().map(|info| &**info).filter(|info| fits(&info.gvr)).collect();
    rows.sort_by(|a, b| a.gvr.resource.cmp(&b.gvr.resource));
    rows
}

/// The subresources of a row, by name.
fn subresources(info: &KindInfo) -> Vec<Sub<'_>> {
    const READ_WRITE: &[&str] = &["get", "patch", "update"];
    let mut subs: Vec<Sub> = info
        .meta
        .subresources
        .iter()
        .map(|s| Sub {
            name: s.name,
            group: if s.version.is_empty() { &info.gvr.group } else { s.group },
            version: if s.version.is_empty() { &info.gvr.version } else { s.version },
            kind: s.kind,
            verbs: s.verbs,
        })
        .collect();
    if info.meta.status {
        let (group, version) = (&*info.gvr.group, &*info.gvr.version);
        subs.push(Sub { name: "status", group, version, kind: &info.kind, verbs: READ_WRITE });
    }
    if info.meta.scale {
        let (group, version) = ("autoscaling", "v1");
        subs.push(Sub { name: "scale", group, version, kind: "Scale", verbs: READ_WRITE });
    }
    subs.sort_by_key(|sub| sub.name);
    subs
}
