//! Joins the node agent's wish for images with the room that pulls them.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;

use crate::client::SharedApi;
use crate::images::cache::Cache;
use crate::images::reference::BadReference;
use crate::images::{self, Puller, Reference};
use crate::node::images::{Images, PullError, PullPolicy, PullRequest, PulledImage};
use crate::runtime::Names;

/// Artifacts kept on a node's disk; beyond it the least recently used go.
const MAX_CACHE_BYTES: u64 = 4 << 30;

/// Pulls through the room `images`.
pub struct NodeImages {
    puller: Puller,
}

impl NodeImages {
    pub fn open(api: SharedApi, dir: &Path) -> anyhow::Result<NodeImages> {
        let cache = Cache::open(dir, MAX_CACHE_BYTES).with_context(|| dir.display().to_string())?;
        Ok(NodeImages { puller: Puller::new(api, cache) })
    }
}

#[async_trait::async_trait]
impl Images for NodeImages {
    async fn pull(&self, request: &PullRequest<'_>) -> Result<PulledImage, PullError> {
        let image: Reference = request
            .image
            .parse()
            .map_err(|e: BadReference| PullError::InvalidName(e.to_string()))?;
        let policy = match request.policy {
            PullPolicy::Always => images::PullPolicy::Always,
            PullPolicy::IfNotPresent => images::PullPolicy::IfNotPresent,
            PullPolicy::Never => images::PullPolicy::Never,
        };
        let pulled = self.puller.pull_with(&image, policy, request.docker_configs).await;
        let pulled = pulled.map_err(failure)?;
        Ok(PulledImage {
            image_id: image.image_id(&pulled.digest),
            wasm_digest: pulled.wasm_digest,
            wasm: pulled.wasm,
        })
    }
}

fn failure(error: images::PullError) -> PullError {
    let text = error.to_string();
    match error {
        images::PullError::NotPresent(_) => PullError::NotPresent(text),
        images::PullError::Invalid { .. } => PullError::NotWasm(text),
        _ => PullError::Failed(text),
    }
}

/// No names are answered inside guests yet: they call Services by address.
pub struct NoNames;

impl Names for NoNames {
    fn resolve(&self, _namespace: &str, _name: &str) -> Option<Vec<IpAddr>> {
        None
    }
}
