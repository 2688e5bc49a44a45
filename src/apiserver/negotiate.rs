//! In which form a client wants its answer: `Accept`, `pretty` and `includeObject`.

use http::HeaderMap;
use http::header::{ACCEPT, USER_AGENT};

use super::request::Query;
use crate::api::ApiError;
use crate::api::error::Reason;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub shape: Shape,
    pub yaml: bool,
    /// Indented, for people with curl or a browser.
    pub pretty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As stored.
    Plain,
    Table {
        /// `v1` or `v1beta1`.
        version: &'static str,
        include: Include,
    },
    /// PartialObjectMetadata, or the list of it.
    Metadata { version: &'static str },
}

/// What a table's rows carry of their objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

/// The first form of `Accept` that can be given. `is_resource` is false for answers that are no
/// objects of a kind in the store (a Scale, say), which have no table.
///
/// # Errors
/// 406 if there is none.
pub fn negotiate(headers: &HeaderMap, query: &Query, is_resource: bool) -> Result<Form, ApiError> {
    let pretty = is_pretty(headers, query);
    let include = match query.get("includeObject") {
        "None" => Include::None,
        "Object" => Include::Object,
        "" | "Metadata" => Include::Metadata,
        other => {
            let message = format!(
                "includeObject: Unsupported value: {other:?}: supported values: \"Metadata\", \
                 \"None\", \"Object\""
            );
            return Err(ApiError::bad_request(message));
        }
    };
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let items: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    if items.iter().all(|item| item.is_empty()) {
        return Ok(Form { shape: Shape::Plain, yaml: false, pretty });
    }
    let found = items.iter().find_map(|item| acceptable(item, include, is_resource));
    match found {
        Some((shape, yaml)) => Ok(Form { shape, yaml, pretty }),
        None => Err(ApiError::new(
            406,
            Reason::NotAcceptable,
            "only the following media types are accepted: application/json, application/yaml",
        )),
    }
}

fn acceptable(item: &str, include: Include, is_resource: bool) -> Option<(Shape, bool)> {
    let mut parts = item.split(';').map(str::trim);
    let yaml = match parts.next()? {
        "application/json" | "*/*" | "application/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = ("", "", "");
    for (key, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
        match key.trim() {
            "as" => kind = value.trim(),
            "g" => group = value.trim(),
            "v" => version = value.trim(),
            _ => {}
        }
    }
    if kind.is_empty() {
        return Some((Shape::Plain, yaml));
    }
    let version = match version {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        _ => return None,
    };
    if group != "meta.k8s.io" || !is_resource {
        return None;
    }
    match kind {
        "Table" => Some((Shape::Table { version, include }, yaml)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => {
            Some((Shape::Metadata { version }, yaml))
        }
        _ => None,
    }
}

/// Whether the answer is indented: as the query says, else by who asks.
pub fn is_pretty(headers: &HeaderMap, query: &Query) -> bool {
    match query.get("pretty") {
        "" => is_a_person(headers),
        // Here upstream reads booleans as Go's strconv.ParseBool, and what is none as false.
        text => matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True"),
    }
}

/// Programs that people read the output of (k8s.io/apiserver's negotiation).
fn is_a_person(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(accept: &str, is_resource: bool) -> Result<(Shape, bool), u16> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let form = negotiate(&headers, &Query::default(), is_resource).map_err(|e| e.code)?;
        Ok((form.shape, form.yaml))
    }

    #[test]
    fn the_first_acceptable_form_wins() {
        let table = Shape::Table { version: "v1", include: Include::Metadata };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(shape(kubectl, true), Ok((table, false)));
        assert_eq!(shape(kubectl, false), Ok((Shape::Plain, false)));
        assert_eq!(shape("application/json;as=Table;v=v1;g=meta.k8s.io", false), Err(406));
        assert_eq!(
            shape("application/json;as=Table;v=v2;g=meta.k8s.io,*/*", true),
            Ok((Shape::Plain, false))
        );
        assert_eq!(shape("application/vnd.kubernetes.protobuf", true), Err(406));
        assert_eq!(
            shape("application/vnd.kubernetes.protobuf,application/json", true),
            Ok((Shape::Plain, false))
        );
        assert_eq!(shape("application/yaml", true), Ok((Shape::Plain, true)));
        assert_eq!(shape("text/html,*/*;q=0.8", true), Ok((Shape::Plain, false)));
    }
}
