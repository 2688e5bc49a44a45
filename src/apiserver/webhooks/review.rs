//! AdmissionReview (admission.k8s.io/v1 and v1beta1): the question as JSON, and what an answer
//! says (webhook/request/admissionreview.go, webhook/errors/statuserror.go).

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Gvk, Hook, Question};
use crate::api::error::{Details, Reason};
use crate::api::kinds::webhook::REVIEW_VERSIONS;
use crate::api::resource::KindInfo;
use crate::api::{ApiError, Object};
use crate::apiserver::versions;

const GROUP: &str = "admission.k8s.io";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    kind: &'a str,
    api_version: String,
    request: Request<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: &'a str,
    kind: Kind<'a>,
    resource: Resource<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub_resource: &'a str,
    request_kind: Kind<'a>,
    request_resource: Resource<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_sub_resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    operation: &'a str,
    user_info: UserInfo<'a>,
    object: Option<&'a Map<String, Value>>,
    old_object: Option<&'a Map<String, Value>>,
    dry_run: bool,
    options: &'a Value,
}

#[derive(Serialize)]
struct Kind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

#[derive(Serialize)]
struct Resource<'a> {
    group: &'a str,
    version: &'a str,
    resource: &'a str,
}

#[derive(Serialize)]
struct UserInfo<'a> {
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

fn kind<'a>(info: &'a KindInfo, part: Option<Gvk<'a>>) -> Kind<'a> {
    match part {
        Some((group, version, kind)) => Kind { group, version, kind },
        None => Kind { group: &info.gvr.group, version: &info.gvr.version, kind: &info.kind },
    }
}

fn resource(info: &KindInfo) -> Resource<'_> {
    Resource { group: &info.gvr.group, version: &info.gvr.version, resource: &info.gvr.resource }
}

/// The first version of the review that the webhook likes and the server speaks.
pub fn version(hook: &Hook) -> Option<&str> {
    let mut liked = hook.spec.admission_review_versions.iter().map(String::as_str);
    liked.find(|version| REVIEW_VERSIONS.contains(version))
}

/// The review as bytes. `info` is the version of the kind that the webhook wants.
pub fn render(
    version: &str,
    uid: &str,
    question: &Question,
    info: &KindInfo,
    object: Option<&Object>,
) -> Result<Vec<u8>, ApiError> {
    let call = question.call;
    let is_other = info.gvr != call.info.gvr;
    let shown = |object: Option<&Object>| {
        object.filter(|_| is_other).map(|object| in_form(object, &call.info, info))
    };
    let (other, other_old) = (shown(object), shown(question.old));
    let object = other.as_ref().or(object).map(Object::fields);
    let old_object = other_old.as_ref().or(question.old).map(Object::fields);
    let review = Review {
        kind: "AdmissionReview",
        api_version: format!("{GROUP}/{version}"),
        request: Request { uid, object, old_object, ..request(question, info) },
    };
    serde_json::to_vec(&review).map_err(ApiError::internal)
}

/// The request without its objects and its name, as conditions see it.
pub fn described(question: &Question, info: &KindInfo) -> Result<Value, ApiError> {
    let mut request = serde_json::to_value(request(question, info)).map_err(ApiError::internal)?;
    if let Some(fields) = request.as_object_mut() {
        for field in ["uid", "object", "oldObject"] {
            fields.remove(field);
        }
    }
    Ok(request)
}

fn request<'a>(question: &'a Question, info: &'a KindInfo) -> Request<'a> {
    let (call, user) = (question.call, &*question.call.user);
    Request {
        uid: "",
        kind: kind(info, question.part),
        resource: resource(info),
        sub_resource: &call.subresource,
        request_kind: kind(&call.info, question.part),
        request_resource: resource(&call.info),
        request_sub_resource: &call.subresource,
        name: &call.name,
        namespace: question.namespace(),
        operation: question.operation.name(),
        user_info: UserInfo {
            username: &user.name,
            uid: &user.uid,
            groups: &user.groups,
            extra: &user.extra,
        },
        object: None,
        old_object: None,
        dry_run: question.dry_run,
        options: &question.options,
    }
}

/// An object in the form that was asked for.
pub fn shown_in(object: &Object, question: &Question, info: &KindInfo) -> Object {
    match info.gvr == question.call.info.gvr {
        true => object.clone(),
        false => in_form(object, &question.call.info, info),
    }
}

/// An object of one row in the form of another that has the same objects.
pub fn in_form(object: &Object, from: &KindInfo, to: &KindInfo) -> Object {
    let stored = match &from.stored {
        Some(stored) => stored.stored(object.clone()),
        None => object.clone(),
    };
    versions::shown(to, stored)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReviewAnswer {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    response: Option<Response>,
}

/// `auditAnnotations` are taken and come to nothing: there is no audit log.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    uid: String,
    allowed: bool,
    status: Option<Status>,
    patch: Option<String>,
    patch_type: Option<String>,
    audit_annotations: Option<BTreeMap<String, String>>,
    warnings: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    message: Option<String>,
    reason: Option<String>,
    code: Option<i32>,
    details: Option<Box<Details>>,
}

/// What a webhook decided.
pub struct Verdict {
    /// The refusal, if it is one.
    pub refused: Option<ApiError>,
    pub warnings: Vec<String>,
    /// A JSON patch; null for none.
    pub patch: Value,
}

/// Reads an answer; the error is why it is none.
pub fn read(
    hook: &Hook,
    mutating: bool,
    version: &str,
    uid: &str,
    bytes: &[u8],
) -> Result<Verdict, String> {
    let answer: ReviewAnswer = serde_json::from_slice(bytes).map_err(|error| {
        format!("failed to call webhook: couldn't get version/kind; json parse error: {error}")
    })?;
    let response = answer.response.unwrap_or_default();
    verify(&answer.kind, &answer.api_version, &response, mutating, version, uid)
        .map_err(|why| format!("received invalid webhook response: {why}"))?;
    let annotations = response.audit_annotations.iter().flatten().count();
    if annotations > 0 {
        tracing::debug!(webhook = hook.spec.name, annotations, "audit annotations of a webhook");
    }
    let refused = (!response.allowed).then(|| refusal(&hook.spec.name, response.status));
    let patch = match (&refused, response.patch.as_deref()) {
        (None, Some(text)) if mutating && !text.is_empty() => decode_patch(text)
            .map_err(|why| format!("received undecodable patch in webhook response: {why}"))?,
        _ => Value::Null,
    };
    Ok(Verdict { refused, warnings: response.warnings.unwrap_or_default(), patch })
}

fn verify(
    kind: &str,
    api_version: &str,
    response: &Response,
    mutating: bool,
    version: &str,
    uid: &str,
) -> Result<(), String> {
    let has_patch = response.patch.as_ref().is_some_and(|patch| !patch.is_empty());
    // Answers of the older version were never looked at so closely.
    if version == "v1" {
        if response.uid != uid {
            return Err(format!("expected response.uid={uid:?}, got {:?}", response.uid));
        }
        if kind != "AdmissionReview" || api_version != format!("{GROUP}/v1") {
            return Err(format!(
                "expected webhook response of {GROUP}/v1, Kind=AdmissionReview, got \
                 {api_version}, Kind={kind}"
            ));
        }
        match (&response.patch_type, has_patch) {
            (Some(_), _) if !mutating => {
                return Err("validating webhook may not return response.patchType".into());
            }
            (None, true) if !mutating => {
                return Err("validating webhook may not return response.patch".into());
            }
            (None, true) => {
                return Err("webhook returned response.patch but not response.patchType".into());
            }
            (Some(_), false) => {
                return Err("webhook returned response.patchType but not response.patch".into());
            }
            (Some(other), true) if other != "JSONPatch" => {
                return Err(format!("webhook returned invalid response.patchType of {other:?}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn decode_patch(text: &str) -> Result<Value, String> {
    let bytes = BASE64_STANDARD.decode(text).map_err(|error| error.to_string())?;
    let patch: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    match &patch {
        Value::Array(operations) if operations.is_empty() => Ok(Value::Null),
        Value::Null | Value::Array(_) => Ok(patch),
        _ => Err("it is no list of operations".into()),
    }
}

/// A refusal in the webhook's own words.
fn refusal(name: &str, status: Option<Status>) -> ApiError {
    let status = status.unwrap_or_default();
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let denied = format!("admission webhook {name:?} denied the request");
    let message = match (given(&status.message), given(&status.reason)) {
        (Some(why), _) | (None, Some(why)) => format!("{denied}: {why}"),
        (None, None) => format!("{denied} without explanation"),
    };
    // Below 400 it would be no refusal; above 599 it would be no HTTP.
    let code = status.code.and_then(|code| u16::try_from(code).ok()).unwrap_or_default();
    let code = if (400..=599).contains(&code) { code } else { 400 };
    let reason = given(&status.reason).map(Value::from);
    let reason = reason.and_then(|reason| Reason::deserialize(reason).ok());
    let mut error = ApiError::new(code, reason.unwrap_or(Reason::Unknown), message);
    error.details = status.details;
    error
}
