//! Volumes of images (KEP-4639): before a container starts, the images of the volumes that it mounts
//! are pulled and unpacked, each once for the whole node, in a directory named after its manifest's
//! digest. A pod refers to it by a link in its own directory, which goes with the pod; what nobody
//! refers to is removed after a while, or at once while the disk is low.
//!
//! Reasons and events are those of container images (kubelet resolves both by one image manager).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Volume};
use parking_lot::Mutex;

use super::Shared;
use super::container::docker_configs;
use super::images::{ContentImage, PullError, PullPolicy, PullRequest};
use super::machine;
use super::pod_state::spec;
use super::setup::Place;
use super::start::{StartFailure, not_pulled};
use crate::base::clock::{Clock, RealClock};
use crate::base::keyed_locks::KeyedLocks;
use crate::volumes::unpack::{UnpackError, Unpacker};
use crate::volumes::{self, Objects, image, writer};

/// Below the node's data directory.
const DIR: &str = "image-volumes";
/// Of directories that are not complete, or no longer to be used.
const UNFINISHED: &str = "new-";
/// Between two looks for what nobody refers to.
const PERIOD: Duration = Duration::from_secs(60);
/// What nobody refers to is kept this long: the next pod of a workload is likely to want it.
const UNUSED_AGE: Duration = Duration::from_secs(10 * 60);

/// What is unpacked on the node.
pub struct ImageVolumes {
    dir: PathBuf,
    /// By digest.
    unpacking: KeyedLocks,
    /// Shared by those that refer to what is there, held alone by who removes.
    referring: Arc<tokio::sync::RwLock<()>>,
    /// Directories that are being made.
    unfinished: Arc<Mutex<BTreeSet<PathBuf>>>,
    serial: AtomicU64,
}

/// A directory that is being made, until this is dropped.
struct Unfinished {
    dir: PathBuf,
    all: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.all.lock().remove(&self.dir);
    }
}

impl ImageVolumes {
    pub fn new(data_dir: &Path) -> std::io::Result<ImageVolumes> {
        // Links lead there from elsewhere.
        let dir = std::path::absolute(data_dir.join(DIR))?;
        let (unpacking, serial) = (KeyedLocks::default(), AtomicU64::new(0));
        let (referring, unfinished) = (Arc::default(), Arc::default());
        Ok(ImageVolumes { dir, unpacking, referring, unfinished, serial })
    }

    fn begin(&self) -> Unfinished {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let dir = self.dir.join(format!("{UNFINISHED}{}-{serial}", std::process::id()));
        self.unfinished.lock().insert(dir.clone());
        Unfinished { dir, all: self.unfinished.clone() }
    }
}

/// Settles the volumes of images that a container mounts.
pub async fn settle(
    node: &Shared,
    place: &Place,
    container: &Container,
    objects: &Objects,
) -> Result<(), StartFailure> {
    let mounts = container.volume_mounts.iter().flatten();
    let mounted: BTreeSet<&str> = mounts.map(|mount| &*mount.name).collect();
    for volume in spec(&place.pod).volumes.iter().flatten() {
        let Some(source) = image::source(volume).filter(|_| mounted.contains(&*volume.name)) else {
            continue;
        };
        let configs = docker_configs(&place.pod, objects);
        let settled = settle_one(node, place, (container, volume, source), &configs).await;
        settled.map_err(|failure| StartFailure { image: source.reference.clone(), ..failure })?;
    }
    Ok(())
}

async fn settle_one(
    node: &Shared,
    place: &Place,
    (container, volume, source): (&Container, &Volume, &ImageVolumeSource),
    docker_configs: &[Bytes],
) -> Result<(), StartFailure> {
    let failed = |error: &dyn std::fmt::Display| {
        StartFailure::new("CreateContainerError", error.to_string(), true)
    };
    let link = volumes::volume_dir(&place.dir, volume, &node.facts.host).map_err(|e| failed(&e))?;
    let looked = link.clone();
    let is_settled = tokio::task::spawn_blocking(move || image::settled(&looked).is_some()).await;
    if is_settled.map_err(|error| failed(&error))? {
        return Ok(());
    }
    let name = source.reference.as_deref().unwrap_or_default();
    let policy = PullPolicy::of(source.pull_policy.as_deref());
    let request = PullRequest { image: name, policy, docker_configs };
    let tell = |reason, text| node.tell_step(&place.pod, &container.name, reason, text);
    let began = node.clock.now();
    let content = node.images.content(&request).await.map_err(not_pulled)?;
    let hex = content.digest.strip_prefix("sha256:").unwrap_or(&content.digest);
    let dir = node.image_volumes.dir.join(hex);
    let _alone = node.image_volumes.unpacking.lock(hex).await;
    let is_here = tokio::fs::try_exists(&dir).await.map_err(|error| failed(&error))?;
    if is_here {
        tell("Pulled", format!("Container image {name:?} already present on machine"));
    } else {
        tell("Pulling", format!("Pulling image {name:?}"));
        unpack(node, &request, &content, &dir).await?;
        let took = node.clock.now().duration_since(began).as_millis();
        let size: u64 = content.layers.iter().map(|layer| layer.size).sum();
        tell(
            "Pulled",
            format!(
                "Successfully pulled image {name:?} in {took}ms ({took}ms including waiting). \
                 Image size: {size} bytes."
            ),
        );
    }
    let _referring = node.image_volumes.referring.read().await;
    let refer = move || {
        touch(&dir);
        // Only a disk that is low can have taken it away again.
        writer::io("open", &dir, std::fs::metadata(&dir))?;
        image::settle(&link, &dir)
    };
    let referred = tokio::task::spawn_blocking(refer).await.map_err(|error| failed(&error))?;
    referred.map_err(|error| failed(&error))
}

/// Pulls layer by layer into a directory that gets its name when it is complete.
async fn unpack(
    node: &Shared,
    request: &PullRequest<'_>,
    content: &ContentImage,
    dir: &Path,
) -> Result<(), StartFailure> {
    let unfinished = node.image_volumes.begin();
    let new = unfinished.dir.clone();
    let made = unpack_into(node, request, content, &new).await;
    let to = dir.to_path_buf();
    let finish = move || match made {
        Ok(unpacker) => {
            let named = unpacker.finish().and_then(|()| {
                std::fs::rename(&new, &to).map_err(|source| UnpackError::Io {
                    action: "rename to",
                    path: to,
                    source,
                })
            });
            named.map_err(|error| {
                remove(&new);
                PullError::Failed(error.to_string())
            })
        }
        Err(error) => {
            remove(&new);
            Err(error)
        }
    };
    let finished = tokio::task::spawn_blocking(finish).await;
    drop(unfinished);
    let finished = finished.unwrap_or_else(|error| Err(PullError::Failed(error.to_string())));
    finished.map_err(not_pulled)
}

async fn unpack_into(
    node: &Shared,
    request: &PullRequest<'_>,
    content: &ContentImage,
    new: &Path,
) -> Result<Unpacker, PullError> {
    let (dir, data_dir) = (new.to_path_buf(), node.options.data_dir.clone());
    let thresholds = node.options.eviction;
    let open = move || {
        if machine::room(&data_dir, &thresholds).is_some_and(|room| room.is_low()) {
            return Err("the node's disk is low".to_string());
        }
        writer::make_dir(&dir, 0o700).map_err(|error| error.to_string())?;
        Unpacker::open(&dir).map_err(|error| error.to_string())
    };
    let image = request.image;
    let failed = |why: &dyn std::fmt::Display| {
        PullError::Failed(format!("image {image} is not unpacked: {why}"))
    };
    let opened = tokio::task::spawn_blocking(open).await.map_err(|error| failed(&error))?;
    let mut unpacker = opened.map_err(|why| failed(&why))?;
    for layer in &content.layers {
        let loaded = node.images.layer(request, layer).await?;
        let (form, digest) = (layer.form.clone(), &layer.digest);
        let add = move || {
            let added = unpacker.add(&form, &loaded.bytes);
            added.map(|()| unpacker)
        };
        let added = tokio::task::spawn_blocking(add).await.map_err(|error| failed(&error))?;
        unpacker = added.map_err(|error| failed(&format_args!("layer {digest}: {error}")))?;
    }
    Ok(unpacker)
}

fn remove(dir: &Path) {
    if let Err(error) = writer::remove(dir) {
        tracing::warn!(%error, "an image's files are left behind");
    }
}

/// Notes that it is used, by the clock of the files; failing makes it look older.
fn touch(dir: &Path) {
    let now = SystemTime::from(RealClock.now());
    let _ = std::fs::File::open(dir).and_then(|dir| dir.set_modified(now));
}

/// Removes what nobody refers to, again and again.
pub async fn keep_collecting(node: Arc<Shared>) {
    loop {
        collect(&node, UNUSED_AGE).await;
        node.clock.sleep(PERIOD).await;
    }
}

/// Removes what nobody referred to for so long; the next pass looks again at what is busy now.
async fn collect(node: &Shared, age: Duration) {
    let Ok(alone) = node.image_volumes.referring.clone().try_write_owned() else { return };
    let unfinished = node.image_volumes.unfinished.clone();
    let (dir, data_dir) = (node.image_volumes.dir.clone(), node.options.data_dir.clone());
    let thresholds = node.options.eviction;
    let sweep = move || {
        let _alone = alone;
        let low = machine::room(&data_dir, &thresholds).is_some_and(|room| room.is_low());
        let is_busy = |path: &Path| unfinished.lock().contains(path);
        sweep(&dir, &data_dir.join("pods"), if low { Duration::ZERO } else { age }, is_busy)
    };
    if let Ok(Err(error)) = tokio::task::spawn_blocking(sweep).await {
        tracing::warn!(%error, "images that no pod mounts could not be removed");
    }
}

fn sweep(
    dir: &Path,
    pods: &Path,
    age: Duration,
    is_busy: impl Fn(&Path) -> bool,
) -> std::io::Result<()> {
    let found = list(dir)?;
    if found.is_empty() {
        return Ok(());
    }
    let used = referred(pods)?;
    let now = SystemTime::from(RealClock.now());
    for path in found {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if used.contains(&path) {
            touch(&path);
            continue;
        }
        let modified = std::fs::metadata(&path).and_then(|meta| meta.modified());
        let unused = modified.ok().and_then(|at| now.duration_since(at).ok());
        let is_unfinished = name.starts_with(UNFINISHED);
        if is_unfinished && is_busy(&path) {
            continue;
        }
        if is_unfinished || unused.is_some_and(|unused| unused >= age) {
            // Half of it must never be taken for the whole.
            let gone = dir.join(format!("{UNFINISHED}gone-{name}"));
            std::fs::rename(&path, &gone)?;
            std::fs::remove_dir_all(&gone)?;
        }
    }
    Ok(())
}

/// Where the links of pods lead.
fn referred(pods: &Path) -> std::io::Result<BTreeSet<PathBuf>> {
    let prefix = format!("{}~", image::KIND.name);
    let mut used = BTreeSet::new();
    for pod in list(pods)? {
        for path in list(&pod)? {
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.starts_with(&prefix)) {
                used.extend(std::fs::read_link(&path));
            }
        }
    }
    Ok(used)
}

/// The entries of a directory; none if it is not there.
fn list(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| entry.map(|entry| entry.path())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_refers_to_stays() {
        let top = tempfile::tempdir().unwrap();
        let (dir, pods) = (top.path().join("images"), top.path().join("pods"));
        let sweep = |age| sweep(&dir, &pods, age, |path| path.ends_with("new-busy")).unwrap();
        sweep(Duration::ZERO);
        for name in ["used", "unused", "new-1-0", "new-busy"] {
            std::fs::create_dir_all(dir.join(name).join("deep")).unwrap();
        }
        std::fs::create_dir_all(pods.join("uid")).unwrap();
        image::settle(&pods.join("uid/image~v"), &dir.join("used")).unwrap();
        image::settle(&pods.join("uid/image~v"), &dir.join("unused")).unwrap();
        assert_eq!(image::settled(&pods.join("uid/image~v")), Some(dir.join("used")));
        sweep(UNUSED_AGE);
        assert_eq!(list(&dir).unwrap().len(), 3, "one may be used again");
        sweep(Duration::ZERO);
        assert!(dir.join("used").exists() && !dir.join("unused").exists());
        std::fs::remove_dir_all(pods.join("uid")).unwrap();
        assert_eq!(image::settled(&pods.join("uid/image~v")), None);
        sweep(Duration::ZERO);
        assert_eq!(list(&dir).unwrap(), [dir.join("new-busy")]);
    }
}
