//! Fencing: an agent that could not renew its lease for as long as it holds must expect that the
//! control plane gave its node up, and then replaces its pods as soon as their tolerations of
//! `node.kubernetes.io/unreachable` are over. With [`super::Options::fence`] those pods end here by
//! that time, so that an old one does not go on serving beside the new one.
//!
//! ```text
//!   last renewal ──lease──▶ given up ──tolerationSeconds of a pod──▶ that pod ends (Fenced)
//!        ▲ counted from when it was sent: the control plane counts from later
//! ```
//!
//! It is asked for, not the rule: who is cut off cannot know whether the control plane is, too, and
//! without the option its outage costs nobody a pod. Pods that tolerate for ever run on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Taint};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shared;
use super::pod_events::Event;
use crate::api::placement::tolerates;
use crate::client::event::Notice;

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NO_EXECUTE: &str = "NoExecute";
const FENCED: &str = "Fenced";

/// When the lease was renewed last.
#[derive(Default)]
pub struct Renewals {
    last: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Renewals {
    /// It was, by a request that was sent at this time.
    pub fn renewed(&self, sent: Instant) {
        *self.last.lock() = Some(sent);
        self.changed.notify_one();
    }
}

/// Ends pods whose time is over.
pub async fn keep_fencing(node: Arc<Shared>) {
    let mut ended: HashSet<String> = HashSet::new();
    loop {
        let last = *node.renewals.last.lock();
        let wait = match last {
            // What was never told of is not given up.
            None => None,
            Some(last) => {
                let quiet = last.elapsed();
                let held = node.lease_times().duration;
                match held.checked_sub(quiet) {
                    Some(left) if !left.is_zero() => {
                        ended.clear();
                        Some(left)
                    }
                    _ => fence(&node, quiet - held, &mut ended),
                }
            }
        };
        tokio::select! {
            () = node.renewals.changed.notified() => {}
            () = sleep(&node, wait) => {}
        }
    }
}

async fn sleep(node: &Shared, wait: Option<Duration>) {
    match wait {
        Some(wait) => node.clock.sleep(wait).await,
        None => std::future::pending().await,
    }
}

/// Ends what is due after the node was given up for so long; the wait until the next one is.
fn fence(node: &Shared, lost_for: Duration, ended: &mut HashSet<String>) -> Option<Duration> {
    let mut next: Option<Duration> = None;
    for (_, entry) in node.pods.all() {
        let pod = entry.pod();
        let Some(after) = ends_after(&pod) else { continue };
        if let Some(left) = after.checked_sub(lost_for).filter(|left| !left.is_zero()) {
            next = Some(next.map_or(left, |before| before.min(left)));
        } else if ended.insert(entry.uid.clone()) {
            let message = format!(
                "The node could not renew its lease for {:?}, which the pod tolerates no longer: it \
                 may have been replaced",
                node.lease_times().duration + after
            );
            node.tell(Notice::warning(&*pod, FENCED, message.clone()));
            entry.inbox.event(Event::Evicted { reason: FENCED.into(), message });
        }
    }
    next
}

/// How long after its node was given up the control plane deletes a pod; `None`: never.
fn ends_after(pod: &Pod) -> Option<Duration> {
    let taint =
        Taint { key: UNREACHABLE.into(), effect: NO_EXECUTE.into(), value: None, time_added: None };
    let all = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let mut matching = all.filter(|one| tolerates(one, &taint)).peekable();
    if matching.peek().is_none() {
        return Some(Duration::ZERO);
    }
    let seconds = matching.filter_map(|one| one.toleration_seconds).min()?;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_pod_ends_with_the_shortest_of_its_tolerations() {
        let of = |tolerations: Value| {
            let pod = json!({"spec": {"containers": [], "tolerations": tolerations}});
            ends_after(&serde_json::from_value(pod).unwrap()).map(|time| time.as_secs())
        };
        let unreachable = |seconds: Value| {
            json!({"key": UNREACHABLE, "operator": "Exists", "effect": NO_EXECUTE,
                "tolerationSeconds": seconds})
        };
        assert_eq!(of(json!([])), Some(0));
        assert_eq!(of(json!([{"key": "other", "operator": "Exists"}])), Some(0));
        assert_eq!(of(json!([unreachable(json!(300))])), Some(300));
        assert_eq!(of(json!([unreachable(json!(300)), unreachable(json!(9))])), Some(9));
        assert_eq!(of(json!([unreachable(json!(-1))])), Some(0));
        assert_eq!(of(json!([unreachable(Value::Null)])), None);
        assert_eq!(of(json!([{"operator": "Exists"}])), None);
    }
}
