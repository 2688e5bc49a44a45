//! Why a pod is where it is, or nowhere: the same filters and scores as in a cycle, asked of every
//! node over the same snapshot, and told instead of acted upon. Pure; [`Explainer`] is the door.
//!
//! Which taint a node has is not told: who may look at pods need not know it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::NAME;
use super::advice;
use super::framework::{Framework, Frameworks, MAX_SCORE, Reasons, Refusal};
use super::gangs;
use super::groups::{GroupId, UNKNOWN};
use super::pod_info::{PodInfo, Wants, nominated_node};
use super::resources::Amount;
use super::slots::{self, Slots};
use super::snapshot::{NodeInfo, Snapshot};
use super::state::State;
use crate::api::quantity::Quantity;
use crate::api::why::{API_VERSION, Count, Explanation, KIND, Score, Verdict};

/// Answers questions about pods from what the scheduler knows; cheap to clone.
#[derive(Clone)]
pub struct Explainer {
    state: Arc<Mutex<State>>,
}

impl Explainer {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Explainer {
        Explainer { state }
    }

    /// Looks at every node, which takes some milliseconds for thousands of them: the scheduler waits
    /// meanwhile. Tells of `most` nodes one by one.
    pub fn explain(&self, pod: &Pod, most: usize) -> Explanation {
        let mut state = self.state.lock();
        let (profiles, gang) = (state.profiles.clone(), Gang::of(pod, &state));
        explain(pod, &gang, &mut state.snapshot, &*profiles, most)
    }
}

/// What becomes of a pod's group.
pub enum Gang {
    /// It has none, or none that is needed at once.
    Alone,
    /// Its pods take no part yet: why, and what would help.
    Waits(String, &'static str),
    /// These pods are tried together.
    Tried(Vec<PodInfo>),
}

impl Gang {
    fn of(pod: &Pod, state: &State) -> Gang {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let is_placed = node.is_some_and(|node| !node.is_empty());
        let Some(group) = GroupId::of(pod).filter(|_| !is_placed) else { return Gang::Alone };
        if let Some(why) = state.groups.waits_for(&group) {
            let is_known = state.groups.lacks(&group, |_| false) != UNKNOWN;
            return Gang::Waits(why, if is_known { advice::FEW_PODS } else { advice::NO_WORKLOAD });
        }
        let mut pods = state.queue.of_group(&group);
        state.set_together(&mut pods);
        match pods.first().is_some_and(|one| one.together > 0) {
            true => Gang::Tried(pods),
            false => Gang::Alone,
        }
    }

    /// Why the pod goes nowhere for the sake of its group, and what would help.
    fn refusal(
        &self,
        snapshot: &mut Snapshot,
        frameworks: &dyn Frameworks,
    ) -> Option<(Refusal, Vec<&'static str>)> {
        match self {
            Gang::Alone => None,
            Gang::Waits(why, help) => {
                let (nodes, whole) = (snapshot.nodes().len(), Some(why.clone()));
                Some((Refusal { nodes, whole, ..Refusal::default() }, vec![*help]))
            }
            Gang::Tried(pods) => {
                let refusal = gangs::lacks_room(pods.clone(), snapshot, frameworks)?;
                let helps = refusal.helps();
                Some((refusal, helps))
            }
        }
    }
}

/// Tells what each node says of a pod; of one that has its place, as if another one like it came.
pub fn explain(
    pod: &Pod,
    gang: &Gang,
    snapshot: &mut Snapshot,
    frameworks: &dyn Frameworks,
    most: usize,
) -> Explanation {
    let mut info = PodInfo::of(pod);
    let framework = frameworks.of(&info);
    let place = info.wants.node_name.clone();
    if !place.is_empty() {
        // Else only its own node would be asked.
        Arc::<Wants>::make_mut(&mut info.wants).node_name.clear();
    }
    let schedulers = frameworks.schedulers();
    if place.is_empty() && !schedulers.contains(&info.wants.scheduler.as_str()) {
        return of_another(pod, info, &schedulers, snapshot.nodes().len());
    }
    let together = gang.refusal(snapshot, frameworks);
    let mut look = Look::default();
    match snapshot.volumes.needs(&info.key, &info.uid, &info.wants.claims) {
        Ok(needs) => {
            info.volumes = Arc::new(needs);
            look.all(&info, snapshot, framework);
        }
        Err(blocked) => {
            look.help.push("the pod waits for its claims, whatever the nodes are".into());
            look.refusal.whole = Some(blocked.text);
        }
    }
    look.refusal.nodes = snapshot.nodes().len();
    let feasible = look.verdicts.iter().filter(|verdict| verdict.filter.is_none()).count();
    look.verdicts.sort_by(|a, b| {
        let key = |v: &Verdict| (v.filter.is_some(), std::cmp::Reverse(v.total));
        key(a).cmp(&key(b)).then_with(|| a.node.cmp(&b.node))
    });
    look.verdicts.truncate(most);
    let is_nowhere = !place.is_empty() && snapshot.node(&place).is_none();
    let mut help = if feasible == 0 { look.helps() } else { Vec::new() };
    let message = match together {
        Some((refusal, helps)) => {
            let new =
                helps.into_iter().filter(|one| !help.iter().any(|told| told.starts_with(one)));
            let new: Vec<String> = new.map(str::to_string).collect();
            help.extend(new);
            refusal.message()
        }
        None if is_nowhere => format!("there is no node {place:?}: nobody runs the pod"),
        None if feasible == 0 => look.refusal.message(),
        None => String::new(),
    };
    let counts = look.counts.into_iter();
    let mut refusals: Vec<Count> = counts
        .map(|((filter, reason), nodes)| Count { filter: filter.into(), reason, nodes })
        .collect();
    refusals.sort_by_key(|count| std::cmp::Reverse(count.nodes));
    Explanation {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        namespace: info.key.namespace.clone(),
        name: info.key.name.clone(),
        state: state_of(pod, &place, true),
        message,
        nodes_total: snapshot.nodes().len(),
        nodes_feasible: feasible,
        refusals,
        nodes: look.verdicts,
        help,
    }
}

/// What is told of a pod that waits for another scheduler, whatever the nodes are.
fn of_another(pod: &Pod, info: PodInfo, schedulers: &[&str], nodes_total: usize) -> Explanation {
    let named = &info.wants.scheduler;
    let ours = schedulers.join(", ");
    Explanation {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        state: state_of(pod, "", false),
        message: format!(
            "no profile of this cluster's scheduler is named {named:?}: it has {ours}"
        ),
        namespace: info.key.namespace,
        name: info.key.name,
        nodes_total,
        nodes_feasible: 0,
        refusals: Vec::new(),
        nodes: Vec::new(),
        help: vec![advice::OTHER_SCHEDULER.into()],
    }
}

/// What is true of a pod whatever the nodes are; `is_ours`: that its scheduler is this one.
fn state_of(pod: &Pod, place: &str, is_ours: bool) -> String {
    let spec = pod.spec.as_ref();
    let gates = spec.and_then(|spec| spec.scheduling_gates.as_ref());
    let gates: Vec<&str> = gates.into_iter().flatten().map(|gate| gate.name.as_str()).collect();
    let scheduler = spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(NAME);
    if !place.is_empty() {
        return format!("is bound to {place}; the nodes are asked as if another one like it came");
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return "is being deleted, and gets no node any more".into();
    }
    if !gates.is_empty() {
        return format!("waits until its scheduling gates are removed: {}", gates.join(", "));
    }
    if !is_ours {
        return format!("waits for another scheduler, {scheduler}");
    }
    if let Some(group) = GroupId::of(pod) {
        return match nominated_node(pod) {
            Some(node) => format!(
                "waits, together with the pod group {group}, until pods of lower priority have left \
                 {node}"
            ),
            None => format!("waits for a node, together with the pod group {group}"),
        };
    }
    match nominated_node(pod) {
        Some(node) => format!("waits until pods of lower priority have left {node}"),
        None => "waits for a node".into(),
    }
}

#[derive(Default)]
struct Look {
    verdicts: Vec<Verdict>,
    counts: BTreeMap<(&'static str, String), usize>,
    refusal: Refusal,
    help: Vec<String>,
    /// Of the nodes that only lack room: the least that is missing, what it is, and where.
    nearest: Option<(f64, String, String)>,
}

impl Look {
    fn all(&mut self, pod: &PodInfo, snapshot: &mut Snapshot, framework: &Framework) {
        let asked = slots::ask(pod, snapshot, framework);
        let slots = Slots::fill(asked, pod, snapshot);
        // What domains say of each node that takes it, by its place among the verdicts.
        let mut of_domains: Vec<(usize, Vec<Option<i64>>)> = Vec::new();
        for index in 0..snapshot.nodes().len() {
            let node = snapshot.for_pod(index, pod);
            let verdict = if let Some((filter, reasons)) = framework.refuse(pod, &node) {
                let filter = &framework.filters[filter];
                if filter.name() == advice::ROOM {
                    self.measure(pod, &node);
                }
                self.refused(&node, filter.name(), filter.is_resolvable(pod, &node), reasons)
            } else if let Some((plugin, why)) = slots.refuse_node(snapshot, framework, index, pod) {
                let name = framework.domains[plugin].name();
                self.refused(&node, name, why.is_resolvable, vec![why.reason.into()])
            } else {
                let mut found = Vec::new();
                slots.look_at(u32::try_from(index).unwrap_or(u32::MAX), &mut found);
                let plugins = framework.domains.iter().enumerate();
                let scores = plugins.map(|(n, plugin)| plugin.score(slots.of(n, &found)));
                of_domains.push((self.verdicts.len(), scores.collect()));
                scored(pod, &node, framework)
            };
            self.verdicts.push(verdict);
        }
        self.add_domains(&of_domains, framework);
    }

    fn refused(
        &mut self,
        node: &NodeInfo,
        filter: &'static str,
        is_resolvable: bool,
        reasons: Reasons,
    ) -> Verdict {
        for reason in &reasons {
            *self.counts.entry((filter, reason.to_string())).or_default() += 1;
        }
        let told = reasons.iter().map(ToString::to_string).collect();
        self.refusal.add(filter, is_resolvable, reasons, &[]);
        Verdict {
            node: node.name.to_string(),
            filter: Some(filter.into()),
            reasons: told,
            ..Verdict::default()
        }
    }

    /// Adds the scores of domains, which are normal among the nodes that take the pod. A plugin that
    /// has nothing to say of any of them is left out.
    fn add_domains(&mut self, found: &[(usize, Vec<Option<i64>>)], framework: &Framework) {
        for (n, plugin) in framework.domains.iter().enumerate() {
            let of_plugin = || found.iter().filter_map(|(_, scores)| scores[n]);
            let (Some(least), Some(most)) = (of_plugin().min(), of_plugin().max()) else {
                continue;
            };
            for (at, scores) in found {
                let score = scores[n].map_or(0, |score| plugin.normalize(score, least, most));
                let (score, weight) = (score.clamp(0, MAX_SCORE), plugin.weight());
                let verdict = &mut self.verdicts[*at];
                verdict.total += weight * score;
                verdict.scores.push(Score { plugin: plugin.name().into(), score, weight });
            }
        }
    }

    /// Notes what a node lacks of room, if it lacks less of it than the others.
    fn measure(&mut self, pod: &PodInfo, node: &NodeInfo) {
        let missing = missing(pod, node);
        let Some(worst) = missing.iter().map(|(share, _)| *share).reduce(f64::max) else { return };
        if self.nearest.as_ref().is_none_or(|(least, ..)| worst < *least) {
            let what: Vec<&str> = missing.iter().map(|(_, text)| text.as_str()).collect();
            self.nearest = Some((worst, what.join(" and "), node.name.to_string()));
        }
    }

    fn helps(&self) -> Vec<String> {
        let mut help = self.help.clone();
        if self.refusal.nodes == 0 {
            help.push(advice::NO_NODES.into());
        }
        for (filter, may_leave) in &self.refusal.plugins {
            let Some(text) = advice::of(filter, *may_leave) else { continue };
            let near = self.nearest.as_ref().filter(|_| *filter == advice::ROOM);
            let near =
                near.map(|(_, what, node)| format!("; {node} comes nearest, and lacks {what}"));
            help.push(format!("{text}{}", near.unwrap_or_default()));
        }
        help
    }
}

fn scored(pod: &PodInfo, node: &NodeInfo, framework: &Framework) -> Verdict {
    let scores = framework.scores.iter().map(|plugin| Score {
        plugin: plugin.name().into(),
        score: plugin.score(pod, node).clamp(0, MAX_SCORE),
        weight: plugin.weight(),
    });
    Verdict {
        node: node.name.to_string(),
        total: framework.fixed_score(pod, node) + framework.moving_score(pod, node),
        scores: scores.collect(),
        ..Verdict::default()
    }
}

/// What a node lacks for a pod: the part of what is asked for that is missing, and in words.
fn missing(pod: &PodInfo, node: &NodeInfo) -> Vec<(f64, String)> {
    let (wants, has, taken) = (&pod.wants.requests, &node.allocatable, &node.requested);
    let mut list = Vec::new();
    let mut lack = |wanted: Amount, has: Amount, taken: Amount, text: &dyn Fn(i64) -> String| {
        let missing = taken + wanted - has;
        if wanted > 0 && missing > 0 {
            let amount = i64::try_from(missing).unwrap_or(i64::MAX);
            list.push((missing as f64 / wanted as f64, text(amount)));
        }
    };
    lack(wants.milli_cpu, has.milli_cpu, taken.milli_cpu, &|milli| {
        format!("{} of cpu", Quantity::from_milli(milli))
    });
    lack(wants.memory_bytes, has.memory_bytes, taken.memory_bytes, &|bytes| {
        // Nobody reads bytes: rounded up to whole mebibytes.
        let mebibytes = bytes.saturating_add((1 << 20) - 1) >> 20;
        format!("{mebibytes}Mi of memory")
    });
    for (name, wanted) in &wants.others {
        let of = |map: &BTreeMap<String, Amount>| map.get(name).copied().unwrap_or(0);
        lack(*wanted, of(&has.others), of(&taken.others), &|amount| format!("{amount} of {name}"));
    }
    lack(1, node.allocatable_pods.into(), node.pods.into(), &|_| "a place for one more pod".into());
    list
}
