//! One scheduling cycle: a batch of pods against one snapshot, pure.
//!
//! Pods that want the same, and mean the same to others, are of one class and share the work
//! ([`super::class`]); why nobody takes the rest of them is found out once. Nominees come alone, since
//! to each its own node looks different than to all others, and so do pods with claims.

use std::iter::Peekable;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use super::class::{Class, Classes};
use super::framework::{Framework, Frameworks, Reasons, Refusal, Wake};
use super::groups::GroupId;
use super::pod_info::PodInfo;
use super::preemption::{DRY_RUNS_A_CYCLE, Outcome, Preemption, Search};
use super::slots::{self, Slot, Slots};
use super::snapshot::Snapshot;
use super::volumes::{Blocked, Step};

/// What was decided about one pod of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Bind {
        pod: PodInfo,
        node: String,
    },
    /// Its claims get their volumes first; there may be nothing left to do but to wait for them.
    Provide {
        pod: PodInfo,
        node: String,
        steps: Vec<Step>,
    },
    /// Others of its group wait for their volumes.
    Hold {
        pod: PodInfo,
        wakes: Vec<Wake>,
    },
    Refuse {
        pod: PodInfo,
        refusal: Refusal,
        /// It was a nominee, and is none any more.
        ends_nomination: bool,
    },
    /// Nobody takes it, and room is made for it.
    Preempt {
        pod: PodInfo,
        refusal: Refusal,
        preemption: Preemption,
    },
    /// It is looked at in the next cycle.
    Later {
        pod: PodInfo,
    },
    /// A plugin panicked over it.
    Fail {
        pod: PodInfo,
        text: String,
    },
}

const NOT_FOR_GROUPS: &str = "not done for pod groups.";

impl Decision {
    /// What tells that the volumes of a pod are there for which they are being made.
    fn provided(&self) -> Vec<Wake> {
        match self {
            Decision::Provide { pod, .. } => pod.volumes.wakes(),
            _ => Vec::new(),
        }
    }

    fn into_pod(self) -> PodInfo {
        match self {
            Decision::Bind { pod, .. }
            | Decision::Provide { pod, .. }
            | Decision::Hold { pod, .. }
            | Decision::Refuse { pod, .. }
            | Decision::Preempt { pod, .. }
            | Decision::Later { pod }
            | Decision::Fail { pod, .. } => pod,
        }
    }
}

/// Decides about every pod in order (the queue's order is priority, then age) and counts the
/// placed ones as assumed in the snapshot.
pub fn schedule(
    pods: Vec<PodInfo>,
    snapshot: &mut Snapshot,
    frameworks: &dyn Frameworks,
) -> Vec<Decision> {
    schedule_with(pods, snapshot, frameworks, &mut Classes::default())
}

/// [`schedule`] with what earlier cycles found out about this snapshot with these frameworks.
pub fn schedule_with(
    pods: Vec<PodInfo>,
    snapshot: &mut Snapshot,
    frameworks: &dyn Frameworks,
    classes: &mut Classes,
) -> Vec<Decision> {
    if snapshot.topology.sweep() {
        classes.clear();
    }
    let mut decisions = Vec::with_capacity(pods.len());
    let mut dry_runs = DRY_RUNS_A_CYCLE;
    let mut pods = pods.into_iter().peekable();
    while let Some(first) = pods.next() {
        let framework = frameworks.of(&first);
        let is_gang = first.together > 0;
        let may_preempt = !is_gang;
        let mut work = Work { snapshot, framework, classes, dry_runs: &mut dry_runs, may_preempt };
        if is_gang {
            let mut gang = vec![first];
            while let Some(next) = pods.next_if(|next| next.group == gang[0].group) {
                gang.push(next);
            }
            decisions.extend(work.permit(gang, frameworks));
        } else {
            decisions.extend(work.next(first, &mut pods));
        }
    }
    decisions
}

/// Whether the same is asked about both. Pods of one workload whose labels differ are decided on one
/// after the other, and share a class all the same.
fn is_like(pod: &PodInfo, other: &PodInfo) -> bool {
    let is_same = Arc::ptr_eq(&pod.wants, &other.wants) || pod.wants == other.wants;
    is_same
        && pod.key.namespace == other.key.namespace
        && pod.labels == other.labels
        && pod.controller == other.controller
}

/// What one decision after the other works with.
struct Work<'a> {
    snapshot: &'a mut Snapshot,
    framework: &'a Framework,
    classes: &'a mut Classes,
    dry_runs: &'a mut usize,
    may_preempt: bool,
}

impl<'a> Work<'a> {
    /// Decides about a pod, and those that come after it and are like it.
    fn next(
        &mut self,
        mut first: PodInfo,
        pods: &mut Peekable<std::vec::IntoIter<PodInfo>>,
    ) -> Vec<Decision> {
        if !first.wants.claims.is_empty() {
            // What its claims need is its own, and what the pods before it got is seen.
            let snapshot = &mut *self.snapshot;
            return match snapshot.volumes.needs(&first.key, &first.uid, &first.wants.claims) {
                Ok(needs) => {
                    first.volumes = Arc::new(needs);
                    self.guarded(vec![first])
                }
                Err(blocked) => vec![refuse_whole(first, blocked, snapshot, self.framework)],
            };
        }
        let is_nominee = |pod: &PodInfo| self.snapshot.nominees().node_of(&pod.uid).is_some();
        let mut same = vec![first];
        while !is_nominee(&same[0])
            && let Some(next) = pods.next_if(|next| {
                let is_alike = next.together == same[0].together && is_like(next, &same[0]);
                is_alike && !is_nominee(next)
            })
        {
            same.push(next);
        }
        self.guarded(same)
    }

    /// Decides about the pods of a group one after the other, and lets them have what they got if
    /// enough of them got something: KEP-624's Permit. Else nobody keeps a place, and nobody who
    /// waits for one is woken.
    fn permit(&mut self, pods: Vec<PodInfo>, frameworks: &'a dyn Frameworks) -> Vec<Decision> {
        let (needed, count) = (pods[0].together, pods.len());
        let Some(group) = pods[0].group.clone() else { return Vec::new() };
        if needed > count {
            let text = format!("{count} of the {needed} pods wait that are needed at once");
            return pods
                .into_iter()
                .map(|pod| self.refuse_group(pod, &group, &text, None))
                .collect();
        }
        let has_claims = pods.iter().any(|pod| !pod.wants.claims.is_empty());
        let volumes = has_claims.then(|| self.snapshot.volumes.clone());
        let signals = self.snapshot.take_signals();
        let mut decisions = Vec::with_capacity(count);
        let mut pods = pods.into_iter().peekable();
        while let Some(first) = pods.next() {
            self.framework = frameworks.of(&first);
            decisions.extend(self.next(first, &mut pods));
        }
        let is_placed =
            |one: &&Decision| matches!(one, Decision::Bind { .. } | Decision::Provide { .. });
        let placed = decisions.iter().filter(is_placed).count();
        let wakes: Vec<Wake> = decisions.iter().flat_map(Decision::provided).collect();
        if placed >= needed && wakes.is_empty() {
            self.snapshot.add_signals(signals);
            return decisions;
        }
        for decision in &decisions {
            if let Decision::Bind { pod, .. } = decision {
                self.snapshot.forget(&pod.uid);
            }
        }
        // What was taken and given back is as it was.
        self.snapshot.take_signals();
        self.snapshot.add_signals(signals);
        if placed >= needed {
            // Volumes come first, then all of them again.
            let hold = |decision: Decision| match decision {
                Decision::Bind { pod, .. } => Decision::Hold { pod, wakes: wakes.clone() },
                other => other,
            };
            return decisions.into_iter().map(hold).collect();
        }
        if let Some(volumes) = volumes {
            self.snapshot.volumes = volumes;
        }
        let text =
            format!("there is room for {placed} of the {needed} pods that are needed at once");
        let why = decisions.iter().find_map(|decision| match decision {
            Decision::Refuse { refusal, .. } => Some(refusal.clone()),
            _ => None,
        });
        let refuse = |decision: Decision| match decision {
            Decision::Fail { .. } => decision,
            Decision::Refuse { pod, refusal, .. } => {
                self.refuse_group(pod, &group, &text, Some(refusal))
            }
            other => self.refuse_group(other.into_pod(), &group, &text, why.clone()),
        };
        decisions.into_iter().map(refuse).collect()
    }

    fn refuse_group(
        &self,
        pod: PodInfo,
        group: &GroupId,
        text: &str,
        why: Option<Refusal>,
    ) -> Decision {
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
        Decision::Refuse { pod, refusal, ends_nomination: false }
    }

    /// A panic in a plugin costs the pods that want the same one try, and nobody else anything.
    fn guarded(&mut self, pods: Vec<PodInfo>) -> Vec<Decision> {
        let decide = AssertUnwindSafe(|| self.schedule_equal(&pods));
        let panic = match std::panic::catch_unwind(decide) {
            Ok(decisions) => return decisions,
            Err(panic) => panic,
        };
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        tracing::error!(pod = %pods[0].key, pods = pods.len(), text, "scheduling panicked");
        let fail = |pod: PodInfo| {
            self.snapshot.forget(&pod.uid);
            Decision::Fail { pod, text: format!("the scheduler failed: {text}") }
        };
        pods.into_iter().map(fail).collect()
    }

    fn schedule_equal(&mut self, pods: &[PodInfo]) -> Vec<Decision> {
        let first = &pods[0];
        let asked = slots::ask(first, self.snapshot, self.framework);
        if let Some(decision) = self.takes_own_place(first, &asked) {
            return vec![decision];
        }
        // Nobody else sees nodes as a nominee does, or has the volumes of a pod with claims.
        let is_alone = !first.wants.claims.is_empty()
            || self.snapshot.nominees().node_of(&first.uid).is_some();
        let kept = if is_alone { None } else { self.classes.take(first, &asked) };
        let mut class = match kept {
            Some(class) => class,
            None => {
                let mut one = first.clone();
                if !is_alone {
                    // Of all of them, and so of none that may be a nominee later.
                    one.uid.clear();
                }
                let slots = Slots::fill(asked, &one, self.snapshot);
                Class::of(&one, slots, self.snapshot, self.framework)
            }
        };
        let mut decisions = Vec::with_capacity(pods.len());
        for (at, pod) in pods.iter().enumerate() {
            class.catch_up(self.snapshot, self.framework);
            let Some(best) = class.best(self.snapshot, self.framework) else {
                decisions.extend(self.refuse(&pods[at..], &class.slots));
                break;
            };
            decisions.push(self.place(pod, best));
        }
        if !is_alone {
            self.classes.put(class);
        }
        decisions
    }

    fn place(&mut self, pod: &PodInfo, node: usize) -> Decision {
        let name = self.snapshot.nodes()[node].name.to_string();
        if !pod.volumes.unbound.is_empty() {
            let steps = pod.volumes.steps(&self.snapshot.nodes()[node]).unwrap_or_default();
            self.snapshot.volumes.assume(&steps, &name);
            return Decision::Provide { pod: pod.clone(), node: name, steps };
        }
        self.snapshot.assume(pod, &name);
        Decision::Bind { pod: pod.clone(), node: name }
    }

    /// A nominee goes to its own node if that takes it, whatever the others are like.
    fn takes_own_place(&mut self, pod: &PodInfo, asked: &[Vec<Slot>]) -> Option<Decision> {
        let own = self.snapshot.nominated_index(&pod.uid)?;
        let info = self.snapshot.for_pod(own, pod);
        if self.framework.refuse(pod, &info).is_some() {
            return None;
        }
        let has_rules = asked.iter().flatten().any(|slot| slot.rule.is_hard());
        if has_rules {
            let slots = Slots::fill(asked.to_vec(), pod, self.snapshot);
            if slots.refuse_node(self.snapshot, self.framework, own, pod).is_some() {
                return None;
            }
        }
        Some(self.place(pod, own))
    }

    /// Nobody takes these pods, and no more of them is placed, so that why stays the same. Room may
    /// be made for some.
    fn refuse(&mut self, pods: &[PodInfo], slots: &Slots) -> Vec<Decision> {
        let (snapshot, framework) = (&mut *self.snapshot, self.framework);
        let (refusal, resolvable) = explain(&pods[0], slots, snapshot, framework);
        let mut search = Search::new(framework, slots, &resolvable, self.dry_runs);
        let mut hopeless = (!self.may_preempt)
            .then(|| Outcome::Nothing { text: NOT_FOR_GROUPS.into(), hopeless: false });
        let decide = |pod: &PodInfo| {
            // Where none could be made for one of them, nothing changes for the next.
            let outcome = hopeless.clone().unwrap_or_else(|| search.preempt(pod, snapshot));
            if matches!(outcome, Outcome::Nothing { .. }) {
                hopeless = Some(outcome.clone());
            }
            after_refusal(pod.clone(), refusal.clone(), outcome, snapshot)
        };
        pods.iter().map(decide).collect()
    }
}

/// No node will do.
fn refuse_whole(
    pod: PodInfo,
    blocked: Blocked,
    snapshot: &mut Snapshot,
    framework: &Framework,
) -> Decision {
    let refusal = Refusal {
        nodes: snapshot.nodes().len(),
        whole: Some(blocked.text),
        wakes: vec![blocked.wake],
        ..Refusal::default()
    };
    // Nobody who leaves changes that.
    let mut dry_runs = DRY_RUNS_A_CYCLE;
    let slots = Slots::default();
    let mut search = Search::new(framework, &slots, &[], &mut dry_runs);
    let outcome = search.preempt(&pod, snapshot);
    after_refusal(pod, refusal, outcome, snapshot)
}

fn after_refusal(
    pod: PodInfo,
    mut refusal: Refusal,
    outcome: Outcome,
    snapshot: &mut Snapshot,
) -> Decision {
    match outcome {
        Outcome::Preempt(preemption) => Decision::Preempt { pod, refusal, preemption },
        Outcome::Later => Decision::Later { pod },
        Outcome::Nothing { text, hopeless } => {
            refusal.preemption = Some(text);
            let ends_nomination = hopeless && snapshot.nominees().node_of(&pod.uid).is_some();
            if ends_nomination {
                snapshot.end_nomination(&pod.uid, "");
            }
            Decision::Refuse { pod, refusal, ends_nomination }
        }
    }
}

/// Says why each node refuses the pod now, and which of them may take it where pods leave.
fn explain(
    pod: &PodInfo,
    slots: &Slots,
    snapshot: &Snapshot,
    framework: &Framework,
) -> (Refusal, Vec<usize>) {
    let mut refusal = Refusal { nodes: snapshot.nodes().len(), ..Refusal::default() };
    let mut resolvable = Vec::new();
    if refusal.nodes == 0 {
        refusal.wakes.push(Wake::Node);
    }
    let mut by_domains = vec![false; framework.domains.len()];
    for index in 0..refusal.nodes {
        let node = snapshot.for_pod(index, pod);
        if let Some((filter, reasons)) = framework.refuse(pod, &node) {
            let filter = &framework.filters[filter];
            refusal.add(filter.name(), reasons, filter.woken_by());
            if filter.is_resolvable(pod, &node) {
                resolvable.push(index);
            }
        } else if let Some((plugin, objection)) = slots.refuse_node(snapshot, framework, index, pod)
        {
            by_domains[plugin] = true;
            let name = framework.domains[plugin].name();
            refusal.add(name, vec![objection.reason.into()], &[]);
            if objection.is_resolvable {
                resolvable.push(index);
            }
        }
    }
    let plugins = framework.domains.iter().enumerate().filter(|(n, _)| by_domains[*n]);
    for (n, plugin) in plugins {
        refusal.add(plugin.name(), Reasons::new(), &plugin.woken_by(&slots.asked_by(n)));
    }
    (refusal, resolvable)
}
