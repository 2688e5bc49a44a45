//! `apimachinery/crd_conversion_webhook.go` and `apimachinery/crd_selectable_fields.go`. The webhook
//! is served by the test itself on loopback; upstream's runs in a pod.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::{Value, json};

use super::crd::{self, Crd};
use crate::api::webhooks::converter::{conversion, start, versions};
use crate::api::webhooks::server::HookServer;
use crate::conformance::checks::{counts, holds, is, name};
use crate::conformance::{Case, Collection, Context, Patch, Watch, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "CustomResourceConversionWebhook should be able to convert from CR v1 to CR v2",
        from_v1_to_v2
    ),
    case!(
        "CustomResourceConversionWebhook should be able to convert a non homogeneous list of CRs",
        lists
    ),
    case!(
        "CustomResourceFieldSelectors CustomResourceFieldSelectors MUST list and watch custom \
         resources matching the field selector",
        selectors
    ),
];

async fn defined(context: &Context, server: &HookServer) -> Result<Crd> {
    let mut object = crd::definition(context, "stable.example.com", "Namespaced", versions("v1"));
    object["spec"]["conversion"] = conversion(server);
    crd::create(context, object).await
}

fn of_v1(crd: &Crd, name: &str) -> Value {
    let mut object = crd.instance("v1", name);
    object["hostPort"] = "localhost:8080".into();
    object
}

fn is_v1(object: &Value) -> Result<()> {
    is(&object["hostPort"], "localhost:8080")?;
    holds(object.get("host").is_none() && object.get("port").is_none(), "only fields of v1")
}

fn is_v2(object: &Value) -> Result<()> {
    is(&object["host"], "localhost")?;
    is(&object["port"], "8080")?;
    holds(object.get("hostPort").is_none(), "only fields of v2")
}

async fn from_v1_to_v2(context: &Context) -> Result<()> {
    let server = start().await;
    let crd = defined(context, &server).await?;
    context.own(&crd.resource("v1")).create(&of_v1(&crd, "cr-instance-1")).await?;
    is_v2(&context.own(&crd.resource("v2")).get("cr-instance-1").await?)
}

async fn lists(context: &Context) -> Result<()> {
    let server = start().await;
    let crd = defined(context, &server).await?;
    let (v1, v2) = (context.own(&crd.resource("v1")), context.own(&crd.resource("v2")));
    v1.create(&of_v1(&crd, "cr-instance-1")).await?;
    // From now on objects are stored as v2.
    let definitions = crd::definitions(context);
    let patch = json!({"spec": {"versions": versions("v2")}});
    definitions.patch(crd.name(), Patch::Merge, &patch).await?;
    v1.create(&of_v1(&crd, "cr-instance-2")).await?;
    let items = eventually("both objects as v1", async || {
        let items = v1.items(&[]).await?;
        Ok((items.len() == 2).then_some(items))
    })
    .await?;
    items.iter().try_for_each(is_v1)?;
    let items = v2.items(&[]).await?;
    counts(&items, 2)?;
    items.iter().try_for_each(is_v2)
}

/// Reads events until a list of names was added, and one deleted.
async fn sees(watch: &mut Watch, added: &[&str], deleted: &[&str]) -> Result<()> {
    let (mut new, mut gone): (BTreeSet<String>, BTreeSet<String>) = Default::default();
    while new.len() < added.len() || gone.len() < deleted.len() {
        let Some(event) = watch.next().await? else { break };
        match event.kind.as_str() {
            "ADDED" => drop(new.insert(name(&event.object).into())),
            "DELETED" => drop(gone.insert(name(&event.object).into())),
            _ => {}
        }
    }
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    holds(new == set(added) && gone == set(deleted), &format!("{new:?} added, {gone:?} deleted"))
}

async fn listed(objects: &Collection, selector: &str, names: &[&str]) -> Result<()> {
    let items = objects.items(&[("fieldSelector", selector)]).await?;
    let found: BTreeSet<&str> = items.iter().map(name).collect();
    holds(found == names.iter().copied().collect(), &format!("{selector}: {found:?}"))
}

async fn selectors(context: &Context) -> Result<()> {
    let server = start().await;
    let crd = defined(context, &server).await?;
    let (v1, v2) = (context.own(&crd.resource("v1")), context.own(&crd.resource("v2")));
    let watch = async |objects: &Collection, selector: &str| {
        objects.watch(&[("fieldSelector", selector)]).await
    };
    let mut hosts = watch(&v2, "host=host1").await?;
    let mut ports = watch(&v2, "host=host1,port=80").await?;
    let mut both = watch(&v1, "hostPort=host1:80").await?;
    // As informers do it: a list, and a watch from there.
    let list = v2.list(&[("fieldSelector", "host=host1")]).await?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_string();
    let from = [("fieldSelector", "host=host1"), ("resourceVersion", version.as_str())];
    let mut informer = v2.watch(&from).await?;
    let mut made = Vec::new();
    for fields in [
        json!({"host": "host1", "port": "80"}),
        json!({"host": "host1", "port": "8080"}),
        json!({"host": "host2"}),
    ] {
        let mut object = crd.instance("v2", &context.unique("selectable-field-cr"));
        for (field, value) in fields.as_object().into_iter().flatten() {
            object[field] = value.clone();
        }
        made.push(name(&v2.create(&object).await?).to_string());
    }
    let (a, b) = (made[0].as_str(), made[1].as_str());
    listed(&v2, "host=host1", &[a, b]).await?;
    listed(&v2, "host=host1,port=80", &[a]).await?;
    listed(&v1, "hostPort=host1:80", &[a]).await?;
    listed(&v1, "hostPort=host1:8080", &[b]).await?;
    sees(&mut hosts, &[a, b], &[]).await?;
    sees(&mut ports, &[a], &[]).await?;
    sees(&mut both, &[a], &[]).await?;
    sees(&mut informer, &[a, b], &[]).await?;
    v2.delete_collection(&[("fieldSelector", "host=host1,port=80")]).await?;
    v2.update(b, |object| object["host"] = "host2".into()).await?;
    listed(&v2, "host=host1", &[]).await?;
    listed(&v2, "host=host1,port=80", &[]).await?;
    sees(&mut hosts, &[], &[a, b]).await?;
    sees(&mut ports, &[], &[a]).await?;
    sees(&mut both, &[], &[a]).await?;
    sees(&mut informer, &[], &[a, b]).await
}
