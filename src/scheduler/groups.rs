//! Pod groups (KEP-4671): pods that get nodes together or not at all. A pod says by `spec.workloadRef`
//! to which group of which Workload it belongs; a gang's `minCount` says how many are needed at once.
//!
//! ```text
//!   fewer pods than needed ─▶ they wait for each other, and take no part in cycles
//!   enough ─▶ tried in one cycle, one after the other ─┬▶ enough placed: all of those are bound
//!                                                      └▶ else nobody keeps a place
//! ```
//!
//! So a group never holds what it cannot use, and one that is larger than the cluster is in nobody's
//! way. How a gang is decided on is in [`super::gangs`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1alpha1::Workload;

use super::framework::Wake;
use crate::api::ObjectKey;

/// A group of a Workload, or a replica of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    pub workload: ObjectKey,
    pub group: String,
    pub replica: String,
}

impl GroupId {
    /// The group of a pod that has one.
    pub fn of(pod: &Pod) -> Option<Arc<GroupId>> {
        let reference = pod.spec.as_ref()?.workload_ref.as_ref()?;
        let space = pod.metadata.namespace.as_deref().unwrap_or_default();
        Some(Arc::new(GroupId {
            workload: ObjectKey::new(space, reference.name.as_str()),
            group: reference.pod_group.clone(),
            replica: reference.pod_group_replica_key.clone().unwrap_or_default(),
        }))
    }

    /// What its pods wait for where no Workload says how many of them are needed.
    pub fn unknown(&self) -> String {
        format!("waiting for the Workload {}, with its pod group {:?}", self.workload, self.group)
    }

    /// The wake of those who wait for more of them, or for their Workload. Two groups may share it,
    /// which costs a look.
    pub fn wake(&self) -> Wake {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        Wake::Group(hasher.finish())
    }
}

/// How many pods are needed of a group of which no Workload says so (any more).
pub const UNKNOWN: usize = usize::MAX;

impl fmt::Display for GroupId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.workload, self.group)?;
        if self.replica.is_empty() { Ok(()) } else { write!(out, "/{}", self.replica) }
    }
}

/// What is known of groups: what Workloads ask, and which pods there are.
#[derive(Default)]
pub struct Groups {
    /// By Workload: how many pods of each group are needed at once; 1 of those that are no gang.
    workloads: HashMap<ObjectKey, BTreeMap<String, usize>>,
    /// The pods, by uid, that wait or have a place.
    members: BTreeMap<Arc<GroupId>, BTreeSet<String>>,
    of_pod: HashMap<String, Arc<GroupId>>,
}

impl Groups {
    /// Takes in a Workload's new state, or its end. Answers which groups with pods look again.
    pub fn set_workload(
        &mut self,
        key: &ObjectKey,
        workload: Option<&Workload>,
    ) -> Vec<Arc<GroupId>> {
        match workload {
            Some(workload) => {
                let groups = workload.spec.pod_groups.iter().map(|group| {
                    let gang = group.policy.gang.as_ref();
                    let needed =
                        gang.map_or(1, |gang| usize::try_from(gang.min_count).unwrap_or(1));
                    (group.name.clone(), needed)
                });
                self.workloads.insert(key.clone(), groups.collect());
            }
            None => drop(self.workloads.remove(key)),
        }
        let first = GroupId { workload: key.clone(), group: String::new(), replica: String::new() };
        let own = self.members.range(Arc::new(first)..);
        own.map(|(id, _)| id).take_while(|id| id.workload == *key).cloned().collect()
    }

    /// Counts a pod that waits or has a place. Answers whether it is new.
    pub fn add(&mut self, uid: &str, id: &Arc<GroupId>) -> bool {
        let is_new = self.of_pod.insert(uid.into(), id.clone()).is_none();
        if is_new {
            self.members.entry(id.clone()).or_default().insert(uid.into());
        }
        is_new
    }

    /// A pod is gone, or has ended.
    pub fn remove(&mut self, uid: &str) {
        let Some(id) = self.of_pod.remove(uid) else { return };
        if let Some(members) = self.members.get_mut(&id) {
            members.remove(uid);
            if members.is_empty() {
                self.members.remove(&id);
            }
        }
    }

    /// How many pods of a group are needed at once; `None` where its Workload does not say so.
    fn needed(&self, id: &GroupId) -> Option<usize> {
        self.workloads.get(&id.workload)?.get(&id.group).copied()
    }

    /// Whether more than one pod of a group is needed at once.
    pub fn is_gang(&self, id: &GroupId) -> bool {
        self.needed(id).is_some_and(|needed| needed > 1)
    }

    /// Why its pods take no part yet.
    pub fn waits_for(&self, id: &Arc<GroupId>) -> Option<String> {
        let Some(needed) = self.needed(id) else { return Some(id.unknown()) };
        let there = self.members.get(id).map_or(0, BTreeSet::len);
        (there < needed).then(|| {
            format!(
                "waiting for more pods of the pod group {id}, which needs {needed} at once and has \
                 {there}"
            )
        })
    }

    /// How many more pods are needed at once, or [`UNKNOWN`]; `is_placed` tells who has a place.
    pub fn lacks(&self, id: &Arc<GroupId>, is_placed: impl Fn(&str) -> bool) -> usize {
        let Some(needed) = self.needed(id) else { return UNKNOWN };
        let members = self.members.get(id).into_iter().flatten();
        needed.saturating_sub(members.filter(|uid| is_placed(uid)).count())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(group: &str) -> Arc<GroupId> {
        Arc::new(GroupId {
            workload: ObjectKey::new("n", "w"),
            group: group.into(),
            replica: String::new(),
        })
    }

    #[test]
    fn a_group_is_complete_once_its_workload_says_so() {
        let mut groups = Groups::default();
        let (gang, basic) = (id("gang"), id("basic"));
        groups.add("a", &gang);
        groups.add("b", &basic);
        assert!(groups.waits_for(&gang).unwrap().starts_with("waiting for the Workload n/w"));
        let workload = json!({"metadata": {"name": "w"}, "spec": {"podGroups": [
            {"name": "gang", "policy": {"gang": {"minCount": 2}}},
            {"name": "basic", "policy": {"basic": {}}}]}});
        let workload: Workload = serde_json::from_value(workload).unwrap();
        let key = ObjectKey::new("n", "w");
        assert_eq!(groups.set_workload(&key, Some(&workload)), [basic.clone(), gang.clone()]);
        assert_eq!(groups.waits_for(&basic), None);
        assert!(groups.waits_for(&gang).unwrap().contains("n/w/gang, which needs 2 at once"));
        assert!(groups.add("c", &gang) && !groups.add("c", &gang));
        assert_eq!(groups.waits_for(&gang), None);
        assert_eq!(groups.lacks(&gang, |_| false), 2);
        assert_eq!((groups.lacks(&gang, |uid| uid == "a"), groups.lacks(&gang, |_| true)), (1, 0));
        groups.remove("c");
        assert!(groups.waits_for(&gang).is_some());
        groups.remove("a");
        groups.remove("a");
        assert_eq!(groups.set_workload(&key, None), std::slice::from_ref(&basic));
        assert_eq!(groups.lacks(&basic, |_| true), UNKNOWN);
    }
}
