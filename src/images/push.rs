//! Pushes a program to the cluster's registry (OCI distribution-spec, "Push"): its blobs, unless
//! they are there, then the manifest, which the registry accepts only if the program can run.

use bytes::Bytes;
use http::Method;

use super::layout::{Artifact, CONFIG_TYPE, Interfaces, MANIFEST_TYPE, WASM_TYPE};
use super::{MAX_BLOB_BYTES, Reference};
use crate::api::ApiError;
use crate::client::remote::Remote;

/// An HTTP request to the registry, as little of it as pushing needs.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub content_type: &'static str,
    pub body: Bytes,
}

/// The answer's code and body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Bytes,
}

/// Sends requests to the registry, with whatever credentials it has.
#[async_trait::async_trait]
pub trait Transport: Send + Sync {
    /// # Errors
    /// When no answer came; the text is for the user.
    async fn send(&self, request: Request) -> Result<Answer, String>;
}

#[async_trait::async_trait]
impl Transport for Remote {
    async fn send(&self, request: Request) -> Result<Answer, String> {
        let Request { method, path, content_type, body } = request;
        let headers = [("content-type", content_type)];
        let answer = self.send(method, &path, &headers, body).await.map_err(|e| e.to_string())?;
        Ok(Answer { code: answer.status.as_u16(), body: answer.body })
    }
}

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest: what a Pod's status will show.
    pub digest: String,
    pub wasm_digest: String,
    /// Bytes that were sent; blobs that the registry had already do not count.
    pub sent_bytes: u64,
}

/// Why a push failed; the message is for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    #[error("{0} is in another registry; push to a name without a host")]
    Foreign(String),
    #[error("push by tag, not by digest")]
    ByDigest,
    #[error("the program has {0} bytes, more than {MAX_BLOB_BYTES}")]
    TooLarge(usize),
    /// The registry's own words, an import that nothing provides for instance.
    #[error("{0}")]
    Refused(String),
    #[error("the registry cannot be reached: {0}")]
    Network(String),
}

/// Pushes `wasm` as `image`.
///
/// # Errors
/// See [`PushError`].
pub async fn push(
    transport: &dyn Transport,
    image: &Reference,
    wasm: Bytes,
    interfaces: Interfaces,
) -> Result<Pushed, PushError> {
    if image.is_foreign() {
        return Err(PushError::Foreign(image.name()));
    }
    let (Some(tag), None) = (&image.tag, &image.digest) else { return Err(PushError::ByDigest) };
    if wasm.len() as u64 > MAX_BLOB_BYTES {
        return Err(PushError::TooLarge(wasm.len()));
    }
    let artifact = Artifact::new(wasm, interfaces);
    let repository = &image.repository;
    let mut sent_bytes = 0;
    for (digest, content_type, bytes) in [
        (&artifact.wasm_digest, WASM_TYPE, &artifact.wasm),
        (&artifact.config_digest, CONFIG_TYPE, &artifact.config),
    ] {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let head = Request { method: Method::HEAD, path, content_type, body: Bytes::new() };
        if transport.send(head).await.map_err(PushError::Network)?.code == 200 {
            continue;
        }
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let body = bytes.clone();
        let content_type = "application/octet-stream";
        expect_created(transport, Request { method: Method::POST, path, content_type, body })
            .await?;
        sent_bytes += bytes.len() as u64;
    }
    let path = format!("/v2/{repository}/manifests/{tag}");
    let (content_type, body) = (MANIFEST_TYPE, artifact.manifest);
    expect_created(transport, Request { method: Method::PUT, path, content_type, body }).await?;
    Ok(Pushed { digest: artifact.digest, wasm_digest: artifact.wasm_digest, sent_bytes })
}

async fn expect_created(transport: &dyn Transport, request: Request) -> Result<(), PushError> {
    let answer = transport.send(request).await.map_err(PushError::Network)?;
    match answer.code {
        201 => Ok(()),
        code => Err(PushError::Refused(message_of(code, &answer.body))),
    }
}

/// What the registry says, or the bare code.
fn message_of(code: u16, body: &[u8]) -> String {
    let message = ApiError::from_response(code, body).message;
    if message.is_empty() { format!("the registry answered {code}") } else { message }
}
