//! `apimachinery/watch.go`. Where upstream waits for ten seconds that nothing comes, these compare
//! the whole sequence of events up to a last one that every watch must see.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::conformance::{Case, Collection, Context, Watch, case};

pub const CASES: &[Case] = &[
    case!(
        "Watchers should observe add, update, and delete watch notifications on configmaps",
        observe
    ),
    case!("Watchers should be able to start watching from a specific resource version", start_from),
    case!(
        "Watchers should be able to restart watching from the last resource version observed by the \
         previous watch",
        restart
    ),
    case!(
        "Watchers should observe an object deletion if it stops meeting the requirements of the \
         selector",
        selector
    ),
    case!("Watchers should receive events on concurrent watches in same order", same_order),
];

const LABEL: &str = "watch-this-configmap";

fn map(name: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {LABEL: label}}})
}

async fn watch(maps: &Collection, version: &str, labels: &str) -> Result<Watch> {
    let selector = format!("{LABEL} in ({labels})");
    maps.watch(&[("labelSelector", &selector), ("resourceVersion", version)]).await
}

async fn mutate(maps: &Collection, name: &str, value: &str) -> Result<Value> {
    maps.update(name, |map| map["data"] = json!({"mutation": value})).await
}

async fn relabel(maps: &Collection, name: &str, label: &str) -> Result<Value> {
    maps.update(name, |map| map["metadata"]["labels"][LABEL] = label.into()).await
}

/// The next events are exactly these; of a deletion, only the name is compared.
async fn sees(watch: &mut Watch, wanted: &[(&str, &Value)]) -> Result<()> {
    for (kind, object) in wanted {
        let seen = watch.expect(kind).await?;
        match *kind {
            "DELETED" => {
                ensure!(seen["metadata"]["name"] == object["metadata"]["name"], "{seen}")
            }
            _ => ensure!(seen == **object, "{kind} {seen}; expected: {object}"),
        }
    }
    Ok(())
}

async fn observe(context: &Context) -> Result<()> {
    let maps = context.own("v1/configmaps");
    let (a, b) = ("multiple-watchers-A", "multiple-watchers-B");
    let mut watch_a = watch(&maps, "", a).await?;
    let mut watch_b = watch(&maps, "", b).await?;
    let mut watch_ab = watch(&maps, "", &format!("{a},{b}")).await?;
    let map_a = maps.create(&map("a", a)).await?;
    let first = mutate(&maps, "a", "1").await?;
    let second = mutate(&maps, "a", "2").await?;
    maps.delete("a").await?;
    let map_b = maps.create(&map("b", b)).await?;
    maps.delete("b").await?;
    let (last_a, last_b) =
        (maps.create(&map("last-a", a)).await?, maps.create(&map("last-b", b)).await?);
    let of_a =
        [("ADDED", &map_a), ("MODIFIED", &first), ("MODIFIED", &second), ("DELETED", &map_a)];
    let of_b = [("ADDED", &map_b), ("DELETED", &map_b)];
    let (last_a, last_b) = ([("ADDED", &last_a)], [("ADDED", &last_b)]);
    sees(&mut watch_a, &[&of_a[..], &last_a].concat()).await.context("A")?;
    sees(&mut watch_b, &[&of_b[..], &last_b].concat()).await.context("B")?;
    sees(&mut watch_ab, &[&of_a[..], &of_b, &last_a, &last_b].concat()).await.context("A or B")
}

async fn start_from(context: &Context) -> Result<()> {
    let (maps, label) = (context.own("v1/configmaps"), "from-resource-version");
    let created = maps.create(&map("a", label)).await?;
    let first = mutate(&maps, "a", "1").await?;
    let second = mutate(&maps, "a", "2").await?;
    maps.delete("a").await?;
    let version = first["metadata"]["resourceVersion"].as_str().context("a version")?;
    let mut watch = watch(&maps, version, label).await?;
    sees(&mut watch, &[("MODIFIED", &second), ("DELETED", &created)]).await
}

async fn restart(context: &Context) -> Result<()> {
    let (maps, label) = (context.own("v1/configmaps"), "watch-closed-and-restarted");
    let mut broken = watch(&maps, "", label).await?;
    let created = maps.create(&map("a", label)).await?;
    let first = mutate(&maps, "a", "1").await?;
    sees(&mut broken, &[("ADDED", &created), ("MODIFIED", &first)]).await?;
    drop(broken);
    let second = mutate(&maps, "a", "2").await?;
    let version = first["metadata"]["resourceVersion"].as_str().context("a version")?;
    let mut restarted = watch(&maps, version, label).await?;
    maps.delete("a").await?;
    sees(&mut restarted, &[("MODIFIED", &second), ("DELETED", &created)]).await
}

async fn selector(context: &Context) -> Result<()> {
    let (maps, label) = (context.own("v1/configmaps"), "label-changed-and-restored");
    let mut watch = watch(&maps, "", label).await?;
    let created = maps.create(&map("a", label)).await?;
    let first = mutate(&maps, "a", "1").await?;
    relabel(&maps, "a", "wrong-value").await?;
    sees(&mut watch, &[("ADDED", &created), ("MODIFIED", &first), ("DELETED", &created)]).await?;
    mutate(&maps, "a", "2").await?;
    // Nothing of that: the next event is the one of the label that is back.
    let restored = relabel(&maps, "a", label).await?;
    let third = mutate(&maps, "a", "3").await?;
    maps.delete("a").await?;
    sees(&mut watch, &[("ADDED", &restored), ("MODIFIED", &third), ("DELETED", &created)]).await
}

/// Watches that begin at each version of a hundred.
const WATCHES: usize = 100;

async fn same_order(context: &Context) -> Result<()> {
    let maps = context.own("v1/configmaps");
    let list = maps.list(&[]).await?;
    let version_of = |object: &Value| -> Result<String> {
        Ok(object["metadata"]["resourceVersion"].as_str().context("a version")?.to_string())
    };
    let mut version = version_of(&list)?;
    let watching = async {
        let mut watches = Vec::new();
        for _ in 0..WATCHES {
            watches.push(maps.watch(&[("resourceVersion", &version)]).await?);
            let mut order = Vec::new();
            for watch in &mut watches {
                let event = watch.next().await?.context("the watch ended")?;
                ensure!(event.object["kind"] == "ConfigMap", "{event:?}");
                order.push(version_of(&event.object)?);
            }
            version = order[0].clone();
            ensure!(order.iter().all(|one| *one == version), "not the same order: {order:?}");
        }
        Ok(())
    };
    tokio::select! {
        watched = watching => watched,
        written = write_without_end(&maps) => written,
    }
}

/// Creates, changes and deletes at random, until it is dropped.
async fn write_without_end(maps: &Collection) -> Result<()> {
    let (mut names, mut number) = (Vec::new(), 0);
    loop {
        number += 1;
        match rand::random_range(0..3) {
            1 if !names.is_empty() => {
                let name: &String = &names[rand::random_range(0..names.len())];
                let mut map = map(name, "order");
                map["metadata"]["labels"]["mutated"] = number.to_string().into();
                maps.replace(&map).await?;
            }
            2 if !names.is_empty() => {
                let name = names.swap_remove(rand::random_range(0..names.len()));
                maps.delete(&name).await?;
            }
            _ => {
                names.push(format!("cm-{number}"));
                maps.create(&map(&names[names.len() - 1], "order")).await?;
            }
        }
    }
}
