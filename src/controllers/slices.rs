//! Packing endpoints into EndpointSlices with as few changes as possible: endpoints stay in the
//! slice that they are in, gaps are filled before slices are added, and slices that nothing is
//! wrong with are not written.
//! Source: KEP-752 and k8s.io/endpointslice reconciler.go.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::Plan;
use super::ownership::{controller_reference, labels, name, namespace};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::client::Propagation;
use crate::client::cache::Changed;

/// Endpoints in one slice.
pub const MOST_ENDPOINTS: usize = 100;
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// Endpoints of one address type and one set of ports go into slices of their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    pub address_type: &'static str,
    /// The ports as JSON: a value that can be ordered.
    ports: String,
}

/// Whether the manager keeps the slice.
pub fn is_managed(slice: &EndpointSlice, manager: &str) -> bool {
    labels(&slice.metadata).get(MANAGED_BY).is_some_and(|by| by == manager)
}

/// The Services whose slices of the manager changed; `None` if no slice did.
pub fn services_of(change: &Changed, manager: &str) -> Option<Vec<ObjectKey>> {
    if change.resource != Gvr::of::<EndpointSlice>() {
        return None;
    }
    let (old, new) = change.typed::<EndpointSlice>();
    let slices = [old, new].into_iter().flatten().filter(|slice| is_managed(slice, manager));
    let mut keys: Vec<ObjectKey> = slices
        .filter_map(|slice| {
            let service = labels(&slice.metadata).get(SERVICE_NAME)?;
            Some(ObjectKey::new(namespace(&slice.metadata), service.as_str()))
        })
        .collect();
    keys.dedup();
    Some(keys)
}

/// The Services that a change of them, of their Endpoints, or of the manager's slices concerns.
pub fn services_or_endpoints_of(change: &Changed, manager: &str) -> Vec<ObjectKey> {
    let own = [Gvr::of::<Service>(), Gvr::of::<Endpoints>()];
    if own.contains(&change.resource) {
        return vec![change.key.clone()];
    }
    services_of(change, manager).unwrap_or_default()
}

/// The endpoints that a Service should have, by group.
pub type Wanted = BTreeMap<Group, (Vec<EndpointPort>, Vec<Endpoint>)>;

impl Group {
    pub fn new(address_type: &'static str, ports: &[EndpointPort]) -> Group {
        Group { address_type, ports: serde_json::to_string(ports).unwrap_or_default() }
    }

    fn is_of(&self, slice: &EndpointSlice) -> bool {
        let ports = slice.ports.clone().unwrap_or_default();
        slice.address_type == self.address_type
            && serde_json::to_string(&ports).unwrap_or_default() == self.ports
    }
}

/// Whose slices they are.
pub struct Owner {
    pub name: String,
    pub namespace: Option<String>,
    /// Of each slice.
    pub labels: BTreeMap<String, String>,
    pub reference: OwnerReference,
    /// Whether one empty slice stays where there are no endpoints.
    pub placeholder: bool,
}

impl Owner {
    pub fn of(service: &Service) -> Owner {
        Owner {
            name: name(&service.metadata).into(),
            namespace: service.metadata.namespace.clone(),
            labels: slice_labels(service),
            reference: controller_reference(service),
            placeholder: true,
        }
    }
}

/// Plans the writes that turn `existing` into `wanted`.
pub fn pack(owner: &Owner, wanted: Wanted, existing: Vec<&EndpointSlice>, plan: &mut Plan) {
    let mut unused = existing;
    unused.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    if wanted.is_empty() && owner.placeholder {
        // One empty slice says that the Service is known and has no endpoints.
        return keep_placeholder(owner, unused, plan);
    }
    for (group, (ports, endpoints)) in wanted {
        let (mine, others) = unused.into_iter().partition(|slice| group.is_of(slice));
        unused = others;
        pack_group(owner, &group, ports, endpoints, mine, plan);
    }
    for slice in unused {
        plan.delete_version(slice, Propagation::Background);
    }
}

fn keep_placeholder(owner: &Owner, existing: Vec<&EndpointSlice>, plan: &mut Plan) {
    let mut existing = existing.into_iter();
    match existing.next() {
        None => plan.create(&new_slice(owner, &Group::new("IPv4", &[]), Vec::new(), Vec::new())),
        Some(slice) if !slice.endpoints.is_empty() => {
            let mut slice = slice.clone();
            slice.endpoints = Vec::new();
            plan.update(&slice);
        }
        Some(_) => {}
    }
    for slice in existing {
        plan.delete_version(slice, Propagation::Background);
    }
}

/// A slice being filled.
struct Filling<'a> {
    slice: &'a EndpointSlice,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

fn pack_group(
    owner: &Owner,
    group: &Group,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
    existing: Vec<&EndpointSlice>,
    plan: &mut Plan,
) {
    let mut left: HashMap<String, Endpoint> = HashMap::new();
    let mut order = Vec::new();
    for endpoint in endpoints {
        let key = identity(&endpoint);
        if left.insert(key.clone(), endpoint).is_none() {
            order.push(key);
        }
    }
    let mut slices: Vec<Filling> =
        existing.into_iter().map(|slice| keep(owner, slice, &mut left)).collect();
    let mut new: Vec<Endpoint> = order.iter().filter_map(|key| left.remove(key)).collect();
    // Slices that are written anyway are filled first, the fullest of the others next.
    slices.sort_by_key(|one| (!one.changed, std::cmp::Reverse(one.endpoints.len())));
    for one in &mut slices {
        let room = MOST_ENDPOINTS.saturating_sub(one.endpoints.len()).min(new.len());
        // An untouched slice is opened only if that spares a new one or there is no other.
        if room > 0 && (one.changed || room == new.len() || one.endpoints.is_empty()) {
            one.endpoints.extend(new.drain(..room));
            one.changed = true;
        }
    }
    write(owner, slices, plan);
    while !new.is_empty() {
        let rest = new.split_off(new.len().min(MOST_ENDPOINTS));
        plan.create(&new_slice(owner, group, ports.clone(), new));
        new = rest;
    }
}

/// What stays in a slice: endpoints that are still wanted, as they are now.
fn keep<'a>(
    owner: &Owner,
    slice: &'a EndpointSlice,
    left: &mut HashMap<String, Endpoint>,
) -> Filling<'a> {
    let mut changed = slice.metadata.labels != Some(owner.labels.clone());
    let mut endpoints = Vec::new();
    for old in &slice.endpoints {
        match left.remove(&identity(old)) {
            Some(new) => {
                changed |= new != *old;
                endpoints.push(new);
            }
            None => changed = true,
        }
    }
    Filling { slice, endpoints, changed }
}

/// Writes what changed. Empty slices go.
fn write(owner: &Owner, slices: Vec<Filling>, plan: &mut Plan) {
    for one in slices {
        if one.endpoints.is_empty() {
            plan.delete_version(one.slice, Propagation::Background);
        } else if one.changed {
            let mut slice = one.slice.clone();
            slice.endpoints = one.endpoints;
            slice.metadata.labels = Some(owner.labels.clone());
            plan.update(&slice);
        }
    }
}

/// What makes two endpoints the same one: the pod, or the address of one without a pod.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    uid.unwrap_or_else(|| endpoint.addresses.join(","))
}

fn new_slice(
    owner: &Owner,
    group: &Group,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name)),
            namespace: owner.namespace.clone(),
            labels: Some(owner.labels.clone()),
            owner_references: Some(vec![owner.reference.clone()]),
            ..ObjectMeta::default()
        },
        address_type: group.address_type.into(),
        endpoints,
        ports: Some(ports),
    }
}

/// The Service's labels and those by which slices are found.
fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let mut all = labels(&service.metadata).clone();
    all.remove(HEADLESS);
    all.insert(SERVICE_NAME.into(), name(&service.metadata).into());
    all.insert(MANAGED_BY.into(), MANAGER.into());
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        all.insert(HEADLESS.into(), String::new());
    }
    all
}
