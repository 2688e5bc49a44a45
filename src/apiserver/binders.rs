//! Two schedulers never fill one place twice: who binds with a precondition ([`crate::api::kinds::binders`])
//! gives a node a pod only if it knew, when it decided, of all pods that others gave that node.
//!
//! For each node it is known who bound to it last, and as of which revision that was visible. What
//! one binder does itself it knows; so only another one's bindings are compared. Binders without the
//! precondition (kubectl, other schedulers) are refused nothing, and count as others.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::api::Object;
use crate::api::kinds::binders::{BINDER, SEEN_PODS};

/// Nodes that are kept in mind; beyond that all that are at rest are forgotten, and what is older
/// than that moment counts as another's. Some megabytes.
const MOST_NODES: usize = 100_000;

/// See the module's documentation.
#[derive(Default)]
pub struct Binders(Mutex<Table>);

#[derive(Default)]
struct Table {
    nodes: HashMap<String, Last>,
    /// As of which revision bindings may have happened that are not in the table.
    floor: u64,
}

/// The last to bind to a node.
struct Last {
    /// Empty without a precondition.
    binder: String,
    /// As of which revision it is visible.
    revision: u64,
    under_way: usize,
}

/// A binding that is under way.
pub struct Turn<'a> {
    binders: &'a Binders,
    node: String,
}

/// Who binds, and what it says to know; empty and `None` without the precondition.
fn claim(binding: &Object) -> (String, Option<u64>) {
    let mut annotations = binding.annotations();
    let seen = annotations.remove(SEEN_PODS).and_then(|text| text.parse().ok());
    let binder = annotations.remove(BINDER).filter(|name| seen.is_some() && !name.is_empty());
    let seen = seen.filter(|_| binder.is_some());
    (binder.unwrap_or_default(), seen)
}

impl Binders {
    /// For the time before the first request: what is stored already may be anybody's.
    pub fn begin(&self, revision: u64) {
        self.0.lock().floor = revision;
    }

    /// Begins a binding; `now` is the store's revision.
    ///
    /// # Errors
    /// When its precondition does not hold: the text says so.
    pub fn turn(&self, binding: &Object, node: &str, now: u64) -> Result<Turn<'_>, String> {
        let (binder, seen) = claim(binding);
        let mut table = self.0.lock();
        if table.nodes.len() >= MOST_NODES && !table.nodes.contains_key(node) {
            table.nodes.retain(|_, last| last.under_way > 0);
            table.floor = now;
        }
        let floor = table.floor;
        let last = table.nodes.entry(node.to_string()).or_insert_with(|| Last {
            binder: String::new(),
            revision: floor,
            under_way: 0,
        });
        if binder.is_empty() || last.binder != binder {
            let unseen = last.under_way > 0 || seen.is_some_and(|seen| seen < last.revision);
            if seen.is_some() && unseen {
                return Err(format!(
                    "node {node:?} was given pods that {binder} did not know of when it decided"
                ));
            }
            last.binder = binder;
        }
        last.under_way += 1;
        Ok(Turn { binders: self, node: node.to_string() })
    }
}

impl Turn<'_> {
    /// The binding is committed; `now` is the store's revision after that.
    pub fn done(self, now: u64) {
        if let Some(last) = self.binders.0.lock().nodes.get_mut(&self.node) {
            last.revision = last.revision.max(now);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(last) = self.binders.0.lock().nodes.get_mut(&self.node) {
            last.under_way -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn binding(binder: &str, seen: &str) -> Object {
        let annotations = json!({BINDER: binder, SEEN_PODS: seen});
        Object::from_value(json!({"apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": "p", "annotations": annotations}}))
        .unwrap()
    }

    #[test]
    fn what_others_did_must_be_known() {
        let binders = Binders::default();
        binders.begin(10);
        let try_ = |binder: &str, seen: &str| binders.turn(&binding(binder, seen), "n", 20);
        assert!(try_("a", "9").is_err(), "somebody may have bound before the start");
        let first = try_("a", "10").unwrap();
        let second = try_("a", "10").expect("its own are known to it");
        assert!(try_("b", "99").is_err(), "one of another is under way");
        first.done(21);
        second.done(23);
        assert!(try_("b", "22").is_err());
        try_("a", "10").unwrap().done(25);
        drop(try_("b", "25").expect("it knows"));
        assert!(try_("a", "24").is_err(), "now the other one was last");
        assert!(binders.turn(&binding("a", "10"), "other", 25).is_ok());
    }

    #[test]
    fn who_has_no_precondition_is_everybodys_other() {
        let binders = Binders::default();
        let try_ = |binder: &str, seen: &str| binders.turn(&binding(binder, seen), "n", 20);
        try_("", "").unwrap().done(5);
        try_("", "3").unwrap().done(7);
        try_("a", "what").unwrap().done(8);
        assert!(try_("a", "7").is_err());
        try_("a", "8").unwrap().done(9);
        try_("", "").unwrap().done(10);
        assert!(try_("a", "9").is_err());
    }
}
