//! The pod lifecycle event generator: the runtime pushes events by container id, this hands each
//! to the inbox of its pod. There is no polling of container states.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ContainerStateTerminated;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;

use super::inbox::Inbox;
use super::pod_events::Event;
use crate::runtime::{ContainerId, Exit, ExitReason, RuntimeEvent};

/// Which pod a container belongs to.
#[derive(Default)]
pub struct Pleg {
    inboxes: Mutex<HashMap<ContainerId, Arc<Inbox>>>,
}

impl Pleg {
    /// From now on, events of the container go to this inbox. Call before it is started.
    pub fn register(&self, id: &str, inbox: &Arc<Inbox>) {
        self.inboxes.lock().insert(id.to_string(), inbox.clone());
    }

    /// The container was given up, or never started.
    pub fn forget(&self, id: &str) {
        self.inboxes.lock().remove(id);
    }

    /// Routes one event. That a container started is told by the start itself.
    pub fn route(&self, event: RuntimeEvent) {
        let (id, exit) = match event {
            RuntimeEvent::Started { .. } => return,
            RuntimeEvent::Readiness { id, ready } => {
                let inbox = self.inboxes.lock().get(&id).cloned();
                if let Some(inbox) = inbox {
                    inbox.event(Event::Readiness { id, ready });
                }
                return;
            }
            RuntimeEvent::Exited { id, exit } => (id, exit),
        };
        // Nothing comes after an exit.
        let inbox = self.inboxes.lock().remove(&id);
        if let Some(inbox) = inbox {
            let exit = terminated(&id, exit);
            inbox.event(Event::Exited { id, exit });
        }
    }
}

/// An exit as the API tells it.
pub fn terminated(id: &str, exit: Exit) -> ContainerStateTerminated {
    let reason = match exit.reason {
        ExitReason::Completed => "Completed",
        ExitReason::Error => "Error",
        ExitReason::OomKilled => "OOMKilled",
    };
    ContainerStateTerminated {
        container_id: Some(format!("wasmtime://{id}")),
        exit_code: exit.code,
        reason: Some(reason.into()),
        message: Some(exit.message).filter(|message| !message.is_empty()),
        started_at: Some(Time(exit.started_at)),
        finished_at: Some(Time(exit.finished_at)),
        signal: None,
    }
}
