//! The documents beside what upstream publishes.

use k8s_openapi::api::{apps, coordination, core, events};
use k8s_openapi::{ListableResource, Resource};
use schemars::JsonSchema;

use super::*;

const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

fn kind<T: Resource + ListableResource + JsonSchema>(
    namespaced: bool,
    subresources: &[(&'static str, &'static str, &'static str, &'static str)],
) -> OpenApiKind {
    let status = OpenApiSubresource {
        name: "status",
        group: T::GROUP.into(),
        version: T::VERSION.into(),
        kind: T::KIND.into(),
        verbs: vec!["get", "patch", "update"],
        add_schema: Some(of_type::<T>()),
    };
    let others = subresources
        .iter()
        .map(|(name, group, kind, verb)| of_kind(name, group, "v1", kind, vec![verb]));
    OpenApiKind {
        group: T::GROUP.into(),
        version: T::VERSION.into(),
        kind: T::KIND.into(),
        list_kind: T::LIST_KIND.into(),
        plural: T::URL_PATH_SEGMENT.into(),
        namespaced,
        verbs: ALL_VERBS.to_vec(),
        subresources: std::iter::once(status).chain(others).collect(),
        strategic: true,
        add_schema: of_type::<T>(),
    }
}

fn apps_document() -> Value {
    let kinds = [
        kind::<apps::v1::Deployment>(true, &[("scale", "autoscaling", "Scale", "get")]),
        kind::<apps::v1::ReplicaSet>(true, &[]),
    ];
    document("apps", "v1", &kinds, "v1.35.0")
}

fn core_document() -> Value {
    let pod_subresources = [
        ("log", "", "Pod", "get"),
        ("exec", "", "PodExecOptions", "create"),
        ("eviction", "policy", "Eviction", "create"),
        ("binding", "", "Binding", "create"),
    ];
    let kinds = [
        kind::<core::v1::Pod>(true, &pod_subresources),
        kind::<core::v1::Node>(false, &[]),
        kind::<core::v1::Service>(true, &[]),
        kind::<core::v1::Event>(true, &[]),
    ];
    document("", "v1", &kinds, "v1.35.0")
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(target)) = map.get("$ref") {
                found.push(target.clone());
                assert_eq!(map.len(), 1, "OpenAPI 3.0 ignores what stands beside {target}");
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn schema<'d>(document: &'d Value, name: &str) -> &'d Value {
    let schema = &document["components"]["schemas"][name];
    assert!(schema.is_object(), "{name}");
    schema
}

#[test]
fn every_reference_resolves() {
    for document in [apps_document(), core_document()] {
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100);
        for target in found {
            let pointer = target.strip_prefix('#').expect("a local reference");
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
        assert!(!document.to_string().contains("nullable"));
    }
}

#[test]
fn documents_are_of_a_reasonable_size() {
    let (apps, core) = (apps_document().to_string().len(), core_document().to_string().len());
    assert!((100_000..1_000_000).contains(&apps), "apps/v1 has {apps} bytes");
    assert!((100_000..1_500_000).contains(&core), "v1 has {core} bytes");
}

#[test]
fn kinds_carry_their_names_and_lists_their_merge_keys() {
    let document = apps_document();
    let deployment = schema(&document, "io.k8s.api.apps.v1.Deployment");
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    let list = schema(&document, "io.k8s.api.apps.v1.DeploymentList");
    assert_eq!(list["x-kubernetes-group-version-kind"][0]["kind"], "DeploymentList");
    let containers = &schema(&document, "io.k8s.api.core.v1.PodSpec")["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let strategy =
        &schema(&document, "io.k8s.api.apps.v1.DeploymentSpec")["properties"]["strategy"];
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    assert_eq!(
        strategy["allOf"],
        json!([{"$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"}])
    );
    let ports = &schema(&document, "io.k8s.api.core.v1.Container")["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    let selector = schema(&document, "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector");
    assert_eq!(selector["x-kubernetes-map-type"], "atomic");
    let meta = schema(&document, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    assert_eq!(meta["properties"]["finalizers"]["x-kubernetes-list-type"], "set");
}

#[test]
fn only_what_upstream_requires_is_required() {
    let document = core_document();
    assert_eq!(schema(&document, "io.k8s.api.core.v1.Pod").get("required"), None);
    let selector = schema(&document, "io.k8s.api.core.v1.SecretKeySelector");
    assert_eq!(selector["required"], json!(["key"]));
    assert_eq!(schema(&document, "io.k8s.api.core.v1.PodSpec")["required"], json!(["containers"]));
}

#[test]
fn patches_show_what_kubectl_looks_for() {
    let document = apps_document();
    let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    let patch = &document["paths"][path]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["pretty", "dryRun", "fieldManager", "fieldValidation", "force"]);
    let content = patch["requestBody"]["content"].as_object().unwrap();
    assert!(content.contains_key("application/strategic-merge-patch+json"));
    assert!(!content.contains_key("application/apply-patch+yaml"));
    let shared = document["paths"][path]["parameters"].as_array().unwrap();
    assert_eq!(shared.len(), 2);
}

#[test]
fn every_verb_and_subresource_has_a_path() {
    let document = core_document();
    let paths = document["paths"].as_object().unwrap();
    let methods = |path: &str| -> Vec<&str> {
        let item = paths.get(path).unwrap_or_else(|| panic!("{path}")).as_object().unwrap();
        item.keys().map(String::as_str).filter(|key| *key != "parameters").collect()
    };
    let pods = "/api/v1/namespaces/{namespace}/pods";
    assert_eq!(methods(pods), ["delete", "get", "post"]);
    assert_eq!(methods("/api/v1/pods"), ["get"]);
    assert_eq!(methods(&format!("{pods}/{{name}}")), ["delete", "get", "patch", "put"]);
    assert_eq!(methods(&format!("{pods}/{{name}}/status")), ["get", "patch", "put"]);
    assert_eq!(methods(&format!("{pods}/{{name}}/log")), ["get"]);
    assert_eq!(methods(&format!("{pods}/{{name}}/exec")), ["post"]);
    assert_eq!(methods("/api/v1/nodes/{name}"), ["delete", "get", "patch", "put"]);
    assert_eq!(methods("/api/v1/"), ["get"]);
    let eviction = &document["paths"][format!("{pods}/{{name}}/eviction")]["post"];
    assert_eq!(eviction["x-kubernetes-group-version-kind"]["group"], "policy");
    assert_eq!(
        eviction["requestBody"]["content"]["*/*"]["schema"]["$ref"],
        "#/components/schemas/io.k8s.api.policy.v1.Eviction"
    );
    let mut ids = std::collections::BTreeSet::new();
    for item in paths.values() {
        for (_, operation) in
            item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters")
        {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{id} twice");
        }
    }
    assert!(ids.contains("listCoreV1PodForAllNamespaces"));
    assert!(ids.contains("deleteCoreV1CollectionNode"));
}

#[test]
fn scalars_of_several_forms_are_described_as_upstream_does() {
    let document = core_document();
    let quantity = schema(&document, "io.k8s.apimachinery.pkg.api.resource.Quantity");
    assert_eq!(quantity["oneOf"], json!([{"type": "string"}, {"type": "number"}]));
    let port = schema(&document, "io.k8s.apimachinery.pkg.util.intstr.IntOrString");
    assert_eq!(port["format"], "int-or-string");

    let lease = kind::<coordination::v1::Lease>(true, &[]);
    let lease = document_of("coordination.k8s.io", lease);
    let event = document_of("events.k8s.io", kind::<events::v1::Event>(true, &[]));
    for document in [lease, event] {
        let time = schema(&document, "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime");
        assert_eq!((&time["type"], &time["format"]), (&json!("string"), &json!("date-time")));
    }
}

fn document_of(group: &str, kind: OpenApiKind) -> Value {
    document(group, "v1", &[kind], "v1.35.0")
}

#[test]
fn index_and_paths() {
    assert_eq!(document_path("", "v1"), "api/v1");
    assert_eq!(document_path("apps", "v1"), "apis/apps/v1");
    assert_eq!(
        index([("api/v1", "AB"), ("apis/apps/v1", "CD")]),
        json!({"paths": {
            "api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=AB"},
            "apis/apps/v1": {"serverRelativeURL": "/openapi/v3/apis/apps/v1?hash=CD"}}})
    );
    assert_eq!(V2_PROTOBUF[..5], *b"\x0a\x032.0");
}
