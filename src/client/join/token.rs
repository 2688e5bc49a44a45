//! Join tokens: what a machine is given so that it can join the cluster. The token names the CA
//! (so that the machine trusts no other server) and holds a secret (so that the server trusts the
//! machine).

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::base::ids::Ids;

/// Version of the text form.
const PREFIX: &str = "wft1";
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;
/// A shorter secret in the data directory is refused: 128 bits in hexadecimal.
pub const MIN_SECRET_CHARS: usize = 32;
/// Longest secret that is read, in characters.
const MAX_SECRET_CHARS: usize = 256;

/// `wft1.<sha256 of the CA's DER, hexadecimal>.<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub ca_fingerprint: String,
    pub secret: String,
}

/// A text that is not a join token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a join token: it has the form wft1.<64 hexadecimal digits>.<secret>")]
pub struct BadToken;

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.{}", self.ca_fingerprint, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    /// Without the secret: tokens must not end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.…", self.ca_fingerprint)
    }
}

impl FromStr for JoinToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<JoinToken, BadToken> {
        let mut parts = text.trim().splitn(3, '.');
        let (Some(PREFIX), Some(fingerprint), Some(secret)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(BadToken);
        };
        let hexadecimal = fingerprint.len() == 64
            && fingerprint.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
        let plausible = !secret.is_empty()
            && secret.len() <= MAX_SECRET_CHARS
            && secret.bytes().all(|b| b.is_ascii_alphanumeric());
        if !hexadecimal || !plausible {
            return Err(BadToken);
        }
        Ok(JoinToken { ca_fingerprint: fingerprint.into(), secret: secret.into() })
    }
}

/// A secret of random bytes.
pub fn new_secret() -> String {
    Ids::from_system().secret(SECRET_BYTES)
}

/// Compares digests without an early exit, so that the time tells neither length nor prefix.
pub fn same_secret(given: &str, ours: &str) -> bool {
    let (a, b) = (Sha256::digest(given.as_bytes()), Sha256::digest(ours.as_bytes()));
    let difference = a.iter().zip(b.iter()).fold(0u8, |sum, (x, y)| sum | (x ^ y));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_read_back() {
        let token = JoinToken { ca_fingerprint: "0a".repeat(32), secret: new_secret() };
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.secret));
        for bad in ["", "wft1", "wft1.00.x", "wft2.".repeat(3).as_str()] {
            assert_eq!(bad.parse::<JoinToken>(), Err(BadToken), "{bad}");
        }
        assert_eq!(format!("wft1.{}.", "0a".repeat(32)).parse::<JoinToken>(), Err(BadToken));
    }

    #[test]
    fn secrets_compare() {
        assert!(same_secret("abc", "abc"));
        assert!(!same_secret("abc", "abd"));
        assert!(!same_secret("", "abd"));
    }
}
