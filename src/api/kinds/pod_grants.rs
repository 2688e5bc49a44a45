//! The annotations by which a Pod gives its programs what no field of Kubernetes has: their names,
//! their values, and that they stay as they were when the Pod was made. Pure.

use std::collections::BTreeMap;

use super::checks;
use super::node_features::NEEDS;
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

/// What a Pod was given when it was made is what its node may fetch for it.
pub fn validate_update(errors: &mut Errors, new: Option<&Annotations>, old: Option<&Annotations>) {
    let root = Path::new("metadata");
    let root = root.child("annotations");
    let fixed = [ALLOWED_HOSTS, CONFIG, KEYVALUE, TOKEN_AUDIENCES, MAX_INSTANCE_REUSE_COUNT];
    for annotation in fixed {
        let value = |map: Option<&Annotations>| map.and_then(|map| map.get(annotation)).cloned();
        if value(new) != value(old) {
            errors.forbidden(&root.key(annotation), "may not change while the pod exists");
        }
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
        assert_eq!(count(ALLOWED_HOSTS, "*,a:80,b/c"), 0);
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
