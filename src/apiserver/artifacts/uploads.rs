//! Uploads of blobs: begun, continued in pieces, finished under a digest that must be right.
//!
//! The bytes go to a file while they are hashed. An upload belongs to one request at a time: while
//! a request works on it, it is out of the table.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::blobs::CONTENT_DIGEST;
use super::errors::{OciError, OciResult};
use super::routes::field;
use super::{Artifacts, MAX_BLOB_BYTES, UPLOAD_SILENCE};
use crate::apiserver::body::RequestBody;
use crate::apiserver::{Body, reply};
use crate::base::ids::Ids;
use crate::images::digest_hex;

/// Uploads at the same time.
const MAX_UPLOADS: usize = 64;
/// An upload that nobody continues is dropped after this time.
const UPLOAD_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Random bytes of an upload's id.
const ID_BYTES: usize = 16;

pub(super) struct Uploads {
    dir: PathBuf,
    ids: Ids,
    waiting: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<String, Upload>,
    /// Those that a request works on.
    busy: usize,
}

struct Upload {
    repository: String,
    path: PathBuf,
    length: u64,
    hash: Sha256,
    used: Instant,
}

/// An upload in a request's hands. Dropped, it is gone with its file.
struct Held<'a> {
    uploads: &'a Uploads,
    id: String,
    upload: Option<Upload>,
}

impl Uploads {
    pub(super) fn open(dir: &Path) -> io::Result<Uploads> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(dir)?,
        }
        let (ids, waiting) = (Ids::from_system(), Mutex::default());
        Ok(Uploads { dir: dir.to_path_buf(), ids, waiting })
    }

    fn start(&self, repository: &str) -> OciResult<Held<'_>> {
        self.expire();
        let mut table = self.waiting.lock();
        if table.by_id.len() + table.busy >= MAX_UPLOADS {
            let message = format!("{MAX_UPLOADS} uploads are under way; try again later");
            return Err(OciError::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message));
        }
        table.busy += 1;
        drop(table);
        let id = self.ids.secret(ID_BYTES);
        let upload = Upload {
            repository: repository.to_string(),
            path: self.dir.join(&id),
            length: 0,
            hash: Sha256::new(),
            used: Instant::now(),
        };
        Ok(Held { uploads: self, id, upload: Some(upload) })
    }

    fn take(&self, repository: &str, id: &str) -> OciResult<Held<'_>> {
        self.expire();
        let mut table = self.waiting.lock();
        match table.by_id.remove(id) {
            Some(upload) if upload.repository == repository => {
                table.busy += 1;
                Ok(Held { uploads: self, id: id.to_string(), upload: Some(upload) })
            }
            other => {
                if let Some(upload) = other {
                    table.by_id.insert(id.to_string(), upload);
                }
                Err(OciError::missing("BLOB_UPLOAD_UNKNOWN", "there is no such upload"))
            }
        }
    }

    /// Drops what nobody continued.
    fn expire(&self) {
        self.waiting.lock().by_id.retain(|_, upload| {
            let keep = upload.used.elapsed() < UPLOAD_LIFETIME;
            if !keep {
                // A file that stays behind is removed at the next start.
                let _ = fs::remove_file(&upload.path);
            }
            keep
        });
    }
}

impl Held<'_> {
    fn upload(&mut self) -> OciResult<&mut Upload> {
        self.upload
            .as_mut()
            .ok_or_else(|| OciError::missing("BLOB_UPLOAD_UNKNOWN", "the upload has ended"))
    }

    /// Puts it back to be continued.
    fn release(mut self) {
        if let Some(mut upload) = self.upload.take() {
            upload.used = Instant::now();
            let mut table = self.uploads.waiting.lock();
            table.busy -= 1;
            table.by_id.insert(self.id.clone(), upload);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            self.uploads.waiting.lock().busy -= 1;
            let _ = fs::remove_file(&upload.path);
        }
    }
}

impl Upload {
    /// Appends a request's body.
    async fn append<B: RequestBody>(&mut self, body: B) -> OciResult<()> {
        let mut options = tokio::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(&self.path).await?;
        let mut body = std::pin::pin!(body);
        loop {
            let frame = tokio::time::timeout(UPLOAD_SILENCE, body.frame()).await;
            let frame = frame.map_err(|_| invalid("the upload was silent for too long"))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|e| invalid(format!("the upload broke: {}", e.into())))?;
            let Ok(data) = frame.into_data() else { continue };
            self.length += data.len() as u64;
            if self.length > MAX_BLOB_BYTES {
                let message = format!("a blob has at most {MAX_BLOB_BYTES} bytes");
                let code = StatusCode::PAYLOAD_TOO_LARGE;
                return Err(OciError::new(code, "SIZE_INVALID", message));
            }
            self.hash.update(&data);
            file.write_all(&data).await?;
        }
        file.flush().await?;
        file.sync_all().await?;
        Ok(())
    }
}

fn invalid(message: impl Into<String>) -> OciError {
    OciError::bad("BLOB_UPLOAD_INVALID", message)
}

impl Artifacts {
    /// `POST …/blobs/uploads/`: begins an upload; with `digest` the body is the whole blob, with
    /// `mount` a blob that is here already is used.
    pub(super) async fn start_upload<B: RequestBody>(
        &self,
        repository: &str,
        query: &str,
        body: B,
    ) -> OciResult<Response<Body>> {
        if let Some(mount) = field(query, "mount")
            && self.use_blob(&mount)?
        {
            return Ok(created(repository, &mount));
        }
        let held = self.uploads.start(repository)?;
        match field(query, "digest") {
            Some(digest) => self.finish(held, repository, &digest, body).await,
            None => {
                let response = accepted(repository, &held.id, 0);
                held.release();
                Ok(response)
            }
        }
    }

    /// `PATCH`: the next piece.
    pub(super) async fn continue_upload<B: RequestBody>(
        &self,
        repository: &str,
        id: &str,
        headers: &HeaderMap,
        body: B,
    ) -> OciResult<Response<Body>> {
        let mut held = self.uploads.take(repository, id)?;
        let length = held.upload()?.length;
        let range = headers.get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
        let start = range.map(|r| r.trim_start_matches("bytes ").split('-').next().map(str::parse));
        if start.is_some_and(|start| start != Some(Ok(length))) {
            held.release();
            let message = format!("the next piece begins at byte {length}");
            let code = StatusCode::RANGE_NOT_SATISFIABLE;
            return Err(OciError::new(code, "BLOB_UPLOAD_INVALID", message));
        }
        let upload = held.upload()?;
        upload.append(body).await?;
        let response = accepted(repository, id, upload.length);
        held.release();
        Ok(response)
    }

    /// `PUT …?digest=`: the last piece, which may be empty.
    pub(super) async fn finish_upload<B: RequestBody>(
        &self,
        repository: &str,
        id: &str,
        query: &str,
        body: B,
    ) -> OciResult<Response<Body>> {
        let held = self.uploads.take(repository, id)?;
        let digest = field(query, "digest").unwrap_or_default();
        self.finish(held, repository, &digest, body).await
    }

    async fn finish<B: RequestBody>(
        &self,
        mut held: Held<'_>,
        repository: &str,
        digest: &str,
        body: B,
    ) -> OciResult<Response<Body>> {
        if digest_hex(digest).is_none() {
            let message = "a digest is sha256: and 64 lower case hexadecimal digits";
            return Err(OciError::bad("DIGEST_INVALID", message));
        }
        let upload = held.upload()?;
        upload.append(body).await?;
        let actual = format!("sha256:{}", hex::encode(upload.hash.clone().finalize()));
        if actual != digest {
            let message = format!("the blob is {actual} and not {digest}");
            return Err(OciError::bad("DIGEST_INVALID", message));
        }
        let path = upload.path.clone();
        self.keep_blob(&path, digest)?;
        Ok(created(repository, digest))
    }

    /// `GET`: how far an upload is.
    pub(super) fn upload_state(&self, repository: &str, id: &str) -> OciResult<Response<Body>> {
        let mut held = self.uploads.take(repository, id)?;
        let mut response = accepted(repository, id, held.upload()?.length);
        held.release();
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    pub(super) fn cancel_upload(&self, repository: &str, id: &str) -> OciResult<Response<Body>> {
        drop(self.uploads.take(repository, id)?);
        Ok(reply::empty(StatusCode::NO_CONTENT))
    }
}

fn accepted(repository: &str, id: &str, length: u64) -> Response<Body> {
    let mut response = reply::empty(StatusCode::ACCEPTED);
    let headers = response.headers_mut();
    let range = format!("0-{}", length.saturating_sub(1));
    let location = format!("/v2/{repository}/blobs/uploads/{id}");
    for (header, value) in [(LOCATION, location), (RANGE, range)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(header, value);
        }
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
    response
}

fn created(repository: &str, digest: &str) -> Response<Body> {
    let mut response = reply::empty(StatusCode::CREATED);
    let location = format!("/v2/{repository}/blobs/{digest}");
    for (header, value) in [(LOCATION, &*location), (CONTENT_DIGEST, digest)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(header, value);
        }
    }
    response
}
