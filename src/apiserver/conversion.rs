//! Custom resources whose versions a webhook makes into each other (ConversionReview v1;
//! k8s.io/apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go).
//!
//! Objects are stored in the storage version of the day they were written. What is read in another
//! version is converted before anything else looks at it, selectors too; what is written in another
//! one is converted last. The webhook decides about everything but metadata, of which it may change
//! labels and annotations only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as ext;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::service::{ApiServer, Call, Stored};
use super::webhooks::Caller;
use super::{versions, write};
use crate::api::custom::definition::webhook_client;
use crate::api::registry::Registry;
use crate::api::resource::{KindInfo, Operation};
use crate::api::{ApiError, Object, Raw, meta};
use crate::store::{Change, Entry, Event, Value as StoreValue};

/// How long a webhook may take; upstream's, which definitions cannot change.
const TIMEOUT_SECONDS: u64 = 30;
/// How much one review asks for.
const MAX_REVIEW_OBJECTS: usize = 500;
const MAX_REVIEW_BYTES: usize = 2 << 20;
const GROUP: &str = "apiextensions.k8s.io";
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

/// The ways to the webhooks of definitions, made when they are first needed.
#[derive(Default)]
pub struct Conversions(Mutex<HashMap<(String, String), Arc<Way>>>);

struct Way {
    conversion: Arc<ext::WebhookConversion>,
    caller: Caller,
}

impl Conversions {
    fn way(&self, info: &KindInfo, conversion: &Arc<ext::WebhookConversion>) -> Arc<Way> {
        let key = (info.gvr.group.to_string(), info.gvr.resource.to_string());
        let mut ways = self.0.lock();
        match ways.get(&key) {
            Some(way) if Arc::ptr_eq(&way.conversion, conversion) => way.clone(),
            _ => {
                let client =
                    conversion.client_config.as_ref().map(webhook_client).unwrap_or_default();
                let (conversion, caller) = (conversion.clone(), Caller::of(&client));
                let way = Arc::new(Way { conversion, caller });
                ways.insert(key, way.clone());
                way
            }
        }
    }

    /// Forgets the ways of what is not served any more.
    pub fn keep(&self, registry: &Registry) {
        let mut ways = self.0.lock();
        if !ways.is_empty() {
            ways.retain(|(group, resource), _| {
                registry.rows().iter().any(|row| {
                    by_webhook(row).is_some()
                        && row.gvr.group == *group
                        && row.gvr.resource == *resource
                })
            });
        }
    }
}

/// Who converts the objects of a row, if it is a webhook.
pub fn by_webhook(info: &KindInfo) -> Option<&Arc<ext::WebhookConversion>> {
    info.custom.as_ref().and_then(|custom| custom.conversion.as_ref())
}

impl ApiServer {
    /// Stored bytes in the version of a row, where a webhook makes it; else as they are.
    pub(super) async fn converted_raws(
        &self,
        info: &KindInfo,
        mut raws: Vec<Bytes>,
    ) -> Result<Vec<Bytes>, ApiError> {
        if by_webhook(info).is_none() {
            return Ok(raws);
        }
        let (mut places, mut objects) = (Vec::new(), Vec::new());
        for (place, raw) in raws.iter().enumerate() {
            if !versions::is_own(info, raw) {
                places.push(place);
                objects.push(Raw(raw.clone()).object()?);
            }
        }
        let made = self.converted(info, &info.gvr.api_version(), objects).await?;
        for (place, object) in places.into_iter().zip(made) {
            raws[place] = pruned(info, object)?.to_json().into();
        }
        Ok(raws)
    }

    /// Entries with the values that a row has of them.
    pub(super) async fn convert_entries(
        &self,
        info: &KindInfo,
        entries: &mut [Entry],
    ) -> Result<(), ApiError> {
        if by_webhook(info).is_none() {
            return Ok(());
        }
        let raws = entries.iter().map(|entry| entry.value.clone()).collect();
        for (entry, made) in entries.iter_mut().zip(self.converted_raws(info, raws).await?) {
            entry.value = made;
        }
        Ok(())
    }

    /// One of them.
    pub(super) async fn converted_raw(
        &self,
        info: &KindInfo,
        raw: Bytes,
    ) -> Result<Bytes, ApiError> {
        if by_webhook(info).is_none() {
            return Ok(raw);
        }
        let made = self.converted_raws(info, vec![raw]).await?;
        Ok(made.into_iter().next().unwrap_or_default())
    }

    /// The stored object in the version that was asked for.
    pub(super) async fn stored_as_asked(&self, call: &Call) -> Result<Stored, ApiError> {
        if by_webhook(&call.info).is_none() {
            return self.stored(call);
        }
        let entry = self.entry(call)?;
        let raw = self.converted_raw(&call.info, entry.value.clone()).await?;
        let object = versions::shown(&call.info, Raw(raw).object()?);
        Ok(Stored { entry, object })
    }

    /// What is stored of an object.
    pub(super) async fn stored_form(
        &self,
        info: &KindInfo,
        object: &Object,
    ) -> Result<StoreValue, ApiError> {
        let Some(stored) = info.stored.as_ref().filter(|_| by_webhook(info).is_some()) else {
            return Ok(versions::stored_form(info, object));
        };
        let version = stored.gvr.api_version();
        if object.api_version() == version {
            return Ok(write::spliced(object));
        }
        let made = Box::pin(self.converted(info, &version, vec![object.clone()])).await?;
        let Some(made) = made.into_iter().next() else {
            return Err(ApiError::internal("a conversion without a result"));
        };
        // A storage version that is not served has no rules here; its readers prune what they read.
        match self.registry().by_gvr(&stored.gvr) {
            Some(row) => Ok(write::spliced(&pruned(row, made)?)),
            None => Ok(write::spliced(&made)),
        }
    }

    /// Events whose objects are of the row's version.
    pub(super) async fn converted_events(
        &self,
        info: &KindInfo,
        mut events: Vec<Event>,
    ) -> Result<Vec<Event>, ApiError> {
        if by_webhook(info).is_none() {
            return Ok(events);
        }
        let mut parts: Vec<&mut Bytes> = Vec::new();
        for event in &mut events {
            match &mut event.change {
                Change::Put { value, previous } => {
                    parts.push(value);
                    parts.extend(previous.as_mut());
                }
                Change::Delete { last, previous } => parts.extend([last, previous]),
            }
        }
        let raws = parts.iter().map(|part| (**part).clone()).collect();
        for (part, made) in parts.into_iter().zip(self.converted_raws(info, raws).await?) {
            *part = made;
        }
        Ok(events)
    }

    /// Objects in another version, in their order; those that are of it stay as they are.
    async fn converted(
        &self,
        info: &KindInfo,
        version: &str,
        mut objects: Vec<Object>,
    ) -> Result<Vec<Object>, ApiError> {
        let Some(conversion) = by_webhook(info) else { return Ok(objects) };
        let way = self.conversions.way(info, conversion);
        let others: Vec<usize> =
            (0..objects.len()).filter(|place| objects[*place].api_version() != version).collect();
        let mut rest = &others[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |place: &&usize| {
                bytes += objects[**place].to_json().len();
                bytes <= MAX_REVIEW_BYTES
            };
            let count = rest.iter().take(MAX_REVIEW_OBJECTS).take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            let asked: Vec<&Object> = now.iter().map(|place| &objects[*place]).collect();
            let made = self.ask_conversion(&way, version, &asked).await.map_err(|why| {
                let from = asked.first().map_or("", |object| object.api_version());
                let kind = &info.kind;
                ApiError::internal(format!("conversion webhook for {from}, Kind={kind} {why}"))
            })?;
            for (place, made) in now.iter().zip(made) {
                objects[*place] = made;
            }
            rest = later;
        }
        Ok(objects)
    }

    /// Asks once. The error is what the webhook did, after its name.
    async fn ask_conversion(
        &self,
        way: &Way,
        version: &str,
        objects: &[&Object],
    ) -> Result<Vec<Object>, String> {
        let failed = |why: &dyn std::fmt::Display| format!("failed: {why}");
        let liked = way.conversion.conversion_review_versions.iter();
        let review_version = liked.map(String::as_str).find(|v| REVIEW_VERSIONS.contains(v));
        let Some(review_version) = review_version else {
            return Err(failed(&"the server supports no version of ConversionReview that it does"));
        };
        let api_version = format!("{GROUP}/{review_version}");
        let uid = self.ids.uid();
        let asked: Vec<_> = objects.iter().map(|object| object.fields()).collect();
        let review = json!({"kind": "ConversionReview", "apiVersion": api_version,
            "request": {"uid": uid, "desiredAPIVersion": version, "objects": asked}});
        let body = Bytes::from(review.to_string());
        let call = way.caller.post(self, body, TIMEOUT_SECONDS);
        let answer = timeout(Duration::from_secs(TIMEOUT_SECONDS), call).await;
        let answer = answer.unwrap_or_else(|_| Err("context deadline exceeded".into()));
        let answer = answer.map_err(|why| {
            failed(&format!("Post \"{}\": {why}", way.caller.url(TIMEOUT_SECONDS)))
        })?;
        let made = read(&answer, &api_version, &uid).map_err(|why| failed(&why))?;
        if made.len() != objects.len() {
            let (found, wanted) = (made.len(), objects.len());
            return Err(format!("returned {found} objects, expected {wanted}"));
        }
        let checked = made.into_iter().zip(objects).enumerate().map(|(index, (made, original))| {
            restored(made, original, version)
                .map_err(|why| format!("returned invalid converted object at index {index}: {why}"))
        });
        checked.collect()
    }
}

/// Without what the row's schema does not know, and with its defaults.
fn pruned(info: &KindInfo, object: Object) -> Result<Object, ApiError> {
    Ok(info.rules.decode(object.into_value(), None, Operation::Create)?.object)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    response: Option<Response>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    converted_objects: Option<Vec<Value>>,
    #[serde(default)]
    result: Outcome,
}

#[derive(Default, Deserialize)]
struct Outcome {
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
}

/// The objects of an answer; the error is why it is none.
fn read(answer: &[u8], api_version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let review: Review = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    if review.kind != "ConversionReview" || review.api_version != api_version {
        let (found, kind) = (review.api_version, review.kind);
        return Err(format!(
            "expected webhook response of {api_version}, Kind=ConversionReview, got {found}, \
             Kind={kind}"
        ));
    }
    let response = review.response.ok_or("no response provided")?;
    if response.uid != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", response.uid));
    }
    let Outcome { status, message } = response.result;
    match (status.as_str(), message.as_str()) {
        ("Success", _) => Ok(response.converted_objects.unwrap_or_default()),
        ("Failure", "") => Err("response.result.status was 'Failure', expected 'Success'".into()),
        ("Failure", message) => Err(message.into()),
        _ => Err(format!("response.result.status was '{status}', expected 'Success'")),
    }
}

/// The converted object with the metadata that it had, but for labels and annotations.
fn restored(made: Value, original: &Object, version: &str) -> Result<Object, String> {
    let mut made = Object::from_value(made).map_err(|error| error.message)?;
    meta::check_types(&made).map_err(|error| error.message)?;
    if made.api_version() != version {
        let found = made.api_version();
        return Err(format!("invalid groupVersion (expected {version}, received {found})"));
    }
    for (what, before, after) in [
        ("kind", original.kind(), made.kind()),
        ("name", original.name(), made.name()),
        ("namespace", original.namespace(), made.namespace()),
        ("UID", original.uid(), made.uid()),
    ] {
        if before != after {
            return Err(format!("must have the same {what}: {before} != {after}"));
        }
    }
    let mut metadata = original.meta().clone();
    for field in ["labels", "annotations"] {
        match made.meta().get(field) {
            Some(found) => {
                let is_text = |value: &Value| value.is_string();
                if !found.as_object().is_some_and(|texts| texts.values().all(is_text)) {
                    return Err(format!("invalid metadata: {field} must be a map of texts"));
                }
                metadata.insert(field.into(), found.clone())
            }
            None => metadata.remove(field),
        };
    }
    *made.meta_mut() = metadata;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(change: impl FnOnce(&mut Value)) -> Result<Vec<Value>, String> {
        let mut review = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "response": {"uid": "u", "convertedObjects": [{"a": 1}],
                "result": {"status": "Success"}}});
        change(&mut review);
        read(review.to_string().as_bytes(), "apiextensions.k8s.io/v1", "u")
    }

    #[test]
    fn answers_are_checked() {
        assert_eq!(answer(|_| {}), Ok(vec![json!({"a": 1})]));
        let refused = |change: fn(&mut Value)| answer(change).unwrap_err();
        assert_eq!(
            refused(|review| review["response"]["uid"] = "v".into()),
            "expected response.uid=\"u\", got \"v\""
        );
        assert!(refused(|review| review["kind"] = "Other".into()).contains("Kind=Other"));
        assert_eq!(refused(|review| review["response"] = Value::Null), "no response provided");
        let result = |review: &mut Value, result: Value| review["response"]["result"] = result;
        assert_eq!(
            answer(|review| result(review, json!({"status": "Failure", "message": "why"}))),
            Err("why".into())
        );
        assert!(answer(|review| result(review, json!({}))).unwrap_err().contains("was ''"));
        assert!(read(b"{", "", "").is_err());
    }

    #[test]
    fn only_labels_and_annotations_of_the_metadata_change() {
        let object = |value: Value| Object::from_value(value).unwrap();
        let original =
            object(json!({"kind": "A", "apiVersion": "b.c/v1", "metadata": {"name": "n",
            "uid": "u", "labels": {"a": "b"}, "finalizers": ["f"], "resourceVersion": "3"}}));
        let made = json!({"kind": "A", "apiVersion": "b.c/v2", "spec": 1, "metadata": {"name": "n",
            "uid": "u", "annotations": {"c": "d"}, "resourceVersion": "9"}});
        let fine = restored(made.clone(), &original, "b.c/v2").unwrap().into_value();
        assert_eq!(
            fine["metadata"],
            json!({"name": "n", "uid": "u", "annotations": {"c": "d"},
            "finalizers": ["f"], "resourceVersion": "3"})
        );
        for (pointer, value, why) in [
            ("/apiVersion", json!("b.c/v3"), "invalid groupVersion"),
            ("/kind", json!("B"), "must have the same kind: A != B"),
            ("/metadata/name", json!("m"), "must have the same name: n != m"),
            ("/metadata/uid", json!("v"), "must have the same UID: u != v"),
            ("/metadata/labels", json!(7), "labels"),
            ("/metadata", json!("x"), "metadata"),
        ] {
            let mut other = made.clone();
            match other.pointer_mut(pointer) {
                Some(place) => *place = value,
                None => other["metadata"]["labels"] = value,
            }
            let refused = restored(other, &original, "b.c/v2").unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
