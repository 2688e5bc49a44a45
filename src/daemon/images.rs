//! What the daemon gives a node agent of other rooms: pulled images, and names.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context;

use crate::client::SharedApi;
use crate::images::Puller;
use crate::images::cache::Cache;
use crate::runtime::Names;

/// Artifacts kept on a node's disk; beyond it the least recently used go.
const MAX_CACHE_BYTES: u64 = 4 << 30;

/// A puller that keeps what it pulled in a directory.
pub fn open(api: SharedApi, dir: &Path) -> anyhow::Result<Puller> {
    let cache = Cache::open(dir, MAX_CACHE_BYTES).with_context(|| dir.display().to_string())?;
    Ok(Puller::new(api, cache))
}

/// No names are answered inside guests yet: they call Services by address.
pub struct NoNames;

impl Names for NoNames {
    fn resolve(&self, _namespace: &str, _name: &str) -> Option<Vec<IpAddr>> {
        None
    }
}
