//! Blobs on disk: read as streams, kept under their digest once they are whole and durable.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use tokio::io::AsyncReadExt;

use super::Artifacts;
use super::errors::{OciError, OciResult};
use crate::apiserver::Body;
use crate::apiserver::reply;
use crate::apiserver::stream::StreamBody;
use crate::base::clock::{Clock, RealClock};
use crate::base::durable::sync_parent;
use crate::images::digest_hex;

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Bytes that one reader of a blob holds.
const CHUNK_BYTES: usize = 64 << 10;

impl Artifacts {
    pub(super) async fn get_blob(
        &self,
        digest: &str,
        with_body: bool,
    ) -> OciResult<Response<Body>> {
        let unknown = || OciError::missing("BLOB_UNKNOWN", format!("there is no blob {digest}"));
        let path = self.blob_path(digest).ok_or_else(unknown)?;
        let file = match tokio::fs::File::open(&path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown()),
            file => file?,
        };
        let length = file.metadata().await?.len();
        let mut response = match with_body {
            true => Response::new(StreamBody::body(frames(file))),
            false => {
                // The question of a push: what it finds here it does not send.
                self.use_blob(digest)?;
                reply::empty(StatusCode::OK)
            }
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if let Ok(value) = HeaderValue::from_str(digest) {
            headers.insert(CONTENT_DIGEST, value);
        }
        Ok(response)
    }

    /// `None` for what is no sha256 digest.
    pub(super) fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        Some(self.dir.join("blobs/sha256").join(digest_hex(digest)?))
    }

    pub(super) fn has_blob(&self, digest: &str) -> bool {
        self.blob_path(digest).is_some_and(|path| path.is_file())
    }

    /// Whether a blob is here for a push, which will name it in a manifest: its age begins anew, so
    /// that it is no garbage until then.
    pub(super) fn use_blob(&self, digest: &str) -> io::Result<bool> {
        let Some(path) = self.blob_path(digest) else { return Ok(false) };
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            // Compared with the machine's clock.
            file => file?.set_modified(RealClock.now().into()).map(|()| true),
        }
    }

    /// Moves a whole file, already on the disk, to its digest's place.
    pub(super) fn keep_blob(&self, file: &Path, digest: &str) -> OciResult<()> {
        let path = self
            .blob_path(digest)
            .ok_or_else(|| OciError::bad("DIGEST_INVALID", "a digest is sha256:<hexadecimal>"))?;
        std::fs::rename(file, &path)?;
        sync_parent(&path)?;
        Ok(())
    }
}

/// What a file holds, from where it stands.
pub(in crate::apiserver) fn frames(
    file: tokio::fs::File,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, io::Error>> + Send {
    futures::stream::try_unfold(file, |mut file| async move {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let read = file.read_buf(&mut chunk).await?;
        Ok((read > 0).then(|| (Frame::data(chunk.freeze()), file)))
    })
}
