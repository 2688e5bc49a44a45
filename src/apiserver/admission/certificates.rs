//! Certificate signing requests at work: who asks is written down, who approves or signs needs the
//! verb for the signer, and what is approved for a client's signer is signed at once (upstream's
//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction, and its signer).
//!
//! Signed here: `kubernetes.io/kube-apiserver-client` and `…/kube-apiserver-client-kubelet`. Others
//! wait for somebody who writes the certificate into the status.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::field::{Errors, Path};
use crate::api::kinds::certificate_signing_request::{APPROVED, DENIED, FAILED, conditions};
use crate::api::{ApiError, Gvr, Object};
use crate::apiserver::authz;
use crate::apiserver::pki::{CertificateRequest, NODE_DAYS, PkiError};
use crate::apiserver::user::{SYSTEM_MASTERS, SYSTEM_NODES, User};

/// Signers are no objects; the verbs `approve` and `sign` are asked for them.
const SIGNERS: Gvr = Gvr::new("certificates.k8s.io", "v1", "signers", false);
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// What certificates of clients may be for; `client auth` they must.
const CLIENT_USAGES: &[&str] = &["client auth", "digital signature", "key encipherment"];
/// The longest life of a certificate that is signed here.
const MOST_LIFE: Duration = Duration::from_secs(NODE_DAYS as u64 * 24 * 60 * 60);

pub struct Certificates;

impl Admitter for Certificates {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        let part = attributes.call.subresource.as_str();
        if !is_request(attributes) || attributes.verb == Verb::Delete {
            return Ok(());
        }
        match (attributes.verb, part) {
            (Verb::Create, "") => {
                write_requester(&attributes.call.user, object);
                outcome.changed = true;
            }
            (Verb::Update, "status" | "approval") => {
                let Some(old) = attributes.old else { return Ok(()) };
                let old: CertificateSigningRequest = old.typed()?;
                let mut new: CertificateSigningRequest = object.typed()?;
                check_part(attributes, &new, &old)?;
                set_times(attributes, &mut new);
                if part == "approval" {
                    sign(attributes, &mut new);
                }
                *object = Object::from_typed(&new);
                outcome.changed = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The request itself is read once, when it comes.
    fn validate(
        &self,
        attributes: &Attributes,
        object: &Object,
        _: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if !is_request(attributes) || attributes.verb != Verb::Create {
            return Ok(());
        }
        let csr: CertificateSigningRequest = object.typed()?;
        let request = match CertificateRequest::parse(&csr.spec.request.0) {
            Ok(request) => request,
            Err(error) => {
                let mut errors = Errors::default();
                let path = Path::new("spec");
                errors.invalid(&path.child("request"), &csr.spec.request, &error.to_string());
                return Err(ApiError::invalid(
                    &attributes.call.info,
                    object.name(),
                    errors.into_vec(),
                ));
            }
        };
        let masters = request.organizations.iter().any(|group| group == SYSTEM_MASTERS);
        if csr.spec.signer_name == CLIENT && masters {
            let why = format!("use of {CLIENT} signer with {SYSTEM_MASTERS} group is not allowed");
            return Err(ApiError::forbidden(&attributes.call.info.gvr, object.name(), why));
        }
        Ok(())
    }
}

fn is_request(attributes: &Attributes) -> bool {
    let gvr = &attributes.call.info.gvr;
    gvr.group == "certificates.k8s.io" && gvr.resource == "certificatesigningrequests"
}

/// Nobody asks in another's name.
fn write_requester(user: &User, object: &mut Object) {
    let spec = object.fields_mut().entry("spec").or_insert_with(|| json!({}));
    let Some(spec) = spec.as_object_mut() else { return };
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    spec.insert("username".into(), user.name.clone().into());
    spec.insert("groups".into(), json!(user.groups));
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.clone().into());
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
}

/// Approvals are written by `/approval`, certificates by `/status`; each needs its verb.
fn check_part(
    attributes: &Attributes,
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
) -> Result<(), ApiError> {
    let is_approval = attributes.call.subresource == "approval";
    let certificate =
        |csr: &CertificateSigningRequest| csr.status.as_ref().and_then(|s| s.certificate.clone());
    let signed = certificate(new) != certificate(old);
    let has = |csr: &CertificateSigningRequest, type_: &str| {
        conditions(csr).iter().any(|one| one.type_ == type_)
    };
    let mut errors = Errors::default();
    let path = Path::new("status");
    if is_approval && signed {
        let detail = "updates may not set certificate content";
        errors.forbidden(&path.child("certificate"), detail);
    }
    let decided: Vec<&str> = [APPROVED, DENIED]
        .into_iter()
        .filter(|type_| has(new, type_) && !has(old, type_))
        .collect();
    for type_ in decided.iter().filter(|_| !is_approval) {
        let detail = format!("updates may not add a condition of type {type_:?}");
        errors.forbidden(&path.child("conditions"), &detail);
    }
    let errors = errors.into_vec();
    if !errors.is_empty() {
        let name = &attributes.call.name;
        return Err(ApiError::invalid(&attributes.call.info, name, errors));
    }
    let signer = &old.spec.signer_name;
    let failed = has(new, FAILED) && !has(old, FAILED);
    match is_approval {
        true => demand(attributes, "approve", signer),
        false if signed || failed => demand(attributes, "sign", signer),
        false => Ok(()),
    }
}

/// The verb for the signer, or for all signers of its domain.
fn demand(attributes: &Attributes, verb: &str, signer: &str) -> Result<(), ApiError> {
    let domain = signer.split('/').next().unwrap_or_default();
    let all = format!("{domain}/*");
    let allowed = [signer, &all].into_iter().any(|name| {
        let asked = authz::Attributes {
            verb,
            resource: Some(&SIGNERS),
            subresource: "",
            namespace: "",
            name,
            path: "",
        };
        attributes.server.authorize_user(&attributes.call.user, &asked).is_ok()
    });
    if allowed {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(ApiError::forbidden(&attributes.call.info.gvr, &attributes.call.name, why))
}

/// Conditions that do not say since when they hold.
fn set_times(attributes: &Attributes, csr: &mut CertificateSigningRequest) {
    let now = now(attributes);
    let conditions = csr.status.iter_mut().flat_map(|status| status.conditions.iter_mut());
    for one in conditions.flatten() {
        one.last_update_time.get_or_insert_with(|| now.clone());
        one.last_transition_time.get_or_insert_with(|| now.clone());
    }
}

fn now(attributes: &Attributes) -> Time {
    // Metadata has whole seconds.
    let now = attributes.server.clock.now();
    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Signs what was approved; what cannot be signed has failed.
fn sign(attributes: &Attributes, csr: &mut CertificateSigningRequest) {
    let Some(pki) = &attributes.server.pki else { return };
    let has = |type_: &str| conditions(csr).iter().any(|one| one.type_ == type_);
    let ours = [CLIENT, KUBELET_CLIENT].contains(&csr.spec.signer_name.as_str());
    let certificate = csr.status.as_ref().and_then(|status| status.certificate.as_ref());
    let issued = certificate.is_some_and(|bytes| !bytes.0.is_empty());
    if !ours || issued || !has(APPROVED) || has(DENIED) || has(FAILED) {
        return;
    }
    let signed = user_of(csr).and_then(|user| {
        let asked = csr.spec.expiration_seconds.and_then(|s| u64::try_from(s).ok());
        let life = asked.map_or(MOST_LIFE, Duration::from_secs).min(MOST_LIFE);
        pki.sign_csr_for(&text_of(csr), &user, life).map_err(|error: PkiError| error.to_string())
    });
    let time = now(attributes);
    let status = csr.status.get_or_insert_default();
    match signed {
        Ok(pem) => status.certificate = Some(ByteString(pem.into_bytes())),
        Err(message) => {
            let failed = CertificateSigningRequestCondition {
                type_: FAILED.into(),
                status: "True".into(),
                reason: Some("SignerValidationFailure".into()),
                message: Some(message),
                last_update_time: Some(time.clone()),
                last_transition_time: Some(time),
            };
            status.conditions.get_or_insert_default().push(failed);
        }
    }
}

fn text_of(csr: &CertificateSigningRequest) -> String {
    String::from_utf8_lossy(&csr.spec.request.0).into_owned()
}

/// Who the certificate will stand for, if the signer gives such certificates.
fn user_of(csr: &CertificateSigningRequest) -> Result<User, String> {
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    let fits = usages.iter().all(|usage| CLIENT_USAGES.contains(&usage.as_str()));
    if !fits || !usages.iter().any(|usage| usage == CLIENT_USAGES[0]) {
        return Err(format!("usages must be {CLIENT_USAGES:?}, the first of them always"));
    }
    let request = CertificateRequest::parse(&csr.spec.request.0).map_err(|e| e.to_string())?;
    let groups: Vec<&str> = request.organizations.iter().map(String::as_str).collect();
    if csr.spec.signer_name == KUBELET_CLIENT {
        let node = request.common_name.strip_prefix("system:node:");
        if node.is_none_or(str::is_empty) || groups != [SYSTEM_NODES] {
            let text = "the subject must be system:node:<name> of the organization system:nodes";
            return Err(text.into());
        }
    }
    Ok(User::new(request.common_name.as_str(), &groups))
}
