//! The admission policies and bindings that are stored, compiled and kept in step with commits.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, ParamKind, ParamRef, RuleWithOperations, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;

use crate::api::cel::Type;
use crate::api::field::Errors;
use crate::api::kinds::admission_policy::rule_of;
use crate::api::kinds::mutating_admission_policy::{
    self as mutating, MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
};
use crate::api::kinds::validating_admission_policy::{Compiled, compile};
use crate::api::selector::Selector;
use crate::store::{Key, ReadError, SharedStore};

/// How many entries are read at a time.
const PAGE: usize = 500;

static GROUP: LazyLock<Key> = LazyLock::new(|| Key::new(&["admissionregistration.k8s.io"]));

/// A policy with the bindings that put it to work.
pub struct Active {
    pub policy: Arc<Policy>,
    pub bindings: Vec<Arc<Binding>>,
}

pub struct Policy {
    pub name: String,
    pub matcher: Matcher,
    pub param_kind: Option<ParamKind>,
    /// Whether a write goes on when an expression fails.
    pub fails_open: bool,
    pub compiled: Compiled,
}

/// A policy that changes objects, with its bindings.
pub struct ActiveMutating {
    pub policy: Arc<MutatingPolicy>,
    pub bindings: Vec<Arc<Binding>>,
}

pub struct MutatingPolicy {
    pub name: String,
    pub matcher: Matcher,
    pub param_kind: Option<ParamKind>,
    pub fails_open: bool,
    /// Whether it is asked again about what others changed after it.
    pub again: bool,
    pub compiled: mutating::Compiled,
}

pub struct Binding {
    pub name: String,
    pub policy: String,
    /// Narrows what the policy matches.
    pub matcher: Option<Matcher>,
    pub param_ref: Option<ParamRef>,
    /// Of validating policies: Deny, Warn, Audit.
    pub actions: Vec<String>,
}

/// Which requests are meant.
#[derive(Default)]
pub struct Matcher {
    pub rules: Vec<Rule>,
    pub excluded: Vec<Rule>,
    pub namespaces: Selector,
    pub objects: Selector,
    /// Other versions of a resource do not count.
    pub is_exact: bool,
}

pub struct Rule {
    pub rule: RuleWithOperations,
    /// Of objects; any if there are none.
    pub names: Vec<String>,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Policies {
    current: RwLock<Current>,
    /// Held while stored objects are read and taken in, so that an older one never comes last.
    known: Mutex<Known>,
}

/// What is bound.
#[derive(Default)]
struct Current {
    validating: Arc<Vec<Active>>,
    mutating: Arc<Vec<ActiveMutating>>,
}

/// By name, which is upstream's order.
#[derive(Default)]
struct Known {
    policies: BTreeMap<String, Arc<Policy>>,
    bindings: BTreeMap<String, Arc<Binding>>,
    mutating_policies: BTreeMap<String, Arc<MutatingPolicy>>,
    mutating_bindings: BTreeMap<String, Arc<Binding>>,
}

impl Policies {
    /// Reads everything stored. For the time before the first request.
    pub fn fill(&self, store: &SharedStore) -> Result<(), ReadError> {
        let mut known = self.known.lock();
        let mut after: Option<Key> = None;
        loop {
            let page = store.list(&GROUP, after.as_ref(), PAGE, None)?;
            for entry in &page.entries {
                known.take(&entry.key, Some(&entry.value));
            }
            match page.entries.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => break,
            }
        }
        *self.current.write() = known.current();
        Ok(())
    }

    /// Takes in what the store has at these keys now.
    pub fn refresh(&self, store: &SharedStore, keys: &[Key]) {
        let mut keys = keys.iter().filter(|key| key.starts_with(&GROUP)).peekable();
        if keys.peek().is_none() {
            return;
        }
        let mut known = self.known.lock();
        for key in keys {
            match store.get(key) {
                Ok(entry) => known.take(key, entry.as_ref().map(|entry| &*entry.value)),
                // What was known stays: to forget a policy is to let pass what it refuses.
                Err(error) => tracing::error!(%error, "an admission policy cannot be read"),
            }
        }
        *self.current.write() = known.current();
    }

    pub fn validating(&self) -> Arc<Vec<Active>> {
        self.current.read().validating.clone()
    }

    pub fn mutating(&self) -> Arc<Vec<ActiveMutating>> {
        self.current.read().mutating.clone()
    }
}

impl Known {
    fn take(&mut self, key: &Key, json: Option<&[u8]>) {
        let parts = key.parts().and_then(|parts| <[String; 4]>::try_from(parts).ok());
        let Some([_, resource, _, name]) = parts else { return };
        match resource.as_str() {
            "validatingadmissionpolicies" => {
                let policy = decoded(json).map(|stored| Arc::new(Policy::of(&name, stored)));
                put(&mut self.policies, name, policy);
            }
            "validatingadmissionpolicybindings" => {
                let binding = decoded(json).map(|stored| Arc::new(Binding::of(&name, stored)));
                put(&mut self.bindings, name, binding);
            }
            "mutatingadmissionpolicies" => {
                let policy =
                    decoded(json).map(|stored| Arc::new(MutatingPolicy::of(&name, stored)));
                put(&mut self.mutating_policies, name, policy);
            }
            "mutatingadmissionpolicybindings" => {
                let binding = decoded(json).map(|stored: MutatingAdmissionPolicyBinding| {
                    let spec = stored.spec.unwrap_or_default();
                    Arc::new(Binding {
                        name: name.clone(),
                        policy: spec.policy_name.unwrap_or_default(),
                        matcher: spec.match_resources.as_ref().map(Matcher::of),
                        param_ref: spec.param_ref,
                        actions: Vec::new(),
                    })
                });
                put(&mut self.mutating_bindings, name, binding);
            }
            _ => {}
        }
    }

    fn current(&self) -> Current {
        let bound = |bindings: &BTreeMap<String, Arc<Binding>>, name: &str| -> Vec<Arc<Binding>> {
            bindings.values().filter(|binding| binding.policy == name).cloned().collect()
        };
        let validating = self.policies.values().map(|policy| Active {
            policy: policy.clone(),
            bindings: bound(&self.bindings, &policy.name),
        });
        let mutating = self.mutating_policies.values().map(|policy| ActiveMutating {
            policy: policy.clone(),
            bindings: bound(&self.mutating_bindings, &policy.name),
        });
        let validating = validating.filter(|active| !active.bindings.is_empty()).collect();
        let mutating = mutating.filter(|active| !active.bindings.is_empty()).collect();
        Current { validating: Arc::new(validating), mutating: Arc::new(mutating) }
    }
}

fn put<T>(all: &mut BTreeMap<String, T>, name: String, one: Option<T>) {
    match one {
        Some(one) => all.insert(name, one),
        None => all.remove(&name),
    };
}

fn decoded<T: DeserializeOwned>(json: Option<&[u8]>) -> Option<T> {
    serde_json::from_slice(json?)
        .inspect_err(|error| tracing::error!(%error, "a stored admission policy is not used"))
        .ok()
}

impl Policy {
    /// One whose expressions compiled when it was written.
    fn of(name: &str, stored: ValidatingAdmissionPolicy) -> Policy {
        let spec = stored.spec.unwrap_or_default();
        let mut errors = Errors::default();
        let compiled = compile(&spec, (Type::Dyn, Type::Dyn), &mut errors);
        for error in errors.into_vec() {
            tracing::error!(policy = name, %error, "a stored expression is not evaluated");
        }
        Policy {
            name: name.into(),
            matcher: spec.match_constraints.as_ref().map(Matcher::of).unwrap_or_default(),
            param_kind: spec.param_kind,
            fails_open: spec.failure_policy.as_deref() == Some("Ignore"),
            compiled,
        }
    }
}

impl MutatingPolicy {
    fn of(name: &str, stored: MutatingAdmissionPolicy) -> MutatingPolicy {
        let spec = stored.spec.unwrap_or_default();
        let mut errors = Errors::default();
        let compiled = mutating::compile(&spec, &mut errors);
        for error in errors.into_vec() {
            tracing::error!(policy = name, %error, "a stored expression is not evaluated");
        }
        MutatingPolicy {
            name: name.into(),
            matcher: spec.match_constraints.as_ref().map(Matcher::of).unwrap_or_default(),
            param_kind: spec.param_kind,
            fails_open: spec.failure_policy.as_deref() == Some("Ignore"),
            again: spec.reinvocation_policy.as_deref() == Some("IfNeeded"),
            compiled,
        }
    }
}

impl Binding {
    fn of(name: &str, stored: ValidatingAdmissionPolicyBinding) -> Binding {
        let spec = stored.spec.unwrap_or_default();
        Binding {
            name: name.into(),
            policy: spec.policy_name.unwrap_or_default(),
            matcher: spec.match_resources.as_ref().map(Matcher::of),
            param_ref: spec.param_ref,
            actions: spec.validation_actions.unwrap_or_default(),
        }
    }
}

impl Matcher {
    pub fn of(resources: &MatchResources) -> Matcher {
        // A selector that cannot be read never passed validation; it selects nothing.
        let selector = |typed: &Option<_>| match typed {
            Some(typed) => Selector::from_typed(Some(typed)).unwrap_or(Selector::nothing()),
            None => Selector::default(),
        };
        let rules = |rules: &Option<Vec<_>>| {
            let rules = rules.iter().flatten().map(|named| Rule {
                rule: rule_of(named),
                names: named.resource_names.clone().unwrap_or_default(),
            });
            rules.collect()
        };
        Matcher {
            rules: rules(&resources.resource_rules),
            excluded: rules(&resources.exclude_resource_rules),
            namespaces: selector(&resources.namespace_selector),
            objects: selector(&resources.object_selector),
            is_exact: resources.match_policy.as_deref() == Some("Exact"),
        }
    }
}
