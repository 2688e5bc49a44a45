//! `apps/controller_revision.go`.

use anyhow::Result;
use serde_json::{Value, json};

use super::daemon_sets::{DAEMON_SETS, daemon_set, started};
use crate::conformance::checks::{counts, is, label, label_patch, name};
use crate::conformance::workloads::uid;
use crate::conformance::{Case, Context, Patch, case, eventually};

pub const CASES: &[Case] = &[case!(
    "ControllerRevision should manage the lifecycle of a ControllerRevision [Serial]",
    life
)];

async fn life(context: &Context) -> Result<()> {
    let (revisions, everywhere) =
        (context.own("apps/v1/controllerrevisions"), context.all("apps/v1/controllerrevisions"));
    let set_name = context.unique("e2e");
    let selector = format!("daemonset-name={set_name}");
    let set = started(context, &daemon_set(&set_name)).await?;
    counts(&context.all(DAEMON_SETS).items_labelled(&selector).await?, 1)?;
    let found = everywhere.items_labelled(&selector).await?;
    counts(&found, 1)?;
    let first = &found[0];
    let owner = &first["metadata"]["ownerReferences"][0];
    is(&owner["kind"], "DaemonSet")?;
    is(&owner["uid"], uid(&set))?;
    let patched = revisions
        .patch(name(first), Patch::Strategic, &label_patch(name(first), "patched"))
        .await?;
    is(label(&patched, name(first)), "patched")?;

    let hash = "another";
    let second = json!({
        "metadata": {"name": format!("{set_name}-{hash}"),
            "labels": {"daemonset-name": set_name, "controller-revision-hash": hash},
            "ownerReferences": first["metadata"]["ownerReferences"]},
        "data": first["data"], "revision": 2});
    revisions.create(&second).await?;
    let are = async |count: usize| {
        eventually(&format!("{count} revisions"), async || {
            let found = revisions.items_labelled(&selector).await?;
            Ok((found.len() == count).then_some(()))
        })
        .await
    };
    are(2).await?;
    revisions.delete(name(first)).await?;
    are(1).await?;
    let left = revisions.items_labelled(&selector).await?.remove(0);
    let change = |one: &mut Value| one["metadata"]["labels"][name(&left)] = "updated".into();
    let updated = revisions.update(name(&left), change).await?;
    is(label(&updated, name(&left)), "updated")?;

    let patch = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 2}},
        "updateStrategy": {"type": "RollingUpdate"}}});
    context.own(DAEMON_SETS).patch(&set_name, Patch::Strategic, &patch).await?;
    are(2).await?;
    let label = format!("{}=updated", name(&left));
    revisions.delete_collection(&[("labelSelector", &label)]).await?;
    are(1).await?;
    is(&revisions.items_labelled(&selector).await?[0]["revision"], 3)
}
