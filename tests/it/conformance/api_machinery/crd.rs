//! CustomResourceDefinitions as upstream's fixtures make them
//! (`apiextensions-apiserver/test/integration/fixtures`): created and shown by discovery, deleted
//! and shown no more.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::conformance::operations::includes;
use crate::conformance::{Collection, Context, Failure, eventually};

const DEFINITIONS: &str = "apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition that is served.
pub struct Crd {
    pub object: Value,
    pub group: String,
    pub plural: String,
    pub kind: String,
}

/// A schema that lets everything through.
pub fn any() -> Value {
    json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}})
}

/// One version, stored and served, with this `schema`.
pub fn version(name: &str, schema: Value) -> Value {
    json!({"name": name, "served": true, "storage": true, "schema": schema})
}

/// A definition with names of its own.
pub fn definition(context: &Context, group: &str, scope: &str, versions: Value) -> Value {
    // Group and kind are part of the names of OpenAPI's definitions: no dashes in the kind.
    let kind = context.unique("foo").replace('-', "");
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{kind}s.{group}")},
        "spec": {"group": group, "scope": scope, "versions": versions, "names": {
            "plural": format!("{kind}s"), "singular": kind, "kind": kind,
            "listKind": format!("{kind}List")}}})
}

pub fn definitions(context: &Context) -> Collection {
    context.all(DEFINITIONS)
}

/// Creates a definition of the cluster's scope with one version, `v1beta1`, of any content.
pub async fn create_any(context: &Context) -> Result<Crd> {
    let versions = json!([version("v1beta1", any())]);
    create(context, definition(context, "mygroup.example.com", "Cluster", versions)).await
}

/// Creates it and waits until discovery shows each served version.
pub async fn create(context: &Context, object: Value) -> Result<Crd> {
    let definitions = definitions(context);
    let name = object["metadata"]["name"].as_str().context("a name")?;
    context.remove_later(&definitions, name);
    definitions.create(&object).await?;
    let established = json!([{"type": "Established", "status": "True"}]);
    let object = eventually("an established definition", async || {
        let found = definitions.get(name).await?;
        Ok(includes(&found["status"]["conditions"], &established).then_some(found))
    })
    .await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let crd = Crd {
        group: text(&object["spec"]["group"]),
        plural: text(&object["spec"]["names"]["plural"]),
        kind: text(&object["spec"]["names"]["kind"]),
        object,
    };
    eventually("the definition in discovery", async || {
        for version in crd.served() {
            if !is_shown(context, &crd, &version).await? {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    Ok(crd)
}

async fn is_shown(context: &Context, crd: &Crd, version: &str) -> Result<bool> {
    match context.client.get(&format!("/apis/{}/{version}", crd.group)).await {
        Ok(list) => Ok(includes(&list["resources"], &json!([{"name": crd.plural}]))),
        Err(error) => match error.downcast_ref::<Failure>() {
            Some(failure) if failure.code == 404 => Ok(false),
            _ => Err(error),
        },
    }
}

impl Crd {
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    fn served(&self) -> Vec<String> {
        let versions = self.object["spec"]["versions"].as_array().into_iter().flatten();
        let served = versions.filter(|version| version["served"] == true);
        served.filter_map(|version| Some(version["name"].as_str()?.to_string())).collect()
    }

    /// `group/version/plural`, for the collections of a [`Context`].
    pub fn resource(&self, version: &str) -> String {
        format!("{}/{version}/{}", self.group, self.plural)
    }

    /// An object of this kind.
    pub fn instance(&self, version: &str, name: &str) -> Value {
        json!({"apiVersion": format!("{}/{version}", self.group), "kind": self.kind,
            "metadata": {"name": name}})
    }

    /// Deletes it and waits until discovery does not show it.
    pub async fn delete(&self, context: &Context) -> Result<()> {
        definitions(context).delete(self.name()).await?;
        self.not_shown(context).await
    }

    pub async fn not_shown(&self, context: &Context) -> Result<()> {
        eventually("the definition's end in discovery", async || {
            for version in self.served() {
                if is_shown(context, self, &version).await? {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await
    }
}
