//! MutatingAdmissionPolicy and its binding (admissionregistration.k8s.io/v1, since Kubernetes 1.36).
//! The types are written out here: those of k8s-openapi's version have them in v1beta1 only. How
//! policies are asked is in `apiserver/admission`.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, ParamKind, ParamRef, Variable,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::admission_policy::{self as policy, Source};
use super::admission_policy_binding::{self as binding, Bound};
use super::checks;
use crate::api::cel::types::Struct;
use crate::api::cel::{Program, Type};
use crate::api::field::{Errors, Path};
use crate::api::resource::{Kind, KindMeta};
use crate::api::table::{self, Column};

const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const PATCH_TYPES: &[&str] = &["ApplyConfiguration", "JSONPatch"];

/// A field that is `null` is as if it were not there.
fn null_as_unset<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A policy whose expressions change objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy")]
pub struct MutatingAdmissionPolicy {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, deserialize_with = "null_as_unset")]
    pub metadata: ObjectMeta,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<MutatingAdmissionPolicySpec>,
}

/// What the policy is about and what it changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicySpec")]
pub struct MutatingAdmissionPolicySpec {
    /// The kind of the parameters that bindings may give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param_kind: Option<ParamKind>,
    /// Which requests the policy is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_constraints: Option<MatchResources>,
    /// Expressions that the others may use as `variables.<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variables: Option<Vec<Variable>>,
    /// What changes, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutations: Option<Vec<Mutation>>,
    /// Fail or Ignore: whether a write goes on when an expression fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_policy: Option<String>,
    /// Conditions in CEL that must all hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_conditions: Option<Vec<MatchCondition>>,
    /// IfNeeded or Never: whether the policy is asked again when the object changed after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reinvocation_policy: Option<String>,
}

/// One change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.api.admissionregistration.v1.Mutation")]
pub struct Mutation {
    /// ApplyConfiguration or JSONPatch.
    #[serde(default, deserialize_with = "null_as_unset")]
    pub patch_type: String,
    /// The change where the type is ApplyConfiguration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply_configuration: Option<ApplyConfiguration>,
    /// The change where the type is JSONPatch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_patch: Option<JsonPatch>,
}

/// Fields that are merged into the object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "io.k8s.api.admissionregistration.v1.ApplyConfiguration")]
pub struct ApplyConfiguration {
    /// In CEL; makes an `Object{…}`.
    #[serde(default, deserialize_with = "null_as_unset")]
    pub expression: String,
}

/// A patch of RFC 6902.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "io.k8s.api.admissionregistration.v1.JSONPatch")]
pub struct JsonPatch {
    /// In CEL; makes a list of `JSONPatch{…}`.
    #[serde(default, deserialize_with = "null_as_unset")]
    pub expression: String,
}

/// Puts a policy to work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding")]
pub struct MutatingAdmissionPolicyBinding {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, deserialize_with = "null_as_unset")]
    pub metadata: ObjectMeta,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<MutatingAdmissionPolicyBindingSpec>,
}

/// Which policy is bound, for what, and with which parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBindingSpec")]
pub struct MutatingAdmissionPolicyBindingSpec {
    /// The name of the policy; a binding to one that is not there does nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_name: Option<String>,
    /// Which objects are the policy's parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param_ref: Option<ParamRef>,
    /// Narrows what the policy matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_resources: Option<MatchResources>,
}

macro_rules! resource {
    ($type:ident, $plural:literal, $list:literal) => {
        impl k8s_openapi::Resource for $type {
            const API_VERSION: &'static str = "admissionregistration.k8s.io/v1";
            const GROUP: &'static str = "admissionregistration.k8s.io";
            const KIND: &'static str = stringify!($type);
            const VERSION: &'static str = "v1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::ClusterResourceScope;
        }

        impl k8s_openapi::ListableResource for $type {
            const LIST_KIND: &'static str = $list;
        }

        impl k8s_openapi::Metadata for $type {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(MutatingAdmissionPolicy, "mutatingadmissionpolicies", "MutatingAdmissionPolicyList");
resource!(
    MutatingAdmissionPolicyBinding,
    "mutatingadmissionpolicybindings",
    "MutatingAdmissionPolicyBindingList"
);

/// A policy that is ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    pub shared: policy::Compiled,
    pub mutations: Vec<Change>,
}

#[derive(Clone, Debug)]
pub enum Change {
    Apply(Program),
    Patch(Program),
}

/// Compiles a policy's expressions, and tells what is wrong with them.
pub fn compile(spec: &MutatingAdmissionPolicySpec, errors: &mut Errors) -> Compiled {
    let path = Path::new("spec");
    let source = Source {
        has_params: spec.param_kind.is_some(),
        conditions: spec.match_conditions.as_deref().unwrap_or_default(),
        variables: spec.variables.as_deref().unwrap_or_default(),
        makes_objects: true,
        object: Type::Dyn,
        params: Type::Dyn,
    };
    let shared = policy::compile(&source, &path, errors);
    let mut compiled = Compiled { shared, ..Compiled::default() };
    let at = path.child("mutations");
    for (index, mutation) in spec.mutations.iter().flatten().enumerate() {
        let change = change(mutation, &compiled.shared, &at.index(index), errors);
        compiled.mutations.extend(change);
    }
    compiled
}

fn change(
    mutation: &Mutation,
    shared: &policy::Compiled,
    at: &Path,
    errors: &mut Errors,
) -> Option<Change> {
    let kind = mutation.patch_type.as_str();
    checks::one_of(errors, &at.child("patchType"), kind, PATCH_TYPES);
    let apply = mutation.apply_configuration.as_ref().map(|apply| apply.expression.as_str());
    let patch = mutation.json_patch.as_ref().map(|patch| patch.expression.as_str());
    let (own, other, field, other_field) = match kind {
        "ApplyConfiguration" => (apply, patch, "applyConfiguration", "jsonPatch"),
        "JSONPatch" => (patch, apply, "jsonPatch", "applyConfiguration"),
        _ => return None,
    };
    if other.is_some() {
        let detail = format!("must not be specified when patchType is {kind}");
        errors.invalid(&at.child(other_field), Value::Null, &detail);
    }
    let at = at.child(field);
    let Some(expression) = own else {
        errors.required(&at, &format!("must be specified when patchType is {kind}"));
        return None;
    };
    let at = at.child("expression");
    if expression.trim().is_empty() {
        errors.required(&at, "expression is not specified");
        return None;
    }
    let wanted = match kind {
        "JSONPatch" => Type::list(Struct::of("JSONPatch", &[])),
        _ => Struct::of("Object", &[]),
    };
    let program = policy::compile_as(expression, &shared.env, &[wanted], &at, errors)?;
    Some(match kind {
        "JSONPatch" => Change::Patch(program),
        _ => Change::Apply(program),
    })
}

impl Kind for MutatingAdmissionPolicy {
    const META: KindMeta = KindMeta { singular: "mutatingadmissionpolicy", ..policy::META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let Some(spec) = &mut self.spec else { return };
        policy::set_policy_defaults(&mut spec.failure_policy, spec.match_constraints.as_mut());
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let spec = self.spec.clone().unwrap_or_default();
        let failure = spec.failure_policy.as_deref();
        let (params, matches) = (spec.param_kind.as_ref(), spec.match_constraints.as_ref());
        policy::validate_policy(errors, failure, params, matches);
        let again = spec.reinvocation_policy.as_deref().unwrap_or_default();
        checks::one_of(errors, &path.child("reinvocationPolicy"), again, REINVOCATION_POLICIES);
        if spec.mutations.iter().flatten().next().is_none() {
            let detail = "mutations must contain at least one item";
            errors.required(&path.child("mutations"), detail);
        }
        compile(&spec, errors);
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Mutations", "integer", "How many changes the policy makes."),
            Column::new("ParamKind", "string", "The kind of the policy's parameters."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.as_ref();
        let count = spec.and_then(|spec| spec.mutations.as_ref()).map_or(0, Vec::len);
        let kind = spec.and_then(|spec| spec.param_kind.as_ref());
        vec![
            table::name(&self.metadata),
            count.into(),
            policy::param_kind_text(kind).into(),
            table::age(&self.metadata, now),
        ]
    }
}

impl Kind for MutatingAdmissionPolicyBinding {
    const META: KindMeta = KindMeta { singular: "mutatingadmissionpolicybinding", ..policy::META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.as_mut();
        if let Some(resources) = spec.and_then(|spec| spec.match_resources.as_mut()) {
            policy::set_match_defaults(resources);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        binding::validate(errors, bound(self));
    }

    fn columns() -> &'static [Column] {
        binding::COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        binding::row(&self.metadata, bound(self), now)
    }
}

fn bound(object: &MutatingAdmissionPolicyBinding) -> Bound<'_> {
    object.spec.as_ref().map_or_else(Bound::default, |spec| Bound {
        policy: spec.policy_name.as_deref().unwrap_or_default(),
        params: spec.param_ref.as_ref(),
        resources: spec.match_resources.as_ref(),
    })
}
