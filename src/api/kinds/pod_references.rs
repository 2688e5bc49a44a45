//! Which objects of the API a Pod refers to: what its node may read, and what no static pod may
//! have (upstream's VisitPodSecretNames and VisitPodConfigmapNames, pkg/api/pod/util.go). Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::ephemeral_containers::as_container;
use super::{pod_grants, storage};

/// What a Pod may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Referent {
    ConfigMap,
    Secret,
    Claim,
    /// A bucket of `wasi:keyvalue`: a ConfigMap that the node also writes.
    Bucket,
}

/// What a pod of this name refers to, by its spec and by its annotations, of which neither may
/// change while it exists.
pub fn all(
    pod: &str,
    annotations: Option<&BTreeMap<String, String>>,
    spec: &PodSpec,
) -> BTreeSet<(Referent, String)> {
    let mut found = references(pod, spec);
    found.extend(annotated(annotations));
    found
}

fn annotated(annotations: Option<&BTreeMap<String, String>>) -> Vec<(Referent, String)> {
    let names = |annotation| pod_grants::names(annotations, annotation).into_iter();
    let maps = names(pod_grants::CONFIG).map(|name| (Referent::ConfigMap, name.to_string()));
    let buckets = names(pod_grants::KEYVALUE).map(pod_grants::bucket_object);
    let buckets =
        buckets.flat_map(|name| [(Referent::ConfigMap, name.clone()), (Referent::Bucket, name)]);
    maps.chain(buckets).collect()
}

/// Every Secret, ConfigMap and claim that a pod's spec names.
fn references(pod: &str, spec: &PodSpec) -> BTreeSet<(Referent, String)> {
    let mut found = BTreeSet::new();
    let mut config_map = |name: &str| _ = found.insert((Referent::ConfigMap, name.to_string()));
    let mut secrets = Vec::new();
    for reference in spec.image_pull_secrets.iter().flatten() {
        secrets.push(reference.name.as_str());
    }
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            config_map(&source.name);
        }
        secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()));
        let projected = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for source in projected {
            if let Some(source) = &source.config_map {
                config_map(&source.name);
            }
            secrets.extend(source.secret.as_ref().map(|s| s.name.as_str()));
        }
    }
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        container_references(container, &mut config_map, &mut secrets);
    }
    let debug: Vec<Container> =
        spec.ephemeral_containers.iter().flatten().map(as_container).collect();
    for container in &debug {
        container_references(container, &mut config_map, &mut secrets);
    }
    found.extend(secrets.into_iter().map(|name| (Referent::Secret, name.to_string())));
    let volumes = spec.volumes.iter().flatten();
    let claims = volumes.filter_map(|volume| storage::claim_name(Some(pod), volume));
    found.extend(claims.map(|name| (Referent::Claim, name.into_owned())));
    found
}

fn container_references<'a>(
    container: &'a Container,
    config_map: &mut impl FnMut(&str),
    secrets: &mut Vec<&'a str>,
) {
    for source in container.env_from.iter().flatten() {
        if let Some(source) = &source.config_map_ref {
            config_map(&source.name);
        }
        secrets.extend(source.secret_ref.as_ref().map(|s| s.name.as_str()));
    }
    for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        if let Some(key) = &source.config_map_key_ref {
            config_map(&key.name);
        }
        secrets.extend(source.secret_key_ref.as_ref().map(|s| s.name.as_str()));
    }
}
