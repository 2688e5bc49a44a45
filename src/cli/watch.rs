//! Watches as JSON: the events of one, and waiting until an object is as wanted.

use anyhow::bail;
use bytes::BytesMut;
use http_body_util::BodyExt;
use serde_json::Value;

use super::discovery::text;
use super::selection::Selected;
use super::session::Session;
use crate::api::ApiError;
use crate::client::remote::{Body, Query};

/// The longest event of a watch.
const MAX_EVENT_BYTES: usize = 8 << 20;

/// The events of a watch as JSON.
pub struct Events {
    body: Body,
    buffer: BytesMut,
}

impl Events {
    pub async fn open(session: &Session, path: &str, accept: &str) -> Result<Events, ApiError> {
        let body = session.remote.stream_as(path, accept).await?;
        Ok(Events { body, buffer: BytesMut::new() })
    }

    /// The type and the object of the next event; `None` when the watch ended.
    pub async fn next(&mut self) -> anyhow::Result<Option<(String, Value)>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let mut event: Value = serde_json::from_slice(&line)?;
                let kind = text(&event, "/type").to_string();
                let object = event.get_mut("object").map(Value::take).unwrap_or_default();
                if kind == "ERROR" {
                    return Err(ApiError::from_response(500, object.to_string().as_bytes()).into());
                }
                return Ok(Some((kind, object)));
            }
            if self.buffer.len() > MAX_EVENT_BYTES {
                bail!("an event of the watch is too long");
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

/// Shows an object to `look` until that answers: as it is now, and after each change; `None` when
/// it does not exist (any more). A watch that ends or is too old is opened again.
pub async fn until<T>(
    session: &Session,
    one: &Selected,
    namespace: Option<&str>,
    mut look: impl FnMut(Option<&Value>) -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    loop {
        let live = match session.get_json(&one.path(namespace)).await {
            Ok(live) => Some(live),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(answer) = look(live.as_ref())? {
            return Ok(answer);
        }
        let mut query = Query::default();
        query.add("watch", "true");
        query.add(
            "fieldSelector",
            &format!("metadata.name={}", one.name.as_deref().unwrap_or_default()),
        );
        // Without a version the watch tells everything that exists first, which is right for an
        // object that does not exist yet.
        let version = live.as_ref().map_or("", |live| text(live, "/metadata/resourceVersion"));
        query.add("resourceVersion", version);
        let path = query.on(&one.resource.gvr.path(namespace, None, None));
        let mut events = match Events::open(session, &path, "application/json").await {
            Err(error) if error.is_expired() => continue,
            opened => opened?,
        };
        loop {
            let (kind, object) = match events.next().await {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) if error.downcast_ref().is_some_and(ApiError::is_expired) => break,
                Err(error) => return Err(error),
            };
            let object = (kind != "DELETED").then_some(&object);
            if let Some(answer) = look(object)? {
                return Ok(answer);
            }
        }
    }
}
