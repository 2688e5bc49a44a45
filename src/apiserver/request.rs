//! What a URL means: the resource, the verb and the options of its query.
//!
//! Owns percent-decoding and the refusal of paths that try to be clever. Knows no bodies.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::options;
use super::subresource::method_not_allowed;
use super::watch::InitialEvents;
use super::write::FieldValidation;
use crate::api::ApiError;
use crate::api::error::Reason;
use crate::api::field::{Errors, Path};
use crate::api::registry::Registry;
use crate::api::resource::KindInfo;
use crate::client::{DeleteOptions, ListOptions, WatchOptions};

/// The longest path and query that are looked at, in bytes.
pub const MAX_URI_BYTES: usize = 16 * 1024;
/// The longest field manager, in characters.
pub const MAX_MANAGER_CHARACTERS: usize = 128;
/// Subresources of namespaces, whose URLs look like collections of a namespace.
const NAMESPACE_PARTS: &[&str] = &["status", "finalize"];

/// The resource of a URL below `/api` or `/apis`.
#[derive(Clone)]
pub struct ResourcePath {
    pub info: Arc<KindInfo>,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
    /// One of the deprecated paths of watches (`/api/v1/watch/…`).
    pub watch: bool,
}

/// What a request wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

/// The decoded pairs of a query.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// The decoded segments of a path; 400 for anything that could be read in two ways.
pub fn segments(path: &str) -> Result<Vec<String>, ApiError> {
    let bad = || ApiError::bad_request("the path of the URL is not valid");
    let mut segments = Vec::new();
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    for segment in trimmed.split('/') {
        let text = percent_decode(segment, false).ok_or_else(bad)?;
        let clever = matches!(text.as_str(), "" | "." | "..");
        if clever || text.contains(['/', '\\']) || text.contains(char::is_control) {
            return Err(bad());
        }
        segments.push(text);
    }
    Ok(segments)
}

/// The resource that the segments name; `None` is a 404.
pub fn resource(registry: &Registry, segments: &[String]) -> Option<ResourcePath> {
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !group.is_empty() => (*group, *version, rest),
        _ => return None,
    };
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        _ => (false, rest),
    };
    let (namespace, rest) = match rest {
        ["namespaces", _] => ("", rest),
        ["namespaces", _, part] if group.is_empty() && NAMESPACE_PARTS.contains(part) => ("", rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        _ => ("", rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, "", ""),
        [resource, name] => (*resource, *name, ""),
        [resource, name, subresource] => (*resource, *name, *subresource),
        _ => return None,
    };
    let info = registry.by_url(group, version, resource)?.clone();
    let scope_fits = if info.gvr.namespaced {
        name.is_empty() || !namespace.is_empty()
    } else {
        namespace.is_empty()
    };
    let meta = &info.meta;
    let part_known = match subresource {
        "" => true,
        "status" => meta.status,
        "scale" => meta.scale,
        other => meta.subresources.iter().any(|s| s.name == other),
    };
    let watch_fits = !watch || subresource.is_empty() && !meta.review;
    (scope_fits && part_known && watch_fits).then(|| ResourcePath {
        info,
        namespace: namespace.into(),
        name: name.into(),
        subresource: subresource.into(),
        watch,
    })
}

/// The verb of a method on a resource.
///
/// # Errors
/// 405 where the method does not fit.
pub fn verb(method: &Method, path: &ResourcePath, query: &Query) -> Result<Verb, ApiError> {
    let one = !path.name.is_empty();
    if path.info.meta.review && *method != Method::POST {
        return Err(method_not_allowed());
    }
    if path.info.meta.computed && !matches!(*method, Method::GET | Method::HEAD) {
        let message = format!("{} are made by the server and only read", path.info.gvr);
        return Err(ApiError::new(405, Reason::MethodNotAllowed, message));
    }
    if path.watch {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        return is_read.then_some(Verb::Watch).ok_or_else(method_not_allowed);
    }
    let in_scope = !path.info.gvr.namespaced || !path.namespace.is_empty();
    Ok(match *method {
        Method::GET | Method::HEAD if one => Verb::Get,
        Method::GET | Method::HEAD if query.flag("watch") => Verb::Watch,
        Method::GET | Method::HEAD => Verb::List,
        Method::POST if in_scope && (!one || !path.subresource.is_empty()) => Verb::Create,
        Method::PUT if one => Verb::Update,
        Method::PATCH if one => Verb::Patch,
        Method::DELETE if one && path.subresource.is_empty() => Verb::Delete,
        Method::DELETE if !one && in_scope && path.info.meta.delete_collection => {
            Verb::DeleteCollection
        }
        _ => return Err(method_not_allowed()),
    })
}

impl Verb {
    /// The verb as authorization knows it.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    pub fn writes(self) -> bool {
        !matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

impl Query {
    pub fn parse(query: &str) -> Result<Query, ApiError> {
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = percent_decode(key, true).zip(percent_decode(value, true));
            pairs.push(decoded.ok_or_else(|| {
                ApiError::bad_request("the query of the URL is not valid percent encoding")
            })?);
        }
        Ok(Query(pairs))
    }

    /// The first value of a key, "" without one.
    pub fn get(&self, key: &str) -> &str {
        let found = self.0.iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// Upstream's rule for booleans: there, and neither `false` in any case nor `0`
    /// (k8s.io/apimachinery/pkg/runtime/conversion.go).
    pub fn flag(&self, key: &str) -> bool {
        let value = self.get(key);
        self.has(key) && value != "0" && !value.eq_ignore_ascii_case("false")
    }

    fn optional_flag(&self, key: &str) -> Option<bool> {
        self.has(key).then(|| self.flag(key))
    }

    /// A number that must not be negative; 400 for anything else.
    pub fn number(&self, key: &str) -> Result<Option<u64>, ApiError> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("the query parameter {key} is no number: {text:?}"))
            }),
        }
    }

    /// The size of a page; 0, and as upstream what is negative, is no limit.
    fn limit(&self) -> Result<usize, ApiError> {
        let text = self.get("limit");
        if text.is_empty() {
            return Ok(0);
        }
        let limit: i64 = text.parse().map_err(|_| {
            ApiError::bad_request(format!("the query parameter limit is no number: {text:?}"))
        })?;
        Ok(usize::try_from(limit).unwrap_or(0))
    }

    pub fn list_options(&self) -> Result<ListOptions, ApiError> {
        if self.has("sendInitialEvents") && !self.flag("watch") {
            let mut errors = Errors::default();
            let why = "sendInitialEvents is forbidden for list";
            errors.forbidden(&Path::new("sendInitialEvents"), why);
            return Err(ApiError::invalid_options("ListOptions", errors.into_vec()));
        }
        Ok(ListOptions {
            label_selector: self.get("labelSelector").into(),
            field_selector: self.get("fieldSelector").into(),
            limit: self.limit()?,
            continue_token: self.get("continue").into(),
            resource_version: self.get("resourceVersion").into(),
            resource_version_match: self.get("resourceVersionMatch").into(),
        })
    }

    pub fn watch_options(&self) -> Result<(WatchOptions, InitialEvents), ApiError> {
        let timeout = self.number("timeoutSeconds")?.map(Duration::from_secs);
        let options = WatchOptions {
            label_selector: self.get("labelSelector").into(),
            field_selector: self.get("fieldSelector").into(),
            resource_version: self.get("resourceVersion").into(),
            bookmarks: self.flag("allowWatchBookmarks"),
            timeout,
        };
        let initial = InitialEvents {
            send: self.optional_flag("sendInitialEvents"),
            resource_version_match: self.get("resourceVersionMatch").into(),
            continues: !self.get("continue").is_empty(),
        };
        Ok((options, initial))
    }

    pub fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        match self.get("fieldValidation") {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => {
                let message = format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \
                     \"Strict\", \"Warn\""
                );
                Err(ApiError::new(422, Reason::Invalid, message))
            }
        }
    }

    pub fn dry_run(&self) -> Result<bool, ApiError> {
        options::is_dry_run(self.all("dryRun").filter(|value| !value.is_empty()))
    }

    /// The manager that the client names; "" without one.
    pub fn field_manager(&self) -> Result<String, ApiError> {
        let manager = self.get("fieldManager");
        let too_long = manager.chars().count() > MAX_MANAGER_CHARACTERS;
        if too_long || manager.chars().any(char::is_control) {
            let message = format!(
                "fieldManager: Invalid value: must be at most {MAX_MANAGER_CHARACTERS} printable \
                 characters"
            );
            return Err(ApiError::new(422, Reason::Invalid, message));
        }
        Ok(manager.into())
    }

    /// Adds the query's deletion options to those of a body, where the body has none.
    pub fn delete_options(&self, mut body: DeleteOptions) -> Result<DeleteOptions, ApiError> {
        if body.grace_period_seconds.is_none() && self.has("gracePeriodSeconds") {
            let text = self.get("gracePeriodSeconds");
            let seconds = text.parse().map_err(|_| {
                ApiError::bad_request(format!("gracePeriodSeconds is no number: {text:?}"))
            })?;
            body.grace_period_seconds = Some(seconds);
        }
        if body.propagation_policy.is_none() {
            let orphan = self.optional_flag("orphanDependents");
            let policy = Some(self.get("propagationPolicy"));
            body.propagation_policy = options::propagation(policy, orphan)?;
        }
        body.dry_run |= self.dry_run()?;
        Ok(body)
    }
}

/// Percent-encoding of everything but letters, digits and a few signs.
pub(super) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `None` for what is no percent encoding of UTF-8. In queries `+` is a space.
pub(super) fn percent_decode(text: &str, plus: bool) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_string());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' if plus => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_be_clever() {
        for bad in
            ["/api/v1/../x", "/api//v1", "/api/%2e%2e/x", "/a/%2fb", "/a/%00", "/a/%zz", "/a/%ff"]
        {
            assert!(segments(bad).is_err(), "{bad}");
        }
        assert_eq!(segments("/api/v1/pods/a%20b/").unwrap(), ["api", "v1", "pods", "a b"]);
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+(d)&watch=1&x&f=False&z=0").unwrap();
        assert!(!query.flag("f") && !query.flag("z"));
        assert_eq!(query.get("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch") && query.flag("x") && !query.flag("y"));
        assert!(Query::parse("a=%").is_err());
    }

    #[test]
    fn urls_name_resources() {
        let registry = Registry::builtin();
        let find = |path: &str| resource(&registry, &segments(path).unwrap());
        let one = find("/api/v1/namespaces/n/configmaps/c").unwrap();
        assert_eq!((one.namespace.as_str(), one.name.as_str()), ("n", "c"));
        assert!(find("/api/v1/configmaps").is_some());
        assert!(find("/api/v1/configmaps/c").is_none());
        assert!(find("/api/v1/namespaces/n/configmaps/c/status").is_none());
        assert!(find("/apis/v1/configmaps").is_none());
        let watch = find("/api/v1/watch/namespaces/n/configmaps/c").unwrap();
        assert!(watch.watch && watch.namespace == "n" && watch.name == "c");
        assert!(find("/api/v1/watch/nodes").is_some_and(|path| path.watch));
        assert!(find("/api/v1/watch/namespaces/n").is_some_and(|path| path.name == "n"));
        assert!(find("/api/v1/watch/namespaces/n/pods/p/status").is_none());
    }
}
