//! Managers that wrote an object in another version of its kind. What they own is told in that
//! version's fields, so what a write changes is compared, and taken away, in each version
//! (structured-merge-diff merge/update.go).

use serde_json::Value;

use super::managers::{Managers, Operation};
use super::set::FieldSet;
use super::shape::Shape;
use super::walk::{self, Changes};
use super::{Conflict, Manager, Owned};
use crate::api::object::Object;

/// The versions of an object's kind, the one of the write among them.
pub trait Versions {
    /// How values of a version merge; `None` for a version that is not served.
    fn shape(&self, api_version: &str) -> Option<Shape<'_>>;

    /// The object in another version.
    fn convert(&self, object: Object, api_version: &str) -> Object;
}

/// A kind of one version.
pub struct OneVersion<'a>(pub Shape<'a>);

impl Versions for OneVersion<'_> {
    fn shape(&self, _: &str) -> Option<Shape<'_>> {
        Some(self.0)
    }

    fn convert(&self, object: Object, _: &str) -> Object {
        object
    }
}

/// A write, in the version that it was made in.
pub(super) struct Write<'a> {
    pub versions: &'a dyn Versions,
    pub api_version: &'a str,
    pub before: &'a Value,
    pub after: &'a Value,
    /// What it changed in its own version.
    pub changes: &'a Changes,
    /// Fields that such a write leaves to their owners.
    pub cut: &'a dyn Fn(&mut FieldSet),
}

impl Write<'_> {
    /// What the write changed as another version tells it: fields with another value, fields that
    /// are gone. `None` for a version that is not served any more.
    fn told_in(&self, api_version: &str) -> Option<(FieldSet, FieldSet)> {
        if api_version == self.api_version {
            let Changes { added, modified, removed } = self.changes;
            return Some((self.cut(modified.clone().union(added)), self.cut(removed.clone())));
        }
        let shape = self.versions.shape(api_version)?;
        let before = converted(self.versions, self.before, api_version);
        let after = converted(self.versions, self.after, api_version);
        let Changes { added, modified, removed } = walk::compare(&shape, &before, &after);
        Some((self.cut(modified.union(&added)), self.cut(removed)))
    }

    fn cut(&self, mut fields: FieldSet) -> FieldSet {
        (self.cut)(&mut fields);
        fields
    }

    /// What others own of the fields that have another value now.
    pub fn conflicts(&self, managers: &Managers) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for (manager, owned) in &managers.0 {
            let Some((changed, _)) = self.told_in(&manager.api_version) else { continue };
            for field in owned.fields.intersection(&changed).paths() {
                let (manager, time) = (manager.clone(), owned.time.clone());
                conflicts.push(Conflict { manager, time, field });
            }
        }
        conflicts
    }

    /// Takes away what managers do not own any more: all but `writer` what was changed, each what is
    /// gone. Who wrote in a version that is gone owns nothing.
    pub fn take_away(&self, managers: &mut Managers, writer: Option<&Manager>) {
        managers.0.retain(|manager, owned| {
            let Some((changed, gone)) = self.told_in(&manager.api_version) else { return false };
            if writer != Some(manager) {
                owned.fields = owned.fields.difference(&changed);
            }
            owned.fields = owned.fields.difference(&gone);
            !owned.fields.is_empty()
        });
    }
}

/// Takes out of `value` what an applier wanted last and wants no more, where nobody else owns it.
/// `managers` are all others, and the applier with what it wants now.
pub(super) fn prune(
    versions: &dyn Versions,
    api_version: &str,
    value: Value,
    last: (&Manager, &Owned),
    managers: &Managers,
) -> Value {
    let version = last.0.api_version.as_str();
    let Some(shape) = versions.shape(version) else { return value };
    let whole = converted(versions, &value, version);
    let mut pruned = whole.clone();
    let owned_in = |version: &str| {
        let owners = managers.0.iter().filter(|(manager, _)| manager.api_version == version);
        owners.fold(FieldSet::default(), |all, (_, owned)| all.union(&owned.fields))
    };
    walk::prune(&shape, &mut pruned, &last.1.fields, &owned_in(version));
    // What owners in other versions lost comes back.
    let mut others: Vec<&str> = managers.0.keys().map(|m| m.api_version.as_str()).collect();
    others.sort_unstable();
    others.dedup();
    let mut current = version;
    for other in others.into_iter().filter(|other| *other != version) {
        let Some(shape) = versions.shape(other) else { continue };
        let mut whole = converted(versions, &value, other);
        let left = converted(versions, &pruned, other);
        let lost = walk::fields(&shape, &whole).difference(&walk::fields(&shape, &left));
        walk::prune(&shape, &mut whole, &lost, &owned_in(other));
        (pruned, current) = (whole, other);
    }
    if current == api_version { pruned } else { converted(versions, &pruned, api_version) }
}

/// A value in another version; what is no object stays as it is.
fn converted(versions: &dyn Versions, value: &Value, api_version: &str) -> Value {
    match Object::from_value(value.clone()) {
        Ok(object) if object.api_version() != api_version => {
            versions.convert(object, api_version).into_value()
        }
        _ => value.clone(),
    }
}

impl Managers {
    /// Takes an applier's entry out. It has one, whatever version it applied in last.
    pub(super) fn take_applier(&mut self, applier: &Manager) -> Option<(Manager, Owned)> {
        let same = |manager: &&Manager| {
            manager.operation == Operation::Apply
                && (&manager.name, &manager.subresource) == (&applier.name, &applier.subresource)
        };
        let found = self.0.keys().find(same)?.clone();
        self.0.remove_entry(&found)
    }
}
