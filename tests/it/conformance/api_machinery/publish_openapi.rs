//! `apimachinery/crd_publish_openapi.go`: what `/openapi/v2` says of definitions, and what kubectl
//! makes of it.

use anyhow::{Context as _, Result, ensure};
use regex::RegexBuilder;
use serde_json::{Value, json};

use super::crd::{self, Crd};
use crate::cluster::tools::Output;
use crate::conformance::{Case, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!("CustomResourcePublishOpenAPI works for CRD with validation schema", with_schema),
    case!("CustomResourcePublishOpenAPI works for CRD without validation schema", without_schema),
    case!(
        "CustomResourcePublishOpenAPI works for CRD preserving unknown fields at the schema root",
        preserving_root
    ),
    case!(
        "CustomResourcePublishOpenAPI works for CRD preserving unknown fields in an embedded object",
        preserving_nested
    ),
    case!("CustomResourcePublishOpenAPI works for multiple CRDs of different groups", groups),
    case!(
        "CustomResourcePublishOpenAPI works for multiple CRDs of same group but different versions",
        versions
    ),
    case!(
        "CustomResourcePublishOpenAPI works for multiple CRDs of same group and version but \
         different kinds",
        kinds
    ),
    case!(
        "CustomResourcePublishOpenAPI updates the published spec when one version gets renamed",
        renamed
    ),
    case!(
        "CustomResourcePublishOpenAPI removes definition from spec when one version gets changed \
         to not be served",
        not_served
    ),
];

fn foo() -> Value {
    let name = json!({"description": "Name of Bar.", "type": "string"});
    json!({"description": "Foo CRD for Testing", "type": "object", "properties": {
        "spec": {"type": "object", "description": "Specification of Foo", "properties": {
            "bars": {"description": "List of Bars and their specs.", "type": "array", "items": {
                "type": "object", "required": ["name"], "properties": {"name": name,
                    "age": {"description": "Age of Bar.", "type": "string"},
                    "feeling": {"description": "Whether Bar is feeling great.", "type": "string",
                        "enum": ["Great", "Down"]},
                    "bazs": {"description": "List of Bazs.", "type": "array",
                        "items": {"type": "string"}}}}}}},
        "status": {"description": "Status of Foo", "type": "object", "properties": {
            "bars": {"description": "List of Bars and their statuses.", "type": "array",
                "items": {"type": "object", "properties": {"name": name,
                    "available": {"description": "Whether the Bar is installed.",
                        "type": "boolean"},
                    "quxType": {"description": "Indicates to external qux type.",
                        "pattern": "in-tree|out-of-tree", "type": "string"}}}}}}}})
}

fn waldo() -> Value {
    json!({"description": "Waldo CRD for Testing", "type": "object", "properties": {
        "spec": {"description": "Specification of Waldo", "type": "object", "properties": {
            "dummy": {"description": "Dummy property.", "type": "object"}}},
        "status": {"description": "Status of Waldo", "type": "object", "properties": {
            "bars": {"description": "List of Bars and their statuses.", "type": "array",
                "items": {"type": "object"}}}}}})
}

/// A group that only this run of the case has.
fn group(context: &Context, suffix: &str) -> String {
    format!("{}-test-{suffix}.example.com", context.unique("crd-publish-openapi"))
}

/// A definition with this schema in all versions, of which the first is stored; published as
/// `expected`, if that is told.
async fn define(
    context: &Context,
    group: &str,
    names: &[&str],
    schema: &Value,
    expected: Option<&Value>,
) -> Result<Crd> {
    let versions = names.iter().enumerate().map(|(number, name)| {
        json!({"name": name, "served": true, "storage": number == 0,
            "schema": {"openAPIV3Schema": schema}})
    });
    let object = crd::definition(context, group, "Namespaced", versions.collect());
    let one = crd::create(context, object).await?;
    for name in names {
        published(context, &one, name, expected).await?;
    }
    Ok(one)
}

/// `com.example.group.version.Kind`: the group's parts in reverse order.
fn name_of(one: &Crd, version: &str) -> String {
    let mut parts: Vec<&str> = one.group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{}", parts.join("."), one.kind)
}

/// The document; asked for again with its tag, it is not sent again.
async fn document(context: &Context) -> Result<Value> {
    let answer = context.client.send("GET", "/openapi/v2", &[], Vec::new()).await?.ok()?;
    let tag = answer.header("etag").to_string();
    ensure!(!tag.is_empty(), "no ETag");
    let headers = [("if-none-match", tag.as_str())];
    let again = context.client.send("GET", "/openapi/v2", &headers, Vec::new()).await?;
    // Other cases change definitions meanwhile.
    ensure!(again.code == 304 || again.header("etag") != tag, "{} for {tag}", again.code);
    let document = answer.json()?;
    ensure!(document["swagger"] == "2.0", "not a document of version 2");
    Ok(document)
}

async fn published(
    context: &Context,
    one: &Crd,
    version: &str,
    expected: Option<&Value>,
) -> Result<()> {
    let name = name_of(one, version);
    let found = eventually("the published definition", async || {
        let found = document(context).await?["definitions"][&name].take();
        Ok((!found.is_null()).then_some(found))
    });
    let mut found = found.await.with_context(|| name.clone())?;
    let kind = json!([{"group": one.group, "version": version, "kind": one.kind}]);
    ensure!(found["x-kubernetes-group-version-kind"] == kind, "its kind: {found}");
    let Some(expected) = expected else { return Ok(()) };
    // What every object has is added to the schema.
    if let Some(fields) = found.as_object_mut() {
        fields.remove("x-kubernetes-group-version-kind");
        fields.remove("x-kubernetes-selectable-fields");
        if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
            for added in ["metadata", "apiVersion", "kind"] {
                properties.remove(added);
            }
            if properties.is_empty() {
                fields.remove("properties");
            }
        }
    }
    ensure!(found == *expected, "{name}: {found}; expected: {expected}");
    Ok(())
}

async fn not_published(context: &Context, one: &Crd, version: &str) -> Result<()> {
    let name = name_of(one, version);
    eventually("the end of a published definition", async || {
        Ok(document(context).await?["definitions"][&name].is_null().then_some(()))
    })
    .await
}

async fn remove(context: &Context, one: &Crd, versions: &[&str]) -> Result<()> {
    one.delete(context).await?;
    for version in versions {
        not_published(context, one, version).await?;
    }
    Ok(())
}

fn ok(output: Output) -> Result<String> {
    ensure!(output.code == 0, "{}", output.told());
    Ok(output.stdout)
}

/// kubectl refuses it with one of these texts.
fn refused(output: Output, texts: &[&str]) -> Result<()> {
    let told = texts.iter().any(|text| output.stderr.contains(text));
    ensure!(output.code != 0 && told, "{}\nexpected: {texts:?}", output.told());
    Ok(())
}

/// kubectl creates it and applies it, each time anew.
async fn accepted(context: &Context, one: &Crd, object: &Value) -> Result<()> {
    for verb in ["create", "apply"] {
        ok(context.kubectl(&format!("{verb} -f -"), &object.to_string()).await?)?;
        let name = object["metadata"]["name"].as_str().context("a name")?;
        ok(context.kubectl(&format!("delete {} {name}", one.plural), "").await?)?;
    }
    Ok(())
}

async fn explains(context: &Context, what: &str, pattern: &str) -> Result<()> {
    let text = ok(context.kubectl(&format!("explain {what}"), "").await?)?;
    let pattern = RegexBuilder::new(pattern).dot_matches_new_line(true).build()?;
    ensure!(pattern.is_match(&text), "explain {what}: {pattern} is not in\n{text}");
    Ok(())
}

fn instance(one: &Crd, version: &str, rest: Value) -> Value {
    let mut object = one.instance(version, "test-cr");
    json_patch::merge(&mut object, &rest);
    object
}

async fn with_schema(context: &Context) -> Result<()> {
    let schema = foo();
    let one = define(context, &group(context, "foo"), &["v1"], &schema, Some(&schema)).await?;
    let bars = |bar: Value| instance(&one, "v1", json!({"spec": {"bars": [bar]}}));
    accepted(context, &one, &bars(json!({"name": "test-bar"}))).await?;
    let bad = bars(json!({"name": "test-bar", "feeling": "NonExistentValue"})).to_string();
    let output = context.kubectl("create -f -", &bad).await?;
    refused(output, &["Unsupported value: \"NonExistentValue\""])?;
    for verb in ["create", "apply"] {
        let words = format!("{verb} -f -");
        let unknown = instance(&one, "v1", json!({"spec": {"foo": true}})).to_string();
        let output = context.kubectl(&words, &unknown).await?;
        refused(output, &["unknown field \"foo\"", "unknown field \"spec.foo\""])?;
        let output = context.kubectl(&words, &bars(json!({"age": "10"})).to_string()).await?;
        let texts = ["missing required field \"name\"", "spec.bars[0].name: Required value"];
        refused(output, &texts)?;
    }
    let name = &one.plural;
    let patterns = [
        (
            "",
            "DESCRIPTION:.*Foo CRD for Testing.*FIELDS:.*apiVersion.*<string>.*APIVersion \
              defines.*spec.*<Object>.*Specification of Foo",
        ),
        (
            ".metadata",
            "DESCRIPTION:.*Standard object's metadata.*FIELDS:.*creationTimestamp.*\
                       <string>.*CreationTimestamp is a timestamp",
        ),
        (
            ".spec",
            "DESCRIPTION:.*Specification of Foo.*FIELDS:.*bars.*<\\[\\]Object>.*List of \
                   Bars and their specs",
        ),
        (
            ".spec.bars",
            "(FIELD|RESOURCE):.*bars.*<\\[\\]Object>.*DESCRIPTION:.*List of Bars and \
                        their specs.*FIELDS:.*bazs.*<\\[\\]string>.*List of Bazs.*name.*<string>.*\
                        Name of Bar",
        ),
    ];
    for (path, pattern) in patterns {
        explains(context, &format!("{name}{path}"), pattern).await?;
    }
    let output = context.kubectl(&format!("explain {name}.spec.bars2"), "").await?;
    refused(output, &["field \"bars2\" does not exist"])?;
    remove(context, &one, &["v1"]).await
}

async fn without_schema(context: &Context) -> Result<()> {
    let any = crd::any()["openAPIV3Schema"].take();
    // What is preserved at the root is published as an object of anything.
    let expected = json!({"type": "object"});
    let one = define(context, &group(context, "empty"), &["v1"], &any, Some(&expected)).await?;
    accepted(context, &one, &instance(&one, "v1", json!({"a": {"b": [{"c": "d"}]}}))).await?;
    explains(context, &one.plural, "DESCRIPTION:.*<empty>").await?;
    remove(context, &one, &["v1"]).await
}

async fn preserving_root(context: &Context) -> Result<()> {
    let mut schema = waldo();
    schema["description"] = "preserve-unknown-properties at root for Testing".into();
    schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    let group = group(context, "unknown-at-root");
    let one = define(context, &group, &["v1"], &schema, None).await?;
    accepted(context, &one, &instance(&one, "v1", json!({"a": {"b": [{"c": "d"}]}}))).await?;
    explains(context, &one.plural, &format!("KIND:.*{}", one.kind)).await?;
    remove(context, &one, &["v1"]).await
}

async fn preserving_nested(context: &Context) -> Result<()> {
    let mut schema = waldo();
    schema["description"] = "preserve-unknown-properties in nested field for Testing".into();
    schema["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] = true.into();
    let group = group(context, "unknown-in-nested");
    let one = define(context, &group, &["v1"], &schema, None).await?;
    // A merge would drop the null.
    let mut object = instance(&one, "v1", json!({}));
    object["spec"] = json!({"a": null, "b": [{"c": "d"}]});
    accepted(context, &one, &object).await?;
    let pattern = "DESCRIPTION:.*preserve-unknown-properties in nested field for Testing";
    explains(context, &one.plural, pattern).await?;
    remove(context, &one, &["v1"]).await
}

async fn groups(context: &Context) -> Result<()> {
    let (schema, waldo) = (foo(), waldo());
    let first = define(context, &group(context, "foo"), &["v1"], &schema, Some(&schema)).await?;
    let second = group(context, "waldo");
    let second = define(context, &second, &["v1beta1"], &waldo, Some(&waldo)).await?;
    published(context, &first, "v1", Some(&schema)).await?;
    remove(context, &first, &["v1"]).await?;
    published(context, &second, "v1beta1", Some(&waldo)).await?;
    remove(context, &second, &["v1beta1"]).await
}

/// Two definitions of one group, with versions that are the same or not.
async fn common_group(context: &Context, one: &str, other: &str) -> Result<()> {
    let (schema, waldo, group) = (foo(), waldo(), group(context, "common-group"));
    let first = define(context, &group, &[one], &schema, Some(&schema)).await?;
    let second = define(context, &group, &[other], &waldo, Some(&waldo)).await?;
    published(context, &second, other, Some(&waldo)).await?;
    published(context, &first, one, Some(&schema)).await?;
    remove(context, &first, &[one]).await?;
    remove(context, &second, &[other]).await
}

async fn versions(context: &Context) -> Result<()> {
    let (schema, group) = (foo(), group(context, "multi-ver"));
    let one = define(context, &group, &["v2", "v3"], &schema, Some(&schema)).await?;
    remove(context, &one, &["v2", "v3"]).await?;
    common_group(context, "v4", "v5").await
}

async fn kinds(context: &Context) -> Result<()> {
    common_group(context, "v6", "v6").await
}

async fn renamed(context: &Context) -> Result<()> {
    let (schema, group) = (foo(), group(context, "multi-ver"));
    let one = define(context, &group, &["v2", "v3"], &schema, Some(&schema)).await?;
    let patch = json!([{"op": "test", "path": "/spec/versions/1/name", "value": "v3"},
        {"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}]);
    crd::definitions(context).patch(one.name(), Patch::Json, &patch).await?;
    published(context, &one, "v4", Some(&schema)).await?;
    not_published(context, &one, "v3").await?;
    published(context, &one, "v2", Some(&schema)).await?;
    remove(context, &one, &["v2", "v4"]).await
}

async fn not_served(context: &Context) -> Result<()> {
    let (schema, group) = (foo(), group(context, "multi-to-single-ver"));
    let one = define(context, &group, &["v5", "v6alpha1"], &schema, Some(&schema)).await?;
    let definitions = crd::definitions(context);
    let updated = definitions
        .update(one.name(), |object| object["spec"]["versions"][1]["served"] = false.into());
    updated.await?;
    not_published(context, &one, "v6alpha1").await?;
    published(context, &one, "v5", Some(&schema)).await?;
    remove(context, &one, &["v5"]).await
}
