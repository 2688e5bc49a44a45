//! Version 2 of a document, made of version 3: other places for the same things, and no constructs
//! that version 2 does not have. Kinds that users define are published as upstream publishes them
//! (k8s.io/apiextensions-apiserver/pkg/controller/openapi).

use serde_json::{Map, Value, json};

use super::super::resource::KindInfo;

const SCHEMAS: &str = "#/components/schemas/";
const DEFINITIONS: &str = "#/definitions/";
/// Junctors, which version 2 cannot say; and nulls.
const UNKNOWN: &[&str] = &["allOf", "anyOf", "oneOf", "not", "nullable"];

/// The paths and definitions of a document; `kinds` are the rows that it was made of.
pub fn parts<'a>(
    mut document: Value,
    kinds: impl Iterator<Item = &'a KindInfo>,
) -> (Map<String, Value>, Map<String, Value>) {
    let mut definitions = taken(&mut document["components"]["schemas"]);
    definitions.values_mut().for_each(convert);
    for info in kinds {
        let Some(custom) = &info.custom else { continue };
        definitions.insert(definition_name(info), custom_definition(info, custom.schema.clone()));
    }
    let mut paths = taken(&mut document["paths"]);
    for item in paths.values_mut().filter_map(Value::as_object_mut) {
        for (key, value) in item.iter_mut() {
            match (key.as_str(), value) {
                ("parameters", Value::Array(list)) => list.iter_mut().for_each(parameter),
                (_, Value::Object(map)) => operation(map),
                _ => {}
            }
        }
    }
    (paths, definitions)
}

fn taken(value: &mut Value) -> Map<String, Value> {
    match value.take() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// `com.example.v1.Kind`: the parts of the group in reverse order.
pub fn definition_name(info: &KindInfo) -> String {
    let mut parts: Vec<&str> = info.gvr.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{}", parts.join("."), info.gvr.version, info.kind)
}

/// One schema and those within it.
fn convert(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    // A described reference: version 2 lets the description stand beside it.
    if let Some(Value::Array(all)) = map.get("allOf")
        && let [Value::Object(one)] = &all[..]
        && let Some(target) = one.get("$ref").cloned()
    {
        map.insert("$ref".into(), target);
    }
    let several = map.contains_key("oneOf");
    UNKNOWN.iter().for_each(|name| drop(map.remove(*name)));
    // Quantities and numbers that may be words: upstream calls them strings.
    if several && !map.contains_key("type") {
        map.insert("type".into(), "string".into());
    }
    if let Some(Value::String(target)) = map.get_mut("$ref") {
        *target = target.replace(SCHEMAS, DEFINITIONS);
    }
    each_child(map, convert);
}

fn each_child(map: &mut Map<String, Value>, mut act: impl FnMut(&mut Value)) {
    if let Some(Value::Object(fields)) = map.get_mut("properties") {
        fields.values_mut().for_each(&mut act);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(child) = map.get_mut(name) {
            act(child);
        }
    }
}

fn parameter(parameter: &mut Value) {
    let Value::Object(map) = parameter else { return };
    if let Some(Value::Object(schema)) = map.remove("schema") {
        map.extend(schema);
    }
}

fn operation(operation: &mut Map<String, Value>) {
    let mut parameters = match operation.remove("parameters") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    parameters.iter_mut().for_each(parameter);
    if let Some(mut body) = operation.remove("requestBody") {
        let content = taken(&mut body["content"]);
        let types: Vec<Value> = content.keys().map(|name| name.clone().into()).collect();
        let mut schema = content.into_values().next().unwrap_or_default()["schema"].take();
        convert(&mut schema);
        let required = body["required"] == true;
        parameters.insert(
            0,
            json!({"name": "body", "in": "body", "required": required, "schema": schema}),
        );
        operation.insert("consumes".into(), types.into());
    }
    if !parameters.is_empty() {
        operation.insert("parameters".into(), parameters.into());
    }
    let Some(Value::Object(responses)) = operation.get_mut("responses") else { return };
    let mut produces = Vec::new();
    for response in responses.values_mut().filter_map(Value::as_object_mut) {
        let Some(mut content) = response.remove("content") else { continue };
        for (media, mut one) in taken(&mut content) {
            let mut schema = one["schema"].take();
            convert(&mut schema);
            response.insert("schema".into(), schema);
            if !produces.contains(&Value::from(media.as_str())) {
                produces.push(media.into());
            }
        }
    }
    operation.insert("produces".into(), produces.into());
}

/// The definition of a kind that users define.
fn custom_definition(info: &KindInfo, mut schema: Value) -> Value {
    let preserves = schema["x-kubernetes-preserve-unknown-fields"] == true;
    // Whoever reads properties here takes all others for unknown, so an object of anything has none.
    if preserves || schema.as_object().is_none_or(|map| map.is_empty()) {
        schema = json!({"type": "object"});
    } else {
        structural(&mut schema);
        add_meta(&mut schema, true);
        each_descendant(&mut schema, &mut |part| {
            let embedded = part.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true));
            let open = part.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            if embedded && !open {
                add_meta(part, false);
            }
        });
    }
    schema["x-kubernetes-group-version-kind"] =
        json!([super::components::gvk(&info.gvr.group, &info.gvr.version, &info.kind)]);
    schema
}

fn each_descendant(schema: &mut Value, act: &mut impl FnMut(&mut Value)) {
    if let Value::Object(map) = schema {
        each_child(map, |child| {
            act(child);
            each_descendant(child, act);
        });
    }
}

fn add_meta(schema: &mut Value, is_root: bool) {
    let fields = &mut schema["properties"];
    for (name, text) in [
        ("apiVersion", super::components::API_VERSION_TEXT),
        ("kind", super::components::KIND_TEXT),
    ] {
        fields[name] = json!({"type": "string", "description": text});
    }
    let reference = format!("{DEFINITIONS}{}.ObjectMeta", super::components::META);
    fields["metadata"] = match is_root || fields["metadata"].is_null() {
        true => json!({"$ref": reference, "description": "Standard object's metadata."}),
        false => fields["metadata"].take(),
    };
}

/// What upstream leaves out because kubectl cannot read it (`ToStructuralOpenAPIV2`).
fn structural(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    let is_nullable = map.get("nullable") == Some(&Value::Bool(true));
    UNKNOWN.iter().for_each(|name| drop(map.remove(*name)));
    if is_nullable {
        map.remove("type");
    }
    if is_nullable || map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        map.remove("items");
        map.remove("properties");
    }
    if map.get("type").is_some_and(|kind| kind == "array") && !map.contains_key("items") {
        map.remove("type");
    }
    let nullable = |field: &Value| field.get("nullable") == Some(&Value::Bool(true));
    let fields = map.get("properties").and_then(Value::as_object);
    let optional: Vec<String> = fields
        .map(|fields| fields.iter().filter(|(_, f)| nullable(f)).map(|(n, _)| n.clone()).collect())
        .unwrap_or_default();
    let all_optional = map.get("additionalProperties").is_some_and(nullable);
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|name| !all_optional && !optional.iter().any(|one| *name == one.as_str()));
        if required.is_empty() {
            map.remove("required");
        }
    }
    each_child(map, structural);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structural_of(mut schema: Value) -> Value {
        structural(&mut schema);
        schema
    }

    #[test]
    fn schemas_lose_what_version_2_lacks() {
        let schema = json!({"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "array", "nullable": true, "items": {"type": "string"}},
            "b": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}]},
            "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"d": {"type": "string"}}}}});
        let expected = json!({"type": "object", "required": ["b"], "properties": {
            "a": {}, "b": {"x-kubernetes-int-or-string": true},
            "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
        assert_eq!(structural_of(schema), expected);
        let map = json!({"type": "object", "required": ["a"],
            "additionalProperties": {"type": "string", "nullable": true}});
        assert_eq!(structural_of(map), json!({"type": "object", "additionalProperties": {}}));
    }

    #[test]
    fn references_and_words_that_may_be_numbers() {
        let mut schema = json!({"properties": {
            "meta": {"description": "d", "allOf": [{"$ref": "#/components/schemas/x.Meta"}]},
            "port": {"format": "int-or-string", "oneOf": [{"type": "integer"}]}}});
        convert(&mut schema);
        assert_eq!(
            schema,
            json!({"properties": {"meta": {"description": "d", "$ref": "#/definitions/x.Meta"},
                "port": {"format": "int-or-string", "type": "string"}}})
        );
    }
}
