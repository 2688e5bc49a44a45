//! EndpointSlices for Endpoints that somebody writes for a Service without a selector, so that
//! proxies need to read slices only.
//! Upstream: pkg/controller/endpointslicemirroring.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use super::endpoint_slice::has_selector;
use super::ownership::{controller_reference, labels, name, uid};
use super::slices::{self, Group, MANAGED_BY, Owner, SERVICE_NAME, Wanted};
use super::{Controller, Plan};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Set to `true` on Endpoints that have slices by other ways.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are a lock for leaders, as they were once.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

pub struct EndpointSliceMirroringController;

impl Controller for EndpointSliceMirroringController {
    fn name(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }

    fn keys(&self, change: &Changed, _view: &View) -> Vec<ObjectKey> {
        slices::services_or_endpoints_of(change, MANAGER)
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Service>(), Gvr::of::<EndpointSlice>(), Gvr::of::<Endpoints>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        // Slices of Endpoints that are gone go by their owner reference.
        let Some(endpoints) = view.get_key::<Endpoints>(key) else { return plan };
        let own = view.owned_by::<EndpointSlice>(uid(&endpoints.metadata)).map(|slice| &**slice);
        let existing: Vec<&EndpointSlice> =
            own.filter(|slice| slices::is_managed(slice, MANAGER)).collect();
        let service = view.get_key::<Service>(key);
        let custom = service.is_some_and(|service| {
            service.metadata.deletion_timestamp.is_none()
                && !service.spec.as_ref().is_some_and(has_selector)
        });
        let mirrored = custom && is_mirrored(endpoints);
        if !mirrored && existing.is_empty() {
            return plan;
        }
        let wanted = if mirrored { wanted(endpoints) } else { Wanted::new() };
        slices::pack(&owner(endpoints), wanted, existing, &mut plan);
        plan
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skipped = labels(&endpoints.metadata).get(SKIP).is_some_and(|value| value == "true");
    let annotations = endpoints.metadata.annotations.as_ref();
    !skipped && !annotations.is_some_and(|all| all.contains_key(LEADER))
}

fn owner(endpoints: &Endpoints) -> Owner {
    let mut labels = labels(&endpoints.metadata).clone();
    labels.insert(SERVICE_NAME.into(), name(&endpoints.metadata).into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    Owner {
        name: name(&endpoints.metadata).into(),
        namespace: endpoints.metadata.namespace.clone(),
        labels,
        reference: controller_reference(endpoints),
        placeholder: false,
    }
}

fn wanted(endpoints: &Endpoints) -> Wanted {
    let mut wanted = Wanted::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        for (list, ready) in [(&subset.addresses, true), (&subset.not_ready_addresses, false)] {
            for address in list.iter().flatten() {
                let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
                let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                let group = wanted.entry(Group::new(family, &ports));
                let (_, all) = group.or_insert_with(|| (ports.clone(), Vec::new()));
                all.push(endpoint(address, ready));
            }
        }
    }
    wanted
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten();
    ports
        .map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}
