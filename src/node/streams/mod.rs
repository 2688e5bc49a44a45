//! What reaches into running containers over the tunnel: exec, attach, port-forward. Requests and
//! answers carry the frames of [`crate::base::frames`] (exec, attach) or plain bytes (port-forward).
//! Protocols of clients are the API server's affair.
//!
//! ```text
//!   request body ──▶ Input ──▶ guest ──▶ Output ──▶ answer's body      each of them bounded:
//!        (frames)   64 KiB              256 KiB        (frames)         who is ahead waits
//! ```

mod applets;
mod attach;
mod console;
mod exec;
mod forward;
mod output;
mod programs;
mod tar;
mod terminal;

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;
use http_body_util::BodyExt;
use hyper::body::Incoming;

pub use applets::MAX_APPLETS;
pub use attach::attach;
pub use console::Console;
pub use exec::exec;
pub use forward::forward;
pub use programs::Programs;

use super::pods::{PodEntry, Running};
use super::{Node, query};
use crate::api::ApiError;
use crate::api::resource::Gvr;
use crate::base::frames::{self, Decoder, Frame};

/// The body of an answer as it is made.
pub type Pieces = BoxStream<'static, io::Result<Bytes>>;

/// Which streams a client has (PodExecOptions).
#[derive(Default)]
pub struct Wanted {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    pub fn parse(text: &str) -> Result<Wanted, ApiError> {
        let mut wanted = Wanted::default();
        for (key, value) in query::pairs(text) {
            let flag = || query::flag(key, &value);
            match key {
                "command" => wanted.command.push(value),
                "stdin" => wanted.stdin = flag()?,
                "stdout" => wanted.stdout = flag()?,
                "stderr" => wanted.stderr = flag()?,
                "tty" => wanted.tty = flag()?,
                // `container` is in the path.
                _ => {}
            }
        }
        Ok(wanted)
    }
}

impl Node {
    pub(super) fn pod(
        &self,
        namespace: &str,
        pod: &str,
    ) -> Result<std::sync::Arc<PodEntry>, ApiError> {
        let pods = Gvr::new("", "v1", "pods", true);
        self.shared.pods.get(namespace, pod).ok_or_else(|| ApiError::not_found(&pods, pod))
    }

    /// A container that runs now.
    pub(super) fn running(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Running, ApiError> {
        let entry = self.pod(namespace, pod)?;
        if !entry.has(container) {
            let text = format!("container {container} is not valid for pod {pod}");
            return Err(ApiError::bad_request(text));
        }
        entry.running(container).ok_or_else(|| {
            let waiting = entry.attempts(container).waiting;
            let why = waiting.map_or_else(String::new, |reason| format!(": {reason}"));
            let text = format!("container {container:?} in pod {pod:?} is not running{why}");
            ApiError::bad_request(text)
        })
    }
}

/// The frames of a request's body, until it ends or breaks.
struct Received {
    body: Incoming,
    decoder: Decoder,
}

impl Received {
    fn new(body: Incoming) -> Received {
        Received { body, decoder: Decoder::default() }
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.take() {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a stream from the control plane ends");
                    return None;
                }
            }
            let data = self.body.frame().await?.ok()?.into_data().ok()?;
            self.decoder.push(&data);
        }
    }
}

/// The outcome of a command as its last frame (k8s.io/kubelet/pkg/cri/streaming/remotecommand).
fn outcome(code: i32, why: &str) -> Bytes {
    let status = if code == 0 {
        serde_json::json!({"metadata": {}, "status": "Success"})
    } else {
        let why = if why.is_empty() { format!("exit status {code}") } else { why.to_string() };
        serde_json::json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: {why}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        })
    };
    frames::encode(frames::ERROR, status.to_string().as_bytes())
}

/// Aborts a task when it is dropped.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
