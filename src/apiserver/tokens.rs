//! Tokens of service accounts: JSON Web Tokens (RFC 7519) that the cluster signs and reads itself,
//! with one key and one algorithm, ES256 (RFC 7518, 3.4).
//!
//! Owns the key, the text form, and what a token says of itself: its times and its audiences. That
//! what it is bound to still exists is looked up in [`super::bearer`]. The claims are those of
//! upstream (pkg/serviceaccount/claims.go).

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::Timestamp;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Who issues tokens, and the audience of those that name none: the API itself.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// A longer text is no token of ours, in bytes.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// How far the clock may have been set back since a token was issued, in seconds.
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 5;
/// The first byte of an uncompressed point, and the bytes of each of its coordinates (SEC 1, 2.3.3).
const UNCOMPRESSED: u8 = 4;
const COORDINATE_BYTES: usize = 32;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    /// From this second since 1970 on it is not valid any more.
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    pub nbf: i64,
    pub sub: String,
}

/// What a token is bound to: it is worth nothing once one of them is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Reference>,
    pub serviceaccount: Reference,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    /// Empty where it is not known (the Node of a Pod, when it was gone already).
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub uid: String,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the token is not one of this cluster")]
    Foreign,
    #[error("the token's signature is not valid")]
    Signature,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("token audiences are not those asked for")]
    Audience,
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the key of service accounts' tokens cannot be used: {0}")]
pub struct KeyError(String);

/// Signs tokens and reads them.
pub struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
    /// The first part of every token: the algorithm and the key, which are never another.
    header: String,
    verified: Mutex<Verified>,
}

/// Digests of tokens whose signature was found good: a pod shows the same one with each request, and
/// the signature is most of what a token costs. Everything else is looked at each time.
#[derive(Default)]
struct Verified {
    recent: HashSet<[u8; 32]>,
    /// Those before, taken over as they are shown again.
    older: HashSet<[u8; 32]>,
}

/// How many digests are kept in each half of [`Verified`].
const MOST_VERIFIED: usize = 8192;

impl Verified {
    fn knows(&mut self, digest: &[u8; 32]) -> bool {
        if self.recent.contains(digest) {
            return true;
        }
        let known = self.older.remove(digest);
        if known {
            self.add(*digest);
        }
        known
    }

    fn add(&mut self, digest: [u8; 32]) {
        if self.recent.len() >= MOST_VERIFIED {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(digest);
    }
}

impl Signer {
    /// From a private key of the curve P-256 (PKCS #8, DER).
    pub fn new(pkcs8: &[u8]) -> Result<Signer, KeyError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|error| KeyError(error.to_string()))?;
        let key_id = BASE64.encode(Sha256::digest(key.public_key().as_ref()));
        let header = BASE64.encode(json!({"alg": "ES256", "kid": key_id}).to_string());
        Ok(Signer { key, random, key_id, header, verified: Mutex::default() })
    }

    /// With a key that ends with the process.
    pub fn ephemeral() -> Result<Signer, KeyError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|error| KeyError(error.to_string()))?;
        Signer::new(key.as_ref())
    }

    /// # Errors
    /// When the system has no random bytes.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let payload = serde_json::to_vec(claims).map_err(|error| KeyError(error.to_string()))?;
        let signed = format!("{}.{}", self.header, BASE64.encode(payload));
        let signature = self.key.sign(&self.random, signed.as_bytes());
        let signature = signature.map_err(|error| KeyError(error.to_string()))?;
        Ok(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// What a token says, if it is signed by us, valid now, and meant for one of `audiences`.
    ///
    /// A header that is not byte for byte ours is refused, so a token chooses neither algorithm nor
    /// key.
    pub fn read(&self, token: &str, audiences: &[&str], now: Timestamp) -> Result<Claims, Refused> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refused::Foreign);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Foreign)?;
        let (header, payload) = signed.split_once('.').ok_or(Refused::Foreign)?;
        if header != self.header {
            return Err(Refused::Foreign);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        if !self.verified.lock().knows(&digest) {
            let signature = BASE64.decode(signature).map_err(|_| Refused::Signature)?;
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key())
                .verify(signed.as_bytes(), &signature)
                .map_err(|_| Refused::Signature)?;
            self.verified.lock().add(digest);
        }
        let payload = BASE64.decode(payload).map_err(|_| Refused::Foreign)?;
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| Refused::Foreign)?;
        let now = now.as_second();
        if claims.iss != ISSUER {
            return Err(Refused::Foreign);
        }
        if now >= claims.exp {
            return Err(Refused::Expired);
        }
        if now.saturating_add(NOT_BEFORE_LEEWAY_SECONDS) < claims.nbf {
            return Err(Refused::NotYet);
        }
        if !claims.aud.iter().any(|audience| audiences.contains(&audience.as_str())) {
            return Err(Refused::Audience);
        }
        Ok(claims)
    }

    /// The public key as others verify tokens by it (RFC 7517).
    pub fn key_set(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = match point.split_first() {
            Some((&UNCOMPRESSED, rest)) => rest.split_at(COORDINATE_BYTES.min(rest.len())),
            _ => (&[][..], &[][..]),
        };
        json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "alg": "ES256",
            "x": BASE64.encode(x),
            "y": BASE64.encode(y),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_225_600;

    fn claims() -> Claims {
        let reference = |name: &str| Reference { name: name.into(), uid: format!("{name}-uid") };
        Claims {
            aud: vec![ISSUER.into(), "other".into()],
            exp: NOW + 600,
            iat: NOW,
            iss: ISSUER.into(),
            jti: "id".into(),
            bound: Bound {
                namespace: "ns".into(),
                node: None,
                pod: Some(reference("p")),
                serviceaccount: reference("sa"),
            },
            nbf: NOW,
            sub: "system:serviceaccount:ns:sa".into(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A token of any header and payload, signed by the signer's key.
    fn forge(signer: &Signer, header: &Value, payload: &Value) -> String {
        let encode = |value: &Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(payload));
        let signature = signer.key.sign(&signer.random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64.encode(signature))
    }

    #[test]
    fn a_token_is_read_back_while_it_is_valid() {
        let signer = Signer::ephemeral().unwrap();
        let token = signer.sign(&claims()).unwrap();
        let read = |audience: &str, now: i64| signer.read(&token, &[audience], at(now));
        assert_eq!(read(ISSUER, NOW), Ok(claims()));
        assert_eq!(read("other", NOW + 599), Ok(claims()));
        assert_eq!(read(ISSUER, NOW + 600), Err(Refused::Expired));
        assert_eq!(read(ISSUER, NOW - 60), Err(Refused::NotYet));
        assert_eq!(read("third", NOW), Err(Refused::Audience));
        assert_eq!(signer.read(&token, &[], at(NOW)), Err(Refused::Audience));
    }

    #[test]
    fn what_we_did_not_sign_is_refused() {
        let (signer, other) = (Signer::ephemeral().unwrap(), Signer::ephemeral().unwrap());
        let read = |token: &str| signer.read(token, &[ISSUER], at(NOW));
        assert_eq!(read(&other.sign(&claims()).unwrap()), Err(Refused::Foreign));
        let token = signer.sign(&claims()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else { panic!("{token}") };
        // Another's signature under our header, none at all, ours over something else.
        let theirs = other.sign(&claims()).unwrap();
        let theirs = theirs.rsplit_once('.').unwrap().1;
        let master = Claims { sub: "system:serviceaccount:kube-system:x".into(), ..claims() };
        let changed = BASE64.encode(serde_json::to_vec(&master).unwrap());
        for (payload, signature) in [(payload, theirs), (payload, ""), (&changed, signature)] {
            let forged = format!("{header}.{payload}.{signature}");
            assert_eq!(read(&forged), Err(Refused::Signature), "{forged}");
        }
        for bad in ["", ".", "..", "a.b.c", header, &format!("{header}.{payload}"), "é.é.é"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(read(&"a".repeat(MAX_TOKEN_BYTES + 1)), Err(Refused::Foreign));
    }

    #[test]
    fn a_token_chooses_neither_algorithm_nor_key() {
        let signer = Signer::ephemeral().unwrap();
        let payload = serde_json::to_value(claims()).unwrap();
        let kid = &signer.key_id;
        let ours = forge(&signer, &json!({"alg": "ES256", "kid": kid}), &payload);
        assert!(signer.read(&ours, &[ISSUER], at(NOW)).is_ok());
        for header in [
            json!({"alg": "none"}),
            json!({"alg": "none", "kid": kid}),
            json!({"alg": "HS256", "kid": kid}),
            json!({"alg": "ES256"}),
            json!({"alg": "ES256", "kid": kid, "jku": "https://example.com"}),
        ] {
            let forged = forge(&signer, &header, &payload);
            assert_eq!(signer.read(&forged, &[ISSUER], at(NOW)), Err(Refused::Foreign));
            let unsigned = format!("{}.", forged.rsplit_once('.').unwrap().0);
            assert!(signer.read(&unsigned, &[ISSUER], at(NOW)).is_err());
        }
        let foreign = Claims { iss: "https://example.com".into(), ..claims() };
        let token = signer.sign(&foreign).unwrap();
        assert_eq!(signer.read(&token, &[ISSUER], at(NOW)), Err(Refused::Foreign));
    }

    #[test]
    fn what_is_known_is_bounded_and_what_is_used_stays() {
        let mut verified = Verified::default();
        let digest = |number: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            digest
        };
        for number in 0..4 * MOST_VERIFIED {
            assert!(!verified.knows(&digest(number)), "{number}");
            verified.add(digest(number));
            assert!(verified.knows(&digest(0)), "it is shown all the time");
        }
        assert!(verified.recent.len() + verified.older.len() <= 2 * MOST_VERIFIED);
        assert!(!verified.knows(&digest(1)));
    }

    #[test]
    fn the_key_set_names_the_key() {
        let signer = Signer::ephemeral().unwrap();
        let set = signer.key_set();
        let key = &set["keys"][0];
        assert_eq!(key["kid"], signer.key_id.as_str());
        for coordinate in ["x", "y"] {
            let text = key[coordinate].as_str().unwrap();
            assert_eq!(BASE64.decode(text).unwrap().len(), COORDINATE_BYTES);
        }
    }
}
