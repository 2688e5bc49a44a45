//! `apimachinery/webhook.go`: configurations as objects, and what decides whether a webhook is asked.

use anyhow::Result;
use serde_json::{Value, json};

use super::webhooks::{
    MUTATING, VALIDATING, agnhost, bad_map, configurations, denied, hook, map, register, rules,
};
use crate::api::webhooks::server::HookServer;
use crate::conformance::checks::{holds, is, is_refused, name};
use crate::conformance::{Case, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!("AdmissionWebhook patching/updating a validating webhook should work", change_validating),
    case!("AdmissionWebhook patching/updating a mutating webhook should work", change_mutating),
    case!("AdmissionWebhook listing validating webhooks should work", list_validating),
    case!("AdmissionWebhook listing mutating webhooks should work", list_mutating),
    case!(
        "AdmissionWebhook should be able to create and update validating webhook configurations \
         with match conditions",
        conditions_of_validating
    ),
    case!(
        "AdmissionWebhook should be able to create and update mutating webhook configurations \
         with match conditions",
        conditions_of_mutating
    ),
    case!(
        "AdmissionWebhook should reject validating webhook configurations with invalid match \
         conditions",
        bad_conditions_of_validating
    ),
    case!(
        "AdmissionWebhook should reject mutating webhook configurations with invalid match \
         conditions",
        bad_conditions_of_mutating
    ),
    case!("AdmissionWebhook should mutate everything except 'skip-me' configmaps", skip_me),
];

/// A webhook of each kind that does something to ConfigMaps, and what it does.
fn subject(context: &Context, server: &HookServer, kind: &str) -> Value {
    let path = if kind == VALIDATING { "configmaps" } else { "stage-1" };
    hook(context, server, path, rules("", "configmaps", &["CREATE"]))
}

/// Creates a ConfigMap; says whether the webhook did its work.
async fn works(context: &Context, kind: &str) -> Result<bool> {
    let maps = context.own("v1/configmaps");
    let name = context.unique("webhook-map");
    if kind == VALIDATING {
        return match maps.create(&bad_map(&name)).await {
            Ok(_) => Ok(false),
            Err(error) => denied(Err(error), "unwanted key and value").await.map(|()| true),
        };
    }
    let made = maps.create(&map(&name, json!({"mutation-start": "yes"}))).await?;
    Ok(made["data"]["mutation-stage-1"] == "yes")
}

async fn change(context: &Context, kind: &str) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let made = register(context, kind, json!([subject(context, &server, kind)])).await?;
    let all = configurations(context, kind);
    holds(works(context, kind).await?, "it works at first")?;
    let update = |object: &mut Value| {
        object["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
    };
    all.update(name(&made), update).await?;
    holds(!works(context, kind).await?, "it is not for creations any more")?;
    let patch = json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations",
        "value": ["CREATE"]}]);
    all.patch(name(&made), Patch::Json, &patch).await?;
    holds(works(context, kind).await?, "it is for creations again")
}

async fn change_validating(context: &Context) -> Result<()> {
    change(context, VALIDATING).await
}

async fn change_mutating(context: &Context) -> Result<()> {
    change(context, MUTATING).await
}

async fn list(context: &Context, kind: &str) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    for _ in 0..10 {
        register(context, kind, json!([subject(context, &server, kind)])).await?;
    }
    let all = configurations(context, kind);
    let selector = format!("e2e-list-test-uuid={}", context.namespace);
    let count = all.items_labelled(&selector).await?.len();
    holds(count == 10, &format!("{count} configurations, not 10"))?;
    holds(works(context, kind).await?, "they work")?;
    all.delete_collection(&[("labelSelector", &selector)]).await?;
    eventually("webhooks that are gone", async || Ok((!works(context, kind).await?).then_some(())))
        .await
}

async fn list_validating(context: &Context) -> Result<()> {
    list(context, VALIDATING).await
}

async fn list_mutating(context: &Context) -> Result<()> {
    list(context, MUTATING).await
}

async fn conditions(context: &Context, kind: &str) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let first = json!([{"name": "expression-1",
        "expression": "object.metadata.namespace == 'production'"}]);
    let mut subject = subject(context, &server, kind);
    subject["matchConditions"] = first.clone();
    let made = register(context, kind, json!([subject])).await?;
    let all = configurations(context, kind);
    is(&all.get(name(&made)).await?["webhooks"][0]["matchConditions"], first)?;
    let second = json!([{"name": "expression-1",
            "expression": "object.metadata.namespace == 'production'"},
        {"name": "expression-2", "expression": "object.metadata.namespace == 'staging'"}]);
    let update = |object: &mut Value| object["webhooks"][0]["matchConditions"] = second.clone();
    all.update(name(&made), update).await?;
    is(&all.get(name(&made)).await?["webhooks"][0]["matchConditions"], second)
}

async fn conditions_of_validating(context: &Context) -> Result<()> {
    conditions(context, VALIDATING).await
}

async fn conditions_of_mutating(context: &Context) -> Result<()> {
    conditions(context, MUTATING).await
}

async fn bad_conditions(context: &Context, kind: &str) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let mut subject = subject(context, &server, kind);
    subject["matchConditions"] = json!([{"name": "invalid-expression-1",
        "expression": "... [] bad expression"}]);
    let failure = is_refused(register(context, kind, json!([subject])).await, &[422])?;
    holds(failure.to_string().contains("compilation failed"), &failure.to_string())
}

async fn bad_conditions_of_validating(context: &Context) -> Result<()> {
    bad_conditions(context, VALIDATING).await
}

async fn bad_conditions_of_mutating(context: &Context) -> Result<()> {
    bad_conditions(context, MUTATING).await
}

async fn skip_me(context: &Context) -> Result<()> {
    let server = HookServer::start(agnhost).await;
    let mut first = subject(context, &server, MUTATING);
    first["matchConditions"] =
        json!([{"name": "skip-me", "expression": "object.metadata.name != 'skip-me'"}]);
    register(context, MUTATING, json!([first])).await?;
    let maps = context.own("v1/configmaps");
    let start = json!({"mutation-start": "yes"});
    let skipped = maps.create(&map("skip-me", start.clone())).await?;
    is(&skipped["data"], start.clone())?;
    let changed = maps.create(&map("mutate-me", start)).await?;
    is(&changed["data"], json!({"mutation-start": "yes", "mutation-stage-1": "yes"}))
}
