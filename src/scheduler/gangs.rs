//! Decides about the pods of a gang together: enough of them get nodes, or nobody keeps a place. Where
//! they do not fit, pods of lower priority leave for them, but only if all that are needed fit then.
//!
//! ```text
//!   each takes the place that is kept for it, the others what is free ─▶ enough: all of those are bound
//!     └─ not enough: taken back ─▶ a trial: one after the other takes what is free, or what the
//!                    least important pods of a node have, until enough of them have something
//!          ├─ not enough: taken back, and nobody leaves
//!          └─ enough: who need not go stays; taken back; then all victims leave at once, and the
//!             places are kept until they are gone
//! ```
//!
//! Which node a pod is given in a trial, and who leaves it, is decided as for a pod alone
//! ([`super::preemption`]).
//!
//! Source: KEP-4671 (gang scheduling), KEP-5710 (workload-aware preemption).

mod trial;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use self::trial::Mode;
use self::trial::{MOST_LOOKS, Places, Trial};
use super::class::Classes;
use super::cycle::{Decision, Work};
use super::framework::{Frameworks, Refusal, Wake};
use super::groups::{GroupId, UNKNOWN};
use super::nominees::{Displaced, Nominee};
use super::pod_info::PodInfo;
use super::preemption::{NEVER, OFF, UNDER_WAY, Victim};
use super::slots;
use super::snapshot::{Signals, Snapshot};
use super::volumes::Volumes;

const TOO_LONG: &str = "not done: it takes too long to find out who has to go.";
const FAILED: &str = "not done: the scheduler failed over one of the pods.";

/// Room that is made for pods of a gang.
#[derive(Clone, Debug, PartialEq)]
pub struct GangPreemption {
    pub group: Arc<GroupId>,
    /// As many as are needed.
    pub members: Vec<Member>,
    /// Who leaves, the most important first. Those that are leaving already are told of no more.
    pub victims: Vec<Victim>,
    /// Nominees of lower priority, who lose their node.
    pub displaced: Vec<Displaced>,
}

/// A pod of a gang with the node that is kept for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub pod: PodInfo,
    pub node: String,
    pub refusal: Refusal,
}

/// What is put back after pods of a gang were tried.
struct Before {
    signals: Signals,
    volumes: Option<Volumes>,
    /// The nominations of the pods, which see what is kept for them as free meanwhile.
    kept: BTreeMap<String, Nominee>,
}

impl Before {
    fn of(pods: &[PodInfo], snapshot: &mut Snapshot) -> Before {
        let has_claims = pods.iter().any(|pod| !pod.wants.claims.is_empty());
        let lifted =
            pods.iter().filter_map(|pod| Some((&pod.uid, snapshot.lift_nomination(&pod.uid)?)));
        Before {
            kept: lifted.map(|(uid, nominee)| (uid.clone(), nominee)).collect(),
            signals: snapshot.take_signals(),
            volumes: has_claims.then(|| snapshot.volumes.clone()),
        }
    }

    /// Lets the places go that the pods got. What was taken and given back wakes nobody.
    fn forget<'b>(&self, places: impl Iterator<Item = &'b PodInfo>, snapshot: &mut Snapshot) {
        for pod in places {
            snapshot.forget(&pod.uid);
        }
        snapshot.take_signals();
    }

    fn restore_volumes(&self, snapshot: &mut Snapshot) {
        if let Some(volumes) = &self.volumes {
            snapshot.volumes = volumes.clone();
        }
    }

    /// Keeps for the pods what was kept for them before.
    fn restore(self, snapshot: &mut Snapshot) -> BTreeSet<String> {
        snapshot.add_signals(self.signals);
        let nominees: BTreeSet<String> = self.kept.keys().cloned().collect();
        for (uid, nominee) in self.kept {
            snapshot.restore_nomination(&uid, nominee);
        }
        nominees
    }

    /// The pods that got a place are nominees no more.
    fn settle(self, places: &BTreeMap<&str, &str>, snapshot: &mut Snapshot) {
        snapshot.add_signals(self.signals);
        for (uid, nominee) in self.kept {
            match places.get(uid.as_str()) {
                None => snapshot.restore_nomination(&uid, nominee),
                Some(node) if *node == nominee.node => {}
                Some(_) => snapshot.drop_nomination(nominee),
            }
        }
    }
}

/// What became of the question whether room can be made.
enum Found {
    Room { places: Vec<(PodInfo, String)>, victims: Vec<Victim> },
    Nothing { text: String, hopeless: bool },
    Later,
}

fn place_of(decision: &Decision) -> Option<(&PodInfo, &str)> {
    match decision {
        Decision::Bind { pod, node } | Decision::Provide { pod, node, .. } => Some((pod, node)),
        _ => None,
    }
}

/// Why a gang does not get what is needed of it at once, or `None` where it does. Nobody is asked to
/// leave, and afterwards all is as it was.
pub fn lacks_room(
    pods: Vec<PodInfo>,
    snapshot: &mut Snapshot,
    frameworks: &dyn Frameworks,
) -> Option<Refusal> {
    let first = pods.first()?;
    let (needed, count, group) = (first.together, pods.len(), first.group.clone()?);
    let (mut dry_runs, mut classes) = (0, Classes::default());
    let (framework, mode) = (frameworks.of(first), Mode::Gang);
    let before = Before::of(&pods, snapshot);
    let (classes, dry_runs) = (&mut classes, &mut dry_runs);
    let mut work = Work { snapshot, framework, classes, dry_runs, mode };
    let decisions = work.try_all(pods, &before.kept, frameworks);
    let places: Vec<&PodInfo> = decisions.iter().filter_map(place_of).map(|(pod, _)| pod).collect();
    let placed = places.len();
    before.forget(places.into_iter(), work.snapshot);
    before.restore_volumes(work.snapshot);
    let text = if needed > count { too_few(count, needed) } else { room_for(placed, needed) };
    let refusal = work.group_refusal(&group, &text, decisions.iter().find_map(refusal_of));
    before.restore(snapshot);
    (placed < needed).then_some(refusal)
}

fn too_few(count: usize, needed: usize) -> String {
    format!("{count} of the {needed} pods wait that are needed at once")
}

fn room_for(placed: usize, needed: usize) -> String {
    format!("there is room for {placed} of the {needed} pods that are needed at once")
}

fn refusal_of(decision: &Decision) -> Option<Refusal> {
    match decision {
        Decision::Refuse { refusal, .. } => Some(refusal.clone()),
        _ => None,
    }
}

impl<'a> Work<'a> {
    /// Decides about the pods of a group one after the other, and lets them have what they got if
    /// enough of them got something: KEP-624's Permit. Else nobody keeps a place, and nobody who
    /// waits for one is woken; but room may be made for them.
    pub(super) fn permit(
        &mut self,
        pods: Vec<PodInfo>,
        frameworks: &'a dyn Frameworks,
    ) -> Vec<Decision> {
        let (needed, count) = (pods[0].together, pods.len());
        let Some(group) = pods[0].group.clone() else { return Vec::new() };
        if needed == UNKNOWN {
            let refuse = |pod: PodInfo| {
                let (whole, wakes) = (Some(group.unknown()), vec![group.wake()]);
                let nodes = self.snapshot.nodes().len();
                let refusal = Refusal { nodes, whole, wakes, ..Refusal::default() };
                self.refuse_member(pod, refusal, true)
            };
            return pods.into_iter().map(refuse).collect();
        }
        if needed > count {
            let text = too_few(count, needed);
            // Until there are enough again, others may have what was kept for them.
            let refuse = |pod: PodInfo| {
                let refusal = self.group_refusal(&group, &text, None);
                self.refuse_member(pod, refusal, true)
            };
            return pods.into_iter().map(refuse).collect();
        }
        let before = Before::of(&pods, self.snapshot);
        let decisions = self.try_all(pods.clone(), &before.kept, frameworks);
        let places: BTreeMap<&str, &str> =
            decisions.iter().filter_map(place_of).map(|(pod, node)| (&*pod.uid, node)).collect();
        let placed = places.len();
        let wakes: Vec<Wake> = decisions.iter().flat_map(Decision::provided).collect();
        if placed >= needed && wakes.is_empty() {
            before.settle(&places, self.snapshot);
            return decisions;
        }
        before.forget(decisions.iter().filter_map(place_of).map(|(pod, _)| pod), self.snapshot);
        if placed >= needed {
            // Volumes come first, then all of them again.
            before.restore(self.snapshot);
            let hold = |decision: Decision| match decision {
                Decision::Bind { pod, .. } => Decision::Hold { pod, wakes: wakes.clone() },
                other => other,
            };
            return decisions.into_iter().map(hold).collect();
        }
        before.restore_volumes(self.snapshot);
        let text = room_for(placed, needed);
        let found = match decisions.iter().any(|one| matches!(one, Decision::Fail { .. })) {
            true => Found::Nothing { text: FAILED.into(), hopeless: false },
            false => self.make_room_for(&pods, &before, frameworks),
        };
        let nominees = before.restore(self.snapshot);
        let why = decisions.iter().find_map(refusal_of);
        let refusals = decisions.into_iter().filter_map(|decision| {
            let (pod, why) = match decision {
                Decision::Fail { .. } => return Some(decision),
                Decision::Refuse { pod, refusal, .. } => (pod, Some(refusal)),
                other => (other.into_pod()?, why.clone()),
            };
            let refusal = self.group_refusal(&group, &text, why);
            Some(Decision::Refuse { pod, refusal, ends_nomination: false })
        });
        let refusals: Vec<Decision> = refusals.collect();
        self.act(&group, refusals, found, &nominees)
    }

    /// Gives the pods that are kept a place that one, and the others what is free.
    fn try_all(
        &mut self,
        mut pods: Vec<PodInfo>,
        kept: &BTreeMap<String, Nominee>,
        frameworks: &'a dyn Frameworks,
    ) -> Vec<Decision> {
        let mut decisions = Vec::with_capacity(pods.len());
        // One may fit only once another one is there.
        let mut goes_on = !kept.is_empty();
        while goes_on {
            let mut others = Vec::new();
            goes_on = false;
            for pod in pods {
                self.framework = frameworks.of(&pod);
                let node = kept.get(&pod.uid).and_then(|one| self.snapshot.index_of(&one.node));
                match node.and_then(|node| self.take_kept(&pod, node)) {
                    Some(decision) => {
                        decisions.push(decision);
                        goes_on = true;
                    }
                    None => others.push(pod),
                }
            }
            pods = others;
        }
        let mut pods = pods.into_iter().peekable();
        while let Some(first) = pods.next() {
            self.framework = frameworks.of(&first);
            decisions.extend(self.next(first, &mut pods));
        }
        decisions
    }

    /// Places a pod on the node that is kept for it, if that takes it.
    fn take_kept(&mut self, pod: &PodInfo, node: usize) -> Option<Decision> {
        let take = |work: &mut Self| {
            let mut pod = pod.clone();
            if !pod.wants.claims.is_empty() {
                let volumes = &work.snapshot.volumes;
                pod.volumes = Arc::new(volumes.needs(&pod.key, &pod.uid, &pod.wants.claims).ok()?);
            }
            let asked = slots::ask(&pod, work.snapshot, work.framework);
            work.take_place(&pod, node, &asked)
        };
        // It is asked again, and then said, why it panics.
        self.caught(take).ok().flatten()
    }

    /// Finds room for a gang that does not fit. Afterwards all is as it was.
    fn make_room_for(
        &mut self,
        pods: &[PodInfo],
        before: &Before,
        frameworks: &'a dyn Frameworks,
    ) -> Found {
        let needed = pods[0].together;
        if let Err(text) = self.may_preempt_for(pods, before, frameworks) {
            return Found::Nothing { text: text.into(), hopeless: text != UNDER_WAY };
        }
        if *self.dry_runs == 0 {
            return Found::Later;
        }
        let below = pods.iter().map(|pod| pod.wants.priority).min().unwrap_or(i32::MIN);
        self.mode = Mode::Trial(Trial::new(below, needed, self.snapshot));
        let mut decisions = Vec::with_capacity(needed);
        let waiting: Vec<PodInfo> = pods.to_vec();
        let mut waiting = waiting.into_iter().peekable();
        while !self.mode.is_enough()
            && let Some(first) = waiting.next()
        {
            self.framework = frameworks.of(&first);
            decisions.extend(self.next(first, &mut waiting));
        }
        let Mode::Trial(mut trial) = std::mem::replace(&mut self.mode, Mode::Gang) else {
            return Found::Later;
        };
        *self.dry_runs = self.dry_runs.saturating_sub(MOST_LOOKS - trial.looks);
        let is_short = trial.looks > 0;
        let places = decisions.iter().filter_map(place_of);
        let places: Vec<(PodInfo, String)> =
            places.map(|(pod, node)| (pod.clone(), node.to_string())).collect();
        let victims = (places.len() >= needed).then(|| {
            trial.spare(&Places::of(&places, frameworks, self.snapshot), self.snapshot);
            trial.victims()
        });
        trial.take_back(self.snapshot);
        before.forget(places.iter().map(|(pod, _)| pod), self.snapshot);
        before.restore_volumes(self.snapshot);
        match victims {
            Some(victims) => Found::Room { places, victims },
            None if is_short => {
                let text = format!(
                    "without pods of lower priority there would be room for {} of the {needed} pods.",
                    places.len()
                );
                Found::Nothing { text, hopeless: true }
            }
            None => Found::Nothing { text: TOO_LONG.into(), hopeless: true },
        }
    }

    fn may_preempt_for(
        &self,
        pods: &[PodInfo],
        before: &Before,
        frameworks: &dyn Frameworks,
    ) -> Result<(), &'static str> {
        if !pods.iter().all(|pod| frameworks.of(pod).preemption.wanted) {
            return Err(OFF);
        }
        if pods.iter().any(|pod| pod.wants.never_preempts) {
            return Err(NEVER);
        }
        let waits = |pod: &PodInfo| {
            let node = &before.kept.get(&pod.uid)?.node;
            let index = self.snapshot.index_of(node)?;
            let mut lower = self.snapshot.residents_below(node, pod.wants.priority);
            if !lower.any(|(_, one)| one.is_preempted) {
                return None;
            }
            // On a node that refuses it for good it waits for nothing.
            let (info, framework) = (self.snapshot.for_pod(index, pod), frameworks.of(pod));
            let refused = framework.refuse(pod, &info).map(|(filter, _)| filter);
            Some(refused.is_none_or(|one| framework.filters[one].is_resolvable(pod, &info)))
        };
        match pods.iter().any(|pod| waits(pod) == Some(true)) {
            true => Err(UNDER_WAY),
            false => Ok(()),
        }
    }

    /// Makes the room that was found, or tells why there is none.
    fn act(
        &mut self,
        group: &Arc<GroupId>,
        refusals: Vec<Decision>,
        found: Found,
        nominees: &BTreeSet<String>,
    ) -> Vec<Decision> {
        let (mut places, victims) = match found {
            Found::Room { places, victims } => (places, victims),
            Found::Later => {
                let later = |one: Decision| match one {
                    Decision::Refuse { pod, .. } => Decision::Later { pod },
                    other => other,
                };
                return refusals.into_iter().map(later).collect();
            }
            Found::Nothing { text, hopeless } => {
                let refuse = |one: Decision| match one {
                    Decision::Refuse { pod, mut refusal, .. } => {
                        refusal.preemption = Some(text.clone());
                        self.refuse_member(pod, refusal, hopeless)
                    }
                    other => other,
                };
                return refusals.into_iter().map(refuse).collect();
            }
        };
        let mut waiting: BTreeMap<String, (PodInfo, Refusal)> = BTreeMap::new();
        let mut decisions = Vec::new();
        for one in refusals {
            match one {
                Decision::Refuse { pod, refusal, .. } => {
                    waiting.insert(pod.uid.clone(), (pod, refusal));
                }
                other => decisions.push(other),
            }
        }
        // Of pods whose priorities differ nobody has to give way to the others.
        places.sort_by_key(|(pod, _)| Reverse(pod.wants.priority));
        let (mut members, mut displaced) = (Vec::new(), Vec::new());
        let mut uids: Vec<&str> = victims.iter().map(|victim| victim.uid.as_str()).collect();
        for (pod, node) in places {
            let Some((_, refusal)) = waiting.remove(&pod.uid) else { continue };
            let leaving = std::mem::take(&mut uids);
            displaced.extend(self.snapshot.nominate(&pod, &node, leaving.into_iter()).0);
            members.push(Member { pod, node, refusal });
        }
        let group = group.clone();
        decisions.push(Decision::PreemptForGang(GangPreemption {
            group,
            members,
            victims,
            displaced,
        }));
        for (uid, (pod, refusal)) in waiting {
            decisions.push(self.refuse_member(pod, refusal, nominees.contains(&uid)));
        }
        decisions
    }

    fn group_refusal(&self, group: &GroupId, text: &str, why: Option<Refusal>) -> Refusal {
        let mut refusal = why.unwrap_or_else(|| {
            let whole = Some(format!("pod group {group}: {text}"));
            Refusal { nodes: self.snapshot.nodes().len(), whole, ..Refusal::default() }
        });
        if refusal.group.is_none() && refusal.whole.is_none() {
            refusal.group = Some(format!("pod group {group}: {text}"));
        }
        if !refusal.wakes.contains(&group.wake()) {
            refusal.wakes.push(group.wake());
        }
        refusal
    }

    /// Refuses a pod, which is a nominee no more where there is nothing that it waits for.
    fn refuse_member(&mut self, pod: PodInfo, refusal: Refusal, hopeless: bool) -> Decision {
        let ends_nomination = hopeless && self.snapshot.nominees().node_of(&pod.uid).is_some();
        if ends_nomination {
            self.snapshot.end_nomination(&pod.uid, "");
        }
        Decision::Refuse { pod, refusal, ends_nomination }
    }
}
