//! The images of a node agent, from the room that pulls them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::args::NodeTuning;
use crate::base::Tasks;
use crate::client::SharedApi;
use crate::images::cache::{Cache, Watermarks, statvfs};
use crate::images::{Puller, Registries};
use crate::node::images::Machine;
use crate::runtime::Runtime;

/// Artifacts kept on a node's disk; beyond it the least recently used go.
const MAX_CACHE_BYTES: u64 = 4 << 30;
/// Between two looks at how full the disk is (kubelet's ImageGCPeriod).
const GARBAGE_PERIOD: Duration = Duration::from_secs(5 * 60);

/// A puller that keeps what it pulled in a directory, as long as the disk has room.
pub fn open(
    api: SharedApi,
    dir: &Path,
    tuning: &NodeTuning,
    runtime: Arc<dyn Runtime>,
    tasks: &Tasks,
) -> anyhow::Result<Puller> {
    let registries = match &tuning.registries {
        Some(file) => Registries::read(file)?,
        None => Registries::default(),
    };
    let watermarks = Watermarks { high: tuning.image_gc_high, low: tuning.image_gc_low };
    anyhow::ensure!(
        watermarks.low < watermarks.high,
        "--image-gc-low ({}) must be less than --image-gc-high ({})",
        watermarks.low,
        watermarks.high
    );
    let cache = Cache::open_on(dir, MAX_CACHE_BYTES, watermarks, statvfs)
        .with_context(|| dir.display().to_string())?;
    tasks.spawn("image-gc", collect(cache.clone()));
    Ok(Puller::new(api, cache, registries, Arc::new(Machine(runtime))))
}

async fn collect(cache: Arc<Cache>) {
    loop {
        tokio::time::sleep(GARBAGE_PERIOD).await;
        if let Err(error) = cache.collect_garbage().await {
            tracing::warn!(%error, "images that nobody uses could not be removed");
        }
    }
}
