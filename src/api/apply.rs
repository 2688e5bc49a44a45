//! Server-side apply (KEP-555): a manager says which fields it wants, the server remembers who
//! wants what (`metadata.managedFields`), refuses to take a field from another manager unless
//! forced, and removes what its manager no longer wants and nobody else owns.
//!
//! An object may have no managed fields, though upstream records them for every one: what is there
//! at its first apply belongs to `before-first-apply` then. Who records when is the caller's choice.
//! Pure: no clock, no storage.

mod managers;
mod set;
mod shape;
mod versions;
mod walk;

use serde_json::Value;

pub use managers::{Manager, Managers, Operation, Owned};
pub use set::{FieldSet, Step};
pub use shape::Shape;
pub use versions::{OneVersion, Versions};

use super::object::Object;
use managers::strip;
use versions::Write;

/// Owns what an object had before it was applied for the first time.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// What an apply comes to.
#[derive(Debug, PartialEq)]
pub struct Applied {
    pub object: Object,
    pub managers: Managers,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The configuration cannot be applied at all.
    #[error("{0}")]
    Invalid(String),
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
}

/// A field that another manager owns, with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub manager: Manager,
    pub time: String,
    /// As text: `.spec.replicas`.
    pub field: String,
}

/// Who applies or updates, and when.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    pub manager: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub subresource: &'a str,
    /// RFC 3339.
    pub time: &'a str,
}

impl Who<'_> {
    fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }

    fn manager(&self, operation: Operation) -> Manager {
        Manager {
            name: self.manager.to_string(),
            operation,
            api_version: self.api_version(),
            subresource: self.subresource.to_string(),
        }
    }
}

/// Which part of an object a write is about; the rest is nobody's by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// Everything but `status`: the kind has a status subresource.
    WithoutStatus,
    /// `status`, and metadata.
    Status,
}

impl Part {
    /// What is not of the part counts as not said.
    fn trim(self, config: &mut Object) {
        match self {
            Part::Whole => {}
            Part::WithoutStatus => {
                config.remove("status");
            }
            Part::Status => {
                let kept = ["apiVersion", "kind", "metadata", "status"];
                config.fields_mut().retain(|field, _| kept.contains(&field.as_str()));
            }
        }
    }

    fn cut(self, fields: &mut FieldSet) {
        match self {
            Part::Whole => {}
            Part::WithoutStatus => fields.remove(&[Step::field("status")]),
            Part::Status => fields.keep_only(&[Step::field("status")]),
        }
    }
}

/// Applies `config` to `live`, or makes an object of it where there is none. All of them are of the
/// version of the write, which is one of `versions`.
///
/// # Errors
/// [`ApplyError::Conflicts`] unless `force`; [`ApplyError::Invalid`] for what is no configuration.
pub fn apply(
    versions: &dyn Versions,
    live: Option<&Object>,
    config: &Object,
    part: Part,
    who: Who,
    force: bool,
) -> Result<Applied, ApplyError> {
    let shape = own_shape(versions, who);
    if config
        .meta()
        .get("managedFields")
        .is_some_and(|f| f.as_array().is_none_or(|f| !f.is_empty()))
    {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".into()));
    }
    let mut config = config.clone();
    config.meta_mut().remove("managedFields");
    part.trim(&mut config);
    let config = config.into_value();
    walk::check(&shape, &config, "", 0).map_err(ApplyError::Invalid)?;
    let mut wanted = walk::fields(&shape, &config);
    strip(&mut wanted);
    part.cut(&mut wanted);

    let manager = who.manager(Operation::Apply);
    let (before, mut managers) = match live {
        Some(live) => (plain(live), managers_of(shape, live, who)),
        None => (Value::Object(Default::default()), Managers::default()),
    };
    let last = managers.take_applier(&manager);
    let mut after = walk::merge(&shape, &before, &config);
    if let Some((by, last)) = &last {
        let mut owners = managers.clone();
        let now = Owned { fields: wanted.clone(), time: String::new() };
        owners.0.insert(manager.clone(), now);
        after = versions::prune(versions, &manager.api_version, after, (by, last), &owners);
    }
    let changes = walk::compare(&shape, &before, &after);
    let write = Write {
        versions,
        api_version: &manager.api_version,
        before: &before,
        after: &after,
        changes: &changes,
        cut: &|_| {},
    };
    let conflicts = write.conflicts(&managers);
    if !conflicts.is_empty() && !force {
        return Err(ApplyError::Conflicts(conflicts));
    }
    write.take_away(&mut managers, None);
    let same = |by: &Manager, last: &Owned| *by == manager && last.fields == wanted;
    let unchanged = changes.is_empty() && last.as_ref().is_some_and(|(by, last)| same(by, last));
    let time = match last.filter(|_| unchanged) {
        Some((_, last)) => last.time,
        None => who.time.to_string(),
    };
    if !wanted.is_empty() {
        managers.0.insert(manager, Owned { fields: wanted, time });
    }
    let object = Object::from_value(after)
        .map_err(|_| ApplyError::Invalid("the configuration is no object".into()))?;
    Ok(Applied { object, managers })
}

/// Merges a configuration that nobody owns into an object: what admission policies make.
///
/// # Errors
/// Elements without their keys, or twice; parts that are one value, of which the configuration
/// would take away what it leaves out.
pub fn merge_config(shape: Shape, live: &Object, config: Value) -> Result<Object, String> {
    walk::check(&shape, &config, "", 0)?;
    let mut atomic = Vec::new();
    walk::atomics(&shape, &config, "", &mut atomic);
    if !atomic.is_empty() {
        let places = atomic.join(", ");
        return Err(format!("may not mutate atomic arrays, maps or structs: {places}"));
    }
    let merged = walk::merge(&shape, &live.clone().into_value(), &config);
    Object::from_value(merged).map_err(|error| error.to_string())
}

/// The managers after another write than apply changed `old` into `new`. What changed belongs to
/// whoever wrote.
pub fn update(
    versions: &dyn Versions,
    managers: &Managers,
    old: &Object,
    new: &Object,
    part: Part,
    who: Who,
) -> Managers {
    let shape = own_shape(versions, who);
    let (before, after) = (plain(old), plain(new));
    let changes = walk::compare(&shape, &before, &after);
    let cut = |fields: &mut FieldSet| {
        strip(fields);
        part.cut(fields);
    };
    let mut changed = changes.modified.clone().union(&changes.added);
    let mut removed = changes.removed.clone();
    cut(&mut changed);
    cut(&mut removed);
    if changed.is_empty() && removed.is_empty() {
        return managers.clone();
    }
    let manager = who.manager(Operation::Update);
    let mut managers = managers.clone();
    let write = Write {
        versions,
        api_version: &manager.api_version,
        before: &before,
        after: &after,
        changes: &changes,
        cut: &cut,
    };
    write.take_away(&mut managers, Some(&manager));
    if !changed.is_empty() {
        let time = who.time.to_string();
        let owned = managers
            .0
            .entry(manager)
            .or_insert_with(|| Owned { fields: FieldSet::default(), time: time.clone() });
        owned.fields = std::mem::take(&mut owned.fields).union(&changed);
        owned.time = time;
    }
    managers.cap();
    managers
}

/// How values merge in the version of a write.
fn own_shape<'a>(versions: &'a dyn Versions, who: Who) -> Shape<'a> {
    versions.shape(&who.api_version()).unwrap_or(Shape::Deduced)
}

/// The object without its managed fields.
fn plain(object: &Object) -> Value {
    let mut object = object.clone();
    object.meta_mut().remove("managedFields");
    object.into_value()
}

/// The managers that an object tells of. One that was never applied belongs to a manager of its
/// own, in whole.
fn managers_of(shape: Shape, live: &Object, who: Who) -> Managers {
    let told = live.meta().get("managedFields").and_then(Managers::read);
    if let Some(managers) = told.filter(|managers| !managers.0.is_empty()) {
        return managers;
    }
    let mut fields = walk::fields(&shape, &plain(live));
    strip(&mut fields);
    let manager = Manager {
        name: BEFORE_FIRST_APPLY.into(),
        operation: Operation::Update,
        api_version: who.api_version(),
        subresource: String::new(),
    };
    Managers([(manager, Owned { fields, time: who.time.to_string() })].into())
}

impl Conflict {
    /// `conflict with "m"`, as a cause's message begins; of an updater also with what and when.
    pub fn message(&self) -> String {
        let manager = &self.manager;
        let mut text = format!("conflict with {:?}", manager.name);
        if !manager.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", manager.subresource));
        }
        if manager.operation == Operation::Update {
            text.push_str(&format!(" using {} at {}", manager.api_version, self.time));
        }
        text
    }
}

/// The text of upstream's conflict error (structured-merge-diff merge/conflict.go).
fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: {}: {}", only.message(), only.field);
    }
    let mut text = format!("Apply failed with {} conflicts:", conflicts.len());
    let mut last = None;
    for conflict in conflicts {
        let message = conflict.message();
        if last.as_ref() != Some(&message) {
            let title = message.replacen("conflict with", "conflicts with", 1);
            text.push_str(if last.is_none() { " " } else { "\n" });
            text.push_str(&format!("{title}:"));
            last = Some(message);
        }
        text.push_str(&format!("\n- {}", conflict.field));
    }
    text
}

#[cfg(test)]
mod properties;
#[cfg(test)]
#[path = "apply/tests.rs"]
mod tests;
