//! Static pods, which a node has from a folder of its own, and the mirrors by which the API shows
//! them: their annotations, and what such pods may not refer to. Pure.
//!
//! Source: k8s.io/kubernetes pkg/kubelet/types/pod_update.go, pkg/apis/core/validation (the mirror
//! annotation), pkg/api/pod/util.go (HasAPIObjectReference).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::pod_grants;
use super::pod_references::{self, Referent};
use crate::api::field::{Errors, Path};

/// Where a node has a pod from: [`SOURCE_FILE`].
pub const SOURCE: &str = "kubernetes.io/config.source";
pub const SOURCE_FILE: &str = "file";
/// What a static pod is made of, as a digest: its uid on the node.
pub const HASH: &str = "kubernetes.io/config.hash";
/// When the node first saw it so.
pub const SEEN: &str = "kubernetes.io/config.seen";
/// Of mirrors: the [`HASH`] of the static pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

type Annotations = BTreeMap<String, String>;

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The hash of the static pod that a pod mirrors; `None`: it is no mirror.
pub fn mirrors(pod: &Pod) -> Option<&str> {
    annotation(pod, MIRROR)
}

/// Whether a pod of a node is a static one. Annotations alone do not make it so: everybody may set
/// them, and nobody chooses the uid of an object of the API.
pub fn is_static(pod: &Pod) -> bool {
    pod.metadata.uid.as_deref().is_some_and(|uid| annotation(pod, HASH) == Some(uid))
}

/// Rules of mirrors that hold for each Pod.
pub fn validate(errors: &mut Errors, annotations: Option<&Annotations>, spec: &PodSpec) {
    let Some(hash) = annotations.and_then(|map| map.get(MIRROR)) else { return };
    if spec.node_name.as_deref().unwrap_or_default().is_empty() {
        let (root, detail) =
            (Path::new("metadata"), "must set spec.nodeName if mirror pod annotation is set");
        errors.invalid(&root.child("annotations").key(MIRROR), hash, detail);
    }
}

/// What is a mirror stays one, and of the same static pod.
pub fn validate_update(errors: &mut Errors, new: &Pod, old: &Pod) {
    let detail = match (mirrors(new), mirrors(old)) {
        (new, old) if new == old => return,
        (_, Some(_)) => "may not remove or update mirror pod annotation",
        (_, None) => "may not add mirror pod annotation",
    };
    let root = Path::new("metadata");
    errors.forbidden(&root.child("annotations").key(MIRROR), detail);
}

/// The plural resource of an object of the API that a pod refers to. A static pod, and a mirror
/// that a node makes, may refer to none: it has to run without the API, and a node must not come by
/// objects through pods that it makes itself.
pub fn object_reference(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let accounts = [&spec.service_account_name, &spec.service_account];
    let names_account = accounts.into_iter().flatten().any(|name| !name.is_empty());
    let annotations = pod.metadata.annotations.as_ref();
    if names_account || !pod_grants::names(annotations, pod_grants::TOKEN_AUDIENCES).is_empty() {
        return Some("serviceaccounts");
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let found = pod_references::all(name, annotations, spec);
    let refers = |kind: Referent| found.iter().any(|(of, _)| *of == kind);
    for (kind, resource) in [
        (Referent::Secret, "secrets"),
        (Referent::ConfigMap, "configmaps"),
        (Referent::Bucket, "configmaps"),
        (Referent::Claim, "persistentvolumeclaims"),
    ] {
        if refers(kind) {
            return Some(resource);
        }
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let mut sources = volumes.flat_map(|projected| projected.sources.iter().flatten());
    sources.find_map(|source| match source {
        source if source.service_account_token.is_some() => Some("serviceaccounts"),
        source if source.cluster_trust_bundle.is_some() => Some("clustertrustbundles"),
        source if source.pod_certificate.is_some() => Some("podcertificates"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(annotations: Value, spec: Value) -> Pod {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": "p", "uid": "u", "annotations": annotations}});
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn references_to_objects_are_found() {
        let of = |annotations: Value, mut spec: Value| {
            if spec.get("containers").is_none() {
                spec["containers"] = json!([{"name": "c"}]);
            }
            object_reference(&pod(annotations, spec))
        };
        let none = || json!({});
        let own = json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "downwardAPI": {}},
            {"name": "c", "hostPath": {"path": "/x"}},
            {"name": "d", "projected": {"sources": [{"downwardAPI": {}}]}}]});
        assert_eq!(of(none(), own), None);
        let volume = |volume: Value| json!({"volumes": [volume]});
        let from = |source: Value| json!({"containers": [{"name": "c", "env": [{"name": "X", "valueFrom": source}]}]});
        let projected =
            |source: Value| volume(json!({"name": "v", "projected": {"sources": [source]}}));
        let key = || json!({"name": "m", "key": "k"});
        for (spec, resource) in [
            (json!({"serviceAccountName": "a"}), "serviceaccounts"),
            (json!({"imagePullSecrets": [{"name": "s"}]}), "secrets"),
            (volume(json!({"name": "v", "configMap": {"name": "m"}})), "configmaps"),
            (from(json!({"secretKeyRef": key()})), "secrets"),
            (from(json!({"configMapKeyRef": key()})), "configmaps"),
            (
                volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})),
                "persistentvolumeclaims",
            ),
            (volume(json!({"name": "v", "ephemeral": {}})), "persistentvolumeclaims"),
            (json!({"resourceClaims": [{"name": "r"}]}), "resourceclaims"),
            (projected(json!({"serviceAccountToken": {"path": "t"}})), "serviceaccounts"),
            (projected(json!({"clusterTrustBundle": {"path": "t"}})), "clustertrustbundles"),
        ] {
            assert_eq!(of(none(), spec.clone()), Some(resource), "{spec}");
        }
        for (annotation, resource) in [
            (pod_grants::CONFIG, "configmaps"),
            (pod_grants::KEYVALUE, "configmaps"),
            (pod_grants::TOKEN_AUDIENCES, "serviceaccounts"),
        ] {
            assert_eq!(of(json!({annotation: "x"}), json!({})), Some(resource), "{annotation}");
        }
    }

    #[test]
    fn only_the_uid_makes_a_pod_static() {
        let spec = || json!({"containers": []});
        assert!(is_static(&pod(json!({HASH: "u"}), spec())));
        assert!(!is_static(&pod(json!({HASH: "x", SOURCE: "file", MIRROR: "x"}), spec())));
        assert!(!is_static(&pod(json!({SOURCE: "file"}), spec())));
    }
}
