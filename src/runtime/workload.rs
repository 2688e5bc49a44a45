//! What a container is told and given beside WASI: its identity, its configuration, the buckets
//! that it may open, and the platform that keeps them. Plain data and one trait; what guests see of
//! it is in `workload_host`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::denials::Denial;

/// What a guest may ask the platform for, as far as its pod was given it.
pub struct Workload {
    pub identity: Identity,
    /// What `wasi:config/store` answers with, as it was when the container started.
    pub config: BTreeMap<String, String>,
    /// Buckets of `wasi:keyvalue` that it may open; the first is also named "".
    pub buckets: Vec<String>,
    /// Audiences of which it may ask for a token.
    pub audiences: Vec<String>,
    pub platform: Arc<dyn Platform>,
    /// Held by one who counts: the container's other instances would only disturb it.
    pub counting: tokio::sync::Mutex<()>,
}

/// Who a container is to its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
    pub node: String,
    pub service_account: String,
    pub labels: BTreeMap<String, String>,
}

/// What is in a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Of what was read; `None`: nothing was ever put into it.
    pub version: Option<String>,
    pub entries: BTreeMap<String, Vec<u8>>,
}

/// Keys to put (`Some`) and to remove (`None`), all or none.
pub type Changes = Vec<(String, Option<Vec<u8>>)>;

/// Why a bucket was not changed.
#[derive(Debug, PartialEq, Eq)]
pub enum WriteError {
    /// Somebody changed it since that version.
    Conflict,
    /// The text is for the guest.
    Failed(String),
}

/// Who keeps buckets and issues tokens; one that does neither says so. Errors are texts for the
/// guest.
#[async_trait::async_trait]
pub trait Platform: Send + Sync + 'static {
    /// A token of the pod's service account for an audience.
    async fn token(&self, _audience: &str) -> Result<String, String> {
        Err(NO_PLATFORM.to_owned())
    }
    /// All that a bucket holds now; an empty one where there is none.
    async fn read(&self, _bucket: &str) -> Result<Bucket, String> {
        Err(NO_PLATFORM.to_owned())
    }
    /// Changes a bucket, only at this version if one is given. It is durable when this returns.
    async fn write(
        &self,
        _bucket: &str,
        _version: Option<&str>,
        _changes: Changes,
    ) -> Result<(), WriteError> {
        Err(WriteError::Failed(NO_PLATFORM.to_owned()))
    }
    /// Is told that the network was refused to the container; must not block.
    fn denied(&self, _: Denial) {}
    /// Is told that the container, an HTTP handler, failed at a request, and why in one line; must
    /// not block.
    fn failed(&self, _: String) {}
}

/// For containers outside of a cluster: it has nothing.
struct Nothing;

const NO_PLATFORM: &str = "there is no cluster behind this container";

impl Platform for Nothing {}

impl Default for Workload {
    fn default() -> Self {
        Self {
            identity: Identity::default(),
            config: BTreeMap::new(),
            buckets: Vec::new(),
            audiences: Vec::new(),
            platform: Arc::new(Nothing),
            counting: tokio::sync::Mutex::default(),
        }
    }
}
