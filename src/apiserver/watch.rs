//! WATCH: the present state if it is asked for, then every change, exactly once and in order.
//!
//! ```text
//!   initial state (ADDED…, with sendInitialEvents then a bookmark)
//!     → changes ⇄ bookmark each minute (the first one a little sooner)
//!     → ends: time is up (a last bookmark) | too old or too slow (an error) | the store closed
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::BoxStream};
use tokio::time::Instant;

use super::filter::Filter;
use super::keys;
use super::read::{STRIDE_ENTRIES, parse_version};
use super::service::{ApiServer, Call, read_error};
use super::subresource::method_not_allowed;
use super::{routing, versions};
use crate::api::ApiError;
use crate::api::field::{Errors, Path};
use crate::client::WatchOptions;
use crate::store::{Change, Event, Revision, Watch, WatchEnd};

/// How often a quiet watch is told how far it has come.
pub const BOOKMARK_INTERVAL: Duration = crate::client::BOOKMARK_INTERVAL;
/// Watches without `timeoutSeconds` end after this long, and up to as long again (upstream's
/// min-request-timeout).
pub const MIN_WATCH_SECONDS: u64 = 1800;
/// The longest watch that can be asked for.
pub const MAX_WATCH_SECONDS: u64 = 24 * 3600;
/// How many events one batch has at most.
const BATCH_EVENTS: usize = 500;

/// What a watcher is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    Added(Bytes),
    Modified(Bytes),
    Deleted(Bytes),
    Bookmark {
        revision: Revision,
        /// The initial state ends here (`k8s.io/initial-events-end`).
        initial_end: bool,
    },
}

/// Batches (never empty) until the watch ends; an error is the last item.
pub type SentStream = BoxStream<'static, Result<Vec<Sent>, ApiError>>;

/// Options beyond [`WatchOptions`], which only HTTP callers use.
#[derive(Clone, Debug, Default)]
pub struct InitialEvents {
    pub send: Option<bool>,
    pub resource_version_match: String,
    /// A continue token came along, which watches have no use for.
    pub continues: bool,
}

struct Watcher {
    server: Arc<ApiServer>,
    call: Call,
    filter: Filter,
    watch: Watch,
    /// What is sent next: the initial state, then changes.
    waiting: VecDeque<Sent>,
    /// Everything up to here was sent.
    position: Revision,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    /// Tells of changes of the registry; of custom resources only, since others stay.
    registry: Option<tokio::sync::watch::Receiver<u64>>,
    ended: bool,
}

impl ApiServer {
    /// Starts a watch. Errors that HTTP sends as an event (a version that is too old) are errors
    /// here as well.
    pub async fn watch(
        self: &Arc<Self>,
        call: &Call,
        options: &WatchOptions,
        initial: &InitialEvents,
    ) -> Result<SentStream, ApiError> {
        self.authorize(call, "watch")?;
        if call.info.meta.measured {
            return Err(method_not_allowed());
        }
        check_initial(initial)?;
        let mut filter =
            Filter::parse(&call.info, &options.label_selector, &options.field_selector)?;
        let version = parse_version(&options.resource_version)?;
        if call.info.meta.computed {
            let from = version.filter(|version| *version > 0 && initial.send != Some(true));
            self.reached(from)?;
            let end = initial.send == Some(true) && options.bookmarks;
            return self.watch_computed(call, filter, options, from, end);
        }
        // A watch of one object reads nothing else.
        let prefix = match filter.pinned_name() {
            Some(name) if !call.namespace.is_empty() || !call.info.gvr.namespaced => {
                keys::object(&call.info, &call.namespace, name)
            }
            _ => keys::collection(&call.info, &call.namespace),
        };
        let wants_state = match initial.send {
            Some(send) => send,
            None => matches!(version, None | Some(0)),
        };
        let start = match version {
            Some(version) if version > 0 && !wants_state => version,
            version => {
                self.reached(version)?;
                self.store.revision()
            }
        };
        let mut waiting = VecDeque::new();
        if wants_state {
            let mut page = self.entries(&prefix, None, 0, Some(start)).await.map_err(read_error)?;
            self.convert_entries(&call.info, &mut page.entries).await?;
            for (index, entry) in page.entries.into_iter().enumerate() {
                if filter.matches(&call.info, &self.memo, &entry.value)? {
                    let value = versions::shown_raw(&call.info, entry.value);
                    waiting.push_back(Sent::Added(value));
                }
                if (index + 1) % STRIDE_ENTRIES == 0 {
                    tokio::task::yield_now().await;
                }
            }
            if initial.send == Some(true) && options.bookmarks {
                waiting.push_back(Sent::Bookmark { revision: start, initial_end: true });
            }
        }
        let watch = match routing::tag(&call.info, &filter) {
            Some(tag) => self.store.watch_tagged(&prefix, &tag, start),
            None => self.store.watch(&prefix, start),
        };
        let watch = watch.map_err(read_error)?;
        if filter.is_everything() {
            filter = Filter::default();
        }
        let now = Instant::now();
        let watcher = Watcher {
            deadline: now + self.watch_time(options.timeout),
            server: self.clone(),
            call: call.clone(),
            filter,
            watch,
            waiting,
            position: start,
            bookmarks: options.bookmarks,
            next_bookmark: now + self.first_bookmark(),
            registry: call.info.custom.is_some().then(|| self.definitions.changes()),
            ended: false,
        };
        Ok(futures::stream::unfold(watcher, |mut watcher| async move {
            watcher.next().await.map(|batch| (batch, watcher))
        })
        .boxed())
    }

    /// Up to a quarter sooner than later ones: watches that began together are told apart.
    fn first_bookmark(&self) -> Duration {
        let most = BOOKMARK_INTERVAL.as_millis() as u64 / 4;
        BOOKMARK_INTERVAL - Duration::from_millis(self.ids.below(most))
    }

    pub(super) fn watch_time(&self, asked: Option<Duration>) -> Duration {
        match asked.filter(|asked| !asked.is_zero()) {
            Some(asked) => asked.min(Duration::from_secs(MAX_WATCH_SECONDS)),
            None => Duration::from_secs(MIN_WATCH_SECONDS + self.ids.below(MIN_WATCH_SECONDS)),
        }
    }
}

/// Which options of a watch go together
/// (k8s.io/apimachinery/pkg/apis/meta/internalversion/validation).
fn check_initial(initial: &InitialEvents) -> Result<(), ApiError> {
    let path = Path::new("resourceVersionMatch");
    let mut errors = Errors::default();
    let asked = initial.resource_version_match.as_str();
    if initial.send.is_some() && asked != "NotOlderThan" {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.forbidden(&path, why);
    }
    if !asked.is_empty() {
        if initial.send.is_none() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is \
                       provided";
            errors.forbidden(&path, why);
        }
        if asked != "NotOlderThan" {
            errors.not_supported(&path, asked, &["NotOlderThan"]);
        }
        if initial.continues {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.forbidden(&path, why);
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid_options("ListOptions", errors.into_vec())),
    }
}

/// What a watcher goes on for.
enum Woken {
    Events(Result<Vec<Event>, WatchEnd>),
    Registry,
    Time,
}

/// Waits for the next change of the registry; for ever without one to wait for.
async fn changed(registry: &mut Option<tokio::sync::watch::Receiver<u64>>) {
    let told = match registry {
        Some(registry) => registry.changed().await.is_ok(),
        None => false,
    };
    if !told {
        std::future::pending().await
    }
}

impl Watcher {
    /// The next batch, or `None` at the end.
    async fn next(&mut self) -> Option<Result<Vec<Sent>, ApiError>> {
        if !self.waiting.is_empty() {
            return Some(Ok(self.batch()));
        }
        if self.ended {
            return None;
        }
        loop {
            let wake = self.next_bookmark.min(self.deadline);
            let events = tokio::select! {
                biased;
                events = self.watch.next() => Woken::Events(events),
                () = changed(&mut self.registry) => Woken::Registry,
                () = tokio::time::sleep_until(wake) => Woken::Time,
            };
            let taken = match events {
                Woken::Events(Ok(events)) => self.take(events).await,
                // Ending the stream makes the client begin again from what it has seen.
                Woken::Events(Err(WatchEnd::Closed | WatchEnd::TooSlow)) => return None,
                Woken::Registry => {
                    // The kind is gone, or is another one now: so is the watch.
                    self.ended = !self.server.serves(&self.call.info);
                    Ok(())
                }
                Woken::Time => self.wake().await,
            };
            if let Err(error) = taken {
                self.ended = true;
                return Some(Err(error));
            }
            if !self.waiting.is_empty() {
                return Some(Ok(self.batch()));
            }
            if self.ended {
                return None;
            }
        }
    }

    /// A bounded part of what waits.
    fn batch(&mut self) -> Vec<Sent> {
        let count = self.waiting.len().min(BATCH_EVENTS);
        self.waiting.drain(..count).collect()
    }

    /// A minute has passed, or the time is up.
    async fn wake(&mut self) -> Result<(), ApiError> {
        let now = Instant::now();
        self.ended = now >= self.deadline;
        self.next_bookmark = now + BOOKMARK_INTERVAL;
        if self.bookmarks {
            self.catch_up().await?;
            let bookmark = Sent::Bookmark { revision: self.position, initial_end: false };
            self.waiting.push_back(bookmark);
        }
        Ok(())
    }

    /// Moves the position to the newest revision that watchers were told of. What comes at this
    /// very moment is taken too; else the position stays where it is.
    async fn catch_up(&mut self) -> Result<(), ApiError> {
        if self.watch.caught_up().is_none()
            && let Some(Ok(events)) = self.watch.next().now_or_never()
        {
            self.take(events).await?;
        }
        if let Some(revision) = self.watch.caught_up() {
            self.position = self.position.max(revision);
        }
        Ok(())
    }

    async fn take(&mut self, events: Vec<Event>) -> Result<(), ApiError> {
        let events = self.server.converted_events(&self.call.info, events).await?;
        for event in events {
            self.position = self.position.max(event.revision);
            if let Some(sent) = self.one(event)? {
                self.waiting.push_back(sent);
            }
        }
        Ok(())
    }

    /// What an event means to this watcher: with selectors, an object that stops matching is
    /// deleted, one that begins to match is added.
    fn one(&self, event: Event) -> Result<Option<Sent>, ApiError> {
        let shown = |raw: Bytes| versions::shown_raw(&self.call.info, raw);
        let matches = |raw: &Bytes| self.filter.matches(&self.call.info, &self.server.memo, raw);
        Ok(match event.change {
            Change::Put { value, previous } => {
                let was = previous.as_ref().map(&matches).transpose()?.unwrap_or(false);
                match (was, matches(&value)?) {
                    (false, false) => None,
                    (false, true) => Some(Sent::Added(shown(value))),
                    (true, true) => Some(Sent::Modified(shown(value))),
                    (true, false) => Some(Sent::Deleted(shown(value))),
                }
            }
            Change::Delete { last, previous } => {
                matches(&previous)?.then(|| Sent::Deleted(shown(last)))
            }
        })
    }
}
