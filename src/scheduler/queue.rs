//! The pods that wait for a node: those to be tried now in order of priority and age, and those
//! that were refused and wait for a change that may help, or for their back-off. Refused pods are
//! found by time and by what they wait for: a change costs nothing to those that it does not help.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::framework::Wake;
use super::groups::GroupId;
use super::pod_info::PodInfo;
use crate::base::backoff::{Backoff, Limits};

/// The wait of a refused pod after a change that may help it, where no configuration says so.
pub const LIMITS: Limits = Limits { first: Duration::from_secs(1), most: Duration::from_secs(10) };

/// Higher priority first, then older, then the order of arrival.
type Rank = (std::cmp::Reverse<i32>, Timestamp, u64);

/// One copy of a pod's uid for all indexes: there may be a million pods.
type Uid = Arc<str>;

/// All pods that wait, by uid.
pub struct Queue {
    active: Active,
    /// Boxed: a table has room for up to twice as many as there are.
    refused: HashMap<Uid, Box<Refused>>,
    /// The refused pods in the order of their time.
    times: BTreeSet<(Timestamp, Uid)>,
    /// The refused pods that a change would bring forward.
    waiting: HashMap<Wake, HashSet<Uid>>,
    /// The pods of each group, by uid: who takes one takes all.
    groups: HashMap<Arc<GroupId>, BTreeSet<String>>,
    backoff: Backoff<Uid>,
    /// A refused pod is tried again after this time even if nothing happened: a lost signal costs
    /// time only.
    retry_anyway: SignedDuration,
    arrivals: u64,
}

/// The pods to be tried now. Those that were tried before never keep out those that were not: however
/// many they are, they get no more than half of what is tried at a time while others wait.
#[derive(Default)]
struct Active {
    fresh: BTreeMap<Rank, PodInfo>,
    again: BTreeMap<Rank, PodInfo>,
    /// Their ranks by uid, and whether they were tried before.
    ranks: HashMap<String, (Rank, bool)>,
}

impl Active {
    fn put(&mut self, rank: Rank, pod: PodInfo, is_again: bool) {
        self.ranks.insert(pod.uid.clone(), (rank, is_again));
        self.half(is_again).insert(rank, pod);
    }

    fn half(&mut self, is_again: bool) -> &mut BTreeMap<Rank, PodInfo> {
        if is_again { &mut self.again } else { &mut self.fresh }
    }

    fn get(&self, uid: &str) -> Option<&PodInfo> {
        let (rank, is_again) = self.ranks.get(uid)?;
        if *is_again { self.again.get(rank) } else { self.fresh.get(rank) }
    }

    fn take_out(&mut self, uid: &str) -> Option<PodInfo> {
        let (rank, is_again) = self.ranks.remove(uid)?;
        self.half(is_again).remove(&rank)
    }

    fn pop_first(&mut self, is_again: bool) -> Option<(Rank, PodInfo)> {
        let (rank, pod) = self.half(is_again).pop_first()?;
        self.ranks.remove(&pod.uid);
        Some((rank, pod))
    }

    fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }
}

struct Refused {
    pod: PodInfo,
    created: Timestamp,
    wakes: Vec<Wake>,
    /// When it is tried again; a wake brings this forward to the end of its back-off.
    at: Timestamp,
    not_before: Timestamp,
}

impl Queue {
    pub fn new(retry_anyway: SignedDuration, back_off: Limits) -> Queue {
        Queue {
            active: Active::default(),
            refused: HashMap::new(),
            times: BTreeSet::new(),
            waiting: HashMap::new(),
            groups: HashMap::new(),
            backoff: Backoff::new(back_off),
            retry_anyway,
            arrivals: 0,
        }
    }

    /// Adds or updates a pod; answers whether it is to be tried now. A refused pod whose wants did
    /// not change stays refused.
    pub fn put(&mut self, pod: PodInfo, created: Timestamp) -> bool {
        if self.is_refused(&pod) {
            return false;
        }
        self.activate(pod, created, false);
        true
    }

    fn activate(&mut self, pod: PodInfo, created: Timestamp, is_again: bool) {
        self.remove(&pod.uid);
        self.index(&pod);
        self.arrivals += 1;
        let rank = (std::cmp::Reverse(pod.wants.priority), created, self.arrivals);
        self.active.put(rank, pod, is_again);
    }

    /// Lets a pod wait for others of its group, unless it does already. Answers whether that is new.
    pub fn hold(&mut self, pod: PodInfo, created: Timestamp, wake: Wake, now: Timestamp) -> bool {
        let is_new = !self.is_refused(&pod);
        if is_new {
            self.put_aside(pod, created, vec![wake], now, now);
        }
        is_new
    }

    /// The pods of a group that wait, whether they are to be tried now or not.
    pub fn of_group(&self, group: &Arc<GroupId>) -> Vec<PodInfo> {
        let uids = self.groups.get(group).into_iter().flatten();
        uids.filter_map(|uid| self.held(uid).or_else(|| self.active.get(uid))).cloned().collect()
    }

    /// A pod that waits for others.
    pub fn held(&self, uid: &str) -> Option<&PodInfo> {
        self.refused.get(uid).map(|refused| &refused.pod)
    }

    /// Whether a pod that wants the same was refused.
    fn is_refused(&self, pod: &PodInfo) -> bool {
        let refused = self.refused.get(pod.uid.as_str()).map(|refused| &refused.pod);
        refused.is_some_and(|one| one.wants == pod.wants && one.labels == pod.labels)
    }

    /// Removes a pod that was bound or deleted.
    pub fn remove(&mut self, uid: &str) {
        self.take_out(uid);
    }

    /// Takes a pod out, wherever it is.
    fn take_out(&mut self, uid: &str) -> Option<PodInfo> {
        let active = self.active.take_out(uid);
        if let Some(pod) = &active {
            self.forget_member(pod);
        }
        active.or_else(|| self.release(uid).map(|refused| refused.pod))
    }

    fn index(&mut self, pod: &PodInfo) {
        if let Some(group) = &pod.group {
            self.groups.entry(group.clone()).or_default().insert(pod.uid.clone());
        }
    }

    fn forget_member(&mut self, pod: &PodInfo) {
        let Some(group) = &pod.group else { return };
        if let Some(uids) = self.groups.get_mut(group) {
            uids.remove(&pod.uid);
            if uids.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    /// Takes a pod out of the refused ones and their indexes.
    fn release(&mut self, uid: &str) -> Option<Box<Refused>> {
        let (uid, refused) = self.refused.remove_entry(uid)?;
        self.forget_member(&refused.pod);
        self.times.remove(&(refused.at, uid.clone()));
        for wake in &refused.wakes {
            if let Some(waiting) = self.waiting.get_mut(wake) {
                waiting.remove(&uid);
                if waiting.is_empty() {
                    self.waiting.remove(wake);
                }
            }
        }
        Some(refused)
    }

    /// Forgets a pod's failures.
    pub fn forget(&mut self, uid: &str) {
        self.remove(uid);
        self.backoff.forget(&uid.into());
    }

    /// Takes the best pods, at most `most`; where one of a group is among them, all that wait of it,
    /// one after the other.
    pub fn take(&mut self, most: usize) -> Vec<PodInfo> {
        // Each with the rank of the first of its group.
        let mut taken: Vec<(Rank, PodInfo)> = Vec::new();
        let of_again = most - self.active.fresh.len().min(most / 2);
        for (is_again, most) in [(true, of_again), (false, most)] {
            while taken.len() < most {
                let Some((rank, pod)) = self.active.pop_first(is_again) else { break };
                self.forget_member(&pod);
                let others = pod.group.as_ref().and_then(|group| self.groups.get(group)).cloned();
                taken.push((rank, pod));
                let others = others.into_iter().flatten();
                taken.extend(others.filter_map(|uid| Some((rank, self.take_out(&uid)?))));
            }
        }
        taken.sort_by_key(|(rank, _)| *rank);
        taken.into_iter().map(|(_, pod)| pod).collect()
    }

    /// Puts a refused or failed pod aside until something that can help happens.
    pub fn refuse(&mut self, pod: PodInfo, created: Timestamp, wakes: Vec<Wake>, now: Timestamp) {
        let uid: Uid = pod.uid.as_str().into();
        let wait = self.backoff.next(&uid, now);
        let not_before = now + SignedDuration::try_from(wait).unwrap_or(SignedDuration::ZERO);
        self.put_aside_as(uid, pod, created, wakes, not_before, now);
    }

    /// Puts a pod aside for which something is being done: what it waits for brings it back at once.
    pub fn expect(&mut self, pod: PodInfo, created: Timestamp, wakes: Vec<Wake>, now: Timestamp) {
        self.put_aside(pod, created, wakes, now, now);
    }

    fn put_aside(
        &mut self,
        pod: PodInfo,
        created: Timestamp,
        wakes: Vec<Wake>,
        not_before: Timestamp,
        now: Timestamp,
    ) {
        self.put_aside_as(pod.uid.as_str().into(), pod, created, wakes, not_before, now);
    }

    fn put_aside_as(
        &mut self,
        uid: Uid,
        pod: PodInfo,
        created: Timestamp,
        mut wakes: Vec<Wake>,
        not_before: Timestamp,
        now: Timestamp,
    ) {
        wakes.shrink_to_fit();
        self.remove(&pod.uid);
        self.index(&pod);
        // Without a change that could help (a failed bind) the back-off alone decides.
        let anyway = now.checked_add(self.retry_anyway).unwrap_or(Timestamp::MAX);
        let at = if wakes.is_empty() { not_before } else { anyway };
        for wake in &wakes {
            self.waiting.entry(*wake).or_default().insert(uid.clone());
        }
        self.times.insert((at, uid.clone()));
        let refused = Refused { pod, created, wakes, at, not_before };
        self.refused.insert(uid, Box::new(refused));
    }

    /// Brings forward the refused pods that a change may help. Each is brought forward once: what
    /// happens before it is tried again changes nothing. Answers whether there are some.
    pub fn wake(&mut self, wake: Wake) -> bool {
        let Some(uids) = self.waiting.remove(&wake) else { return false };
        for uid in uids {
            let Some(refused) = self.refused.get_mut(&uid) else { continue };
            if refused.not_before < refused.at {
                self.times.remove(&(refused.at, uid.clone()));
                refused.at = refused.not_before;
                self.times.insert((refused.at, uid));
            }
        }
        true
    }

    /// Brings a refused pod forward to now, whatever its back-off: what was done for it is done.
    pub fn hurry(&mut self, uid: &str, now: Timestamp) {
        let Some(refused) = self.refused.get_mut(uid) else { return };
        if now < refused.at {
            let uid: Uid = uid.into();
            self.times.remove(&(refused.at, uid.clone()));
            refused.at = now;
            self.times.insert((now, uid));
        }
    }

    /// Makes the refused pods whose time has come active.
    pub fn advance(&mut self, now: Timestamp) {
        while self.times.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, uid)) = self.times.pop_first() else { break };
            if let Some(refused) = self.release(&uid) {
                self.activate(refused.pod, refused.created, true);
            }
        }
    }

    /// When the next refused pod comes.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.times.first().map(|(at, _)| *at)
    }

    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::pod_info::Wants;

    const ANYWAY: SignedDuration = SignedDuration::from_mins(5);

    fn pod(uid: &str, priority: i32) -> PodInfo {
        let wants = Wants { priority, ..Wants::default() };
        PodInfo {
            key: crate::api::ObjectKey::new("n", uid),
            uid: uid.into(),
            wants: wants.into(),
            ..PodInfo::default()
        }
    }

    fn uids(pods: Vec<PodInfo>) -> Vec<String> {
        pods.into_iter().map(|pod| pod.uid).collect()
    }

    fn t(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn priority_then_age() {
        let mut queue = Queue::new(ANYWAY, LIMITS);
        queue.put(pod("young", 0), t(2));
        queue.put(pod("old", 0), t(1));
        queue.put(pod("vip", 9), t(3));
        assert_eq!(uids(queue.take(10)), ["vip", "old", "young"]);
    }

    #[test]
    fn refused_pods_wait_for_a_change_that_helps() {
        let mut queue = Queue::new(ANYWAY, LIMITS);
        queue.refuse(pod("a", 0), t(0), vec![Wake::PodGone], t(0));
        queue.wake(Wake::Node);
        queue.advance(t(200));
        assert!(queue.is_empty());
        assert_eq!(queue.next_at(), Some(t(300)));
        queue.wake(Wake::PodGone);
        queue.advance(t(200));
        assert_eq!(uids(queue.take(1)), ["a"]);
        assert_eq!(queue.next_at(), None);
    }

    #[test]
    fn a_wake_within_the_back_off_is_kept_for_its_end() {
        let mut queue = Queue::new(ANYWAY, LIMITS);
        queue.refuse(pod("a", 0), t(0), vec![Wake::Node, Wake::PodGone], t(0));
        queue.wake(Wake::Node);
        queue.advance(t(0));
        assert!(queue.is_empty(), "its back-off is not over");
        assert_eq!(queue.next_at(), Some(t(1)));
        queue.advance(t(1));
        assert_eq!(uids(queue.take(1)), ["a"]);
        // Refused again, it waits anew; a pod that is gone waits for nothing.
        queue.refuse(pod("a", 0), t(0), vec![Wake::Node], t(1));
        queue.forget("a");
        queue.wake(Wake::Node);
        queue.advance(t(1000));
        assert!(queue.is_empty() && queue.next_at().is_none());
    }

    #[test]
    fn a_pod_for_which_all_is_done_comes_at_once() {
        let mut queue = Queue::new(ANYWAY, LIMITS);
        queue.refuse(pod("a", 0), t(0), vec![Wake::PodGone], t(0));
        queue.hurry("a", t(0));
        queue.hurry("unknown", t(0));
        queue.advance(t(0));
        assert_eq!(uids(queue.take(2)), ["a"]);
    }

    #[test]
    fn those_who_were_tried_before_keep_nobody_out() {
        let mut queue = Queue::new(ANYWAY, LIMITS);
        for n in 0..100 {
            queue.refuse(pod(&format!("old{n}"), 0), t(0), vec![Wake::Node], t(0));
        }
        queue.wake(Wake::Node);
        queue.advance(t(1));
        queue.put(pod("new", 0), t(50));
        queue.put(pod("vip", 9), t(60));
        let taken = uids(queue.take(10));
        assert_eq!((taken.len(), &taken[0][..], &taken[9][..]), (10, "vip", "new"));
        assert_eq!(uids(queue.take(200)).len(), 92);
    }

    #[test]
    fn one_of_a_group_brings_all_of_it() {
        let mut queue = Queue::new(ANYWAY, LIMITS);
        let group = |name: &str| {
            let workload = crate::api::ObjectKey::new("n", "w");
            let replica = String::new();
            Some(Arc::new(GroupId { workload, group: name.into(), replica }))
        };
        let one = |uid: &str, name: &str| PodInfo { group: group(name), ..pod(uid, 0) };
        let wake = group("g").unwrap().wake();
        assert!(queue.hold(one("a", "g"), t(1), wake, t(1)));
        assert!(!queue.hold(one("a", "g"), t(1), wake, t(2)), "it is held already");
        queue.put(pod("single", 0), t(2));
        queue.put(one("b", "g"), t(3));
        queue.put(one("other", "h"), t(4));
        queue.refuse(one("c", "g"), t(5), vec![Wake::Node], t(5));
        assert_eq!(uids(queue.take(2)), ["single", "b", "a", "c"]);
        assert_eq!(uids(queue.take(9)), ["other"]);
        assert!(queue.is_empty() && queue.next_at().is_none() && queue.groups.is_empty());
    }

    #[test]
    fn a_refused_pod_that_wants_something_else_is_tried_at_once() {
        let mut queue = Queue::new(ANYWAY, LIMITS);
        queue.refuse(pod("a", 0), t(0), vec![Wake::Node], t(0));
        queue.put(pod("a", 0), t(0));
        assert!(queue.is_empty());
        queue.put(pod("a", 1), t(0));
        assert_eq!(uids(queue.take(1)), ["a"]);
        assert_eq!(queue.next_at(), None);
    }
}
