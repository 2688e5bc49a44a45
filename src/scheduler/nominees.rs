//! Nominees: pods that wait for a node on which room is being made for them. Until a nominee is
//! placed, pods of its priority and below leave it that room.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::pod_info::{PodInfo, Wants};
use super::topology::Footprint;
use crate::api::ObjectKey;

#[derive(Clone, Debug, PartialEq)]
pub struct Nominee {
    pub key: ObjectKey,
    pub node: String,
    pub wants: Arc<Wants>,
    /// What it will mean to other pods.
    pub footprint: Footprint,
    /// Decided here, and not seen in the pod's status yet.
    is_assumed: bool,
}

/// A nominee that has to give way to a pod of higher priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Displaced {
    pub key: ObjectKey,
    pub uid: String,
}

/// All nominees, by uid and by node.
#[derive(Clone, Default)]
pub struct Nominees {
    by_uid: HashMap<String, Nominee>,
    by_node: HashMap<String, BTreeSet<String>>,
}

impl Nominees {
    pub fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }

    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.by_uid.get(uid).map(|nominee| nominee.node.as_str())
    }

    /// The nominees of a node, with their uids.
    pub fn on(&self, node: &str) -> impl Iterator<Item = (&str, &Nominee)> {
        let uids = self.by_node.get(node).into_iter().flatten();
        uids.filter_map(|uid| Some((uid.as_str(), self.by_uid.get(uid)?)))
    }

    /// The nominees of a node that leave it to a pod of this priority.
    pub fn below(&self, node: &str, priority: i32) -> Vec<Displaced> {
        let lower = self.on(node).filter(|(_, nominee)| nominee.wants.priority < priority);
        lower.map(|(uid, one)| Displaced { key: one.key.clone(), uid: uid.into() }).collect()
    }

    /// Makes a pod a nominee by a decision of ours; answers with the node that it had before.
    pub fn assume(&mut self, pod: &PodInfo, node: &str) -> Option<String> {
        self.set(pod, node, true)
    }

    /// Takes in what a waiting pod's status says. What was decided here holds until it is seen
    /// there. Answers with the node on which room became free.
    pub fn see(&mut self, pod: &PodInfo, told: Option<&str>) -> Option<String> {
        let current = self.by_uid.get_mut(&pod.uid);
        match (current, told) {
            (Some(current), Some(told)) if current.node == told => {
                current.is_assumed = false;
                current.wants = pod.wants.clone();
                current.footprint = pod.footprint();
                None
            }
            (Some(current), _) if current.is_assumed => None,
            (_, Some(told)) => self.set(pod, told, false),
            (_, None) => self.remove(&pod.uid),
        }
    }

    fn set(&mut self, pod: &PodInfo, node: &str, is_assumed: bool) -> Option<String> {
        let before = self.remove(&pod.uid);
        let (key, wants) = (pod.key.clone(), pod.wants.clone());
        let footprint = pod.footprint();
        let nominee = Nominee { key, node: node.into(), wants, footprint, is_assumed };
        self.put(&pod.uid, nominee);
        before.filter(|before| before != node)
    }

    /// Puts a nominee back that was taken.
    pub fn put(&mut self, uid: &str, nominee: Nominee) {
        self.by_node.entry(nominee.node.clone()).or_default().insert(uid.into());
        self.by_uid.insert(uid.into(), nominee);
    }

    /// Removes a nominee; answers with its node.
    pub fn remove(&mut self, uid: &str) -> Option<String> {
        self.take(uid).map(|nominee| nominee.node)
    }

    /// Takes a nominee out.
    pub fn take(&mut self, uid: &str) -> Option<Nominee> {
        let nominee = self.by_uid.remove(uid)?;
        if let Some(uids) = self.by_node.get_mut(&nominee.node) {
            uids.remove(uid);
            if uids.is_empty() {
                self.by_node.remove(&nominee.node);
            }
        }
        Some(nominee)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_decided_holds_until_it_is_seen() {
        let wants = Arc::new(Wants { priority: 5, ..Wants::default() });
        let pod =
            PodInfo { key: ObjectKey::new("n", "p"), uid: "u".into(), wants, ..PodInfo::default() };
        let mut nominees = Nominees::default();
        assert_eq!(nominees.assume(&pod, "a"), None);
        assert_eq!(nominees.see(&pod, None), None, "an update from before the decision");
        assert_eq!(nominees.node_of("u"), Some("a"));
        assert_eq!((nominees.below("a", 5), nominees.below("a", 6).len()), (Vec::new(), 1));
        assert_eq!(nominees.see(&pod, Some("a")), None);
        assert_eq!(nominees.see(&pod, Some("b")), Some("a".into()), "others may move it");
        assert_eq!(nominees.see(&pod, None), Some("b".into()), "and end it");
        assert!(nominees.is_empty() && nominees.on("b").next().is_none());
    }
}
