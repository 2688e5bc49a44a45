//! How the bodies of answers are read: a list without decoding its items, a watch event by event,
//! anything else as a whole; each within bounds of size and of silence.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::BodyExt;
use serde_json::value::RawValue;

use super::unreachable_;
use crate::api::{ApiError, Raw};
use crate::client::{RawList, WatchEvent, WatchStream};

/// The longest answer that is read at once; larger lists come in pages.
const MAX_ANSWER_BYTES: usize = 512 << 20;
/// The longest event of a watch.
const MAX_EVENT_BYTES: usize = 8 << 20;

#[derive(serde::Deserialize)]
struct ListBody<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Vec<&'a RawValue>,
}

#[derive(serde::Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: String,
    remaining_item_count: Option<u64>,
}

pub(super) fn read_list(body: &Bytes) -> Result<RawList, ApiError> {
    let list: ListBody = serde_json::from_slice(body)
        .map_err(|e| ApiError::internal(format!("the list cannot be read: {e}")))?;
    let items = list.items.iter().map(|item| Raw(body.slice_ref(item.get().as_bytes()))).collect();
    Ok(RawList {
        resource_version: list.metadata.resource_version,
        continue_token: list.metadata.continue_token,
        remaining: list.metadata.remaining_item_count,
        items,
    })
}

#[derive(serde::Deserialize)]
struct EventBody<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// One line of a watch.
fn read_event(line: &[u8]) -> Result<WatchEvent, ApiError> {
    let bad = |e| ApiError::internal(format!("the watch event cannot be read: {e}"));
    let event: EventBody = serde_json::from_slice(line).map_err(bad)?;
    let raw = || Raw(Bytes::copy_from_slice(event.object.get().as_bytes()));
    match event.kind {
        "ADDED" => Ok(WatchEvent::Added(raw())),
        "MODIFIED" => Ok(WatchEvent::Modified(raw())),
        "DELETED" => Ok(WatchEvent::Deleted(raw())),
        "BOOKMARK" => Ok(WatchEvent::Bookmark(raw().object()?.resource_version().to_string())),
        "ERROR" => Err(ApiError::from_response(500, event.object.get().as_bytes())),
        other => Err(ApiError::internal(format!("a watch event has the unknown type {other:?}"))),
    }
}

/// A watch's body with what came of its next line.
struct Lines<B> {
    body: B,
    buffer: BytesMut,
    /// There is no line's end in so many bytes of the buffer.
    scanned: usize,
}

/// Cuts a body into events, one a line. After `silence` the watch ends, as it does when its time
/// is up.
pub(super) fn watch_stream<B>(body: B, silence: Option<Duration>) -> WatchStream
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: std::error::Error + Send + 'static,
{
    let lines = Lines { body, buffer: BytesMut::new(), scanned: 0 };
    let stream = futures::stream::try_unfold(lines, move |mut lines| async move {
        loop {
            if let Some(line) = lines.take()? {
                if line.len() > 1 {
                    return Ok(Some((read_event(&line)?, lines)));
                }
                continue;
            }
            let frame = lines.body.frame();
            let frame = match silence {
                Some(silence) => match tokio::time::timeout(silence, frame).await {
                    Ok(frame) => frame,
                    Err(_) => {
                        tracing::debug!("a watch was silent for {silence:?}");
                        return Ok(None);
                    }
                },
                None => frame.await,
            };
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(data) = frame.map_err(|e| unreachable_(&e))?.into_data() {
                lines.buffer.extend_from_slice(&data);
            }
        }
    });
    stream.boxed()
}

impl<B> Lines<B> {
    /// The next whole line.
    fn take(&mut self) -> Result<Option<BytesMut>, ApiError> {
        let fresh = &self.buffer[self.scanned..];
        if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(self.scanned + end + 1);
            self.scanned = 0;
            return Ok(Some(line));
        }
        self.scanned = self.buffer.len();
        if self.scanned > MAX_EVENT_BYTES {
            return Err(ApiError::internal("a watch event is too long"));
        }
        Ok(None)
    }
}

/// A whole body, each frame of which comes within `silence`.
pub(super) async fn collect<B>(mut body: B, silence: Duration) -> Result<Bytes, ApiError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let cut_off = |why: &dyn std::fmt::Display| {
        ApiError::unavailable(format!("the answer was cut off: {why}"))
    };
    let mut whole = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(silence, body.frame()).await;
        let Some(frame) = frame.map_err(|_| cut_off(&format_args!("silent for {silence:?}")))?
        else {
            return Ok(whole.freeze());
        };
        let Ok(data) = frame.map_err(|error| cut_off(&error))?.into_data() else { continue };
        if whole.len() + data.len() > MAX_ANSWER_BYTES {
            return Err(cut_off(&"it is too long"));
        }
        whole.extend_from_slice(&data);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures::FutureExt;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::time::Instant;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(150);

    #[test]
    fn lists_and_events_are_read_without_decoding_items() {
        let body = Bytes::from_static(
            br#"{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"t"},"items":[{"a": 1}]}"#,
        );
        let list = read_list(&body).unwrap();
        assert_eq!((list.resource_version.as_str(), list.continue_token.as_str()), ("7", "t"));
        assert_eq!(list.items[0].0, r#"{"a": 1}"#);
        let event =
            read_event(br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#);
        assert_eq!(event.unwrap(), WatchEvent::Bookmark("9".into()));
        let gone = br#"{"type":"ERROR","object":{"kind":"Status","reason":"Expired","code":410}}"#;
        assert!(read_event(gone).unwrap_err().is_expired());
    }

    type Frames = futures::channel::mpsc::UnboundedReceiver<Result<Frame<Bytes>, io::Error>>;

    fn channel() -> (impl Fn(&'static str), StreamBody<Frames>) {
        let (sender, frames) = futures::channel::mpsc::unbounded();
        let send = move |text: &'static str| {
            sender.unbounded_send(Ok(Frame::data(Bytes::from_static(text.as_bytes())))).unwrap();
        };
        (send, StreamBody::new(frames))
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_reads_lines_across_frames_and_ends_when_it_is_silent() {
        let (send, body) = channel();
        let mut stream = watch_stream(body, Some(SILENCE));
        let next = |revision: &str| Some(Ok(WatchEvent::Bookmark(revision.into())));
        for part in [r#"{"type":"BOOK"#, r#"MARK","object":{"metadata":{"resourceVersion":"9"}}}"#]
        {
            send(part);
            assert!(stream.next().now_or_never().is_none());
        }
        send("\n\n{\"type\":\"BOOKMARK\",");
        assert_eq!(stream.next().await, next("9"));
        send("\"object\":{\"metadata\":{\"resourceVersion\":\"10\"}}}\n");
        assert_eq!(stream.next().await, next("10"));
        let begin = Instant::now();
        assert_eq!(stream.next().await, None, "the sender is there, and says nothing");
        assert_eq!(begin.elapsed(), Duration::from_secs(150));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_answer_is_bounded_by_its_silence() {
        let (send, body) = channel();
        let slow = async {
            for part in ["a", "b", "c"] {
                tokio::time::sleep(Duration::from_secs(140)).await;
                send(part);
            }
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            answer = collect(body, SILENCE) => answer,
            () = slow => unreachable!("it waits for ever"),
        };
        assert!(answer.unwrap_err().message.contains("silent for 150s"));
    }
}
