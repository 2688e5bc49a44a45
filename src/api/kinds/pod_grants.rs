//! The annotations by which a Pod gives its programs what no field of Kubernetes has: their names,
//! their values, and that they stay as they were when the Pod was made. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use super::checks;
use super::node_features::NEEDS;
use super::pod_fields::MAX_WARNINGS;
use crate::api::field::{Errors, Path};

/// Hosts outside the cluster that the pod's programs may call; `*` is all, `*.example.com` all
/// below that domain.
pub const ALLOWED_HOSTS: &str = "wasmfleet.dev/allowed-hosts";
/// ConfigMaps whose data is what `wasi:config/store` answers with; later ones win.
pub const CONFIG: &str = "wasmfleet.dev/config";
/// Buckets that the pod's programs may open by `wasi:keyvalue/store`; the first is also named "".
pub const KEYVALUE: &str = "wasmfleet.dev/keyvalue";
/// Audiences of which the pod's programs may ask for a token of its service account.
pub const TOKEN_AUDIENCES: &str = "wasmfleet.dev/token-audiences";
/// Requests that one instance of an HTTP handler serves, one after the other; without it each
/// request has a fresh one. Named as the option of `wasmtime serve`.
pub const MAX_INSTANCE_REUSE_COUNT: &str = "wasmfleet.dev/max-instance-reuse-count";

/// Asks for a core dump when a container's program traps, with `true`.
pub const CORE_DUMP: &str = "wasmfleet.dev/core-dump";
/// Further names that the pod's programs answer to, for programs that do what their name says (as
/// BusyBox does); `*` for any.
pub const EXEC_PROGRAMS: &str = "wasmfleet.dev/exec-programs";

/// What all of these begin with; nobody else's do.
const DOMAIN: &str = "wasmfleet.dev/";
/// All that a Pod may have.
const KNOWN: [&str; 8] = [
    ALLOWED_HOSTS,
    CONFIG,
    CORE_DUMP,
    EXEC_PROGRAMS,
    NEEDS,
    KEYVALUE,
    MAX_INSTANCE_REUSE_COUNT,
    TOKEN_AUDIENCES,
];
/// What an entry of [`ALLOWED_HOSTS`] looks like.
const HOST_FORM: &str = "must be a host's name such as api.example.com, *.example.com for all below a domain, an IP \
                         address, or * for all; without scheme and path";
/// What the value of [`CORE_DUMP`] looks like.
const FLAG_FORM: &str = "must be \"true\" or \"false\"";
/// Longest name and longest part of it, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// What a bucket's ConfigMap is called: this and the bucket's name.
pub const BUCKET_PREFIX: &str = "keyvalue.";
/// Names in one annotation, at most.
const MAX_NAMES: usize = 16;
/// Features that a pod may need.
const MAX_FEATURES: usize = 64;
/// Keys of a bucket, at most.
pub const BUCKET_MAX_KEYS: usize = 4096;

type Annotations = BTreeMap<String, String>;

/// The names in a comma-separated annotation.
pub fn names<'a>(annotations: Option<&'a Annotations>, annotation: &str) -> Vec<&'a str> {
    let text = annotations.and_then(|map| map.get(annotation)).map(String::as_str);
    let names = text.unwrap_or_default().split(',').map(str::trim);
    names.filter(|name| !name.is_empty()).collect()
}

/// The ConfigMap that a bucket is kept in.
pub fn bucket_object(bucket: &str) -> String {
    format!("{BUCKET_PREFIX}{bucket}")
}

/// [`MAX_INSTANCE_REUSE_COUNT`], 1 without it; `None`: it is not a number from 1 on.
pub fn instance_reuse_count(annotations: Option<&Annotations>) -> Option<u32> {
    let text = annotations.and_then(|map| map.get(MAX_INSTANCE_REUSE_COUNT));
    text.map_or(Some(1), |text| text.parse().ok().filter(|count| *count > 0))
}

pub fn validate(errors: &mut Errors, annotations: Option<&Annotations>) {
    let root = Path::new("metadata");
    let root = root.child("annotations");
    for annotation in [ALLOWED_HOSTS, CONFIG, KEYVALUE, TOKEN_AUDIENCES] {
        let path = root.key(annotation);
        let names = names(annotations, annotation);
        if annotation != ALLOWED_HOSTS && names.len() > MAX_NAMES {
            errors.too_many(&path, names.len(), MAX_NAMES);
        }
        for name in names {
            match annotation {
                CONFIG => checks::dns_subdomain(errors, &path, name),
                KEYVALUE => checks::dns_label(errors, &path, name),
                _ => {}
            }
        }
    }
    let features = names(annotations, NEEDS).len();
    if features > MAX_FEATURES {
        errors.too_many(&root.key(NEEDS), features, MAX_FEATURES);
    }
    if instance_reuse_count(annotations).is_none() {
        let value = annotations.and_then(|map| map.get(MAX_INSTANCE_REUSE_COUNT));
        errors.invalid(&root.key(MAX_INSTANCE_REUSE_COUNT), value, "must be a number from 1 on");
    }
}

/// Further rules of Pods that are made. Those that are there keep what they have: it may not change.
pub fn validate_create(errors: &mut Errors, annotations: Option<&Annotations>) {
    let root = Path::new("metadata");
    let path = root.child("annotations");
    for entry in wrong_hosts(annotations) {
        errors.invalid(&path.key(ALLOWED_HOSTS), entry, HOST_FORM);
    }
    if let Some(value) = wrong_core_dump(annotations) {
        errors.invalid(&path.key(CORE_DUMP), value, FLAG_FORM);
    }
}

/// What the annotations of a pod, or of a template at this path, say that nobody reads.
pub fn warnings(warnings: &mut Vec<String>, path: &Path, annotations: Option<&Annotations>) {
    let names = annotations.into_iter().flat_map(|map| map.keys());
    let unknown = names.filter(|name| name.starts_with(DOMAIN) && !KNOWN.contains(&name.as_str()));
    let known = || KNOWN.map(|name| name.trim_start_matches(DOMAIN)).join(", ");
    let unknown = unknown.map(|name| {
        format!("{}: is not known; known after {DOMAIN} are {}", path.key(name), known())
    });
    let hosts = wrong_hosts(annotations)
        .map(|entry| format!("{}: {entry:?} {HOST_FORM}", path.key(ALLOWED_HOSTS)));
    let core_dump = wrong_core_dump(annotations)
        .map(|value| format!("{}: {value:?} {FLAG_FORM}", path.key(CORE_DUMP)));
    let room = MAX_WARNINGS.saturating_sub(warnings.len());
    warnings.extend(unknown.chain(hosts).chain(core_dump).take(room));
}

/// Entries of [`ALLOWED_HOSTS`] that no host can match.
fn wrong_hosts(annotations: Option<&Annotations>) -> impl Iterator<Item = &str> {
    names(annotations, ALLOWED_HOSTS).into_iter().filter(|entry| !is_host(entry))
}

/// The value of [`CORE_DUMP`], if it says neither yes nor no.
fn wrong_core_dump(annotations: Option<&Annotations>) -> Option<&str> {
    let value = annotations.and_then(|map| map.get(CORE_DUMP)).map(String::as_str);
    value.filter(|value| !matches!(*value, "true" | "false"))
}

/// Whether it is a host, perhaps with a port (which is not looked at).
fn is_host(entry: &str) -> bool {
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    if let Some((host, port)) = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let is_whole = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return is_whole && host.parse::<Ipv6Addr>().is_ok();
    }
    if entry.parse::<IpAddr>().is_ok() {
        return true;
    }
    let host = match entry.split_once(':') {
        Some((host, port)) if is_port(port) => host,
        Some(_) => return false,
        None => entry,
    };
    let name = host.strip_prefix("*.").unwrap_or(host);
    host == "*" || (name.len() <= MAX_HOST_BYTES && name.split('.').all(is_label))
}

fn is_label(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_LABEL_BYTES).contains(&text.len()) && text.bytes().all(fits)
}

/// What a Pod was given when it was made is what its node may fetch for it.
pub fn validate_update(errors: &mut Errors, new: Option<&Annotations>, old: Option<&Annotations>) {
    let root = Path::new("metadata");
    let root = root.child("annotations");
    let fixed = [ALLOWED_HOSTS, CONFIG, KEYVALUE, TOKEN_AUDIENCES, MAX_INSTANCE_REUSE_COUNT];
    let changes = |annotation: &str| {
        let value = |map: Option<&Annotations>| map.and_then(|map| map.get(annotation)).cloned();
        value(new) != value(old)
    };
    for annotation in fixed {
        if changes(annotation) {
            errors.forbidden(&root.key(annotation), "may not change while the pod exists");
        }
    }
    if let Some(value) = wrong_core_dump(new).filter(|_| changes(CORE_DUMP)) {
        errors.invalid(&root.key(CORE_DUMP), value, FLAG_FORM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(name: &str, value: &str) -> Annotations {
        BTreeMap::from([(name.to_string(), value.to_string())])
    }

    #[test]
    fn names_are_listed_and_checked() {
        let map = annotations(KEYVALUE, " a, ,b ");
        assert_eq!(names(Some(&map), KEYVALUE), ["a", "b"]);
        assert!(names(None, KEYVALUE).is_empty());
        let count = |name: &str, value: &str| {
            let mut errors = Errors::default();
            validate(&mut errors, Some(&annotations(name, value)));
            errors.len()
        };
        assert_eq!(count(KEYVALUE, "a,b"), 0);
        assert_eq!(count(KEYVALUE, "a.b,B"), 2, "a bucket's name is a label");
        assert_eq!(count(CONFIG, "a.b,../c"), 1);
        assert_eq!(count(CONFIG, &"a,".repeat(MAX_NAMES + 1)), 1);
        assert_eq!(count(ALLOWED_HOSTS, "*,a:80,b/c"), 0, "a pod may have been made so");
    }

    #[test]
    fn hosts_have_a_form() {
        for host in ["*", "*:443", "a", "A.b_c:80", "*.example.com", "10.0.0.1", "10.0.0.1:80"]
            .into_iter()
            .chain(["fd00::1", "[fd00::1]", "[::1]:80", "xn--bcher-kva.example", "1.example"])
        {
            assert!(is_host(host), "{host}");
        }
        for wrong in
            ["exa mple.com", "http://foo:99/x", "b/c", "*foo", "a.*.b", "10.0.0.0/8", "a:b"]
                .into_iter()
                .chain(["a..b", "a.", ".a", "[::1", "[a]", "[::1]80", "a:65536", "bücher.example"])
        {
            assert!(!is_host(wrong), "{wrong}");
        }
        let mut errors = Errors::default();
        validate_create(&mut errors, Some(&annotations(ALLOWED_HOSTS, "a, exa mple.com,http://b")));
        let texts: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2);
        let begin = "metadata.annotations[wasmfleet.dev/allowed-hosts]: Invalid value: \"exa mple.com\": must";
        assert!(texts[0].starts_with(begin), "{texts:?}");
    }

    #[test]
    fn a_core_dump_is_asked_for_or_not() {
        let count = |new: &str, old: Option<&str>| {
            let (new, mut errors) = (annotations(CORE_DUMP, new), Errors::default());
            match old {
                None => validate_create(&mut errors, Some(&new)),
                Some(old) => {
                    validate_update(&mut errors, Some(&new), Some(&annotations(CORE_DUMP, old)));
                }
            }
            errors.len()
        };
        assert_eq!(["true", "false", "yes", ""].map(|text| count(text, None)), [0, 0, 1, 1]);
        assert_eq!(count("yes", Some("true")), 1);
        assert_eq!(count("yes", Some("yes")), 0, "a pod may have been made so");
    }

    #[test]
    fn what_nobody_reads_is_warned_of() {
        let warned = |name: &str, value: &str| {
            let (mut all, root) = (Vec::new(), Path::new("metadata"));
            let path = root.child("annotations");
            warnings(&mut all, &path, Some(&annotations(name, value)));
            all
        };
        let wanted = "metadata.annotations[wasmfleet.dev/allowed-host]: is not known; known after \
                      wasmfleet.dev/ are allowed-hosts, config, core-dump, exec-programs, features, \
                      keyvalue, max-instance-reuse-count, token-audiences";
        assert_eq!(warned("wasmfleet.dev/allowed-host", "a"), [wanted]);
        assert!(warned("example.com/allowed-host", "a").is_empty());
        assert!(warned(ALLOWED_HOSTS, "a").is_empty());
        assert!(warned(ALLOWED_HOSTS, "a/b")[0].contains("\"a/b\" must be a host's name"));
        assert!(warned(CORE_DUMP, "yes")[0].contains("\"yes\" must be \"true\" or"));
    }

    #[test]
    fn a_reuse_count_is_a_number() {
        assert_eq!(instance_reuse_count(None), Some(1));
        for (text, count) in [("1", Some(1)), ("1000", Some(1000)), ("0", None), ("-1", None)] {
            let map = annotations(MAX_INSTANCE_REUSE_COUNT, text);
            assert_eq!(instance_reuse_count(Some(&map)), count, "{text}");
            let mut errors = Errors::default();
            validate(&mut errors, Some(&map));
            assert_eq!(errors.is_empty(), count.is_some(), "{text}");
        }
    }

    #[test]
    fn what_was_given_stays() {
        let mut errors = Errors::default();
        let old = annotations(CONFIG, "a");
        validate_update(&mut errors, Some(&old), Some(&old));
        assert!(errors.is_empty());
        validate_update(&mut errors, None, Some(&old));
        validate_update(&mut errors, Some(&annotations(KEYVALUE, "b")), Some(&old));
        let texts: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
    }
}
