//! What a controller wants done, and what came of it. Plain data: the driver performs it.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::api::resource::Kind;
use crate::api::{ApiError, Object, ObjectKey};
use crate::client::cache::AnyObject;
use crate::client::event::Notice;
use crate::client::{DeleteOptions, Patch, Propagation, Target};

/// What a controller wants done. Writes are performed in order of their groups; within a group
/// side by side. The first failed group ends the plan, and the key comes again after a back-off.
#[derive(Default, Debug)]
pub struct Plan {
    pub writes: Vec<Write>,
    /// Told only when every write succeeded.
    pub notices: Vec<Notice>,
    /// Look again after this time even if nothing changes.
    pub again_after: Option<Duration>,
}

/// One write. Writes with a stale precondition fail with a conflict and are planned anew.
#[derive(Debug)]
pub enum Write {
    Create {
        target: Target,
        object: Object,
    },
    /// A whole object with the resource version that it was read at.
    Update {
        target: Target,
        object: Object,
    },
    Patch {
        target: Target,
        patch: Patch,
    },
    Delete {
        target: Target,
        options: DeleteOptions,
    },
    /// A check against the live API, not a cache: no object, or one with another uid (where one is
    /// given), has this name. Fails with a conflict otherwise.
    Absent {
        target: Target,
        uid: Option<String>,
    },
    /// A check against the live API, not a cache: the object with this uid is there and is not being
    /// deleted. Fails with a conflict otherwise.
    Alive {
        target: Target,
        uid: String,
    },
    /// Deletes what a live list of a collection finds, and fails with a conflict if it found
    /// anything: success means that the collection was empty.
    DeleteAll {
        target: Target,
    },
    /// Waits for the writes before it.
    Then,
}

/// What came of one write.
#[derive(Debug)]
pub struct Outcome {
    pub action: Action,
    /// Of a creation with its name: the one that was asked for, or the server's choice if it succeeded.
    pub target: Target,
    pub result: Result<(), ApiError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create,
    Update,
    Patch,
    Delete,
    Check,
}

impl Plan {
    /// Nothing to do until something changes.
    pub fn nothing() -> Plan {
        Plan::default()
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.notices.is_empty() && self.again_after.is_none()
    }

    pub fn create<T: Kind>(&mut self, object: &T) {
        let target = Target { name: None, ..Target::of(object) };
        self.writes.push(Write::Create { target, object: Object::from_typed(object) });
    }

    /// Writes everything but the status, at the resource version that the object was read at.
    pub fn update<T: Kind>(&mut self, object: &T) {
        let object_target = Target::of(object);
        self.writes
            .push(Write::Update { target: object_target, object: Object::from_typed(object) });
    }

    /// Writes the status, at the resource version that the object was read at.
    pub fn update_status<T: Kind>(&mut self, object: &T) {
        let target = Target::of(object).subresource("status");
        self.writes.push(Write::Update { target, object: Object::from_typed(object) });
    }

    /// Deletes this very object (by uid), leaving its dependents to the garbage collector.
    pub fn delete(&mut self, object: &dyn AnyObject) {
        let options = DeleteOptions {
            uid: object.meta().uid.clone(),
            propagation_policy: Some(Propagation::Background),
            ..DeleteOptions::default()
        };
        self.writes.push(Write::Delete { target: target_of(object), options });
    }

    /// Deletes this very version of this object.
    pub fn delete_version(&mut self, object: &dyn AnyObject, propagation: Propagation) {
        let options = DeleteOptions {
            uid: object.meta().uid.clone(),
            resource_version: object.meta().resource_version.clone(),
            propagation_policy: Some(propagation),
            ..DeleteOptions::default()
        };
        self.writes.push(Write::Delete { target: target_of(object), options });
    }

    /// Deletes without a grace period: for objects that nobody can end gracefully any more.
    pub fn delete_now(&mut self, object: &dyn AnyObject) {
        let options = DeleteOptions {
            uid: object.meta().uid.clone(),
            grace_period_seconds: Some(0),
            ..DeleteOptions::default()
        };
        self.writes.push(Write::Delete { target: target_of(object), options });
    }

    /// What follows waits for what was planned so far.
    pub fn then(&mut self) {
        if !matches!(self.writes.last(), None | Some(Write::Then)) {
            self.writes.push(Write::Then);
        }
    }

    /// Looks again after `wait`, or sooner if that was asked for already.
    pub fn again_after(&mut self, wait: Duration) {
        self.again_after = Some(self.again_after.map_or(wait, |other| other.min(wait)));
    }
}

/// Sets one field of an object's metadata, at the version that was read. A patch, since the cache
/// does not keep all of every object.
pub fn patch_meta(object: &dyn AnyObject, field: &str, value: impl Serialize) -> Write {
    patch_metas(object, json!({ field: value }))
}

/// The same with several fields.
pub fn patch_metas(object: &dyn AnyObject, mut fields: Value) -> Write {
    let meta = object.meta();
    fields["uid"] = json!(meta.uid);
    fields["resourceVersion"] = json!(meta.resource_version);
    Write::Patch { target: target_of(object), patch: Patch::Merge(json!({ "metadata": fields })) }
}

/// The target of an object behind the common face.
pub fn target_of(object: &dyn AnyObject) -> Target {
    let (resource, meta) = (object.resource(), object.meta());
    let namespace = resource.namespaced.then(|| meta.namespace.clone().unwrap_or_default());
    Target { resource, namespace, name: meta.name.clone(), subresource: None }
}

impl Write {
    /// The action and the target; `None` for [`Write::Then`].
    pub fn subject(&self) -> Option<(Action, &Target)> {
        Some(match self {
            Write::Create { target, .. } => (Action::Create, target),
            Write::Update { target, .. } => (Action::Update, target),
            Write::Patch { target, .. } => (Action::Patch, target),
            Write::Delete { target, .. } | Write::DeleteAll { target } => (Action::Delete, target),
            Write::Absent { target, .. } | Write::Alive { target, .. } => (Action::Check, target),
            Write::Then => return None,
        })
    }

    /// The same, where a creation's target has the name that is asked for, if one is.
    pub fn named_subject(&self) -> Option<(Action, Target)> {
        let (action, target) = self.subject()?;
        let mut target = target.clone();
        if let Write::Create { object, .. } = self
            && target.name.is_none()
        {
            target.name = Some(object.name().to_string()).filter(|name| !name.is_empty());
        }
        Some((action, target))
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((action, target)) = self.subject() else { return f.write_str("then") };
        let verb = match action {
            Action::Create => "create",
            Action::Update => "update",
            Action::Patch => "patch",
            Action::Delete => "delete",
            Action::Check if matches!(self, Write::Alive { .. }) => "check presence of",
            Action::Check => "check absence of",
        };
        let key = ObjectKey::new(
            target.namespace.as_deref().unwrap_or_default(),
            target.name.as_deref().unwrap_or("*"),
        );
        write!(f, "{verb} {} {key}", target.resource)?;
        match &target.subresource {
            Some(subresource) => write!(f, " {subresource}"),
            None => Ok(()),
        }
    }
}
