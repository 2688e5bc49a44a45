//! What is thrown away in time: Events after their time to live, the store's history after some minutes, blobs
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

/// How long Events are kept by default (upstream's `--event-ttl`).
pub const EVENT_TTL: Duration = Duration::from_secs(3600);
/// How long history is kept by default for watches and pages that go on (upstream's compaction
/// interval).
pub const HISTORY_KEPT: Duration = Duration::from_secs(300);
/// Blobs that no manifest names are looked for this often.
pub const GARBAGE_INTERVAL: SignedDuration = SignedDuration::from_hours(1);
/// How many Events one commit deletes.
const EVENTS_PER_COMMIT: usize = 200;
/// How many moments are remembered of the time that history is kept, and of the life of Events.
const MAX_MARKS: u32 = 64;

/// Which revision was the newest at which time, and when garbage was collected.
#[derive(Default)]
pub struct History {
    kept: Marks,
    events: Marks,
    compacted: Revision,
    garbage_at: Option<Timestamp>,
}

/// Which revision was the newest at which time within a span of time, oldest first.
#[derive(Default)]
struct Marks(VecDeque<(Timestamp, Revision)>);

/// The times of an Event: it lives from the last of them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventTimes {
    metadata: Times,
    #[serde(default)]
    last_timestamp: Option<Timestamp>,
    #[serde(default)]
    event_time: Option<Timestamp>,
    #[serde(default)]
    series: Option<Series>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Series {
    #[serde(default)]
    last_observed_time: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Times {
    #[serde(default)]
    creation_timestamp: Option<Timestamp>,
}

impl Marks {
    /// Notes the newest revision, unless the last note is as good, and forgets what is older than
    /// the span but for the newest of that.
    fn mark(&mut self, now: Timestamp, revision: Revision, span: SignedDuration) {
        let since = |at: Timestamp| now.duration_since(at);
        let step = span.checked_div(MAX_MARKS as i32).unwrap_or_default();
        if self.0.back().is_none_or(|(at, _)| since(*at) >= step) {
            self.0.push_back((now, revision));
        }
        while self.0.get(1).is_some_and(|(at, _)| since(*at) >= span) {
            self.0.pop_front();
        }
    }

    /// The newest revision that is known to be as old as the span.
    fn past(&self, now: Timestamp, span: SignedDuration) -> Option<Revision> {
        let is_past = |at: Timestamp| now.duration_since(at) >= span;
        self.0.iter().take_while(|(at, _)| is_past(*at)).last().map(|(_, revision)| *revision)
    }

    /// A revision after which nothing is as old as the span.
    fn young(&self, now: Timestamp, span: SignedDuration) -> Option<Revision> {
        let is_young = |at: Timestamp| now.duration_since(at) < span;
        self.0.iter().find(|(at, _)| is_young(*at)).map(|(_, revision)| *revision)
    }
}

impl History {
    /// The newest revision that is older than `kept`, once.
    fn due(&mut self, now: Timestamp, kept: SignedDuration) -> Option<Revision> {
        let revision = self.kept.past(now, kept)?;
        let due = revision > self.compacted;
        self.compacted = self.compacted.max(revision);
        due.then_some(revision)
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

impl ApiServer {
    /// One round; called about once a minute with the present time (more often where history is kept
    /// for less than that).
    pub async fn housekeep(&self, now: Timestamp) -> Result<(), ApiError> {
        let (kept, ttl) = (signed(self.options.history_kept), signed(self.options.event_ttl));
        let (due, young) = {
            let (revision, mut history) = (self.store.revision(), self.history.lock());
            history.kept.mark(now, revision, kept);
            history.events.mark(now, revision, ttl);
            (history.due(now, kept), history.events.young(now, ttl))
        };
        if let Some(revision) = due {
            self.store.compact(revision).await.map_err(commit_error)?;
        }
        self.settle_definitions().await?;
        self.expire_events(now, ttl, young).await?;
        self.collect_garbage(now).await
    }

    /// Looks at all Events, those of both groups. One that was written after `young` is not read: a
    /// write gives an Event another life, as upstream.
    async fn expire_events(
        &self,
        now: Timestamp,
        ttl: SignedDuration,
        young: Option<Revision>,
    ) -> Result<(), ApiError> {
        let prefix = Key::new(&["", "events"]);
        let mut after = None;
        loop {
            let page = self.store.list(&prefix, after.as_ref(), STRIDE_ENTRIES, None);
            let page = page.map_err(read_error)?;
            after = page.entries.last().map(|entry| entry.key.clone());
            let old = page.entries.into_iter().filter(|e| young.is_none_or(|y| e.revision <= y));
            let expired = old.filter(|entry| is_expired(&entry.value, now, ttl));
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

fn is_expired(raw: &[u8], now: Timestamp, ttl: SignedDuration) -> bool {
    let Ok(times) = serde_json::from_slice::<EventTimes>(raw) else { return false };
    let repeated = times.series.and_then(|series| series.last_observed_time);
    let all = [times.metadata.creation_timestamp, times.last_timestamp, times.event_time, repeated];
    let last = all.into_iter().flatten().max();
    last.is_some_and(|last| now.duration_since(last) >= ttl)
}
