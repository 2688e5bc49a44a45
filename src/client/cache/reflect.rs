//! Keeping a table: list, then watch from there, again and again.
//!
//! A watch that ends, or whose server cannot be reached or is busy, goes on from the last revision.
//! After every other refusal a list comes first: the revision may be too old (410), or one that a
//! restored store has not reached (504). So it does when [`Cache::relist`] doubts the table.

use std::marker::PhantomData;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Notify;

use super::table::{Row, Table};
use super::{Cache, parse_revision};
use crate::api::resource::{Gvr, Kind};
use crate::api::{ApiError, Raw};
use crate::client::{ListOptions, SharedApi, Target, WatchEvent, WatchOptions};

/// The wait after a failed list or watch, doubling to the most.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const MOST_RETRY: Duration = Duration::from_secs(5);
/// The size of a page of the first list.
const PAGE_ITEMS: usize = 500;

/// Objects, with their bytes where those are kept.
type Listed<T> = Vec<(T, Option<Raw>)>;

/// Where the objects of one resource are kept, and as what.
pub(super) trait Sink: Send + Sync + 'static {
    type Item: Row;

    fn resource(&self) -> Gvr;

    fn decode(&self, raw: &Raw) -> Result<Self::Item, ApiError>;

    /// The bytes that an object may be decoded from again.
    fn bytes(&self, cache: &Cache, raw: &Raw) -> Option<Raw>;

    /// Works on the table; `None` where it is not kept any more.
    fn with<R>(&self, cache: &Cache, work: impl FnOnce(&mut Table<Self::Item>) -> R) -> Option<R>;
}

/// The objects of a type.
pub(super) struct Typed<T>(PhantomData<fn() -> T>);

impl<T> Default for Typed<T> {
    fn default() -> Self {
        Typed(PhantomData)
    }
}

impl<T: Kind> Sink for Typed<T> {
    type Item = T;

    fn resource(&self) -> Gvr {
        Gvr::of::<T>()
    }

    fn decode(&self, raw: &Raw) -> Result<T, ApiError> {
        raw.decode()
    }

    fn bytes(&self, cache: &Cache, raw: &Raw) -> Option<Raw> {
        cache.raw_of(raw)
    }

    fn with<R>(&self, cache: &Cache, work: impl FnOnce(&mut Table<T>) -> R) -> Option<R> {
        Some(cache.with_table(work))
    }
}

/// One kind's list and watch.
pub(super) struct Reflector<'a, S> {
    pub(super) cache: &'a Cache,
    pub(super) api: &'a SharedApi,
    pub(super) sink: &'a S,
    /// Narrows what is kept.
    pub(super) selector: &'a str,
    /// Told when the table is doubted.
    pub(super) relist: &'a Notify,
}

impl<S: Sink> Reflector<'_, S> {
    /// Keeps the table for ever.
    pub(super) async fn run(&self) {
        let mut wait = FIRST_RETRY;
        let mut revision = None;
        loop {
            let mut progress = false;
            let result = self.once(&mut revision, &mut progress).await;
            if progress {
                wait = FIRST_RETRY;
            }
            match result {
                Ok(()) if progress => continue,
                // A server that ends every watch at once must not be asked in a tight loop.
                Ok(()) => {}
                Err(error) => {
                    if needs_list(&error) {
                        revision = None;
                    }
                    tracing::debug!(resource = %self.sink.resource(), %error, "the watch ended");
                }
            }
            self.pause(&mut wait).await;
        }
    }

    fn target(&self) -> Target {
        let resource = self.sink.resource();
        Target { resource, namespace: None, name: None, subresource: None }
    }

    async fn pause(&self, wait: &mut Duration) {
        tokio::time::sleep(*wait).await;
        *wait = (*wait * 2).min(MOST_RETRY);
    }

    /// Lists unless a revision to go on from is known, then watches until the stream ends. Notes
    /// whether an event came: only that shows that the watch works.
    async fn once(
        &self,
        revision: &mut Option<String>,
        progress: &mut bool,
    ) -> Result<(), ApiError> {
        let from = match revision {
            Some(from) => from.clone(),
            None => {
                let (listed, items) = self.list_all().await?;
                self.cache.replace_in(self.sink, items, parse_revision(&listed));
                revision.insert(listed).clone()
            }
        };
        let options = WatchOptions {
            field_selector: self.selector.into(),
            resource_version: from,
            bookmarks: true,
            ..WatchOptions::default()
        };
        let mut stream = self.api.watch(&self.target(), &options).await?;
        loop {
            let event = tokio::select! {
                biased;
                () = self.relist.notified() => {
                    tracing::debug!(resource = %self.sink.resource(), "listing again: a change is late");
                    *revision = None;
                    *progress = true;
                    return Ok(());
                }
                event = stream.next() => event,
            };
            let Some(event) = event else { return Ok(()) };
            let event = event?;
            if let Some(seen) = self.cache.apply_to(self.sink, &event) {
                *revision = Some(seen);
            }
            // They come about once a minute, as quiet moments of the watch.
            if matches!(event, WatchEvent::Bookmark(_)) {
                self.cache.cool(self.sink).await;
            }
            *progress = true;
        }
    }

    /// Every object, in pages. One that cannot be read is left out and told, so that it does not
    /// hide the others.
    async fn list_all(&self) -> Result<(String, Listed<S::Item>), ApiError> {
        let target = self.target();
        let mut options = ListOptions {
            field_selector: self.selector.into(),
            limit: PAGE_ITEMS,
            ..ListOptions::default()
        };
        let mut items = Vec::new();
        loop {
            let page = self.api.list(&target, &options).await?;
            for raw in &page.items {
                match self.cache.decode(self.sink, raw) {
                    Ok(item) => items.push((item, self.sink.bytes(self.cache, raw))),
                    Err(error) => {
                        tracing::error!(resource = %self.sink.resource(), %error, "left out")
                    }
                }
            }
            if page.continue_token.is_empty() {
                return Ok((page.resource_version, items));
            }
            options.continue_token = page.continue_token;
        }
    }
}

/// Whether a watch from the same revision would be refused again. A server that cannot be reached
/// or is busy says nothing about the revision, and all its clients listing would not help it.
fn needs_list(error: &ApiError) -> bool {
    let causes = || error.details.iter().flat_map(|details| &details.causes);
    match error.code {
        429 | 503 => false,
        504 => causes().any(|cause| cause.reason == "ResourceVersionTooLarge"),
        _ => true,
    }
}
