//! The schemas of a document: k8s-openapi's, in the form that upstream publishes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::super::typegraph::graph;
use super::{AddSchema, OpenApiKind, of_type};

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const PATCH_TEXT: &str = "Patch is provided to give a concrete name and type to the Kubernetes PATCH \
                          request body.";

/// What `x-kubernetes-group-version-kind` says.
pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// Collects the schemas that the operations refer to.
pub(super) struct Components<'g> {
    generator: &'g mut SchemaGenerator,
    /// Schemas that are not types of k8s-openapi.
    extra: Map<String, Value>,
    /// Schema name and group-version-kind of every kind.
    kinds: Vec<(String, Value)>,
}

impl<'g> Components<'g> {
    pub fn new(generator: &'g mut SchemaGenerator) -> Components<'g> {
        Components { generator, extra: Map::new(), kinds: Vec::new() }
    }

    /// A reference to a type of k8s-openapi.
    pub fn type_ref<T: JsonSchema>(&mut self) -> Value {
        self.generator.subschema_for::<T>().to_value()
    }

    /// A reference to a kind, which is from now on marked with its name.
    pub fn kind_ref(&mut self, add: &AddSchema, group: &str, version: &str, kind: &str) -> Value {
        let reference = add(self.generator).to_value();
        self.mark(&schema_name(&reference), gvk(group, version, kind));
        reference
    }

    fn mark(&mut self, name: &str, gvk: Value) {
        let marked = (name.to_owned(), gvk);
        if !self.kinds.contains(&marked) {
            self.kinds.push(marked);
        }
    }

    /// A reference to a kind's list, whose schema is made here.
    pub fn list_ref(&mut self, kind: &OpenApiKind) -> Value {
        let item = self.kind_ref(&kind.add_schema, &kind.group, &kind.version, &kind.kind);
        let list_meta = self.type_ref::<meta::ListMeta>();
        let item_name = schema_name(&item);
        let package = item_name.rsplit_once('.').map_or("", |(package, _)| package);
        let name = format!("{package}.{}", kind.list_kind);
        let schema = json!({
            "description": format!("{} is a list of {} objects.", kind.list_kind, kind.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"description": API_VERSION_TEXT, "type": "string"},
                "kind": {"description": KIND_TEXT, "type": "string"},
                "items": {"description": "Items is the list of objects.", "type": "array",
                    "items": item},
                "metadata": {"description": "Standard list metadata.", "allOf": [list_meta]},
            },
        });
        self.extra.insert(name.clone(), schema);
        self.mark(&name, gvk(&kind.group, &kind.version, &kind.list_kind));
        reference(&name)
    }

    /// A reference to the body of deletions.
    pub fn delete_options_ref(&mut self, group: &str, version: &str) -> Value {
        let add = of_type::<meta::DeleteOptions>();
        self.kind_ref(&add, group, version, "DeleteOptions")
    }

    pub fn status_ref(&mut self) -> Value {
        let add = of_type::<meta::Status>();
        self.kind_ref(&add, "", "v1", "Status")
    }

    /// A reference to the body of patches, which says no more than that it is an object.
    pub fn patch_ref(&mut self) -> Value {
        let name = format!("{META}.Patch");
        let schema = json!({"description": PATCH_TEXT, "type": "object"});
        self.extra.insert(name.clone(), schema);
        reference(&name)
    }

    /// All schemas by name, in upstream's form.
    pub fn finish(mut self) -> Map<String, Value> {
        let mut schemas: Map<String, Value> = self.generator.take_definitions(false);
        for (name, schema) in &mut schemas {
            add_merge_rules(name, schema);
            relax_required(schema);
            without_null(schema);
            describe_type(schema);
            wrap_references(schema);
            replace_special(name, schema);
        }
        schemas.append(&mut self.extra);
        for (name, gvk) in self.kinds {
            let Some(Value::Object(schema)) = schemas.get_mut(&name) else { continue };
            let marks = schema
                .entry("x-kubernetes-group-version-kind")
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(marks) = marks {
                marks.push(gvk);
            }
        }
        schemas
    }
}

/// Upstream's words (apimachinery's TypeMeta).
pub(super) const API_VERSION_TEXT: &str = concat!(
    "APIVersion defines the versioned schema of this representation of an object. ",
    "Servers should convert recognized schemas to the latest internal value, ",
    "and may reject unrecognized values. More info: ",
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
    "#resources"
);
pub(super) const KIND_TEXT: &str = concat!(
    "Kind is a string value representing the REST resource this object represents. ",
    "Servers may infer this from the endpoint the client submits requests to. ",
    "Cannot be updated. In CamelCase. More info: ",
    "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
    "#types-kinds"
);

/// Says of a kind of ours what k8s-openapi says of all others.
fn describe_type(schema: &mut Value) {
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    if !properties.contains_key("metadata") {
        return;
    }
    for (name, text) in [("apiVersion", API_VERSION_TEXT), ("kind", KIND_TEXT)] {
        if let Some(Value::Object(field)) = properties.get_mut(name)
            && field.get("type").is_some_and(|type_| type_ == "string")
        {
            field.entry("description").or_insert_with(|| text.into());
        }
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn schema_name(reference: &Value) -> String {
    let path = reference.get("$ref").and_then(Value::as_str).unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The name of a type in the tables: `io.k8s.api.core.v1.PodSpec` is `core.v1.PodSpec`.
fn table_name(schema: &str) -> &str {
    const PREFIXES: [&str; 4] = [
        "io.k8s.api.",
        "io.k8s.apimachinery.pkg.apis.",
        "io.k8s.apiextensions-apiserver.pkg.apis.",
        "io.k8s.kube-aggregator.pkg.apis.",
    ];
    PREFIXES.iter().find_map(|prefix| schema.strip_prefix(prefix)).unwrap_or(schema)
}

/// Writes how each field merges, which the types do not know.
fn add_merge_rules(name: &str, schema: &mut Value) {
    if let Some(rule) = graph().merge_rule(table_name(name), "") {
        schema["x-kubernetes-map-type"] = rule.map_type.into();
    }
    let Some(Value::Object(properties)) = schema.get_mut("properties") else { return };
    for (field, property) in properties {
        let Some(rule) = graph().merge_rule(table_name(name), field) else { continue };
        let Value::Object(property) = property else { continue };
        for (extension, text) in [
            ("x-kubernetes-patch-strategy", rule.patch_strategy),
            ("x-kubernetes-patch-merge-key", rule.patch_merge_key),
            ("x-kubernetes-list-type", rule.list_type),
            ("x-kubernetes-map-type", rule.map_type),
        ] {
            if !text.is_empty() {
                property.insert(extension.to_owned(), text.into());
            }
        }
        if !rule.list_map_keys.is_empty() {
            let keys: Vec<&str> = rule.list_map_keys.split(',').collect();
            property.insert("x-kubernetes-list-map-keys".to_owned(), keys.into());
        }
    }
}

/// k8s-openapi calls required what its types always have. Upstream does not require `metadata`, nor
/// names of references that once could be empty; clients would refuse objects that the server takes.
fn relax_required(schema: &mut Value) {
    let optional_name = schema["properties"]["name"]["description"]
        .as_str()
        .is_some_and(|text| text.contains("effectively required"));
    let Some(Value::Array(required)) = schema.get_mut("required") else { return };
    required.retain(|field| match field.as_str() {
        Some("metadata") => false,
        Some("name") => !optional_name,
        _ => true,
    });
    if let (true, Value::Object(schema)) = (required.is_empty(), schema) {
        schema.remove("required");
    }
}

/// OpenAPI 3.0 knows no type `null`, nor lists of types. That a field may be left out is said by
/// what is required.
fn without_null(schema: &mut Value) {
    let is_null = |one: &Value| one == "null" || one["type"] == "null";
    match schema {
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|one| !is_null(one));
                if let [one] = &types[..] {
                    let one = one.clone();
                    map.insert("type".to_owned(), one);
                }
            }
            if let Some(Value::Array(any)) = map.get_mut("anyOf") {
                any.retain(|one| !is_null(one));
                if let [Value::Object(one)] = &any[..] {
                    let one = one.clone();
                    map.remove("anyOf");
                    for (name, value) in one {
                        map.entry(name).or_insert(value);
                    }
                }
            }
            map.values_mut().for_each(without_null);
        }
        Value::Array(list) => list.iter_mut().for_each(without_null),
        _ => {}
    }
}

/// OpenAPI 3.0 ignores what stands beside a `$ref`, so a described reference becomes an `allOf`.
fn wrap_references(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            // A property may be called `$ref` too; its value is no text.
            let described = map.len() > 1 && map.get("$ref").is_some_and(Value::is_string);
            if described && let Some(target) = map.remove("$ref") {
                map.insert("allOf".to_owned(), json!([{"$ref": target}]));
            }
            map.values_mut().for_each(wrap_references);
        }
        Value::Array(list) => list.iter_mut().for_each(wrap_references),
        _ => {}
    }
}

/// Types whose JSON is of several kinds: k8s-openapi describes them in its own way.
fn replace_special(name: &str, schema: &mut Value) {
    let Value::Object(schema) = schema else { return };
    schema.remove("x-kubernetes-int-or-string");
    match name.rsplit('.').next().unwrap_or_default() {
        "IntOrString" => {
            schema.insert("format".to_owned(), "int-or-string".into());
            schema.insert("oneOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
        }
        "Quantity" => {
            schema.insert("oneOf".to_owned(), json!([{"type": "string"}, {"type": "number"}]));
        }
        "JSON"
        | "JSONSchemaPropsOrArray"
        | "JSONSchemaPropsOrBool"
        | "JSONSchemaPropsOrStringArray" => {
            schema.remove("type");
        }
        _ => {}
    }
}
