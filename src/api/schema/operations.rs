//! The paths of a document and the operation of every verb.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Map, Value, json};

use super::components::{Components, gvk};
use super::{OpenApiKind, OpenApiSubresource, document_path, parameters};

const JSON: &str = "application/json";
/// What a PATCH may be.
const PATCH_TYPES: [&str; 3] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// One operation before it is written out.
struct Operation<'a> {
    /// The HTTP method in lower case.
    method: &'static str,
    /// `x-kubernetes-action`.
    action: &'static str,
    id: String,
    description: String,
    body: Option<Value>,
    /// Codes of success.
    codes: &'a [&'static str],
    /// The schema of the answer.
    answer: Value,
    gvk: Value,
}

/// The path that lists a group version's resources.
pub(super) fn add_discovery(
    group: &str,
    version: &str,
    schemas: &mut Components<'_>,
    paths: &mut Map<String, Value>,
) {
    let answer = schemas.type_ref::<meta::APIResourceList>();
    let operation = json!({
        "tags": [tag(group, version)],
        "description": "get available resources",
        "operationId": format!("get{}APIResources", id_prefix(group, version)),
        "responses": responses(&["200"], &answer),
    });
    paths.insert(format!("/{}/", document_path(group, version)), json!({"get": operation}));
}

/// Every path of a kind: collection, object, subresources, and the list over all namespaces.
pub(super) fn add_kind(
    kind: &OpenApiKind,
    schemas: &mut Components<'_>,
    paths: &mut Map<String, Value>,
) {
    let root = format!("/{}", document_path(&kind.group, &kind.version));
    let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{scope}/{}", kind.plural);
    let mut scope_parameters = vec![query_free_namespace()];
    scope_parameters.truncate(usize::from(kind.namespaced));
    let mut object_parameters =
        vec![parameters::path("name", &format!("name of the {}", kind.kind))];
    object_parameters.extend(scope_parameters.iter().cloned());

    let operations = collection_operations(kind, schemas);
    insert(paths, collection.clone(), operations, kind, &scope_parameters);
    let operations = object_operations(kind, schemas);
    insert(paths, format!("{collection}/{{name}}"), operations, kind, &object_parameters);
    for sub in &kind.subresources {
        let operations = subresource_operations(kind, sub, schemas);
        let path = format!("{collection}/{{name}}/{}", sub.name);
        insert(paths, path, operations, kind, &object_parameters);
    }
    if kind.namespaced && kind.verbs.contains(&"list") {
        let id =
            format!("list{}{}ForAllNamespaces", id_prefix(&kind.group, &kind.version), kind.kind);
        let operations = vec![list_operation(kind, id, schemas)];
        insert(paths, format!("{root}/{}", kind.plural), operations, kind, &[]);
    }
}

fn query_free_namespace() -> Value {
    parameters::path("namespace", "object name and auth scope, such as for teams and projects")
}

fn insert(
    paths: &mut Map<String, Value>,
    path: String,
    operations: Vec<Operation<'_>>,
    kind: &OpenApiKind,
    path_parameters: &[Value],
) {
    if operations.is_empty() {
        return;
    }
    let mut item = Map::new();
    if !path_parameters.is_empty() {
        item.insert("parameters".to_owned(), path_parameters.to_vec().into());
    }
    let tag = tag(&kind.group, &kind.version);
    for operation in operations {
        item.insert(operation.method.to_owned(), operation.write(&tag, kind.strategic));
    }
    paths.insert(path, Value::Object(item));
}

impl Operation<'_> {
    fn write(self, tag: &str, strategic: bool) -> Value {
        let mut written = json!({
            "tags": [tag],
            "description": self.description,
            "operationId": self.id,
            "parameters": parameters::of_action(self.action),
            "responses": responses(self.codes, &self.answer),
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": self.gvk,
        });
        if let Some(schema) = self.body {
            let types: &[&str] = match self.action {
                "patch" if strategic => &PATCH_TYPES,
                // Clients tell by it how they may patch.
                "patch" => &PATCH_TYPES[..2],
                _ => &["*/*"],
            };
            let content: Map<String, Value> = types
                .iter()
                .map(|media| ((*media).to_owned(), json!({"schema": schema})))
                .collect();
            // A deletion may come without options; everything else needs its body.
            let required = !matches!(self.action, "delete" | "deletecollection");
            written["requestBody"] = json!({"content": content});
            if required {
                written["requestBody"]["required"] = true.into();
            }
        }
        written
    }
}

fn responses(codes: &[&str], schema: &Value) -> Value {
    let mut responses = Map::new();
    for code in codes {
        let description = match *code {
            "201" => "Created",
            "202" => "Accepted",
            _ => "OK",
        };
        let answer = json!({"description": description, "content": {JSON: {"schema": schema}}});
        responses.insert((*code).to_owned(), answer);
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(responses)
}

/// `apps_v1`, `core_v1`, `rbacAuthorization_v1`.
fn tag(group: &str, version: &str) -> String {
    let camel = group_camel(group);
    let mut letters = camel.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    format!("{}{}_{version}", first.map(String::from).unwrap_or_default(), letters.as_str())
}

/// `AppsV1`, `CoreV1`, `RbacAuthorizationV1`.
fn id_prefix(group: &str, version: &str) -> String {
    format!("{}{}", group_camel(group), capital(version))
}

fn group_camel(group: &str) -> String {
    match group {
        "" => "Core".to_owned(),
        group => group.strip_suffix(".k8s.io").unwrap_or(group).split('.').map(capital).collect(),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    match letters.next() {
        Some(first) => first.to_ascii_uppercase().to_string() + letters.as_str(),
        None => String::new(),
    }
}

/// `createAppsV1NamespacedDeploymentStatus` and its like.
fn operation_id(verb: &str, kind: &OpenApiKind, collection: &str, subresource: &str) -> String {
    let namespaced = if kind.namespaced { "Namespaced" } else { "" };
    let prefix = id_prefix(&kind.group, &kind.version);
    format!("{verb}{prefix}{collection}{namespaced}{}{}", kind.kind, capital(subresource))
}

fn own_gvk(kind: &OpenApiKind) -> Value {
    gvk(&kind.group, &kind.version, &kind.kind)
}

fn list_operation<'a>(
    kind: &OpenApiKind,
    id: String,
    schemas: &mut Components<'_>,
) -> Operation<'a> {
    Operation {
        method: "get",
        action: "list",
        id,
        description: format!("list or watch objects of kind {}", kind.kind),
        body: None,
        codes: &["200"],
        answer: schemas.list_ref(kind),
        gvk: own_gvk(kind),
    }
}

fn collection_operations<'a>(
    kind: &OpenApiKind,
    schemas: &mut Components<'_>,
) -> Vec<Operation<'a>> {
    let mut operations = Vec::new();
    let has = |verb| kind.verbs.contains(&verb);
    if has("list") {
        operations.push(list_operation(kind, operation_id("list", kind, "", ""), schemas));
    }
    if has("create") {
        let object = schemas.kind_ref(&kind.add_schema, &kind.group, &kind.version, &kind.kind);
        operations.push(Operation {
            method: "post",
            action: "post",
            id: operation_id("create", kind, "", ""),
            description: format!("create a {}", kind.kind),
            body: Some(object.clone()),
            codes: &["200", "201", "202"],
            answer: object,
            gvk: own_gvk(kind),
        });
    }
    if has("deletecollection") {
        operations.push(Operation {
            method: "delete",
            action: "deletecollection",
            id: operation_id("delete", kind, "Collection", ""),
            description: format!("delete collection of {}", kind.kind),
            body: Some(schemas.delete_options_ref(&kind.group, &kind.version)),
            codes: &["200"],
            answer: schemas.status_ref(),
            gvk: own_gvk(kind),
        });
    }
    operations
}

fn object_operations<'a>(kind: &OpenApiKind, schemas: &mut Components<'_>) -> Vec<Operation<'a>> {
    let object = schemas.kind_ref(&kind.add_schema, &kind.group, &kind.version, &kind.kind);
    let mut operations = Vec::new();
    for verb in &kind.verbs {
        if let Some(operation) = object_operation(kind, "", verb, &object, own_gvk(kind), schemas) {
            operations.push(operation);
        }
    }
    operations
}

/// The operation of a discovery verb on one object or one of its subresources.
fn object_operation<'a>(
    kind: &OpenApiKind,
    subresource: &str,
    verb: &str,
    object: &Value,
    gvk: Value,
    schemas: &mut Components<'_>,
) -> Option<Operation<'a>> {
    let of = match subresource {
        "" => String::new(),
        sub => format!("{sub} of "),
    };
    let (method, action, word, codes): (_, _, _, &[&str]) = match verb {
        "get" => ("get", "get", "read", &["200"]),
        "update" => ("put", "put", "replace", &["200", "201"]),
        "patch" => ("patch", "patch", "patch", &["200", "201"]),
        "delete" => ("delete", "delete", "delete", &["200", "202"]),
        "create" if !subresource.is_empty() => ("post", "post", "create", &["200", "201", "202"]),
        _ => return None,
    };
    let (body, answer) = match action {
        "get" => (None, object.clone()),
        "patch" => (Some(schemas.patch_ref()), object.clone()),
        "delete" => {
            (Some(schemas.delete_options_ref(&kind.group, &kind.version)), schemas.status_ref())
        }
        _ => (Some(object.clone()), object.clone()),
    };
    let id = operation_id(word, kind, "", subresource);
    let description = format!("{word} {of}the specified {}", kind.kind);
    Some(Operation { method, action, id, description, body, codes, answer, gvk })
}

fn subresource_operations<'a>(
    kind: &OpenApiKind,
    sub: &OpenApiSubresource,
    schemas: &mut Components<'_>,
) -> Vec<Operation<'a>> {
    let sub_gvk = gvk(&sub.group, &sub.version, &sub.kind);
    let Some(add_schema) = &sub.add_schema else {
        return connect_operations(kind, sub, &sub_gvk);
    };
    let object = schemas.kind_ref(add_schema, &sub.group, &sub.version, &sub.kind);
    let operation =
        |verb: &&str| object_operation(kind, sub.name, verb, &object, sub_gvk.clone(), schemas);
    sub.verbs.iter().filter_map(operation).collect()
}

/// Subresources that carry text or a stream: logs, exec, attach, port-forward, proxy.
fn connect_operations<'a>(
    kind: &OpenApiKind,
    sub: &OpenApiSubresource,
    sub_gvk: &Value,
) -> Vec<Operation<'a>> {
    let reads_only = sub.verbs == ["get"];
    let operation = |verb: &&str| {
        let (method, word) = match *verb {
            "get" => ("get", "Get"),
            "create" => ("post", "Post"),
            "update" => ("put", "Put"),
            "patch" => ("patch", "Patch"),
            "delete" => ("delete", "Delete"),
            _ => return None,
        };
        let (action, id) = match reads_only {
            true => ("get", operation_id("read", kind, "", sub.name)),
            false => ("connect", operation_id(&format!("connect{word}"), kind, "", sub.name)),
        };
        let description = format!("{action} {} of the specified {}", sub.name, kind.kind);
        let answer = json!({"type": "string"});
        let gvk = sub_gvk.clone();
        Some(Operation {
            method,
            action,
            id,
            description,
            body: None,
            codes: &["200"],
            answer,
            gvk,
        })
    };
    sub.verbs.iter().filter_map(operation).collect()
}
