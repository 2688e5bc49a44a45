//! Checks of single values that several kinds share, with upstream's words
//! (k8s.io/kubernetes/pkg/apis/core/validation).
//!
//! Knows no kind. The syntax of names is in [`crate::api::names`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::field::{Errors, Path};
use crate::api::names;
use crate::api::quantity::Quantity;

pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub fn nonnegative(errors: &mut Errors, path: &Path, value: impl Into<i64>) {
    let value = value.into();
    if value < 0 {
        errors.invalid(path, value, "must be greater than or equal to 0");
    }
}

pub fn nonnegative_if_set(errors: &mut Errors, path: &Path, value: Option<impl Into<i64>>) {
    if let Some(value) = value {
        nonnegative(errors, path, value);
    }
}

/// Required, and one of a closed list.
pub fn one_of(errors: &mut Errors, path: &Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.required(path, "");
    } else if !supported.contains(&value) {
        errors.not_supported(path, value, supported);
    }
}

pub fn immutable<T: PartialEq + serde::Serialize>(
    errors: &mut Errors,
    path: &Path,
    new: &T,
    old: &T,
) {
    if new != old {
        errors.invalid(path, new, "field is immutable");
    }
}

pub fn dns_label(errors: &mut Errors, path: &Path, value: &str) {
    names::report(errors, path, value, names::is_dns1123_label(value));
}

pub fn dns_subdomain(errors: &mut Errors, path: &Path, value: &str) {
    names::report(errors, path, value, names::is_dns1123_subdomain(value));
}

pub fn qualified_name(errors: &mut Errors, path: &Path, value: &str) {
    names::report(errors, path, value, names::is_qualified_name(value));
}

pub fn config_map_key(errors: &mut Errors, path: &Path, value: &str) {
    names::report(errors, path, value, names::is_config_map_key(value));
}

pub fn port_number(errors: &mut Errors, path: &Path, port: i32) {
    for message in names::is_port_number(port) {
        errors.invalid(path, port, &message);
    }
}

pub fn port_number_or_name(errors: &mut Errors, path: &Path, port: &IntOrString) {
    match port {
        IntOrString::Int(number) => port_number(errors, path, *number),
        IntOrString::String(name) => names::report(errors, path, name, names::is_port_name(name)),
    }
}

/// Upstream's words for a number that is out of its range.
pub fn inclusive_range(least: i64, most: i64) -> String {
    format!("must be between {least} and {most}, inclusive")
}

pub fn ip(errors: &mut Errors, path: &Path, value: &str) {
    if value.parse::<IpAddr>().is_err() {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.invalid(path, value, detail);
    }
}

/// A name that would be taken for an address.
pub fn no_address(errors: &mut Errors, path: &Path, name: &str) {
    if name.parse::<IpAddr>().is_ok() {
        errors.invalid(path, name, "must be a DNS name, not an IP address");
    }
}

/// Addresses that are nobody else's (ValidateNonSpecialIP).
pub fn non_special_ip(errors: &mut Errors, path: &Path, value: &str) {
    if value.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        let detail = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
        errors.invalid(path, value, detail);
    }
    endpoint_ip(errors, path, value);
}

/// Addresses that endpoints may have. Upstream refuses loopback addresses too, but Wasm pods live on
/// them: a pod's address is one of the node's block in 127.64.0.0/10.
pub fn endpoint_ip(errors: &mut Errors, path: &Path, value: &str) {
    let Ok(address) = value.parse::<IpAddr>() else { return };
    let (link_local, link_local_group) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let rules = [
        (address.is_unspecified(), format!("may not be unspecified ({value})")),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".into()),
        (
            link_local_group,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into(),
        ),
    ];
    for (_, detail) in rules.into_iter().filter(|(is_special, _)| *is_special) {
        errors.invalid(path, value, &detail);
    }
}

/// A domain of at least two segments; a dot at its end is fine.
pub fn full_domain_name(errors: &mut Errors, path: &Path, value: &str) {
    if value.is_empty() {
        return errors.required(path, "");
    }
    let name = value.strip_suffix('.').unwrap_or(value);
    let wrong = names::is_dns1123_subdomain(name);
    if !wrong.is_empty() {
        return names::report(errors, path, value, wrong);
    }
    if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.invalid(path, value, detail);
    }
}

/// Required: a domain, a slash, a path (IsDomainPrefixedPath).
pub fn domain_prefixed_path(errors: &mut Errors, path: &Path, value: &str) {
    if value.is_empty() {
        return errors.required(path, "");
    }
    for (part, message) in names::domain_prefixed_path_errors(value) {
        errors.invalid(path, part, &message);
    }
}

pub fn ipv4(errors: &mut Errors, path: &Path, value: &str) {
    if value.parse::<Ipv4Addr>().is_err() {
        errors.invalid(path, value, "must be a valid IPv4 address");
    }
}

pub fn ipv6(errors: &mut Errors, path: &Path, value: &str) {
    if value.parse::<Ipv6Addr>().is_err() {
        errors.invalid(path, value, "must be a valid IPv6 address");
    }
}

pub fn cidr(errors: &mut Errors, path: &Path, value: &str) {
    let good = value.split_once('/').is_some_and(|(address, bits)| {
        let max_bits = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|n| n <= max_bits)
    });
    if !good {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.invalid(path, value, detail);
    }
}

/// Canonical form of a CIDR: what the address masks out is zero (upstream's IsValidCIDR).
pub fn canonical_cidr(errors: &mut Errors, path: &Path, value: &str) {
    let Some(network) = names::Network::parse(value) else { return cidr(errors, path, value) };
    let canonical = network.to_string();
    if canonical != value {
        let detail = format!("must be in canonical form (\"{canonical}\")");
        errors.invalid(path, value, &detail);
    }
}

/// A counter that only grows, and that stays once it is there.
pub fn not_decremented(errors: &mut Errors, path: &Path, new: Option<i32>, old: Option<i32>) {
    nonnegative_if_set(errors, path, new);
    if new < old {
        errors.invalid(path, new.unwrap_or_default(), "cannot be decremented");
    }
}

/// Required, and safe as a segment of a path.
pub fn path_segment(errors: &mut Errors, path: &Path, value: &str) {
    if value.is_empty() {
        errors.required(path, "");
    } else {
        names::report(errors, path, value, names::is_path_segment(value));
    }
}

/// Required, and a subdomain: the name of another object.
pub fn object_name(errors: &mut Errors, path: &Path, value: &str) {
    if value.is_empty() {
        errors.required(path, "");
    } else {
        dns_subdomain(errors, path, value);
    }
}

/// The name of a driver of storage or devices: a subdomain of 63 characters in any case.
pub fn driver_name(errors: &mut Errors, path: &Path, value: &str) {
    if value.is_empty() {
        return errors.required(path, "");
    }
    if value.len() > names::LABEL_MAX_BYTES {
        errors.too_long(path, names::LABEL_MAX_BYTES);
    }
    names::report(errors, path, value, names::is_dns1123_subdomain(&value.to_lowercase()));
}

/// An amount that is more than nothing.
pub fn positive(errors: &mut Errors, path: &Path, amount: &Amount) {
    match Quantity::parse(&amount.0) {
        Ok(amount) if amount.sign() > 0 => {}
        Ok(_) => errors.invalid(path, &amount.0, "must be greater than zero"),
        Err(error) => errors.invalid(path, &amount.0, &error.to_string()),
    }
}

/// The types of the conditions of a status: there, and each once.
pub fn condition_types<'a>(errors: &mut Errors, types: impl Iterator<Item = Option<&'a str>>) {
    let path = Path::new("status");
    let path = path.child("conditions");
    let mut seen = std::collections::BTreeSet::new();
    for (i, type_) in types.enumerate() {
        let path = path.index(i);
        let type_ = type_.unwrap_or_default();
        if type_.is_empty() {
            errors.required(&path.child("type"), "must not be empty");
        }
        if !seen.insert(type_) {
            errors.duplicate(&path.child("type"), type_);
        }
    }
}

/// Sets a text that is not there or empty.
pub fn default_text(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.into());
    }
}

/// The cell of a value that may be missing.
pub fn or_none(value: Option<&str>) -> &str {
    value.filter(|v| !v.is_empty()).unwrap_or("<none>")
}
