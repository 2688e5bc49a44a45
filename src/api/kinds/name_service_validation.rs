//! How a pod's programs find names: `dnsConfig` and `hostAliases`, with upstream's words
//! (pkg/apis/core/validation: validatePodDNSConfig, ValidateHostAliases).

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::checks;
use crate::api::field::{Errors, Path};

/// What the resolvers of C libraries take.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCH_PATHS: usize = 32;
/// All search paths together, with a space between two, in bytes.
const SEARCH_PATHS_MAX_BYTES: usize = 2048;

pub fn validate(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    let at = path.child("dnsConfig");
    let servers = |config: &PodDNSConfig| config.nameservers.as_ref().map_or(0, Vec::len);
    match (&spec.dns_config, spec.dns_policy.as_deref() == Some("None")) {
        (None, true) => {
            errors.required(&at, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        (Some(config), true) if servers(config) == 0 => {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(&at.child("nameservers"), detail);
        }
        (Some(config), _) => validate_config(errors, &at, config),
        (None, false) => {}
    }
    let aliases = path.child("hostAliases");
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = aliases.index(i);
        checks::ip(errors, &path.child("ip"), &alias.ip);
        let names = path.child("hostnames");
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            checks::dns_subdomain(errors, &names.index(j), name);
        }
    }
}

fn validate_config(errors: &mut Errors, path: &Path, config: &PodDNSConfig) {
    let at = path.child("nameservers");
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.invalid(&at, servers, &detail);
    }
    for (i, server) in servers.iter().enumerate() {
        checks::ip(errors, &at.index(i), server);
    }
    let at = path.child("searches");
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > MAX_SEARCH_PATHS {
        let detail = format!("must not have more than {MAX_SEARCH_PATHS} search paths");
        errors.invalid(&at, searches, &detail);
    }
    if searches.join(" ").len() > SEARCH_PATHS_MAX_BYTES {
        let detail = format!(
            "must not have more than {SEARCH_PATHS_MAX_BYTES} characters (including spaces) in \
             the search list"
        );
        errors.invalid(&at, searches, &detail);
    }
    for (i, search) in searches.iter().enumerate() {
        // `.` alone is the root; underscores may begin a label.
        let search = search.strip_suffix('.').unwrap_or(search);
        if !search.is_empty() {
            checks::dns_subdomain(errors, &at.index(i), &search.replace('_', "a"));
        }
    }
    let at = path.child("options");
    for (i, option) in config.options.iter().flatten().enumerate() {
        if option.name.as_deref().unwrap_or_default().is_empty() {
            errors.required(&at.index(i), "must not be empty");
        }
    }
}
