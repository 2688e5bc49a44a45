//! Namespace: empties a namespace that is being deleted, pods first, then lets it go.
//!
//! ```text
//!   Terminating ─▶ delete pods ─▶ all gone ─▶ delete the rest ─▶ live lists are empty ─▶ finalize
//!                     (conditions tell what remains, and why)
//! ```
//!
//! Pods go before what they use (KEP-5080, ordered namespace deletion). What the cache keeps is
//! deleted from its view; at the end a live list of every namespaced resource deletes what the
//! cache does not keep or has not seen, and proves that nothing is left.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::Write;
use super::{Action, Controller, Options, Outcome, Plan, Resources};
use crate::api::resource::Gvr;
use crate::api::{ApiError, Object, ObjectKey};
use crate::client::Target;
use crate::client::cache::{AnyObject, Changed, View};

/// The finalizer that this controller takes away.
const FINALIZER: &str = "kubernetes";
/// Objects deleted by one plan.
const BURST_OBJECTS: usize = 500;
/// Remaining objects are looked at again this often, beside their changes.
const AGAIN: Duration = Duration::from_secs(15);

pub struct NamespaceController {
    namespaced: Resources,
}

impl NamespaceController {
    pub fn new(options: &Options) -> NamespaceController {
        NamespaceController { namespaced: options.namespaced.clone() }
    }
}

pub fn is_terminating(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

/// Whether a namespace is on its way out: what is created there is refused.
pub fn is_ending(view: &View, namespace: &str) -> bool {
    view.get::<Namespace>("", namespace).is_some_and(|found| is_terminating(found))
}

/// Whether a creation was refused because its namespace is on its way out: nothing to tell anyone,
/// and nothing that another try could mend.
pub fn is_refusal_of_ending(error: &ApiError) -> bool {
    let causes = error.details.iter().flat_map(|details| details.causes.iter());
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<Namespace>() {
            return vec![change.key.clone()];
        }
        let namespace = change.key.namespace.as_str();
        if namespace.is_empty() {
            return Vec::new();
        }
        let key = ObjectKey::new("", namespace);
        let waits = is_ending(view, namespace);
        waits.then_some(key).into_iter().collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Namespace>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(namespace) = view.get_key::<Namespace>(key) else { return plan };
        let finalizers = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
        if !is_terminating(namespace) || !finalizers.clone().any(|name| name == FINALIZER) {
            return plan;
        }
        let contents = view.contents(&key.name);
        if contents.is_empty() {
            self.finish(namespace, &mut plan);
            return plan;
        }
        let pods = Gvr::of::<Pod>();
        let has_pods = contents.iter().any(|object| object.resource() == pods);
        let due = contents.iter().filter(|object| !has_pods || object.resource() == pods);
        let alive = due.filter(|object| object.meta().deletion_timestamp.is_none());
        for object in alive.take(BURST_OBJECTS) {
            plan.delete(&**object);
        }
        let remaining: Vec<&dyn AnyObject> = contents.iter().map(|object| &**object).collect();
        tell(namespace, &remaining, now, &mut plan);
        plan.again_after(AGAIN);
        plan
    }

    /// Tells of what could not be deleted, and that it could later.
    fn settle(&self, view: &View, key: &ObjectKey, outcomes: &[Outcome], now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(namespace) = view.get_key::<Namespace>(key) else { return plan };
        let deletions = outcomes.iter().filter(|one| one.action == Action::Delete);
        // One error for each resource, as upstream has it, so that the message stays short.
        let failed: BTreeMap<String, &ApiError> = deletions
            .filter_map(|one| {
                let error = one.result.as_ref().err().filter(|error| !error.is_conflict())?;
                Some((one.target.resource.qualified(), error))
            })
            .collect();
        let message = (!failed.is_empty()).then(|| {
            let list = failed.iter().map(|(resource, error)| format!("{resource}: {error}"));
            let (count, list) = (failed.len(), list.collect::<Vec<_>>().join(", "));
            format!("Failed to delete all resource types, {count} remaining: {list}")
        });
        let was = status_of(namespace, CONTENT_FAILURE.0) == Some("True");
        if message.is_some() || was {
            let told = condition(CONTENT_FAILURE, message, CONTENT_DELETED);
            set_conditions(namespace, [told], now, &mut plan);
        }
        plan
    }
}

/// Type, reason while true, reason while false.
const CONTENT_FAILURE: (&str, &str, &str) =
    ("NamespaceDeletionContentFailure", "ContentDeletionFailed", "ContentDeleted");
const CONTENT_DELETED: &str = "All content successfully deleted, may be waiting on finalization";

fn status_of<'a>(namespace: &'a Namespace, kind: &str) -> Option<&'a str> {
    let conditions = namespace.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == kind).map(|one| one.status.as_str())
}

impl NamespaceController {
    /// Nothing is seen any more: prove it, and take the finalizer away.
    fn finish(&self, namespace: &Namespace, plan: &mut Plan) {
        for resource in (self.namespaced)() {
            let target = Target {
                resource,
                namespace: namespace.metadata.name.clone(),
                name: None,
                subresource: None,
            };
            plan.writes.push(Write::DeleteAll { target });
        }
        plan.then();
        let mut changed = namespace.clone();
        if let Some(finalizers) = changed.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|name| name != FINALIZER);
        }
        let target = Target::of(&changed).subresource("finalize");
        plan.writes.push(Write::Update { target, object: Object::from_typed(&changed) });
    }
}

/// The conditions about what remains.
fn tell(namespace: &Namespace, remaining: &[&dyn AnyObject], now: Timestamp, plan: &mut Plan) {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for object in remaining {
        let resource = object.resource();
        // Upstream's words, with the dot also where there is no group.
        let qualified = format!("{}.{}", resource.resource, resource.group);
        *kinds.entry(qualified).or_default() += 1;
        for finalizer in object.meta().finalizers.iter().flatten() {
            *finalizers.entry(finalizer).or_default() += 1;
        }
    }
    let list = |counts: Vec<String>| counts.join(", ");
    let kinds =
        list(kinds.iter().map(|(k, n)| format!("{k} has {n} resource instances")).collect());
    let held = finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances"));
    let held = list(held.collect());
    let content = ("NamespaceContentRemaining", "SomeResourcesRemain", "ContentRemoved");
    let finalizing =
        ("NamespaceFinalizersRemaining", "SomeFinalizersRemain", "ContentHasNoFinalizers");
    // What failed stays told until deletions succeed: see `settle`.
    let failure = match status_of(namespace, CONTENT_FAILURE.0) {
        Some(_) => None,
        None => Some(condition(CONTENT_FAILURE, None, CONTENT_DELETED)),
    };
    // The registry is in the process, so that it can always be asked and understood.
    let told = [
        condition(
            ("NamespaceDeletionDiscoveryFailure", "DiscoveryFailed", "ResourcesDiscovered"),
            None,
            "All resources successfully discovered",
        ),
        condition(
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                "GroupVersionParsingFailed",
                "ParsedGroupVersions",
            ),
            None,
            "All legacy kube types successfully parsed",
        ),
        condition(
            content,
            (!kinds.is_empty()).then(|| format!("Some resources are remaining: {kinds}")),
            "All content successfully removed",
        ),
        condition(
            finalizing,
            (!held.is_empty())
                .then(|| format!("Some content in the namespace has finalizers remaining: {held}")),
            "All content-preserving finalizers finished",
        ),
    ];
    let [discovery, parsing, content, finalizing] = told;
    let told = [discovery, parsing].into_iter().chain(failure).chain([content, finalizing]);
    set_conditions(namespace, told, now, plan);
}

fn set_conditions(
    namespace: &Namespace,
    told: impl IntoIterator<Item = NamespaceCondition>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let mut changed = namespace.clone();
    let status = changed.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    for mut new in told {
        match conditions.iter_mut().find(|old| old.type_ == new.type_) {
            Some(old) => {
                let same = old.status == new.status;
                let since = old.last_transition_time.clone().filter(|_| same);
                new.last_transition_time = since.or(Some(Time(now)));
                *old = new;
            }
            None => {
                new.last_transition_time = Some(Time(now));
                conditions.push(new);
            }
        }
    }
    if changed.status != namespace.status {
        plan.update_status(&changed);
    }
}

/// A condition (type, reason while true, reason while false), true with the message given.
fn condition(
    (kind, bad, good): (&str, &str, &str),
    message: Option<String>,
    fine: &str,
) -> NamespaceCondition {
    let is_true = message.is_some();
    NamespaceCondition {
        type_: kind.into(),
        status: if is_true { "True" } else { "False" }.into(),
        reason: Some(if is_true { bad } else { good }.into()),
        message: Some(message.unwrap_or_else(|| fine.into())),
        last_transition_time: None,
    }
}
