//! Rules that cross kinds, applied to every write: a table of admitters, one file each. They run in
//! the table's order, all mutating steps first; validating steps see the finished object, and what it
//! costs is charged last.

pub mod artifact;
mod certificates;
mod claim_resize;
pub mod cluster_ip;
mod default_class;
pub mod default_tolerations;
pub mod limit_ranger;
pub mod mutating_policy;
pub mod namespace_lifecycle;
pub mod node_restriction;
pub mod pod_security;
pub mod priority;
pub mod resource_quota;
pub mod role_escalation;
pub mod runtime_class;
pub mod service_account;
mod storage_protection;
mod token_volume;
mod type_checking;
pub mod validating_policy;
mod validating_policy_match;
pub mod validating_policy_table;

use super::service::{ApiServer, Call};
use crate::api::{ApiError, Object};
use crate::store::Op;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Create,
    Update,
    Delete,
}

/// What an admitter may look at.
pub struct Attributes<'a> {
    pub server: &'a ApiServer,
    pub call: &'a Call,
    pub verb: Verb,
    /// The stored object; none on create.
    pub old: Option<&'a Object>,
}

/// What admission adds to a write.
#[derive(Default)]
pub struct Outcome {
    /// Committed together with the object, or not at all. A conflict of one of them makes the
    /// pipeline begin again.
    pub ops: Vec<Op>,
    /// Whether an admitter changed the object, so that defaults must be set again.
    pub changed: bool,
    pub warnings: Vec<String>,
}

/// One rule. Functions do nothing unless a rule overrides them.
pub trait Admitter: Sync {
    /// Sets what the user left out.
    fn admit(&self, _: &Attributes, _: &mut Object, _: &mut Outcome) -> Result<(), ApiError> {
        Ok(())
    }

    /// Gives what only one object may have: called after the webhooks, whose changes count.
    fn allocate(&self, _: &Attributes, _: &mut Object, _: &mut Outcome) -> Result<(), ApiError> {
        Ok(())
    }

    /// Refuses; on deletions `object` is the stored one.
    fn validate(&self, _: &Attributes, _: &Object, _: &mut Vec<String>) -> Result<(), ApiError> {
        Ok(())
    }

    /// What the write costs: called last of all, for a valid object, with operations to be
    /// committed together with it.
    fn charge(&self, _: &Attributes, _: &Object, _: &mut Outcome) -> Result<(), ApiError> {
        Ok(())
    }

    /// What goes when the object goes.
    fn release(&self, _: &Attributes, _: &Object) -> Vec<Op> {
        Vec::new()
    }
}

/// Every rule, in upstream's order.
const ADMITTERS: &[&dyn Admitter] = &[
    &namespace_lifecycle::NamespaceLifecycle,
    &limit_ranger::LimitRanger,
    &service_account::ServiceAccount,
    &node_restriction::NodeRestriction,
    &pod_security::PodSecurity,
    &priority::Priority,
    &default_tolerations::DefaultTolerations,
    &default_class::DefaultStorageClass,
    &storage_protection::StorageProtection,
    &claim_resize::ClaimResize,
    &runtime_class::RuntimeClass,
    &certificates::Certificates,
    &default_class::DefaultIngressClass,
    &cluster_ip::ClusterIp,
    &role_escalation::RoleEscalation,
    &artifact::LinkCheck,
    &type_checking::TypeChecking,
    &resource_quota::ResourceQuota,
];

pub(super) fn admit(
    attributes: &Attributes,
    object: &mut Object,
    outcome: &mut Outcome,
) -> Result<(), ApiError> {
    ADMITTERS.iter().try_for_each(|rule| rule.admit(attributes, object, outcome))
}

pub(super) fn allocate(
    attributes: &Attributes,
    object: &mut Object,
    outcome: &mut Outcome,
) -> Result<(), ApiError> {
    ADMITTERS.iter().try_for_each(|rule| rule.allocate(attributes, object, outcome))
}

pub(super) fn validate(
    attributes: &Attributes,
    object: &Object,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    ADMITTERS.iter().try_for_each(|rule| rule.validate(attributes, object, warnings))
}

pub(super) fn charge(
    attributes: &Attributes,
    object: &Object,
    outcome: &mut Outcome,
) -> Result<(), ApiError> {
    ADMITTERS.iter().try_for_each(|rule| rule.charge(attributes, object, outcome))
}

pub(super) fn release(attributes: &Attributes, object: &Object) -> Vec<Op> {
    ADMITTERS.iter().flat_map(|rule| rule.release(attributes, object)).collect()
}

impl<'a> Attributes<'a> {
    pub fn new(
        server: &'a ApiServer,
        call: &'a Call,
        verb: Verb,
        old: Option<&'a Object>,
    ) -> Attributes<'a> {
        Attributes { server, call, verb, old }
    }

    /// Whether the call is about this resource itself, and not a subresource.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        let gvr = &self.call.info.gvr;
        gvr.group == group && gvr.resource == resource && self.call.subresource.is_empty()
    }
}
