//! What a node keeps of images: contents by digest, and which digest a name meant last.
//!
//! A file is checked against its digest at every read, so that a torn or altered one is as good as
//! none; that is why nothing here waits for the disk. The oldest contents go when the bound is
//! reached, or when the disk is filling up; what runs does not need them any more.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{digest_hex, digest_of};
use crate::base::clock::{Clock, RealClock};

/// Names that are remembered; the oldest go.
const MAX_NAMES: usize = 10_000;

/// How full a disk may get before contents are removed, and how full it may stay then, in percent
/// (kubelet's imageGCHighThresholdPercent and imageGCLowThresholdPercent).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    pub high: u8,
    pub low: u8,
}

impl Default for Watermarks {
    fn default() -> Watermarks {
        Watermarks { high: 85, low: 80 }
    }
}

/// Bytes of a file system: those in use and those that may still be written, together; and the
/// latter. Blocks that only root may use are none of them, as `df` counts.
#[derive(Clone, Copy, Debug)]
pub struct DiskUse {
    pub total: u64,
    pub free: u64,
}

/// Looks at the disk of a directory.
pub type Probe = fn(&Path) -> io::Result<DiskUse>;

/// The disk as the kernel sees it.
///
/// # Errors
/// When it cannot be asked.
pub fn statvfs(dir: &Path) -> io::Result<DiskUse> {
    let found = rustix::fs::statvfs(dir)?;
    let unit = found.f_frsize;
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    Ok(DiskUse { total: (used + found.f_bavail) * unit, free: found.f_bavail * unit })
}

/// A content store on disk; share it by `Arc`.
pub struct Cache {
    dir: PathBuf,
    max_bytes: u64,
    watermarks: Watermarks,
    probe: Probe,
    /// Distinguishes temporary files.
    serial: AtomicU64,
    /// Held while contents are counted and removed.
    trimming: Mutex<()>,
}

/// What a name meant when it was last pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// `[host/]path[:tag][@digest]`, canonical.
    pub name: String,
    /// Of the manifest.
    pub digest: String,
    pub wasm_digest: String,
    /// Of the program, in bytes; older releases did not keep it.
    #[serde(default)]
    pub size: u64,
    /// The program was among the files of a layer.
    #[serde(default)]
    pub packed: bool,
    /// Fingerprints of the credentials that it was pulled with; none if everyone may pull it.
    #[serde(default)]
    pub secrets: Vec<String>,
}

impl Cache {
    /// Opens or makes a cache that keeps at most about `max_bytes`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(dir: &Path, max_bytes: u64) -> io::Result<Arc<Cache>> {
        Cache::open_on(dir, max_bytes, Watermarks::default(), statvfs)
    }

    /// [`Cache::open`] with other watermarks, on a disk that is looked at by `probe`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open_on(
        dir: &Path,
        max_bytes: u64,
        watermarks: Watermarks,
        probe: Probe,
    ) -> io::Result<Arc<Cache>> {
        for part in ["blobs", "names"] {
            fs::create_dir_all(dir.join(part))?;
        }
        // Writers that were cut off leave these behind.
        for entry in fs::read_dir(dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("new-") {
                fs::remove_file(entry.path())?;
            }
        }
        let (serial, trimming) = (AtomicU64::new(0), Mutex::new(()));
        let dir = dir.to_path_buf();
        Ok(Arc::new(Cache { dir, max_bytes, watermarks, probe, serial, trimming }))
    }

    /// The content of a digest, if it is here and whole.
    pub async fn get(self: &Arc<Self>, digest: &str) -> Option<Bytes> {
        let path = self.blob_path(digest)?;
        let digest = digest.to_string();
        let read = tokio::task::spawn_blocking(move || {
            let bytes = fs::read(&path).ok()?;
            if digest_of(&bytes) != digest {
                tracing::warn!(digest, "a cached image is damaged and is removed");
                let _ = fs::remove_file(&path);
                return None;
            }
            mark_used(&path);
            Some(Bytes::from(bytes))
        });
        read.await.ok().flatten()
    }

    /// Whether the content of a digest is here, without reading it; counts as a use.
    pub async fn touch(self: &Arc<Self>, digest: &str) -> bool {
        let Some(path) = self.blob_path(digest) else { return false };
        tokio::task::spawn_blocking(move || mark_used(&path)).await.unwrap_or(false)
    }

    /// Keeps content under its digest, and removes the oldest beyond the bound.
    ///
    /// # Errors
    /// When the disk refuses; callers can go on without.
    pub async fn put(self: &Arc<Self>, digest: &str, bytes: Bytes) -> io::Result<()> {
        let Some(path) = self.blob_path(digest) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a digest"));
        };
        let own = self.clone();
        blocking(move || {
            own.write(&path, &bytes)?;
            own.trim_blobs(Some(&path))
        })
        .await
    }

    /// Removes the contents used longest ago where there are too many, or the disk is too full.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub async fn collect_garbage(self: &Arc<Self>) -> io::Result<()> {
        let own = self.clone();
        blocking(move || own.trim_blobs(None)).await
    }

    /// What a name meant last.
    pub async fn known(self: &Arc<Self>, name: &str) -> Option<Known> {
        let (path, name) = (self.name_path(name), name.to_string());
        let read = tokio::task::spawn_blocking(move || {
            let known: Known = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            (known.name == name).then_some(known)
        });
        read.await.ok().flatten()
    }

    /// Remembers what a name means.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn remember(self: &Arc<Self>, known: &Known) -> io::Result<()> {
        let path = self.name_path(&known.name);
        let text = serde_json::to_vec(known)?;
        let own = self.clone();
        blocking(move || {
            own.write(&path, &text)?;
            own.trim(&own.dir.join("names"), Some(&path), |_, count, _| count > MAX_NAMES)?;
            Ok(())
        })
        .await
    }

    fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        Some(self.dir.join("blobs").join(digest_hex(digest)?))
    }

    /// Names have characters that files may not: they are hashed.
    fn name_path(&self, name: &str) -> PathBuf {
        self.dir.join("names").join(hex::encode(Sha256::digest(name.as_bytes())))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let new = self.dir.join(format!("new-{}-{serial}", std::process::id()));
        let written = File::create(&new)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    fn trim_blobs(&self, keep: Option<&Path>) -> io::Result<()> {
        let DiskUse { total, free } = (self.probe)(&self.dir)?;
        let (used, percent) = (total.saturating_sub(free), |of: u8| total / 100 * u64::from(of));
        let must_go = match used > percent(self.watermarks.high) {
            true => used.saturating_sub(percent(self.watermarks.low)),
            false => 0,
        };
        let all = self.trim(&self.dir.join("blobs"), keep, |left, _, gone| {
            left > self.max_bytes || gone < must_go
        })?;
        // Told by the periodic look, and not with every image that comes.
        if all < must_go && keep.is_none() {
            let dir = self.dir.display();
            tracing::warn!(%dir, "the disk is filling up, and there are no images left to remove");
        }
        Ok(())
    }

    /// Removes the files used longest ago while `too_much(bytes, files, bytes removed)`, but
    /// never `keep`. Answers how many bytes went.
    fn trim(
        &self,
        dir: &Path,
        keep: Option<&Path>,
        too_much: impl Fn(u64, usize, u64) -> bool,
    ) -> io::Result<u64> {
        let _one_at_a_time = self.trimming.lock();
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)?.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            files.push((used, meta.len(), entry.path()));
        }
        files.sort();
        let (mut bytes, mut count) = (files.iter().map(|(_, len, _)| len).sum(), files.len());
        let mut gone = 0;
        for (_, length, path) in files {
            if !too_much(bytes, count, gone) {
                break;
            }
            if Some(&*path) != keep && fs::remove_file(&path).is_ok() {
                bytes -= length;
                gone += length;
                count -= 1;
            }
        }
        Ok(gone)
    }
}

/// A content's age is the time since its last use, by the clock of the files; failing makes it look
/// older. Answers whether the file is there.
fn mark_used(path: &Path) -> bool {
    let now = SystemTime::from(RealClock.now());
    let Ok(file) = File::open(path) else { return false };
    let _ = file.set_modified(now);
    true
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
