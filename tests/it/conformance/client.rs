//! Requests as cases make them: JSON over HTTPS with the credentials of a kubeconfig. Every answer
//! is kept whole, so that a case can look at codes, headers and bytes.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

pub type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Of an answer that a failure shows.
const SHOWN_CHARS: usize = 1500;

#[derive(Clone)]
pub struct Client(kube::Client);

/// An answer, whatever its code.
pub struct Answer {
    /// Method and path, for failures.
    pub request: String,
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer that tells an error: what `anyhow::Error`s of requests hold.
#[derive(Debug)]
pub struct Failure {
    pub request: String,
    pub code: u16,
    pub reason: String,
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} → {} {}: {}", self.request, self.code, self.reason, self.message)
    }
}

impl std::error::Error for Failure {}

impl Client {
    pub async fn new(kubeconfig: &Path) -> Result<Client> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(config, &options).await?;
        // Cases look at answers that kube would try again: an eviction against a budget.
        config.default_retry = false;
        Ok(Client(kube::Client::try_from(config)?))
    }

    /// Sends a request whose body is still to be read.
    pub async fn start(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<http::Response<Body>> {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes())?);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.uri(path).body(Body::from(body))?;
        self.0.send(request).await.with_context(|| format!("{method} {path}"))
    }

    /// Any request, with any answer.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer> {
        let response = self.start(method, path, headers, body).await?;
        Answer::read(format!("{method} {path}"), response).await
    }

    /// A WebSocket with one of the server's subprotocols.
    pub async fn websocket(&self, path: &str, protocol: &str) -> Result<Socket> {
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "d2FzbWZsZWV0IGtleS4uLg=="),
            ("sec-websocket-protocol", protocol),
        ];
        let response = self.start("GET", path, &headers, Vec::new()).await?;
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            bail!(Answer::read(format!("GET {path}"), response).await?.failure());
        }
        let agreed = response.headers().get("sec-websocket-protocol").cloned();
        ensure!(agreed.is_some_and(|agreed| agreed == protocol), "{path}: another protocol");
        let io = TokioIo::new(hyper::upgrade::on(response).await?);
        Ok(Socket::from_raw_socket(io, Role::Client, None).await)
    }

    /// The JSON of a path.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, &[], Vec::new()).await?.ok()?.json()
    }
}

impl Answer {
    pub async fn read(request: String, response: http::Response<Body>) -> Result<Answer> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.with_context(|| format!("{request}: the body"))?;
        Ok(Answer {
            request,
            code: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    /// Itself if it is a success.
    pub fn ok(self) -> Result<Answer> {
        if (200..300).contains(&self.code) { Ok(self) } else { Err(self.failure().into()) }
    }

    pub fn failure(&self) -> Failure {
        let status: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let message = match status["message"].as_str() {
            Some(message) => message.to_string(),
            None => self.text().chars().take(SHOWN_CHARS).collect(),
        };
        Failure {
            request: self.request.clone(),
            code: self.code,
            reason: status["reason"].as_str().unwrap_or_default().into(),
            message,
        }
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("{}: {}", self.request, self.failure().message))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The texts of the `Warning` headers.
    pub fn warnings(&self) -> Vec<String> {
        let values = self.headers.get_all("warning").iter();
        values.filter_map(|value| value.to_str().ok().map(str::to_string)).collect()
    }
}

/// The error of a request that had to be refused with this code.
pub fn refused<T>(result: Result<T>, code: u16) -> Result<Failure> {
    let Err(error) = result else { bail!("accepted; expected: refused with {code}") };
    let failure = error.downcast::<Failure>()?;
    if failure.code == code { Ok(failure) } else { Err(anyhow!("{failure}; expected: {code}")) }
}
