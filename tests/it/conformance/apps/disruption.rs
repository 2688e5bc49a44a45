//! `apps/disruption.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{count_becomes, counts, is, name};
use crate::conformance::operations::gone;
use crate::conformance::{Case, Collection, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "DisruptionController Listing PodDisruptionBudgets for all namespaces should list and \
         delete a collection of PodDisruptionBudgets",
        collection
    ),
    case!("DisruptionController should create a PodDisruptionBudget", create),
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
