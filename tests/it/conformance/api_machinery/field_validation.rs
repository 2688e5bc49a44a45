//! `apimachinery/field_validation.go`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::crd::{self, Crd};
use crate::conformance::client::Answer;
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] = &[
    case!(
        "FieldValidation should detect unknown and duplicate fields of a typed object",
        typed_object
    ),
    case!(
        "FieldValidation should detect unknown metadata fields of a typed object",
        typed_metadata
    ),
    case!("FieldValidation should create/apply a valid CR for CRD with validation schema", valid),
    case!(
        "FieldValidation should create/apply a CR with unknown fields for CRD with no validation \
         schema",
        no_schema
    ),
    case!(
        "FieldValidation should create/apply an invalid CR with extra properties for CRD with \
         validation schema",
        extra
    ),
    case!(
        "FieldValidation should detect unknown metadata fields in both the root and embedded \
         object of a CR",
        metadata
    ),
    case!(
        "FieldValidation should detect duplicates in a CR when preserving unknown fields",
        duplicates
    ),
];

const QUERY: &str = "fieldManager=field_validation_mgr&fieldValidation=Strict";

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "nginx"}},
        "spec": {"containers": [{"name": "nginx", "image": "nginx:latest"}]}})
}

async fn create_deployment(context: &Context, body: String) -> Result<Answer> {
    let path = format!("{}?{QUERY}", context.own("apps/v1/deployments").path);
    let headers = [("content-type", "application/json")];
    context.client.send("POST", &path, &headers, body.into_bytes()).await
}

fn tells(answer: &Answer, text: &str) -> Result<()> {
    let failure = answer.failure();
    ensure!(answer.code >= 400 && failure.message.contains(text), "{failure}; expected: {text}");
    Ok(())
}

async fn typed_object(context: &Context) -> Result<()> {
    // Text, since no value has a field twice.
    let body = format!(
        r#"{{"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {{"name": "my-dep", "labels": {{"app": "nginx"}}}},
        "spec": {{"unknownField": "foo", "replicas": 2, "replicas": 3,
            "selector": {{"matchLabels": {{"app": "nginx"}}}}, "template": {}}}}}"#,
        template()
    );
    let answer = create_deployment(context, body).await?;
    tells(
        &answer,
        "strict decoding error: unknown field \"spec.unknownField\", \
         duplicate field \"spec.replicas\"",
    )
}

async fn typed_metadata(context: &Context) -> Result<()> {
    let body = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "my-dep", "unknownMeta": "foo", "labels": {"app": "nginx"}},
        "spec": {"selector": {"matchLabels": {"app": "nginx"}}, "template": template()}});
    let answer = create_deployment(context, body.to_string()).await?;
    tells(&answer, "strict decoding error: unknown field \"metadata.unknownMeta\"")
}

/// What the schemas have in common: the fields of `spec`.
fn spec_fields() -> Value {
    json!({"foo": {"type": "string"},
        "cronSpec": {"type": "string",
            "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
        "ports": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
            "items": {"type": "object", "required": ["containerPort", "protocol"],
                "properties": {"containerPort": {"format": "int32", "type": "integer"},
                    "hostIP": {"type": "string"}, "name": {"type": "string"},
                    "hostPort": {"format": "int32", "type": "integer"},
                    "protocol": {"type": "string"}}}}})
}

/// A definition of two versions with this schema of `spec`, or with any content.
async fn define(context: &Context, spec: Option<Value>) -> Result<Crd> {
    let schema = match spec {
        Some(spec) => {
            json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}})
        }
        None => crd::any(),
    };
    let versions = json!([crd::version("v1beta1", schema.clone()),
        {"name": "v1", "served": true, "storage": false, "schema": schema}]);
    crd::create(context, crd::definition(context, "mygroup.example.com", "Cluster", versions)).await
}

/// Applies what follows after the name; its first line is the sixth, as with upstream.
async fn apply(context: &Context, one: &Crd, rest: &str) -> Result<Answer> {
    let path = format!("{}/mytest?{QUERY}", context.all(&one.resource("v1beta1")).path);
    let body = format!(
        "\napiVersion: {}/v1beta1\nkind: {}\nmetadata:\n  name: mytest\n{rest}\n",
        one.group, one.kind
    );
    let headers = [("content-type", "application/apply-patch+yaml")];
    context.client.send("PATCH", &path, &headers, body.into_bytes()).await
}

const REST: &str = "  foo: foo1
  cronSpec: \"* * * * */5\"
  ports:
  - name: x
    containerPort: 80
    protocol: TCP";

async fn valid(context: &Context) -> Result<()> {
    let one = define(context, Some(json!({"type": "object", "properties": spec_fields()}))).await?;
    apply(context, &one, &format!("spec:\n{REST}")).await?.ok()?;
    one.delete(context).await
}

async fn no_schema(context: &Context) -> Result<()> {
    let one = define(context, None).await?;
    let rest = REST.replace("foo: foo1", "unknown: uk1");
    let applied = apply(context, &one, &format!("spec:\n{rest}")).await?.ok()?.json()?;
    ensure!(applied["spec"]["unknown"] == "uk1", "not kept: {applied}");
    one.delete(context).await
}

async fn extra(context: &Context) -> Result<()> {
    let one = define(context, Some(json!({"type": "object", "properties": spec_fields()}))).await?;
    let answer = apply(context, &one, &format!("unknownField: unknown\nspec:\n{REST}")).await?;
    tells(&answer, ".unknownField: field not declared in schema")?;
    one.delete(context).await
}

async fn metadata(context: &Context) -> Result<()> {
    let mut fields = spec_fields();
    fields["template"] = json!({"type": "object", "x-kubernetes-embedded-resource": true,
        "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": {"type": "object"}}});
    let spec = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": fields});
    let one = define(context, Some(spec)).await?;
    let rest = format!(
        "  unknownMeta: unknown\nspec:\n  template:\n    apiversion: foo/v1\n    kind: Sub\n    \
         metadata:\n        unknownSubMeta: unknown\n        name: subobject\n        \
         namespace: {}\n{REST}",
        context.namespace
    );
    let answer = apply(context, &one, &rest).await?;
    let told = answer.text();
    let nested = ".spec.template.metadata.unknownSubMeta: field not declared in schema";
    let root = ".metadata.unknownMeta: field not declared in schema";
    ensure!(answer.code >= 400 && (told.contains(nested) || told.contains(root)), "{told}");
    one.delete(context).await
}

async fn duplicates(context: &Context) -> Result<()> {
    let spec = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": spec_fields()});
    let one = define(context, Some(spec)).await?;
    let rest = REST.replace("foo: foo1", "unknown: uk1\n  foo: foo1\n  foo: foo2");
    let answer = apply(context, &one, &format!("spec:\n{rest}")).await?;
    tells(&answer, "line 9: key \"foo\" already set in map")?;
    one.delete(context).await
}
