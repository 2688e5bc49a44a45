//! EndpointSlice: the pods behind each Service, with what proxies need to know about each. Which
//! endpoints there should be is decided here; how they are packed into slices in `slices`.
//!
//! A pass over a Service looks at all of its pods, so passes over a large one are kept apart by a
//! time that grows with its endpoints: a rollout of a thousand replicas costs a small share of a
//! core, and the first change of a quiet Service is still written at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ownership::{labels, name, namespace, uid};
use super::pods::{is_finished, is_ready, is_terminating, node_name};
use super::selecting::{candidates, selectors_of};
use super::slices::{self, Group, MANAGED_BY, MANAGER, Owner, Wanted};
use super::{Controller, Plan};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::base::planted::planted;
use crate::client::cache::{Changed, View};

const ZONE: &str = "topology.kubernetes.io/zone";
/// The least time between the writes of a Service's slices for each of its endpoints, and at most:
/// a pod that stops serves on for longer.
const PAUSE_PER_ENDPOINT: Duration = Duration::from_micros(100);
const MOST_PAUSE: Duration = Duration::from_millis(200);

pub struct EndpointSliceController;

impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<Service>() {
            return vec![change.key.clone()];
        }
        if let Some(services) = slices::services_of(change, MANAGER) {
            return services;
        }
        let (old, new) = change.typed::<Pod>();
        if old.and_then(Facts::of) == new.and_then(Facts::of) {
            return Vec::new();
        }
        let mut keys = BTreeSet::new();
        for pod in [old, new].into_iter().flatten() {
            let own = labels(&pod.metadata);
            let services = selectors_of::<Service>(view, &change.key.namespace, own);
            let selecting = services.filter(|one| one.spec.iter().any(|spec| selects(spec, pod)));
            keys.extend(selecting.map(|service| ObjectKey::of(&service.metadata)));
        }
        keys.into_iter().collect()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Service>(), Gvr::of::<Pod>(), Gvr::of::<EndpointSlice>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(service) = view.get_key::<Service>(key) else { return plan };
        let Some(spec) = service.spec.as_ref().filter(|spec| has_selector(spec)) else {
            return plan;
        };
        if service.metadata.deletion_timestamp.is_some() {
            return plan;
        }
        let owned = view.owned_by::<EndpointSlice>(uid(&service.metadata)).map(|slice| &**slice);
        let managed = |slice: &&EndpointSlice| {
            labels(&slice.metadata).get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
                && slice.metadata.deletion_timestamp.is_none()
        };
        let existing: Vec<&EndpointSlice> = owned.filter(managed).collect();
        if let Some(wait) = pause(&existing, view) {
            plan.again_after(wait);
            return plan;
        }
        slices::pack(&Owner::of(service), wanted(service, spec, view), existing, &mut plan);
        plan
    }
}

/// How long to wait until the slices are written again; `None` if that may be now.
fn pause(slices: &[&EndpointSlice], view: &View) -> Option<Duration> {
    let endpoints: usize = slices.iter().map(|slice| slice.endpoints.len()).sum();
    let pause = PAUSE_PER_ENDPOINT.saturating_mul(u32::try_from(endpoints).unwrap_or(u32::MAX));
    let quiet = slices.iter().filter_map(|slice| {
        let meta = &slice.metadata;
        view.unchanged_for::<EndpointSlice>(namespace(meta), name(meta))
    });
    let left = pause.min(MOST_PAUSE).saturating_sub(quiet.min()?);
    // Timers have no finer grain than a millisecond.
    (left >= Duration::from_millis(1)).then_some(left)
}

/// What of a pod matters to its endpoints.
#[derive(PartialEq)]
struct Facts<'a> {
    ip: &'a str,
    node: Option<&'a str>,
    ready: bool,
    terminating: bool,
    finished: bool,
    labels: &'a BTreeMap<String, String>,
    uid: &'a str,
}

impl Facts<'_> {
    /// `None` for a pod without an address: it is no endpoint, whatever else changes.
    fn of(pod: &Pod) -> Option<Facts<'_>> {
        Some(Facts {
            ip: pod.status.as_ref()?.pod_ip.as_deref()?,
            node: node_name(pod),
            ready: is_ready(pod),
            terminating: is_terminating(pod),
            finished: is_finished(pod),
            labels: labels(&pod.metadata),
            uid: uid(&pod.metadata),
        })
    }
}

pub(super) fn has_selector(spec: &ServiceSpec) -> bool {
    let external = spec.type_.as_deref() == Some("ExternalName");
    !external && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
}

fn selects(spec: &ServiceSpec, pod: &Pod) -> bool {
    let own = labels(&pod.metadata);
    has_selector(spec)
        && spec.selector.iter().flatten().all(|(key, value)| own.get(key) == Some(value))
}

/// The endpoints that a Service should have.
fn wanted(service: &Service, spec: &ServiceSpec, view: &View) -> Wanted {
    // Pods that offer the ports at the same numbers are one group: almost always all of them.
    let mut alike: BTreeMap<(&'static str, Vec<Option<i32>>), Vec<Endpoint>> = BTreeMap::new();
    let selector = spec.selector.iter().flatten();
    let pairs = selector.map(|(key, value)| (key.as_str(), value.as_str()));
    let pods = candidates(view, namespace(&service.metadata), pairs);
    for pod in pods.filter(|pod| selects(spec, pod) && !is_finished(pod)) {
        let numbers = port_numbers(spec, pod);
        for (address_type, address) in addresses(spec, pod) {
            let endpoint = endpoint(service, spec, pod, address, view);
            alike.entry((address_type, numbers.clone())).or_default().push(endpoint);
        }
    }
    let group = |((address_type, numbers), endpoints): ((_, Vec<Option<i32>>), _)| {
        let ports = endpoint_ports(spec, &numbers);
        (Group::new(address_type, &ports), (ports, endpoints))
    };
    alike.into_iter().map(group).collect()
}

/// The pod's addresses of the Service's families, one of each.
fn addresses(spec: &ServiceSpec, pod: &Pod) -> Vec<(&'static str, String)> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut found: BTreeMap<&'static str, String> = BTreeMap::new();
    for text in listed.chain(status.pod_ip.as_deref()) {
        let family = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => "IPv4",
            Ok(IpAddr::V6(_)) => "IPv6",
            Err(_) => continue,
        };
        let asked = spec.ip_families.iter().flatten().any(|asked| asked == family);
        if asked || spec.ip_families.as_ref().is_none_or(|asked| asked.is_empty()) {
            found.entry(family).or_insert_with(|| text.to_string());
        }
    }
    found.into_iter().collect()
}

/// The number of each of the Service's ports on this pod; `None` for a named one that it lacks.
fn port_numbers(spec: &ServiceSpec, pod: &Pod) -> Vec<Option<i32>> {
    spec.ports.iter().flatten().map(|port| target_port(port, protocol(port), pod)).collect()
}

/// The Service's ports at these numbers; those without one are left out.
fn endpoint_ports(spec: &ServiceSpec, numbers: &[Option<i32>]) -> Vec<EndpointPort> {
    let offered = spec.ports.iter().flatten().zip(numbers).filter_map(|(port, number)| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some((*number)?),
            protocol: Some(protocol(port).into()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    offered.collect()
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

fn target_port(port: &ServicePort, protocol: &str, pod: &Pod) -> Option<i32> {
    let wanted = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(wanted)) => wanted,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|one| one.ports.iter().flatten());
    let mut named = ports.filter(|port| {
        port.name.as_ref() == Some(wanted) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    named.next().map(|port| port.container_port)
}

fn endpoint(
    service: &Service,
    spec: &ServiceSpec,
    pod: &Pod,
    address: String,
    view: &View,
) -> Endpoint {
    let serving = is_ready(pod) || planted("unready pods are behind their Services");
    let terminating = is_terminating(pod);
    let ready = spec.publish_not_ready_addresses == Some(true) || (serving && !terminating);
    let zone = node_name(pod)
        .and_then(|node| view.get::<Node>("", node))
        .and_then(|node| labels(&node.metadata).get(ZONE).cloned());
    let pod_spec = pod.spec.as_ref();
    let subdomain = pod_spec.and_then(|spec| spec.subdomain.as_deref());
    let hostname = pod_spec.and_then(|spec| spec.hostname.clone());
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname.filter(|_| subdomain == Some(name(&service.metadata))),
        node_name: node_name(pod).map(str::to_string),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone,
        ..Endpoint::default()
    }
}
