//! The pods of all simulated nodes: one watch, and the writes that follow.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::book::{Action, Due};
use super::feed::{Feed, Sink};
use super::status::Seen;
use super::{RETRY, Shared};
use crate::api::{ApiError, Raw};
use crate::client::{DeleteOptions, Patch, Target, WriteOptions};

/// Watches the pods that are bound to any node.
pub async fn follow(shared: Arc<Shared>) {
    shared.leased().await;
    let feed = Feed {
        target: Target::all::<Pod>(None),
        labels: String::new(),
        fields: "spec.nodeName!=".into(),
    };
    feed.run(&shared.client.api, &Pods(&shared)).await;
}

struct Pods<'a>(&'a Shared);

impl Sink for Pods<'_> {
    fn list(&self) {
        self.0.book.lock().list();
    }

    fn see(&self, raw: &Raw) {
        let Some(pod) = Seen::read(&raw.0) else { return };
        let wait = self.0.book.lock().see(&pod);
        match wait {
            Some(wait) if wait.is_zero() => self.0.pods.mark(pod.uid().into()),
            Some(wait) => self.0.pods.mark_after(pod.uid().into(), wait),
            None => {}
        }
    }

    fn listed(&self) {
        self.0.book.lock().listed();
    }

    fn gone(&self, raw: &Raw) {
        if let Some(pod) = Seen::read(&raw.0) {
            self.0.book.lock().forget(pod.uid());
        }
    }
}

/// Writes what is due about one pod.
pub async fn work(shared: Arc<Shared>) {
    let uid = shared.pods.take().await;
    let due = shared.book.lock().due(&uid);
    if let Some(due) = due {
        match write(&shared, &uid, &due).await {
            Ok(()) => {
                let next = shared.book.lock().done(&uid, &due.action);
                if due.action == Action::Wait {
                    tracing::warn!(pod = due.name, "no address is left for a simulated pod");
                    shared.pods.mark_after(uid.clone(), RETRY);
                } else if let Some(wait) = next {
                    shared.pods.mark_after(uid.clone(), wait);
                }
            }
            Err(error) if error.is_not_found() => shared.book.lock().forget(&uid),
            // A conflict too: where another pod has its name, the watch tells so soon.
            Err(error) => {
                tracing::debug!(pod = due.name, %error, "a pod was not told");
                shared.pods.mark_after(uid.clone(), RETRY);
            }
        }
    }
    shared.pods.done(&uid);
}

async fn write(shared: &Shared, uid: &str, due: &Due) -> Result<(), ApiError> {
    let now = shared.clock.now();
    let status = match &due.action {
        Action::Wait => return Ok(()),
        Action::Run { facts, address } => {
            facts.running(uid, *address, &shared.options.host_ip.to_string(), now)
        }
        Action::Finish { facts, .. } => facts.finished(uid, now),
        Action::Delete { held } => {
            // Whoever holds it wants to know how it ended, as a Job does.
            if *held {
                tell(shared, uid, due, json!({"phase": "Failed"})).await?;
            }
            let options = DeleteOptions {
                grace_period_seconds: Some(0),
                uid: Some(uid.to_string()),
                ..DeleteOptions::default()
            };
            return shared.client.delete::<Pod>(&due.namespace, &due.name, &options).await;
        }
    };
    tell(shared, uid, due, status).await
}

async fn tell(shared: &Shared, uid: &str, due: &Due, status: Value) -> Result<(), ApiError> {
    let target = Target::one::<Pod>(&due.namespace, &due.name).subresource("status");
    let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
    let options = WriteOptions::default();
    shared.client.api.patch(&target, patch, &options).await.map(drop)
}
