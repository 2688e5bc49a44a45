//! What a StatefulSet asks for, with its defaults resolved.

use std::ops::Range;

use k8s_openapi::api::apps::v1::StatefulSetSpec;

use crate::controllers::proportion::resolve;

pub struct Spec {
    pub start: i32,
    pub replicas: i32,
    pub is_ordered: bool,
    pub is_on_delete: bool,
    /// The first ordinal that is updated.
    pub partition: i32,
    /// Pods that an update may take away at a time; at least 1.
    pub unavailable: i32,
    pub min_ready_seconds: i32,
    /// Claims go with the set.
    pub deletes_claims: bool,
    /// Claims of ordinals that the set has no more go with their pods.
    pub deletes_claims_of_spare: bool,
}

impl Spec {
    pub fn of(spec: &StatefulSetSpec) -> Spec {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0).max(0);
        let strategy = spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0).max(0);
        let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let retention = spec.persistent_volume_claim_retention_policy.as_ref();
        let deletes = |policy: Option<&String>| policy.is_some_and(|policy| policy == "Delete");
        Spec {
            start,
            replicas,
            is_ordered: spec.pod_management_policy.as_deref() != Some("Parallel"),
            is_on_delete: strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete"),
            partition: start.saturating_add(partition),
            unavailable: most.map_or(1, |most| resolve(Some(most), replicas, false)).max(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            deletes_claims: deletes(retention.and_then(|policy| policy.when_deleted.as_ref())),
            deletes_claims_of_spare: deletes(
                retention.and_then(|policy| policy.when_scaled.as_ref()),
            ),
        }
    }

    pub fn ordinals(&self) -> Range<i32> {
        self.start..self.start.saturating_add(self.replicas)
    }

    pub fn has(&self, ordinal: i32) -> bool {
        self.ordinals().contains(&ordinal)
    }
}
