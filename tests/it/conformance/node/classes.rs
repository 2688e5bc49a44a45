//! `common/node/runtimeclass.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{annotation, counts, is, is_refused, name};
use crate::conformance::operations::{gone, is_discovered};
use crate::conformance::workloads::{AGNHOST, is_true};
use crate::conformance::{Case, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!("RuntimeClass should reject a Pod requesting a deleted RuntimeClass", deleted),
    case!("RuntimeClass should reject a Pod requesting a non-existent RuntimeClass", unknown),
    case!(
        "RuntimeClass should schedule a Pod requesting a RuntimeClass and initialize its Overhead",
        with_overhead
    ),
    case!(
        "RuntimeClass should schedule a Pod requesting a RuntimeClass without PodOverhead",
        without_overhead
    ),
    case!("RuntimeClass should support RuntimeClasses API operations", operations),
];

const CLASSES: &str = "node.k8s.io/v1/runtimeclasses";

fn pod_of(class: &str) -> Value {
    let container = json!({"name": "test", "image": AGNHOST, "command": ["true"]});
    json!({"metadata": {"generateName": format!("test-runtimeclass-{class}-")},
        "spec": {"runtimeClassName": class, "restartPolicy": "Never",
            "automountServiceAccountToken": false, "containers": [container]}})
}

/// Tries a pod of this class, as a dry run: it must be forbidden.
async fn is_rejected(context: &Context, class: &str) -> Result<()> {
    let pod = pod_of(class);
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

/// Creates a class and the namespace's only pod, of it, and waits until it is scheduled. Its overhead.
async fn scheduled(context: &Context, mut class: Value) -> Result<Value> {
    let (classes, pods) = (context.all(CLASSES), context.own("v1/pods"));
    let class_name = format!("{}-preconfigured-handler", context.namespace);
    context.remove_later(&classes, &class_name);
    class["metadata"]["name"] = class_name.as_str().into();
    class["handler"] = "test-handler".into();
    classes.create(&class).await?;
    let created = pods.create(&pod_of(&class_name)).await?;
    let found = eventually("all pods scheduled", async || {
        let found = pods.items(&[]).await?;
        let scheduled = found.iter().all(|pod| is_true(pod, "PodScheduled"));
        Ok((scheduled && !found.is_empty()).then_some(found))
    });
    let mut found = found.await?;
    counts(&found, 1)?;
    is(&name(&found[0]).into(), name(&created))?;
    Ok(found[0]["spec"]["overhead"].take())
}

async fn without_overhead(context: &Context) -> Result<()> {
    is(&scheduled(context, json!({})).await?, Value::Null)
}

async fn with_overhead(context: &Context) -> Result<()> {
    let overhead = json!({"cpu": "10m", "memory": "1Mi"});
    let class = json!({"overhead": {"podFixed": overhead}});
    is(&scheduled(context, class).await?, overhead)
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
