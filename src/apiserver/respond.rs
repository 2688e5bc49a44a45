//! From stored bytes to the bytes of an answer: lists, tables, metadata only, watch events,
//! indentation, YAML. The plain form copies stored bytes and parses nothing.

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::negotiate::{Form, Shape};
use super::read::{Listed, STRIDE_ENTRIES};
use super::watch::Sent;
use super::{Body, full, tables};
use crate::api::ApiError;
use crate::api::resource::KindInfo;
use jiff::Timestamp;

/// How many objects are parsed for a list before others may run.
const STRIDE_PARSED: usize = 100;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");

/// One object in the form asked for.
pub fn object(info: &KindInfo, form: Form, raw: &Bytes, now: Timestamp) -> Result<Bytes, ApiError> {
    match form.shape {
        Shape::Plain => Ok(raw.clone()),
        Shape::Metadata { version } => {
            let mut out = Vec::with_capacity(512);
            metadata_object(&mut out, raw, version)?;
            Ok(out.into())
        }
        Shape::Table { version, include } => {
            tables::table(info, version, include, &version_of(raw)?, raw, now)
        }
    }
}

/// A list in the form asked for; a long one lets others run while it is written.
pub async fn list(
    info: &KindInfo,
    form: Form,
    listed: &Listed,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    let mut out = match form.shape {
        Shape::Plain => list_head(info, listed),
        Shape::Metadata { version } => format!(
            "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/{version}\",\
             \"metadata\":{},\"items\":[",
            list_meta(listed)
        )
        .into_bytes(),
        Shape::Table { version, .. } => tables::head(info, version, &list_meta(listed)),
    };
    let stride = if form.shape == Shape::Plain { STRIDE_ENTRIES } else { STRIDE_PARSED };
    for (index, raw) in listed.items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
            if index % stride == 0 {
                tokio::task::yield_now().await;
            }
        }
        match form.shape {
            Shape::Plain => out.extend_from_slice(raw),
            Shape::Metadata { version } => metadata_object(&mut out, raw, version)?,
            Shape::Table { version, include } => {
                tables::row(&mut out, info, version, include, raw, now)?;
            }
        }
    }
    out.extend_from_slice(LIST_TAIL);
    Ok(out.into())
}

/// The plain list: the stored bytes one after another.
pub fn list_json(info: &KindInfo, listed: &Listed) -> Bytes {
    let mut out = list_head(info, listed);
    for (index, raw) in listed.items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(raw);
    }
    out.extend_from_slice(LIST_TAIL);
    out.into()
}

/// The end of every list, tables too.
const LIST_TAIL: &[u8] = tables::TAIL;

/// The beginning of a plain list, with room for all of it.
fn list_head(info: &KindInfo, listed: &Listed) -> Vec<u8> {
    let size: usize = listed.items.iter().map(|raw| raw.len() + 1).sum();
    let mut out = Vec::with_capacity(size + 1024);
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{},\"items\":[",
        Value::from(&*info.list_kind),
        Value::from(info.gvr.api_version()),
        list_meta(listed)
    );
    out.extend_from_slice(head.as_bytes());
    out
}

fn list_meta(listed: &Listed) -> String {
    let mut text = format!("{{\"resourceVersion\":\"{}\"", listed.revision);
    if !listed.continue_token.is_empty() {
        text.push_str(&format!(",\"continue\":{}", Value::from(listed.continue_token.as_str())));
    }
    if let Some(remaining) = listed.remaining {
        text.push_str(&format!(",\"remainingItemCount\":{remaining}"));
    }
    text.push('}');
    text
}

/// The metadata's own text.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

/// The text of an object's metadata, unparsed.
pub(super) fn metadata_text(raw: &Bytes) -> Result<&str, ApiError> {
    let head: Head = serde_json::from_slice(raw)
        .map_err(|e| ApiError::internal(format!("a stored object cannot be read: {e}")))?;
    Ok(head.metadata.get())
}

pub(super) fn metadata_object(
    out: &mut Vec<u8>,
    raw: &Bytes,
    version: &str,
) -> Result<(), ApiError> {
    put_metadata(out, version, metadata_text(raw)?);
    Ok(())
}

fn put_metadata(out: &mut Vec<u8>, version: &str, meta: &str) {
    let head = format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":"
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(meta.as_bytes());
    out.push(b'}');
}

/// The metadata of a table of one object: its resource version.
fn version_of(raw: &Bytes) -> Result<String, ApiError> {
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(rename = "resourceVersion", default)]
        version: std::borrow::Cow<'a, str>,
    }
    let meta: Meta = serde_json::from_str(metadata_text(raw)?)
        .map_err(|e| ApiError::internal(format!("a stored object cannot be read: {e}")))?;
    Ok(format!("{{\"resourceVersion\":{}}}", Value::from(&*meta.version)))
}

/// One event of a watch as a line.
pub fn event(
    out: &mut Vec<u8>,
    info: &KindInfo,
    form: Form,
    sent: &Sent,
    now: Timestamp,
) -> Result<(), ApiError> {
    let (title, body) = match sent {
        Sent::Added(raw) => ("ADDED", object(info, form, raw, now)?),
        Sent::Modified(raw) => ("MODIFIED", object(info, form, raw, now)?),
        Sent::Deleted(raw) => ("DELETED", object(info, form, raw, now)?),
        Sent::Bookmark { revision, initial_end } => {
            ("BOOKMARK", bookmark(info, form, *revision, *initial_end, now)?)
        }
    };
    line(out, title, &body);
    Ok(())
}

/// The event that ends a watch in failure.
pub fn error_event(out: &mut Vec<u8>, error: &ApiError) {
    line(out, "ERROR", error.to_json().as_bytes());
}

fn line(out: &mut Vec<u8>, title: &str, body: &[u8]) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(title.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(body);
    out.extend_from_slice(b"}\n");
}

/// An object that has a kind and a resource version and nothing else.
fn bookmark(
    info: &KindInfo,
    form: Form,
    revision: u64,
    initial_end: bool,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    let annotations = match initial_end {
        true => ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}",
        false => "",
    };
    let meta = format!("{{\"resourceVersion\":\"{revision}\"{annotations}}}");
    match form.shape {
        Shape::Plain => Ok(bare_object(info, &meta)),
        Shape::Metadata { version } => {
            let mut out = Vec::with_capacity(256);
            put_metadata(&mut out, version, &meta);
            Ok(out.into())
        }
        Shape::Table { version, include } => tables::bookmark(info, version, include, &meta, now),
    }
}

/// An object of a kind with this metadata and nothing else.
pub(super) fn bare_object(info: &KindInfo, meta: &str) -> Bytes {
    let (kind, api_version) = (Value::from(&*info.kind), Value::from(info.gvr.api_version()));
    format!("{{\"kind\":{kind},\"apiVersion\":{api_version},\"metadata\":{meta}}}").into()
}

/// A whole response with JSON (one newline at its end) or what the form asks for.
pub fn response(code: u16, form: Form, json: Bytes) -> Response<Body> {
    let (media, body) = if form.yaml {
        (YAML, yaml(&json))
    } else if form.pretty {
        (JSON, indent(&json))
    } else {
        // A list's own buffer has room; one object's bytes, which others share, are copied once.
        let mut body = if json.is_unique() {
            Vec::from(json)
        } else {
            let mut copy = Vec::with_capacity(json.len() + 1);
            copy.extend_from_slice(&json);
            copy
        };
        body.push(b'\n');
        (JSON, body)
    };
    let mut response = Response::new(full(body));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, media);
    response
}

/// A failure as its Status, always JSON.
pub fn failure(error: &ApiError, pretty: bool) -> Response<Body> {
    let form = Form { shape: Shape::Plain, yaml: false, pretty };
    let mut response = response(error.code, form, error.to_json().into());
    if let Some(seconds) = error.retry_after_seconds() {
        let value = HeaderValue::from(seconds);
        response.headers_mut().insert(http::header::RETRY_AFTER, value);
    }
    response
}

fn yaml(json: &[u8]) -> Vec<u8> {
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    serde_yaml::to_string(&value).unwrap_or_default().into_bytes()
}

/// Indents by two spaces and keeps the order of keys, as Go's `json.Indent`.
pub fn indent(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0usize;
    let (mut in_text, mut escaped) = (false, false);
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    let mut bytes = json.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if in_text {
            out.push(byte);
            in_text = byte != b'"' || escaped;
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'"' => {
                in_text = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                if let Some(close) = bytes.next_if(|b| matches!(b, b'}' | b']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\n' | b'\r' | b'\t' => {}
            byte => out.push(byte),
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indents_and_keeps_order() {
        let json = br#"{"kind":"A","b":[1,{"c\"}":"x,:"}],"d":{},"e":[]}"#;
        let text = String::from_utf8(indent(json)).unwrap();
        let expected = r#"{
  "kind": "A",
  "b": [
    1,
    {
      "c\"}": "x,:"
    }
  ],
  "d": {},
  "e": []
}
"#;
        assert_eq!(text, expected);
    }
}
