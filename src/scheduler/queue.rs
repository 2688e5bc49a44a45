//! The pods that wait for a node: those to be tried now in order of priority and age, and those
//! that were refused and wait for a change that may help, or for their back-off.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::framework::Wake;
use super::snapshot::PodInfo;
use crate::base::backoff::{Backoff, Limits};

/// The wait of a refused pod after a change that may help it.
pub const LIMITS: Limits = Limits { first: Duration::from_secs(1), most: Duration::from_secs(10) };

/// A refused pod is tried again after this time even if nothing happened: a lost signal costs time
/// only.
pub const RETRY_ANYWAY: SignedDuration = SignedDuration::from_mins(5);

/// Higher priority first, then older, then the order of arrival.
type Rank = (std::cmp::Reverse<i32>, Timestamp, u64);

/// All pods that wait, by uid.
pub struct Queue {
    active: BTreeMap<Rank, PodInfo>,
    ranks: HashMap<String, Rank>,
    refused: HashMap<String, Refused>,
    backoff: Backoff<String>,
    arrivals: u64,
}

struct Refused {
    pod: PodInfo,
    created: Timestamp,
    wakes: Vec<Wake>,
    /// When it is tried again; a wake brings this forward to the end of its back-off.
    at: Timestamp,
    not_before: Timestamp,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            active: BTreeMap::new(),
            ranks: HashMap::new(),
            refused: HashMap::new(),
            backoff: Backoff::new(LIMITS),
            arrivals: 0,
        }
    }
}

impl Queue {
    /// Adds or updates a pod. A refused pod whose wants did not change stays refused.
    pub fn put(&mut self, pod: PodInfo, created: Timestamp) {
        if self.refused.get(&pod.uid).is_some_and(|refused| refused.pod.wants == pod.wants) {
            return;
        }
        self.remove(&pod.uid);
        self.arrivals += 1;
        let rank = (std::cmp::Reverse(pod.wants.priority), created, self.arrivals);
        self.ranks.insert(pod.uid.clone(), rank);
        self.active.insert(rank, pod);
    }

    /// Removes a pod that was bound or deleted.
    pub fn remove(&mut self, uid: &str) {
        if let Some(rank) = self.ranks.remove(uid) {
            self.active.remove(&rank);
        }
        self.refused.remove(uid);
    }

    /// Forgets a pod's failures.
    pub fn forget(&mut self, uid: &str) {
        self.remove(uid);
        self.backoff.forget(&uid.to_string());
    }

    /// Takes the best pods, at most `most`.
    pub fn take(&mut self, most: usize) -> Vec<PodInfo> {
        let mut pods = Vec::new();
        while pods.len() < most {
            let Some((_, pod)) = self.active.pop_first() else { break };
            self.ranks.remove(&pod.uid);
            pods.push(pod);
        }
        pods
    }

    /// Puts a refused or failed pod aside until something that can help happens.
    pub fn refuse(&mut self, pod: PodInfo, created: Timestamp, wakes: Vec<Wake>, now: Timestamp) {
        let wait = self.backoff.next(&pod.uid, now);
        let not_before = now + SignedDuration::try_from(wait).unwrap_or(SignedDuration::ZERO);
        // Without a change that could help (a failed bind) the back-off alone decides.
        let at = if wakes.is_empty() { not_before } else { now + RETRY_ANYWAY };
        let refused = Refused { pod, created, wakes, at, not_before };
        self.refused.insert(refused.pod.uid.clone(), refused);
    }

    /// Brings forward the refused pods that a change may help.
    pub fn wake(&mut self, wake: Wake) {
        for refused in self.refused.values_mut() {
            if refused.wakes.contains(&wake) {
                refused.at = refused.at.min(refused.not_before);
            }
        }
    }

    /// Makes the refused pods whose time has come active; answers when the next one comes.
    pub fn advance(&mut self, now: Timestamp) -> Option<Timestamp> {
        let due = self.refused.values().filter(|refused| refused.at <= now);
        let due: Vec<String> = due.map(|refused| refused.pod.uid.clone()).collect();
        for uid in due {
            if let Some(refused) = self.refused.remove(&uid) {
                self.put(refused.pod, refused.created);
            }
        }
        self.refused.values().map(|refused| refused.at).min()
    }

    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::snapshot::Wants;

    fn pod(uid: &str, priority: i32) -> PodInfo {
        let wants = Wants { priority, ..Wants::default() };
        PodInfo { key: crate::api::ObjectKey::new("n", uid), uid: uid.into(), wants: wants.into() }
    }

    fn uids(pods: Vec<PodInfo>) -> Vec<String> {
        pods.into_iter().map(|pod| pod.uid).collect()
    }

    #[test]
    fn priority_then_age() {
        let mut queue = Queue::default();
        let t = |s| Timestamp::from_second(s).unwrap();
        queue.put(pod("young", 0), t(2));
        queue.put(pod("old", 0), t(1));
        queue.put(pod("vip", 9), t(3));
        assert_eq!(uids(queue.take(10)), ["vip", "old", "young"]);
    }

    #[test]
    fn refused_pods_wait_for_a_change_that_helps() {
        let mut queue = Queue::default();
        let t = |s| Timestamp::from_second(s).unwrap();
        queue.refuse(pod("a", 0), t(0), vec![Wake::PodGone], t(0));
        queue.wake(Wake::Node);
        queue.advance(t(200));
        assert!(queue.is_empty());
        queue.wake(Wake::PodGone);
        queue.advance(t(200));
        assert_eq!(uids(queue.take(1)), ["a"]);
    }
}
