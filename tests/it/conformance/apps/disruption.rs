//! `apps/disruption.go`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::conformance::checks::{count_becomes, counts, holds, is, name};
use crate::conformance::operations::{gone, includes};
use crate::conformance::workloads::{
    PAUSE, REPLICA_SETS, are_ready, becomes, number, pod, replica_set,
};
use crate::conformance::{Case, Collection, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "DisruptionController Listing PodDisruptionBudgets for all namespaces should list and \
         delete a collection of PodDisruptionBudgets",
        collection
    ),
    case!(
        "DisruptionController should block an eviction until the PDB is updated to allow it",
        eviction
    ),
    case!("DisruptionController should create a PodDisruptionBudget", create),
    case!("DisruptionController should observe PodDisruptionBudget status updated", observed),
    case!("DisruptionController should update/patch PodDisruptionBudget status", status),
];

const BUDGETS: &str = "policy/v1/poddisruptionbudgets";

/// Creates a budget of `foo: bar` and waits until the controller has seen it.
pub async fn create_budget(
    budgets: &Collection,
    name: &str,
    min_available: Value,
    labels: Value,
) -> Result<Value> {
    let spec = json!({"selector": {"matchLabels": {"foo": "bar"}}, "minAvailable": min_available});
    budgets.create(&json!({"metadata": {"name": name, "labels": labels}, "spec": spec})).await?;
    is_processed(budgets, name).await
}

pub async fn is_processed(budgets: &Collection, name: &str) -> Result<Value> {
    eventually("the budget, processed", async || {
        let budget = budgets.get(name).await?;
        let seen = budget["status"]["observedGeneration"].as_i64().unwrap_or_default();
        let present = budget["metadata"]["generation"].as_i64().unwrap_or_default();
        Ok((seen >= present).then_some(budget))
    })
    .await
}

async fn collection(context: &Context) -> Result<()> {
    let (budgets, everywhere) = (context.own(BUDGETS), context.all(BUDGETS));
    let other = context.create_namespace("disruption-2", json!({})).await?;
    let others = context.within(&other, BUDGETS);
    let value = context.unique("pdb");
    let labels = json!({"foo_pdb": value});
    let selector = format!("foo_pdb={value}");
    create_budget(&budgets, "foo", 2.into(), labels.clone()).await?;
    create_budget(&budgets, "foo2", "1%".into(), labels.clone()).await?;
    create_budget(&others, "foo3", 2.into(), labels).await?;
    for (budgets, expected) in [(&everywhere, "foo foo2 foo3"), (&budgets, "foo foo2")] {
        let found = budgets.items_labelled(&selector).await?;
        counts(&found, expected.split(' ').count())?;
        let mut names: Vec<&str> = found.iter().map(name).collect();
        names.sort_unstable();
        is(&names.join(" ").into(), expected)?;
    }
    budgets.delete_collection(&[]).await?;
    count_becomes(&budgets, "", 0).await
}

async fn create(context: &Context) -> Result<()> {
    let budgets = context.own(BUDGETS);
    create_budget(&budgets, "foo", "1%".into(), json!({"foo": "bar"})).await?;
    let change = |budget: &mut Value| budget["spec"]["minAvailable"] = "2%".into();
    is(&budgets.update("foo", change).await?["spec"]["minAvailable"], "2%")?;
    is_processed(&budgets, "foo").await?;
    budgets.get("foo/status").await?;
    let patch = json!({"spec": {"minAvailable": "3%"}});
    let patched = budgets.patch("foo", Patch::Merge, &patch).await?;
    is(&patched["spec"]["minAvailable"], "3%")?;
    is_processed(&budgets, "foo").await?;
    budgets.delete("foo").await?;
    gone(&budgets, "foo").await
}

const SELECTOR: &str = "foo=bar";

async fn create_pods(context: &Context, count: usize) -> Result<()> {
    let pods = context.own("v1/pods");
    for number in 0..count {
        let name = format!("pod-{number}");
        pods.create(&pod(&name, json!({"foo": "bar"}), PAUSE)).await?;
    }
    are_ready(&pods, SELECTOR, count).await?;
    Ok(())
}

async fn observed(context: &Context) -> Result<()> {
    let budgets = context.own(BUDGETS);
    create_budget(&budgets, "foo", 1.into(), json!({"foo": "bar"})).await?;
    create_pods(context, 3).await?;
    // It begins with none.
    let allows = |budget: &Value| number(&budget["status"]["disruptionsAllowed"]) > 0;
    becomes(&budgets, "foo", "allowing disruptions", allows).await?;
    Ok(())
}

async fn status(context: &Context) -> Result<()> {
    let budgets = context.own(BUDGETS);
    create_budget(&budgets, "foo", 1.into(), json!({"foo": "bar"})).await?;
    // The controller removes pods that are not there.
    create_pods(context, 1).await?;
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    budgets
        .update("foo/status", |budget| budget["status"]["disruptedPods"] = json!({"pod-0": time}))
        .await?;
    is_processed(&budgets, "foo").await?;
    let read = budgets.get("foo/status").await?;
    holds(read["status"]["disruptedPods"]["pod-0"].is_string(), "the status has the pod")?;
    let patch = json!({"status": {"disruptedPods": {"pod-0": null}}});
    let patched = budgets.patch("foo/status", Patch::Merge, &patch).await?;
    is_processed(&budgets, "foo").await?;
    let pods = patched["status"]["disruptedPods"].as_object();
    holds(pods.is_none_or(|pods| pods.is_empty()), "the status has no pods any more")
}

/// Evicts a pod, and tells whether its budget stood against it.
async fn is_evicted(context: &Context, pod: &str) -> Result<bool> {
    let pods = context.own("v1/pods");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod, "namespace": context.namespace}});
    let path = format!("{}/{pod}/eviction", pods.path);
    let answer = pods.send("POST", &path, "application/json", &eviction).await?;
    if answer.code < 300 {
        return Ok(true);
    }
    let cause = json!({"details": {"causes": [{"reason": "DisruptionBudget"}]}});
    ensure!(includes(&answer.json()?, &cause), "refused for another reason: {}", answer.text());
    Ok(false)
}

async fn eviction(context: &Context) -> Result<()> {
    let (budgets, pods) = (context.own(BUDGETS), context.own("v1/pods"));
    let labels = json!({"foo": "bar"});
    create_budget(&budgets, "foo", 3.into(), labels.clone()).await?;
    let set = replica_set("rs", 3, &labels, "donothing", PAUSE);
    context.own(REPLICA_SETS).create(&set).await?;
    let first = name(&are_ready(&pods, SELECTOR, 3).await?[0]).to_string();
    holds(!is_evicted(context, &first).await?, "the budget stands against it")?;

    budgets.update("foo", |budget| budget["spec"]["minAvailable"] = 2.into()).await?;
    is_processed(&budgets, "foo").await?;
    are_ready(&pods, SELECTOR, 3).await?;
    let counts_three = |budget: &Value| {
        let status = &budget["status"];
        status["currentHealthy"] == 3 && status["desiredHealthy"] == 2
    };
    becomes(&budgets, "foo", "counting three pods", counts_three).await?;
    holds(is_evicted(context, &first).await?, "the budget allows it")?;

    let patch = json!({"spec": {"minAvailable": null, "maxUnavailable": 0}});
    budgets.patch("foo", Patch::Merge, &patch).await?;
    is_processed(&budgets, "foo").await?;
    let next = name(&are_ready(&pods, SELECTOR, 3).await?[0]).to_string();
    holds(!is_evicted(context, &next).await?, "the budget stands against it once more")?;

    budgets.delete("foo").await?;
    gone(&budgets, "foo").await?;
    are_ready(&pods, SELECTOR, 3).await?;
    holds(is_evicted(context, &next).await?, "nothing stands against it")
}
