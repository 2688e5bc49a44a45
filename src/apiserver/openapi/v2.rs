//! `/openapi/v2` in JSON: the documents of all group versions as one.
//!
//! Each document's part is kept beside it, so that a definition that comes or goes costs its own
//! group version and one pass over the texts of the others.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use http::header::ACCEPT;
use http::{HeaderMap, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::{Document, OpenApi, hash_of, quoted, tagged};
use crate::api::ApiError;
use crate::api::registry::Registry;
use crate::api::schema;
use crate::apiserver::health::GIT_VERSION;
use crate::apiserver::{Body, reply};

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// How clients ask for it: an `@` where the answer has a dot.
const PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const KINDS: &str = "x-kubernetes-group-version-kind";

/// The document, and of what it was made.
pub(super) struct Whole {
    parts: Vec<Arc<Document>>,
    hash: String,
    /// By LZ4 with its size in front.
    compressed: Vec<u8>,
}

/// What one group version has.
#[derive(Deserialize, Serialize)]
struct Part<'a> {
    #[serde(borrow)]
    paths: BTreeMap<String, &'a RawValue>,
    #[serde(borrow)]
    definitions: BTreeMap<String, &'a RawValue>,
}

#[derive(Serialize)]
struct Text<'a> {
    swagger: &'static str,
    info: Value,
    paths: BTreeMap<String, &'a RawValue>,
    definitions: BTreeMap<String, RawOf<'a>>,
}

/// As it stands in a part, or made of several.
#[derive(Serialize)]
#[serde(untagged)]
enum RawOf<'a> {
    Part(&'a RawValue),
    Merged(Box<RawValue>),
}

impl RawOf<'_> {
    fn text(&self) -> &str {
        match self {
            RawOf::Part(raw) => raw.get(),
            RawOf::Merged(raw) => raw.get(),
        }
    }
}

/// kubectl wants protobuf, and no more than a well-formed document when v3 is there.
pub(super) fn wants_protobuf(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(ACCEPT).into_iter().filter_map(|v| v.to_str().ok());
    let known = accepts
        .flat_map(|value| value.split(','))
        .map(|item| item.split(';').next().unwrap_or_default().trim())
        .find(|item| matches!(*item, PROTOBUF_ASKED | PROTOBUF | "application/json" | "*/*" | ""));
    matches!(known, Some(PROTOBUF_ASKED | PROTOBUF))
}

pub(super) fn protobuf(headers: &HeaderMap) -> Response<Body> {
    let bytes = schema::V2_PROTOBUF.as_slice();
    tagged(headers, &quoted(&hash_of(bytes)), || reply::bytes(StatusCode::OK, PROTOBUF, bytes))
}

impl OpenApi {
    pub(super) fn v2(&self, registry: &Registry, headers: &HeaderMap) -> Response<Body> {
        match self.whole(registry) {
            Ok(whole) => {
                tagged(headers, &quoted(&whole.hash), || match lz4_flex::decompress_size_prepended(
                    &whole.compressed,
                ) {
                    Ok(text) => reply::bytes(StatusCode::OK, "application/json", text),
                    Err(error) => reply::status(&ApiError::internal(error)),
                })
            }
            Err(error) => reply::status(&error),
        }
    }

    fn whole(&self, registry: &Registry) -> Result<Arc<Whole>, ApiError> {
        let mut parts: BTreeMap<String, Arc<Document>> = BTreeMap::new();
        for info in registry.rows() {
            let path = schema::document_path(&info.gvr.group, &info.gvr.version);
            let Entry::Vacant(place) = parts.entry(path) else { continue };
            if let Some(document) = self.made(registry, place.key())? {
                place.insert(document);
            }
        }
        let parts: Vec<Arc<Document>> = parts.into_values().collect();
        // Held while it is made: clients that ask at once cost one pass.
        let mut kept = self.whole.lock();
        if let Some(whole) = &*kept
            && whole.parts.len() == parts.len()
            && whole.parts.iter().zip(&parts).all(|(old, new)| Arc::ptr_eq(old, new))
        {
            return Ok(whole.clone());
        }
        let texts =
            parts.iter().map(|document| document.part()).collect::<Result<Vec<String>, _>>()?;
        let text = joined(&texts).map_err(ApiError::internal)?;
        let whole = Arc::new(Whole {
            parts,
            hash: hash_of(&text),
            compressed: lz4_flex::compress_prepend_size(&text),
        });
        *kept = Some(whole.clone());
        Ok(whole)
    }
}

fn joined(texts: &[String]) -> serde_json::Result<Vec<u8>> {
    let mut whole = Text {
        swagger: "2.0",
        info: json!({"title": "Kubernetes", "version": GIT_VERSION}),
        paths: BTreeMap::new(),
        definitions: BTreeMap::new(),
    };
    for text in texts {
        let part: Part = serde_json::from_str(text)?;
        whole.paths.extend(part.paths);
        for (name, raw) in part.definitions {
            match whole.definitions.entry(name) {
                Entry::Vacant(place) => {
                    place.insert(RawOf::Part(raw));
                }
                Entry::Occupied(mut place) if place.get().text() != raw.get() => {
                    let merged = merged(place.get().text(), raw.get())?;
                    place.insert(RawOf::Merged(merged));
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    serde_json::to_vec(&whole)
}

/// A type that several groups use (`DeleteOptions`) is a kind of each of them.
fn merged(one: &str, other: &str) -> serde_json::Result<Box<RawValue>> {
    let (mut one, mut other): (Value, Value) =
        (serde_json::from_str(one)?, serde_json::from_str(other)?);
    if let (Some(Value::Array(have)), Value::Array(more)) =
        (one.get_mut(KINDS), other[KINDS].take())
    {
        for kind in more {
            if !have.contains(&kind) {
                have.push(kind);
            }
        }
    }
    to_raw_value(&one)
}

impl Document {
    /// This document's part of the whole, made when it is first asked for.
    fn part(&self) -> Result<String, ApiError> {
        let text = lz4_flex::decompress_size_prepended(match self.part.get() {
            Some(made) => made,
            None => {
                let made = self.make_part()?;
                self.part.get_or_init(|| made)
            }
        });
        String::from_utf8(text.map_err(ApiError::internal)?).map_err(ApiError::internal)
    }

    fn make_part(&self) -> Result<Vec<u8>, ApiError> {
        let text = lz4_flex::decompress_size_prepended(&self.compressed);
        let document = serde_json::from_slice(&text.map_err(ApiError::internal)?);
        let document: Value = document.map_err(ApiError::internal)?;
        let rows = self.rows.iter().map(|row| &**row);
        let (paths, definitions) = schema::v2::parts(document, rows);
        let text = json!({ "paths": paths, "definitions": definitions }).to_string();
        Ok(lz4_flex::compress_prepend_size(text.as_bytes()))
    }
}
