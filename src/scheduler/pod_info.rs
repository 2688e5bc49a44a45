//! A pod as far as scheduling cares: what it asks of its node, and what of that stays taken there.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{
    Affinity, Container, NodeSelector, Pod, PodAffinityTerm, PreferredSchedulingTerm, Toleration,
    TopologySpreadConstraint,
};

use super::budgets::Labels;
use super::groups::GroupId;
use super::resources::Resources;
use super::topology::Footprint;
use super::topology::matcher::{self, Effect, Matcher, Term};
use super::volumes::{ClaimRef, Needs};
use crate::api::ObjectKey;
use crate::api::kinds::{node_features, storage};

/// The reason of the condition DisruptionTarget of a pod that makes room for another one.
pub const PREEMPTED: &str = "PreemptionByScheduler";

/// A pod as far as scheduling cares. Pods with equal `wants` that mean the same to others get equal
/// answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodInfo {
    pub key: ObjectKey,
    pub uid: String,
    pub wants: Arc<Wants>,
    pub labels: Arc<Labels>,
    /// The kind and the name of what controls it.
    pub controller: Option<(&'static str, String)>,
    /// What its claims ask of a node, as a cycle found it.
    pub volumes: Arc<Needs>,
    /// The pod group that it belongs to, and how many of that must be placed in this cycle.
    pub group: Option<Arc<GroupId>>,
    pub together: usize,
}

/// The part of a pod's spec that filters and scores read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wants {
    /// The profile that it is scheduled by (`spec.schedulerName`).
    pub scheduler: String,
    /// What its programs need of a node's runtime.
    pub features: Vec<String>,
    pub node_name: String,
    pub requests: Resources,
    pub ports: Vec<HostPort>,
    pub node_selector: BTreeMap<String, String>,
    pub required_affinity: Option<NodeSelector>,
    pub preferred_affinity: Vec<PreferredSchedulingTerm>,
    pub tolerations: Vec<Toleration>,
    pub images: Vec<String>,
    pub priority: i32,
    /// Whether pods of lower priority may not be preempted for it (`preemptionPolicy: Never`).
    pub never_preempts: bool,
    /// The claims that it mounts.
    pub claims: Vec<ClaimRef>,
    /// Its own spread constraints.
    pub spread: Vec<TopologySpreadConstraint>,
    /// Where it wants to be beside other pods, and where not.
    pub near: PodTerms,
    pub apart: PodTerms,
}

/// The terms of `podAffinity` or `podAntiAffinity`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodTerms {
    pub required: Vec<PodAffinityTerm>,
    /// With their weights.
    pub preferred: Vec<(i32, PodAffinityTerm)>,
}

impl PodTerms {
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.preferred.is_empty()
    }
}

/// A port of the node that a container wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// `0.0.0.0` is every address of the node.
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

/// Of pods whose claims were not looked at yet, which are many: one for all.
static NO_NEEDS: LazyLock<Arc<Needs>> = LazyLock::new(Arc::default);

impl PodInfo {
    pub fn of(pod: &Pod) -> PodInfo {
        PodInfo {
            key: ObjectKey::of(&pod.metadata),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            wants: Arc::new(Wants::of(pod)),
            labels: Arc::new(pod.metadata.labels.clone().unwrap_or_default()),
            controller: controller(pod),
            volumes: NO_NEEDS.clone(),
            group: GroupId::of(pod),
            together: 0,
        }
    }

    /// What it means to other pods once it is on a node.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            namespace: self.key.namespace.to_string(),
            labels: self.labels.clone(),
            is_ending: false,
            terms: terms(&self.key.namespace, &self.labels, &self.wants.near, &self.wants.apart),
        }
    }

    /// The claims that it mounts.
    pub fn claims(&self) -> Vec<ObjectKey> {
        let space = self.key.namespace.as_str();
        let claims = self.wants.claims.iter();
        claims.map(|claim| ObjectKey::new(space, claim.name.as_str())).collect()
    }
}

impl Wants {
    fn of(pod: &Pod) -> Wants {
        let Some(spec) = &pod.spec else { return Wants::default() };
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        Wants {
            scheduler: spec.scheduler_name.clone().unwrap_or_else(|| super::NAME.into()),
            features: features(pod),
            node_name: spec.node_name.clone().unwrap_or_default(),
            requests: requests(pod),
            ports: host_ports(pod),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            required_affinity: affinity
                .and_then(|a| a.required_during_scheduling_ignored_during_execution.clone()),
            preferred_affinity: affinity
                .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.clone())
                .unwrap_or_default(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            images: spec.containers.iter().filter_map(|c| c.image.clone()).collect(),
            priority: spec.priority.unwrap_or_default(),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            claims: claims(pod),
            spread: spec.topology_spread_constraints.clone().unwrap_or_default(),
            near: near(spec.affinity.as_ref()),
            apart: apart(spec.affinity.as_ref()),
        }
    }
}

fn features(pod: &Pod) -> Vec<String> {
    let annotations = pod.metadata.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(node_features::NEEDS));
    text.into_iter().flat_map(|text| node_features::parse(text)).map(str::to_string).collect()
}

fn near(affinity: Option<&Affinity>) -> PodTerms {
    let Some(near) = affinity.and_then(|affinity| affinity.pod_affinity.as_ref()) else {
        return PodTerms::default();
    };
    let preferred = near.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    PodTerms {
        required: near
            .required_during_scheduling_ignored_during_execution
            .clone()
            .unwrap_or_default(),
        preferred: preferred.map(|one| (one.weight, one.pod_affinity_term.clone())).collect(),
    }
}

fn apart(affinity: Option<&Affinity>) -> PodTerms {
    let Some(apart) = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref()) else {
        return PodTerms::default();
    };
    let preferred = apart.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    PodTerms {
        required: apart
            .required_during_scheduling_ignored_during_execution
            .clone()
            .unwrap_or_default(),
        preferred: preferred.map(|one| (one.weight, one.pod_affinity_term.clone())).collect(),
    }
}

/// What a pod on a node means to pods that its own terms are about. Source: upstream's
/// InterPodAffinity with a hardPodAffinityWeight of 1, the default.
fn terms(space: &str, labels: &Labels, near: &PodTerms, apart: &PodTerms) -> Vec<Term> {
    let term = |one: &PodAffinityTerm, effect: Effect| Term {
        matcher: Matcher { parts: vec![matcher::part(one, space, labels)], counts_ending: true },
        key: one.topology_key.clone(),
        effect,
    };
    let forbidding = apart.required.iter().map(|one| term(one, Effect::Forbids));
    let wanting = near.required.iter().map(|one| term(one, Effect::Weighs(1)));
    let liking = near.preferred.iter().map(|(weight, one)| term(one, Effect::Weighs(*weight)));
    let avoiding = apart.preferred.iter().map(|(weight, one)| term(one, Effect::Weighs(-weight)));
    forbidding.chain(wanting).chain(liking).chain(avoiding).collect()
}

/// What a pod that is on a node, or is to be, means to others.
pub fn footprint(pod: &Pod, labels: Arc<Labels>) -> Footprint {
    let space = pod.metadata.namespace.as_deref().unwrap_or_default();
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    Footprint {
        namespace: space.into(),
        is_ending: pod.metadata.deletion_timestamp.is_some(),
        terms: terms(space, &labels, &near(affinity), &apart(affinity)),
        labels,
    }
}

/// The kinds whose selectors tell which pods belong together.
pub const CONTROLLERS: [&str; 3] = ["ReplicaSet", "StatefulSet", "ReplicationController"];

fn controller(pod: &Pod) -> Option<(&'static str, String)> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    let kind = CONTROLLERS.into_iter().find(|kind| *kind == owner.kind)?;
    Some((kind, owner.name.clone()))
}

impl HostPort {
    /// Whether one node cannot give both.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let is_same = self.port == other.port && self.protocol == other.protocol;
        is_same && (self.ip == other.ip || [&self.ip, &other.ip].iter().any(|ip| *ip == ANY))
    }
}

/// Every address of a node.
const ANY: &str = "0.0.0.0";

/// The claims that a pod mounts.
pub fn claims(pod: &Pod) -> Vec<ClaimRef> {
    let name = pod.metadata.name.as_deref();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter_map(|volume| {
        let is_ephemeral = volume.persistent_volume_claim.is_none();
        let name = storage::claim_name(name, volume)?.into_owned();
        Some(ClaimRef { name, is_ephemeral })
    });
    claims.collect()
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The ports of the node that a pod's containers and sidecars want.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|one| is_sidecar(one));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|one| one.ports.iter().flatten());
    let wanted = ports.filter_map(|port| {
        let or = |given: &Option<String>, default: &str| {
            given.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| default.into())
        };
        Some(HostPort {
            ip: or(&port.host_ip, ANY),
            protocol: or(&port.protocol, "TCP"),
            port: port.host_port.filter(|port| *port > 0)?,
        })
    });
    wanted.collect()
}

/// A pod's effective request: the sum of its containers and sidecars, or the most that an init
/// container needs beside the sidecars before it, if that is more (KEP-753).
pub fn requests(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let of = |c: &Container| {
        Resources::read(c.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
    };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container), 1);
    }
    let (mut sidecars, mut most) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let request = of(container);
        if is_sidecar(container) {
            sidecars.add(&request, 1);
            total.add(&request, 1);
            most.max(&sidecars);
        } else {
            let mut beside = sidecars.clone();
            beside.add(&request, 1);
            most.max(&beside);
        }
    }
    total.max(&most);
    total.add(&Resources::read(spec.overhead.as_ref()), 1);
    total
}

/// Whether a pod holds its place: bound and not finished.
pub fn holds_place(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    let bound =
        pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref().is_some_and(|n| !n.is_empty()));
    bound && !matches!(phase, "Succeeded" | "Failed")
}

/// Whether a pod was told that it makes room for another one.
pub fn is_preempted(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut target = conditions.filter(|one| one.type_ == "DisruptionTarget");
    target.any(|one| one.status == "True" && one.reason.as_deref() == Some(PREEMPTED))
}

/// The node that is being made free for a pod that waits (`status.nominatedNodeName`).
pub fn nominated_node(pod: &Pod) -> Option<&str> {
    let node = pod.status.as_ref()?.nominated_node_name.as_deref()?;
    (!node.is_empty()).then_some(node)
}
