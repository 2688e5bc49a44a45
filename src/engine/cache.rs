//! Compiled code on disk, by program and settings.
//!
//! Each file is sealed ([`super::seal`]), and the seal is checked before a byte of it is used: code
//! that changed on disk, or that lies under another's name, is dropped and made again, never executed.
//! What was checked is the open file that is handed out, so that nobody can put another in its place
//! meanwhile. Files appear whole (written beside, then renamed). The directory's size is bounded; what
//! was used longest ago goes first. It knows nothing of wasmtime: code is bytes here.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};

use super::seal::{CodeKey, Seal, TRAILER_BYTES};
use crate::base::durable::sync_parent;
use crate::base::private;

const EXTENSION: &str = "code";
/// Hex digits of the settings hash that a file's name carries.
const SETTINGS_DIGITS: usize = 16;

/// A bounded directory of compiled code. Calls block on the disk.
pub struct DiskCache {
    directory: PathBuf,
    max_bytes: u64,
    seal: Seal,
    /// Whether a file is flushed before it counts as kept.
    durable: bool,
    /// Distinguishes files that are being written.
    serial: AtomicU64,
}

/// A file of code whose seal holds.
pub struct CodeFile {
    file: File,
    code_bytes: u64,
}

impl CodeFile {
    /// A path that names this very file, whatever lies under its name by now.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Length of the native code, in bytes.
    pub fn code_bytes(&self) -> u64 {
        self.code_bytes
    }

    /// The whole file, seal and all, as it is sent to a node: its length, and itself.
    pub fn into_file(self) -> (u64, File) {
        (self.code_bytes + TRAILER_BYTES as u64, self.file)
    }
}

/// A file that is being received; removed unless it is [admitted](DiskCache::admit).
pub struct Incoming {
    path: PathBuf,
    pub file: File,
}

impl Incoming {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone already where it was admitted.
        let _ = fs::remove_file(&self.path);
    }
}

impl DiskCache {
    /// Opens (and creates) the directory, readable by its owner only. What was being written when an
    /// earlier process ended is removed.
    ///
    /// # Errors
    /// When the directory can be neither found nor made.
    pub fn open(directory: PathBuf, max_bytes: u64, seal: Seal) -> io::Result<Self> {
        private::make_dir(&directory)?;
        for entry in fs::read_dir(&directory)?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "tmp") {
                let _ = fs::remove_file(entry.path());
            }
        }
        let serial = AtomicU64::new(0);
        Ok(Self { directory, max_bytes, seal, durable: false, serial })
    }

    /// Flushes files before they count as kept.
    pub fn durable(self) -> Self {
        Self { durable: true, ..self }
    }

    /// The file for a key; `None` where its digest is none, so that no name escapes the directory.
    fn path(&self, key: &CodeKey) -> Option<PathBuf> {
        let hex = key.digest.strip_prefix("sha256:")?;
        let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let settings = key.settings_hash.get(..SETTINGS_DIGITS).filter(|text| is_hex(text))?;
        let plain = hex.len() == 64 && is_hex(hex);
        plain.then(|| self.directory.join(format!("{hex}-{settings}.{EXTENSION}")))
    }

    /// The code kept for a key; `None` when there is none or it is not what was written.
    pub fn get(&self, key: &CodeKey) -> Option<CodeFile> {
        let path = self.path(key)?;
        let mut file = File::options().read(true).append(true).open(&path).ok()?;
        let Some(code_bytes) = self.seal.check(key, &mut file) else {
            tracing::warn!(path = %path.display(), "compiled code changed on disk; dropped");
            let _ = fs::remove_file(&path);
            return None;
        };
        // The time of last use is the file's modification time: eviction reads it.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let _ = futimens(&file, &Timestamps { last_access: now, last_modification: now });
        Some(CodeFile { file, code_bytes })
    }

    /// Keeps code for a key and evicts what no longer fits.
    ///
    /// # Errors
    /// When the disk refuses; the cache is as before then.
    pub fn put(&self, key: &CodeKey, code: &[u8]) -> io::Result<Option<CodeFile>> {
        let mut incoming = self.incoming()?;
        let trailer = self.seal.trailer(key, code)?;
        incoming.file.write_all(code)?;
        incoming.file.write_all(&trailer)?;
        self.admit(key, incoming)
    }

    /// A place for a file that is about to be received.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn incoming(&self) -> io::Result<Incoming> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{}-{serial}.tmp", std::process::id()));
        let file = private::file().read(true).write(true).create_new(true).open(&path)?;
        Ok(Incoming { path, file })
    }

    /// Keeps a whole sealed file under its key; `None` where its seal does not hold.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn admit(&self, key: &CodeKey, mut incoming: Incoming) -> io::Result<Option<CodeFile>> {
        let Some(path) = self.path(key) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a sha256 digest"));
        };
        let Some(code_bytes) = self.seal.check(key, &mut incoming.file) else { return Ok(None) };
        let size = code_bytes + TRAILER_BYTES as u64;
        if self.durable {
            incoming.file.sync_all()?;
        }
        // What alone is larger than the bound is used this once, and not kept.
        if size <= self.max_bytes {
            self.evict(self.max_bytes - size, &incoming.path);
            fs::rename(&incoming.path, &path)?;
            if self.durable {
                sync_parent(&path)?;
            }
        }
        let file = incoming.file.try_clone()?;
        Ok(Some(CodeFile { file, code_bytes }))
    }

    /// Forgets the code of a key, which turned out not to load.
    pub fn remove(&self, key: &CodeKey) {
        if let Some(path) = self.path(key) {
            let _ = fs::remove_file(path);
        }
    }

    /// Removes the files used longest ago until at most `allowed` bytes are left beside `keep`. Code
    /// that is mapped stays there for its users.
    fn evict(&self, allowed: u64, keep: &Path) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let path = entry.path();
                let ours = path.extension().is_some_and(|extension| extension == EXTENSION);
                let data = entry.metadata().ok().filter(|data| ours && data.is_file())?;
                let used = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                (path != keep).then_some((used, data.len(), path))
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

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::engine::seal::Signer;

    fn key(program: &str, settings: &str) -> CodeKey {
        let hash = |text: &str| hex::encode(Sha256::digest(text));
        CodeKey { digest: format!("sha256:{}", hash(program)), settings_hash: hash(settings) }
    }

    fn signer() -> Signer {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        Signer::new(&key.serialize_der()).expect("of P-256")
    }

    fn code(file: Option<CodeFile>) -> Option<Vec<u8>> {
        let file = file?;
        let mut content = fs::read(file.path()).expect("reads");
        content.truncate(file.code_bytes() as usize);
        Some(content)
    }

    fn tampered(seal: Seal) {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = DiskCache::open(directory.path().join("c"), 1 << 20, seal).expect("opens");
        let (a, b) = (key("a", "abc"), key("b", "abc"));
        cache.put(&a, b"code").expect("writes");
        assert_eq!(code(cache.get(&a)).as_deref(), Some(&b"code"[..]));
        let path = cache.path(&a).expect("a path");
        let whole = fs::read(&path).expect("the file");
        // A flipped bit anywhere, a cut at any place, more at the end.
        let flips = (0..whole.len()).map(|at| {
            let mut content = whole.clone();
            content[at] ^= 1;
            content
        });
        let cuts = (0..whole.len()).map(|length| whole[..length].to_vec());
        for content in flips.chain(cuts).chain([[&*whole, b"x"].concat()]) {
            fs::write(&path, &content).expect("writes");
            assert!(cache.get(&a).is_none(), "{content:?}");
            assert!(!path.exists(), "what was tampered with is gone");
        }
        cache.put(&a, b"code").expect("writes");
        fs::rename(&path, cache.path(&b).expect("a path")).expect("renames");
        assert!(cache.get(&b).is_none(), "a's code is not b's");
        let other = key("a", "abd");
        cache.put(&a, b"code").expect("writes");
        fs::rename(&path, cache.path(&other).expect("a path")).expect("renames");
        assert!(cache.get(&other).is_none(), "nor is it code of other settings");
    }

    #[test]
    fn what_was_put_is_got_back_until_it_is_tampered_with() {
        tampered(Seal::Checksum);
        let signer = signer();
        tampered(Seal::Signed { trust: signer.trust(), signer: Some(signer) });
    }

    #[test]
    fn only_the_trusted_key_s_code_is_admitted() {
        let directory = tempfile::tempdir().expect("a directory");
        let (ours, forger) = (signer(), signer());
        let a = key("a", "abc");
        let made = |name: &str, seal: Seal| {
            let cache = DiskCache::open(directory.path().join(name), 1 << 20, seal).expect("opens");
            let (length, _) = cache.put(&a, b"code").expect("writes").expect("holds").into_file();
            assert_eq!(length, 4 + TRAILER_BYTES as u64);
            fs::read(cache.path(&a).expect("a path")).expect("the file")
        };
        let trust = ours.trust();
        let good = made("good", Seal::Signed { trust: ours.trust(), signer: Some(ours) });
        let forged = made("forged", Seal::Signed { trust: forger.trust(), signer: Some(forger) });
        let summed = made("summed", Seal::Checksum);
        let seal = Seal::Signed { trust, signer: None };
        let node = DiskCache::open(directory.path().join("node"), 1 << 20, seal).expect("opens");
        let admit = |content: &[u8]| {
            let mut incoming = node.incoming().expect("a place");
            incoming.file.write_all(content).expect("writes");
            code(node.admit(&a, incoming).expect("the disk does"))
        };
        assert_eq!(admit(&forged), None);
        assert_eq!(admit(&summed), None);
        assert_eq!(admit(b""), None);
        assert!(node.get(&a).is_none());
        assert_eq!(fs::read_dir(directory.path().join("node")).expect("reads").count(), 0);
        assert_eq!(admit(&good).as_deref(), Some(&b"code"[..]));
        assert!(node.get(&a).is_some());
        assert!(node.put(&a, b"code").is_err(), "it has no key to sign with");
    }

    #[test]
    fn other_settings_are_another_key_and_bad_digests_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = DiskCache::open(directory.path().to_owned(), 1 << 20, Seal::Checksum);
        let cache = cache.expect("opens");
        cache.put(&key("a", "one"), b"code").expect("writes");
        assert!(cache.get(&key("a", "two")).is_none());
        let bad = |digest: &str| CodeKey { digest: digest.into(), ..key("a", "one") };
        assert!(cache.put(&bad("sha256:../../etc/passwd"), b"x").is_err());
        assert!(cache.get(&bad("md5:00")).is_none());
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = DiskCache::open(directory.path().to_owned(), 3 * 1100, Seal::Checksum);
        let cache = cache.expect("opens");
        let code = vec![7_u8; 1000];
        let of = |name| key(name, "s");
        for (age, name) in [(30, "a"), (20, "b"), (10, "c")] {
            cache.put(&of(name), &code).expect("writes");
            let path = cache.path(&of(name)).expect("a path");
            let file = File::options().append(true).open(path).expect("the file");
            let then = SystemTime::now() - std::time::Duration::from_secs(age);
            file.set_modified(then).expect("a time");
        }
        assert!(cache.get(&of("a")).is_some(), "used now, so no longer the oldest");
        cache.put(&of("d"), &code).expect("writes");
        assert!(cache.get(&of("b")).is_none(), "b was used longest ago");
        assert!(cache.get(&of("a")).is_some());
        assert!(cache.get(&of("d")).is_some());
    }
}
