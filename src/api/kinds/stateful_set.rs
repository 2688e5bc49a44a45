//! StatefulSet (apps/v1).

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume,
};
use serde_json::Value;

use super::workload::{self, Counters, ROLLING_UPDATE};
use super::{checks, labels, persistent_volume_claim, pod_template};
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta, NameRule};
use crate::api::table::{self, Column};

const ON_DELETE: &str = "OnDelete";
const POD_MANAGEMENT: &[&str] = &["OrderedReady", "Parallel"];
const RETENTION: &[&str] = &["Retain", "Delete"];

impl Kind for StatefulSet {
    const META: KindMeta = KindMeta {
        singular: "statefulset",
        short_names: &["sts"],
        categories: &["all"],
        status: true,
        scale: true,
        generation: Generation::Spec,
        // Its pods are named after it.
        name_rule: NameRule::Label,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        pod_template::set_defaults(&mut spec.template);
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(workload::REVISION_HISTORY_LIMIT);
        checks::default_text(&mut spec.pod_management_policy, POD_MANAGEMENT[0]);
        let strategy = spec.update_strategy.get_or_insert_default();
        if workload::default_strategy(&mut strategy.type_) {
            strategy.rolling_update.get_or_insert_default().partition.get_or_insert(0);
        }
        let retain = || Some(RETENTION[0].to_string());
        let policy = spec
            .persistent_volume_claim_retention_policy
            .get_or_insert_with(StatefulSetPersistentVolumeClaimRetentionPolicy::default);
        policy.when_deleted = policy.when_deleted.take().or_else(retain);
        policy.when_scaled = policy.when_scaled.take().or_else(retain);
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            claim.set_defaults(None);
        }
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        match &self.spec {
            Some(spec) => validate_spec(errors, &path, spec),
            None => errors.required(&path, ""),
        }
    }

    /// Upstream: only these may change (pkg/apis/apps/validation).
    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        let (Some(new), Some(old)) = (&self.spec, &old.spec) else { return };
        let mut same = new.clone();
        same.replicas = old.replicas;
        same.template = old.template.clone();
        same.update_strategy.clone_from(&old.update_strategy);
        same.min_ready_seconds = old.min_ready_seconds;
        same.ordinals.clone_from(&old.ordinals);
        same.revision_history_limit = old.revision_history_limit;
        let policy = &old.persistent_volume_claim_retention_policy;
        same.persistent_volume_claim_retention_policy.clone_from(policy);
        if same != *old {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
                          'template', 'updateStrategy', 'revisionHistoryLimit', \
                          'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            errors.forbidden(&Path::new("spec"), detail);
        }
    }

    fn validate_create(&self, errors: &mut Errors) {
        let service = self.spec.as_ref().and_then(|spec| spec.service_name.as_deref());
        if let Some(service) = service.filter(|name| !name.is_empty()) {
            checks::dns_label(errors, &Path::new("spec").child("serviceName"), service);
        }
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        let status = self.status.clone().unwrap_or_default();
        let counters = Counters {
            replicas: status.replicas,
            updated: status.updated_replicas,
            current: status.current_replicas,
            ready_name: Some("status.readyReplicas"),
            ready: status.ready_replicas,
            available: status.available_replicas,
            observed_generation: status.observed_generation,
            ..Counters::default()
        };
        workload::validate_counters(errors, counters);
        let old_count = old.status.as_ref().and_then(|status| status.collision_count);
        workload::validate_collisions(errors, status.collision_count, old_count);
    }

    fn warnings(&self) -> Vec<String> {
        let Some(spec) = &self.spec else { return Vec::new() };
        let claims = spec.volume_claim_templates.iter().flatten();
        let claims = claims.flat_map(PersistentVolumeClaim::warnings);
        pod_template::warnings(&spec.template).into_iter().chain(claims).collect()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Ready", "string", "Number of the pod with ready state"),
            table::AGE,
            workload::CONTAINERS,
            workload::IMAGES,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let ready = status.ready_replicas.unwrap_or_default();
        let own = vec![format!("{ready}/{}", spec.replicas.unwrap_or_default()).into()];
        workload::row(&self.metadata, own, Some(&spec.template), None, now)
    }
}

fn validate_spec(errors: &mut Errors, path: &Path, spec: &StatefulSetSpec) {
    let management = spec.pod_management_policy.as_deref().unwrap_or_default();
    let at = path.child("podManagementPolicy");
    if management.is_empty() {
        errors.required(&at, "");
    } else if !POD_MANAGEMENT.contains(&management) {
        errors.invalid(&at, management, "must be 'OrderedReady' or 'Parallel'");
    }
    if let Some(strategy) = &spec.update_strategy {
        let path = path.child("updateStrategy");
        let type_ = strategy.type_.as_deref().unwrap_or_default();
        if type_.is_empty() {
            errors.required(&path, "");
        } else if !matches!(type_, ROLLING_UPDATE | ON_DELETE) {
            errors.invalid(&path, strategy, "must be 'RollingUpdate' or 'OnDelete'");
        }
        let rolling_path = path.child("rollingUpdate");
        match &strategy.rolling_update {
            Some(rolling) if type_ == ROLLING_UPDATE => {
                let partition = rolling_path.child("partition");
                checks::nonnegative_if_set(errors, &partition, rolling.partition);
                if let Some(unavailable) = &rolling.max_unavailable {
                    let path = rolling_path.child("maxUnavailable");
                    workload::validate_count_or_percent(errors, &path, unavailable);
                    if workload::count_or_percent(Some(unavailable)).unwrap_or(0) == 0 {
                        errors.invalid(&path, unavailable, "cannot be 0");
                    }
                    workload::validate_no_more_than_all(errors, &path, unavailable);
                }
            }
            Some(_) if type_ == ON_DELETE => {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid(&rolling_path, &strategy.rolling_update, detail);
            }
            _ => {}
        }
    }
    if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for (field, value) in
            [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)]
        {
            let value = value.as_deref().unwrap_or_default();
            if !RETENTION.contains(&value) {
                errors.not_supported(&path.child(field), value, RETENTION);
            }
        }
    }
    let (min_ready, history) = (spec.min_ready_seconds, spec.revision_history_limit);
    workload::validate_numbers(errors, path, spec.replicas, min_ready, history);
    if let Some(ordinals) = &spec.ordinals {
        let path = path.child("ordinals");
        checks::nonnegative_if_set(errors, &path.child("start"), ordinals.start);
    }
    workload::validate_selector(errors, &path.child("selector"), &spec.selector);
    let template = path.child("template");
    let claims = spec.volume_claim_templates.as_deref().unwrap_or_default();
    let (pods, selector) = (with_claims(&spec.template, claims), &spec.selector);
    pod_template::validate_for_selector(errors, &template, &pods, selector, "StatefulSet");
    validate_claims(errors, &path.child("volumeClaimTemplates"), claims);
}

/// The template as pods are made of it: its containers may mount what the claims are of.
fn with_claims(template: &PodTemplateSpec, claims: &[PersistentVolumeClaim]) -> PodTemplateSpec {
    let mut template = template.clone();
    let Some(spec) = &mut template.spec else { return template };
    let volumes = claims.iter().map(|claim| {
        let name = claim.metadata.name.clone().unwrap_or_default();
        let claim = PersistentVolumeClaimVolumeSource { claim_name: name.clone(), read_only: None };
        Volume { name, persistent_volume_claim: Some(claim), ..Volume::default() }
    });
    set_volumes(&mut spec.volumes, volumes.collect());
    template
}

/// Puts volumes in place of those of their names, first (upstream's updateStorage).
pub fn set_volumes(volumes: &mut Option<Vec<Volume>>, mut new: Vec<Volume>) {
    if new.is_empty() {
        return;
    }
    let old = volumes.take().unwrap_or_default();
    let names: BTreeSet<String> = new.iter().map(|volume| volume.name.clone()).collect();
    new.extend(old.into_iter().filter(|volume| !names.contains(&volume.name)));
    *volumes = Some(new);
}

/// Stricter than upstream, which finds out when the first claim is refused: a template's name is
/// that of a volume of its pods, and its spec that of a claim.
fn validate_claims(errors: &mut Errors, path: &Path, claims: &[PersistentVolumeClaim]) {
    let mut seen = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = path.index(i);
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let at = path.child("metadata");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            checks::dns_label(errors, &at.child("name"), name);
        }
        if !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        labels::validate_labels(errors, &at.child("labels"), claim.metadata.labels.as_ref());
        let annotations = claim.metadata.annotations.as_ref();
        labels::validate_annotations(errors, &at.child("annotations"), annotations);
        let spec = claim.spec.clone().unwrap_or_default();
        persistent_volume_claim::validate_spec(errors, &path.child("spec"), &spec);
    }
}
