//! A pod worker's inbox: the newest wanted state, and what happened since the last turn. Nothing
//! is dropped and nothing grows without bound: wanted states replace each other, and every other
//! message answers something that the worker began.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::pod_events::Event;
use super::pods::Object;
use super::setup::SetupError;
use super::start::{StartFailure, Started};
use crate::node::ip::PodIp;
use crate::volumes::Objects;

/// What a worker is told.
pub enum Message {
    /// Exits and probe results.
    Event(Event),
    SetUp(Result<(PodIp, Objects), SetupError>),
    Start {
        container: String,
        attempt: i32,
        result: Result<Started, StartFailure>,
    },
    TornDown,
    /// Look at the volumes again: objects may have changed, limits may be passed.
    Refresh,
    /// What the volumes are made of now.
    Refreshed(Arc<Objects>),
}

/// What a worker takes per turn.
#[derive(Default)]
pub struct Batch {
    pub desired: Option<Desired>,
    pub messages: Vec<Message>,
}

/// The object as the API has it now.
#[derive(Clone)]
pub enum Desired {
    Pod(Object),
    Gone,
}

#[derive(Default)]
pub struct Inbox {
    batch: Mutex<Batch>,
    wake: Notify,
}

impl Inbox {
    /// Replaces the wanted state; `Gone` stays.
    pub fn desire(&self, desired: Desired) {
        let mut batch = self.batch.lock();
        if !matches!(batch.desired, Some(Desired::Gone)) {
            batch.desired = Some(desired);
        }
        drop(batch);
        self.wake.notify_one();
    }

    pub fn push(&self, message: Message) {
        let mut batch = self.batch.lock();
        if matches!(message, Message::Refresh)
            && batch.messages.iter().any(|m| matches!(m, Message::Refresh))
        {
            return;
        }
        if let Message::Event(Event::Readiness { id, .. }) = &message {
            // The newest word counts, however often a guest says it.
            let older = |m: &Message| matches!(m, Message::Event(Event::Readiness { id: of, .. }) if of == id);
            batch.messages.retain(|m| !older(m));
        }
        batch.messages.push(message);
        drop(batch);
        self.wake.notify_one();
    }

    pub fn event(&self, event: Event) {
        self.push(Message::Event(event));
    }

    /// Everything that waits; empty if nothing does.
    pub fn drain(&self) -> Batch {
        std::mem::take(&mut self.batch.lock())
    }

    /// Resolves when something was put in since the last drain. Cancel-safe.
    pub async fn ready(&self) {
        self.wake.notified().await;
    }
}
