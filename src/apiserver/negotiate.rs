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

/// What an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Object,
    List,
    /// Events, which are never YAML.
    Watch,
    /// Nothing of a kind in the store (a Scale, say): it has no table.
    Other,
}

/// The first form of `Accept` that can be given.
///
/// # Errors
/// 406 if there is none, and for the metadata of a list where it is not a list, or the other way
/// round; 400 for a table with a wrong `includeObject`.
pub fn negotiate(headers: &HeaderMap, query: &Query, content: Content) -> Result<Form, ApiError> {
    let pretty = is_pretty(headers, query);
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let items: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    if items.iter().all(|item| item.is_empty()) {
        return Ok(Form { shape: Shape::Plain, yaml: false, pretty });
    }
    let Some((wanted, yaml)) = items.iter().find_map(|item| acceptable(item, content)) else {
        let all = match content {
            Content::Watch => "application/json",
            _ => "application/json, application/yaml",
        };
        let message = format!("only the following media types are accepted: {all}");
        return Err(ApiError::new(406, Reason::NotAcceptable, message));
    };
    let shape = match wanted {
        Wanted::Plain => Shape::Plain,
        Wanted::Table(version) => Shape::Table { version, include: include(query)? },
        Wanted::Metadata { list, .. }
            if list != (content == Content::List) && !is_watch(content) =>
        {
            let message = match list {
                true => {
                    "you requested PartialObjectMetadataList, but the requested object is not a list"
                }
                false => "you requested PartialObjectMetadata, but the requested object is a list",
            };
            return Err(ApiError::new(406, Reason::NotAcceptable, message));
        }
        Wanted::Metadata { version, .. } => Shape::Metadata { version },
    };
    Ok(Form { shape, yaml, pretty })
}

fn is_watch(content: Content) -> bool {
    content == Content::Watch
}

fn include(query: &Query) -> Result<Include, ApiError> {
    match query.get("includeObject") {
        "None" => Ok(Include::None),
        "Object" => Ok(Include::Object),
        "" | "Metadata" => Ok(Include::Metadata),
        other => Err(ApiError::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Unsupported value: \
             {other:?}: supported values: \"Metadata\", \"None\", \"Object\""
        ))),
    }
}

/// What an item of `Accept` asks for.
enum Wanted {
    Plain,
    /// `v1` or `v1beta1`.
    Table(&'static str),
    Metadata {
        version: &'static str,
        list: bool,
    },
}

fn acceptable(item: &str, content: Content) -> Option<(Wanted, bool)> {
    let mut parts = item.split(';').map(str::trim);
    let yaml = match parts.next()? {
        "application/json" | "*/*" | "application/*" => false,
        "application/yaml" if !is_watch(content) => true,
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
        return Some((Wanted::Plain, yaml));
    }
    let version = match version {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        _ => return None,
    };
    if group != "meta.k8s.io" || content == Content::Other {
        return None;
    }
    let wanted = match kind {
        "Table" => Wanted::Table(version),
        "PartialObjectMetadata" => Wanted::Metadata { version, list: false },
        "PartialObjectMetadataList" => Wanted::Metadata { version, list: true },
        _ => return None,
    };
    Some((wanted, yaml))
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

    fn shape(accept: &str, content: Content) -> Result<(Shape, bool), u16> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let form = negotiate(&headers, &Query::default(), content).map_err(|e| e.code)?;
        Ok((form.shape, form.yaml))
    }

    #[test]
    fn the_first_acceptable_form_wins() {
        let table = Shape::Table { version: "v1", include: Include::Metadata };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(shape(kubectl, Content::Object), Ok((table, false)));
        assert_eq!(shape(kubectl, Content::Other), Ok((Shape::Plain, false)));
        assert_eq!(shape("application/json;as=Table;v=v1;g=meta.k8s.io", Content::Other), Err(406));
        assert_eq!(
            shape("application/json;as=Table;v=v2;g=meta.k8s.io,*/*", Content::Object),
            Ok((Shape::Plain, false))
        );
        assert_eq!(shape("application/vnd.kubernetes.protobuf", Content::Object), Err(406));
        assert_eq!(
            shape("application/vnd.kubernetes.protobuf,application/json", Content::Object),
            Ok((Shape::Plain, false))
        );
        assert_eq!(shape("application/yaml", Content::Object), Ok((Shape::Plain, true)));
        assert_eq!(shape("text/html,*/*;q=0.8", Content::Object), Ok((Shape::Plain, false)));
        assert_eq!(shape("application/yaml", Content::Watch), Err(406));
        let json = "application/yaml,application/json;stream=watch";
        assert_eq!(shape(json, Content::Watch), Ok((Shape::Plain, false)));
    }

    #[test]
    fn metadata_is_of_a_list_or_of_an_object() {
        let form = |kind: &str| format!("application/json;as={kind};v=v1;g=meta.k8s.io,*/*");
        let metadata = Ok((Shape::Metadata { version: "v1" }, false));
        for (kind, fits, not) in [
            ("PartialObjectMetadata", Content::Object, Content::List),
            ("PartialObjectMetadataList", Content::List, Content::Object),
        ] {
            assert_eq!(shape(&form(kind), fits), metadata);
            assert_eq!(shape(&form(kind), Content::Watch), metadata);
            assert_eq!(shape(&form(kind), not), Err(406));
        }
    }
}
