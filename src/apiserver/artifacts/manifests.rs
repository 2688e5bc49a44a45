//! Manifests and tags: what comes in is checked once, by layout and by the engine.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::blobs::CONTENT_DIGEST;
use super::errors::{OciError, OciResult};
use super::referrers::{About, SUBJECT};
use super::{Artifacts, DIR_MODE, Record, UPLOAD_SILENCE};
use crate::apiserver::body::RequestBody;
use crate::apiserver::{Body, full, reply};
use crate::artifact::{Inspection, check_imports};
use crate::base::durable::{create_dirs, sync_parent};
use crate::engine::compile::CompileError;
use crate::images::content::{self, ContentError};
use crate::images::index::Index;
use crate::images::layout::{Document, LayoutError, MANIFEST_TYPE, Manifest};
use crate::images::{MAX_MANIFEST_BYTES, digest_hex, digest_of};

impl Artifacts {
    pub(super) fn get_manifest(
        &self,
        repository: &str,
        version: &str,
    ) -> OciResult<Response<Body>> {
        let unknown = || {
            let message = format!("there is no {version} of {repository}");
            OciError::missing("MANIFEST_UNKNOWN", message)
        };
        let record = self.record(repository, version)?.ok_or_else(unknown)?;
        let path = self.blob_path(&record.digest).ok_or_else(unknown)?;
        let bytes = fs::read(path)?;
        let length = bytes.len();
        let mut response = Response::new(full(bytes));
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        let media_type = HeaderValue::from_str(&record.media_type);
        headers.insert(CONTENT_TYPE, media_type.map_err(io::Error::other)?);
        if let Ok(value) = HeaderValue::from_str(&record.digest) {
            headers.insert(CONTENT_DIGEST, value);
        }
        Ok(response)
    }

    pub(super) async fn put_manifest<B: RequestBody>(
        &self,
        repository: &str,
        version: &str,
        body: B,
    ) -> OciResult<Response<Body>> {
        let text = read(body).await?;
        let digest = digest_of(&text);
        if digest_hex(version).is_some() && version != digest {
            let message = format!("the manifest is {digest} and not {version}");
            return Err(OciError::bad("DIGEST_INVALID", message));
        }
        let _changes = self.changes.lock().await;
        let about = About::parse(&text)?;
        let mut record = match Index::parse(&text) {
            Some(index) => self.record_of_index(repository, &digest, &index)?,
            None => match Document::parse(&text) {
                Ok(Document::Manifest(manifest)) => {
                    self.record_of_program(&digest, manifest).await?
                }
                Ok(Document::Index(_)) => return Err(refused(&LayoutError::Nested.to_string())),
                Err(why) => self.record_of_files(&digest, &text, &about, &why)?,
            },
        };
        record.subject = about.subject().map(str::to_string);
        let tag = digest_hex(version).is_none().then_some(version);
        let kept = self.keep_manifest(repository, tag, &text, &about, &record);
        self.memo.forget(repository);
        kept?;
        tracing::info!(repository, version, digest, "an artifact was pushed");
        let path = self.blob_path(&record.wasm_digest).filter(|_| record.kind.is_some());
        if let (Some(pushed), Some(path)) = (self.pushed.get(), path) {
            pushed(&record.wasm_digest, &path);
        }
        let mut response = reply::empty(StatusCode::CREATED);
        let location = format!("/v2/{repository}/manifests/{digest}");
        let headers = [(LOCATION, Some(&location)), (CONTENT_DIGEST, Some(&digest))];
        for (header, value) in headers.into_iter().chain([(SUBJECT, record.subject.as_ref())]) {
            if let Some(Ok(value)) = value.map(|value| HeaderValue::from_str(value)) {
                response.headers_mut().insert(header, value);
            }
        }
        Ok(response)
    }

    /// What is recorded of a program that can run.
    async fn record_of_program(&self, digest: &str, manifest: Manifest) -> OciResult<Record> {
        let layer = manifest.wasm().ok_or_else(|| refused("it has no layer"))?.clone();
        self.has_all([&manifest.config.digest, &layer.digest].into_iter())?;
        let inspection = self.inspect(&layer.digest, layer.size).await?;
        Ok(Record {
            digest: digest.to_string(),
            wasm_digest: layer.digest,
            config_digest: manifest.config.digest,
            kind: Some(inspection.kind),
            imports: inspection.imports,
            exports: inspection.exports,
            least_memory_bytes: inspection.least_memory_bytes,
            media_type: MANIFEST_TYPE.to_string(),
            ..Record::default()
        })
    }

    /// What is recorded of files that a volume may be of, or of an artifact about another one. `why` is
    /// why they are no program.
    fn record_of_files(
        &self,
        digest: &str,
        text: &[u8],
        about: &About,
        why: &LayoutError,
    ) -> OciResult<Record> {
        let (media_type, config_digest, layers) = match content::Document::parse(text) {
            Ok(content::Document::Manifest(files)) if !files.has_wasm => {
                let layers = files.layers.into_iter().map(|layer| layer.digest).collect();
                (files.media_type, files.config_digest, layers)
            }
            Err(error @ (ContentError::Compression(_) | ContentError::Layers(_))) => {
                match (about.blobs(), error) {
                    (Some((config, layers)), _) => (MANIFEST_TYPE.to_string(), config, layers),
                    (None, error @ ContentError::Compression(_)) => {
                        return Err(refused(&format!("{why}; as files for volumes, {error}")));
                    }
                    (None, _) => return Err(refused(&why.to_string())),
                }
            }
            _ => return Err(refused(&why.to_string())),
        };
        self.has_all(layers.iter().chain([&config_digest]))?;
        Ok(Record {
            digest: digest.to_string(),
            config_digest,
            layers,
            media_type,
            ..Record::default()
        })
    }
    fn has_all<'a>(&self, mut digests: impl Iterator<Item = &'a String>) -> OciResult<()> {
        match digests.find(|digest| !self.has_blob(digest)) {
            Some(missing) => {
                let message = format!("push the blob {missing} before its manifest");
                Err(OciError::bad("MANIFEST_BLOB_UNKNOWN", message))
            }
            None => Ok(()),
        }
    }

    /// The link check of a program. It takes about 10 ms a megabyte, in a process of its own where
    /// there is a checker, else on a thread of its own.
    async fn inspect(&self, digest: &str, size: u64) -> OciResult<Inspection> {
        let path = self.blob_path(digest).ok_or_else(|| refused("its layer has no digest"))?;
        if let Some(checker) = self.checker.get() {
            let bytes = tokio::fs::read(path).await?;
            if bytes.len() as u64 != size {
                let length = bytes.len();
                return Err(refused(&format!("its layer has {length} bytes and not {size}")));
            }
            return checker.check(bytes.into()).await.map_err(|error| match error {
                CompileError::Invalid(why) | CompileError::Limit(why) => refused(&why),
                CompileError::Internal(why) => io::Error::other(why).into(),
            });
        }
        let checked = tokio::task::spawn_blocking(move || {
            let bytes = fs::read(path)?;
            if bytes.len() as u64 != size {
                let length = bytes.len();
                return Ok(Err(format!("its layer has {length} bytes and not {size}")));
            }
            Ok::<_, io::Error>(check_imports(&bytes).map_err(|e| e.to_string()))
        });
        let checked = checked.await.map_err(io::Error::other)??;
        checked.map_err(|why| refused(&why))
    }

    /// Writes the manifest, its record, its place among referrers, then its tag: cut off at any point,
    /// what was there before is still there.
    fn keep_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        text: &[u8],
        about: &About,
        record: &Record,
    ) -> OciResult<()> {
        let unknown = || refused("its digest is none");
        let blob = self.blob_path(&record.digest).ok_or_else(unknown)?;
        let hex = digest_hex(&record.digest).ok_or_else(unknown)?;
        let dir = self.repository_dir(repository);
        for part in ["_manifests", "_tags"] {
            create_dirs(&dir.join(part), DIR_MODE)?;
        }
        self.replace(&blob, text)?;
        let json = serde_json::to_vec(record).map_err(io::Error::other)?;
        self.replace(&dir.join("_manifests").join(hex), &json)?;
        self.keep_referrer(repository, about, record, text.len())?;
        if let Some(tag) = tag {
            self.replace(&dir.join("_tags").join(tag), record.digest.as_bytes())?;
        }
        Ok(())
    }

    /// Writes a file as a whole, durable when this returns. Only under `changes`.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = self.dir.join("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        sync_parent(path)
    }

    /// What is recorded of a tag or a digest. Each new Pod asks, so the files are read once.
    pub(super) fn record(
        &self,
        repository: &str,
        version: &str,
    ) -> io::Result<Option<Arc<Record>>> {
        self.memo.get_or_read(repository, version, || self.read_record(repository, version))
    }

    fn read_record(&self, repository: &str, version: &str) -> io::Result<Option<Record>> {
        let dir = self.repository_dir(repository);
        let digest = match digest_hex(version) {
            Some(_) => version.to_string(),
            None => match found(fs::read_to_string(dir.join("_tags").join(version)))? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let Some(hex) = digest_hex(&digest) else { return Ok(None) };
        let Some(json) = found(fs::read(dir.join("_manifests").join(hex)))? else {
            return Ok(None);
        };
        serde_json::from_slice(&json).map(Some).map_err(io::Error::other)
    }

    /// Removes a tag, or a manifest with all its tags, if no index names it.
    pub(super) async fn delete_manifest(
        &self,
        repository: &str,
        version: &str,
    ) -> OciResult<Response<Body>> {
        let _changes = self.changes.lock().await;
        let removed = self.remove_manifest(repository, version);
        self.memo.forget(repository);
        removed
    }

    /// Only under `changes`.
    fn remove_manifest(&self, repository: &str, version: &str) -> OciResult<Response<Body>> {
        let dir = self.repository_dir(repository);
        let path = match digest_hex(version) {
            Some(hex) => {
                if let Some(index) = self.named_by(repository, version)? {
                    let message = format!("the index {index} names it; delete that one first");
                    let code = StatusCode::METHOD_NOT_ALLOWED;
                    return Err(OciError::new(code, "DENIED", message));
                }
                if let Some(record) = self.read_record(repository, version)? {
                    self.forget_referrer(repository, &record)?;
                }
                for tag in self.tag_names(repository)? {
                    let path = dir.join("_tags").join(tag);
                    if fs::read_to_string(&path)? == version {
                        fs::remove_file(&path)?;
                    }
                }
                dir.join("_manifests").join(hex)
            }
            None => dir.join("_tags").join(version),
        };
        if found(fs::remove_file(&path))?.is_none() {
            let message = format!("there is no {version} of {repository}");
            return Err(OciError::missing("MANIFEST_UNKNOWN", message));
        }
        sync_parent(&path)?;
        Ok(reply::empty(StatusCode::ACCEPTED))
    }

    pub(super) fn records(&self, repository: &str) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(self.repository_dir(repository).join("_manifests"))? {
            let json = fs::read(entry?.path())?;
            records.push(serde_json::from_slice(&json).map_err(io::Error::other)?);
        }
        Ok(records)
    }
}

/// `None` for a file that is not there.
pub(super) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

pub(super) fn refused(why: &str) -> OciError {
    OciError::bad("MANIFEST_INVALID", why)
}

async fn read<B: RequestBody>(body: B) -> OciResult<Bytes> {
    let limited = Limited::new(body, MAX_MANIFEST_BYTES as usize);
    let read = tokio::time::timeout(UPLOAD_SILENCE, limited.collect()).await;
    let read = read.map_err(|_| refused("it did not come in time"))?;
    let read = read.map_err(|error| match error.is::<LengthLimitError>() {
        true => {
            let message = format!("a manifest has at most {MAX_MANIFEST_BYTES} bytes");
            OciError::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message)
        }
        false => refused(&format!("it cannot be read: {error}")),
    });
    Ok(read?.to_bytes())
}
