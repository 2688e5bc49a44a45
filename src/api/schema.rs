//! OpenAPI v3 documents, one for each group version, as kubectl, Helm and generators read them.
//!
//! Owns the form of the documents: schemas from the types with upstream's extensions
//! (`components`), operations for every verb (`operations`). Knows no kinds: the caller passes
//! rows, caches what comes out, and hashes it. A document of the core group is large (about a
//! megabyte of JSON), so build one only when it is asked for.

use std::borrow::Cow;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

pub use super::resource::AddSchema;
use super::resource::KindInfo;

mod components;
mod operations;
mod parameters;
pub mod v2;

/// `/openapi/v2` in its protobuf form: `swagger: "2.0"`, an info block, no paths and
/// no definitions. That is all kubectl looks at when v3 is there.
pub const V2_PROTOBUF: &[u8; 17] = b"\x0a\x032.0\x12\x06\x0a\x01k\x12\x011\x42\x00\x4a\x00";

/// One kind as the documents need it.
pub struct OpenApiKind {
    /// Empty for the core group.
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub list_kind: Cow<'static, str>,
    pub plural: Cow<'static, str>,
    pub namespaced: bool,
    /// As in discovery: create, delete, deletecollection, get, list, patch, update, watch.
    pub verbs: Vec<&'static str>,
    pub subresources: Vec<OpenApiSubresource>,
    /// Takes strategic merge patches.
    pub strategic: bool,
    pub add_schema: AddSchema,
}

/// A subresource with the kind that goes in and out of it.
pub struct OpenApiSubresource {
    pub name: &'static str,
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub verbs: Vec<&'static str>,
    /// The kind's schema; none where no object goes in or out (`log`, `exec`).
    pub add_schema: Option<AddSchema>,
}

impl From<&KindInfo> for OpenApiKind {
    fn from(info: &KindInfo) -> OpenApiKind {
        let own = |name, verbs| OpenApiSubresource {
            name,
            group: info.gvr.group.clone(),
            version: info.gvr.version.clone(),
            kind: info.kind.clone(),
            verbs,
            add_schema: Some(info.schema.clone()),
        };
        let mut subresources = Vec::new();
        if info.meta.status {
            subresources.push(own("status", vec!["get", "patch", "update"]));
        }
        if info.meta.scale {
            let verbs = vec!["get", "patch", "update"];
            subresources.push(of_kind("scale", "autoscaling", "v1", "Scale", verbs));
        }
        for sub in info.meta.subresources {
            let same_kind = info.kind == sub.kind && info.gvr.version == sub.version;
            subresources.push(match same_kind && info.gvr.group == sub.group {
                true => own(sub.name, sub.verbs.to_vec()),
                false => of_kind(sub.name, sub.group, sub.version, sub.kind, sub.verbs.to_vec()),
            });
        }
        OpenApiKind {
            group: info.gvr.group.clone(),
            version: info.gvr.version.clone(),
            kind: info.kind.clone(),
            list_kind: info.list_kind.clone(),
            plural: info.gvr.resource.clone(),
            namespaced: info.gvr.namespaced,
            verbs: info.verbs(),
            subresources,
            strategic: info.custom.is_none(),
            add_schema: info.schema.clone(),
        }
    }
}

/// A subresource of another kind. Kinds that exist only as subresources have no row of their own,
/// so their types are named here.
fn of_kind(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: Vec<&'static str>,
) -> OpenApiSubresource {
    use k8s_openapi::api::{authentication, autoscaling, core, policy};
    let add_schema: Option<AddSchema> = match (group, version, kind) {
        ("autoscaling", "v1", "Scale") => Some(of_type::<autoscaling::v1::Scale>()),
        ("policy", "v1", "Eviction") => Some(of_type::<policy::v1::Eviction>()),
        ("", "v1", "Binding") => Some(of_type::<core::v1::Binding>()),
        ("authentication.k8s.io", "v1", "TokenRequest") => {
            Some(of_type::<authentication::v1::TokenRequest>())
        }
        _ => None,
    };
    let (group, version, kind) = (group.into(), version.into(), kind.into());
    OpenApiSubresource { name, group, version, kind, verbs, add_schema }
}

/// The schema of a type of k8s-openapi.
fn of_type<T: JsonSchema>() -> AddSchema {
    std::sync::Arc::new(|generator: &mut schemars::SchemaGenerator| generator.subschema_for::<T>())
}

/// The key of a group version in the index, also its path below `/openapi/v3/`: `api/v1`,
/// `apis/apps/v1`.
pub fn document_path(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

/// The body of `/openapi/v3`, from pairs of [`document_path`] and the document's hash.
pub fn index<'a>(hashes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let entry = |(path, hash): (&str, &str)| {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        (path.to_owned(), json!({"serverRelativeURL": url}))
    };
    let paths: Map<String, Value> = hashes.into_iter().map(entry).collect();
    json!({ "paths": paths })
}

/// The document of one group version. `kinds` are those of this group version, `server_version` is
/// the version that `/version` tells.
pub fn document(group: &str, version: &str, kinds: &[OpenApiKind], server_version: &str) -> Value {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut schemas = components::Components::new(&mut generator);
    let mut paths = Map::new();
    operations::add_discovery(group, version, &mut schemas, &mut paths);
    for kind in kinds {
        operations::add_kind(kind, &mut schemas, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": server_version},
        "paths": paths,
        "components": {"schemas": schemas.finish()},
    })
}

#[cfg(test)]
mod tests;
