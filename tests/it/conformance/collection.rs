//! One collection of objects (a resource in a namespace or in the cluster) with the verbs of the
//! API. A name may have a subresource behind it: `"web/status"`.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::BodyExt;
use serde_json::Value;

use super::client::{Answer, Client, Failure};

/// The longest wait for one event that must come.
const EVENT_PATIENCE: Duration = Duration::from_secs(60);
/// The longest line of a watch.
const MAX_EVENT_BYTES: usize = 8 << 20;
/// Tries of an update that meets other writers.
const UPDATE_TRIES: usize = 20;

/// Parameters of a request, still to be encoded.
pub type Query<'a> = &'a [(&'a str, &'a str)];

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Patch {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Patch {
    fn content_type(self) -> &'static str {
        match self {
            Patch::Json => "application/json-patch+json",
            Patch::Merge => "application/merge-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
            Patch::Apply => "application/apply-patch+yaml",
        }
    }
}

#[derive(Clone)]
pub struct Collection {
    pub client: Client,
    /// `/apis/apps/v1/namespaces/x/deployments`
    pub path: String,
}

/// A path with a query.
pub fn with_query(path: &str, query: Query) -> String {
    let encoded = |text: &str| -> String {
        let byte = |b: u8| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        };
        text.bytes().map(byte).collect()
    };
    let pairs: Vec<String> =
        query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    if pairs.is_empty() { path.to_string() } else { format!("{path}?{}", pairs.join("&")) }
}

impl Collection {
    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// A request with a JSON body, and its answer whatever it is.
    pub async fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Answer> {
        let headers = [("content-type", kind), ("accept", "application/json")];
        self.client.send(method, path, &headers, body.to_string().into_bytes()).await
    }

    async fn sent(&self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Value> {
        self.send(method, path, kind, body).await?.ok()?.json()
    }

    pub async fn create(&self, object: &Value) -> Result<Value> {
        self.create_with(&[], object).await
    }

    pub async fn create_with(&self, query: Query<'_>, object: &Value) -> Result<Value> {
        let path = with_query(&self.path, query);
        let answer = self.send("POST", &path, "application/json", object).await?.ok()?;
        ensure!(answer.code == 201, "POST {path} → {}; expected: 201", answer.code);
        answer.json()
    }

    /// POST to an object's subresource, such as `"web/eviction"`.
    pub async fn create_at(&self, name: &str, object: &Value) -> Result<Value> {
        self.sent("POST", &self.at(name), "application/json", object).await
    }

    pub async fn get(&self, name: &str) -> Result<Value> {
        self.client.get(&self.at(name)).await
    }

    pub async fn list(&self, query: Query<'_>) -> Result<Value> {
        let list = self.client.get(&with_query(&self.path, query)).await?;
        ensure!(list["metadata"]["resourceVersion"].is_string(), "a list without a version");
        Ok(list)
    }

    /// The objects of a list.
    pub async fn items(&self, query: Query<'_>) -> Result<Vec<Value>> {
        let list = self.list(query).await?;
        Ok(list["items"].as_array().context("a list without items")?.clone())
    }

    pub async fn items_labelled(&self, selector: &str) -> Result<Vec<Value>> {
        self.items(&[("labelSelector", selector)]).await
    }

    /// PUT of an object, by its name.
    pub async fn replace(&self, object: &Value) -> Result<Value> {
        let name = object["metadata"]["name"].as_str().context("an object without a name")?;
        self.replace_at(name, object).await
    }

    /// PUT, also of a subresource.
    pub async fn replace_at(&self, name: &str, object: &Value) -> Result<Value> {
        self.sent("PUT", &self.at(name), "application/json", object).await
    }

    /// Reads, changes and writes an object, once more if another writer was faster.
    pub async fn update(&self, name: &str, mut change: impl FnMut(&mut Value)) -> Result<Value> {
        for _ in 0..UPDATE_TRIES {
            let mut object = self.get(name).await?;
            change(&mut object);
            match self.replace_at(name, &object).await {
                Err(e) if e.downcast_ref::<Failure>().is_some_and(|f| f.code == 409) => {}
                other => return other,
            }
        }
        bail!("{name}: conflicts at each of {UPDATE_TRIES} updates")
    }

    pub async fn patch(&self, name: &str, form: Patch, patch: &Value) -> Result<Value> {
        self.patch_with(name, &[], form, patch).await
    }

    pub async fn patch_with(
        &self,
        name: &str,
        query: Query<'_>,
        form: Patch,
        patch: &Value,
    ) -> Result<Value> {
        self.sent("PATCH", &with_query(&self.at(name), query), form.content_type(), patch).await
    }

    pub async fn delete(&self, name: &str) -> Result<Value> {
        self.delete_with(name, &Value::Object(Default::default())).await
    }

    /// With `DeleteOptions`.
    pub async fn delete_with(&self, name: &str, options: &Value) -> Result<Value> {
        self.sent("DELETE", &self.at(name), "application/json", options).await
    }

    pub async fn delete_collection(&self, query: Query<'_>) -> Result<Value> {
        self.delete_collection_with(query, &Value::Null).await
    }

    /// With `DeleteOptions`.
    pub async fn delete_collection_with(&self, query: Query<'_>, options: &Value) -> Result<Value> {
        self.sent("DELETE", &with_query(&self.path, query), "application/json", options).await
    }

    pub async fn watch(&self, query: Query<'_>) -> Result<Watch> {
        let query = [&[("watch", "true")], query].concat();
        let path = with_query(&self.path, &query);
        let response = self.client.start("GET", &path, &[], Vec::new()).await?;
        if !response.status().is_success() {
            return Err(Answer::read(format!("GET {path}"), response).await?.failure().into());
        }
        let pieces = response.into_body().into_data_stream();
        let pieces = pieces.map(|piece| piece.map_err(anyhow::Error::from)).boxed();
        Ok(Watch { pieces, read: BytesMut::new() })
    }

    /// A watch of what has this label, from now on.
    pub async fn watch_labelled(&self, selector: &str) -> Result<Watch> {
        let list = self.list(&[("labelSelector", selector)]).await?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        self.watch(&[("labelSelector", selector), ("resourceVersion", version)]).await
    }
}

#[derive(Clone, Debug)]
pub struct Event {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`
    pub kind: String,
    pub object: Value,
}

/// A watch that is open; dropping it ends it.
pub struct Watch {
    pieces: BoxStream<'static, Result<Bytes>>,
    read: BytesMut,
}

impl Watch {
    /// The next event, which must come; `None` at the watch's end.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        let next = tokio::time::timeout(EVENT_PATIENCE, self.line()).await;
        match next.with_context(|| format!("no event after {EVENT_PATIENCE:?}"))?? {
            None => Ok(None),
            Some(line) => {
                let mut event: Value = serde_json::from_slice(&line)?;
                let kind = event["type"].as_str().context("an event without a type")?.to_string();
                Ok(Some(Event { kind, object: event["object"].take() }))
            }
        }
    }

    async fn line(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.read.split_to(end + 1).freeze()));
            }
            ensure!(self.read.len() < MAX_EVENT_BYTES, "an event without an end");
            match self.pieces.next().await {
                Some(piece) => self.read.extend_from_slice(&piece?),
                None => return Ok(None),
            }
        }
    }

    /// The next event, which must be of this kind.
    pub async fn expect(&mut self, kind: &str) -> Result<Value> {
        let event = self.next().await?;
        let event = event.with_context(|| format!("the watch ended; expected: {kind}"))?;
        ensure!(event.kind == kind, "{} {}; expected: {kind}", event.kind, event.object);
        Ok(event.object)
    }

    /// Passes over events until one of this kind has what is looked for.
    pub async fn until(
        &mut self,
        kind: &str,
        mut look: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = None;
        loop {
            let event = self.next().await.with_context(|| format!("last seen: {last:?}"))?;
            let event = event.with_context(|| format!("the watch ended after {last:?}"))?;
            if event.kind == kind && look(&event.object) {
                return Ok(event.object);
            }
            ensure!(event.kind != "ERROR", "the watch failed: {}", event.object);
            last = Some(event);
        }
    }

    /// No event comes for so long.
    pub async fn stays_silent(&mut self, time: Duration) -> Result<()> {
        match tokio::time::timeout(time, self.line()).await {
            Err(_) => Ok(()),
            Ok(Ok(Some(line))) => bail!("an event that must not come: {line:?}"),
            Ok(other) => bail!("the watch ended: {other:?}"),
        }
    }
}
