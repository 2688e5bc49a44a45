//! A connection to the cluster: kubeconfig as kubectl finds it, the namespace, and discovery once.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use http::Method;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::args::Connection;
use super::discovery::Discovery;
use super::printer;
use super::selection::check_name;
use crate::api::{ApiError, Object};
use crate::client::remote::Remote;

/// What verbs work with.
pub struct Session {
    pub remote: Remote,
    /// Where objects without a namespace of their own are.
    pub namespace: String,
    /// It was said with `-n`, so that files must not say another.
    pub namespace_is_explicit: bool,
    /// The API server's URL, for messages.
    pub server: String,
    discovery: OnceCell<Discovery>,
}

impl Session {
    pub async fn connect(connection: &Connection) -> anyhow::Result<Session> {
        let file = match &connection.kubeconfig {
            Some(path) => read(path)?,
            None => kubeconfig(&search_path())?,
        };
        if let Some(context) = &connection.context
            && !file.contexts.iter().any(|known| known.name == *context)
        {
            bail!("context {context:?} does not exist in the kubeconfig");
        }
        let options =
            KubeConfigOptions { context: connection.context.clone(), ..Default::default() };
        let config = kube::Config::from_custom_kubeconfig(file, &options)
            .await
            .context("the kubeconfig cannot be used")?;
        let explicit = connection.namespace.clone().filter(|namespace| !namespace.is_empty());
        let namespace_is_explicit = explicit.is_some();
        let namespace = explicit.unwrap_or_else(|| config.default_namespace.clone());
        check_name(&namespace).with_context(|| format!("namespace {namespace:?}"))?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_string();
        let remote = Remote::new(config)?;
        let discovery = OnceCell::new();
        Ok(Session { remote, server, namespace, namespace_is_explicit, discovery })
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
        // First what needs no server.
        printer::line(&format!("wasmctl {}", env!("CARGO_PKG_VERSION")))?;
        let server = self.get_json("/version").await?;
        let server = server.get("gitVersion").and_then(Value::as_str).unwrap_or_default();
        printer::line(&format!("server {server}"))?;
        Ok(())
    }
}

/// The files that $KUBECONFIG lists, or `~/.kube/config`.
fn search_path() -> Vec<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty());
    match listed {
        Some(list) => std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()).collect(),
        None => std::env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect(),
    }
}

/// The files that exist as one: what a name or setting means is said by the first that has it.
fn kubeconfig(files: &[PathBuf]) -> anyhow::Result<Kubeconfig> {
    let mut merged: Option<Kubeconfig> = None;
    for path in files.iter().filter(|path| path.exists()) {
        let next = read(path)?;
        merged = Some(match merged {
            Some(first) => first.merge(next).context("the kubeconfigs cannot be merged")?,
            None => next,
        });
    }
    merged.with_context(|| {
        let tried: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
        format!(
            "no kubeconfig (tried {}): run `export KUBECONFIG=FILE` with the file that `wasmfleet \
             up` names when it starts, or give --kubeconfig FILE",
            tried.join(", ")
        )
    })
}

fn read(path: &Path) -> anyhow::Result<Kubeconfig> {
    let place = || format!("the kubeconfig {} cannot be read", path.display());
    if let Err(error) = std::fs::File::open(path) {
        return Err(error).with_context(place);
    }
    Kubeconfig::read_from(path).map_err(|error| {
        // The parser draws the place on more lines.
        let text = error.to_string();
        anyhow::anyhow!("{}: {}", place(), text.lines().next().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn missing_kubeconfigs_are_skipped_and_the_first_wins() {
        let dir = tempfile::tempdir().unwrap();
        let cluster =
            |server: &str| format!("clusters: [{{name: c, cluster: {{server: \"{server}\"}}}}]\n");
        let one = file(dir.path(), "1", &cluster("https://one"));
        let two = format!("{}current-context: two\n", cluster("https://two"));
        let two = file(dir.path(), "2", &two);
        let missing = dir.path().join("missing");
        let merged = kubeconfig(&[missing.clone(), one, two]).unwrap();
        assert_eq!(merged.current_context.as_deref(), Some("two"));
        let servers: Vec<_> = merged.clusters.iter().filter_map(|c| c.cluster.as_ref()).collect();
        assert_eq!(servers.len(), 1);
        assert_eq!(servers[0].server.as_deref(), Some("https://one"));
        let error = kubeconfig(&[missing]).unwrap_err().to_string();
        assert!(error.contains("export KUBECONFIG=FILE"), "{error}");
        let broken = file(dir.path(), "3", "a: [");
        let error = kubeconfig(&[broken]).unwrap_err().to_string();
        assert!(error.contains("/3 cannot be read") && !error.contains('\n'), "{error}");
    }
}
