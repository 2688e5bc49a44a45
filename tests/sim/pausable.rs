//! A process that can be stopped at any await, as by SIGSTOP, and what it then does as a leader whose
//! term is over.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use wasmfleet::api::{ApiError, Raw};
use wasmfleet::client::around::{Around, Call, Write};
use wasmfleet::client::cache::parse_revision;
use wasmfleet::client::election::{Fence, LOST};
use wasmfleet::client::{SharedApi, Target, WatchOptions, WatchStream};

use super::truth::terms::Terms;

/// A write takes so long on its way, so that there is something to be stopped.
const WAY: Duration = Duration::from_millis(5);

/// What does not come through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pause {
    #[default]
    Runs,
    /// The process lives, but its renewals do not come through.
    Leases,
    All,
}

/// The API as a process sees it. What is on its way when it is stopped arrives when it goes on,
/// whether or not somebody still waits for the answer.
#[derive(Clone)]
pub struct Pausable {
    inner: SharedApi,
    state: Arc<State>,
    terms: Arc<Terms>,
}

#[derive(Default)]
struct State {
    pause: Mutex<Pause>,
    changed: Notify,
}

impl Pausable {
    pub fn new(inner: SharedApi, terms: Arc<Terms>) -> Pausable {
        Pausable { inner, state: Arc::default(), terms }
    }

    pub fn set(&self, pause: Pause) {
        *self.state.pause.lock() = pause;
        self.state.changed.notify_waiters();
    }

    fn pause(&self) -> Pause {
        *self.state.pause.lock()
    }

    async fn while_paused(&self, holds: impl Fn(Pause) -> bool) {
        loop {
            // Before the look, so that no change falls between.
            let changed = self.state.changed.notified();
            if !holds(self.pause()) {
                return;
            }
            changed.await;
        }
    }

    async fn runs(&self, target: &Target) {
        let is_lease = is_lease(target);
        let holds = |pause| pause == Pause::All || (pause == Pause::Leases && is_lease);
        self.while_paused(holds).await;
    }

    fn note(&self, target: &Target, fence: Option<&Fence>, result: &Result<Raw, ApiError>) {
        match (result, fence) {
            (Ok(raw), Some(fence)) => {
                // A binding tells no revision, and a write that changed nothing an old one.
                let object = raw.object().expect("an answer is an object");
                let revision = parse_revision(object.resource_version());
                self.terms.wrote(&fence.name, fence.transitions, revision);
            }
            (Ok(_), None) if !is_lease(target) && &*target.resource.resource != "events" => {
                self.terms.violate(format!("{} was written under no term", target.path()));
            }
            (Err(error), Some(_)) => {
                let causes = error.details.iter().flat_map(|details| &details.causes);
                if causes.into_iter().any(|cause| cause.reason == LOST) {
                    self.terms.refused();
                }
            }
            _ => {}
        }
    }
}

fn is_lease(target: &Target) -> bool {
    &*target.resource.resource == "leases"
}

impl Around for Pausable {
    fn inner(&self) -> SharedApi {
        self.inner.clone()
    }

    async fn before(&self, call: Call<'_>) -> Result<(), ApiError> {
        if let Call::Get(target) | Call::List(target) | Call::Watch(target) = call {
            self.runs(target).await;
        }
        Ok(())
    }

    async fn watch(
        &self,
        target: &Target,
        options: &WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        let stream = self.inner.watch(target, options).await?;
        let this = self.clone();
        Ok(stream
            .then(move |item| {
                let this = this.clone();
                async move {
                    this.while_paused(|pause| pause == Pause::All).await;
                    item
                }
            })
            .boxed())
    }

    async fn write(&self, write: Write<'_>) -> Result<Raw, ApiError> {
        let (this, target, mut write) = (self.clone(), write.target.clone(), write.into_owned());
        let (to, fence) = (write.target.clone(), write.what.fence().clone());
        let arrives = tokio::spawn(async move {
            tokio::time::sleep(WAY).await;
            this.runs(&to).await;
            let result = write.perform(&*this.inner).await;
            this.note(&to, fence.as_deref(), &result);
            result
        });
        let result = arrives.await.expect("the write does not panic");
        self.runs(&target).await;
        result
    }
}
