//! CronJob (batch/v1).

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::CronJob;
use serde_json::Value;

use super::{checks, job, labels, pod_template, workload};
use crate::api::cron::Schedule;
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

const CONCURRENCY: &[&str] = &["Allow", "Forbid", "Replace"];
/// Names of Jobs get 11 characters more than the CronJob's.
const MAX_NAME: usize = 52;

impl Kind for CronJob {
    const META: KindMeta = KindMeta {
        singular: "cronjob",
        short_names: &["cj"],
        categories: &["all"],
        status: true,
        generation: Generation::Spec,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        let policy = spec.concurrency_policy.get_or_insert_default();
        if policy.is_empty() {
            *policy = CONCURRENCY[0].into();
        }
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(3);
        spec.failed_jobs_history_limit.get_or_insert(1);
        job::set_defaults(spec.job_template.spec.get_or_insert_default());
        self.status.get_or_insert_default();
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let Some(spec) = &self.spec else { return errors.required(&path, "") };
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name.len() > MAX_NAME {
            let detail = format!("must be no more than {MAX_NAME} characters");
            errors.invalid(&Path::new("metadata").child("name"), name, &detail);
        }
        let schedule = path.child("schedule");
        if spec.schedule.is_empty() {
            errors.required(&schedule, "");
        } else if let Err(why) = Schedule::parse(&spec.schedule) {
            errors.invalid(&schedule, &spec.schedule, &why);
        }
        if let Some(zone) = &spec.time_zone {
            let path = path.child("timeZone");
            if zone.is_empty() {
                errors.invalid(&path, zone, "timeZone must be nil or non-empty string");
            } else if jiff::tz::TimeZone::get(zone).is_err() {
                errors.invalid(&path, zone, &format!("unknown time zone {zone}"));
            }
        }
        let policy = spec.concurrency_policy.as_deref().unwrap_or_default();
        checks::one_of(errors, &path.child("concurrencyPolicy"), policy, CONCURRENCY);
        let deadline = path.child("startingDeadlineSeconds");
        checks::nonnegative_if_set(errors, &deadline, spec.starting_deadline_seconds);
        let kept = path.child("successfulJobsHistoryLimit");
        checks::nonnegative_if_set(errors, &kept, spec.successful_jobs_history_limit);
        let kept = path.child("failedJobsHistoryLimit");
        checks::nonnegative_if_set(errors, &kept, spec.failed_jobs_history_limit);
        let path = path.child("jobTemplate");
        let template = spec.job_template.spec.clone().unwrap_or_default();
        job::validate_spec(errors, &path.child("spec"), &template);
    }

    fn warnings(&self) -> Vec<String> {
        let job = self.spec.as_ref().and_then(|spec| spec.job_template.spec.as_ref());
        let of = |template| {
            let root = Path::new("spec");
            let path = root.child("jobTemplate");
            pod_template::warnings_at(&path.child("spec").child("template"), template)
        };
        job.map(|job| of(&job.template)).unwrap_or_default()
    }

    fn columns() -> &'static [Column] {
        workload::columns![
            Column::new("Schedule", "string", "When jobs are started."),
            Column::new("Timezone", "string", "The zone of the schedule's times."),
            Column::new("Suspend", "boolean", "Whether no jobs are started."),
            Column::new("Active", "integer", "Jobs that run now."),
            Column::new("Last Schedule", "string", "When a job was started last."),
        ]
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let spec = self.spec.clone().unwrap_or_default();
        let status = self.status.clone().unwrap_or_default();
        let job = spec.job_template.spec.unwrap_or_default();
        let last = match &status.last_schedule_time {
            Some(time) => table::since(Some(time), now),
            None => "<none>".into(),
        };
        // Go prints the pointer's value.
        let suspend = if spec.suspend == Some(true) { "True" } else { "False" };
        let own = vec![
            spec.schedule.into(),
            spec.time_zone.unwrap_or_else(|| "<none>".into()).into(),
            suspend.into(),
            status.active.map_or(0, |active| active.len()).into(),
            last.into(),
        ];
        let selector = labels::format_selector(&job.selector.unwrap_or_default());
        workload::row(&self.metadata, own, Some(&job.template), Some(selector), now)
    }
}
