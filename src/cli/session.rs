//! A connection to the cluster: kubeconfig as kubectl finds it, the namespace, and discovery once.

use anyhow::Context;
use http::Method;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::args::Connection;
use super::discovery::Discovery;
use super::printer;
use crate::api::{ApiError, Object};
use crate::client::remote::Remote;

/// What verbs work with.
pub struct Session {
    pub remote: Remote,
    /// Where objects without a namespace of their own are.
    pub namespace: String,
    discovery: OnceCell<Discovery>,
}

const HOW_TO_FIND: &str = "name a kubeconfig with --kubeconfig FILE or $KUBECONFIG; `wasmfleet up` \
                           prints the path of the one that it writes";

impl Session {
    pub async fn connect(connection: &Connection) -> anyhow::Result<Session> {
        let file = match &connection.kubeconfig {
            Some(path) => Kubeconfig::read_from(path)
                .with_context(|| format!("the kubeconfig {} cannot be read", path.display()))?,
            None => Kubeconfig::read().context(HOW_TO_FIND)?,
        };
        let options =
            KubeConfigOptions { context: connection.context.clone(), ..Default::default() };
        let config = kube::Config::from_custom_kubeconfig(file, &options)
            .await
            .context("the kubeconfig cannot be used")?;
        let namespace =
            connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Session { remote: Remote::new(config)?, namespace, discovery: OnceCell::new() })
    }

    /// What the server serves, asked for once.
    pub async fn discovery(&self) -> Result<&Discovery, ApiError> {
        self.discovery.get_or_try_init(|| Discovery::fetch(&self.remote)).await
    }

    /// A GET that answers with JSON.
    pub async fn get_json(&self, path: &str) -> Result<Value, ApiError> {
        self.json(Method::GET, path, None).await
    }

    /// A request with a JSON answer; Warning headers are shown.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Value, ApiError> {
        let (content_type, body) = body.unwrap_or(("application/json", Vec::new()));
        let headers = [("accept", "application/json"), ("content-type", content_type)];
        let answer = self.remote.send(method, path, &headers, body).await?;
        printer::warnings(&answer.headers);
        if !answer.status.is_success() {
            return Err(ApiError::from_response(answer.status.as_u16(), &answer.body));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|e| ApiError::internal(format!("the answer is no JSON: {e}")))
    }

    /// A request whose answer is an object.
    pub async fn object(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> Result<Object, ApiError> {
        Object::from_value(self.json(method, path, body).await?)
    }

    pub async fn print_version(&self) -> anyhow::Result<()> {
        let server = self.get_json("/version").await?;
        let server = server.get("gitVersion").and_then(Value::as_str).unwrap_or_default();
        printer::line(&format!("wasmctl {}", env!("CARGO_PKG_VERSION")))?;
        printer::line(&format!("server {server}"))?;
        Ok(())
    }
}
