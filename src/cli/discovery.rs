//! The kinds that the server serves, and finding one by what a person types.

use serde::Deserialize;
use serde_json::Value;

use super::printer;
use super::session::Session;
use crate::api::ApiError;
use crate::api::resource::Gvr;
use crate::client::remote::Remote;

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One resource of the server.
#[derive(Clone, Debug)]
pub struct Resource {
    pub gvr: Gvr,
    pub kind: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub subresources: Vec<String>,
}

/// All resources, the preferred version of each group first.
pub struct Discovery {
    pub resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize, Default)]
struct Meta {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    resource: String,
    #[serde(default)]
    response_kind: ResponseKind,
    scope: String,
    #[serde(default)]
    singular_resource: String,
    #[serde(default)]
    short_names: Vec<String>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    subresources: Vec<SubItem>,
}

#[derive(Deserialize, Default)]
struct ResponseKind {
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct SubItem {
    subresource: String,
}

impl Discovery {
    pub async fn fetch(remote: &Remote) -> Result<Discovery, ApiError> {
        let mut resources = Vec::new();
        for path in ["/api", "/apis"] {
            let headers = [("accept", ACCEPT)];
            let answer = remote.send(http::Method::GET, path, &headers, "").await?;
            if !answer.status.is_success() {
                return Err(ApiError::from_response(answer.status.as_u16(), &answer.body));
            }
            let list: GroupList = serde_json::from_slice(&answer.body)
                .map_err(|e| ApiError::internal(format!("{path} cannot be read: {e}")))?;
            for group in list.items {
                for version in group.versions {
                    let rows = version.resources.into_iter();
                    let row = |item| resource(&group.metadata.name, &version.version, item);
                    resources.extend(rows.map(row));
                }
            }
        }
        Ok(Discovery { resources })
    }

    /// By plural, singular, kind or short name; `deployments.apps` and `deployments.v1.apps` too.
    pub fn find(&self, typed: &str) -> anyhow::Result<&Resource> {
        let typed = typed.to_lowercase();
        let (name, suffix) = typed.split_once('.').unwrap_or((&typed, ""));
        let of_group = |resource: &&Resource| {
            let gvr = &resource.gvr;
            suffix.is_empty()
                || suffix == gvr.group
                || suffix == format!("{}.{}", gvr.version, gvr.group)
        };
        let named = |resource: &&Resource| {
            resource.gvr.resource == name
                || resource.singular == name
                || resource.kind.to_lowercase() == name
                || resource.short_names.iter().any(|short| short == name)
        };
        self.resources.iter().filter(of_group).find(named).ok_or_else(|| {
            anyhow::anyhow!(
                "the server has no resource type {typed:?}; `wasmctl api-resources` lists them"
            )
        })
    }

    /// The members of a category such as `all`.
    pub fn category(&self, name: &str) -> Vec<&Resource> {
        let has = |r: &&Resource| r.categories.iter().any(|category| category == name);
        self.resources.iter().filter(has).collect()
    }

    /// By the `apiVersion` and `kind` of an object.
    pub fn of_object(&self, api_version: &str, kind: &str) -> anyhow::Result<&Resource> {
        let same = |r: &&Resource| r.gvr.api_version() == api_version && r.kind == kind;
        self.resources.iter().find(same).ok_or_else(|| {
            anyhow::anyhow!(
                "no matches for kind {kind:?} in version {api_version:?}; `wasmctl api-resources` \
                 lists what the server knows"
            )
        })
    }
}

fn resource(group: &str, version: &str, item: Item) -> Resource {
    Resource {
        gvr: Gvr {
            group: group.to_string().into(),
            version: version.to_string().into(),
            resource: item.resource.into(),
            namespaced: item.scope == "Namespaced",
        },
        kind: item.response_kind.kind,
        singular: item.singular_resource,
        short_names: item.short_names,
        categories: item.categories,
        subresources: item.subresources.into_iter().map(|s| s.subresource).collect(),
    }
}

/// `wasmctl api-resources`.
pub async fn print(session: &Session) -> anyhow::Result<()> {
    let header = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"].map(str::to_string);
    let mut rows = vec![header.to_vec()];
    for resource in &session.discovery().await?.resources {
        rows.push(vec![
            resource.gvr.resource.to_string(),
            resource.short_names.join(","),
            resource.gvr.api_version(),
            resource.gvr.namespaced.to_string(),
            resource.kind.clone(),
        ]);
    }
    printer::columns(&rows)?;
    Ok(())
}

/// The text of a string field by its path, "" where there is none.
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}
