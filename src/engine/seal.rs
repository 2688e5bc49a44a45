//! The seal at the end of a file of native code: what it is the code of, and who says so.
//!
//! ```text
//!   native code (ELF) | seal, 64 bytes | magic, 8 bytes
//! ```
//!
//! The seal is at the end so that the file can be mapped as it is. Of code that this machine compiled
//! it is a checksum; of code that a control plane compiled for its nodes an ECDSA signature (P-256,
//! SHA-256) by the key of the cluster's CA, the one thing that a node trusts. Both cover the program's
//! digest and the settings, so that neither another program's code nor that of another engine is
//! taken.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use sha2::{Digest, Sha256};

/// Last bytes of a file; the digit is the layout's version.
const MAGIC: &[u8; 8] = b"WFCODE4\n";
const SEAL_BYTES: usize = 64;
pub const TRAILER_BYTES: usize = SEAL_BYTES + MAGIC.len();
/// First words of what is sealed: nothing else that the CA's key signs begins so (certificates are
/// DER).
const PURPOSE: &str = "wasmfleet compiled code";
/// Bytes of a file that are read at once.
const CHUNK_BYTES: usize = 128 << 10;

/// What code is of: a program, compiled with settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CodeKey {
    /// `sha256:…` of the program.
    pub digest: String,
    pub settings_hash: String,
}

impl CodeKey {
    /// What is sealed. No text of it contains a line's end: no two keys read the same.
    fn statement(&self, code: &[u8; 32]) -> String {
        let Self { digest, settings_hash } = self;
        format!("{PURPOSE}\n{digest}\n{settings_hash}\n{}\n", hex::encode(code))
    }
}

/// Who vouches for code.
pub enum Seal {
    /// A checksum: the directory is this machine's own.
    Checksum,
    /// Signatures of a key's owner; without the private half they are only checked.
    Signed { trust: Trust, signer: Option<Signer> },
}

/// The public key of whoever may give code: an uncompressed point of P-256.
#[derive(Clone)]
pub struct Trust(Vec<u8>);

/// Makes signatures.
pub struct Signer {
    key: Box<EcdsaKeyPair>,
    random: SystemRandom,
}

/// A key that cannot sign code.
#[derive(Debug, thiserror::Error)]
#[error("the key is none of P-256: {0}")]
pub struct KeyError(String);

impl Trust {
    /// From the bits of a public key.
    ///
    /// # Errors
    /// When it is no point of P-256.
    pub fn new(point: &[u8]) -> Result<Trust, KeyError> {
        match point {
            [4, rest @ ..] if rest.len() == 64 => Ok(Trust(point.to_vec())),
            _ => Err(KeyError("not an uncompressed point".into())),
        }
    }
}

impl Signer {
    /// From a private key, PKCS #8.
    ///
    /// # Errors
    /// When it is none of P-256.
    pub fn new(pkcs8: &[u8]) -> Result<Signer, KeyError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|error| KeyError(error.to_string()))?;
        Ok(Signer { key: Box::new(key), random })
    }

    pub fn trust(&self) -> Trust {
        Trust(self.key.public_key().as_ref().to_vec())
    }
}

impl Seal {
    /// The end of a file with this code.
    ///
    /// # Errors
    /// When there is no key to sign with.
    pub fn trailer(&self, key: &CodeKey, code: &[u8]) -> io::Result<[u8; TRAILER_BYTES]> {
        let statement = key.statement(&Sha256::digest(code).into());
        let mut trailer = [0_u8; TRAILER_BYTES];
        trailer[SEAL_BYTES..].copy_from_slice(MAGIC);
        match self {
            Seal::Checksum => trailer[..32].copy_from_slice(&Sha256::digest(statement)),
            Seal::Signed { signer: Some(signer), .. } => {
                let failed = |_| io::Error::other("the code could not be signed");
                let made = signer.key.sign(&signer.random, statement.as_bytes()).map_err(failed)?;
                trailer[..SEAL_BYTES].copy_from_slice(made.as_ref());
            }
            Seal::Signed { signer: None, .. } => {
                return Err(io::Error::other("there is no key to sign code with"));
            }
        }
        Ok(trailer)
    }

    /// Whether a file is what the key says, from its first byte to its last. The file is read to its
    /// end; answers the length of its code.
    pub fn check(&self, key: &CodeKey, file: &mut File) -> Option<u64> {
        let length = file.metadata().ok()?.len().checked_sub(TRAILER_BYTES as u64)?;
        file.seek(SeekFrom::Start(0)).ok()?;
        let mut hash = Sha256::new();
        let mut code = file.by_ref().take(length);
        let mut chunk = vec![0_u8; CHUNK_BYTES];
        let mut left = length;
        while left > 0 {
            let read = code.read(&mut chunk).ok().filter(|read| *read > 0)?;
            hash.update(&chunk[..read]);
            left -= read as u64;
        }
        let mut trailer = [0_u8; TRAILER_BYTES];
        file.read_exact(&mut trailer).ok()?;
        let (seal, magic) = trailer.split_at(SEAL_BYTES);
        let statement = key.statement(&hash.finalize().into());
        let holds = magic == MAGIC
            && match self {
                Seal::Checksum => {
                    let (sum, rest) = seal.split_at(32);
                    *sum == *Sha256::digest(statement) && rest.iter().all(|byte| *byte == 0)
                }
                Seal::Signed { trust, .. } => {
                    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &trust.0);
                    key.verify(statement.as_bytes(), seal).is_ok()
                }
            };
        holds.then_some(length)
    }
}
