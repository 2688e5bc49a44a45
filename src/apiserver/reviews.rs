//! Answers questions: kinds that are only created, whose answer is their status
//! (upstream's pkg/registry/authorization and pkg/registry/authentication).
//!
//! To add one: its rules in `api/kinds`, its row here.

use k8s_openapi::api::authentication::v1::{
    SelfSubjectReviewStatus, TokenReview, TokenReviewStatus, UserInfo,
};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceAttributes, NonResourceRule, ResourceAttributes,
    ResourceRule, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    SubjectAccessReviewSpec, SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use serde::Serialize;
use serde_json::Value;

use super::User;
use super::authz::{self, Attributes};
use super::bearer::{API_AUDIENCES, Failure};
use super::service::{Answer, ApiServer, Call, read_error};
use super::write::{WriteParams, body_object, check_kind, check_namespace};
use crate::api::resource::Operation;
use crate::api::{ApiError, Gvr, Object};

/// What answers a question: its status.
type Review = fn(&ApiServer, &Call, &Object) -> Result<Value, ApiError>;

/// Group, resource, and what answers.
const REVIEWS: &[(&str, &str, Review)] = &[
    ("authentication.k8s.io", "selfsubjectreviews", self_subject),
    ("authentication.k8s.io", "tokenreviews", token),
    ("authorization.k8s.io", "subjectaccessreviews", subject_access),
    ("authorization.k8s.io", "localsubjectaccessreviews", local_subject_access),
    ("authorization.k8s.io", "selfsubjectaccessreviews", self_subject_access),
    ("authorization.k8s.io", "selfsubjectrulesreviews", self_subject_rules),
];

impl ApiServer {
    /// POST of a kind whose [`crate::api::resource::KindMeta::review`] is set.
    pub(super) fn review(
        &self,
        call: &Call,
        body: Value,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        self.authorize(call, "create")?;
        let info = &call.info;
        let (group, resource) = (&*info.gvr.group, &*info.gvr.resource);
        let row = REVIEWS.iter().find(|row| row.0 == group && row.1 == resource);
        let (_, _, review) = row.ok_or_else(super::subresource::method_not_allowed)?;
        let mut object = body_object(body)?;
        check_kind(info, &mut object)?;
        check_namespace(call, &mut object)?;
        object.remove("status");
        let mut draft = info.rules.decode(object.into_value(), None, Operation::Create)?;
        let mut warnings = Vec::new();
        params.report(&draft.unknown, &mut warnings)?;
        let errors = info.rules.validate(&draft, Operation::Create);
        if !errors.is_empty() {
            return Err(ApiError::invalid(info, draft.object.name(), errors));
        }
        let status = review(self, call, &draft.object)?;
        draft.object.set("status", status);
        Ok(Answer::other(201, draft.object.to_json()).warn(warnings))
    }

    fn access(
        &self,
        user: &User,
        resource: Option<ResourceAttributes>,
        path: Option<NonResourceAttributes>,
    ) -> SubjectAccessReviewStatus {
        let resource = resource.unwrap_or_default();
        let text = |field: Option<String>| field.unwrap_or_default();
        let gvr = Gvr {
            group: text(resource.group).into(),
            version: text(resource.version).into(),
            resource: text(resource.resource).into(),
            // Not looked at by who decides.
            namespaced: false,
        };
        let of_path = path.unwrap_or_default();
        let is_path = of_path.path.is_some() || of_path.verb.is_some();
        let [verb, path] = [of_path.verb, of_path.path].map(text);
        let [resource_verb, subresource, namespace, name] =
            [resource.verb, resource.subresource, resource.namespace, resource.name].map(text);
        let attributes = match is_path {
            true => Attributes::of_path(&verb, &path),
            false => Attributes {
                verb: &resource_verb,
                resource: Some(&gvr),
                subresource: &subresource,
                namespace: &namespace,
                name: &name,
                path: "",
            },
        };
        let allowed = self.authorize_user(user, &attributes).is_ok();
        let reason = self.rules.reason(user, &attributes).filter(|_| allowed);
        SubjectAccessReviewStatus { allowed, reason, ..SubjectAccessReviewStatus::default() }
    }

    fn access_of_subject(&self, spec: SubjectAccessReviewSpec) -> SubjectAccessReviewStatus {
        let user = User {
            name: spec.user.unwrap_or_default(),
            groups: spec.groups.unwrap_or_default(),
            uid: spec.uid.unwrap_or_default(),
            extra: spec.extra.unwrap_or_default(),
        };
        self.access(&user, spec.resource_attributes, spec.non_resource_attributes)
    }
}

fn subject_access(server: &ApiServer, _: &Call, object: &Object) -> Result<Value, ApiError> {
    let review: SubjectAccessReview = object.typed()?;
    json(server.access_of_subject(review.spec))
}

fn local_subject_access(server: &ApiServer, _: &Call, object: &Object) -> Result<Value, ApiError> {
    let review: LocalSubjectAccessReview = object.typed()?;
    json(server.access_of_subject(review.spec))
}

fn self_subject_access(
    server: &ApiServer,
    call: &Call,
    object: &Object,
) -> Result<Value, ApiError> {
    let SelfSubjectAccessReview { spec, .. } = object.typed()?;
    json(server.access(&call.user, spec.resource_attributes, spec.non_resource_attributes))
}

fn self_subject_rules(server: &ApiServer, call: &Call, object: &Object) -> Result<Value, ApiError> {
    let SelfSubjectRulesReview { spec, .. } = object.typed()?;
    let namespace = spec.namespace.filter(|namespace| !namespace.is_empty());
    let namespace = namespace.ok_or_else(|| ApiError::bad_request("no namespace on request"))?;
    let mut status = SubjectRulesReviewStatus::default();
    for rule in server.rules.of_user(&call.user, &namespace) {
        if rule.non_resource_urls.iter().flatten().next().is_some() {
            status.non_resource_rules.push(NonResourceRule {
                non_resource_urls: rule.non_resource_urls,
                verbs: rule.verbs,
            });
        } else {
            status.resource_rules.push(ResourceRule {
                api_groups: rule.api_groups,
                resource_names: rule.resource_names,
                resources: rule.resources,
                verbs: rule.verbs,
            });
        }
    }
    if authz::agent(&call.user).is_some() {
        status.incomplete = true;
        let why = "node authorizer does not support user rule resolution";
        status.evaluation_error = Some(why.into());
    }
    json(status)
}

fn self_subject(_: &ApiServer, call: &Call, _: &Object) -> Result<Value, ApiError> {
    json(SelfSubjectReviewStatus { user_info: Some(info(&call.user)) })
}

/// Whom a token stands for.
fn token(server: &ApiServer, _: &Call, object: &Object) -> Result<Value, ApiError> {
    let TokenReview { spec, .. } = object.typed()?;
    let token = spec.token.filter(|token| !token.is_empty()).ok_or_else(|| {
        ApiError::bad_request("token is required for TokenReview in authentication")
    })?;
    let asked: Vec<&str> = spec.audiences.iter().flatten().map(String::as_str).collect();
    let audiences = if asked.is_empty() { API_AUDIENCES } else { &asked };
    match server.verify(&token, audiences) {
        Ok(verified) => json(TokenReviewStatus {
            authenticated: Some(true),
            user: Some(info(&verified.user)),
            audiences: Some(verified.audiences),
            error: None,
        }),
        Err(Failure::Store(error)) => Err(read_error(error)),
        Err(failure) => json(TokenReviewStatus {
            user: Some(UserInfo::default()),
            error: Some(failure.to_string()),
            ..TokenReviewStatus::default()
        }),
    }
}

fn info(user: &User) -> UserInfo {
    UserInfo {
        username: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
    }
}

fn json(status: impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(status).map_err(ApiError::internal)
}
