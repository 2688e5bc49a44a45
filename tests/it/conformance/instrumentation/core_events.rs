//! `instrumentation/core_events.go`: Events of the core group.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{count_becomes, counts, holds, is, name, namespace};
use crate::conformance::{Case, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("Events should delete a collection of events", collection),
    case!("Events should manage the lifecycle of an event", lifecycle),
];

fn event(context: &Context, name: &str, label: &str, message: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {label: "true"}}, "message": message,
        "reason": "Test", "type": "Normal", "count": 1,
        "involvedObject": {"namespace": context.namespace}})
}

/// Without what the control plane sets.
pub fn plain(mut event: Value) -> Value {
    if let Some(metadata) = event["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    event
}

async fn lifecycle(context: &Context) -> Result<()> {
    let (events, everywhere) = (context.own("v1/events"), context.all("v1/events"));
    let is_mine = |e: &Value| name(e) == "event-test" && namespace(e) == context.namespace;
    let first = event(context, "event-test", "testevent-constant", "This is a test event");
    events.create(&first).await?;
    let found = everywhere.items_labelled("testevent-constant=true").await?;
    holds(found.iter().any(is_mine), "the event is among those of all namespaces")?;
    let message = "This is a test event - patched";
    events.patch("event-test", Patch::Strategic, &json!({"message": message})).await?;
    is(&events.get("event-test").await?["message"], message)?;
    let mut changed = plain(events.get("event-test").await?);
    changed["series"] = json!({"count": 100, "lastObservedTime": "2017-09-19T13:49:16.000000Z"});
    events.replace(&changed).await?;
    is(&plain(events.get("event-test").await?), changed)?;
    events.delete("event-test").await?;
    let left = everywhere.items_labelled("testevent-constant=true").await?;
    holds(!left.iter().any(is_mine), "the event is gone")
}

async fn collection(context: &Context) -> Result<()> {
    let events = context.own("v1/events");
    for i in 1..=3 {
        let name = format!("test-event-{i}");
        events.create(&event(context, &name, "testevent-set", &format!("This is {name}"))).await?;
    }
    counts(&events.items_labelled("testevent-set=true").await?, 3)?;
    events.delete_collection(&[("labelSelector", "testevent-set=true")]).await?;
    count_becomes(&events, "testevent-set=true", 0).await
}
