//! What a case gets: a namespace of its own, collections of the API by path, kubectl, and waiting.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Client;
use super::collection::Collection;
use crate::cluster::tools::{self, Output};

/// The longest wait for a state.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks of `eventually`.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The case cannot run on this machine; not a failure.
#[derive(Debug)]
pub struct NotTested(pub String);

impl fmt::Display for NotTested {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "not tested: {}", self.0)
    }
}

impl std::error::Error for NotTested {}

pub struct Context {
    pub client: Client,
    /// A fresh namespace that goes after the case.
    pub namespace: String,
    pub kubeconfig: PathBuf,
    home: TempDir,
    /// Removed after the case, however it ends: collections and names.
    leftovers: RefCell<Vec<(Collection, String)>>,
}

/// `v1/pods`, `apps/v1/deployments`: where such objects are, in a namespace or in all.
fn path(resource: &str, namespace: Option<&str>) -> String {
    let (version, plural) = resource.rsplit_once('/').expect("version/resource");
    let root = if version.contains('/') { "apis" } else { "api" };
    match namespace {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/{root}/{version}/{plural}"),
    }
}

impl Context {
    pub async fn new(client: Client, kubeconfig: &Path) -> Result<Context> {
        let mut context = Context {
            client,
            namespace: String::new(),
            kubeconfig: kubeconfig.to_path_buf(),
            home: tempfile::tempdir()?,
            leftovers: RefCell::default(),
        };
        context.namespace = context.create_namespace("conformance", json!({})).await?;
        Ok(context)
    }

    /// One more namespace, with a name of its own that begins so.
    pub async fn create_namespace(&self, base: &str, labels: Value) -> Result<String> {
        let name = self.unique(base);
        let namespaces = self.all("v1/namespaces");
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": labels}});
        namespaces.create(&object).await?;
        self.remove_later(&namespaces, &name);
        // As upstream's framework does, since pods need it.
        let accounts = self.within(&name, "v1/serviceaccounts");
        eventually("the default service account", async || Ok(accounts.get("default").await.ok()))
            .await?;
        Ok(name)
    }

    /// Objects of the case's namespace: `v1/pods`, `apps/v1/deployments`.
    pub fn own(&self, resource: &str) -> Collection {
        self.within(&self.namespace, resource)
    }

    /// Objects of another namespace.
    pub fn within(&self, namespace: &str, resource: &str) -> Collection {
        Collection { client: self.client.clone(), path: path(resource, Some(namespace)) }
    }

    /// Objects of the cluster, or of all namespaces.
    pub fn all(&self, resource: &str) -> Collection {
        Collection { client: self.client.clone(), path: path(resource, None) }
    }

    /// A name that no other case and no earlier run has.
    pub fn unique(&self, base: &str) -> String {
        format!("{base}-{:08x}", rand::random::<u32>())
    }

    /// Removes an object after the case, however it ends. Namespaces and what is in them need no
    /// such care.
    pub fn remove_later(&self, collection: &Collection, name: &str) {
        self.leftovers.borrow_mut().push((collection.clone(), name.to_string()));
    }

    pub async fn clean_up(&self) {
        let leftovers = std::mem::take(&mut *self.leftovers.borrow_mut());
        for (collection, name) in leftovers.into_iter().rev() {
            // It may be gone already.
            let _ = collection.delete(&name).await;
        }
    }

    /// Runs kubectl in the case's namespace. Words are split at spaces, and `'…'` keeps spaces.
    pub async fn kubectl(&self, words: &str, stdin: &str) -> Result<Output> {
        let Some(kubectl) = tools::kubectl() else {
            bail!(NotTested("there is no kubectl".into()));
        };
        let words = format!("-n {} {words}", self.namespace);
        let (kubeconfig, home) = (self.kubeconfig.clone(), self.home.path().to_path_buf());
        let stdin = stdin.to_string();
        let run = move || tools::run(kubectl, &words, &stdin, &kubeconfig, &home, &[]);
        Ok(tokio::task::spawn_blocking(run).await?)
    }
}

/// Looks until there is something: for states that no watch tells. An error ends it.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    eventually_within(PATIENCE, what, look).await
}

pub async fn eventually_within<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let looking = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    match tokio::time::timeout(patience, looking).await {
        Ok(found) => found,
        Err(_) => Err(anyhow!("{what}: not after {patience:?}")),
    }
}
