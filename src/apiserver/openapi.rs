//! `/openapi/v3` and `/openapi/v2`: the schemas of everything that is served.
//!
//! The documents come from [`crate::api::schema`]. Each is made once, when the index or the
//! document itself is first asked for, and kept compressed: a server that nobody asks holds none.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, OnceLock};

use http::header::{CACHE_CONTROL, ETAG, EXPIRES, HeaderName, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::health::GIT_VERSION;
use super::{Body, reply};
use crate::api::error::Reason;
use crate::api::registry::Registry;
use crate::api::schema::{self, OpenApiKind};
use crate::api::{ApiError, KindInfo};

mod v2;

/// How long a document with its hash in the URL may be kept by anyone.
const IMMUTABLE_FOR: SignedDuration = SignedDuration::from_hours(365 * 24);

/// The documents that were made; one for a server.
#[derive(Default)]
pub struct OpenApi {
    /// By path (`apis/apps/v1`).
    documents: Mutex<BTreeMap<String, Arc<Document>>>,
    /// Version 2, which is one for all.
    whole: Mutex<Option<Arc<v2::Whole>>>,
}

struct Document {
    /// The rows that it was made of: with others it is made anew.
    rows: Vec<Arc<KindInfo>>,
    hash: String,
    /// JSON, by LZ4 with its size in front.
    compressed: Vec<u8>,
    /// In the same way, its part of version 2, once someone asked for that.
    part: OnceLock<Vec<u8>>,
}

impl OpenApi {
    /// Answers a path below `/openapi`. `now` is for `Expires`.
    pub async fn respond(
        self: &Arc<Self>,
        registry: &Arc<Registry>,
        request: &Request<()>,
        now: Timestamp,
    ) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let message = "schemas are only read";
            return reply::status(&ApiError::new(405, Reason::MethodNotAllowed, message));
        }
        let path = request.uri().path().trim_end_matches('/').to_string();
        let (own, registry) = (self.clone(), registry.clone());
        let (headers, uri) = (request.headers().clone(), request.uri().clone());
        // Making the documents of every group takes a good part of a second on a small machine.
        if path == "/openapi/v2" {
            if v2::wants_protobuf(&headers) {
                return v2::protobuf(&headers);
            }
            let made = tokio::task::spawn_blocking(move || own.v2(&registry, &headers));
            return made.await.unwrap_or_else(|e| reply::status(&ApiError::internal(e)));
        }
        let Some(rest) = path.strip_prefix("/openapi/v3").map(str::to_string) else {
            return reply::no_such_path();
        };
        let made = tokio::task::spawn_blocking(move || match rest.strip_prefix('/') {
            None => own.index(&registry, &headers),
            Some(document) => own.document(&registry, document, &headers, uri.query(), now),
        });
        made.await.unwrap_or_else(|error| reply::status(&ApiError::internal(error)))
    }

    fn index(&self, registry: &Registry, headers: &HeaderMap) -> Response<Body> {
        let mut hashes = BTreeMap::new();
        for info in registry.rows() {
            let path = schema::document_path(&info.gvr.group, &info.gvr.version);
            let Entry::Vacant(place) = hashes.entry(path) else { continue };
            match self.made(registry, place.key()) {
                Ok(Some(document)) => {
                    place.insert(document.hash.clone());
                }
                Ok(None) => {}
                Err(error) => return reply::status(&error),
            }
        }
        let index = schema::index(hashes.iter().map(|(path, hash)| (&**path, &**hash)));
        let text = index.to_string();
        let tag = quoted(&hash_of(text.as_bytes()));
        tagged(headers, &tag, || reply::bytes(StatusCode::OK, "application/json", text))
    }

    fn document(
        &self,
        registry: &Registry,
        path: &str,
        headers: &HeaderMap,
        query: Option<&str>,
        now: Timestamp,
    ) -> Response<Body> {
        let document = match self.made(registry, path) {
            Ok(Some(document)) => document,
            Ok(None) => return reply::no_such_path(),
            Err(error) => return reply::status(&error),
        };
        let asked =
            query.into_iter().flat_map(|q| q.split('&')).find_map(|p| p.strip_prefix("hash="));
        if asked.is_some_and(|hash| hash != document.hash) {
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            let mut response = reply::empty(StatusCode::MOVED_PERMANENTLY);
            set(&mut response, LOCATION, &url);
            return response;
        }
        let mut response = tagged(headers, &quoted(&document.hash), || document.json());
        if asked.is_some() {
            set(&mut response, CACHE_CONTROL, "public, immutable");
            let expires = now.checked_add(IMMUTABLE_FOR).unwrap_or(now);
            set(&mut response, EXPIRES, &expires.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
        }
        response
    }

    /// The document of a group version, made if it was not yet; `None` if nobody serves it.
    fn made(&self, registry: &Registry, path: &str) -> Result<Option<Arc<Document>>, ApiError> {
        // Held while a document is made: two clients that ask at once cost one generation.
        let mut documents = self.documents.lock();
        let fits = |info: &&Arc<KindInfo>| {
            schema::document_path(&info.gvr.group, &info.gvr.version) == path
        };
        let rows: Vec<Arc<KindInfo>> = registry.rows().iter().filter(fits).cloned().collect();
        let Some(first) = rows.first().map(|info| info.gvr.clone()) else {
            documents.remove(path);
            return Ok(None);
        };
        if let Some(document) = documents.get(path)
            && document.rows.len() == rows.len()
            && document.rows.iter().zip(&rows).all(|(old, new)| Arc::ptr_eq(old, new))
        {
            return Ok(Some(document.clone()));
        }
        let kinds: Vec<OpenApiKind> = rows.iter().map(|info| OpenApiKind::from(&**info)).collect();
        let value = schema::document(&first.group, &first.version, &kinds, GIT_VERSION);
        let text = serde_json::to_vec(&value).map_err(ApiError::internal)?;
        let document = Arc::new(Document {
            rows,
            hash: hash_of(&text),
            compressed: lz4_flex::compress_prepend_size(&text),
            part: OnceLock::new(),
        });
        documents.insert(path.to_string(), document.clone());
        Ok(Some(document))
    }
}

impl Document {
    fn json(&self) -> Response<Body> {
        match lz4_flex::decompress_size_prepended(&self.compressed) {
            Ok(text) => reply::bytes(StatusCode::OK, "application/json", text),
            Err(error) => reply::status(&ApiError::internal(error)),
        }
    }
}

/// The answer with its entity tag; 304 for who has it already.
fn tagged(
    headers: &HeaderMap,
    tag: &str,
    answer: impl FnOnce() -> Response<Body>,
) -> Response<Body> {
    let known = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|v| v.to_str().ok());
    let unchanged = known.flat_map(|v| v.split(',')).any(|v| v.trim() == "*" || v.trim() == tag);
    let mut response = match unchanged {
        true => reply::empty(StatusCode::NOT_MODIFIED),
        false => answer(),
    };
    set(&mut response, ETAG, tag);
    set(&mut response, VARY, "Accept");
    response
}

fn set(response: &mut Response<Body>, header: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(header, value);
    }
}

fn hash_of(bytes: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(bytes))
}

fn quoted(hash: &str) -> String {
    format!("\"{hash}\"")
}
