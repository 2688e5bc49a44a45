//! Claims, volumes and storage classes as far as scheduling cares, and what a pod's claims ask of its
//! node.
//!
//! ```text
//!   bound claim ─▶ the node must suit its volume, and be in its zone
//!   unbound, of a class that waits for its first consumer ─▶ the node must have a free volume
//!       that fits, or be one on which one may be made; then the volume is given to the claim, or
//!       the node told to the provisioner, and the pod waits until the claim is bound
//!   anything else ─▶ no node will do until the claim changes
//! ```
//!
//! Source: k8s.io/kubernetes pkg/scheduler/framework/plugins/volumebinding and volumezone.

mod zones;

use std::borrow::Cow;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    NodeSelector, PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use self::zones::{Zone, is_within};
use super::framework::Wake;
use super::snapshot::NodeInfo;
use crate::api::ObjectKey;
use crate::api::kinds::storage::{
    self, BIND_COMPLETED, LOCAL_PROVISIONER, NO_PROVISIONER, READ_WRITE_ONCE_POD, SELECTED_NODE,
    WAIT_FOR_FIRST_CONSUMER, volume_size,
};
use crate::api::placement;
use crate::api::selector::Selector;

/// The name of a claim that a pod mounts, and whether it is made for that pod alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    pub name: String,
    pub is_ephemeral: bool,
}

/// What is known of storage.
#[derive(Clone, Default)]
pub struct Volumes {
    claims: HashMap<ObjectKey, Claim>,
    volumes: HashMap<String, Volume>,
    /// The names of the free volumes of each class.
    free: HashMap<String, BTreeSet<String>>,
    classes: HashMap<String, Arc<StorageClass>>,
    /// How many pods with a place mount a claim.
    users: HashMap<ObjectKey, usize>,
}

#[derive(Clone)]
struct Claim {
    uid: String,
    version: String,
    /// The uid of the object that controls it.
    owner: String,
    class: String,
    volume: String,
    is_bound: bool,
    is_lost: bool,
    is_ending: bool,
    /// One pod alone may use it.
    is_alone: bool,
    selected_node: Option<String>,
    /// What it asks for, while it has no volume.
    wanted: Option<Box<PersistentVolumeClaim>>,
}

#[derive(Clone)]
struct Volume {
    affinity: Option<NodeSelector>,
    zones: Vec<Zone>,
    /// All of it, while nobody has it.
    free: Option<Box<PersistentVolume>>,
    class: String,
}

/// What a pod's claims ask of its node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// Of the volumes that its claims have.
    pub affinities: Vec<NodeSelector>,
    pub zones: Vec<Zone>,
    /// A claim has a volume that is not there.
    pub lacks_volume: bool,
    /// Its claims that are for one pod alone, and how many pods have each.
    pub alone: Vec<(ObjectKey, usize)>,
    pub unbound: Vec<Unbound>,
}

/// A claim that gets its volume with the pod's node.
#[derive(Clone, Debug, PartialEq)]
pub struct Unbound {
    pub claim: ClaimId,
    pub selected_node: Option<String>,
    /// Free volumes that fit, the smallest first.
    pub choices: Vec<Choice>,
    maker: Maker,
}

/// What makes a volume where none of those that are there fits.
#[derive(Clone, Debug, PartialEq)]
enum Maker {
    Nothing,
    /// The class: within one of the terms, or anywhere.
    Class {
        topologies: Vec<TopologySelectorTerm>,
    },
    /// The class of this name, and this program's provisioner: on nodes that keep volumes.
    Local {
        class: String,
        topologies: Vec<TopologySelectorTerm>,
    },
    /// It would be the class, which does not make such a volume.
    Refuses(String),
}

/// A claim at the version that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimId {
    pub key: ObjectKey,
    pub uid: String,
    pub version: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub volume: String,
    pub uid: String,
    pub version: String,
    affinity: Option<NodeSelector>,
}

/// What is to be written so that a claim gets its volume.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The volume is for this claim.
    Give { claim: ClaimId, volume: Choice },
    /// A volume is to be made on the pod's node.
    Select { claim: ClaimId },
}

/// No node will do: why, and whose change can help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub text: String,
    pub wake: Wake,
}

/// No node has or makes a volume for a claim.
const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";

/// The wake of the pods that wait for a claim. Two claims may share it, which costs a look.
pub fn wake_of(claim: &ObjectKey) -> Wake {
    let mut hasher = DefaultHasher::new();
    (claim.namespace.as_str(), claim.name.as_str()).hash(&mut hasher);
    Wake::Claim(hasher.finish())
}

fn text(text: &Option<String>) -> String {
    text.clone().unwrap_or_default()
}

fn owner_of(meta: &ObjectMeta) -> String {
    let mut owners = meta.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true));
    owner.map(|owner| owner.uid.clone()).unwrap_or_default()
}

impl Volumes {
    /// Takes a claim's new state, or its end.
    pub fn set_claim(&mut self, key: &ObjectKey, claim: Option<&PersistentVolumeClaim>) {
        let Some(claim) = claim else {
            self.claims.remove(key);
            return;
        };
        let (meta, spec) = (&claim.metadata, claim.spec.clone().unwrap_or_default());
        let annotation = |name: &str| meta.annotations.as_ref().and_then(|all| all.get(name));
        let volume = text(&spec.volume_name);
        let is_bound = !volume.is_empty() && annotation(BIND_COMPLETED).is_some();
        let modes = spec.access_modes.as_deref().unwrap_or_default();
        let class =
            storage::class_of(meta.annotations.as_ref(), spec.storage_class_name.as_deref());
        let info = Claim {
            uid: text(&meta.uid),
            version: text(&meta.resource_version),
            owner: owner_of(meta),
            class: class.into(),
            is_lost: claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost"),
            is_ending: meta.deletion_timestamp.is_some(),
            is_alone: modes.iter().any(|mode| mode == READ_WRITE_ONCE_POD),
            selected_node: annotation(SELECTED_NODE).cloned(),
            wanted: (!is_bound).then(|| Box::new(claim.clone())),
            volume,
            is_bound,
        };
        self.claims.insert(key.clone(), info);
    }

    /// Takes a volume's new state, or its end. Answers whether that may help a refused pod: it became
    /// free, or is in other zones.
    pub fn set_volume(&mut self, name: &str, volume: Option<&PersistentVolume>) -> bool {
        let old = self.volumes.remove(name);
        let was_free = old.as_ref().is_some_and(|old| old.free.is_some());
        let zones = volume.map(zones::of).unwrap_or_default();
        let moved = old.as_ref().is_some_and(|old| old.zones != zones);
        if let Some(old) = old
            && let Some(free) = self.free.get_mut(&old.class)
        {
            free.remove(name);
            if free.is_empty() {
                self.free.remove(&old.class);
            }
        }
        let Some(volume) = volume else { return false };
        let spec = volume.spec.as_ref();
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let is_free = phase == Some("Available")
            && volume.metadata.deletion_timestamp.is_none()
            && spec.is_some_and(|spec| spec.claim_ref.is_none());
        let class = crate::api::kinds::persistent_volume::class(volume).to_string();
        if is_free {
            self.free.entry(class.clone()).or_default().insert(name.into());
        }
        let affinity = spec.and_then(|spec| spec.node_affinity.as_ref()?.required.clone());
        let free = is_free.then(|| Box::new(volume.clone()));
        self.volumes.insert(name.into(), Volume { affinity, zones, free, class });
        is_free && !was_free || moved
    }

    /// Takes a class's new state, or its end.
    pub fn set_class(&mut self, name: &str, class: Option<&StorageClass>) {
        match class {
            None => drop(self.classes.remove(name)),
            Some(class) => drop(self.classes.insert(name.into(), Arc::new(class.clone()))),
        }
    }

    /// Counts a pod's claims as used, or not any more.
    pub fn count_users(&mut self, claims: &[ObjectKey], is_used: bool) {
        for claim in claims {
            let count = self.users.entry(claim.clone()).or_default();
            *count = if is_used { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.users.remove(claim);
            }
        }
    }

    /// What a pod's claims ask of its node.
    ///
    /// # Errors
    /// When no node will do.
    pub fn needs(&self, pod: &ObjectKey, uid: &str, claims: &[ClaimRef]) -> Result<Needs, Blocked> {
        let mut needs = Needs::default();
        for reference in claims {
            let key = ObjectKey::new(pod.namespace.as_str(), reference.name.as_str());
            let name = &reference.name;
            let blocked = |text: String| Err(Blocked { text, wake: wake_of(&key) });
            let Some(claim) = self.claims.get(&key) else {
                return blocked(match reference.is_ephemeral {
                    true => format!(
                        "waiting for ephemeral volume controller to create the \
                         persistentvolumeclaim {name:?}"
                    ),
                    false => format!("persistentvolumeclaim {name:?} not found"),
                });
            };
            if claim.is_lost {
                let volume = &claim.volume;
                let what = "bound to non-existent persistentvolume";
                return blocked(format!("persistentvolumeclaim {name:?} {what} {volume:?}"));
            }
            if claim.is_ending {
                return blocked(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if reference.is_ephemeral && claim.owner != uid {
                return blocked(format!(
                    "PVC \"{key}\" was not created for pod \"{pod}\" (pod is not owner)"
                ));
            }
            if claim.is_alone {
                needs.alone.push((key.clone(), self.users.get(&key).copied().unwrap_or(0)));
            }
            if claim.is_bound {
                match self.volumes.get(&claim.volume) {
                    Some(volume) => {
                        needs.affinities.extend(volume.affinity.clone());
                        needs.zones.extend(volume.zones.iter().cloned());
                    }
                    None => needs.lacks_volume = true,
                }
                continue;
            }
            let class = self.classes.get(&claim.class).filter(|class| {
                class.volume_binding_mode.as_deref() == Some(WAIT_FOR_FIRST_CONSUMER)
            });
            let Some(class) = class.filter(|_| claim.volume.is_empty()) else {
                return blocked("pod has unbound immediate PersistentVolumeClaims".into());
            };
            needs.unbound.push(self.unbound(key, claim, class));
        }
        Ok(needs)
    }

    fn unbound(&self, key: ObjectKey, claim: &Claim, class: &StorageClass) -> Unbound {
        let mut choices = Vec::new();
        if let (Some(wanted), None) = (&claim.wanted, &claim.selected_node) {
            let names = self.free.get(&claim.class).into_iter().flatten();
            let volumes = names.filter_map(|name| self.volumes.get(name)?.free.as_deref());
            let mut fitting: Vec<_> = volumes.filter(|volume| fits(wanted, volume)).collect();
            fitting.sort_by_cached_key(|volume| (volume_size(volume), text(&volume.metadata.name)));
            choices.extend(fitting.into_iter().map(|volume| {
                Choice {
                    volume: text(&volume.metadata.name),
                    uid: text(&volume.metadata.uid),
                    version: text(&volume.metadata.resource_version),
                    affinity: volume
                        .spec
                        .as_ref()
                        .and_then(|spec| spec.node_affinity.as_ref()?.required.clone()),
                }
            }));
        }
        Unbound {
            maker: maker(&key, claim, class),
            claim: ClaimId { key, uid: claim.uid.clone(), version: claim.version.clone() },
            selected_node: claim.selected_node.clone(),
            choices,
        }
    }

    /// Counts what was decided as done until the cache shows it.
    pub fn assume(&mut self, steps: &[Step], node: &str) {
        for step in steps {
            match step {
                Step::Give { volume, .. } => drop(self.set_volume(&volume.volume, None)),
                Step::Select { claim } => {
                    if let Some(known) = self.claims.get_mut(&claim.key) {
                        known.selected_node = Some(node.into());
                    }
                }
            }
        }
    }
}

fn maker(key: &ObjectKey, claim: &Claim, class: &StorageClass) -> Maker {
    let topologies = class.allowed_topologies.clone().unwrap_or_default();
    match class.provisioner.as_str() {
        NO_PROVISIONER => Maker::Nothing,
        LOCAL_PROVISIONER => {
            let wanted = claim.wanted.as_deref();
            match wanted.and_then(|wanted| storage::local_refusal(wanted, class)) {
                Some(why) => Maker::Refuses(format!(
                    "node(s) cannot have the volume of persistentvolumeclaim {:?}: {why}",
                    key.name
                )),
                None => Maker::Local { class: claim.class.clone(), topologies },
            }
        }
        _ => Maker::Class { topologies },
    }
}

fn fits(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selected = match selector.map(|selector| Selector::from_typed(Some(selector))) {
        None => true,
        Some(Ok(selector)) => selector.matches(&volume.metadata.labels.clone().unwrap_or_default()),
        Some(Err(_)) => false,
    };
    selected && storage::mismatch(claim, volume).is_none()
}

/// Whether a volume may be used on a node.
pub fn suits(affinity: &NodeSelector, node: &NodeInfo) -> bool {
    let mut terms = affinity.node_selector_terms.iter();
    terms.any(|term| placement::term_matches(term, &node.name, &node.labels))
}

impl Needs {
    /// Whether another pod has a claim that is for one pod alone.
    pub fn is_taken(&self) -> bool {
        self.alone.iter().any(|(_, users)| *users > 0)
    }

    /// Takes a pod that mounts these claims as gone, or as there again.
    pub fn count(&mut self, claims: &[ObjectKey], is_there: bool) {
        for (_, users) in self.alone.iter_mut().filter(|(claim, _)| claims.contains(claim)) {
            *users = if is_there { *users + 1 } else { users.saturating_sub(1) };
        }
    }

    /// How the unbound claims get their volumes on a node.
    ///
    /// # Errors
    /// Why they do not.
    pub fn steps(&self, node: &NodeInfo) -> Result<Vec<Step>, Cow<'static, str>> {
        let mut steps: Vec<Step> = Vec::new();
        for unbound in &self.unbound {
            if let Some(selected) = &unbound.selected_node {
                // It is being made there.
                if **selected != *node.name {
                    return Err(NO_VOLUME.into());
                }
                continue;
            }
            let is_given = |choice: &Choice| {
                let given = |step: &Step| matches!(step, Step::Give { volume, .. } if volume.volume == choice.volume);
                steps.iter().any(given)
            };
            let choice = unbound.choices.iter().find(|choice| {
                choice.affinity.as_ref().is_none_or(|affinity| suits(affinity, node))
                    && !is_given(choice)
            });
            let claim = unbound.claim.clone();
            if let Some(choice) = choice {
                steps.push(Step::Give { claim, volume: choice.clone() });
                continue;
            }
            unbound.maker.may_make(node)?;
            steps.push(Step::Select { claim });
        }
        Ok(steps)
    }

    /// The changes that tell that a claim is bound.
    pub fn wakes(&self) -> Vec<Wake> {
        self.unbound.iter().map(|unbound| wake_of(&unbound.claim.key)).collect()
    }
}

impl Maker {
    /// Whether it makes a volume on a node.
    ///
    /// # Errors
    /// Why not.
    fn may_make(&self, node: &NodeInfo) -> Result<(), Cow<'static, str>> {
        let topologies = match self {
            Maker::Nothing => return Err(NO_VOLUME.into()),
            Maker::Refuses(why) => return Err(why.clone().into()),
            Maker::Local { class, .. } if !node.keeps_volumes => {
                return Err(format!("node(s) keep no volumes of the class {class:?}").into());
            }
            Maker::Local { topologies, .. } | Maker::Class { topologies } => topologies,
        };
        match topologies.is_empty() || storage::topology_matches(topologies, &node.labels) {
            true => Ok(()),
            false => Err(NO_VOLUME.into()),
        }
    }
}
