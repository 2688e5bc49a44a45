//! Where a node's native code comes from: its own disk, its control plane, its own compiler.
//!
//! ```text
//!   kept: on the disk, its seal holds ──────────────────────────────▶ code
//!     │ none
//!   fetch, by the image's name ──▶ control plane ── sealed file ──▶ checked, kept ──▶ code
//!     │ it does not know the program, or there is no control plane to ask
//!   make, of the program's bytes ──▶ control plane ── sealed file ──▶ checked, kept ──▶ code
//!                               └──▶ own compiler, where there is one and the control plane is
//!                                    not asked, not there or has none for this machine
//! ```
//!
//! A verdict of the control plane on a program (it is invalid, or beyond the compiler's limits) holds
//! for the node, too. How a request is sent is the [`CodeSource`]'s affair; what comes is checked here.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::cache::{CodeFile, DiskCache};
use super::compile::{self, CompileError, Compiler};
use super::seal::{CodeKey, Seal, Trust};
use super::settings_hash;
use super::target::Target;

/// How often code is asked for that comes with a seal that does not hold: it may have been cut off.
const MAX_FETCHES: usize = 3;

/// Who is to run a program: what the control plane judges by whether its node may have the code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runner {
    pub namespace: String,
    pub pod: String,
    /// `repository@sha256:…`, the latter of the manifest.
    pub image: String,
}

/// What is asked of a [`CodeSource`].
#[derive(Clone, Debug)]
pub struct Wanted {
    pub key: CodeKey,
    pub target: Target,
    /// Empty where the program comes along.
    pub runner: Runner,
    pub program: Option<Bytes>,
}

/// Why there is no code from the control plane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Its verdict on the program.
    #[error(transparent)]
    Verdict(CompileError),
    /// It does not know the program, or not that the pod may run it: it wants the program itself.
    #[error("{0}")]
    NeedsProgram(String),
    /// It does not compile for this machine or this version of the engine.
    #[error("{0}")]
    Unable(String),
    /// It may do so at another time.
    #[error("{0}")]
    Unavailable(String),
}

/// Asks a control plane for code.
#[async_trait::async_trait]
pub trait CodeSource: Send + Sync + 'static {
    /// Writes a sealed file of code; it is trusted only after it was checked.
    async fn fetch(&self, wanted: &Wanted, into: std::fs::File) -> Result<(), FetchError>;
}

/// The control plane of a node.
#[derive(Clone)]
pub struct Server {
    pub source: Arc<dyn CodeSource>,
    /// Whose code is run.
    pub trust: Trust,
}

/// What a [`Supply`] is given.
#[derive(Clone)]
pub struct Options {
    pub compiler: compile::Options,
    /// Where code is kept; `None`: in memory only, and nothing comes from a control plane.
    pub directory: Option<PathBuf>,
    pub max_bytes: u64,
    /// `None`: everything is compiled here.
    pub server: Option<Server>,
}

/// Native code, to be loaded.
pub enum Native {
    File(CodeFile),
    Bytes(Vec<u8>),
}

/// See the module's documentation.
pub struct Supply {
    compiler: Compiler,
    own: Option<Arc<DiskCache>>,
    server: Option<Remote>,
}

struct Remote {
    server: Server,
    cache: Arc<DiskCache>,
    target: Target,
}

impl Supply {
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(options: Options) -> io::Result<Supply> {
        let Options { compiler, directory, max_bytes, server } = options;
        let open = |seal| {
            let directory = directory.clone();
            let open = |directory| DiskCache::open(directory, max_bytes, seal).map(Arc::new);
            directory.map(open).transpose()
        };
        let own = open(Seal::Checksum)?;
        let server = match (server, Target::here()) {
            (Some(server), Some(target)) => {
                let cache = open(Seal::Signed { trust: server.trust.clone(), signer: None })?;
                cache.map(|cache| Remote { server, cache, target })
            }
            _ => None,
        };
        Ok(Supply { compiler: Compiler::new(compiler), own, server })
    }

    /// Code that is on the disk. Blocks.
    pub fn kept(&self, digest: &str) -> Option<Native> {
        let remote = self.server.as_ref().and_then(|remote| remote.cache.get(&remote.key(digest)));
        let file = remote.or_else(|| self.own.as_ref()?.get(&own_key(digest)))?;
        Some(Native::File(file))
    }

    /// Forgets what is on the disk: it does not load.
    pub fn forget(&self, digest: &str) {
        if let Some(remote) = &self.server {
            remote.cache.remove(&remote.key(digest));
        }
        if let Some(own) = &self.own {
            own.remove(&own_key(digest));
        }
    }

    /// Code from the control plane, which has the program; `None` where it wants its bytes, or nobody
    /// is asked.
    ///
    /// # Errors
    /// The control plane's verdict, or where there is nobody else to ask.
    pub async fn fetch(
        &self,
        digest: &str,
        runner: &Runner,
    ) -> Result<Option<Native>, CompileError> {
        let Some(remote) = &self.server else { return Ok(None) };
        match remote.fetch(digest, runner.clone(), None).await {
            Ok(file) => Ok(Some(Native::File(file))),
            Err(FetchError::Verdict(error)) => Err(error),
            Err(FetchError::Unavailable(message)) if !compile::AVAILABLE => {
                Err(CompileError::Internal(message))
            }
            Err(error) => {
                tracing::debug!(digest, %error, "no code from the control plane");
                Ok(None)
            }
        }
    }

    /// Code of a program that its caller has: from the control plane, or compiled here.
    ///
    /// # Errors
    /// When the program does not compile, exceeds a limit, or there is nobody to compile it.
    pub async fn make(&self, digest: &str, wasm: Bytes) -> Result<Native, CompileError> {
        if let Some(remote) = &self.server {
            let fetched = remote.fetch(digest, Runner::default(), Some(wasm.clone())).await;
            match fetched {
                Ok(file) => return Ok(Native::File(file)),
                Err(FetchError::Verdict(error)) => return Err(error),
                Err(error) if !compile::AVAILABLE => {
                    return Err(CompileError::Internal(error.to_string()));
                }
                Err(error) => tracing::warn!(digest, %error, "compiled here"),
            }
        }
        let code = self.compiler.compile(wasm).await?;
        let Some(own) = &self.own else { return Ok(Native::Bytes(code)) };
        let (own, key) = (own.clone(), own_key(digest));
        blocking(move || match own.put(&key, &code) {
            Ok(Some(file)) => Native::File(file),
            Ok(None) => Native::Bytes(code),
            Err(error) => {
                tracing::warn!(digest = key.digest, %error, "compiled code is not kept");
                Native::Bytes(code)
            }
        })
        .await
        .map_err(|error| CompileError::Internal(error.to_string()))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Of code that is compiled for this very machine.
fn own_key(digest: &str) -> CodeKey {
    CodeKey { digest: digest.to_owned(), settings_hash: settings_hash() }
}

impl Remote {
    fn key(&self, digest: &str) -> CodeKey {
        CodeKey { digest: digest.to_owned(), settings_hash: self.target.settings_hash() }
    }

    /// Asks, checks what comes, and asks again where its seal does not hold.
    async fn fetch(
        &self,
        digest: &str,
        runner: Runner,
        program: Option<Bytes>,
    ) -> Result<CodeFile, FetchError> {
        let failed = |error: io::Error| {
            FetchError::Unavailable(format!("code from the control plane cannot be kept: {error}"))
        };
        let wanted = Wanted { key: self.key(digest), target: self.target, runner, program };
        for _ in 0..MAX_FETCHES {
            let incoming = self.cache.incoming().map_err(failed)?;
            let file = incoming.file.try_clone().map_err(failed)?;
            self.server.source.fetch(&wanted, file).await?;
            let (cache, key) = (self.cache.clone(), wanted.key.clone());
            let admitted = blocking(move || cache.admit(&key, incoming)).await.map_err(failed)?;
            match admitted.map_err(failed)? {
                Some(file) => return Ok(file),
                None => tracing::warn!(digest, "code that is not the cluster's was refused"),
            }
        }
        let message = format!("what came as the code of {digest} is not signed by the cluster");
        Err(FetchError::Unavailable(message))
    }
}
