//! The API over HTTPS. Who carries the requests, with which TLS and credentials, is in `transport`;
//! requests, Status errors and watch streams are here, so that callers cannot tell it from the API
//! server in the same process.

mod bodies;
mod sockets;
mod transport;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::bodies::{collect, read_list, watch_stream};
pub use self::sockets::Socket;
pub use self::transport::{Body, BodyError};
use self::transport::{Certified, Transport};
use super::join::Access;
use super::{
    Api, BOOKMARK_INTERVAL, DeleteOptions, ListOptions, Patch, RawList, Target, WatchOptions,
    WatchStream, WriteOptions,
};
use crate::api::error::Reason;
use crate::api::{ApiError, Object, Raw};
use crate::base::causes;

/// The time to an answer's head and body; to the head alone for streams and the registry.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests about objects that wait for their answers at once; the others wait before they are sent.
/// Each has a connection of its own meanwhile, which is kept for a while: the pods of one node alone
/// would take all that a slow server has.
const MOST_CALLS: usize = 64;
/// A heartbeat waits for no other request.
const LEASES: &str = "/leases/";
/// Programs are large: the registry's answers are bounded by their silence instead,
const REGISTRY: &str = "/v2/";
const REGISTRY_SILENCE: Duration = Duration::from_secs(60);
/// and what is sent to it gets more time by its size, as for a slow line.
const UPLOAD_BYTES_PER_SECOND: u64 = 32 << 10;
/// A watch with bookmarks that is silent for so long has lost its server: TCP alone would not tell.
const WATCH_SILENCE: Duration = BOOKMARK_INTERVAL.saturating_mul(5).checked_div(2).unwrap();
/// How long the server is asked to keep a watch, and up to as long again, so that watches that
/// began together do not end together. A server whose client is gone forgets it then.
const MIN_WATCH: Duration = Duration::from_secs(300);

/// A connection to an API server; cheap to clone.
#[derive(Clone)]
pub struct Remote {
    transport: Arc<dyn Transport>,
    calls: Arc<Semaphore>,
}

/// The answer of a plain HTTP request.
pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Remote {
    /// Connects as a user's kubeconfig says. Nothing is sent yet.
    #[cfg(feature = "cli")]
    pub fn new(config: kube::Config) -> Result<Remote, ApiError> {
        install_crypto();
        Ok(Remote::over(transport::Configured::new(config)?))
    }

    /// Connects with a certificate of the cluster's, or with nothing but its CA. Nothing is sent
    /// yet.
    pub fn certified(access: &Access) -> Result<Remote, ApiError> {
        install_crypto();
        Ok(Remote::over(Certified::new(access)?))
    }

    fn over(transport: Arc<dyn Transport>) -> Remote {
        Remote { transport, calls: Arc::new(Semaphore::new(MOST_CALLS)) }
    }

    /// Sends a request with a whole body and reads the whole answer. HTTP errors are answers.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, ApiError> {
        let sent = body.into();
        let registry = path.starts_with(REGISTRY);
        let upload = Duration::from_secs(sent.len() as u64 / UPLOAD_BYTES_PER_SECOND);
        let begin = Instant::now();
        let head = self.open(method, path, headers, sent);
        let limit = if registry { REQUEST_TIMEOUT + upload } else { REQUEST_TIMEOUT };
        let (parts, body) = in_time(limit, head).await?.into_parts();
        let body = if registry {
            collect(body, REGISTRY_SILENCE).await?
        } else {
            let left = limit.saturating_sub(begin.elapsed());
            in_time(left, collect(body, limit)).await?
        };
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// Sends a request and answers with the body as it comes; HTTP errors are errors.
    pub async fn stream(&self, path: &str) -> Result<Body, ApiError> {
        self.stream_as(path, "application/json, */*").await
    }

    /// [`Remote::stream`] with an Accept header.
    pub async fn stream_as(&self, path: &str, accept: &str) -> Result<Body, ApiError> {
        let headers = [("accept", accept)];
        let head = self.open(Method::GET, path, &headers, Bytes::new());
        let response = in_time(REQUEST_TIMEOUT, head).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Err(refusal(response).await)
    }

    /// Sends a request with a whole body and answers with head and body as they come; HTTP errors are
    /// errors. What is sent gets time by its size.
    pub async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<http::Response<Body>, ApiError> {
        let upload = Duration::from_secs(body.len() as u64 / UPLOAD_BYTES_PER_SECOND);
        let head = self.open(method, path, &[("accept", "*/*")], body);
        let response = in_time(REQUEST_TIMEOUT + upload, head).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }

    /// Upgrades a connection to `protocol` and gives its two-way byte stream, and the headers of the
    /// answer.
    pub async fn upgrade(
        &self,
        path: &str,
        protocol: &str,
    ) -> Result<(TokioIo<hyper::upgrade::Upgraded>, http::HeaderMap), ApiError> {
        let headers = [("connection", "Upgrade"), ("upgrade", protocol)];
        let head = self.open(Method::GET, path, &headers, Bytes::new());
        let response = in_time(REQUEST_TIMEOUT, head).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        let headers = response.headers().clone();
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| unreachable_(&e))?;
        Ok((TokioIo::new(upgraded), headers))
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<http::Response<Body>, ApiError> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.body(body).map_err(|e| ApiError::bad_request(format!("{path}: {e}")))?;
        self.transport.send(request).await
    }

    /// Sends a whole object.
    async fn write(
        &self,
        method: Method,
        target: &Target,
        object: &Object,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        let path = write_query(options)?.on(&target.path());
        self.call(method, &path, JSON, object.to_json()).await.map(Raw)
    }

    /// Sends a request whose answer is an object or a Status.
    async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Bytes, ApiError> {
        let headers = [("accept", "application/json"), ("content-type", content_type)];
        let _place = match path.contains(LEASES) {
            true => None,
            // It is never closed.
            false => {
                in_time(REQUEST_TIMEOUT, async { Ok(self.calls.acquire().await.ok()) }).await?
            }
        };
        let answer = self.send(method, path, &headers, body).await?;
        if answer.status.is_success() {
            Ok(answer.body)
        } else {
            Err(ApiError::from_response(answer.status.as_u16(), &answer.body))
        }
    }
}

#[async_trait::async_trait]
impl Api for Remote {
    async fn get(&self, target: &Target) -> Result<Raw, ApiError> {
        self.call(Method::GET, &target.path(), JSON, Bytes::new()).await.map(Raw)
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<RawList, ApiError> {
        let mut query = Query::default();
        query.add("labelSelector", &options.label_selector);
        query.add("fieldSelector", &options.field_selector);
        query.add("continue", &options.continue_token);
        query.add("resourceVersion", &options.resource_version);
        query.add("resourceVersionMatch", &options.resource_version_match);
        if options.limit > 0 {
            query.add("limit", &options.limit.to_string());
        }
        let path = query.on(&target.path());
        let body = self.call(Method::GET, &path, JSON, Bytes::new()).await?;
        read_list(&body)
    }

    async fn watch(
        &self,
        target: &Target,
        options: &WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        let mut query = Query::default();
        query.add("watch", "true");
        query.add("labelSelector", &options.label_selector);
        query.add("fieldSelector", &options.field_selector);
        query.add("resourceVersion", &options.resource_version);
        if options.bookmarks {
            query.add("allowWatchBookmarks", "true");
        }
        let timeout =
            options.timeout.unwrap_or_else(|| rand::random_range(MIN_WATCH..2 * MIN_WATCH));
        query.add("timeoutSeconds", &timeout.as_secs().to_string());
        let body = self.stream(&query.on(&target.path())).await?;
        Ok(watch_stream(body, options.bookmarks.then_some(WATCH_SILENCE)))
    }

    async fn create(
        &self,
        target: &Target,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        self.write(Method::POST, target, &object, options).await
    }

    async fn update(
        &self,
        target: &Target,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        self.write(Method::PUT, target, &object, options).await
    }

    async fn patch(
        &self,
        target: &Target,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        let mut query = write_query(options)?;
        let (content_type, body) = match patch {
            Patch::Json(body) => ("application/json-patch+json", body),
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Apply { config, force } => {
                query.add("force", if force { "true" } else { "" });
                ("application/apply-patch+yaml", config)
            }
        };
        let path = query.on(&target.path());
        self.call(Method::PATCH, &path, content_type, body.to_string()).await.map(Raw)
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Raw, ApiError> {
        if options.fence.is_some() {
            return Err(no_fence());
        }
        let body = delete_body(options).to_string();
        self.call(Method::DELETE, &target.path(), JSON, body).await.map(Raw)
    }

    async fn get_bytes(&self, path: &str) -> Result<Bytes, ApiError> {
        let headers = [("accept", "*/*")];
        let answer = self.send(Method::GET, path, &headers, Bytes::new()).await?;
        if answer.status.is_success() {
            Ok(answer.body)
        } else {
            Err(ApiError::from_response(answer.status.as_u16(), &answer.body))
        }
    }
}

const JSON: &str = "application/json";

/// Makes ring the process's TLS provider, once.
pub fn install_crypto() {
    // An error means that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// `DeleteOptions` as JSON.
pub fn delete_body(options: &DeleteOptions) -> Value {
    let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
    if let Some(grace) = options.grace_period_seconds {
        body["gracePeriodSeconds"] = json!(grace);
    }
    if let Some(policy) = options.propagation_policy {
        body["propagationPolicy"] = json!(policy);
    }
    if let Some(uid) = &options.uid {
        body["preconditions"]["uid"] = json!(uid);
    }
    if let Some(version) = &options.resource_version {
        body["preconditions"]["resourceVersion"] = json!(version);
    }
    if options.dry_run {
        body["dryRun"] = json!(["All"]);
    }
    body
}

fn write_query(options: &WriteOptions) -> Result<Query, ApiError> {
    if options.fence.is_some() {
        return Err(no_fence());
    }
    let mut query = Query::default();
    query.add("fieldManager", &options.field_manager);
    if options.dry_run {
        query.add("dryRun", "All");
    }
    Ok(query)
}

/// Kubernetes' API has no place for it, and to leave it out would be to write all the same.
fn no_fence() -> ApiError {
    ApiError::bad_request("writes that hold for a leader's term only are not sent over HTTP")
}

/// A query string with its values escaped; empty values are left out.
#[derive(Default)]
pub struct Query(String);

impl Query {
    pub fn add(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    self.0.push(byte as char);
                }
                other => self.0.push_str(&format!("%{other:02X}")),
            }
        }
    }

    /// The path with the query.
    pub fn on(&self, path: &str) -> String {
        format!("{path}{}", self.0)
    }
}

/// 504 for work that takes longer than `limit`.
async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let late = |_| ApiError::new(504, Reason::Timeout, "the API server did not answer in time");
    tokio::time::timeout(limit, work).await.map_err(late)?
}

/// What an answer that is no success says.
async fn refusal(response: http::Response<Body>) -> ApiError {
    let code = response.status().as_u16();
    match collect(response.into_body(), REQUEST_TIMEOUT).await {
        Ok(body) => ApiError::from_response(code, &body),
        Err(error) => error,
    }
}

/// A transport error with its whole chain.
fn unreachable_(error: &(dyn std::error::Error + 'static)) -> ApiError {
    ApiError::unavailable(format!("cannot reach the API server: {}", causes::told(error)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::BoxFuture;
    use http_body_util::{BodyExt, Full};
    use k8s_openapi::api::coordination::v1::Lease;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    /// A server that answers as many as it is let, leases at once.
    struct Slow {
        answers: Semaphore,
        asked: AtomicUsize,
    }

    impl Transport for Slow {
        fn send(
            &self,
            request: Request<Bytes>,
        ) -> BoxFuture<'_, Result<http::Response<Body>, ApiError>> {
            Box::pin(async move {
                if !request.uri().path().contains(LEASES) {
                    self.asked.fetch_add(1, Ordering::Relaxed);
                    self.answers.acquire().await.unwrap().forget();
                }
                let body = Full::new(Bytes::from_static(b"{}"));
                Ok(http::Response::new(body.map_err(|never| match never {}).boxed_unsync()))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_server_is_asked_by_few_at_once_and_by_heartbeats() {
        let slow = Arc::new(Slow { answers: Semaphore::new(0), asked: AtomicUsize::new(0) });
        let remote = Remote::over(slow.clone());
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..3 * MOST_CALLS {
            let remote = remote.clone();
            let target = Target::one::<ConfigMap>("ns", &format!("c{n}"));
            tasks.spawn(async move { remote.get(&target).await.map(drop) });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(slow.asked.load(Ordering::Relaxed), MOST_CALLS);
        remote.get(&Target::one::<Lease>("kube-node-lease", "n1")).await.unwrap();
        slow.answers.add_permits(MOST_CALLS);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(slow.asked.load(Ordering::Relaxed), 2 * MOST_CALLS);
        // Who waits for ever is told so, before it was sent and after.
        tokio::time::sleep(REQUEST_TIMEOUT).await;
        let mut codes = Vec::new();
        while let Some(done) = tasks.join_next().await {
            codes.push(done.unwrap().map_or_else(|error| error.code, |()| 200));
        }
        let count = |code: u16| codes.iter().filter(|one| **one == code).count();
        assert_eq!((count(200), count(504)), (MOST_CALLS, 2 * MOST_CALLS));
    }

    #[test]
    fn query_values_are_escaped() {
        let mut query = Query::default();
        query.add("labelSelector", "a in (b,c)");
        query.add("empty", "");
        assert_eq!(query.on("/x"), "/x?labelSelector=a%20in%20%28b%2Cc%29");
    }
}
