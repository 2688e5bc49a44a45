//! What the backends in this process share: the state in memory, its readers and its watchers, and
//! so all of [`Store`] but how it is written.
//!
//! Owns the lock around the state and the order in which a commit becomes visible: first readers
//! can see it, then watchers are sent it. So a watcher that reads after an event never reads older
//! than the event, and a list can always be followed by a watch from its revision. Whether and how
//! a commit is made durable before is the backend's business.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};

use super::failure::Failure;
use super::hub::{Hub, HubOptions};
use super::state::{State, Stored};
use super::{
    CommitError, Committed, Entry, Event, Key, Op, Page, ReadError, Revision, Store, TagsOf, Visit,
    Vital, Watch,
};

/// How many entries a list reads, or counts, before it lets a waiting writer go first.
const LIST_STRIDE: usize = 1024;
/// How often a list of the newest revision begins again when its revision is forgotten under it;
/// then it holds the lock throughout.
const LIST_ATTEMPTS: usize = 3;

/// A store in this process. Backends differ in how they write; the rest is said here, once.
pub(super) trait Backend: Send + Sync + 'static {
    fn embedded(&self) -> &Embedded;

    /// [`Store::commit`].
    fn write(&self, ops: Vec<Op>) -> impl Future<Output = Result<Committed, CommitError>> + Send;

    /// [`Store::set_vital`].
    fn say_vital(&self, _vital: Vital) {}

    /// [`Store::compact`].
    fn forget(&self, before: Revision) -> impl Future<Output = Result<(), CommitError>> + Send;

    /// [`Store::close`].
    fn end(&self) -> impl Future<Output = ()> + Send;
}

#[async_trait::async_trait]
impl<B: Backend> Store for B {
    fn revision(&self) -> Revision {
        self.embedded().revision()
    }

    fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        Ok(self.embedded().get(key))
    }

    fn list(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, ReadError> {
        self.embedded().list(prefix, after, limit, at)
    }

    fn visit(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        at: Option<Revision>,
        visit: &mut Visit<'_>,
    ) -> Result<Revision, ReadError> {
        self.embedded().read(prefix, after, at, visit)
    }

    fn count(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        at: Option<Revision>,
    ) -> Result<u64, ReadError> {
        self.embedded().count(prefix, after, at)
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<Committed, CommitError> {
        self.write(ops).await
    }

    fn watch(&self, prefix: &Key, from: Revision) -> Result<Watch, ReadError> {
        self.embedded().watch(prefix, None, from)
    }

    fn watch_tagged(&self, prefix: &Key, tag: &Bytes, from: Revision) -> Result<Watch, ReadError> {
        self.embedded().watch(prefix, Some(tag), from)
    }

    fn set_tags_of(&self, tags_of: TagsOf) {
        self.embedded().hub.set_tags_of(tags_of);
    }

    fn set_vital(&self, vital: Vital) {
        self.say_vital(vital);
    }

    async fn compact(&self, revision: Revision) -> Result<(), CommitError> {
        self.forget(revision).await
    }

    async fn close(&self) {
        self.end().await;
    }

    fn failure(&self) -> Option<String> {
        self.embedded().failure.get()
    }

    async fn failed(&self) -> String {
        self.embedded().failure.wait().await
    }
}

pub(super) struct Embedded {
    state: RwLock<State>,
    pub(super) hub: Hub,
    /// Why nothing can be written any more.
    pub(super) failure: Failure,
}

impl Embedded {
    pub(super) fn new(options: &HubOptions, state: State) -> Embedded {
        let hub = Hub::new(options, state.revision());
        Embedded { state: RwLock::new(state), hub, failure: Failure::default() }
    }

    pub(super) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    pub(super) fn revision(&self) -> Revision {
        self.state.read().revision()
    }

    pub(super) fn get(&self, key: &Key) -> Option<Entry> {
        self.state.read().get_key_value(key).map(|(key, stored)| stored.entry(key))
    }

    /// Makes durable commits visible: the only way in which the state changes. Called by one
    /// writer at a time. Returns the events that are no longer recent.
    pub(super) fn publish(&self, events: &[Arc<Event>], revision: Revision) -> Vec<Arc<Event>> {
        let gone = self.state.write().apply(events, revision);
        self.hub.publish(events, revision);
        gone
    }

    pub(super) fn compact(&self, revision: Revision) -> Vec<Arc<Event>> {
        self.state.write().compact(revision)
    }

    pub(super) fn watch(
        &self,
        prefix: &Key,
        tag: Option<&Bytes>,
        from: Revision,
    ) -> Result<Watch, ReadError> {
        self.hub.subscribe(prefix, tag, from, |published| {
            let state = self.state.read();
            state.readable(from)?;
            Ok(state.events_between(prefix, from, published))
        })
    }

    pub(super) fn list(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, ReadError> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        self.again_if_forgotten(at, |stride| {
            let mut page = Page { revision: 0, entries: Vec::new(), more: false };
            page.revision = self.visit(prefix, after, at, stride, |key, stored| {
                if page.entries.len() == limit {
                    page.more = true;
                    return ControlFlow::Break(());
                }
                page.entries.push(stored.entry(key));
                ControlFlow::Continue(())
            })?;
            Ok(page)
        })
    }

    /// [`super::Store::visit`].
    pub(super) fn read(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        at: Option<Revision>,
        visit: &mut Visit<'_>,
    ) -> Result<Revision, ReadError> {
        let state = self.state.read();
        let revision = at.unwrap_or(state.revision());
        state.readable(revision)?;
        state.visit(prefix, after, revision, |key, stored| {
            visit(key, &stored.value, stored.revision, &stored.note)
        });
        Ok(revision)
    }

    pub(super) fn count(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        at: Option<Revision>,
    ) -> Result<u64, ReadError> {
        self.again_if_forgotten(at, |stride| {
            let mut count = 0;
            self.visit(prefix, after, at, stride, |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })?;
            Ok(count)
        })
    }

    /// Runs a read in strides; one of the newest revision begins again when that is forgotten
    /// under it.
    fn again_if_forgotten<T>(
        &self,
        at: Option<Revision>,
        read: impl Fn(usize) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        for _ in 0..LIST_ATTEMPTS {
            match read(LIST_STRIDE) {
                Err(ReadError::Compacted { .. }) if at.is_none() => continue,
                result => return result,
            }
        }
        read(usize::MAX)
    }

    /// Visits at one revision, which is returned, while commits go on between strides: history
    /// makes that exact.
    fn visit(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        at: Option<Revision>,
        stride: usize,
        mut visit: impl FnMut(&Key, &Stored) -> ControlFlow<()>,
    ) -> Result<Revision, ReadError> {
        let mut state = self.state.read();
        let revision = at.unwrap_or(state.revision());
        let mut cursor = after.cloned();
        loop {
            state.readable(revision)?;
            let mut visited = 0;
            let mut last = None;
            state.visit(prefix, cursor.as_ref(), revision, |key, stored| {
                visit(key, stored)?;
                visited += 1;
                if visited < stride {
                    return ControlFlow::Continue(());
                }
                last = Some(key.clone());
                ControlFlow::Break(())
            });
            let Some(last) = last else { return Ok(revision) };
            cursor = Some(last);
            RwLockReadGuard::bump(&mut state);
        }
    }
}
