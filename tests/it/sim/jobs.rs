//! Jobs and CronJobs: a pod is counted once, no more run than asked for, and all comes to its end.

use k8s_openapi::api::batch::v1::{CronJob, Job};

use super::engine::truth::jobs::{JobsSeen, is_set};
use super::*;

async fn trouble(world: &mut World) {
    world.sleep(Duration::from_secs(30)).await;
    let pods: Vec<String> = {
        let view = world.truth.cache.view();
        let pods = view.in_namespace::<Pod>("default");
        pods.map(|pod| pod.metadata.name.clone().unwrap_or_default()).collect()
    };
    match world.random.random_range(0..4) {
        0 => world.restart_control().await,
        1 if !pods.is_empty() => {
            let pod = &pods[world.random.random_range(0..pods.len())];
            // It may be gone meanwhile.
            let _ = world.client.delete::<Pod>("default", pod, &Default::default()).await;
        }
        _ => {}
    }
}

#[test]
fn pods_of_jobs_are_counted_once() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        let seen = JobsSeen::start(&world.truth);
        world.start_control();
        world.rest().await;
        let policy = if world.random.random_bool(0.5) { "Failed" } else { "TerminatingOrFailed" };
        // A deadline further away than clocks count harms nobody.
        let spec = json!({"completions": 12, "parallelism": 4, "backoffLimit": 1000,
            "activeDeadlineSeconds": i64::MAX, "podReplacementPolicy": policy});
        world.create::<Job>(job("many", spec, "some")).await;
        world.faults.set(true);
        for _ in 0..8 {
            trouble(&mut world).await;
        }
        // A pause costs pods, but no count.
        world.patch::<Job>("many", json!({"spec": {"suspend": true}})).await;
        world.sleep(Duration::from_secs(60)).await;
        world.patch::<Job>("many", json!({"spec": {"suspend": false}})).await;
        world.sleep(Duration::from_secs(60)).await;
        world.faults.set(false);
        world.until(truth::rest::unfinished_jobs).await;
        seen.assert_kept();
        let status = world.client.get::<Job>("default", "many").await.unwrap().status.unwrap();
        assert_eq!((status.succeeded, status.active), (Some(12), None), "{status:?}");
        world.end().await;
    });
}

#[test]
fn every_index_is_done_once_or_fails() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        let seen = JobsSeen::start(&world.truth);
        world.start_control();
        world.rest().await;
        let spec = json!({"completions": 9, "parallelism": 3, "completionMode": "Indexed",
            "backoffLimitPerIndex": 1});
        world.create::<Job>(job("each", spec, "some")).await;
        let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
            "backoffLimitPerIndex": 2, "maxFailedIndexes": 1});
        world.create::<Job>(job("hopeless", spec, "1")).await;
        let spec = json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed",
            "successPolicy": {"rules": [{"succeededCount": 2}]}});
        world.create::<Job>(job("enough", spec, "0")).await;
        world.faults.set(true);
        for _ in 0..6 {
            trouble(&mut world).await;
        }
        world.faults.set(false);
        world.until(truth::rest::unfinished_jobs).await;
        seen.assert_kept();
        let each = world.client.get::<Job>("default", "each").await.unwrap();
        let status = each.status.clone().unwrap();
        let failed = status.failed_indexes.clone().unwrap_or_default();
        let ended = if failed.is_empty() { "Complete" } else { "Failed" };
        assert!(is_set(&each, ended), "{status:?}");
        let hopeless = world.client.get::<Job>("default", "hopeless").await.unwrap();
        let conditions = hopeless.status.unwrap().conditions.unwrap_or_default();
        let end = conditions.iter().find(|one| one.type_ == "Failed").unwrap();
        assert_eq!(end.reason.as_deref(), Some("MaxFailedIndexesExceeded"));
        let enough = world.client.get::<Job>("default", "enough").await.unwrap();
        assert!(is_set(&enough, "Complete"), "{:?}", enough.status);
        world.end().await;
    });
}

/// Every minute one, kept to the limits of history, and nothing twice, whatever fails.
#[test]
fn a_cron_job_starts_each_minute_once() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 2).await;
        let seen = JobsSeen::start(&world.truth);
        world.start_control();
        world.rest().await;
        let policies = ["Allow", "Forbid", "Replace"];
        let policy = policies[world.random.random_range(0..3)];
        let spec = json!({"schedule": "* * * * *", "concurrencyPolicy": policy,
            "jobTemplate": {"spec": job("", json!({}), "0")["spec"]}});
        let cron = json!({"metadata": {"name": "minutes", "namespace": "default"}, "spec": spec});
        world.create::<CronJob>(cron).await;
        world.faults.set(true);
        for _ in 0..12 {
            trouble(&mut world).await;
        }
        world.patch::<CronJob>("minutes", json!({"spec": {"suspend": true}})).await;
        world.faults.set(false);
        world.sleep(Duration::from_secs(60)).await;
        world.until(truth::rest::unfinished_jobs).await;
        seen.assert_kept();
        {
            let view = world.truth.cache.view();
            let kept = view.all::<Job>().count();
            assert!((1..=4).contains(&kept), "{kept} Jobs are kept");
        }
        let status =
            world.client.get::<CronJob>("default", "minutes").await.unwrap().status.unwrap();
        assert_eq!(status.active, None, "{status:?}");
        assert!(status.last_schedule_time.is_some() && status.last_successful_time.is_some());
        world.end().await;
    });
}
