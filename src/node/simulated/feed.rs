//! A list and a watch of stored bytes, again and again, for those who keep next to nothing of an
//! object: neither the list nor what was seen before is held here.

use std::time::Duration;

use futures::StreamExt;

use crate::api::{ApiError, Raw};
use crate::client::{ListOptions, SharedApi, Target, WatchEvent, WatchOptions};

/// The wait after a failed list or watch, doubling to the most.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const MOST_RETRY: Duration = Duration::from_secs(5);
const PAGE_ITEMS: usize = 500;

/// What is watched.
pub struct Feed {
    pub target: Target,
    pub labels: String,
    pub fields: String,
}

/// Who is told.
pub trait Sink: Send + Sync {
    /// A list begins; what is not seen until [`Sink::listed`] is gone.
    fn list(&self) {}

    fn see(&self, raw: &Raw);

    fn listed(&self) {}

    fn gone(&self, raw: &Raw);
}

impl Feed {
    /// Tells for ever.
    pub async fn run(&self, api: &SharedApi, sink: &dyn Sink) {
        let mut revision = None;
        let mut wait = FIRST_RETRY;
        loop {
            let mut progress = false;
            if let Err(error) = self.once(api, sink, &mut revision, &mut progress).await {
                tracing::debug!(resource = %self.target.resource, %error, "the watch ended");
                // As `client::cache::reflect`: a busy server says nothing about the revision.
                if !matches!(error.code, 429 | 503) {
                    revision = None;
                }
            } else if progress {
                wait = FIRST_RETRY;
                continue;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(MOST_RETRY);
        }
    }

    async fn once(
        &self,
        api: &SharedApi,
        sink: &dyn Sink,
        revision: &mut Option<String>,
        progress: &mut bool,
    ) -> Result<(), ApiError> {
        let from = match revision {
            Some(from) => from.clone(),
            None => revision.insert(self.list(api, sink).await?).clone(),
        };
        let options = WatchOptions {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            resource_version: from,
            bookmarks: true,
            timeout: None,
        };
        let mut events = api.watch(&self.target, &options).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            *progress = true;
            match &event {
                WatchEvent::Added(raw) | WatchEvent::Modified(raw) => sink.see(raw),
                WatchEvent::Deleted(raw) => sink.gone(raw),
                WatchEvent::Bookmark(seen) => *revision = Some(seen.clone()),
            }
            if let Some(seen) = event.raw().and_then(version) {
                *revision = Some(seen);
            }
        }
        Ok(())
    }

    async fn list(&self, api: &SharedApi, sink: &dyn Sink) -> Result<String, ApiError> {
        let mut options = ListOptions {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            limit: PAGE_ITEMS,
            ..ListOptions::default()
        };
        sink.list();
        loop {
            let page = api.list(&self.target, &options).await?;
            page.items.iter().for_each(|raw| sink.see(raw));
            if page.continue_token.is_empty() {
                sink.listed();
                return Ok(page.resource_version);
            }
            options.continue_token = page.continue_token;
        }
    }
}

/// The resource version of a stored object.
fn version(raw: &Raw) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata<'a> {
        resource_version: &'a str,
    }
    let object: Object<'_> = serde_json::from_slice(&raw.0).ok()?;
    Some(object.metadata.resource_version.to_string())
}
