//! `apimachinery/chunking.go`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::conformance::context::eventually_within;
use crate::conformance::{Case, Collection, Context, case, refused};

pub const CASES: &[Case] = &[
    case!(
        "Servers with support for API chunking should return chunks of results for list calls",
        chunks
    ),
    case!(
        "Servers with support for API chunking should support continue listing from the last key \
         if the original version has been compacted away, though the list is inconsistent [Slow]",
        compacted
    )
    .within(EXPIRY.as_secs() + 180),
];

const TOTAL: usize = 400;
/// Twice upstream's interval of compaction.
const EXPIRY: Duration = Duration::from_secs(600);

async fn templates(context: &Context) -> Result<Collection> {
    let templates = context.own("v1/podtemplates");
    let create = |number: usize| {
        let template = json!({"apiVersion": "v1", "kind": "PodTemplate",
            "metadata": {"name": format!("template-{number:04}")},
            "template": {"spec": {"containers": [{"name": "test", "image": "test2"}]}}});
        let templates = &templates;
        async move { templates.create(&template).await }
    };
    let all = futures::stream::iter(0..TOTAL).map(create).buffer_unordered(20);
    all.try_collect::<Vec<_>>().await?;
    Ok(templates)
}

/// A page, read after `found` others.
struct Page {
    items: usize,
    version: String,
    next: String,
}

async fn page(templates: &Collection, limit: usize, token: &str, found: usize) -> Result<Page> {
    let limit_text = limit.to_string();
    let list = templates.list(&[("limit", &limit_text), ("continue", token)]).await?;
    let items = list["items"].as_array().context("items")?;
    ensure!(items.len() <= limit, "{} items, at most {limit}", items.len());
    for (at, item) in items.iter().enumerate() {
        let name = format!("template-{:04}", found + at);
        ensure!(item["metadata"]["name"] == name, "{}; expected: {name}", item["metadata"]["name"]);
    }
    let next = list["metadata"]["continue"].as_str().unwrap_or_default().to_string();
    let remaining = &list["metadata"]["remainingItemCount"];
    match next.as_str() {
        "" => ensure!(remaining.is_null(), "{remaining} remain on the last page"),
        _ => {
            let remaining = remaining.as_u64().context("no remainingItemCount")?;
            let total = usize::try_from(remaining)? + items.len() + found;
            ensure!(total == TOTAL, "{total} items are told, there are {TOTAL}");
        }
    }
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_string();
    Ok(Page { items: items.len(), version, next })
}

/// Reads on to the end, all at one version.
async fn rest(templates: &Collection, limit: usize, first: Page, found: usize) -> Result<()> {
    let (mut found, mut token, version) = (found + first.items, first.next, first.version);
    while !token.is_empty() {
        let page = page(templates, limit, &token, found).await?;
        ensure!(page.version == version, "{}; expected: {version}", page.version);
        found += page.items;
        token = page.next;
    }
    ensure!(found == TOTAL, "{found} in all, not {TOTAL}");
    Ok(())
}

async fn chunks(context: &Context) -> Result<()> {
    let templates = templates(context).await?;
    for _ in 0..3 {
        let first = page(&templates, 17, "", 0).await?;
        rest(&templates, 17, first, 0).await?;
    }
    let limit = (TOTAL + 1).to_string();
    let all = templates.items(&[("limit", &limit)]).await?;
    ensure!(all.len() == TOTAL, "{} at once, not {TOTAL}", all.len());
    Ok(())
}

async fn compacted(context: &Context) -> Result<()> {
    let templates = templates(context).await?;
    let limit = TOTAL / 10;
    let first = page(&templates, limit, "", 0).await?;
    let (token, limit_text) = (first.next.as_str(), limit.to_string());
    let path = format!("{}?limit={limit_text}&continue={token}", templates.path);
    let expired = eventually_within(EXPIRY, "the expiry of a token", async || {
        // Time alone compacts nothing that is the newest.
        templates
            .update("template-0000", |template| {
                template["metadata"]["annotations"] = json!({"at": context.unique("at")});
            })
            .await?;
        let answer = templates.client.send("GET", &path, &[], Vec::new()).await?;
        match answer.code {
            200 => Ok(None),
            410 => Ok(Some(answer.json()?)),
            _ => bail!(answer.failure()),
        }
    })
    .await?;
    ensure!(expired["reason"] == "Expired", "the reason: {expired}");
    let token = expired["metadata"]["continue"].as_str().unwrap_or_default();
    ensure!(!token.is_empty(), "no token to go on with: {expired}");
    let second = page(&templates, limit, token, limit).await?;
    ensure!(second.version != first.version, "the version of the first page");
    ensure!(second.items == limit, "{} items, not {limit}", second.items);
    rest(&templates, limit, second, limit).await?;
    // The old token stays expired.
    let old: Result<Value> = templates.client.get(&path).await;
    refused(old, 410)?;
    Ok(())
}
