//! Every Service that wants one gets a cluster IP that no other has.
//!
//! An address in use is a key of the store: the `IPAddress` object that upstream keeps as well
//! (networking.k8s.io/v1), committed and deleted together with its Service. So no state in memory
//! can be wrong, not after a crash and not with several API servers.

use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::field::{Errors, Path};
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::service::{read_error, timestamp};
use crate::apiserver::write::spliced;
use crate::store::{Expect, Key, Op};

/// How many random addresses are tried before the range is searched in order.
const RANDOM_TRIES: u32 = 16;
/// How many addresses one request looks at in order; the next request goes on where it ended, so
/// that a large range that is nearly full costs each of them little.
const MAX_SEARCHED_ADDRESSES: u64 = 1 << 14;

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: Ipv4Addr,
    prefix_bits: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no IPv4 range such as 127.128.0.0/12 (with at most 30 prefix bits)")]
pub struct CidrError(String);

impl Cidr {
    /// 127.128.0.0/12: loopback addresses, which need no privilege.
    pub const DEFAULT_SERVICES: Cidr =
        Cidr { base: Ipv4Addr::new(127, 128, 0, 0), prefix_bits: 12 };

    /// How many addresses may be given away: all but the first and the last.
    fn usable(self) -> u64 {
        (1u64 << (32 - u32::from(self.prefix_bits))) - 2
    }

    /// The address with an index below [`Cidr::usable`].
    fn address(self, index: u64) -> Ipv4Addr {
        let offset = u32::try_from(index + 1).unwrap_or(u32::MAX);
        Ipv4Addr::from_bits(self.base.to_bits().wrapping_add(offset))
    }

    /// The first address that may be given away: that of the Service `kubernetes`.
    pub fn first(self) -> Ipv4Addr {
        self.address(0)
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        let offset = u64::from(address.to_bits().wrapping_sub(self.base.to_bits()));
        (1..=self.usable()).contains(&offset)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let bad = || CidrError(text.into());
        let (base, bits) = text.split_once('/').ok_or_else(bad)?;
        let base: Ipv4Addr = base.parse().map_err(|_| bad())?;
        let prefix_bits: u8 = bits.parse().map_err(|_| bad())?;
        let host_bits = 32u32.checked_sub(u32::from(prefix_bits)).ok_or_else(bad)?;
        if !(2..=31).contains(&host_bits) || base.to_bits() & ((1 << host_bits) - 1) != 0 {
            return Err(bad());
        }
        Ok(Cidr { base, prefix_bits })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

pub struct ClusterIp;

impl Admitter for ClusterIp {
    fn allocate(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        if !attributes.is("", "services") || attributes.verb == Verb::Delete {
            return Ok(());
        }
        let before = attributes.old.map(cluster_ip).unwrap_or_default().to_string();
        let external = text(object, "type") == "ExternalName";
        let asked = cluster_ip(object).to_string();
        let now = match asked.as_str() {
            _ if external => String::new(),
            "None" => asked,
            // An update that leaves the address out keeps it.
            "" if !matches!(before.as_str(), "" | "None") => before.clone(),
            "" => free_address(attributes)?.to_string(),
            given if given == before => asked,
            given => {
                let address = check_given(attributes, object, given)?;
                address.to_string()
            }
        };
        set(object, &now);
        outcome.changed = true;
        if now != before {
            outcome.ops.extend(claim(attributes, object, &now));
            outcome.ops.extend(give_back(attributes, &before));
        }
        Ok(())
    }

    fn release(&self, attributes: &Attributes, object: &Object) -> Vec<Op> {
        if !attributes.is_service() {
            return Vec::new();
        }
        give_back(attributes, cluster_ip(object)).into_iter().collect()
    }
}

impl Attributes<'_> {
    /// Also for subresources: a Service may go by an update of any of them.
    fn is_service(&self) -> bool {
        self.call.info.gvr.group.is_empty() && self.call.info.gvr.resource == "services"
    }
}

fn text<'a>(object: &'a Object, field: &str) -> &'a str {
    object.at(&["spec", field]).and_then(Value::as_str).unwrap_or_default()
}

fn cluster_ip(object: &Object) -> &str {
    let first = object.at(&["spec", "clusterIPs"]).and_then(|l| l.get(0)).and_then(Value::as_str);
    match text(object, "clusterIP") {
        "" => first.unwrap_or_default(),
        given => given,
    }
}

/// Sets both spellings, or removes them for "".
fn set(object: &mut Object, address: &str) {
    let Some(spec) = object.fields_mut().get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if address.is_empty() {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
        return;
    }
    spec.insert("clusterIP".into(), address.into());
    spec.insert("clusterIPs".into(), json!([address]));
}

fn key(address: &str) -> Key {
    Key::new(&["networking.k8s.io", "ipaddresses", "", address])
}

fn is_taken(attributes: &Attributes, address: Ipv4Addr) -> Result<bool, ApiError> {
    let entry = attributes.server.store.get(&key(&address.to_string())).map_err(read_error)?;
    Ok(entry.is_some())
}

/// A free address; another write may still take it, which is a conflict of the commit then.
fn free_address(attributes: &Attributes) -> Result<Ipv4Addr, ApiError> {
    let range = attributes.server.options.service_cidr;
    // The first one is kept for the Service `kubernetes`.
    let choices = range.usable() - 1;
    let random = || range.address(1 + attributes.server.ids.below(choices));
    for _ in 0..RANDOM_TRIES {
        let address = random();
        if !is_taken(attributes, address)? {
            return Ok(address);
        }
    }
    let searched = choices.min(MAX_SEARCHED_ADDRESSES);
    // Only a hint: two requests that begin at the same place find the same address at worst, and
    // one of their commits fails.
    let begin = attributes.server.next_service_ip.fetch_add(searched, Ordering::Relaxed);
    for offset in 0..searched {
        let address = range.address(1 + begin.wrapping_add(offset) % choices);
        if !is_taken(attributes, address)? {
            return Ok(address);
        }
    }
    if searched == choices {
        let message = format!("failed to allocate a serviceIP: range {range} is full");
        return Err(ApiError::internal(message));
    }
    let message = format!("failed to allocate a serviceIP: range {range} is nearly full");
    Err(ApiError::unavailable(message))
}

fn check_given(
    attributes: &Attributes,
    object: &Object,
    given: &str,
) -> Result<Ipv4Addr, ApiError> {
    let range = attributes.server.options.service_cidr;
    let spec = Path::new("spec");
    let refused = |detail: &str| {
        let mut errors = Errors::default();
        errors.invalid(&spec.child("clusterIPs"), [given], detail);
        ApiError::invalid(&attributes.call.info, object.name(), errors.into_vec())
    };
    let Ok(address) = given.parse::<Ipv4Addr>() else {
        return Err(refused("must be a valid IPv4 address"));
    };
    if !range.contains(address) {
        let detail = format!(
            "failed to allocate IP {given}: the provided IP is not in the valid range. \
             The range of valid IPs is {range}"
        );
        return Err(refused(&detail));
    }
    if is_taken(attributes, address)? {
        let detail = format!("failed to allocate IP {given}: provided IP is already allocated");
        return Err(refused(&detail));
    }
    Ok(address)
}

/// The `IPAddress` that makes an address this Service's own.
fn claim(attributes: &Attributes, object: &Object, address: &str) -> Option<Op> {
    address.parse::<Ipv4Addr>().ok()?;
    let server = attributes.server;
    let value = json!({
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": address,
            "uid": server.ids.uid(),
            "creationTimestamp": timestamp(server.clock.now()),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {"resource": "services", "namespace": object.namespace(),
            "name": object.name()}},
    });
    let object = Object::from_value(value).ok()?;
    Some(Op::Put { key: key(address), value: spliced(&object), expect: Expect::Absent })
}

/// The deletion of an address's object, if there is one and it is this Service's.
fn give_back(attributes: &Attributes, address: &str) -> Option<Op> {
    address.parse::<Ipv4Addr>().ok()?;
    let key = key(address);
    let entry = attributes.server.store.get(&key).ok()??;
    let owner = Raw(entry.value).object().ok()?;
    let parent = |field: &str| owner.at(&["spec", "parentRef", field]).and_then(Value::as_str);
    let call = attributes.call;
    let ours = parent("namespace") == Some(call.namespace.as_str())
        && parent("name") == Some(call.name.as_str());
    ours.then_some(Op::Delete { key, expect: Expect::Revision(entry.revision), last: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_counted() {
        let range: Cidr = "10.0.0.0/29".parse().unwrap();
        assert_eq!((range.usable(), range.first().to_string()), (6, "10.0.0.1".into()));
        assert!(range.contains("10.0.0.6".parse().unwrap()));
        assert!(!range.contains("10.0.0.7".parse().unwrap()));
        assert!(!range.contains("10.0.0.0".parse().unwrap()));
        for bad in ["", "10.0.0.0", "10.0.0.1/29", "10.0.0.0/31", "10.0.0.0/33", "::/64"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert_eq!("127.128.0.0/12".parse::<Cidr>().unwrap(), Cidr::DEFAULT_SERVICES);
    }
}
