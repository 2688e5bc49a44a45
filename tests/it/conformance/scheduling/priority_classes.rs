//! The part of `scheduling/preemption.go` that preempts nothing.

use anyhow::Result;
use serde_json::json;

use crate::conformance::checks::{is, is_later, is_refused, name};
use crate::conformance::{Case, Context, Patch, case};

pub const CASES: &[Case] = &[case!(
    "SchedulerPreemption PriorityClass endpoints verify PriorityClass endpoints can be operated \
     with different HTTP methods [Serial]",
    methods
)];

async fn methods(context: &Context) -> Result<()> {
    let classes = context.all("scheduling.k8s.io/v1/priorityclasses");
    let value = context.unique("e2e");
    let mut made = Vec::new();
    for i in 1..=2 {
        let name = format!("p{i}");
        context.remove_later(&classes, &name);
        let metadata = json!({"name": name, "labels": {"e2e": value}});
        made.push(classes.create(&json!({"metadata": metadata, "value": i})).await?);
    }
    let (first, second) = (name(&made[0]), name(&made[1]));
    // The value cannot change.
    let patched = classes.patch(first, Patch::Strategic, &json!({"value": 10})).await;
    is_refused(patched, &[403, 422])?;
    let mut changed = made[1].clone();
    changed["value"] = 20.into();
    is_refused(classes.replace(&changed).await, &[403, 422])?;
    // The description can.
    let description = json!({"description": "updated description"});
    classes.patch(first, Patch::Strategic, &description).await?;
    let mut changed = made[1].clone();
    changed["description"] = "updated description".into();
    classes.replace(&changed).await?;
    classes.list(&[]).await?;
    for (class, name) in made.iter().zip([first, second]) {
        let live = classes.get(name).await?;
        is(&live["value"], class["value"].clone())?;
        is(&live["description"], "updated description")?;
        is_later(&live, class)?;
    }
    classes.delete_collection(&[("labelSelector", &format!("e2e={value}"))]).await.map(drop)
}
