//! Images: what their names mean, how they are laid out, kept, pulled and pushed.
//!
//! An image is a Wasm artifact, one program in one layer, or files that are mounted as a volume
//! ([`content`]), in the cluster's own registry (a name without a host) or in another one, which may
//! have mirrors. This room moves and checks bytes; whether a program
//! can run is the engine's knowledge.

pub mod cache;
pub mod content;
pub mod credentials;
pub mod foreign;
pub mod index;
pub mod layout;
pub mod pull;
pub mod push;
pub mod reference;
pub mod registries;
mod source;

pub use pull::{Host, Program, PullError, PullPolicy, Pulled, Puller, Resolved};
pub use reference::Reference;
pub use registries::Registries;

use sha2::{Digest, Sha256};

/// Largest program or layer that is pulled or kept, in bytes (256 MiB).
pub const MAX_BLOB_BYTES: u64 = 256 << 20;
/// Largest manifest or config, in bytes (1 MiB).
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// `sha256:<hexadecimal>` of bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The 64 hexadecimal digits of a `sha256:…` digest; `None` for anything else, so that what comes
/// out is safe as a file's name.
pub fn digest_hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let valid = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    valid.then_some(hex)
}
