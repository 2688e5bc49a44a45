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
use super::gangs::{GangPreemption, Mode};
use super::pod_info::PodInfo;
use super::preemption::{DRY_RUNS_A_CYCLE, Known, Outcome, Preemption, Search};
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
    /// Room is made for pods of a gang together.
    PreemptForGang(GangPreemption),
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

impl Decision {
    /// What tells that the volumes of a pod are there for which they are being made.
    pub(super) fn provided(&self) -> Vec<Wake> {
        match self {
            Decision::Provide { pod, .. } => pod.volumes.wakes(),
            _ => Vec::new(),
        }
    }

    /// The one pod that it is about.
    pub(super) fn into_pod(self) -> Option<PodInfo> {
        match self {
            Decision::PreemptForGang(_) => None,
            Decision::Bind { pod, .. }
            | Decision::Provide { pod, .. }
            | Decision::Hold { pod, .. }
            | Decision::Refuse { pod, .. }
            | Decision::Preempt { pod, .. }
            | Decision::Later { pod }
            | Decision::Fail { pod, .. } => Some(pod),
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
        let mode = if is_gang { Mode::Gang } else { Mode::Alone };
        let mut work = Work { snapshot, framework, classes, dry_runs: &mut dry_runs, mode };
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
pub(super) struct Work<'a> {
    pub(super) snapshot: &'a mut Snapshot,
    pub(super) framework: &'a Framework,
    pub(super) classes: &'a mut Classes,
    pub(super) dry_runs: &'a mut usize,
    pub(super) mode: Mode,
}

impl<'a> Work<'a> {
    /// Decides about a pod, and those that come after it and are like it.
    pub(super) fn next(
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

    /// A panic in a plugin costs the pods that want the same one try, and nobody else anything.
    fn guarded(&mut self, pods: Vec<PodInfo>) -> Vec<Decision> {
        let text = match self.caught(|work| work.schedule_equal(&pods)) {
            Ok(decisions) => return decisions,
            Err(text) => text,
        };
        tracing::error!(pod = %pods[0].key, pods = pods.len(), text, "scheduling panicked");
        let fail = |pod: PodInfo| {
            self.snapshot.forget(&pod.uid);
            Decision::Fail { pod, text: format!("the scheduler failed: {text}") }
        };
        pods.into_iter().map(fail).collect()
    }

    /// Does something, or tells the text of the panic that it ended in.
    pub(super) fn caught<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> Result<T, String> {
        std::panic::catch_unwind(AssertUnwindSafe(|| act(self))).map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            text.unwrap_or("no message").to_string()
        })
    }

    fn schedule_equal(&mut self, pods: &[PodInfo]) -> Vec<Decision> {
        let first = &pods[0];
        let asked = slots::ask(first, self.snapshot, self.framework);
        if let Some(own) = self.snapshot.nominated_index(&first.uid)
            && let Some(decision) = self.take_place(first, own, &asked)
        {
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
        let mut found = Resolvable::default();
        for (at, pod) in pods.iter().enumerate() {
            if self.mode.is_enough() {
                break;
            }
            class.catch_up(self.snapshot, self.framework);
            if let Some(best) = class.best(self.snapshot, self.framework) {
                decisions.push(self.place(pod, best));
            } else if let Some(node) = self.make_room(pod, &class.slots, &mut found) {
                decisions.push(self.place(pod, node));
            } else {
                decisions.extend(self.refuse(&pods[at..], &class.slots));
                break;
            }
        }
        if !is_alone {
            self.classes.put(class);
        }
        decisions
    }

    fn place(&mut self, pod: &PodInfo, node: usize) -> Decision {
        let name = self.snapshot.nodes()[node].name.to_string();
        self.mode.count();
        if !pod.volumes.unbound.is_empty() {
            let steps = pod.volumes.steps(&self.snapshot.nodes()[node]).unwrap_or_default();
            self.snapshot.volumes.assume(&steps, &name);
            if matches!(self.mode, Mode::Trial(_)) {
                // Until its volumes are there the place is kept for it.
                self.snapshot.assume(pod, &name);
            }
            return Decision::Provide { pod: pod.clone(), node: name, steps };
        }
        self.snapshot.assume(pod, &name);
        Decision::Bind { pod: pod.clone(), node: name }
    }

    /// A nominee goes to its own node if that takes it, whatever the others are like.
    pub(super) fn take_place(
        &mut self,
        pod: &PodInfo,
        own: usize,
        asked: &[Vec<Slot>],
    ) -> Option<Decision> {
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
        if !matches!(self.mode, Mode::Alone) {
            // Room is looked for once it is known what all of them lack.
            let refuse = |pod: &PodInfo| Decision::Refuse {
                pod: pod.clone(),
                refusal: refusal.clone(),
                ends_nomination: false,
            };
            return pods.iter().map(refuse).collect();
        }
        let below = pods[0].wants.priority;
        let mut search = Search::new(framework, slots, &resolvable, below, self.dry_runs);
        let mut hopeless: Option<Outcome> = None;
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

    /// In a trial: takes the pods away that have to go so that this one fits on a node.
    fn make_room(&mut self, pod: &PodInfo, slots: &Slots, found: &mut Resolvable) -> Option<usize> {
        let Mode::Trial(trial) = &mut self.mode else { return None };
        let (snapshot, framework) = (&mut *self.snapshot, self.framework);
        if trial.looks == 0 {
            return None;
        }
        // What domains say changes with every pod; what else is refused for good stays so.
        if slots.are_hard() || !found.is_known {
            let nodes = resolvable(pod, slots, snapshot, framework);
            trial.count_short(snapshot.nodes().len());
            *found = Resolvable { is_known: true, nodes, known: Known::new() };
        }
        let mut search = Search::new(framework, slots, &found.nodes, trial.below, &mut trial.looks);
        search.known = std::mem::take(&mut found.known);
        let (node, candidate) = search.best(pod, snapshot)?;
        found.known = search.known;
        if trial.take_away(&candidate, snapshot) {
            found.known.clear();
        } else {
            found.known.remove(&node);
        }
        Some(node)
    }
}

/// Where pods that want the same may make room, as a trial found it out.
#[derive(Default)]
struct Resolvable {
    is_known: bool,
    nodes: Vec<usize>,
    known: Known,
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
    let below = pod.wants.priority;
    let mut search = Search::new(framework, &slots, &[], below, &mut dry_runs);
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

/// The nodes that refuse the pod now, and may take it where pods leave.
fn resolvable(
    pod: &PodInfo,
    slots: &Slots,
    snapshot: &Snapshot,
    framework: &Framework,
) -> Vec<usize> {
    let may_help = |index: &usize| {
        let node = snapshot.for_pod(*index, pod);
        match framework.refuse(pod, &node) {
            Some((filter, _)) => framework.filters[filter].is_resolvable(pod, &node),
            None => slots
                .refuse_node(snapshot, framework, *index, pod)
                .is_some_and(|(_, objection)| objection.is_resolvable),
        }
    };
    (0..snapshot.nodes().len()).filter(may_help).collect()
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
            let is_resolvable = filter.is_resolvable(pod, &node);
            refusal.add(filter.name(), is_resolvable, reasons, filter.woken_by());
            if is_resolvable {
                resolvable.push(index);
            }
        } else if let Some((plugin, objection)) = slots.refuse_node(snapshot, framework, index, pod)
        {
            by_domains[plugin] = true;
            let name = framework.domains[plugin].name();
            refusal.add(name, objection.is_resolvable, vec![objection.reason.into()], &[]);
            if objection.is_resolvable {
                resolvable.push(index);
            }
        }
    }
    let plugins = framework.domains.iter().enumerate().filter(|(n, _)| by_domains[*n]);
    for (n, plugin) in plugins {
        refusal.add(plugin.name(), false, Reasons::new(), &plugin.woken_by(&slots.asked_by(n)));
    }
    (refusal, resolvable)
}
