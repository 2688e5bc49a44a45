//! Referrers: manifests that are about another one, their subject, such as signatures and lists of
//! contents (OCI distribution-spec 1.1, "Listing Referrers").
//!
//! Beside a repository's records lies `_referrers/<subject>/<hex>` for each: the descriptor that the
//! list has of it. A subject may come later than its referrers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use http::header::HeaderName;
use http::{HeaderValue, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::errors::{OciError, OciResult};
use super::listing::{link, names, page};
use super::manifests::{found, refused};
use super::{Artifacts, DIR_MODE, Record};
use crate::apiserver::request::{Query, percent_encode};
use crate::apiserver::{Body, reply};
use crate::base::durable::create_dirs;
use crate::images::digest_hex;
use crate::images::index;
use crate::images::layout::LayoutError;

/// Of a manifest's answer: its subject was seen, and clients need keep no list of their own.
pub(super) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const ARTIFACT_TYPE: &str = "artifactType";
/// What one answer has of descriptors, in bytes: clients take 4 MiB, and each descriptor may have the
/// annotations of a whole manifest (1 MiB).
const MAX_ANSWER_BYTES: usize = 2 << 20;

/// What a manifest or an index says of itself beside what it lists.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct About {
    subject: Option<Named>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
    config: Option<Named>,
    layers: Option<Vec<Named>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Named {
    media_type: String,
    digest: String,
}

impl About {
    pub fn parse(text: &[u8]) -> OciResult<About> {
        let about: About = serde_json::from_slice(text)
            .map_err(|error| refused(&LayoutError::Unreadable(error.to_string()).to_string()))?;
        match about.subject() {
            Some(digest) if digest_hex(digest).is_none() => {
                Err(refused(&format!("its subject {digest:?} is not a sha256 digest")))
            }
            _ => Ok(about),
        }
    }

    pub fn subject(&self) -> Option<&str> {
        self.subject.as_ref().map(|subject| &*subject.digest)
    }

    /// Of what is about another one, or has a type of its own: the digests of its blobs, whatever they
    /// are.
    pub fn blobs(&self) -> Option<(String, Vec<String>)> {
        let artifact_type = self.artifact_type.as_ref().filter(|name| !name.is_empty());
        let is_artifact = self.subject.is_some() || artifact_type.is_some();
        let config = self.config.as_ref().filter(|_| is_artifact)?;
        let layers = self.layers.iter().flatten().map(|layer| layer.digest.clone());
        Some((config.digest.clone(), layers.collect()))
    }

    /// Its descriptor in the list of its subject's referrers.
    fn descriptor(&self, record: &Record, size: usize) -> Value {
        let mut descriptor =
            json!({"mediaType": record.media_type, "digest": record.digest, "size": size});
        let own = self.artifact_type.as_ref().filter(|name| !name.is_empty());
        let config = self.config.as_ref().map(|config| &config.media_type);
        if let Some(name) = own.or(config.filter(|_| record.index.is_none())) {
            descriptor[ARTIFACT_TYPE] = json!(name);
        }
        if let Some(annotations) = self.annotations.as_ref().filter(|all| !all.is_empty()) {
            descriptor["annotations"] = json!(annotations);
        }
        descriptor
    }
}

impl Artifacts {
    /// Lists a manifest among its subject's referrers, durable when this returns. Only under `changes`.
    pub(super) fn keep_referrer(
        &self,
        repository: &str,
        about: &About,
        record: &Record,
        size: usize,
    ) -> io::Result<()> {
        let Some(path) = self.referrer_path(repository, record) else { return Ok(()) };
        if let Some(dir) = path.parent() {
            create_dirs(dir, DIR_MODE)?;
        }
        self.replace(&path, about.descriptor(record, size).to_string().as_bytes())
    }

    /// Takes a manifest off the list of its subject's referrers. Only under `changes`.
    pub(super) fn forget_referrer(&self, repository: &str, record: &Record) -> io::Result<()> {
        let Some(path) = self.referrer_path(repository, record) else { return Ok(()) };
        found(fs::remove_file(&path))?;
        // The directory goes with the last of it, and stays while there are others.
        let _ = path.parent().map(fs::remove_dir);
        Ok(())
    }

    fn referrer_path(&self, repository: &str, record: &Record) -> Option<PathBuf> {
        let subject = digest_hex(record.subject.as_ref()?)?;
        Some(self.referrers_dir(repository, subject).join(digest_hex(&record.digest)?))
    }

    fn referrers_dir(&self, repository: &str, subject: &str) -> PathBuf {
        self.repository_dir(repository).join("_referrers").join(subject)
    }

    /// `GET …/referrers/<digest>`: an index of them, in pages. None of a digest that nobody knows is an
    /// answer, too.
    pub(super) fn referrers(
        &self,
        repository: &str,
        digest: &str,
        query: &str,
    ) -> OciResult<Response<Body>> {
        let invalid = |message: String| OciError::bad("DIGEST_INVALID", message);
        let Some(subject) = digest_hex(digest) else {
            return Err(invalid(LayoutError::Digest(digest.into()).to_string()));
        };
        let fields = Query::parse(query).map_err(|error| invalid(error.message))?;
        // Of a plus that was sent as it is, a space is read; media types have none.
        let wanted = fields.get(ARTIFACT_TYPE).replace(' ', "+");
        let dir = self.referrers_dir(repository, subject);
        let (names, mut next) = page(names(&dir)?, query);
        let (mut descriptors, mut bytes) = (Vec::new(), 0);
        let mut before = None;
        for name in names {
            // Deleted meanwhile.
            let Some(text) = found(fs::read(dir.join(&name)))? else { continue };
            if bytes > 0 && bytes + text.len() > MAX_ANSWER_BYTES {
                next = before.map(|last: String| format!("last={last}"));
                break;
            }
            let descriptor: Value = serde_json::from_slice(&text).map_err(io::Error::other)?;
            if wanted.is_empty() || descriptor[ARTIFACT_TYPE] == *wanted {
                bytes += text.len();
                descriptors.push(descriptor);
            }
            before = Some(name);
        }
        let answer = json!({"schemaVersion": 2, "mediaType": index::OCI_TYPE,
            "manifests": descriptors});
        let mut response = reply::bytes(StatusCode::OK, index::OCI_TYPE, answer.to_string());
        if !wanted.is_empty() {
            let applied = HeaderValue::from_static(ARTIFACT_TYPE);
            response.headers_mut().insert(FILTERS_APPLIED, applied);
            let filter = percent_encode(&wanted);
            next = next.map(|next| format!("{next}&{ARTIFACT_TYPE}={filter}"));
        }
        link(&mut response, &format!("/v2/{repository}/referrers/{digest}"), next);
        Ok(response)
    }
}
