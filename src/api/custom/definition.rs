//! From a definition to rows of the registry, one a version.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use k8s_openapi::api::admissionregistration::v1::{ServiceReference, WebhookClientConfig};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as ext;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::rules::CustomRules;
use crate::api::resource::{
    AddSchema, CustomParts, DEFAULT_META, Generation, Gvr, KindInfo, KindMeta, ScalePaths, StoredAs,
};

/// The rows of all versions that are served, and that of the stored version, which may be none of
/// them.
pub struct Rows {
    pub served: Vec<Arc<KindInfo>>,
    pub stored: Arc<KindInfo>,
}

/// The rows of a definition; none for one without a stored version, which is not valid.
pub fn rows(definition: &ext::CustomResourceDefinition) -> Option<Rows> {
    let mut served = Vec::new();
    let mut stored = None;
    let conversion = definition.spec.conversion.as_ref();
    let conversion = conversion.filter(|conversion| conversion.strategy == "Webhook");
    let conversion = conversion.and_then(|conversion| conversion.webhook.clone()).map(Arc::new);
    for version in &definition.spec.versions {
        let info = Arc::new(row(definition, version, conversion.clone()));
        if version.served {
            served.push(info.clone());
        }
        if version.storage {
            stored = Some(info);
        }
    }
    Some(Rows { served, stored: stored? })
}

/// Where the webhook of a conversion is, in the form that admission webhooks have.
pub fn webhook_client(config: &ext::WebhookClientConfig) -> WebhookClientConfig {
    let service = config.service.as_ref().map(|service| ServiceReference {
        name: service.name.clone(),
        namespace: service.namespace.clone(),
        path: service.path.clone(),
        port: service.port,
    });
    let (ca_bundle, url) = (config.ca_bundle.clone(), config.url.clone());
    WebhookClientConfig { ca_bundle, service, url }
}

/// How versions are preferred: `v2`, `v1`, `v1beta2`, `v1alpha1`, then anything else by name
/// (k8s.io/apimachinery/pkg/version/helpers.go). Sorts ascending, preferred first.
pub fn preference(version: &str) -> (u8, Reverse<u64>, Reverse<u64>, String) {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..digits].parse().ok()?;
        let (rank, minor) = match &rest[digits..] {
            "" => (0, "0"),
            rest => match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
                (Some(minor), _) => (1, minor),
                (_, Some(minor)) => (2, minor),
                _ => return None,
            },
        };
        Some((rank, Reverse(major), Reverse(minor.parse().ok()?), String::new()))
    };
    parsed().unwrap_or((3, Reverse(0), Reverse(0), version.to_string()))
}

/// `.spec.replicas` as field names.
pub fn path(text: &str) -> Vec<String> {
    text.split('.').filter(|part| !part.is_empty()).map(str::to_string).collect()
}

fn row(
    definition: &ext::CustomResourceDefinition,
    version: &ext::CustomResourceDefinitionVersion,
    conversion: Option<Arc<ext::WebhookConversion>>,
) -> KindInfo {
    let spec = &definition.spec;
    let accepted = definition.status.as_ref().and_then(|status| status.accepted_names.as_ref());
    let names = accepted.unwrap_or(&spec.names);
    let gvr = Gvr {
        group: spec.group.clone().into(),
        version: version.name.clone().into(),
        resource: names.plural.clone().into(),
        namespaced: spec.scope == "Namespaced",
    };
    let subresources = version.subresources.as_ref();
    let status = subresources.is_some_and(|parts| parts.status.is_some());
    let scale = subresources.and_then(|parts| parts.scale.as_ref()).map(|scale| ScalePaths {
        spec_replicas: path(&scale.spec_replicas_path),
        status_replicas: path(&scale.status_replicas_path),
        selector: scale.label_selector_path.as_deref().map(path),
    });
    let stored = spec.versions.iter().find(|version| version.storage).unwrap_or(version);
    let schema = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
    let schema = schema.and_then(|s| serde_json::to_value(s).ok()).unwrap_or_else(|| json!({}));
    let deprecation = (version.deprecated == Some(true)).then(|| {
        let standard = || format!("{} {} is deprecated", gvr.api_version(), names.kind);
        version.deprecation_warning.clone().unwrap_or_else(standard)
    });
    let list = |texts: &Option<Vec<String>>| {
        texts.iter().flatten().map(|text| text.clone().into()).collect()
    };
    let selectable = version.selectable_fields.iter().flatten();
    let list_kind = names.list_kind.clone().unwrap_or_else(|| format!("{}List", names.kind));
    KindInfo {
        kind: names.kind.clone().into(),
        list_kind: list_kind.into(),
        singular: names.singular.clone().unwrap_or_default().into(),
        short_names: list(&names.short_names),
        categories: list(&names.categories),
        selectable: selectable.map(|field| path(&field.json_path).join(".").into()).collect(),
        meta: KindMeta {
            status,
            scale: scale.is_some(),
            unconditional_update: false,
            generation: if status { Generation::Spec } else { Generation::AllButMetadata },
            ..DEFAULT_META
        },
        schema: published(&gvr, &names.kind, schema.clone()),
        custom: Some(CustomParts {
            schema,
            scale,
            conversion,
            deprecation,
            terminating: AtomicBool::new(definition.metadata.deletion_timestamp.is_some()),
        }),
        stored: Some(StoredAs {
            gvr: Gvr { version: stored.name.clone().into(), ..gvr.clone() },
            shape: None,
        }),
        rules: Box::new(CustomRules::of(version)),
        gvr,
    }
}

/// The schema as OpenAPI documents show it: with what every object has.
fn published(gvr: &Gvr, kind: &str, mut schema: Value) -> AddSchema {
    let mut group: Vec<&str> = gvr.group.split('.').collect();
    group.reverse();
    let name = format!("{}.{}.{kind}", group.join("."), gvr.version);
    if !schema.is_object() {
        schema = json!({"type": "object"});
    }
    Arc::new(move |generator: &mut SchemaGenerator| {
        let metadata = generator.subschema_for::<ObjectMeta>().to_value();
        let mut schema = schema.clone();
        schema["properties"]["apiVersion"] = json!({"type": "string",
            "description": "APIVersion defines the versioned schema of this representation of an \
                            object."});
        schema["properties"]["kind"] = json!({"type": "string",
            "description": "Kind is a string value representing the REST resource this object \
                            represents."});
        schema["properties"]["metadata"] = json!({"allOf": [metadata],
            "description": "Standard object's metadata."});
        generator.definitions_mut().insert(name.clone(), schema);
        Schema::new_ref(format!("#/components/schemas/{name}"))
    })
}
