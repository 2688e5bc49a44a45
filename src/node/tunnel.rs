//! What the control plane asks of a node over the tunnel that the node dialled: HTTP/2 on any
//! byte stream.
//!
//! ```text
//!   GET  /logs/{namespace}/{pod}/{container}?follow=&tailLines=&…   text, as it is written
//!   POST /exec/{namespace}/{pod}/{container}?command=&stdin=&…      frames both ways
//!   POST /attach/{namespace}/{pod}/{container}?stdin=&stdout=&…     frames both ways
//!   POST /portforward/{namespace}/{pod}/{port}                      bytes both ways
//!   GET  /profile/{namespace}/{pod}/{container}?seconds=             JSON for the Firefox profiler
//!   GET  /coredump/{namespace}/{pod}/{container}                    a Wasm core dump
//!   GET  /usage, /usage/{namespace}/{pod}                           see `api/usage.rs`
//!   GET  /kubelet/…                                                 see `kubelet`
//! ```
//!
//! What frames are is in [`crate::base::frames`]. Errors are a Kubernetes Status as JSON.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Node;
use super::logs::{self, ReadOptions};
use super::{kubelet, query, streams};
use crate::api::ApiError;
use crate::api::error::Reason;
use crate::api::resource::Gvr;
use crate::base::head::answered;
use crate::base::tasks::Stop;

/// Requests of one tunnel under way at once.
const PARALLEL_STREAMS: u32 = 256;

/// How often the other end is asked whether it is there, and how long it may take to answer: a
/// control plane that vanished without a word must not hold the tunnel's place.
const PING_PERIOD: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What is under way when the node has left has this long to end: the last bytes of answers. Logs
/// that are followed and the like are cut.
const TAIL: Duration = Duration::from_secs(1);

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Serves a tunnel until it ends, or until the tasks stop and what ran on the node has ended.
pub async fn serve<S>(stream: S, node: Node, stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serving = node.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let node = serving.clone();
        async move {
            let method = request.method().clone();
            let response = answer(&node, request).await.unwrap_or_else(|error| refuse(&error));
            Ok::<_, Infallible>(answered(&method, response))
        }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(PARALLEL_STREAMS)
        .keep_alive_interval(PING_PERIOD)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let left = async {
        stop.wait().await;
        node.left().await;
    };
    tokio::select! {
        result = &mut connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "the tunnel ended");
            }
            return;
        }
        () = left => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(TAIL, connection).await;
}

async fn answer(node: &Node, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches('/');
    let segments: Vec<&str> = path.split('/').collect();
    let query = parts.uri.query().unwrap_or_default();
    let mut kind = kubelet::TEXT;
    let pieces = match (&parts.method, segments.as_slice()) {
        (&Method::GET, ["logs", namespace, pod, container]) => {
            node.read_log(namespace, pod, container, query)?
        }
        (&Method::GET, ["profile", namespace, pod, container]) => {
            node.profile([namespace, pod, container], query).await?
        }
        (&Method::GET, ["coredump", namespace, pod, container]) => {
            node.core_dump([namespace, pod, container]).await?
        }
        (&Method::GET, ["usage"]) => json(&node.shared.usage()),
        (&Method::GET, ["usage", namespace, pod]) => json(&node.shared.usage_of(namespace, pod)),
        (&Method::GET, ["kubelet", path @ ..]) => {
            let (of, pieces) = node.kubelet(path, query)?;
            kind = of;
            pieces
        }
        (&Method::POST, ["exec", namespace, pod, container]) => {
            streams::exec(node, [namespace, pod, container], query, body).await?
        }
        (&Method::POST, ["attach", namespace, pod, container]) => {
            streams::attach(node, [namespace, pod, container], query, body).await?
        }
        (&Method::POST, ["portforward", namespace, pod, port]) => {
            streams::forward(node, [namespace, pod, port], body).await?
        }
        _ => return Err(ApiError::new(404, Reason::NotFound, "the node serves no such path")),
    };
    let frames = pieces.map(|piece| piece.map(Frame::data));
    let response = Response::builder().header(header::CONTENT_TYPE, kind);
    response.body(StreamBody::new(frames).boxed_unsync()).map_err(ApiError::internal)
}

/// What cannot be written as JSON ends the answer.
fn json(value: &impl serde::Serialize) -> streams::Pieces {
    let text = serde_json::to_vec(value).map(Bytes::from).map_err(io::Error::other);
    futures::stream::once(std::future::ready(text)).boxed()
}

fn refuse(error: &ApiError) -> Response<Body> {
    let text = Full::new(Bytes::from(error.to_json())).map_err(|never| match never {});
    let mut response = Response::new(text.boxed_unsync());
    *response.status_mut() =
        StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

impl Node {
    /// A container's log by the query of `pods/log`; the bytes come as they are written.
    pub fn read_log(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &str,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, ApiError> {
        let (options, previous) = parse(query, self.shared.clock.now())?;
        let pods = Gvr::new("", "v1", "pods", true);
        let Some(entry) = self.shared.pods.get(namespace, pod) else {
            return Err(ApiError::not_found(&pods, pod));
        };
        if !entry.has(container) {
            let text = format!("container {container} is not valid for pod {pod}");
            return Err(ApiError::bad_request(text));
        }
        let attempts = entry.attempts(container);
        let attempt = if previous { attempts.previous } else { attempts.current };
        let Some(attempt) = attempt else {
            return Err(ApiError::bad_request(match attempts.waiting {
                Some(reason) if !previous => {
                    format!("container {container:?} in pod {pod:?} is waiting to start: {reason}")
                }
                _ if previous => {
                    format!("previous terminated container {container:?} in pod {pod:?} not found")
                }
                _ => format!("container {container:?} in pod {pod:?} is not available"),
            }));
        };
        let dir = self.shared.logs.pod_dir(namespace, pod, &entry.uid).join(container);
        let live = entry.live_log(container, attempt);
        Ok(logs::read(dir, attempt, options, live))
    }
}

/// The options of a query, and whether the previous attempt is meant.
fn parse(query: &str, now: Timestamp) -> Result<(ReadOptions, bool), ApiError> {
    let mut options = ReadOptions::default();
    let mut previous = false;
    for (key, value) in query::pairs(query) {
        let flag = || query::flag(key, &value);
        let wrong = |what: &str| query::wrong(key, what);
        let number = || value.parse::<u64>().map_err(|_| wrong("a number of at least 0"));
        match key {
            "follow" => options.follow = flag()?,
            "timestamps" => options.timestamps = flag()?,
            "previous" => previous = flag()?,
            "tailLines" => options.tail_lines = Some(number()?),
            "limitBytes" => options.limit_bytes = Some(number()?),
            "sinceSeconds" => {
                let seconds = i64::try_from(number()?).unwrap_or(i64::MAX);
                let since = now.saturating_sub(SignedDuration::from_secs(seconds));
                options.since = Some(since.unwrap_or(Timestamp::MIN));
            }
            "sinceTime" => {
                options.since = Some(value.parse().map_err(|_| wrong("an RFC 3339 time"))?);
            }
            "stream" => {
                options.stream = match value.as_str() {
                    "" | "All" => None,
                    "Stdout" => Some("stdout"),
                    "Stderr" => Some("stderr"),
                    _ => return Err(wrong("All, Stdout or Stderr")),
                }
            }
            // `container` is in the path; what is unknown is ignored, as the API does.
            _ => {}
        }
    }
    Ok((options, previous))
}
