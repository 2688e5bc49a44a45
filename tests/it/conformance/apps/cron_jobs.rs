//! `apps/cronjob.go`. Schedules are by the minute, so that a case takes up to two or three.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{counts, holds, is, name};
use crate::conformance::context::eventually_within;
use crate::conformance::operations::{self, Status, Subject};
use crate::conformance::workloads::{BUSYBOX, is_true};
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] = &[
    case!("CronJob should not schedule jobs when suspended [Slow]", suspended).within(300),
    case!("CronJob should not schedule new jobs when ForbidConcurrent [Slow]", forbids).within(300),
    case!("CronJob should replace jobs when ReplaceConcurrent", replaces).within(300),
    case!("CronJob should schedule multiple jobs concurrently", allows).within(300),
    case!("CronJob should support CronJob API operations", api_operations),
];

const CRON_JOBS: &str = "batch/v1/cronjobs";
const JOBS: &str = "batch/v1/jobs";
/// Longer than two minutes of a schedule.
const PATIENCE: Duration = Duration::from_secs(150);

/// The spec of a CronJob, as most of upstream's tests have it.
fn spec(schedule: &str, policy: &str, args: &[&str]) -> Value {
    let container = json!({"name": "c", "image": BUSYBOX, "args": args,
        "volumeMounts": [{"mountPath": "/data", "name": "data"}]});
    let pod = json!({"restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "data", "emptyDir": {}}], "containers": [container]});
    let job = json!({"parallelism": 1, "completions": 1, "backoffLimit": 1,
        "template": {"spec": pod}});
    json!({"schedule": schedule, "concurrencyPolicy": policy, "jobTemplate": {"spec": job}})
}

/// A CronJob whose Jobs do not end, once a minute.
async fn minutely(context: &Context, name: &str, policy: &str) -> Result<()> {
    let spec = spec("*/1 * * * ?", policy, &["sleep=300000"]);
    let object = json!({"metadata": {"name": name}, "spec": spec});
    context.own(CRON_JOBS).create(&object).await.map(drop)
}

/// Until so many Jobs of a CronJob are active.
async fn has_active(context: &Context, name: &str, count: usize) -> Result<Value> {
    eventually_within(PATIENCE, &format!("{count} active Jobs of {name}"), async || {
        let cron_job = context.own(CRON_JOBS).get(name).await?;
        let active = cron_job["status"]["active"].as_array().map_or(0, Vec::len);
        Ok((active >= count).then_some(cron_job))
    })
    .await
}

async fn active_jobs(context: &Context) -> Result<Vec<Value>> {
    let mut jobs = context.own(JOBS).items(&[]).await?;
    jobs.retain(|job| !is_true(job, "Complete") && !is_true(job, "Failed"));
    Ok(jobs)
}

async fn remove(context: &Context, name: &str) -> Result<()> {
    let options = json!({"propagationPolicy": "Background"});
    context.own(CRON_JOBS).delete_with(name, &options).await.map(drop)
}

async fn allows(context: &Context) -> Result<()> {
    minutely(context, "concurrent", "Allow").await?;
    has_active(context, "concurrent", 2).await?;
    holds(active_jobs(context).await?.len() >= 2, "two Jobs are there")?;
    remove(context, "concurrent").await
}

/// Upstream looks for five minutes; here another CronJob tells when the next minute has come.
async fn forbids(context: &Context) -> Result<()> {
    minutely(context, "forbid", "Forbid").await?;
    has_active(context, "forbid", 1).await?;
    counts(&active_jobs(context).await?, 1)?;
    another_minute(context).await?;
    let cron_job = context.own(CRON_JOBS).get("forbid").await?;
    counts(cron_job["status"]["active"].as_array().map_or(&[], Vec::as_slice), 1)?;
    counts(&active_jobs(context).await?, 1)?;
    remove(context, "forbid").await
}

async fn replaces(context: &Context) -> Result<()> {
    minutely(context, "replace", "Replace").await?;
    let cron_job = has_active(context, "replace", 1).await?;
    counts(cron_job["status"]["active"].as_array().map_or(&[], Vec::as_slice), 1)?;
    let first = active_jobs(context).await?;
    counts(&first, 1)?;
    eventually_within(PATIENCE, "another Job in its place", async || {
        let now = active_jobs(context).await?;
        holds(now.len() <= 1, "no more than one Job runs")?;
        Ok(now.first().is_some_and(|job| name(job) != name(&first[0])).then_some(()))
    })
    .await?;
    remove(context, "replace").await
}

/// Waits until another CronJob of the same schedule, in a namespace of its own, has started a Job.
async fn another_minute(context: &Context) -> Result<()> {
    let other = context.create_namespace("cronjob-2", json!({})).await?;
    let mut seen = context.within(&other, JOBS).watch_labelled("").await?;
    let running = spec("*/1 * * * ?", "Allow", &["exit=0"]);
    let running = json!({"metadata": {"name": "running"}, "spec": running});
    context.within(&other, CRON_JOBS).create(&running).await?;
    seen.until("ADDED", |_| true).await.map(drop)
}

async fn suspended(context: &Context) -> Result<()> {
    let cron_jobs = context.own(CRON_JOBS);
    let mut suspended = spec("*/1 * * * ?", "Allow", &["sleep=300000"]);
    suspended["suspend"] = true.into();
    cron_jobs.create(&json!({"metadata": {"name": "suspended"}, "spec": suspended})).await?;
    another_minute(context).await?;
    is(&cron_jobs.get("suspended").await?["status"]["active"], Value::Null)?;
    counts(&context.own(JOBS).items(&[]).await?, 0)?;
    remove(context, "suspended").await
}

async fn api_operations(context: &Context) -> Result<()> {
    let mut spec = spec("* */1 * * ?", "Allow", &["exit=0"]);
    spec["successfulJobsHistoryLimit"] = 1.into();
    spec["failedJobsHistoryLimit"] = 0.into();
    let time =
        |seconds: u32| json!({"lastScheduleTime": format!("2026-01-01T00:00:{seconds:02}Z")});
    let subject = Subject {
        resource: CRON_JOBS,
        kind: "CronJob",
        namespaced: true,
        subresources: &["status"],
        object: json!({"spec": spec}),
        patch: json!({}),
        update: json!({}),
        status: Some(Status { patch: time(1), update: time(2) }),
    };
    operations::run(context, &subject).await
}
