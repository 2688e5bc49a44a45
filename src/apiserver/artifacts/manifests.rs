//! Manifests and tags: what comes in is checked once, by layout and by the engine.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Limited};

use super::blobs::CONTENT_DIGEST;
use super::errors::{OciError, OciResult};
use super::{Artifacts, DIR_MODE, Record, UPLOAD_SILENCE};
use crate::apiserver::{Body, full, reply};
use crate::artifact::{Inspection, check_imports};
use crate::base::clock::{Clock, RealClock};
use crate::base::durable::{create_dirs, sync_parent};
use crate::engine::compile::CompileError;
use crate::images::content::{self, ContentError};
use crate::images::layout::{LayoutError, MANIFEST_TYPE, Manifest};
use crate::images::{MAX_MANIFEST_BYTES, digest_hex, digest_of};

/// A blob that no manifest names is kept this long: its manifest may be on its way.
const GARBAGE_AGE: Duration = Duration::from_secs(60 * 60);

/// What a garbage collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: u64,
    pub bytes: u64,
}

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

    pub(super) async fn put_manifest<B>(
        &self,
        repository: &str,
        version: &str,
        body: B,
    ) -> OciResult<Response<Body>>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let text = read(body).await?;
        let digest = digest_of(&text);
        if digest_hex(version).is_some() && version != digest {
            let message = format!("the manifest is {digest} and not {version}");
            return Err(OciError::bad("DIGEST_INVALID", message));
        }
        let _changes = self.changes.lock().await;
        let record = match Manifest::parse(&text) {
            Ok(manifest) => self.record_of_program(&digest, manifest).await?,
            Err(why) => self.record_of_files(&digest, &text, &why)?,
        };
        let tag = digest_hex(version).is_none().then_some(version);
        let kept = self.keep_manifest(repository, tag, &text, &record);
        self.memo.forget(repository);
        kept?;
        tracing::info!(repository, version, digest, "an artifact was pushed");
        let path = self.blob_path(&record.wasm_digest).filter(|_| record.kind.is_some());
        if let (Some(pushed), Some(path)) = (self.pushed.get(), path) {
            pushed(&record.wasm_digest, &path);
        }
        let mut response = reply::empty(StatusCode::CREATED);
        let location = format!("/v2/{repository}/manifests/{digest}");
        for (header, value) in [(LOCATION, &location), (CONTENT_DIGEST, &digest)] {
            if let Ok(value) = HeaderValue::from_str(value) {
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
            layers: Vec::new(),
            media_type: MANIFEST_TYPE.to_string(),
        })
    }

    /// What is recorded of files that a volume may be of. `why` is why they are no program.
    fn record_of_files(&self, digest: &str, text: &[u8], why: &LayoutError) -> OciResult<Record> {
        let no_program = || refused(&why.to_string());
        let files = match content::Document::parse(text) {
            Ok(content::Document::Manifest(files)) if !files.has_wasm => files,
            Err(error @ ContentError::Compression(_)) => {
                return Err(refused(&format!("{why}; as files for volumes, {error}")));
            }
            _ => return Err(no_program()),
        };
        let layers: Vec<String> = files.layers.into_iter().map(|layer| layer.digest).collect();
        self.has_all(layers.iter().chain([&files.config_digest]))?;
        Ok(Record {
            digest: digest.to_string(),
            wasm_digest: String::new(),
            config_digest: files.config_digest,
            kind: None,
            imports: Vec::new(),
            exports: Vec::new(),
            layers,
            media_type: files.media_type,
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

    /// Writes the manifest, its record, then its tag: cut off at any point, what was there before
    /// is still there.
    fn keep_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        text: &[u8],
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
        if let Some(tag) = tag {
            self.replace(&dir.join("_tags").join(tag), record.digest.as_bytes())?;
        }
        Ok(())
    }

    /// Writes a file as a whole, durable when this returns. Only under `changes`.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
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

    /// Removes a tag, or a manifest with all its tags.
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

    /// Removes blobs that no manifest names and that are older than an hour. A manifest stays
    /// while its record is there, with a tag or without: Pods name digests.
    ///
    /// # Errors
    /// When the disk cannot be read; nothing that is needed is removed.
    pub async fn collect_garbage(self: &Arc<Self>) -> io::Result<Collected> {
        self.collect_older_than(GARBAGE_AGE).await
    }

    /// [`Artifacts::collect_garbage`] with another age.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub async fn collect_older_than(self: &Arc<Self>, age: Duration) -> io::Result<Collected> {
        let (this, changes) = (self.clone(), self.changes.clone().lock_owned().await);
        let work = move || {
            // Held by the thread: a caller that goes away does not let others in.
            let _changes = changes;
            this.collect(age)
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    /// Only under `changes`.
    fn collect(&self, age: Duration) -> io::Result<Collected> {
        let mut needed = HashSet::new();
        for repository in self.repositories()? {
            for record in self.records(&repository)? {
                needed.extend([record.digest, record.wasm_digest, record.config_digest]);
                needed.extend(record.layers);
            }
        }
        // Compared with the times of files, so it is the machine's clock.
        let now = SystemTime::from(RealClock.now());
        let mut collected = Collected::default();
        for entry in fs::read_dir(self.dir.join("blobs/sha256"))? {
            let entry = entry?;
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            let meta = entry.metadata()?;
            let old = meta
                .modified()
                .ok()
                .and_then(|time| now.duration_since(time).ok())
                .is_some_and(|passed| passed >= age);
            if old && !needed.contains(&digest) {
                fs::remove_file(entry.path())?;
                collected.blobs += 1;
                collected.bytes += meta.len();
            }
        }
        Ok(collected)
    }

    fn records(&self, repository: &str) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(self.repository_dir(repository).join("_manifests"))? {
            let json = fs::read(entry?.path())?;
            records.push(serde_json::from_slice(&json).map_err(io::Error::other)?);
        }
        Ok(records)
    }
}

/// `None` for a file that is not there.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn refused(why: &str) -> OciError {
    OciError::bad("MANIFEST_INVALID", why)
}

async fn read<B>(body: B) -> OciResult<Bytes>
where
    B: http_body::Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limited = Limited::new(body, MAX_MANIFEST_BYTES as usize);
    let read = tokio::time::timeout(UPLOAD_SILENCE, limited.collect()).await;
    let read = read.map_err(|_| refused("it did not come in time"))?;
    Ok(read.map_err(|e| refused(&format!("it cannot be read: {e}")))?.to_bytes())
}
