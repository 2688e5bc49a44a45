//! Whether a write failed because the view is behind: then the next event mends it, and to try again
//! soon is right. A name that somebody else has is no such failure, and stays one until they go.

use super::Outcome;
use crate::api::{ApiError, ObjectKey};
use crate::client::cache::{AnyObject, View};

/// Whether the view that a plan was made on is to blame for an error. `subject` is whom the plan is
/// about.
pub(super) fn is_stale(
    error: &ApiError,
    outcomes: &[Outcome],
    subject: Option<&dyn AnyObject>,
    view: &View,
) -> bool {
    if error.is_already_exists() {
        return !outcomes.iter().any(|outcome| is_taken(outcome, subject, view));
    }
    error.is_conflict() || error.is_not_found()
}

/// Whether a creation failed because the view has its name, and not by the subject's own doing.
fn is_taken(outcome: &Outcome, subject: Option<&dyn AnyObject>, view: &View) -> bool {
    let target = &outcome.target;
    let refused = outcome.result.as_ref().is_err_and(ApiError::is_already_exists);
    let Some(name) = target.name.as_deref().filter(|_| refused) else { return false };
    let key = ObjectKey::new(target.namespace.as_deref().unwrap_or_default(), name);
    let uid = subject.and_then(|subject| subject.meta().uid.as_deref());
    view.peek(&target.resource, &key).is_some_and(|found| {
        let mut owners = found.meta().owner_references.iter().flatten();
        !owners.any(|owner| Some(owner.uid.as_str()) == uid)
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::resource::Gvr;
    use crate::client::Target;
    use crate::client::cache::Cache;
    use crate::controllers::{Action, keep_by_hand};

    fn of<T: serde::de::DeserializeOwned>(meta: Value) -> T {
        serde_json::from_value(json!({ "metadata": meta })).unwrap()
    }

    #[test]
    fn a_name_that_another_has_is_no_staleness() {
        let set: StatefulSet = of(json!({"name": "db", "namespace": "default", "uid": "set"}));
        let target = Target::one::<Pod>("default", "db-0");
        let taken = || ApiError::already_exists(&Gvr::of::<Pod>(), "db-0");
        let refused = |error| {
            [Outcome { action: Action::Create, target: target.clone(), result: Err(error) }]
        };
        let seen = |owner: Option<&str>| {
            let cache = Cache::new();
            keep_by_hand(&cache);
            let owners: Vec<Value> = owner
                .iter()
                .map(|uid| json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": uid}))
                .collect();
            let pod = json!({"name": "db-0", "namespace": "default", "uid": "p",
                "ownerReferences": owners});
            cache.replace::<Pod>(vec![of(pod)], 5);
            is_stale(&taken(), &refused(taken()), Some(&set), &cache.view())
        };
        assert!(!seen(None) && !seen(Some("other")), "somebody else's");
        assert!(seen(Some("set")), "its own, which came late");
        let cache = Cache::new();
        keep_by_hand(&cache);
        assert!(is_stale(&taken(), &refused(taken()), Some(&set), &cache.view()), "not seen yet");
        let conflict = || ApiError::conflict(&Gvr::of::<Pod>(), "db-0", "changed");
        assert!(is_stale(&conflict(), &refused(conflict()), Some(&set), &cache.view()));
    }
}
