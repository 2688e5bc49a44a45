//! `apimachinery/validatingadmissionpolicy.go` and `apimachinery/mutatingadmissionpolicy.go`.
//!
//! Policies are for the case's own namespace, by a label: others must not notice.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::conformance::operations::{self, Status, Subject};
use crate::conformance::{Case, Context, Failure, case, eventually};

pub const CASES: &[Case] = &[
    case!("ValidatingAdmissionPolicy should validate against a Deployment", validate)
        .needs(VALIDATING),
    case!("ValidatingAdmissionPolicy should allow expressions to refer variables.", variables)
        .needs(VALIDATING),
    case!(
        "ValidatingAdmissionPolicy should support ValidatingAdmissionPolicy API operations",
        validating_policy
    )
    .needs(VALIDATING),
    case!(
        "ValidatingAdmissionPolicy should support ValidatingAdmissionPolicyBinding API operations",
        validating_binding
    )
    .needs(VALIDATING),
    case!("MutatingAdmissionPolicy should mutate a Deployment", mutate).needs(MUTATING),
    case!("MutatingAdmissionPolicy should mutate a Deployment with annotations", annotate)
        .needs(MUTATING),
    case!(
        "MutatingAdmissionPolicy should support MutatingAdmissionPolicy API operations",
        mutating_policy
    )
    .needs(MUTATING),
    case!(
        "MutatingAdmissionPolicy should support MutatingAdmissionPolicyBinding API operations",
        mutating_binding
    )
    .needs(MUTATING),
];

const VALIDATING: &[&str] = &[
    "admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
];
const MUTATING: &[&str] = &[
    "admissionregistration.k8s.io/v1/mutatingadmissionpolicies",
    "admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings",
];
const GROUP: &str = "admissionregistration.k8s.io/v1";

/// Writes of Deployments.
fn deployments(operations: &[&str]) -> Value {
    json!({"resourceRules": [{"operations": operations, "apiGroups": ["apps"],
        "apiVersions": ["v1"], "resources": ["deployments"]}]})
}

/// Creates a policy of this kind for the case's namespace, and its binding.
async fn bind(context: &Context, kind: &str, mut spec: Value, binding: Value) -> Result<()> {
    let name = context.namespace.as_str();
    let namespaces = context.all("v1/namespaces");
    let label = json!({ (name): "true" });
    namespaces
        .update(name, |object| json_patch::merge(&mut object["metadata"]["labels"], &label))
        .await?;
    let own = json!({"namespaceSelector": {"matchLabels": label}});
    spec["matchConstraints"] = deployments(&["CREATE", "UPDATE"]);
    json_patch::merge(&mut spec["matchConstraints"], &own);
    let policy_name = format!("{name}.policy.example.com");
    let mut bound = json!({"policyName": policy_name, "matchResources": own});
    json_patch::merge(&mut bound, &binding);
    let plural = format!("{GROUP}/{}", kind.to_lowercase().replace("policy", "policies"));
    let binding_plural = format!("{GROUP}/{}bindings", kind.to_lowercase());
    for (resource, kind, name, spec) in [
        (plural, kind.to_string(), policy_name, spec),
        (binding_plural, format!("{kind}Binding"), format!("{name}.binding.example.com"), bound),
    ] {
        let objects = context.all(&resource);
        context.remove_later(&objects, &name);
        let object = json!({"apiVersion": GROUP, "kind": kind, "metadata": {"name": name},
            "spec": spec});
        objects.create(&object).await?;
    }
    Ok(())
}

fn workload(kind: &str, name: &str, replicas: u32) -> Value {
    let labels = json!({"app": "nginx"});
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "labels": labels},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels},
                "spec": {"containers": [{"name": "nginx", "image": "nginx:latest"}]}}}})
}

/// Creates Deployments of one replica, and deletes them, until one is as it should be.
async fn marker(
    context: &Context,
    mut look: impl FnMut(Result<Value>) -> Result<bool>,
) -> Result<()> {
    let deployments = context.own("apps/v1/deployments");
    eventually("the policy's effect", async || {
        let created = deployments.create(&workload("Deployment", "marker-deployment", 1)).await;
        let is_there = created.is_ok();
        let found = look(created)?;
        if is_there {
            deployments.delete("marker-deployment").await?;
        }
        Ok(found.then_some(()))
    })
    .await
}

/// The marker is denied as invalid, other things are allowed.
async fn denies(context: &Context, spec: Value, allowed_replicas: u32) -> Result<()> {
    let binding = json!({"validationActions": ["Deny"]});
    bind(context, "ValidatingAdmissionPolicy", spec, binding).await?;
    marker(context, |created| match created {
        Ok(_) => Ok(false),
        Err(error) => match error.downcast::<Failure>()? {
            failure if failure.code == 422 && failure.reason == "Invalid" => Ok(true),
            failure => bail!(failure),
        },
    })
    .await?;
    let deployments = context.own("apps/v1/deployments");
    let replicated = workload("Deployment", "replicated", allowed_replicas);
    deployments.create(&replicated).await.context("replicated")?;
    deployments.delete("replicated").await?;
    let sets = context.own("apps/v1/replicasets");
    sets.create(&workload("ReplicaSet", "non-replicated", 1)).await.context("a ReplicaSet")?;
    sets.delete("non-replicated").await?;
    Ok(())
}

async fn validate(context: &Context) -> Result<()> {
    let own = format!("namespaceObject.metadata.name == '{}'", context.namespace);
    let spec = json!({"validations": [
        {"expression": "object.spec.replicas > 1",
            "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas"},
        {"expression": own,
            "message": "Internal error! Other namespace should not be allowed."}]});
    denies(context, spec, 2).await
}

async fn variables(context: &Context) -> Result<()> {
    let spec = json!({
        "variables": [{"name": "replicas", "expression": "object.spec.replicas"},
            {"name": "oddReplicas", "expression": "variables.replicas % 2 == 1"}],
        "validations": [{"expression": "variables.replicas > 1"},
            {"expression": "variables.oddReplicas"}]});
    denies(context, spec, 3).await
}

async fn mutates(
    context: &Context,
    expression: &str,
    mut is_done: impl FnMut(&Value) -> bool,
) -> Result<()> {
    let spec = json!({"reinvocationPolicy": "Never", "mutations": [
        {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
    bind(context, "MutatingAdmissionPolicy", spec, json!({})).await?;
    marker(context, |created| Ok(is_done(&created?))).await
}

async fn mutate(context: &Context) -> Result<()> {
    let expression = "Object{spec: Object.spec{replicas: 1337}}";
    mutates(context, expression, |created| created["spec"]["replicas"] == 1337).await
}

async fn annotate(context: &Context) -> Result<()> {
    let expression = r#"
        Object{
            metadata: Object.metadata{
                annotations: {
                    "mutated-by": "admission-policy"
                }
            }
        }"#;
    let done =
        |created: &Value| created["metadata"]["annotations"]["mutated-by"] == "admission-policy";
    mutates(context, expression, done).await
}

async fn validating_policy(context: &Context) -> Result<()> {
    let condition = |kind: &str, reason: &str| {
        json!({"conditions": [{"type": kind, "status": "False", "reason": reason,
            "message": "Set from an e2e test", "lastTransitionTime": "2024-01-01T00:00:00Z"}]})
    };
    let subject = Subject {
        resource: "admissionregistration.k8s.io/v1/validatingadmissionpolicies",
        kind: "ValidatingAdmissionPolicy",
        namespaced: false,
        subresources: &["status"],
        object: json!({"spec": {"validations": [{"expression": "object.spec.replicas <= 100"}],
            "matchConstraints": deployments(&["CREATE"])}}),
        patch: json!({"spec": {"failurePolicy": "Ignore"}}),
        update: json!({"spec": {"failurePolicy": "Fail"}}),
        status: Some(Status {
            patch: condition("PatchStatusFailed", "e2e"),
            update: condition("StatusUpdateFailed", "E2E"),
        }),
    };
    operations::run(context, &subject).await
}

async fn validating_binding(context: &Context) -> Result<()> {
    let subject = Subject {
        resource: "admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
        kind: "ValidatingAdmissionPolicyBinding",
        namespaced: false,
        subresources: &[],
        object: json!({"spec": {"policyName": "replicalimit-policy.example.com",
            "validationActions": ["Deny"]}}),
        patch: json!({"spec": {"validationActions": ["Warn"]}}),
        update: json!({"spec": {"validationActions": ["Deny"]}}),
        status: None,
    };
    operations::run(context, &subject).await
}

async fn mutating_policy(context: &Context) -> Result<()> {
    let expression = "Object{spec: Object.spec{replicas: 100}}";
    let subject = Subject {
        resource: "admissionregistration.k8s.io/v1/mutatingadmissionpolicies",
        kind: "MutatingAdmissionPolicy",
        namespaced: false,
        subresources: &[],
        object: json!({"spec": {"reinvocationPolicy": "Never", "mutations": [{
                "patchType": "ApplyConfiguration",
                "applyConfiguration": {"expression": expression}}],
            "matchConstraints": deployments(&["CREATE"])}}),
        patch: json!({"spec": {"reinvocationPolicy": "IfNeeded"}}),
        update: json!({"spec": {"reinvocationPolicy": "Never"}}),
        status: None,
    };
    operations::run(context, &subject).await
}

async fn mutating_binding(context: &Context) -> Result<()> {
    let subject = Subject {
        resource: "admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings",
        kind: "MutatingAdmissionPolicyBinding",
        namespaced: false,
        subresources: &[],
        object: json!({"spec": {"policyName": "replicalimit-policy.example.com"}}),
        patch: json!({"spec": {"policyName": "new-policy.example.com"}}),
        update: json!({"spec": {"policyName": "replicalimit-policy.example.com"}}),
        status: None,
    };
    operations::run(context, &subject).await
}
