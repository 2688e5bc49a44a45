//! One scheduling cycle: a batch of pods against one snapshot, pure.
//!
//! Pods that want the same share the work: filters and fixed scores run once a node for all of
//! them; placing a pod changes one node, so only that node is looked at again; why nobody takes the
//! rest is found out once. A batch of P equal pods on N nodes costs O(N + P log N). Nominees come
//! alone, since to each its own node looks different than to all others.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use super::framework::{Framework, Refusal, Wake};
use super::pod_info::{PodInfo, Wants};
use super::preemption::{DRY_RUNS_A_CYCLE, Outcome, Preemption, Search};
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

/// Decides about every pod in order (the queue's order is priority, then age) and counts the
/// placed ones as assumed in the snapshot.
pub fn schedule(
    pods: Vec<PodInfo>,
    snapshot: &mut Snapshot,
    framework: &Framework,
) -> Vec<Decision> {
    let mut decisions = Vec::with_capacity(pods.len());
    let mut dry_runs = DRY_RUNS_A_CYCLE;
    let mut pods = pods.into_iter().peekable();
    while let Some(mut first) = pods.next() {
        let wants = first.wants.clone();
        if !wants.claims.is_empty() {
            // What its claims need is its own, and what the pods before it got is seen.
            match snapshot.volumes.needs(&first.key, &first.uid, &wants.claims) {
                Ok(needs) => {
                    first.volumes = Arc::new(needs);
                    decisions.extend(guarded(vec![first], snapshot, framework, &mut dry_runs));
                }
                Err(blocked) => {
                    decisions.push(refuse_whole(first, blocked, snapshot, framework));
                }
            }
            continue;
        }
        let is_nominee = |pod: &PodInfo| snapshot.nominees().node_of(&pod.uid).is_some();
        let mut same = vec![first];
        while !is_nominee(&same[0])
            && let Some(next) = pods.next_if(|next| equal(&next.wants, &wants) && !is_nominee(next))
        {
            same.push(next);
        }
        decisions.extend(guarded(same, snapshot, framework, &mut dry_runs));
    }
    decisions
}

/// A panic in a plugin costs the pods that want the same one try, and nobody else anything.
fn guarded(
    pods: Vec<PodInfo>,
    snapshot: &mut Snapshot,
    framework: &Framework,
    dry_runs: &mut usize,
) -> Vec<Decision> {
    let decide = AssertUnwindSafe(|| schedule_equal(&pods, snapshot, framework, dry_runs));
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
        snapshot.forget(&pod.uid);
        Decision::Fail { pod, text: format!("the scheduler failed: {text}") }
    };
    pods.into_iter().map(fail).collect()
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
    let mut search = Search::new(framework, &[], &mut dry_runs);
    let outcome = search.preempt(&pod, snapshot);
    after_refusal(pod, refusal, outcome, snapshot)
}

fn equal(a: &Arc<Wants>, b: &Arc<Wants>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// A node that can run the pods; the greatest is the best.
struct Candidate {
    total: i64,
    fixed: i64,
    /// Breaks ties so that equal nodes take turns: the smaller, the fewer pods it has.
    pods: i64,
    index: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        let key = |c: &Candidate| (c.total, -c.pods, std::cmp::Reverse(c.index));
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

fn schedule_equal(
    pods: &[PodInfo],
    snapshot: &mut Snapshot,
    framework: &Framework,
    dry_runs: &mut usize,
) -> Vec<Decision> {
    let mut decisions = Vec::with_capacity(pods.len());
    let mut heap = candidates(&pods[0], snapshot, framework);
    for (at, pod) in pods.iter().enumerate() {
        let Some(best) = heap.pop() else {
            decisions.extend(refuse(&pods[at..], snapshot, framework, dry_runs));
            break;
        };
        let name = snapshot.nodes()[best.index].name.to_string();
        if !pod.volumes.unbound.is_empty() {
            let steps = pod.volumes.steps(&snapshot.nodes()[best.index]).unwrap_or_default();
            snapshot.volumes.assume(&steps, &name);
            decisions.push(Decision::Provide { pod: pod.clone(), node: name, steps });
            continue;
        }
        snapshot.assume(pod, &name);
        let node = snapshot.for_pod(best.index, pod);
        if framework.still_fits(pod, &node) {
            let total = best.fixed + framework.moving_score(pod, &node);
            heap.push(Candidate { total, pods: node.pods, ..best });
        }
        decisions.push(Decision::Bind { pod: pod.clone(), node: name });
    }
    decisions
}

/// The nodes that take such a pod; of a nominee only its own, if that does.
fn candidates(pod: &PodInfo, snapshot: &Snapshot, framework: &Framework) -> BinaryHeap<Candidate> {
    let look = |index: usize| {
        let node = snapshot.for_pod(index, pod);
        if framework.refuse(pod, &node).is_some() {
            return None;
        }
        let fixed = framework.fixed_score(pod, &node);
        let total = fixed + framework.moving_score(pod, &node);
        Some(Candidate { total, fixed, pods: node.pods, index })
    };
    if let Some(own) = snapshot.nominated_index(&pod.uid).and_then(look) {
        return BinaryHeap::from([own]);
    }
    (0..snapshot.nodes().len()).filter_map(look).collect()
}

/// Nobody takes these pods, and no more of them is placed, so that why stays the same. Room may be
/// made for some.
fn refuse(
    pods: &[PodInfo],
    snapshot: &mut Snapshot,
    framework: &Framework,
    dry_runs: &mut usize,
) -> Vec<Decision> {
    let (refusal, resolvable) = explain(&pods[0], snapshot, framework);
    let mut search = Search::new(framework, &resolvable, dry_runs);
    let mut hopeless = None;
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
fn explain(pod: &PodInfo, snapshot: &Snapshot, framework: &Framework) -> (Refusal, Vec<usize>) {
    let mut refusal = Refusal { nodes: snapshot.nodes().len(), ..Refusal::default() };
    let mut resolvable = Vec::new();
    if refusal.nodes == 0 {
        refusal.wakes.push(Wake::Node);
    }
    for index in 0..refusal.nodes {
        let node = snapshot.for_pod(index, pod);
        if let Some((filter, reasons)) = framework.refuse(pod, &node) {
            let filter = &framework.filters[filter];
            refusal.add(reasons, filter.woken_by());
            if filter.is_resolvable(pod, &node) {
                resolvable.push(index);
            }
        }
    }
    (refusal, resolvable)
}
