//! What is thrown away in time: Events after an hour, the store's history after five minutes.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::service::{ApiServer, commit_error, read_error};
use crate::api::ApiError;
use crate::store::{Expect, Key, Op, Revision};

/// How long Events are kept (upstream's default).
pub const EVENT_TTL: SignedDuration = SignedDuration::from_hours(1);
/// How long history is kept for watches and pages that go on (upstream's compaction interval).
pub const HISTORY_KEPT: SignedDuration = SignedDuration::from_mins(5);
/// How many Events one round looks at, so that a round is short.
const EVENTS_PER_ROUND: usize = 5_000;
/// How many Events one commit deletes.
const EVENTS_PER_COMMIT: usize = 200;
/// How many moments are remembered; rounds come once a minute.
const MAX_MARKS: usize = 60;

/// Which revision was the newest at which time, oldest first, and how far Events were looked at.
#[derive(Default)]
pub struct History {
    marks: VecDeque<(Timestamp, Revision)>,
    events_after: Option<Key>,
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

impl ApiServer {
    /// One round; called about once a minute with the present time.
    pub async fn housekeep(&self, now: Timestamp) -> Result<(), ApiError> {
        self.compact_history(now).await?;
        self.expire_events(now).await
    }

    async fn compact_history(&self, now: Timestamp) -> Result<(), ApiError> {
        let current = self.store.revision();
        let old_enough = {
            let mut history = self.history.lock();
            if history.marks.len() >= MAX_MARKS {
                history.marks.pop_front();
            }
            history.marks.push_back((now, current));
            let mut reached = None;
            while let Some((time, revision)) = history.marks.front().copied()
                && now.duration_since(time) >= HISTORY_KEPT
            {
                reached = Some(revision);
                history.marks.pop_front();
            }
            reached
        };
        match old_enough {
            Some(revision) => self.store.compact(revision).await.map_err(commit_error),
            None => Ok(()),
        }
    }

    /// Looks at the next Events in key order, and begins again at the end.
    async fn expire_events(&self, now: Timestamp) -> Result<(), ApiError> {
        let prefix = Key::new(&["", "events"]);
        let after = self.history.lock().events_after.take();
        let page =
            self.store.list(&prefix, after.as_ref(), EVENTS_PER_ROUND, None).map_err(read_error)?;
        if page.more {
            self.history.lock().events_after = page.entries.last().map(|e| e.key.clone());
        }
        let expired = page.entries.into_iter().filter(|e| is_expired(&e.value, now));
        let ops: Vec<Op> = expired
            .map(|e| Op::Delete { key: e.key, expect: Expect::Revision(e.revision), last: None })
            .collect();
        for chunk in ops.chunks(EVENTS_PER_COMMIT) {
            // An Event that was written meanwhile spares its batch until the next round.
            let _ = self.commit(chunk.to_vec()).await?;
        }
        Ok(())
    }
}

fn is_expired(raw: &[u8], now: Timestamp) -> bool {
    let Ok(times) = serde_json::from_slice::<EventTimes>(raw) else { return false };
    let all = [times.metadata.creation_timestamp, times.last_timestamp, times.event_time];
    let last = all.into_iter().flatten().max();
    last.is_some_and(|last| now.duration_since(last) >= EVENT_TTL)
}
