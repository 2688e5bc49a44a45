//! The cluster's own certificate authority, and everything that is signed by it.
//!
//! Owns: the CA's key and certificate, the secret of join tokens, the key of service accounts' tokens
//! (all in the data directory, made at first start, files readable by their owner only), and how
//! certificates stand for users
//! (common name = user, organizations = groups, as in Kubernetes). It does not decide who may have
//! a certificate: [`super::join`] and the daemon do.

mod files;
mod request;
mod serving;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;

use super::User;
use super::tokens::Signer;
use super::user::AUTHENTICATED;
use crate::base::clock::{Clock, RealClock};
use crate::client::join::{self, fingerprint};

pub use crate::client::join::{Access, JoinToken, pinned_client_config};
pub use request::CertificateRequest;

/// Validity of the CA's certificate, in days.
const CA_DAYS: u32 = 3650;
/// Validity of a server certificate, in days; renewed in memory after two thirds of it.
const SERVER_DAYS: u32 = 90;
/// Validity of certificates signed for nodes, in days.
pub const NODE_DAYS: u32 = 365;
/// Longest validity of a client certificate, in days.
pub const MAX_CLIENT_DAYS: u32 = CA_DAYS;
/// How far certificates are valid into the past, for peers whose clocks are late.
const BACKDATED: Duration = Duration::from_secs(5 * 60);
/// Largest certificate signing request, in bytes.
pub const MAX_CSR_BYTES: usize = 16 << 10;
/// The two keys under which `rcgen` can write an organization: it keeps one value a key.
const ORGANIZATION_OID: &[u64] = &[2, 5, 4, 10];
/// Groups that a certificate can carry, beside `system:authenticated`, which every one implies.
const MAX_GROUPS: usize = 2;

/// Why the authority cannot be opened or cannot sign.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{path}: {source}")]
    Io { path: std::path::PathBuf, source: std::io::Error },
    #[error("{0} exists but {1} does not: restore it, or remove both to make a new cluster CA")]
    HalfLost(&'static str, &'static str),
    #[error("{what} cannot be read: {why}")]
    Unreadable { what: String, why: String },
    #[error("the certificate request is not valid: {0}")]
    BadRequest(String),
    #[error("a certificate cannot carry more than {MAX_GROUPS} groups")]
    TooManyGroups,
    #[error("a certificate could not be made: {0}")]
    Signing(#[from] rcgen::Error),
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The certificate authority of a cluster; cheap to clone.
#[derive(Clone)]
pub struct Pki(Arc<Authority>);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    join_secret: String,
    tokens: Arc<Signer>,
}

impl Pki {
    /// Opens the authority in `dir`, or makes it at first start. Key files have mode 0600, the
    /// directory 0700.
    ///
    /// # Errors
    /// When files cannot be read or written, when one of key and certificate is lost (a new CA
    /// would silently cut off every node and client), or when they do not belong together.
    pub fn open(dir: &Path) -> Result<Pki, PkiError> {
        files::make_private_dir(dir)?;
        let (ca_pem, key_pem) = match (files::read(dir, "ca.crt")?, files::read(dir, "ca.key")?) {
            (Some(ca_pem), Some(key_pem)) => (ca_pem, key_pem),
            (Some(_), None) => return Err(PkiError::HalfLost("ca.crt", "ca.key")),
            // The key is written first, so a key alone is a first start that was cut short.
            (None, _) => make_ca(dir)?,
        };
        let join_secret = match files::read(dir, "join.secret")? {
            Some(secret) => secret.trim().to_string(),
            None => {
                let secret = join::new_secret();
                files::write_private(dir, "join.secret", &secret)?;
                secret
            }
        };
        if join_secret.len() < join::MIN_SECRET_CHARS {
            let why = "it is too short".to_string();
            return Err(PkiError::Unreadable { what: "join.secret".into(), why });
        }
        let unreadable = |why: String| PkiError::Unreadable { what: "ca.crt".into(), why };
        let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|e| unreadable(e.to_string()))?;
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|e| PkiError::Unreadable { what: "ca.key".into(), why: e.to_string() })?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&ca_der).map_err(|e| unreadable(e.to_string()))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(unreadable("it does not belong to ca.key".into()));
        }
        let issuer = Issuer::from_ca_cert_der(&ca_der, key)?;
        let tokens = Arc::new(token_key(dir)?);
        Ok(Pki(Arc::new(Authority { issuer, ca_pem, ca_der, join_secret, tokens })))
    }

    /// TLS for the API server: a certificate for `names` and `ips` that renews itself, HTTP/2 and
    /// HTTP/1.1 by ALPN, client certificates optional and, where given, signed by our CA.
    ///
    /// # Errors
    /// When a name is not a valid DNS name.
    pub fn server_config(
        &self,
        names: &[String],
        ips: &[IpAddr],
    ) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.root_store()?),
            provider.clone(),
        )
        .allow_unauthenticated()
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
        let resolver = serving::RenewingCertificate::new(self.clone(), names, ips)?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// A key and a client certificate for a user: `(certificate, key)`, both PEM.
    ///
    /// # Errors
    /// When the user has more groups than a certificate can carry.
    pub fn client_certificate(&self, user: &User, days: u32) -> Result<(String, String), PkiError> {
        let key = KeyPair::generate()?;
        let certificate = self.sign_client(user, self::days(days), &key)?;
        Ok((certificate, key.serialize_pem()))
    }

    /// Signs the public key of a certificate request for a user, for [`NODE_DAYS`] days. The
    /// request's subject, names and extensions are not taken: only `user` says who it is.
    ///
    /// # Errors
    /// When the request is not valid PEM or its signature does not prove possession of the key.
    pub fn sign_csr(&self, csr_pem: &str, user: &User) -> Result<String, PkiError> {
        self.sign_csr_for(csr_pem, user, days(NODE_DAYS))
    }

    /// The same for another life of the certificate.
    ///
    /// # Errors
    /// Those of [`Pki::sign_csr`], and a user with more groups than a certificate can carry.
    pub fn sign_csr_for(
        &self,
        csr_pem: &str,
        user: &User,
        life: Duration,
    ) -> Result<String, PkiError> {
        if csr_pem.len() > MAX_CSR_BYTES {
            return Err(PkiError::BadRequest(format!("it has more than {MAX_CSR_BYTES} bytes")));
        }
        let csr = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| PkiError::BadRequest(e.to_string()))?;
        self.sign_client(user, life, &csr.public_key)
    }

    /// The CA's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.0.ca_pem
    }

    /// SHA-256 of the CA certificate's DER in hexadecimal.
    pub fn ca_fingerprint(&self) -> String {
        fingerprint(&self.0.ca_der)
    }

    /// What a machine needs to join the cluster.
    pub fn join_token(&self) -> JoinToken {
        JoinToken { ca_fingerprint: self.ca_fingerprint(), secret: self.0.join_secret.clone() }
    }

    /// The CA's key, PKCS #8: with it the cluster signs compiled code, so that a node needs to trust
    /// nothing but the CA.
    pub fn code_key(&self) -> Vec<u8> {
        self.0.issuer.key().serialize_der()
    }

    /// Signs the tokens of service accounts.
    pub fn tokens(&self) -> &Arc<Signer> {
        &self.0.tokens
    }

    /// Whether a presented secret is the join token's; takes the same time for every answer.
    pub fn accepts_join_secret(&self, secret: &str) -> bool {
        join::same_secret(secret, &self.0.join_secret)
    }

    fn root_store(&self) -> Result<rustls::RootCertStore, PkiError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.ca_der.clone())?;
        Ok(roots)
    }

    fn sign_client(
        &self,
        user: &User,
        life: Duration,
        key: &impl PublicKeyData,
    ) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(user)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, life.min(days(MAX_CLIENT_DAYS)));
        Ok(params.signed_by(key, &self.0.issuer)?.pem())
    }

    /// A fresh key and certificate chain for the server (leaf, then the CA, so that a joining
    /// machine can compare the CA with its token).
    fn server_certificate(
        &self,
        names: &[String],
        ips: &[IpAddr],
    ) -> Result<rustls::sign::CertifiedKey, PkiError> {
        let key = KeyPair::generate()?;
        let all: Vec<String> =
            names.iter().cloned().chain(ips.iter().map(ToString::to_string)).collect();
        let mut params = CertificateParams::new(all)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "wasmfleet-apiserver");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, days(SERVER_DAYS));
        let leaf = params.signed_by(&key, &self.0.issuer)?;
        let private = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        let signer = rustls::crypto::ring::sign::any_supported_type(&private)?;
        let chain = vec![leaf.der().clone(), self.0.ca_der.clone()];
        Ok(rustls::sign::CertifiedKey::new(chain, signer))
    }
}

/// The key of service accounts' tokens. Who removes its file makes all of them invalid.
fn token_key(dir: &Path) -> Result<Signer, PkiError> {
    const FILE: &str = "service-account.key";
    let unreadable = |why: String| PkiError::Unreadable { what: FILE.into(), why };
    let pem = match files::read(dir, FILE)? {
        Some(pem) => pem,
        None => {
            let pem = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?.serialize_pem();
            files::write_private(dir, FILE, &pem)?;
            pem
        }
    };
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| unreadable(error.to_string()))?;
    Signer::new(key.secret_pkcs8_der()).map_err(|error| unreadable(error.to_string()))
}

/// Makes the CA and writes its key, then its certificate: `(certificate, key)`, both PEM.
fn make_ca(dir: &Path) -> Result<(String, String), PkiError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Two clusters' CAs need different names: TLS libraries pick issuers by name.
    let id = &fingerprint(key.der_bytes())[..16];
    params.distinguished_name.push(DnType::CommonName, format!("wasmfleet-ca-{id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    set_validity(&mut params, days(CA_DAYS));
    let certificate = params.self_signed(&key)?.pem();
    let key = key.serialize_pem();
    files::write_private(dir, "ca.key", &key)?;
    files::write_private(dir, "ca.crt", &certificate)?;
    Ok((certificate, key))
}

fn days(count: u32) -> Duration {
    Duration::from_secs(u64::from(count) * 24 * 60 * 60)
}

/// From a moment ago for `life`. This is the machine's clock and not a virtual one, because the
/// peers' TLS libraries compare it with theirs.
fn set_validity(params: &mut CertificateParams, life: Duration) {
    let now = RealClock.now().as_second().max(0).unsigned_abs();
    let since_epoch = Duration::from_secs(now);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch.saturating_sub(BACKDATED);
    params.not_after = epoch + since_epoch + life;
}

/// Common name = user, organizations = groups.
fn subject(user: &User) -> Result<DistinguishedName, PkiError> {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user.name.as_str());
    let groups: Vec<&String> = user.groups.iter().filter(|g| *g != AUTHENTICATED).collect();
    if groups.len() > MAX_GROUPS {
        return Err(PkiError::TooManyGroups);
    }
    let keys = [DnType::OrganizationName, DnType::CustomDnType(ORGANIZATION_OID.to_vec())];
    for (key, group) in keys.into_iter().zip(groups) {
        name.push(key, group.as_str());
    }
    Ok(name)
}
