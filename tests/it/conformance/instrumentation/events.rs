//! `instrumentation/events.go`: Events of the group events.k8s.io.

use anyhow::Result;
use serde_json::{Value, json};

use super::core_events::plain;
use crate::conformance::checks::{counts, holds, is, name, namespace};
use crate::conformance::{Case, Collection, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("Events API should delete a collection of events", collection),
    case!(
        "Events API should ensure that an event can be fetched, patched, deleted, and listed",
        lifecycle
    ),
];

const EVENTS: &str = "events.k8s.io/v1/events";
const SOME_TIME: &str = "2017-09-19T13:49:16.000000Z";

fn event(context: &Context, name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {label: "true"}},
        "regarding": {"namespace": context.namespace}, "eventTime": SOME_TIME,
        "note": format!("This is {name}"), "action": "Do", "reason": "Test", "type": "Normal",
        "reportingController": "test-controller", "reportingInstance": "test-node"})
}

async fn exists(context: &Context, events: &Collection) -> Result<bool> {
    let found = events.items_labelled("testevent-constant=true").await?;
    Ok(found.iter().any(|e| name(e) == "event-test" && namespace(e) == context.namespace))
}

async fn lifecycle(context: &Context) -> Result<()> {
    let (events, everywhere) = (context.own(EVENTS), context.all(EVENTS));
    events.create(&event(context, "event-test", "testevent-constant")).await?;
    holds(exists(context, &everywhere).await?, "it is among those of all namespaces")?;
    holds(exists(context, &events).await?, "it is among those of the namespace")?;
    let by_source = [("fieldSelector", "source=test-controller")];
    let found = context.own("v1/events").items(&by_source).await?;
    counts(&found, 1)?;
    is(&found[0]["metadata"]["name"], "event-test")?;
    let by_controller = [("fieldSelector", "reportingController=test-controller")];
    let found = events.items(&by_controller).await?;
    counts(&found, 1)?;
    is(&found[0]["metadata"]["name"], "event-test")?;
    let mut read = events.get("event-test").await?;
    let series = json!({"count": 2, "lastObservedTime": "2017-09-19T13:49:11.000000Z"});
    events.patch("event-test", Patch::Strategic, &json!({"series": series})).await?;
    read["series"] = series;
    is(&plain(events.get("event-test").await?), plain(read.clone()))?;
    let mut read = plain(read);
    read["series"] = json!({"count": 100, "lastObservedTime": SOME_TIME});
    events.replace(&read).await?;
    is(&plain(events.get("event-test").await?), read)?;
    events.delete("event-test").await?;
    holds(!exists(context, &everywhere).await?, "it is gone from all namespaces")?;
    holds(!exists(context, &events).await?, "it is gone from the namespace")
}

async fn collection(context: &Context) -> Result<()> {
    let events = context.own(EVENTS);
    for i in 1..=3 {
        events.create(&event(context, &format!("test-event-{i}"), "testevent-set")).await?;
    }
    counts(&events.items_labelled("testevent-set=true").await?, 3)?;
    events.delete_collection(&[("labelSelector", "testevent-set=true")]).await?;
    counts(&events.items_labelled("testevent-set=true").await?, 0)
}
