//! One scheduling cycle: a batch of pods against one snapshot, pure.
//!
//! Pods that want the same share the work: filters and fixed scores run once a node for all of
//! them; placing a pod changes one node, so only that node is looked at again; why nobody takes the
//! rest is found out once. A batch of P equal pods on N nodes costs O(N + P log N).

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use super::framework::{Framework, Refusal, Wake};
use super::snapshot::{PodInfo, Snapshot, Wants};
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
    let mut pods = pods.into_iter().peekable();
    while let Some(mut first) = pods.next() {
        let wants = first.wants.clone();
        if !wants.claims.is_empty() {
            // What its claims need is its own, and what the pods before it got is seen.
            match snapshot.volumes.needs(&first.key, &first.uid, &wants.claims) {
                Ok(needs) => {
                    first.volumes = Arc::new(needs);
                    decisions.extend(guarded(vec![first], snapshot, framework));
                }
                Err(blocked) => decisions.push(refuse_whole(first, blocked, snapshot)),
            }
            continue;
        }
        let mut same = vec![first];
        while let Some(next) = pods.next_if(|next| equal(&next.wants, &wants)) {
            same.push(next);
        }
        decisions.extend(guarded(same, snapshot, framework));
    }
    decisions
}

/// A panic in a plugin costs the pods that want the same one try, and nobody else anything.
fn guarded(pods: Vec<PodInfo>, snapshot: &mut Snapshot, framework: &Framework) -> Vec<Decision> {
    let decide = AssertUnwindSafe(|| schedule_equal(&pods, snapshot, framework));
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
fn refuse_whole(pod: PodInfo, blocked: Blocked, snapshot: &Snapshot) -> Decision {
    let refusal = Refusal {
        nodes: snapshot.nodes().len(),
        whole: Some(blocked.text),
        wakes: vec![blocked.wake],
        ..Refusal::default()
    };
    Decision::Refuse { pod, refusal }
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
) -> Vec<Decision> {
    let mut decisions = Vec::with_capacity(pods.len());
    let mut heap = BinaryHeap::new();
    for (index, node) in snapshot.nodes().iter().enumerate() {
        let pod = &pods[0];
        if framework.refuse(pod, node).is_none() {
            let fixed = framework.fixed_score(pod, node);
            let total = fixed + framework.moving_score(pod, node);
            heap.push(Candidate { total, fixed, pods: node.pods, index });
        }
    }
    for (index, pod) in pods.iter().enumerate() {
        let Some(best) = heap.pop() else {
            // No more of these is placed, so that the answer stays the same.
            let refusal = explain(pod, snapshot, framework);
            let refuse =
                |pod: &PodInfo| Decision::Refuse { pod: pod.clone(), refusal: refusal.clone() };
            decisions.extend(pods[index..].iter().map(refuse));
            break;
        };
        let name = snapshot.nodes()[best.index].name.clone();
        if !pod.volumes.unbound.is_empty() {
            let steps = pod.volumes.steps(&snapshot.nodes()[best.index]).unwrap_or_default();
            snapshot.volumes.assume(&steps, &name);
            decisions.push(Decision::Provide { pod: pod.clone(), node: name, steps });
            continue;
        }
        snapshot.assume(pod, &name);
        let node = &snapshot.nodes()[best.index];
        if framework.still_fits(pod, node) {
            let total = best.fixed + framework.moving_score(pod, node);
            heap.push(Candidate { total, pods: node.pods, ..best });
        }
        decisions.push(Decision::Bind { pod: pod.clone(), node: name });
    }
    decisions
}

/// Says why each node refuses the pod now.
fn explain(pod: &PodInfo, snapshot: &Snapshot, framework: &Framework) -> Refusal {
    let mut refusal = Refusal { nodes: snapshot.nodes().len(), ..Refusal::default() };
    if refusal.nodes == 0 {
        refusal.wakes.push(Wake::Node);
    }
    for node in snapshot.nodes() {
        if let Some((filter, reasons)) = framework.refuse(pod, node) {
            refusal.add(reasons, framework.filters[filter].woken_by());
        }
    }
    refusal
}
