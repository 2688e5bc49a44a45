//! `common/node/runtimeclass.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{annotation, counts, is, is_refused, name};
use crate::conformance::operations::{gone, is_discovered};
use crate::conformance::{Case, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!("RuntimeClass should reject a Pod requesting a deleted RuntimeClass", deleted),
    case!("RuntimeClass should reject a Pod requesting a non-existent RuntimeClass", unknown),
    case!("RuntimeClass should support RuntimeClasses API operations", operations),
];

const CLASSES: &str = "node.k8s.io/v1/runtimeclasses";

/// Tries a pod of this class, as a dry run: it must be forbidden.
async fn is_rejected(context: &Context, class: &str) -> Result<()> {
    let container = json!({"name": "test", "image": "agnhost:v1", "command": ["true"]});
    let pod = json!({"metadata": {"generateName": format!("test-runtimeclass-{class}-")},
        "spec": {"runtimeClassName": class, "restartPolicy": "Never",
            "automountServiceAccountToken": false, "containers": [container]}});
    let result = context.own("v1/pods").create_with(&[("dryRun", "All")], &pod).await;
    is(&is_refused(result, &[403])?.reason.into(), "Forbidden")
}

async fn unknown(context: &Context) -> Result<()> {
    is_rejected(context, &format!("{}-nonexistent", context.namespace)).await
}

async fn deleted(context: &Context) -> Result<()> {
    let classes = context.all(CLASSES);
    let class = format!("{}-delete-me", context.namespace);
    context.remove_later(&classes, &class);
    classes.create(&json!({"metadata": {"name": class}, "handler": "runc"})).await?;
    classes.delete(&class).await?;
    gone(&classes, &class).await?;
    eventually("a pod of the class is rejected", async || {
        Ok(is_rejected(context, &class).await.ok())
    })
    .await
}

async fn operations(context: &Context) -> Result<()> {
    is_discovered(context, CLASSES, "RuntimeClass", false, &[]).await?;
    let classes = context.all(CLASSES);
    let unique = context.unique("runtimeclass");
    let class = |suffix: &str| {
        let name = format!("{unique}-conformance-runtime-class{suffix}");
        context.remove_later(&classes, &name);
        json!({"metadata": {"name": name, "labels": {"test": unique}},
            "handler": format!("{unique}-handler{suffix}")})
    };
    let selector = format!("test={unique}");
    let created = classes.create(&class("")).await?;
    let first = name(&created);
    is(&is_refused(classes.create(&class("")).await, &[409])?.reason.into(), "AlreadyExists")?;
    classes.create(&class("2")).await?;
    // Without a revision, a watch begins with what is there.
    let mut watch = classes.watch(&[("labelSelector", &selector)]).await?;
    let third = class("3");
    classes.create(&third).await?;
    is(&classes.get(first).await?["metadata"]["uid"], created["metadata"]["uid"].clone())?;
    counts(&classes.items_labelled(&selector).await?, 3)?;
    let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    let mut patched = classes.patch(first, Patch::Merge, &patch).await?;
    is(annotation(&patched, "patched"), "true")?;
    patched["metadata"]["annotations"]["updated"] = "true".into();
    is(annotation(&classes.replace(&patched).await?, "updated"), "true")?;
    watch.until("ADDED", |class| name(class) == name(&third)).await?;
    for key in ["patched", "updated"] {
        watch.until("MODIFIED", |class: &Value| annotation(class, key) == "true").await?;
    }
    classes.delete(first).await?;
    is_refused(classes.get(first).await, &[404])?;
    counts(&classes.items_labelled(&selector).await?, 2)?;
    classes.delete_collection(&[("labelSelector", &selector)]).await?;
    counts(&classes.items_labelled(&selector).await?, 0)
}
