//! Makes the room that was decided on: the nomination is written first, so that nobody is evicted
//! for a pod that is gone; then each victim is told why, and deleted with its grace.
//! Source: k8s.io/kubernetes pkg/scheduler/framework/preemption/executor.go.

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::gangs::{GangPreemption, Member};
use super::nominees::Displaced;
use super::pod_info::{PREEMPTED, PodInfo};
use super::preemption::{Preemption, Victim};
use super::state::reference;
use super::{NAME, Scheduler};
use crate::api::ApiError;
use crate::client::DeleteOptions;
use crate::client::event::{Notice, Severity};

/// Victims that are evicted at a time, or pods of a gang that are told their nodes.
const WRITES_IN_FLIGHT: usize = 16;

/// For whom pods leave, and by which profile.
struct By<'a> {
    who: String,
    profile: &'a str,
}

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
        let by = By { who: format!("pod {}", pod.uid), profile: &pod.wants.scheduler };
        if !self.make_room(&preemption.victims, &preemption.displaced, &by).await {
            self.state.lock().try_again(pod, self.clock.now());
        }
    }

    /// Nobody goes before all pods of the gang are told their nodes.
    pub(super) async fn preempt_for_gang(&self, preemption: &GangPreemption) {
        let tell = |member: &'_ Member| {
            let (pod, node) = (member.pod.clone(), member.node.clone());
            let message = member.refusal.message();
            async move {
                self.tell_refused(&pod, "Unschedulable", message, Some(Some(&node))).await
            }
            .boxed()
        };
        let told: Vec<BoxFuture<'_, bool>> = preemption.members.iter().map(tell).collect();
        let told = futures::stream::iter(told).buffer_unordered(WRITES_IN_FLIGHT);
        let told: Vec<bool> = told.collect().await;
        let now = self.clock.now();
        if told.contains(&false) {
            let mut state = self.state.lock();
            preemption.victims.iter().for_each(|victim| state.snapshot.spare(&victim.uid));
            for member in &preemption.members {
                state.snapshot.end_nomination(&member.pod.uid, "");
                state.try_again(&member.pod, now);
            }
            state.wake_freed(now);
            return;
        }
        let profile = preemption.members.first().map_or(NAME, |one| &one.pod.wants.scheduler);
        let by = By { who: format!("pod group {}", preemption.group), profile };
        if !self.make_room(&preemption.victims, &preemption.displaced, &by).await {
            let mut state = self.state.lock();
            preemption.members.iter().for_each(|member| state.try_again(&member.pod, now));
        }
    }

    /// Answers whether all victims go.
    async fn make_room(&self, victims: &[Victim], displaced: &[Displaced], by: &By<'_>) -> bool {
        for nominee in displaced {
            let status = json!({"nominatedNodeName": null});
            if let Err(error) = self.patch_status(&nominee.key, &nominee.uid, status).await {
                tracing::debug!(pod = %nominee.key, %error, "a nomination was not taken back");
            }
        }
        let staying = victims.iter().filter(|victim| !victim.is_leaving);
        let evictions: Vec<BoxFuture<'_, bool>> =
            staying.map(|victim| self.evict_or_spare(victim, by).boxed()).collect();
        let evictions = futures::stream::iter(evictions).buffer_unordered(WRITES_IN_FLIGHT);
        let results: Vec<bool> = evictions.collect().await;
        !results.contains(&false)
    }

    async fn evict_or_spare(&self, victim: &Victim, by: &By<'_>) -> bool {
        let Err(error) = self.evict(victim, by).await else { return true };
        tracing::debug!(pod = %victim.key, %error, "a victim was not evicted");
        self.state.lock().snapshot.spare(&victim.uid);
        false
    }

    async fn evict(&self, victim: &Victim, by: &By<'_>) -> Result<(), ApiError> {
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": PREEMPTED,
            "message": format!("{}: preempting to accommodate a higher priority pod", by.profile),
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
        let message = format!("Preempted by {} on node {}", by.who, victim.node);
        let (severity, reason) = (Severity::Normal, "Preempted".into());
        (self.tell)(by.profile, Notice { regarding, severity, reason, message });
        Ok(())
    }
}
