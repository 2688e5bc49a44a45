//! Which pods a spread constraint or an affinity term is about, and the terms that pods carry.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PodAffinityTerm;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::api::selector::{Operator, Requirement, Selector};
use crate::scheduler::budgets::Labels;

/// Which pods are counted: those that every part selects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matcher {
    pub parts: Vec<Part>,
    /// Whether pods that are leaving count: for affinity they do until they are gone, for
    /// spreading they do not.
    pub counts_ending: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    pub spaces: Spaces,
    pub selector: Selector,
}

/// The namespaces that a term is about: those of these names, and those that a selector selects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spaces {
    pub names: BTreeSet<String>,
    pub selector: Option<Selector>,
}

/// What a pod on a node means to pods that a matcher selects and that come into its domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    pub matcher: Matcher,
    /// The label of nodes whose values are the domains.
    pub key: String,
    pub effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Required anti-affinity: they must not come.
    Forbids,
    /// They are welcome by so much; below 0, they are not.
    Weighs(i32),
}

impl Spaces {
    pub fn one(name: &str) -> Spaces {
        Spaces { names: [name.to_string()].into(), selector: None }
    }

    /// `labels` are the namespace's.
    fn has(&self, name: &str, labels: &Labels) -> bool {
        self.names.contains(name) || self.selector.as_ref().is_some_and(|s| s.matches(labels))
    }
}

impl Matcher {
    /// Whether a pod counts, as far as its namespace and labels say.
    pub fn matches(&self, space: &str, space_labels: &Labels, labels: &Labels) -> bool {
        let mut parts = self.parts.iter();
        parts.all(|part| part.spaces.has(space, space_labels) && part.selector.matches(labels))
    }

    /// A label that every pod has which it selects.
    pub fn pin(&self) -> Option<(&str, &str)> {
        let requirements = self.parts.iter().flat_map(|part| part.selector.requirements());
        let mut pins = requirements.filter_map(|one| match (one.operator, &one.values[..]) {
            (Operator::Equals | Operator::In, [value]) => Some((&*one.key, &**value)),
            _ => None,
        });
        pins.next()
    }

    /// The namespaces of the pods that it can select, where they are known by name.
    pub fn names(&self) -> Option<&BTreeSet<String>> {
        let mut named = self.parts.iter().filter(|part| part.spaces.selector.is_none());
        named.next().map(|part| &part.spaces.names)
    }
}

/// A selector of an object's spec, narrowed to the pod's own values of some labels, or to other
/// values than those. Labels that the pod has not do not matter.
/// Source: KEP-3243 (matchLabelKeys), KEP-3633 (mismatchLabelKeys).
pub fn selector(
    typed: Option<&LabelSelector>,
    labels: &Labels,
    same: Option<&Vec<String>>,
    other: Option<&Vec<String>>,
) -> Selector {
    let selector = Selector::from_typed(typed).unwrap_or_else(|_| Selector::nothing());
    let narrowed = |keys: Option<&Vec<String>>, operator: Operator| {
        let keys = keys.into_iter().flatten();
        let requirements = keys.filter_map(|key| {
            let value = labels.get(key)?.clone();
            Requirement::new(key.clone(), operator, vec![value]).ok()
        });
        requirements.collect::<Vec<_>>()
    };
    let mut more = narrowed(same, Operator::In);
    more.extend(narrowed(other, Operator::NotIn));
    selector.and(more)
}

/// Which pods a term of a pod is about. Source: upstream's GetNamespacesFromPodAffinityTerm.
pub fn part(term: &PodAffinityTerm, space: &str, labels: &Labels) -> Part {
    let names = term.namespaces.as_deref().unwrap_or_default();
    let spaces = match (&term.namespace_selector, names) {
        (None, []) => Spaces::one(space),
        (typed, names) => Spaces {
            names: names.iter().cloned().collect(),
            selector: typed
                .as_ref()
                .map(|typed| Selector::try_from(typed).unwrap_or_else(|_| Selector::nothing())),
        },
    };
    let (same, other) = (term.match_label_keys.as_ref(), term.mismatch_label_keys.as_ref());
    Part { spaces, selector: selector(term.label_selector.as_ref(), labels, same, other) }
}
