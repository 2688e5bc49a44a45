//! Every verb of every resource through the HTTP door, in the process: what is said of it in
//! discovery is done, what is not is refused.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use wasmfleet::api::registry::Registry;

use super::{Row, Served, rows, same_resources, served, subresources};
use crate::api::{Answer, Cluster, version};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

pub(super) async fn patch(cluster: &Cluster, path: &str, media: &str, body: &Value) -> Answer {
    let media = format!("application/{media}");
    cluster.send("PATCH", path, &[("content-type", media.as_str())], body.to_string()).await
}

/// The JSON of an answer that must have this code.
pub(super) fn answered(answer: Answer, code: u16) -> Result<Value> {
    ensure!(answer.code == code, "{} instead of {code}: {}", answer.code, answer.text());
    Ok(serde_json::from_slice(&answer.body)?)
}

async fn documents(cluster: &Cluster) -> Vec<(String, Value)> {
    let groups = cluster.get("/apis").await.expect(200);
    let groups = groups["groups"].as_array().unwrap().iter();
    let versions = groups.flat_map(|group| group["versions"].as_array().unwrap().clone());
    let versions: Vec<String> =
        versions.map(|one| one["groupVersion"].as_str().unwrap().to_string()).collect();
    let mut documents = vec![("v1".to_string(), cluster.get("/api/v1").await.expect(200))];
    for one in versions {
        let document = cluster.get(&format!("/apis/{one}")).await.expect(200);
        documents.push((one, document));
    }
    documents
}

#[tokio::test(start_paused = true)]
async fn every_verb_of_every_resource() {
    let cluster = Cluster::new().await;
    let rows = rows();
    // The kind of a user is there when discovery is asked, and gone when its own row begins.
    let mut definition = rows[0].object.clone().unwrap();
    definition["kind"] = json!("CustomResourceDefinition");
    definition["apiVersion"] = json!("apiextensions.k8s.io/v1");
    cluster.post(DEFINITIONS, &definition).await.expect(201);
    let served = served(&documents(&cluster).await);
    same_resources(&rows, &served);
    cluster.delete(&format!("{DEFINITIONS}/{}", rows[0].name()), &json!({})).await.expect(200);

    let mut faults = Vec::new();
    for row in &rows {
        let resource = &served[&row.resource];
        let found = match &row.object {
            None => computed(&cluster, row, resource).await,
            Some(_) if !resource.has("get") => question(&cluster, row, resource).await,
            Some(_) => stored(&cluster, row, resource).await,
        };
        faults.extend(found.err().map(|why| format!("{}: {why:#}", row.resource)));
    }
    // The other way round, since some are there for others.
    for row in rows.iter().rev().filter(|row| served[&row.resource].has("delete")) {
        let found = deleted(&cluster, row, &served[&row.resource]).await;
        faults.extend(found.err().map(|why| format!("{}: {why:#}", row.resource)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Only created, and answered with a status.
async fn question(cluster: &Cluster, row: &Row, served: &Served) -> Result<()> {
    ensure!(served.verbs == ["create"], "verbs {:?}", served.verbs);
    let body = row.manifest(served);
    let answer = answered(cluster.post(&served.path(), &body).await, 201)?;
    ensure!(answer["kind"] == served.kind && answer["status"].is_object(), "{answer}");
    let table = [("accept", TABLE)];
    let asked = cluster.send("POST", &served.path(), &table, body.to_string()).await;
    answered(asked, 406).context("as a table")?;
    answered(cluster.get(&served.path()).await, 405).context("list")?;
    strict(cluster, row, served).await
}

/// Only read.
async fn computed(cluster: &Cluster, row: &Row, served: &Served) -> Result<()> {
    let list = answered(cluster.get(&served.path()).await, 200)?;
    if served.verbs == ["get", "list"] {
        // Asked of nodes, and there are none here.
        ensure!(list["kind"] == format!("{}List", served.kind), "{list}");
        ensure!(list["items"] == json!([]), "{list}");
        answered(cluster.get(&format!("{}?watch=1", served.path())).await, 405)?;
        return answered(cluster.get(&format!("{}/x", served.path())).await, 404).map(drop);
    }
    ensure!(served.verbs == ["get", "list", "watch"], "verbs {:?}", served.verbs);
    let name = list["items"][0]["metadata"]["name"].as_str().context("an object")?.to_string();
    read(cluster, row, served, &name).await?;
    fields(cluster, row, served, &name).await?;
    answered(cluster.post(&served.path(), &json!({"metadata": {"name": "x"}})).await, 405)?;
    answered(cluster.delete(&format!("{}/{name}", served.path()), &json!({})).await, 405)?;
    Ok(())
}

async fn stored(cluster: &Cluster, row: &Row, served: &Served) -> Result<()> {
    let (path, name) = (served.path(), row.name());
    let own = format!("{path}/{name}");
    let body = row.manifest(served);
    strict(cluster, row, served).await.context("strict")?;
    let mut other = body.clone();
    other["kind"] = json!("Other");
    answered(cluster.post(&path, &other).await, 400).context("another kind")?;
    let dry = cluster.post(&format!("{path}?dryRun=All"), &body).await;
    answered(dry, 201).context("dry run")?;
    answered(cluster.get(&own).await, 404).context("after a dry run")?;
    let made = answered(cluster.post(&path, &body).await, 201).context("create")?;
    ensure!(made["metadata"]["uid"].is_string() && version(&made) > 0, "created {made}");
    let again = answered(cluster.post(&path, &body).await, 409).context("create again")?;
    ensure!(again["reason"] == "AlreadyExists", "{again}");
    let object = answered(cluster.get(&own).await, 200).context("get")?;
    // What a definition became is written after it.
    if served.kind != "CustomResourceDefinition" {
        ensure!(object == made, "what is read is not what was answered: {object}\n{made}");
    }

    let unchanged = answered(cluster.put(&own, &object).await, 200).context("update")?;
    ensure!(unchanged == object, "an update without a change changes {object}\nto {unchanged}");
    read(cluster, row, served, name).await?;
    fields(cluster, row, served, name).await?;

    let label = |by: &str| json!({"metadata": {"labels": { by: "1" }}});
    let merged = patch(cluster, &own, "merge-patch+json", &label("merge")).await;
    let mut seen = version(&answered(merged, 200).context("merge patch")?);
    let add = json!([{"op": "add", "path": "/metadata/labels/json", "value": "1"}]);
    let changed = answered(patch(cluster, &own, "json-patch+json", &add).await, 200);
    let changed = changed.context("JSON patch")?;
    ensure!(version(&changed) > seen, "a JSON patch that changes nothing");
    seen = version(&changed);
    let strategic = patch(cluster, &own, "strategic-merge-patch+json", &label("strategic")).await;
    if served.group_version.contains("example.com") {
        answered(strategic, 415).context("strategic patch")?;
    } else {
        let changed = answered(strategic, 200).context("strategic patch")?;
        ensure!(version(&changed) > seen, "a strategic patch that changes nothing");
    }
    let mut applied = label("apply");
    applied["metadata"]["name"] = json!(name);
    applied["kind"] = json!(served.kind);
    applied["apiVersion"] = json!(served.group_version);
    let apply = format!("{own}?fieldManager=rows");
    let object = answered(patch(cluster, &apply, "apply-patch+yaml", &applied).await, 200);
    let object = object.context("apply")?;
    for by in ["merge", "json", "apply"] {
        ensure!(object["metadata"]["labels"][by] == "1", "no label {by}: {object}");
    }
    let entries = object["metadata"]["managedFields"].as_array().context("managedFields")?;
    let entry = entries.iter().find(|entry| entry["manager"] == "rows").context("an entry")?;
    let owned = json!({"f:metadata": {"f:labels": {"f:apply": {}}}});
    ensure!(entry["fieldsV1"] == owned, "owned by the applier: {}", entry["fieldsV1"]);
    answered(cluster.put(&own, &made).await, 409).context("update of an old version")?;
    for part in served.parts.keys() {
        subresources::exercise(cluster, served, &own, part).await.context(part.clone())?;
    }
    Ok(())
}

/// An unknown field is told to those who want to know.
async fn strict(cluster: &Cluster, row: &Row, served: &Served) -> Result<()> {
    let mut body = row.manifest(served);
    body["bogus"] = json!(1);
    let path = format!("{}?fieldValidation=Strict", served.path());
    let told = answered(cluster.post(&path, &body).await, 400)?;
    let message = told["message"].as_str().unwrap_or_default();
    ensure!(message.contains("strict decoding error: unknown field \"bogus\""), "{message}");
    Ok(())
}

/// Get, list and watch, in all forms.
async fn read(cluster: &Cluster, row: &Row, served: &Served, name: &str) -> Result<()> {
    let own = format!("{}/{name}", served.path());
    let form = async |path: &str, media: &str| {
        answered(cluster.send("GET", path, &[("accept", media)], "").await, 200)
    };
    let list = answered(cluster.get(&served.path()).await, 200).context("list")?;
    ensure!(list["kind"] == format!("{}List", served.kind), "a list of {}", list["kind"]);
    let items = list["items"].as_array().context("items")?;
    ensure!(items.iter().any(|item| item["metadata"]["name"] == name), "not in the list");
    for path in [own.as_str(), &served.path()] {
        let table = form(path, TABLE).await.context("as a table")?;
        let columns = table["columnDefinitions"].as_array().context("columns")?;
        let columns = columns.iter().map(|one| {
            let text = |field: &str| one[field].as_str().unwrap_or_default().to_string();
            (text("name"), text("type"), one["priority"].as_i64().unwrap_or(-1))
        });
        let columns: Vec<_> = columns.collect();
        ensure!(columns == row.column_rows(), "columns {columns:?}");
        let rows = table["rows"].as_array().context("rows")?;
        let here = rows.iter().find(|one| one["object"]["metadata"]["name"] == name);
        let cells = here.context("no row")?["cells"].as_array().context("cells")?.len();
        ensure!(cells == columns.len(), "{cells} cells");
    }
    let metadata = form(&own, METADATA).await.context("as metadata")?;
    ensure!(metadata["kind"] == "PartialObjectMetadata" && metadata["spec"].is_null());
    let path = format!("{}?watch=1&timeoutSeconds=1", served.path());
    let watch = cluster.get(&path).await;
    ensure!(watch.code == 200, "watch: {}", watch.text());
    let seen = watch.text().lines().map(serde_json::from_str::<Value>);
    let seen = seen.collect::<Result<Vec<_>, _>>()?;
    let added = seen.iter().find(|event| event["object"]["metadata"]["name"] == name);
    ensure!(added.is_some_and(|event| event["type"] == "ADDED"), "watch: {}", watch.text());
    Ok(())
}

/// Selectable fields are those of the table; others are refused with upstream's words.
async fn fields(cluster: &Cluster, row: &Row, served: &Served, name: &str) -> Result<()> {
    let builtin = Registry::builtin();
    let (group, version) =
        served.group_version.split_once('/').unwrap_or(("", &served.group_version));
    if let Some(info) = builtin.by_url(group, version, &served.plural) {
        let mut known: Vec<&str> = info.selectable.iter().map(|field| &**field).collect();
        known.sort_unstable();
        let listed: Vec<&str> = row.fields.keys().map(String::as_str).collect();
        ensure!(known == listed, "selectable: {known:?}");
    }
    let select = async |selector: &str| {
        cluster.get(&format!("{}?fieldSelector={selector}", served.path())).await
    };
    let is_found = |list: &Value| {
        list["items"].as_array().unwrap().iter().any(|item| item["metadata"]["name"] == name)
    };
    let by_name = format!("metadata.name={name}");
    let equal = row.fields.iter().map(|(field, value)| format!("{field}={value}"));
    for selector in equal.chain([by_name.clone()]) {
        let list = answered(select(&selector.replace('=', "%3D")).await, 200).context("select")?;
        ensure!(is_found(&list), "not found by {selector}");
        let unequal = selector.replace('=', "!%3D");
        let list = answered(select(&unequal).await, 200).context("select")?;
        ensure!(!is_found(&list), "found by {unequal}");
    }
    let told = answered(select("spec.bogus%3Dx").await, 400).context("an unknown field")?;
    let message = if row.fields.is_empty() {
        "\"spec.bogus\" is not a known field selector: only \"metadata.name\", \
         \"metadata.namespace\""
    } else {
        "field label not supported: spec.bogus"
    };
    ensure!(told["message"] == message, "{}", told["message"]);
    Ok(())
}

/// Deleted alone, and created and deleted as a collection.
async fn deleted(cluster: &Cluster, row: &Row, served: &Served) -> Result<()> {
    let own = format!("{}/{}", served.path(), row.name());
    answered(cluster.delete(&format!("{own}?dryRun=All"), &json!({})).await, 200)?;
    answered(cluster.get(&own).await, 200).context("after a dry run")?;
    answered(cluster.delete(&own, &json!({})).await, 200).context("delete")?;
    gone(cluster, &own).await.context("delete")?;
    if !served.has("deletecollection") {
        return answered(cluster.delete(&served.path(), &json!({})).await, 405).map(drop);
    }
    let mut body = row.manifest(served);
    body["metadata"]["labels"] = json!({"set": "rows"});
    answered(cluster.post(&served.path(), &body).await, 201).context("create once more")?;
    let path = format!("{}?labelSelector=set%3Drows", served.path());
    let list = answered(cluster.delete(&path, &json!({})).await, 200);
    let list = list.context("delete a collection")?;
    ensure!(list["items"].as_array().is_some_and(|items| items.len() == 1), "{list}");
    gone(cluster, &own).await.context("delete a collection")
}

/// Gone, or on its way: nobody here takes finalizers away, so the test does.
async fn gone(cluster: &Cluster, own: &str) -> Result<()> {
    let left = cluster.get(own).await;
    if left.code == 404 {
        return Ok(());
    }
    let left = answered(left, 200)?;
    ensure!(left["metadata"]["deletionTimestamp"].is_string(), "it is still there: {left}");
    if own.starts_with("/api/v1/namespaces/") && left["kind"] == "Namespace" {
        return Ok(());
    }
    let none = json!({"metadata": {"finalizers": null}});
    answered(patch(cluster, own, "merge-patch+json", &none).await, 200)?;
    answered(cluster.get(own).await, 404).map(drop)
}
