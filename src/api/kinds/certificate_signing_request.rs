//! CertificateSigningRequest (certificates.k8s.io/v1). Who asks, who may approve, and what is signed
//! here is in `apiserver/admission/certificates.rs`.
//!
//! Upstream: pkg/apis/certificates/validation/validation.go.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use serde_json::Value;

use super::checks;
use crate::api::duration;
use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta, NameRule, Subresource};
use crate::api::table::{self, Column};

pub const APPROVED: &str = "Approved";
pub const DENIED: &str = "Denied";
pub const FAILED: &str = "Failed";
/// The shortest life of a certificate that can be asked for, in seconds.
const LEAST_SECONDS: i32 = 600;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

impl Kind for CertificateSigningRequest {
    const META: KindMeta = KindMeta {
        singular: "certificatesigningrequest",
        short_names: &["csr"],
        status: true,
        name_rule: NameRule::PathSegment,
        selectable: &["spec.signerName"],
        subresources: &[Subresource {
            name: "approval",
            group: "certificates.k8s.io",
            version: "v1",
            kind: "CertificateSigningRequest",
            verbs: &["get", "patch", "update"],
        }],
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        self.status.get_or_insert_default();
    }

    /// What was asked for stays.
    fn prepare_update(&mut self, old: &Self) {
        self.spec = old.spec.clone();
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let at = path.child("usages");
        let usages = self.spec.usages.as_deref().unwrap_or_default();
        if usages.is_empty() {
            errors.required(&at, "");
        }
        let mut seen = BTreeSet::new();
        for (i, usage) in usages.iter().enumerate() {
            if !USAGES.contains(&usage.as_str()) {
                errors.not_supported(&at.index(i), usage, USAGES);
            }
            if !seen.insert(usage) {
                errors.duplicate(&at.index(i), usage);
            }
        }
        validate_signer(errors, &path.child("signerName"), &self.spec.signer_name);
        if let Some(seconds) = self.spec.expiration_seconds.filter(|s| *s < LEAST_SECONDS) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(&path.child("expirationSeconds"), seconds, detail);
        }
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let path = Path::new("status");
        let at = path.child("conditions");
        let conditions = conditions(self);
        validate_conditions(errors, &at, conditions);
        let count = |list: &[CertificateSigningRequestCondition], type_: &str| {
            list.iter().filter(|one| one.type_ == type_).count()
        };
        for type_ in [APPROVED, DENIED, FAILED] {
            if count(conditions, type_) < count(self::conditions(old), type_) {
                let detail = format!("updates may not remove a condition of type {type_:?}");
                errors.forbidden(&at, &detail);
            }
        }
        let certificate = |csr: &Self| csr.status.as_ref().and_then(|s| s.certificate.clone());
        let before = certificate(old).filter(|bytes| !bytes.0.is_empty());
        if before.is_some() && certificate(self) != before {
            let detail = "updates may not modify existing certificate content";
            errors.forbidden(&path.child("certificate"), detail);
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::AGE,
            Column::new("SignerName", "string", "Who is asked to sign."),
            Column::new("Requestor", "string", "Who asks."),
            Column::new("RequestedDuration", "string", "How long the certificate shall hold."),
            Column::new("Condition", "string", "What became of the request."),
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let seconds = self.spec.expiration_seconds;
        let seconds = seconds.map(|seconds| duration::human(i64::from(seconds)));
        vec![
            table::name(&self.metadata),
            table::age(&self.metadata, now),
            self.spec.signer_name.clone().into(),
            self.spec.username.clone().unwrap_or_default().into(),
            checks::or_none(seconds.as_deref()).into(),
            state(self).into(),
        ]
    }

    fn field(&self, field: &str) -> String {
        match field {
            "spec.signerName" => self.spec.signer_name.clone(),
            _ => String::new(),
        }
    }
}

/// The conditions of a request.
pub fn conditions(csr: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    csr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

/// `Approved,Issued`.
fn state(csr: &CertificateSigningRequest) -> String {
    let has = |type_: &str| conditions(csr).iter().any(|one| one.type_ == type_);
    let first = match (has(DENIED), has(APPROVED)) {
        (true, _) => DENIED,
        (false, true) => APPROVED,
        (false, false) => "Pending",
    };
    let certificate = csr.status.as_ref().and_then(|status| status.certificate.as_ref());
    let issued = certificate.is_some_and(|bytes| !bytes.0.is_empty());
    let failed = if has(FAILED) { ",Failed" } else { "" };
    format!("{first}{failed}{}", if issued { ",Issued" } else { "" })
}

fn validate_conditions(
    errors: &mut Errors,
    path: &Path,
    conditions: &[CertificateSigningRequestCondition],
) {
    let mut seen = BTreeSet::new();
    for (i, one) in conditions.iter().enumerate() {
        let path = path.index(i);
        if one.type_.is_empty() {
            errors.required(&path.child("type"), "");
        }
        let known = matches!(one.type_.as_str(), APPROVED | DENIED | FAILED);
        let supported: &[&str] = if known { &["True"] } else { &["False", "True", "Unknown"] };
        checks::one_of(errors, &path.child("status"), &one.status, supported);
        if !seen.insert(&*one.type_) {
            errors.duplicate(&path.child("type"), &one.type_);
        }
        let opposite = match one.type_.as_str() {
            APPROVED => DENIED,
            DENIED => APPROVED,
            _ => continue,
        };
        if seen.contains(opposite) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(&path.child("type"), &one.type_, detail);
        }
    }
}

/// `domain/path`, as upstream's ValidateSignerName reads it.
fn validate_signer(errors: &mut Errors, path: &Path, signer: &str) {
    if signer.is_empty() {
        return errors.required(path, "");
    }
    if signer == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        return errors.invalid(path, signer, detail);
    }
    let Some((domain, name)) = signer.split_once('/').filter(|(_, name)| !name.contains('/'))
    else {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, signer, detail);
    };
    let messages = names::is_dns1123_subdomain(domain);
    names::report(errors, path, domain, messages);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid(path, domain, detail);
    }
    names::report(errors, path, name, names::is_dns1123_subdomain(name));
}
