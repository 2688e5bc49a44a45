//! Kubernetes Events: what components tell about objects.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::cache::AnyObject;

/// Something worth telling the user about an object. The writer aggregates repeats into `count`.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    pub regarding: ObjectReference,
    pub severity: Severity,
    /// CamelCase, for machines.
    pub reason: Cow<'static, str>,
    /// For people.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}

impl Notice {
    pub fn normal(
        object: &dyn AnyObject,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Notice {
        Notice {
            regarding: reference(object),
            severity: Severity::Normal,
            reason: reason.into(),
            message: message.into(),
        }
    }

    pub fn warning(
        object: &dyn AnyObject,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Notice {
        Notice {
            regarding: reference(object),
            severity: Severity::Warning,
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// A reference to an object as Events carry it.
pub fn reference(object: &dyn AnyObject) -> ObjectReference {
    let meta: &ObjectMeta = object.meta();
    ObjectReference {
        api_version: Some(object.api_version().into()),
        kind: Some(object.kind().into()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}
