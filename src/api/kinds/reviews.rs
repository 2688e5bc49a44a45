//! The questions about access (authorization.k8s.io/v1) and about oneself
//! (authentication.k8s.io/v1). Nothing of them is stored; `apiserver/reviews.rs` answers.
//!
//! Upstream: pkg/apis/authorization/validation/validation.go.

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReview,
    SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::field::{Errors, Path};
use crate::api::resource::Review;

impl Review for SubjectAccessReview {
    const SINGULAR: &'static str = "subjectaccessreview";

    fn validate(&self, errors: &mut Errors) {
        validate_spec(errors, &self.spec);
        validate_meta(errors, &self.metadata);
    }
}

impl Review for LocalSubjectAccessReview {
    const SINGULAR: &'static str = "localsubjectaccessreview";

    fn validate(&self, errors: &mut Errors) {
        validate_spec(errors, &self.spec);
        let namespace = self.metadata.namespace.clone();
        validate_meta(errors, &ObjectMeta { namespace: None, ..self.metadata.clone() });
        let spec = Path::new("spec");
        if let Some(asked) = &self.spec.resource_attributes
            && asked.namespace.as_deref().unwrap_or_default() != namespace.unwrap_or_default()
        {
            let path = spec.child("resourceAttributes");
            let path = path.child("namespace");
            errors.invalid(&path, &asked.namespace, "must match metadata.namespace");
        }
        if let Some(asked) = &self.spec.non_resource_attributes {
            let detail = "disallowed on this kind of request";
            errors.invalid(&spec.child("nonResourceAttributes"), asked, detail);
        }
    }
}

impl Review for SelfSubjectAccessReview {
    const SINGULAR: &'static str = "selfsubjectaccessreview";

    fn validate(&self, errors: &mut Errors) {
        let spec = &self.spec;
        validate_asked(errors, &spec.resource_attributes, &spec.non_resource_attributes);
        validate_meta(errors, &self.metadata);
    }
}

impl Review for SelfSubjectRulesReview {
    const SINGULAR: &'static str = "selfsubjectrulesreview";
}

impl Review for SelfSubjectReview {
    const SINGULAR: &'static str = "selfsubjectreview";
}

impl Review for TokenReview {
    const SINGULAR: &'static str = "tokenreview";
}

fn validate_spec(errors: &mut Errors, spec: &SubjectAccessReviewSpec) {
    validate_asked(errors, &spec.resource_attributes, &spec.non_resource_attributes);
    let user = spec.user.as_deref().unwrap_or_default();
    if user.is_empty() && spec.groups.iter().flatten().next().is_none() {
        let path = Path::new("spec");
        let detail = "at least one of user or group must be specified";
        errors.invalid(&path.child("user"), user, detail);
    }
}

fn validate_asked(
    errors: &mut Errors,
    resource: &Option<ResourceAttributes>,
    path: &Option<NonResourceAttributes>,
) {
    let spec = Path::new("spec");
    match (resource, path) {
        (Some(_), Some(asked)) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            errors.invalid(&spec.child("nonResourceAttributes"), asked, detail);
        }
        (None, None) => {
            let detail =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid(&spec.child("resourceAttributes"), (), detail);
        }
        _ => {}
    }
}

fn validate_meta(errors: &mut Errors, meta: &ObjectMeta) {
    if *meta != ObjectMeta::default() {
        errors.invalid(&Path::new("metadata"), meta, "must be empty");
    }
}
