//! Makes the room that was decided on: the nomination is written first, so that nobody is evicted
//! for a pod that is gone; then each victim is told why, and deleted with its grace.
//! Source: k8s.io/kubernetes pkg/scheduler/framework/preemption/executor.go.

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::pod_info::{PREEMPTED, PodInfo};
use super::preemption::{Preemption, Victim};
use super::state::reference;
use super::{NAME, Scheduler};
use crate::api::ApiError;
use crate::client::DeleteOptions;
use crate::client::event::{Notice, Severity};

/// Victims of one pod that are evicted at a time.
const EVICTIONS_IN_FLIGHT: usize = 16;

impl Scheduler {
    pub(super) async fn preempt(&self, pod: &PodInfo, message: String, preemption: &Preemption) {
        let node = preemption.node.as_str();
        let told = self.tell_refused(pod, "Unschedulable", message, Some(Some(node))).await;
        if !told {
            // Nobody goes; the pod comes again after a back-off, if it is still there.
            let mut state = self.state.lock();
            state.snapshot.end_nomination(&pod.uid, "");
            preemption.victims.iter().for_each(|victim| state.snapshot.spare(&victim.uid));
            let now = self.clock.now();
            state.try_again(pod, now);
            state.wake_freed(now);
            return;
        }
        for nominee in &preemption.displaced {
            let status = json!({"nominatedNodeName": null});
            if let Err(error) = self.patch_status(&nominee.key, &nominee.uid, status).await {
                tracing::debug!(pod = %nominee.key, %error, "a nomination was not taken back");
            }
        }
        let staying = preemption.victims.iter().filter(|victim| !victim.is_leaving);
        let evictions: Vec<BoxFuture<'_, bool>> =
            staying.map(|victim| self.evict_or_spare(victim, pod, node).boxed()).collect();
        let evictions = futures::stream::iter(evictions).buffer_unordered(EVICTIONS_IN_FLIGHT);
        let results: Vec<bool> = evictions.collect().await;
        if results.contains(&false) {
            self.state.lock().try_again(pod, self.clock.now());
        }
    }

    async fn evict_or_spare(&self, victim: &Victim, pod: &PodInfo, node: &str) -> bool {
        let Err(error) = self.evict(victim, pod, node).await else { return true };
        tracing::debug!(pod = %victim.key, %error, "a victim was not evicted");
        self.state.lock().snapshot.spare(&victim.uid);
        false
    }

    async fn evict(&self, victim: &Victim, pod: &PodInfo, node: &str) -> Result<(), ApiError> {
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": PREEMPTED,
            "message": format!("{NAME}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": self.now(),
        });
        let told =
            self.patch_status(&victim.key, &victim.uid, json!({"conditions": [condition]})).await;
        if told.as_ref().is_err_and(ApiError::is_not_found) {
            return Ok(());
        }
        told?;
        let (space, name) = (&victim.key.namespace, &victim.key.name);
        let options = DeleteOptions { uid: Some(victim.uid.clone()), ..DeleteOptions::default() };
        let deleted = self.client.delete::<Pod>(space, name, &options).await;
        if deleted.as_ref().is_err_and(ApiError::is_not_found) {
            return Ok(());
        }
        deleted?;
        let regarding = reference(&victim.key, &victim.uid);
        let message = format!("Preempted by pod {} on node {node}", pod.uid);
        (self.tell)(Notice { regarding, severity: Severity::Normal, reason: "Preempted", message });
        Ok(())
    }
}
