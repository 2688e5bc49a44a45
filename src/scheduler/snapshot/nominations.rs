//! The part of a snapshot that knows who waits for a node which is being made free, and who leaves it.

use super::{Snapshot, index_of};
use crate::scheduler::changes::Change;
use crate::scheduler::nominees::{Displaced, Nominee, Nominees};
use crate::scheduler::pod_info::PodInfo;

impl Snapshot {
    /// The nominees of a node to which a pod leaves it: those of its priority or a higher one.
    pub fn nominees_before(&self, index: usize, pod: &PodInfo) -> impl Iterator<Item = &Nominee> {
        let nominees = self.nominees.on(&self.nodes[index].name);
        let before = nominees.filter(move |(uid, nominee)| {
            *uid != pod.uid && nominee.wants.priority >= pod.wants.priority
        });
        before.map(|(_, nominee)| nominee)
    }

    pub fn has_nominees_before(&self, index: usize, pod: &PodInfo) -> bool {
        !self.nominees.is_empty() && self.nominees_before(index, pod).next().is_some()
    }

    pub fn nominees(&self) -> &Nominees {
        &self.nominees
    }

    /// The index of the node that is being made free for a pod, where it is known.
    pub fn nominated_index(&self, uid: &str) -> Option<usize> {
        self.index(self.nominees.node_of(uid)?)
    }

    /// Counts a decision as made: the pod is a nominee of the node, the victims go, and nominees of
    /// lower priority are none any more. Answers who those are, and whether a budget was charged.
    pub fn nominate<'a>(
        &mut self,
        pod: &PodInfo,
        node: &str,
        victims: impl Iterator<Item = &'a str>,
    ) -> (Vec<Displaced>, bool) {
        let displaced = self.nominees.below(node, pod.wants.priority);
        for one in &displaced {
            self.nominees.remove(&one.uid);
        }
        let left = self.nominees.assume(pod, node);
        self.see_left(left);
        self.see_kept(node);
        let mut charged = false;
        for uid in victims {
            let Some(placed) = self.placed.get_mut(uid) else { continue };
            if !placed.is_ending && !placed.is_preempted {
                charged |= self.budgets.charge(&placed.key, &placed.labels);
            }
            placed.is_preempted = true;
        }
        (displaced, charged)
    }

    /// Takes a nomination away, which [`Snapshot::restore_nomination`] brings back.
    pub fn lift_nomination(&mut self, uid: &str) -> Option<Nominee> {
        let nominee = self.nominees.take(uid)?;
        self.see_kept(&nominee.node);
        Some(nominee)
    }

    pub fn restore_nomination(&mut self, uid: &str, nominee: Nominee) {
        self.see_kept(&nominee.node);
        self.nominees.put(uid, nominee);
    }

    /// A node is kept no more for one whose nomination was taken away.
    pub fn drop_nomination(&mut self, nominee: Nominee) {
        self.see_left(Some(nominee.node));
    }

    /// Keeps a pod its place that it could not take yet.
    pub fn keep_place(&mut self, pod: &PodInfo, node: &str) {
        let left = self.nominees.assume(pod, node);
        self.see_left(left);
        self.see_kept(node);
    }

    /// Takes in what a waiting pod's status says.
    pub fn see_nomination(&mut self, pod: &PodInfo, told: Option<&str>) {
        let left = self.nominees.see(pod, told);
        self.see_left(left);
        if let Some(node) = self.nominees.node_of(&pod.uid).map(str::to_string) {
            self.see_kept(&node);
        }
    }

    /// A pod is a nominee no more, since it has a place, or does not wait.
    pub fn end_nomination(&mut self, uid: &str, place: &str) {
        let left = self.nominees.remove(uid);
        if left.as_deref() == Some(place) {
            self.see_kept(place);
        } else {
            self.see_left(left);
        }
    }

    /// A nominee left a node.
    fn see_left(&mut self, node: Option<String>) {
        let Some(node) = node else { return };
        self.see_kept(&node);
        self.freed.insert(node.into());
    }

    /// What is kept on a node for nominees changed.
    fn see_kept(&mut self, node: &str) {
        if let Some(n) = self.index(node) {
            self.changes.add(Change::Taken(index_of(n)));
        }
    }

    /// A victim was not evicted.
    pub fn spare(&mut self, uid: &str) {
        if let Some(placed) = self.placed.get_mut(uid)
            && !placed.is_ending
        {
            placed.is_preempted = false;
        }
    }
}
