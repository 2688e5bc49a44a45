//! The form that about thirty of upstream's tests have: "should support … API operations". A kind
//! is shown by discovery, then created, read, listed, watched, patched, updated, its status too,
//! deleted, and deleted as a collection.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Collection, Context, Patch, eventually, refused};

/// What differs between kinds.
pub struct Subject<'a> {
    /// `apps/v1/deployments`
    pub resource: &'a str,
    pub kind: &'a str,
    pub namespaced: bool,
    /// Beside the resource itself, what discovery must list: `["status"]`.
    pub subresources: &'a [&'a str],
    /// All but type, name and label.
    pub object: Value,
    /// A merge patch, beside an annotation; the answer must have it.
    pub patch: Value,
    /// Merged into what is read and written with PUT; the answer must have it.
    pub update: Value,
    pub status: Option<Status>,
}

/// What is done to `/status`: values of the field `status`. In an update, lists are appended to.
pub struct Status {
    pub patch: Value,
    pub update: Value,
}

/// Whether a value has all that another one has; of a list of objects, each item in any place.
pub fn includes(have: &Value, want: &Value) -> bool {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => {
            want.iter().all(|(key, want)| includes(have.get(key).unwrap_or(&Value::Null), want))
        }
        (Value::Array(have), Value::Array(want)) if want.iter().any(Value::is_object) => {
            want.iter().all(|want| have.iter().any(|have| includes(have, want)))
        }
        (have, want) => have == want,
    }
}

/// The same as an assertion.
pub fn ensure_includes(have: &Value, want: &Value) -> Result<()> {
    ensure!(includes(have, want), "{want} is not in {have}");
    Ok(())
}

/// Merges as a merge patch does, but appends to lists.
fn merge_and_append(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge_and_append(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from.iter().cloned()),
        (into, from) => *into = from.clone(),
    }
}

/// Groups, versions and resources of discovery show it.
pub async fn is_discovered(
    context: &Context,
    resource: &str,
    kind: &str,
    namespaced: bool,
    subresources: &[&str],
) -> Result<()> {
    let (group_version, plural) = resource.rsplit_once('/').context("group/version/resource")?;
    let client = &context.client;
    let root = match group_version.split_once('/') {
        Some((group, version)) => {
            let has = |value: &Value| includes(value, &json!([{ "version": version }]));
            let groups = client.get("/apis").await?;
            let listed = groups["groups"].as_array().context("groups")?;
            let listed = listed.iter().find(|g| g["name"] == group).context("not in /apis")?;
            ensure!(has(&listed["versions"]), "{version} is not in /apis: {listed}");
            let own = client.get(&format!("/apis/{group}")).await?;
            ensure!(has(&own["versions"]), "{version} is not in /apis/{group}: {own}");
            format!("/apis/{group_version}")
        }
        None => format!("/api/{group_version}"),
    };
    let resources = client.get(&root).await?;
    let row = json!({"name": plural, "kind": kind, "namespaced": namespaced});
    ensure_includes(&resources["resources"], &json!([row]))?;
    for subresource in subresources {
        let row = json!({"name": format!("{plural}/{subresource}")});
        ensure_includes(&resources["resources"], &json!([row]))?;
    }
    Ok(())
}

/// Does all of it.
pub async fn run(context: &Context, subject: &Subject<'_>) -> Result<()> {
    let Subject { resource, kind, namespaced, .. } = *subject;
    is_discovered(context, resource, kind, namespaced, subject.subresources).await?;
    let objects = if namespaced { context.own(resource) } else { context.all(resource) };
    let group_version = resource.rsplit_once('/').context("group/version/resource")?.0;
    let label = context.unique("operations");
    let selector = format!("conformance-label={label}");
    let mut template = subject.object.clone();
    template["apiVersion"] = group_version.into();
    template["kind"] = kind.into();
    template["metadata"]["labels"]["conformance-label"] = label.as_str().into();
    let mut names = Vec::new();
    let mut created = Value::Null;
    for _ in 0..3 {
        // Not generateName alone: cases may run against one server at once.
        template["metadata"]["name"] = context.unique("conformance").into();
        created = objects.create(&template).await.context("creating")?;
        let name = created["metadata"]["name"].as_str().context("a name")?;
        if !namespaced {
            context.remove_later(&objects, name);
        }
        names.push(name.to_string());
    }
    let name = names[2].as_str();
    let read = objects.get(name).await.context("getting")?;
    ensure!(read["metadata"]["uid"] == created["metadata"]["uid"], "another uid: {read}");
    ensure!(read["kind"] == kind && read["apiVersion"] == group_version, "its type: {read}");
    ensure!(version(&read) > 0, "no version: {read}");
    let list = objects.list(&[("labelSelector", &selector)]).await.context("listing")?;
    let found = list["items"].as_array().map_or(0, Vec::len);
    ensure!(found == 3, "{found} in the list, not 3: {list}");
    ensure!(list["kind"] == format!("{kind}List"), "the list's kind: {}", list["kind"]);
    if namespaced {
        let found = context.all(resource).items_labelled(&selector).await?.len();
        ensure!(found == 3, "{found} in the list of all namespaces, not 3");
    }
    let from = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let query = [("labelSelector", selector.as_str()), ("resourceVersion", from)];
    let mut watch = objects.watch(&query).await.context("watching")?;
    if namespaced {
        drop(context.all(resource).watch(&query).await.context("watching all namespaces")?);
    }

    let mut patch = subject.patch.clone();
    patch["metadata"]["annotations"]["patched"] = "true".into();
    let patched = objects.patch(name, Patch::Merge, &patch).await.context("patching")?;
    ensure_includes(&patched, &patch)?;
    ensure!(version(&patched) > version(&created), "a patch that gives no later version");
    let mut update = subject.update.clone();
    update["metadata"]["annotations"]["updated"] = "true".into();
    let updated = objects.update(name, |object| json_patch::merge(object, &update)).await;
    ensure_includes(&updated.context("updating")?, &update)?;
    for annotation in ["patched", "updated"] {
        while watch.expect("MODIFIED").await?["metadata"]["annotations"][annotation] != "true" {}
    }
    if let Some(status) = &subject.status {
        status_verbs(&objects, name, &created, status).await.context("status")?;
    }

    objects.delete(name).await.context("deleting")?;
    gone(&objects, name).await?;
    let deleted = watch.until("DELETED", |_| true).await?;
    ensure!(deleted["metadata"]["name"] == name, "another one was deleted: {deleted}");
    let left = objects.items_labelled(&selector).await?.len();
    ensure!(left == 2, "{left} in the list, not 2");
    objects.delete_collection(&query[..1]).await.context("deleting the collection")?;
    eventually("the collection's end", async || {
        Ok(objects.items_labelled(&selector).await?.is_empty().then_some(()))
    })
    .await?;
    for _ in 0..2 {
        watch.until("DELETED", |_| true).await?;
    }
    Ok(())
}

async fn status_verbs(
    objects: &Collection,
    name: &str,
    created: &Value,
    status: &Status,
) -> Result<()> {
    let path = format!("{name}/status");
    let read = objects.get(&path).await?;
    ensure!(read["kind"] == created["kind"], "the kind of /status: {read}");
    ensure!(read["apiVersion"] == created["apiVersion"], "the version of /status: {read}");
    ensure!(read["metadata"]["uid"] == created["metadata"]["uid"], "another uid: {read}");
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": status.patch});
    let patched = objects.patch(&path, Patch::Merge, &patch).await.context("patching")?;
    ensure_includes(&patched, &patch)?;
    let updated = objects.update(&path, |object| {
        merge_and_append(&mut object["status"], &status.update);
    });
    ensure_includes(&updated.await.context("updating")?["status"], &status.update)
}

/// The object is gone, at once or after its finalizers.
pub async fn gone(objects: &Collection, name: &str) -> Result<()> {
    eventually(&format!("the end of {name}"), async || match objects.get(name).await {
        Ok(_) => Ok(None),
        gone => refused(gone, 404).map(Some),
    })
    .await?;
    Ok(())
}

/// A resource version as the number that it is (KEP-5504).
pub fn version(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}
