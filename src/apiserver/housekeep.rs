//! What is thrown away in time: Events after an hour, the store's history after some minutes, blobs
//! that no manifest of the registry names.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::read::STRIDE_ENTRIES;
use super::service::{ApiServer, commit_error, read_error};
use super::write::spliced;
use crate::api::{ApiError, Raw};
use crate::store::{Entry, Expect, Key, Op, Revision};

/// How long Events are kept (upstream's default).
pub const EVENT_TTL: SignedDuration = SignedDuration::from_hours(1);
/// How long history is kept by default for watches and pages that go on (upstream's compaction
/// interval).
pub const HISTORY_KEPT: Duration = Duration::from_secs(300);
/// Blobs that no manifest names are looked for this often.
pub const GARBAGE_INTERVAL: SignedDuration = SignedDuration::from_hours(1);
/// How many Events one commit deletes.
const EVENTS_PER_COMMIT: usize = 200;
/// How many moments are remembered: those of [`EVENT_TTL`], with rounds once a minute.
const MAX_MARKS: usize = 90;

/// Which revision was the newest at which time, oldest first, and when garbage was collected.
#[derive(Default)]
pub struct History {
    marks: VecDeque<(Timestamp, Revision)>,
    compacted: Revision,
    garbage_at: Option<Timestamp>,
}

/// The times of an Event: it lives from the last of them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventTimes {
    metadata: Times,
    #[serde(default)]
    last_timestamp: Option<Timestamp>,
    #[serde(default)]
    event_time: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Times {
    #[serde(default)]
    creation_timestamp: Option<Timestamp>,
}

impl History {
    /// Notes the newest revision, and forgets what is of no more use.
    fn mark(&mut self, now: Timestamp, revision: Revision) {
        self.marks.push_back((now, revision));
        let is_old = |at: Timestamp| now.duration_since(at) >= EVENT_TTL;
        while self.marks.len() > MAX_MARKS || self.marks.front().is_some_and(|(at, _)| is_old(*at))
        {
            self.marks.pop_front();
        }
    }

    /// The newest revision that is older than `kept`, once.
    fn due(&mut self, now: Timestamp, kept: SignedDuration) -> Option<Revision> {
        let is_due = |(at, _): &&(Timestamp, Revision)| now.duration_since(*at) >= kept;
        let (_, revision) = *self.marks.iter().take_while(is_due).last()?;
        let due = revision > self.compacted;
        self.compacted = self.compacted.max(revision);
        due.then_some(revision)
    }
}

impl ApiServer {
    /// One round; called about once a minute with the present time (more often where history is kept
    /// for less than that).
    pub async fn housekeep(&self, now: Timestamp) -> Result<(), ApiError> {
        self.history.lock().mark(now, self.store.revision());
        let kept =
            SignedDuration::try_from(self.options.history_kept).unwrap_or(SignedDuration::MAX);
        let due = self.history.lock().due(now, kept);
        if let Some(revision) = due {
            self.store.compact(revision).await.map_err(commit_error)?;
        }
        self.settle_definitions().await?;
        self.expire_events(now).await?;
        self.collect_garbage(now).await
    }

    /// Looks at all Events. One that was written after the oldest moment that is remembered is
    /// younger than [`EVENT_TTL`] and is not read.
    async fn expire_events(&self, now: Timestamp) -> Result<(), ApiError> {
        let prefix = Key::new(&["", "events"]);
        let young = self.history.lock().marks.front().map(|(_, revision)| *revision);
        let mut after = None;
        loop {
            let page = self.store.list(&prefix, after.as_ref(), STRIDE_ENTRIES, None);
            let page = page.map_err(read_error)?;
            after = page.entries.last().map(|entry| entry.key.clone());
            let old = page.entries.into_iter().filter(|e| young.is_none_or(|y| e.revision <= y));
            let expired = old.filter(|entry| is_expired(&entry.value, now));
            let ops = expired.map(deletion).collect::<Result<Vec<Op>, ApiError>>()?;
            for chunk in ops.chunks(EVENTS_PER_COMMIT) {
                // An Event that was written meanwhile spares its batch until the next round.
                let _ = self.commit(chunk.to_vec()).await?;
            }
            if !page.more {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    async fn collect_garbage(&self, now: Timestamp) -> Result<(), ApiError> {
        let Some(artifacts) = &self.artifacts else { return Ok(()) };
        {
            let mut history = self.history.lock();
            if history.garbage_at.is_some_and(|at| now.duration_since(at) < GARBAGE_INTERVAL) {
                return Ok(());
            }
            history.garbage_at = Some(now);
        }
        let failed = |error| ApiError::internal(format!("the registry's garbage: {error}"));
        let collected = artifacts.collect_garbage().await.map_err(failed)?;
        if collected.blobs > 0 {
            let (blobs, bytes) = (collected.blobs, collected.bytes);
            tracing::info!(blobs, bytes, "blobs that no manifest names were removed");
        }
        Ok(())
    }
}

/// Watchers are shown the deletion's own version, as with every deletion.
fn deletion(entry: Entry) -> Result<Op, ApiError> {
    let object = Raw(entry.value).object()?;
    let (key, expect) = (entry.key, Expect::Revision(entry.revision));
    Ok(Op::Delete { key, expect, last: Some(spliced(&object)) })
}

fn is_expired(raw: &[u8], now: Timestamp) -> bool {
    let Ok(times) = serde_json::from_slice::<EventTimes>(raw) else { return false };
    let all = [times.metadata.creation_timestamp, times.last_timestamp, times.event_time];
    let last = all.into_iter().flatten().max();
    last.is_some_and(|last| now.duration_since(last) >= EVENT_TTL)
}
