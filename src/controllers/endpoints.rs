//! Endpoints: the older form of what EndpointSlices tell, for clients that still read it. Made of the
//! slices, so that pods are looked at once, and written at most once a second for each Service.
//! Upstream: pkg/controller/endpoint/endpoints_controller.go.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpoint_slice::has_selector;
use super::ownership::{labels, uid};
use super::slices::{self, HEADLESS, MANAGER};
use super::{Controller, Plan};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};

/// Marks what is made here.
const MADE_HERE: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses of an object.
const MOST_ADDRESSES: usize = 1_000;
/// The least time between two writes of an object.
const PAUSE: Duration = Duration::from_secs(1);

pub struct EndpointsController;

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoint-controller"
    }

    fn keys(&self, change: &Changed, _view: &View) -> Vec<ObjectKey> {
        slices::services_or_endpoints_of(change, MANAGER)
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Service>(), Gvr::of::<EndpointSlice>(), Gvr::of::<Endpoints>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let old = view.get_key::<Endpoints>(key);
        let Some(service) = view.get_key::<Service>(key) else {
            let (label, value) = MADE_HERE;
            let own = |old: &&Endpoints| {
                labels(&old.metadata).get(label).is_some_and(|made| made == value)
            };
            if let Some(old) = old.map(|old| &**old).filter(own) {
                plan.delete(old);
            }
            return plan;
        };
        let selects = service.spec.as_ref().is_some_and(has_selector);
        if !selects || service.metadata.deletion_timestamp.is_some() {
            return plan;
        }
        let slices = view.owned_by::<EndpointSlice>(uid(&service.metadata)).map(|slice| &**slice);
        let slices: Vec<&EndpointSlice> =
            slices.filter(|slice| slices::is_managed(slice, MANAGER)).collect();
        // A Service that has no slice yet is the other controller's first.
        if slices.is_empty() {
            return plan;
        }
        let new = wanted(service, &slices, old.map(|old| &**old));
        match old {
            None => plan.create(&new),
            Some(old) if **old == new => {}
            Some(_) => {
                let quiet = view.unchanged_for::<Endpoints>(&key.namespace, &key.name);
                match PAUSE.checked_sub(quiet.unwrap_or(PAUSE)).filter(|left| !left.is_zero()) {
                    Some(left) => plan.again_after(left),
                    None => plan.update(&new),
                }
            }
        }
        plan
    }
}

/// The object that the slices lead to, with what others wrote into its metadata.
fn wanted(service: &Service, slices: &[&EndpointSlice], old: Option<&Endpoints>) -> Endpoints {
    let spec = service.spec.clone().unwrap_or_default();
    let publishes_all = spec.publish_not_ready_addresses == Some(true);
    // Only addresses of the first family: there is no place that says which one it is.
    let first = spec.ip_families.as_ref().and_then(|families| families.first());
    let family = first.map_or("IPv4", String::as_str);
    let mut subsets: BTreeMap<String, Subset> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == family) {
        let ports: Vec<EndpointPort> = slice.ports.iter().flatten().filter_map(port).collect();
        let key = serde_json::to_string(&ports).unwrap_or_default();
        let subset = subsets.entry(key).or_default();
        subset.ports = ports;
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            if conditions.terminating == Some(true) && !publishes_all {
                continue;
            }
            let ready = conditions.ready.unwrap_or(true);
            let list = if ready { &mut subset.ready } else { &mut subset.unready };
            list.extend(address(endpoint));
        }
    }
    let truncated = cut(subsets.values_mut().map(|subset| &mut subset.ready).collect(), 0);
    let ready = subsets.values().map(|subset| subset.ready.len()).sum();
    let unready = subsets.values_mut().map(|subset| &mut subset.unready).collect();
    let truncated = cut(unready, ready) || truncated;
    let subsets: Vec<EndpointSubset> = subsets.into_values().filter_map(Subset::finish).collect();
    let mut metadata = old.map_or_else(
        || ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        |old| old.metadata.clone(),
    );
    let mut own = labels(&service.metadata).clone();
    own.remove(HEADLESS);
    own.insert(MADE_HERE.0.into(), MADE_HERE.1.into());
    if spec.cluster_ip.as_deref() == Some("None") {
        own.insert(HEADLESS.into(), String::new());
    }
    metadata.labels = Some(own);
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    match truncated {
        true => annotations.insert(OVER_CAPACITY.into(), "truncated".into()),
        false => annotations.remove(OVER_CAPACITY),
    };
    metadata.annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    Endpoints { metadata, subsets: Some(subsets).filter(|subsets| !subsets.is_empty()) }
}

/// Addresses with the same ports.
#[derive(Default)]
struct Subset {
    ports: Vec<EndpointPort>,
    ready: Vec<EndpointAddress>,
    unready: Vec<EndpointAddress>,
}

impl Subset {
    fn finish(mut self) -> Option<EndpointSubset> {
        let sorted = |list: &mut Vec<EndpointAddress>| {
            list.sort_by_key(|address| address.ip.parse::<IpAddr>().ok());
            Some(std::mem::take(list)).filter(|list| !list.is_empty())
        };
        let (addresses, unready) = (sorted(&mut self.ready), sorted(&mut self.unready));
        (addresses.is_some() || unready.is_some()).then(|| EndpointSubset {
            addresses,
            not_ready_addresses: unready,
            ports: Some(self.ports).filter(|ports| !ports.is_empty()),
        })
    }
}

/// Takes away what is beyond the capacity; `before` addresses are there already.
fn cut(lists: Vec<&mut Vec<EndpointAddress>>, before: usize) -> bool {
    let mut room = MOST_ADDRESSES.saturating_sub(before);
    let mut truncated = false;
    for list in lists {
        truncated |= list.len() > room;
        list.truncate(room);
        room -= list.len();
    }
    truncated
}

fn address(endpoint: &Endpoint) -> Option<EndpointAddress> {
    Some(EndpointAddress {
        ip: endpoint.addresses.first()?.clone(),
        hostname: endpoint.hostname.clone(),
        node_name: endpoint.node_name.clone(),
        target_ref: endpoint.target_ref.clone(),
    })
}

fn port(port: &k8s_openapi::api::discovery::v1::EndpointPort) -> Option<EndpointPort> {
    Some(EndpointPort {
        name: port.name.clone().filter(|name| !name.is_empty()),
        port: port.port?,
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_capacity_is_cut() {
        let list = |count| vec![EndpointAddress::default(); count];
        let (mut first, mut second) = (list(600), list(600));
        assert!(cut(vec![&mut first, &mut second], 0));
        assert_eq!((first.len(), second.len()), (600, 400));
        let mut rest = list(1);
        assert!(cut(vec![&mut rest], 1_000));
        assert!(rest.is_empty());
        assert!(!cut(vec![&mut list(3)], 0));
    }
}
