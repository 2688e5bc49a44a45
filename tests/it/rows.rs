//! Every resource that is served, one row each (`tests/data/rows.yaml`), held against discovery:
//! over HTTP in the process, and with kubectl against the built program.

mod kubectl;
mod subresources;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// `apps/v1/deployments`, `v1/pods`.
    resource: String,
    /// `+` before what -o wide adds, `#` before a type that is not `string`; none for questions.
    #[serde(default)]
    columns: Vec<String>,
    /// What is selected by, beside the name and namespace, with the values of `object`.
    #[serde(default)]
    fields: BTreeMap<String, String>,
    /// A field for `explain`.
    nested: String,
    /// None where objects are computed.
    object: Option<Value>,
}

/// A resource as discovery shows it.
#[derive(Clone, Debug)]
struct Served {
    group_version: String,
    plural: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
    /// Subresources, with their verbs.
    parts: BTreeMap<String, Vec<String>>,
}

fn rows() -> Vec<Row> {
    serde_yaml::from_str(include_str!("../data/rows.yaml")).expect("a table")
}

impl Row {
    fn group_version(&self) -> &str {
        self.resource.rsplit_once('/').expect("group/version/resource").0
    }

    fn plural(&self) -> &str {
        self.resource.rsplit_once('/').expect("group/version/resource").1
    }

    /// Names, types and priorities.
    fn column_rows(&self) -> Vec<(String, String, i64)> {
        let parse = |text: &String| {
            let (name, kind) = text.split_once('#').unwrap_or((text, "string"));
            let wide = name.strip_prefix('+');
            (wide.unwrap_or(name).to_string(), kind.to_string(), i64::from(wide.is_some()))
        };
        self.columns.iter().map(parse).collect()
    }

    fn name(&self) -> &str {
        let object = self.object.as_ref().expect("a stored object");
        object["metadata"]["name"].as_str().expect("a name")
    }

    fn manifest(&self, served: &Served) -> Value {
        let mut object = self.object.clone().expect("a stored object");
        object["apiVersion"] = json!(served.group_version);
        object["kind"] = json!(served.kind);
        object
    }
}

impl Served {
    fn has(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// Where the objects of `default`, or of the cluster, are.
    fn path(&self) -> String {
        let root = if self.group_version.contains('/') { "apis" } else { "api" };
        let namespace = if self.namespaced { "namespaces/default/" } else { "" };
        format!("/{root}/{}/{namespace}{}", self.group_version, self.plural)
    }
}

/// Resources of the documents of discovery: one `APIResourceList` for each group version.
fn served(documents: &[(String, Value)]) -> BTreeMap<String, Served> {
    let mut all: BTreeMap<String, Served> = BTreeMap::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(text).collect()
    };
    for (group_version, document) in documents {
        for one in document["resources"].as_array().expect("resources") {
            let name = text(&one["name"]);
            if let Some((plural, part)) = name.split_once('/') {
                let owner = all.get_mut(&format!("{group_version}/{plural}"));
                let parts = &mut owner.expect("resources come before their parts").parts;
                parts.insert(part.to_string(), words(&one["verbs"]));
                continue;
            }
            let served = Served {
                group_version: group_version.clone(),
                plural: name.clone(),
                kind: text(&one["kind"]),
                namespaced: one["namespaced"] == true,
                verbs: words(&one["verbs"]),
                parts: BTreeMap::new(),
            };
            all.insert(format!("{group_version}/{name}"), served);
        }
    }
    all
}

/// Fails, with the names, unless table and discovery have the same resources.
fn same_resources(rows: &[Row], served: &BTreeMap<String, Served>) {
    let rows: BTreeSet<&str> = rows.iter().map(|row| row.resource.as_str()).collect();
    let served: BTreeSet<&str> = served.keys().map(String::as_str).collect();
    let without_row: Vec<_> = served.difference(&rows).collect();
    assert!(without_row.is_empty(), "no row in tests/data/rows.yaml: {without_row:?}");
    let not_served: Vec<_> = rows.difference(&served).collect();
    assert!(not_served.is_empty(), "not in discovery: {not_served:?}");
}
