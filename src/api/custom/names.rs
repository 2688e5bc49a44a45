//! What a definition's status says: whether its names are its own, whether it is served, which
//! versions are in the store
//! (k8s.io/apiextensions-apiserver/pkg/controller/status and establish).

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as ext;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::registry::Registry;

const ACCEPTED: &str = "NamesAccepted";
const ESTABLISHED: &str = "Established";
const TERMINATING: &str = "Terminating";

/// Whether a condition of a definition is true.
fn is_true(definition: &ext::CustomResourceDefinition, kind: &str) -> bool {
    let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether the kind is served.
pub fn is_established(definition: &ext::CustomResourceDefinition) -> bool {
    is_true(definition, ESTABLISHED)
}

/// The resources and kinds of a group that are taken.
#[derive(Default)]
struct Taken {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Taken {
    fn add(&mut self, names: &ext::CustomResourceDefinitionNames) {
        let short = names.short_names.iter().flatten();
        let words = [&names.plural].into_iter().chain(&names.singular).chain(short);
        self.resources.extend(words.filter(|word| !word.is_empty()).cloned());
        let kinds = [&names.kind].into_iter().chain(&names.list_kind);
        self.kinds.extend(kinds.filter(|word| !word.is_empty()).cloned());
    }
}

/// Sets the status of the definition at `index` as the others, and the built-in kinds, leave it.
pub fn decide(
    definitions: &mut [ext::CustomResourceDefinition],
    index: usize,
    builtin: &Registry,
    now: Timestamp,
) {
    let taken = taken(definitions, index, builtin);
    let definition = &mut definitions[index];
    let (accepted, conflict) = accept(definition, &taken);
    let established = is_established(definition);
    let terminating = definition.metadata.deletion_timestamp.is_some();
    let stored = definition.spec.versions.iter().find(|version| version.storage);
    let stored = stored.map(|version| version.name.clone());
    let status = definition.status.get_or_insert_default();
    status.accepted_names = Some(accepted);
    let versions = status.stored_versions.get_or_insert_default();
    if let Some(stored) = stored.filter(|stored| !versions.contains(stored)) {
        versions.push(stored);
    }
    let mut set = |kind, is, reason: &str, message: &str| {
        condition(status.conditions.get_or_insert_default(), kind, is, reason, message, now);
    };
    match &conflict {
        None => set(ACCEPTED, true, "NoConflicts", "no conflicts found"),
        Some((reason, message)) => set(ACCEPTED, false, reason, message),
    }
    // Who is served once is served on.
    if conflict.is_none() || established {
        let message = "the initial names have been accepted";
        set(ESTABLISHED, true, "InitialNamesAccepted", message);
    } else {
        set(ESTABLISHED, false, "NotAccepted", "not all names are accepted");
    }
    if terminating {
        let message = "CustomResource deletion is in progress";
        set(TERMINATING, true, "InstanceDeletionInProgress", message);
    }
}

fn taken(definitions: &[ext::CustomResourceDefinition], index: usize, builtin: &Registry) -> Taken {
    let group = &definitions[index].spec.group;
    let mut taken = Taken::default();
    let others = definitions.iter().enumerate().filter(|(other, _)| *other != index);
    for (_, other) in others.filter(|(_, other)| other.spec.group == *group) {
        if let Some(names) = other.status.as_ref().and_then(|s| s.accepted_names.as_ref()) {
            taken.add(names);
        }
    }
    let rows = builtin.rows().iter().filter(|row| row.custom.is_none() && row.gvr.group == *group);
    for row in rows {
        taken.resources.insert(row.gvr.resource.to_string());
        taken.resources.insert(row.singular.to_string());
        taken.resources.extend(row.short_names.iter().map(ToString::to_string));
        taken.kinds.extend([row.kind.to_string(), row.list_kind.to_string()]);
    }
    taken
}

/// The names that a definition has from now on, and what is in the way of the others: reason and
/// message.
fn accept(
    definition: &ext::CustomResourceDefinition,
    taken: &Taken,
) -> (ext::CustomResourceDefinitionNames, Option<(&'static str, String)>) {
    let wanted = &definition.spec.names;
    let before = definition.status.as_ref().and_then(|status| status.accepted_names.clone());
    let mut accepted = before.unwrap_or_default();
    let mut conflict = None;
    let mut refuse = |reason: &'static str, word: &str| {
        conflict.get_or_insert_with(|| (reason, format!("{word:?} is already in use")));
    };
    let free = |word: &str| word.is_empty() || !taken.resources.contains(word);
    let free_kind = |word: &str| word.is_empty() || !taken.kinds.contains(word);
    if free(&wanted.plural) {
        accepted.plural = wanted.plural.clone();
    } else {
        refuse("PluralConflict", &wanted.plural);
    }
    match wanted.singular.as_deref().unwrap_or_default() {
        word if free(word) => accepted.singular = wanted.singular.clone(),
        word => refuse("SingularConflict", word),
    }
    let short = wanted.short_names.iter().flatten().find(|word| !free(word));
    match short {
        None => accepted.short_names = wanted.short_names.clone(),
        Some(word) => refuse("ShortNamesConflict", word),
    }
    if free_kind(&wanted.kind) {
        accepted.kind = wanted.kind.clone();
    } else {
        refuse("KindConflict", &wanted.kind);
    }
    match wanted.list_kind.as_deref().unwrap_or_default() {
        word if free_kind(word) => accepted.list_kind = wanted.list_kind.clone(),
        word => refuse("ListKindConflict", word),
    }
    accepted.categories = wanted.categories.clone();
    (accepted, conflict)
}

fn condition(
    conditions: &mut Vec<ext::CustomResourceDefinitionCondition>,
    kind: &str,
    is: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let status = if is { "True" } else { "False" };
    let old = conditions.iter().position(|old| old.type_ == kind);
    let since = old.map(|at| &conditions[at]).filter(|old| old.status == status);
    let new = ext::CustomResourceDefinitionCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: since
            .and_then(|old| old.last_transition_time.clone())
            .or(Some(Time(now))),
        observed_generation: since.and_then(|old| old.observed_generation),
    };
    match old {
        Some(at) => conditions[at] = new,
        None => conditions.push(new),
    }
}
