//! Compiled code on disk, by artifact digest and settings hash.
//!
//! A file carries a sha256 over the artifact's digest, the settings and the code, checked before a
//! byte of it is used: code that changed on disk, or that lies under another's name, is dropped and
//! compiled again, never executed. Files appear whole (written beside, then
//! renamed). The directory's size is bounded; what was used longest ago goes first. It knows
//! nothing of wasmtime: code is bytes here.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use sha2::{Digest, Sha256};

/// First bytes of a cache file; the digit is the layout's version.
const MAGIC: &[u8; 8] = b"WFCODE2\n";
const HEADER_BYTES: usize = MAGIC.len() + 32;
const EXTENSION: &str = "code";
/// Hex digits of the settings hash that a file's name carries.
const SETTINGS_DIGITS: usize = 16;

/// A bounded directory of compiled code. Calls block on the disk.
pub struct DiskCache {
    directory: PathBuf,
    max_bytes: u64,
    settings_hash: String,
}

impl DiskCache {
    /// Opens (and creates) the directory, readable by its owner only.
    ///
    /// # Errors
    /// When the directory can be neither found nor made.
    pub fn open(directory: PathBuf, max_bytes: u64, settings_hash: &str) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Self { directory, max_bytes, settings_hash: settings_hash.to_owned() })
    }

    /// The file for a digest; `None` for a text that is no digest, so that none escapes the
    /// directory.
    fn path(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:")?;
        let plain = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let settings: String = self.settings_hash.chars().take(SETTINGS_DIGITS).collect();
        plain.then(|| self.directory.join(format!("{hex}-{settings}.{EXTENSION}")))
    }

    /// What a file must carry to be this artifact's code under these settings.
    fn checksum(&self, digest: &str, code: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        // Neither text contains a line's end: no two keys read the same.
        hash.update(format!("{digest}\n{}\n", self.settings_hash));
        hash.update(code);
        hash.finalize().into()
    }

    fn is_intact(&self, digest: &str, content: &[u8]) -> bool {
        let (Some(head), Some(code)) = (content.get(..HEADER_BYTES), content.get(HEADER_BYTES..))
        else {
            return false;
        };
        head.starts_with(MAGIC) && head[MAGIC.len()..] == self.checksum(digest, code)
    }

    /// The code kept for an artifact; `None` when there is none or it is not what was written.
    pub fn get(&self, digest: &str) -> Option<Vec<u8>> {
        let path = self.path(digest)?;
        let mut content = fs::read(&path).ok()?;
        if !self.is_intact(digest, &content) {
            tracing::warn!(path = %path.display(), "compiled code changed on disk; dropped");
            let _ = fs::remove_file(&path);
            return None;
        }
        // The time of last use is the file's modification time: eviction reads it.
        if let Ok(file) = fs::File::options().append(true).open(&path) {
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let _ = futimens(&file, &Timestamps { last_access: now, last_modification: now });
        }
        content.drain(..HEADER_BYTES);
        Some(content)
    }

    /// Keeps code for an artifact and evicts what no longer fits.
    ///
    /// # Errors
    /// When the disk refuses; the cache is as before then.
    pub fn put(&self, digest: &str, code: &[u8]) -> io::Result<()> {
        let Some(path) = self.path(digest) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a sha256 digest"));
        };
        let size = (HEADER_BYTES + code.len()) as u64;
        if size > self.max_bytes {
            return Ok(());
        }
        self.evict(self.max_bytes - size);
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = write_whole(&temporary, &self.checksum(digest, code), code)
            .and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes the files used longest ago until at most `allowed` bytes are left.
    fn evict(&self, allowed: u64) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let data = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                let used = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                Some((used, data.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total <= allowed {
                break;
            }
            if fs::remove_file(&path).is_ok() {
                total -= size;
            }
        }
    }
}

fn write_whole(path: &Path, checksum: &[u8; 32], code: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(MAGIC)?;
    file.write_all(checksum)?;
    file.write_all(code)?;
    // No fsync: a file torn by a crash fails its checksum and is compiled again.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(of: &str) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(of)))
    }

    #[test]
    fn what_was_put_is_got_back_until_it_is_tampered_with() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = DiskCache::open(directory.path().join("c"), 1 << 20, "abc").expect("opens");
        cache.put(&digest("a"), b"code").expect("writes");
        assert_eq!(cache.get(&digest("a")).as_deref(), Some(&b"code"[..]));
        let path = cache.path(&digest("a")).expect("a path");
        let mut content = fs::read(&path).expect("the file");
        *content.last_mut().expect("not empty") ^= 1;
        fs::write(&path, content).expect("writes");
        assert_eq!(cache.get(&digest("a")), None);
        assert!(!path.exists(), "what was tampered with is gone");
        cache.put(&digest("a"), b"code").expect("writes");
        fs::rename(&path, cache.path(&digest("b")).expect("a path")).expect("renames");
        assert_eq!(cache.get(&digest("b")), None, "a's code is not b's");
        let other = DiskCache::open(directory.path().join("c"), 1 << 20, "abd").expect("opens");
        cache.put(&digest("a"), b"code").expect("writes");
        fs::rename(&path, other.path(&digest("a")).expect("a path")).expect("renames");
        assert_eq!(other.get(&digest("a")), None, "nor is it under other settings");
    }

    #[test]
    fn other_settings_are_another_key_and_bad_digests_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = |hash| DiskCache::open(directory.path().to_owned(), 1 << 20, hash);
        open("one").expect("opens").put(&digest("a"), b"code").expect("writes");
        assert_eq!(open("two").expect("opens").get(&digest("a")), None);
        let cache = open("one").expect("opens");
        assert!(cache.put("sha256:../../etc/passwd", b"x").is_err());
        assert_eq!(cache.get("md5:00"), None);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = DiskCache::open(directory.path().to_owned(), 3 * 1100, "s").expect("opens");
        let code = vec![7_u8; 1000];
        for (age, name) in [(30, "a"), (20, "b"), (10, "c")] {
            cache.put(&digest(name), &code).expect("writes");
            let path = cache.path(&digest(name)).expect("a path");
            let file = fs::File::options().append(true).open(path).expect("the file");
            let then = SystemTime::now() - std::time::Duration::from_secs(age);
            file.set_modified(then).expect("a time");
        }
        assert!(cache.get(&digest("a")).is_some(), "used now, so no longer the oldest");
        cache.put(&digest("d"), &code).expect("writes");
        assert!(cache.get(&digest("b")).is_none(), "b was used longest ago");
        assert!(cache.get(&digest("a")).is_some());
        assert!(cache.get(&digest("d")).is_some());
    }
}
