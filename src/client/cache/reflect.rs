//! Keeping a table: list, then watch from there, again and again. A watch that ends goes on from the
//! last revision; one that is too old (410), or that [`Cache::relist`] doubts, begins with a list.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Notify;

use super::{Cache, parse_revision};
use crate::api::ApiError;
use crate::api::resource::{Gvr, Kind};
use crate::client::{ListOptions, SharedApi, Target, WatchOptions};

/// The wait after a failed list or watch, doubling to the most.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const MOST_RETRY: Duration = Duration::from_secs(5);
/// The size of a page of the first list.
const PAGE_ITEMS: usize = 500;

/// One kind's list and watch.
pub(super) struct Reflector<'a> {
    pub(super) cache: &'a Cache,
    pub(super) api: &'a SharedApi,
    /// Narrows what is kept.
    pub(super) selector: &'a str,
    /// Told when the table is doubted.
    pub(super) relist: &'a Notify,
}

impl Reflector<'_> {
    /// Keeps the table for ever.
    pub(super) async fn run<T: Kind>(&self) {
        let mut wait = FIRST_RETRY;
        let mut revision = None;
        loop {
            match self.once::<T>(&mut revision).await {
                Ok(true) => wait = FIRST_RETRY,
                // A server that ends every watch at once must not be asked in a tight loop.
                Ok(false) => self.pause(&mut wait).await,
                Err(error) => {
                    if error.is_expired() {
                        revision = None;
                    }
                    tracing::debug!(resource = %Gvr::of::<T>(), %error, "the watch ended");
                    self.pause(&mut wait).await;
                }
            }
        }
    }

    async fn pause(&self, wait: &mut Duration) {
        tokio::time::sleep(*wait).await;
        *wait = (*wait * 2).min(MOST_RETRY);
    }

    /// Lists unless a revision to go on from is known, then watches until the stream ends. Answers
    /// whether it made progress.
    async fn once<T: Kind>(&self, revision: &mut Option<String>) -> Result<bool, ApiError> {
        let mut progress = false;
        let from = match revision {
            Some(from) => from.clone(),
            None => {
                let (listed, items) = self.list_all::<T>().await?;
                self.cache.replace::<T>(items, parse_revision(&listed));
                progress = true;
                revision.insert(listed).clone()
            }
        };
        let options = WatchOptions {
            field_selector: self.selector.into(),
            resource_version: from,
            bookmarks: true,
            ..WatchOptions::default()
        };
        let mut stream = self.api.watch(&Target::all::<T>(None), &options).await?;
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = self.relist.notified() => {
                    tracing::debug!(resource = %Gvr::of::<T>(), "listing again: a change is late");
                    *revision = None;
                    return Ok(true);
                }
            };
            let Some(event) = event else { return Ok(progress) };
            if let Some(seen) = self.cache.apply::<T>(&event?) {
                *revision = Some(seen);
            }
            progress = true;
        }
    }

    /// Every object, in pages. One that cannot be read is left out and told, so that it does not
    /// hide the others.
    async fn list_all<T: Kind>(&self) -> Result<(String, Vec<T>), ApiError> {
        let target = Target::all::<T>(None);
        let mut options = ListOptions {
            field_selector: self.selector.into(),
            limit: PAGE_ITEMS,
            ..ListOptions::default()
        };
        let mut items = Vec::new();
        loop {
            let page = self.api.list(&target, &options).await?;
            for raw in &page.items {
                match raw.decode() {
                    Ok(item) => items.push(item),
                    Err(error) => tracing::error!(resource = %Gvr::of::<T>(), %error, "left out"),
                }
            }
            if page.continue_token.is_empty() {
                return Ok((page.resource_version, items));
            }
            options.continue_token = page.continue_token;
        }
    }
}
