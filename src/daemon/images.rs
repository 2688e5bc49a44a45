//! The images of a node agent, from the room that pulls them.

use std::path::Path;

use anyhow::Context;

use crate::client::SharedApi;
use crate::images::Puller;
use crate::images::cache::Cache;

/// Artifacts kept on a node's disk; beyond it the least recently used go.
const MAX_CACHE_BYTES: u64 = 4 << 30;

/// A puller that keeps what it pulled in a directory.
pub fn open(api: SharedApi, dir: &Path) -> anyhow::Result<Puller> {
    let cache = Cache::open(dir, MAX_CACHE_BYTES).with_context(|| dir.display().to_string())?;
    Ok(Puller::new(api, cache))
}
