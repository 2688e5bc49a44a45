//! CronJob: Jobs at the times of a schedule, and only so many old ones kept.
//!
//! A Job is named by the minute that it was due, so that the same time never makes two. It knows of
//! Jobs what their conditions say, and nothing of pods. Jobs that somebody made of its template by
//! hand are its own to clean up, but hold nothing back.
//! Source: k8s.io/kubernetes pkg/controller/cronjob/cronjob_controllerv2.go.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::job::{finished, is_complete};
use super::ownership::{
    annotation, controlled_by_kind, controller_reference, name, namespace as namespace_of, uid,
};
use super::plan::{Action, Outcome};
use super::{Controller, Plan, namespace};
use crate::api::ObjectKey;
use crate::api::cron::Schedule;
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};
use crate::client::event::{Notice, reference};

/// When a Job was due (batch/v1 CronJobScheduledTimestampAnnotation).
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More times than this that were missed are told: a clock is wrong, or nobody was there for long.
const MANY_MISSED: usize = 100;
/// The time has surely come on every clock.
const LATER: Duration = Duration::from_millis(100);

pub struct CronJobController;

impl Controller for CronJobController {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn keys(&self, change: &Changed, _view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<CronJob>() {
            return vec![change.key.clone()];
        }
        let (old, new) = change.typed::<Job>();
        let owner = |job: &Job| {
            let owner = controlled_by_kind::<CronJob>(&job.metadata)?;
            Some(ObjectKey::new(namespace_of(&job.metadata), owner.name.as_str()))
        };
        let mut keys: Vec<ObjectKey> = [old, new].into_iter().flatten().filter_map(owner).collect();
        keys.dedup();
        keys
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<CronJob>(), Gvr::of::<Job>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan {
        let Some(cron) = view.get_key::<CronJob>(key) else { return Plan::nothing() };
        let Some(spec) = &cron.spec else { return Plan::nothing() };
        let own = |job: &&Job| {
            let owner = controlled_by_kind::<CronJob>(&job.metadata);
            owner.is_some_and(|owner| owner.uid == uid(&cron.metadata))
        };
        let jobs = view.owned_by::<Job>(uid(&cron.metadata)).map(|job| &**job).filter(own);
        let mut pass = Pass {
            cron,
            spec,
            jobs: jobs.collect(),
            now,
            status: cron.status.clone().unwrap_or_default(),
            plan: Plan::nothing(),
        };
        pass.follow();
        pass.forget_old();
        let is_ending = namespace::is_ending(view, &key.namespace);
        if cron.metadata.deletion_timestamp.is_none() && spec.suspend != Some(true) && !is_ending {
            pass.start();
        }
        pass.end()
    }

    fn settle(&self, view: &View, key: &ObjectKey, outcomes: &[Outcome], _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(cron) = view.get_key::<CronJob>(key) else { return plan };
        for outcome in outcomes.iter().filter(|one| one.target.resource == Gvr::of::<Job>()) {
            let job = outcome.target.name.as_deref().unwrap_or_default();
            plan.notices.push(match (outcome.action, &outcome.result) {
                (Action::Create, Ok(())) => {
                    Notice::normal(&**cron, "SuccessfulCreate", format!("Created job {job}"))
                }
                (Action::Delete, Ok(())) => {
                    Notice::normal(&**cron, "SuccessfulDelete", format!("Deleted job {job}"))
                }
                // The time was served already, and the status tells it next.
                (Action::Create, Err(error)) if error.is_already_exists() => continue,
                (Action::Create, Err(error)) if !namespace::is_refusal_of_ending(error) => {
                    let text = format!("Error creating job: {error}");
                    Notice::warning(&**cron, "FailedCreate", text)
                }
                _ => continue,
            });
        }
        plan
    }
}

struct Pass<'a> {
    cron: &'a CronJob,
    spec: &'a CronJobSpec,
    jobs: Vec<&'a Job>,
    now: Timestamp,
    status: CronJobStatus,
    plan: Plan,
}

/// Jobs of the schedule that go on, also those that are on their way out.
fn is_active(job: &Job) -> bool {
    finished(job).is_none() && annotation(&job.metadata, SCHEDULED).is_some()
}

impl<'a> Pass<'a> {
    /// What runs, what does not any more, and when the last one succeeded.
    fn follow(&mut self) {
        let before = self.status.active.take().unwrap_or_default();
        for entry in &before {
            let job = self.jobs.iter().find(|job| job.metadata.uid == entry.uid);
            let name = entry.name.as_deref().unwrap_or_default();
            match job {
                Some(job) if finished(job).is_some() => {
                    let end = if is_complete(job) { "Complete" } else { "Failed" };
                    let text = format!("Saw completed job: {name}, condition: {end}");
                    self.tell("SawCompletedJob", text);
                }
                None => self.tell("MissingJob", format!("Active job went missing: {name}")),
                _ => {}
            }
        }
        let active = self.jobs.iter().copied().filter(|job| is_active(job));
        let mut active: Vec<ObjectReference> = active
            .map(|job| {
                // The version is that of the look that added it; upstream does not follow it.
                let known = before.iter().find(|old| old.uid == job.metadata.uid);
                known.cloned().unwrap_or_else(|| reference(job))
            })
            .collect();
        active.sort_by(|a, b| a.name.cmp(&b.name));
        self.status.active = Some(active).filter(|active| !active.is_empty());
        let done = self.jobs.iter().filter(|job| is_complete(job));
        let done = done.filter_map(|job| job.status.as_ref()?.completion_time.as_ref());
        let known = self.status.last_successful_time.as_ref();
        self.status.last_successful_time = done.chain(known).map(|time| time.0).max().map(Time);
    }

    fn tell(&mut self, reason: &'static str, text: String) {
        self.plan.notices.push(Notice::normal(self.cron, reason, text));
    }

    /// Deletes finished Jobs beyond the limits, oldest first.
    fn forget_old(&mut self) {
        let spec = self.spec;
        for (wanted, limit) in
            [(true, spec.successful_jobs_history_limit), (false, spec.failed_jobs_history_limit)]
        {
            let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
            let mut old: Vec<&Job> = self.jobs.clone();
            old.retain(|job| finished(job).is_some() && is_complete(job) == wanted);
            old.retain(|job| job.metadata.deletion_timestamp.is_none());
            old.sort_by_key(|job| (started(job), job.metadata.name.clone()));
            let surplus = old.len().saturating_sub(limit);
            old[..surplus].iter().for_each(|job| self.plan.delete(*job));
        }
    }

    /// Makes the Job of the last time that was due, and asks to be woken at the next one.
    fn start(&mut self) {
        let schedule = match Schedule::parse(&self.spec.schedule) {
            Ok(schedule) => schedule,
            Err(why) => {
                let text = format!("unparseable schedule: {:?} : {why}", self.spec.schedule);
                let notice = Notice::warning(self.cron, "UnParseableCronJobSchedule", text);
                return self.plan.notices.push(notice);
            }
        };
        let Some(zone) = zone(self.spec) else {
            let text = format!("invalid timeZone: {:?}", self.spec.time_zone);
            let notice = Notice::warning(self.cron, "UnknownTimeZone", text);
            return self.plan.notices.push(notice);
        };
        if let Some(next) = schedule.next_after(self.now, &zone) {
            let wait = Duration::try_from(next.duration_since(self.now)).unwrap_or_default();
            self.plan.again_after(wait + LATER);
        }
        let Some(due) = self.due(&schedule, &zone) else { return };
        let job_name = format!("{}-{}", name(&self.cron.metadata), due.as_second() / 60);
        if self.jobs.iter().any(|job| name(&job.metadata) == job_name) {
            // Made already; the status was not written.
            self.status.last_schedule_time = Some(Time(due));
            return;
        }
        let active: Vec<&Job> = self.jobs.iter().copied().filter(|job| is_active(job)).collect();
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                let text = "Not starting job because prior execution is running and concurrency \
                            policy is Forbid";
                return self.tell("JobAlreadyActive", text.into());
            }
            Some("Replace") => active.iter().for_each(|job| self.plan.delete(*job)),
            _ => {}
        }
        self.plan.then();
        let job = new_job(self.cron, self.spec, &job_name, due.to_zoned(zone));
        self.plan.create(&job);
        self.status.last_schedule_time = Some(Time(due));
    }

    /// The last time that is due and was not acted on, unless it was too long ago.
    fn due(&mut self, schedule: &Schedule, zone: &TimeZone) -> Option<Timestamp> {
        let last = self.status.last_schedule_time.as_ref();
        let mut since = last.or(self.cron.metadata.creation_timestamp.as_ref())?.0;
        let missed = schedule.last_due(since, self.now, zone, MANY_MISSED);
        if let Some(seconds) = self.spec.starting_deadline_seconds {
            let deadline = SignedDuration::from_secs(seconds);
            let earliest = self.now.checked_sub(deadline).unwrap_or(Timestamp::MIN);
            since = since.max(earliest);
        }
        let due = schedule.last_due(since, self.now, zone, MANY_MISSED);
        match (due, missed) {
            (Some((_, true)), _) => {
                let text = format!(
                    "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or \
                     check clock skew: more than {MANY_MISSED} since {since}"
                );
                self.plan.notices.push(Notice::warning(self.cron, "TooManyMissedTimes", text));
            }
            (None, Some((time, _))) => {
                let text = format!("Missed scheduled time to start a job: {time}");
                self.plan.notices.push(Notice::warning(self.cron, "MissSchedule", text));
            }
            _ => {}
        }
        due.map(|(time, _)| time)
    }

    /// The status comes after the Job: a time that is told as served without one would be lost.
    fn end(mut self) -> Plan {
        if self.cron.status.as_ref() != Some(&self.status) {
            let mut changed = self.cron.clone();
            changed.status = Some(self.status);
            self.plan.then();
            self.plan.update_status(&changed);
        }
        self.plan
    }
}

fn started(job: &Job) -> Option<Timestamp> {
    job.status.as_ref()?.start_time.as_ref().map(|time| time.0)
}

fn zone(spec: &CronJobSpec) -> Option<TimeZone> {
    match spec.time_zone.as_deref() {
        None => Some(TimeZone::UTC),
        Some(zone) => TimeZone::get(zone).ok(),
    }
}

fn new_job(cron: &CronJob, spec: &CronJobSpec, job_name: &str, due: jiff::Zoned) -> Job {
    let template = spec.job_template.clone();
    let own = template.metadata.unwrap_or_default();
    let mut annotations = own.annotations.unwrap_or_default();
    let text = match due.offset().is_zero() {
        true => due.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        false => due.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    };
    annotations.insert(SCHEDULED.into(), text);
    let metadata = ObjectMeta {
        name: Some(job_name.into()),
        namespace: cron.metadata.namespace.clone(),
        labels: own.labels,
        annotations: Some(annotations),
        owner_references: Some(vec![controller_reference(cron)]),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: template.spec, status: None }
}
