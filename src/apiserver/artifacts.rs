//! The cluster's own registry of Wasm artifacts: the OCI distribution endpoints below `/v2/`, on
//! disk beside the store.
//!
//! Programs come in as artifacts in the CNCF Wasm OCI artifact layout, and only those that the engine
//! can run: the link check happens once, when a manifest is pushed, so that a Pod is never scheduled
//! with a program whose imports nothing provides. Images without a layer of Wasm come in as files that
//! volumes may be of, if a node can unpack what they are made of; what is about another manifest (a
//! signature, for instance) may be anything. An index comes after all that it names, and means its
//! program for the platform wasm. Blobs are kept by digest and shared by all repositories; what no
//! manifest names any more is removed by [`Artifacts::collect_garbage`].
//!
//! On disk: `blobs/sha256/<hex>`, `repositories/<name>/_manifests/<hex>` (the record of a
//! manifest), `repositories/<name>/_tags/<tag>` (a digest),
//! `repositories/<name>/_referrers/<subject>/<hex>` (a descriptor), `uploads/<id>`. A repository's
//! name has no part that begins with `_`.

mod blobs;
mod errors;
mod garbage;
mod indexes;
mod listing;
mod manifests;
mod memo;
mod referrers;
mod routes;
mod uploads;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Request, Response};
use serde::{Deserialize, Serialize};

use super::rbac::Rules;
use super::{Body, User};
use crate::apiserver::body::RequestBody;
use crate::artifact::inspect::{WasiVersion, entry_of};
use crate::artifact::{ArtifactKind, interfaces};
use crate::base::durable::create_dirs;
use crate::engine::compile::Compiler;
use crate::images::Reference;
use crate::images::layout::MANIFEST_TYPE;
use uploads::Uploads;

pub(super) use blobs::frames as file_frames;
pub use garbage::Collected;

/// Largest blob (a program), in bytes.
pub const MAX_BLOB_BYTES: u64 = crate::images::MAX_BLOB_BYTES;
/// Of the registry's directories.
const DIR_MODE: u32 = 0o755;
/// The longest silence in the middle of an upload.
pub(super) const UPLOAD_SILENCE: Duration = Duration::from_secs(30);

/// Told of each program that is pushed: its digest and where it lies.
pub type OnPush = Box<dyn Fn(&str, &Path) + Send + Sync>;

/// The registry; share it by `Arc`.
pub struct Artifacts {
    dir: PathBuf,
    uploads: Uploads,
    /// Held by whoever changes manifests or tags, or collects garbage. Checks of programs happen
    /// under it too, so that at most one is in memory.
    changes: Arc<tokio::sync::Mutex<()>>,
    memo: memo::Memo,
    pushed: OnceLock<OnPush>,
    checker: OnceLock<Compiler>,
}

/// Why the registry cannot be opened or used.
#[derive(Debug, thiserror::Error)]
#[error("the registry at {path}: {source}")]
pub struct ArtifactsError {
    path: PathBuf,
    source: std::io::Error,
}

/// Why nothing is known of an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name cannot be one of an image; the text is for the user.
    #[error("{0}")]
    BadName(String),
    /// The registry's own files cannot be read.
    #[error("the registry cannot be read: {0}")]
    Unreadable(std::io::Error),
}

/// What the registry knows of an image's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageCheck {
    /// It can run.
    Known(Arc<Record>),
    /// It is files for volumes, and no program.
    Files,
    /// It is an index, and why no program is meant by it.
    NoProgram(String),
    /// Nobody pushed it yet.
    Unknown,
    /// It is in another registry: its node will see.
    Foreign,
}

/// What is recorded of an accepted manifest or index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Of the manifest, and of the blobs that it names.
    pub digest: String,
    /// Empty of files and of an index.
    pub wasm_digest: String,
    pub config_digest: String,
    /// `None`: files for volumes, or an index.
    pub kind: Option<ArtifactKind>,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// What its program begins with; 0 where an older release recorded it.
    #[serde(default)]
    pub least_memory_bytes: u64,
    /// Of files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// The manifest's own type; older releases kept only one.
    #[serde(default = "manifest_type")]
    pub media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexRecord>,
    /// The digest of what this one is about; that may come later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// What is recorded of an index beside that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRecord {
    /// Digests of all that it names; they stay as long as it does.
    pub manifests: Vec<String>,
    /// The one for the platform wasm, else why there is none.
    pub program: Option<String>,
    pub why: String,
}

fn manifest_type() -> String {
    MANIFEST_TYPE.to_string()
}

impl Artifacts {
    /// Opens or makes the registry in `dir`. Uploads that a stop cut off are dropped.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn open(dir: &Path) -> Result<Arc<Artifacts>, ArtifactsError> {
        let failed = |source| ArtifactsError { path: dir.to_path_buf(), source };
        for part in ["blobs/sha256", "repositories"] {
            create_dirs(&dir.join(part), DIR_MODE).map_err(failed)?;
        }
        let uploads = Uploads::open(&dir.join("uploads")).map_err(failed)?;
        let (changes, memo) = (Arc::default(), memo::Memo::default());
        let (pushed, checker) = (OnceLock::new(), OnceLock::new());
        let dir = dir.to_path_buf();
        Ok(Arc::new(Artifacts { dir, uploads, changes, memo, pushed, checker }))
    }

    /// Tells of programs that are pushed from now on, once.
    pub fn on_push(&self, listener: OnPush) {
        let _ = self.pushed.set(listener);
    }

    /// Has programs checked in the bounds of a compiler, and not in this process. Set once, before the
    /// first request.
    pub fn check_with(&self, checker: Compiler) {
        let _ = self.checker.set(checker);
    }

    /// The digest of the program of a manifest or an index, and where it lies.
    ///
    /// # Errors
    /// When the registry's own files cannot be read.
    pub(super) fn program(
        &self,
        repository: &str,
        version: &str,
    ) -> std::io::Result<Option<(String, PathBuf)>> {
        let Some(record) = self.meant(repository, version)? else { return Ok(None) };
        let path = self.blob_path(&record.wasm_digest);
        Ok(path.map(|path| (record.wasm_digest.clone(), path)))
    }

    /// Answers a request to `/v2/…`, if [`super::authz`] allows its method on its path: node agents
    /// may read, others what the rules grant.
    pub async fn respond<B: RequestBody>(
        &self,
        rules: &Rules,
        user: &User,
        request: Request<B>,
    ) -> Response<Body> {
        match self.route(rules, user, request).await {
            Ok(response) => response,
            Err(error) => error.response(),
        }
    }

    /// What is known of an image that a Pod names. Reads small files, the first time.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub fn check_image(&self, image: &str) -> Result<ImageCheck, ImageError> {
        let reference: Reference =
            image.parse().map_err(|e| ImageError::BadName(format!("{e}")))?;
        if reference.is_foreign() {
            return Ok(ImageCheck::Foreign);
        }
        let record = self.meant(&reference.repository, reference.version());
        Ok(match record.map_err(ImageError::Unreadable)? {
            Some(record) if record.kind.is_some() => ImageCheck::Known(record),
            Some(record) => match &record.index {
                Some(index) => ImageCheck::NoProgram(index.why.clone()),
                None => ImageCheck::Files,
            },
            None => ImageCheck::Unknown,
        })
    }

    /// What an image's program needs of a node's runtime; nothing is known of those that are not
    /// here. Reads small files, the first time.
    pub fn needed_features(&self, image: &str) -> Vec<String> {
        let Ok(reference) = image.parse::<Reference>() else { return Vec::new() };
        if reference.is_foreign() {
            return Vec::new();
        }
        let record = self.meant(&reference.repository, reference.version());
        let Ok(Some(record)) = record else { return Vec::new() };
        let Record { kind: Some(kind), imports, exports, .. } = &*record else {
            return Vec::new();
        };
        if *kind == ArtifactKind::Preview1Command {
            return interfaces::needed(None, imports);
        }
        // Of those that it may be called by, the newest, as `inspect` has it.
        let entries = exports.iter().filter_map(|name| Some((entry_of(name)?, name)));
        let mut own = entries.filter(|((of, _), _)| of == kind);
        let newest = own.clone().find(|((_, wasi), _)| *wasi == WasiVersion::P3);
        let entry = newest.or_else(|| own.next()).map(|(_, name)| name.as_str());
        interfaces::needed(Some(entry.unwrap_or_default()), imports)
    }

    fn repository_dir(&self, repository: &str) -> PathBuf {
        self.dir.join("repositories").join(repository)
    }
}
