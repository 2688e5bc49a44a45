//! What nobody needs any more: blobs that no manifest names, and referrers whose subject is gone.
//!
//! A manifest stays while its record is there, with a tag or without: Pods name digests. What an index
//! names stays with it, since it cannot be deleted before. What is about another manifest goes with
//! that one, unless it has a tag of its own or an index names it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::manifests::found;
use super::{Artifacts, Record};
use crate::base::clock::{Clock, RealClock};
use crate::images::digest_hex;

/// What no manifest names is kept this long, since its manifest may be on its way, and so is what comes
/// before its subject.
const GARBAGE_AGE: Duration = Duration::from_secs(60 * 60);

/// What a garbage collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: u64,
    pub bytes: u64,
}

impl Artifacts {
    /// Removes blobs that no manifest names, and referrers without a subject, that are older than an
    /// hour.
    ///
    /// # Errors
    /// When the disk cannot be read; nothing that is needed is removed.
    pub async fn collect_garbage(self: &Arc<Self>) -> io::Result<Collected> {
        self.collect_older_than(GARBAGE_AGE).await
    }

    /// [`Artifacts::collect_garbage`] with another age.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub async fn collect_older_than(self: &Arc<Self>, age: Duration) -> io::Result<Collected> {
        let (this, changes) = (self.clone(), self.changes.clone().lock_owned().await);
        let work = move || {
            // Held by the thread: a caller that goes away does not let others in.
            let _changes = changes;
            this.collect(age)
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    /// Only under `changes`.
    fn collect(&self, age: Duration) -> io::Result<Collected> {
        // Compared with the times of files, so it is the machine's clock.
        let now = SystemTime::from(RealClock.now());
        let is_old = |meta: &fs::Metadata| {
            let passed = meta.modified().ok().and_then(|time| now.duration_since(time).ok());
            passed.is_some_and(|passed| passed >= age)
        };
        let mut needed = HashSet::new();
        for repository in self.repositories()? {
            for record in self.without_orphans(&repository, &is_old)? {
                needed.extend([record.digest, record.wasm_digest, record.config_digest]);
                needed.extend(record.layers);
            }
        }
        let mut collected = Collected::default();
        for entry in fs::read_dir(self.dir.join("blobs/sha256"))? {
            let entry = entry?;
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            let meta = entry.metadata()?;
            if is_old(&meta) && !needed.contains(&digest) {
                fs::remove_file(entry.path())?;
                collected.blobs += 1;
                collected.bytes += meta.len();
            }
        }
        Ok(collected)
    }

    /// The records of a repository, after those of old referrers were removed whose subject is gone;
    /// also of what is about these. Only under `changes`.
    fn without_orphans(
        &self,
        repository: &str,
        is_old: &impl Fn(&fs::Metadata) -> bool,
    ) -> io::Result<Vec<Record>> {
        let mut records = self.records(repository)?;
        let dir = self.repository_dir(repository);
        let mut kept = HashSet::new();
        for tag in self.tag_names(repository)? {
            kept.insert(fs::read_to_string(dir.join("_tags").join(tag))?);
        }
        for index in records.iter().filter_map(|record| record.index.as_ref()) {
            kept.extend(index.manifests.iter().cloned());
        }
        let path = |record: &Record| {
            digest_hex(&record.digest).map(|hex| dir.join("_manifests").join(hex))
        };
        let is_old = |path: &Path| fs::metadata(path).is_ok_and(|meta| is_old(&meta));
        loop {
            let here: HashSet<String> =
                records.iter().map(|record| record.digest.clone()).collect();
            let is_orphan = |record: &mut Record| {
                let alone = record.subject.as_ref().is_some_and(|subject| !here.contains(subject));
                alone && !kept.contains(&record.digest) && path(record).is_some_and(|p| is_old(&p))
            };
            let orphans: Vec<Record> = records.extract_if(.., is_orphan).collect();
            if orphans.is_empty() {
                return Ok(records);
            }
            for orphan in orphans {
                self.forget_referrer(repository, &orphan)?;
                if let Some(path) = path(&orphan) {
                    found(fs::remove_file(path))?;
                }
            }
            self.memo.forget(repository);
        }
    }
}
