//! Performs the writes of a plan: group after group, side by side within a group, with a window
//! that starts small and grows with each success, so that a quota that refuses a thousand creations
//! is asked a few times only. Knows no controllers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::barrier::Needs;
use super::plan::{Action, Outcome, Write};
use crate::api::error::Reason;
use crate::api::{ApiError, ObjectKey, Raw};
use crate::client::cache::{Cache, parse_revision};
use crate::client::election::Fence;
use crate::client::{DeleteOptions, ListOptions, SharedApi, Target, WriteOptions};

/// The writes of one group under way at first, and at most.
const FIRST_WINDOW: usize = 8;
const MOST_WINDOW: usize = 64;
/// Writes under way for all controllers together.
const MOST_WRITES: usize = 256;
/// A write without an answer after this time has failed (and may have happened).
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// The size of a page of [`Write::DeleteAll`].
const PAGE_ITEMS: usize = 500;

/// Performs writes; shared by all controllers.
pub struct Executor {
    pub api: SharedApi,
    permits: Semaphore,
}

/// In whose name a plan is performed.
pub struct Writer<'a> {
    pub manager: &'a str,
    /// The term that must last, where leaders take turns.
    pub fence: Option<Arc<Fence>>,
    /// What bounds deletions.
    pub budget: Option<&'a Budget>,
}

/// What came of a plan's writes.
#[derive(Default)]
pub struct Done {
    pub outcomes: Vec<Outcome>,
    pub needs: Needs,
    /// The first error; groups after the failed one were not begun.
    pub error: Option<ApiError>,
}

/// The part of an answer that matters here.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    kind: String,
    metadata: AnswerMeta,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct AnswerMeta {
    name: Option<String>,
    uid: Option<String>,
    resource_version: String,
    deletion_timestamp: Option<String>,
}

impl Executor {
    pub fn new(api: SharedApi) -> Executor {
        Executor { api, permits: Semaphore::new(MOST_WRITES) }
    }

    /// Performs all groups until one fails.
    pub async fn perform(&self, writes: Vec<Write>, writer: &Writer<'_>, cache: &Cache) -> Done {
        let mut done = Done::default();
        let mut group = Vec::new();
        for write in writes.into_iter().chain([Write::Then]) {
            if !matches!(write, Write::Then) {
                group.push(write);
                continue;
            }
            self.group(std::mem::take(&mut group), writer, cache, &mut done).await;
            if done.error.is_some() {
                break;
            }
        }
        done
    }

    async fn group(&self, writes: Vec<Write>, writer: &Writer<'_>, cache: &Cache, done: &mut Done) {
        let mut waiting = writes.into_iter();
        let mut running = FuturesUnordered::new();
        let mut window = FIRST_WINDOW;
        loop {
            while done.error.is_none() && running.len() < window {
                let Some(write) = waiting.next() else { break };
                running.push(self.one(write, writer));
            }
            let Some(one) = running.next().await else { break };
            match &one.outcome.result {
                Ok(()) => window = (window + 1).min(MOST_WINDOW),
                Err(error) => done.error = done.error.take().or_else(|| Some(error.clone())),
            }
            note(&one, cache, &mut done.needs);
            done.outcomes.push(one.outcome);
        }
    }

    async fn one(&self, write: Write, writer: &Writer<'_>) -> One {
        let Some((action, target)) = write.named_subject() else {
            unreachable!("groups hold no separators")
        };
        let uid = match &write {
            Write::Delete { options, .. } => options.uid.clone(),
            _ => None,
        };
        if let (Action::Delete, Some(budget)) = (action, writer.budget) {
            budget.take().await;
        }
        // The semaphore is never closed, so an error cannot come.
        let _permit = self.permits.acquire().await;
        let call = tokio::time::timeout(WRITE_LIMIT, self.call(write, writer));
        let result = call.await.unwrap_or_else(|_| {
            Err(ApiError::new(504, Reason::Timeout, "the API did not answer in time"))
        });
        let mut one = One {
            outcome: Outcome { action, target, result: Ok(()) },
            revision: 0,
            uid: uid.unwrap_or_default(),
        };
        match result {
            Ok(Some(raw)) => one.read(&raw),
            Ok(None) => {}
            Err(error) => one.outcome.result = Err(error),
        }
        one
    }

    async fn call(&self, write: Write, writer: &Writer<'_>) -> Result<Option<Raw>, ApiError> {
        let (manager, fence) = (writer.manager.into(), writer.fence.clone());
        let options = WriteOptions { dry_run: false, field_manager: manager, fence };
        match write {
            Write::Create { target, object } => {
                self.api.create(&target, object, &options).await.map(Some)
            }
            Write::Update { target, object } => {
                self.api.update(&target, object, &options).await.map(Some)
            }
            Write::Patch { target, patch } => {
                self.api.patch(&target, patch, &options).await.map(Some)
            }
            Write::Delete { target, options: delete } => {
                let delete = DeleteOptions { fence: options.fence, ..delete };
                match self.api.delete(&target, &delete).await {
                    // Gone already is what was wanted.
                    Err(error) if error.is_not_found() => Ok(None),
                    other => other.map(Some),
                }
            }
            Write::Absent { target, uid } => {
                self.check_absent(&target, uid.as_deref()).await.map(|()| None)
            }
            Write::Alive { target, uid } => self.check_alive(&target, &uid).await.map(|()| None),
            Write::DeleteAll { target } => {
                self.delete_all(&target, &options.fence).await.map(|()| None)
            }
            Write::Then => Ok(None),
        }
    }

    async fn check_absent(&self, target: &Target, uid: Option<&str>) -> Result<(), ApiError> {
        let name = target.name.as_deref().unwrap_or_default();
        match self.api.get(target).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
            Ok(raw) => {
                let answer: Answer = raw.decode()?;
                if uid.is_some() && answer.metadata.uid.as_deref() != uid {
                    return Ok(());
                }
                Err(ApiError::conflict(&target.resource, name, "it exists"))
            }
        }
    }

    async fn check_alive(&self, target: &Target, uid: &str) -> Result<(), ApiError> {
        let name = target.name.as_deref().unwrap_or_default();
        let gone = || ApiError::conflict(&target.resource, name, "it is gone or on its way out");
        let raw = match self.api.get(target).await {
            Err(error) if error.is_not_found() => return Err(gone()),
            other => other?,
        };
        let found = raw.decode::<Answer>()?.metadata;
        let lives = found.uid.as_deref() == Some(uid) && found.deletion_timestamp.is_none();
        if lives { Ok(()) } else { Err(gone()) }
    }

    async fn delete_all(
        &self,
        target: &Target,
        fence: &Option<Arc<Fence>>,
    ) -> Result<(), ApiError> {
        let options = ListOptions { limit: PAGE_ITEMS, ..ListOptions::default() };
        let page = match self.api.list(target, &options).await {
            // A custom resource that is not served any more has no objects either.
            Err(error) if error.code == 404 => return Ok(()),
            page => page?,
        };
        if page.items.is_empty() {
            return Ok(());
        }
        let mut deletions = FuturesUnordered::new();
        let mut items = page.items.iter();
        loop {
            while deletions.len() < MOST_WINDOW {
                let Some(raw) = items.next() else { break };
                let answer: Answer = raw.decode()?;
                deletions.push(self.delete_found(target, answer.metadata, fence.clone()));
            }
            let Some(result) = deletions.next().await else { break };
            result?;
        }
        let why = format!("{} objects had to be deleted first", page.items.len());
        Err(ApiError::conflict(&target.resource, "*", why))
    }

    async fn delete_found(
        &self,
        target: &Target,
        found: AnswerMeta,
        fence: Option<Arc<Fence>>,
    ) -> Result<(), ApiError> {
        let target = Target { name: found.name, ..target.clone() };
        let options = DeleteOptions { uid: found.uid, fence, ..DeleteOptions::default() };
        match self.api.delete(&target, &options).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// One write's outcome with what the barrier must see.
struct One {
    outcome: Outcome,
    revision: u64,
    /// Of a deletion.
    uid: String,
}

impl One {
    fn read(&mut self, raw: &Raw) {
        let answer: Answer = raw.decode().unwrap_or_default();
        if answer.kind == "Status" {
            return;
        }
        self.revision = parse_revision(&answer.metadata.resource_version);
        if self.outcome.action == Action::Create && self.outcome.target.subresource.is_none() {
            self.outcome.target.name = answer.metadata.name;
        }
    }
}

/// Adds what one write's effect must be waited for; nothing for kinds that the cache does not keep.
fn note(one: &One, cache: &Cache, needs: &mut Needs) {
    let target = &one.outcome.target;
    let kept = cache.view().resources().contains(&target.resource);
    if !kept {
        return;
    }
    match (&one.outcome.result, one.outcome.action) {
        (Ok(()), Action::Create | Action::Update | Action::Patch) => {
            needs.revision(target.resource.clone(), one.revision);
        }
        (Ok(()), Action::Delete) => {
            if let Some(name) = &target.name {
                let namespace = target.namespace.as_deref().unwrap_or_default();
                let key = ObjectKey::new(namespace, name);
                needs.deletion(target.resource.clone(), key, one.uid.clone());
            }
        }
        (Err(error), Action::Create) if is_ambiguous(error) => {
            needs.doubted.insert(target.resource.clone());
        }
        _ => {}
    }
}

/// The write may have happened although the answer was an error. Other writes carry preconditions,
/// so that repeating them harms nothing.
fn is_ambiguous(error: &ApiError) -> bool {
    error.code >= 500 || error.code == 0
}

/// Tokens that come back with time: one a deletion.
pub struct Budget {
    per_minute: u32,
    state: parking_lot::Mutex<(f64, Instant)>,
}

impl Budget {
    pub fn new(per_minute: u32, now: Instant) -> Budget {
        let per_minute = per_minute.max(1);
        Budget { per_minute, state: parking_lot::Mutex::new((f64::from(per_minute), now)) }
    }

    async fn take(&self) {
        while let Some(wait) = self.try_take(Instant::now()) {
            tokio::time::sleep(wait).await;
        }
    }

    /// Takes one, or tells how long until there is one.
    fn try_take(&self, now: Instant) -> Option<Duration> {
        let rate = f64::from(self.per_minute) / 60.0;
        let mut state = self.state.lock();
        let (tokens, at) = *state;
        let passed = now.saturating_duration_since(at).as_secs_f64();
        let tokens = (tokens + passed * rate).min(f64::from(self.per_minute));
        let enough = tokens >= 1.0;
        *state = (if enough { tokens - 1.0 } else { tokens }, now);
        // A millisecond more than exactly, so that rounding never makes a tight loop.
        (!enough).then(|| Duration::from_secs_f64((1.0 - tokens) / rate + 0.001))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_spent_and_comes_back() {
        let budget = Budget::new(60, Instant::now());
        for _ in 0..60 {
            assert_eq!(budget.try_take(Instant::now()), None);
        }
        assert!(budget.try_take(Instant::now()).is_some());
        let before = Instant::now();
        budget.take().await;
        assert!(before.elapsed() >= Duration::from_secs(1));
    }
}
