//! Jobs and CronJobs: a pod is counted once, no more run than asked for, and all comes to its end.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use wasmfleet::client::cache::{Changed, parse_revision};

use super::*;

const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// What became of a Job's pods, by the Job's uid.
#[derive(Default)]
struct Ended {
    succeeded: BTreeSet<String>,
    /// Failed, deleted, or gone without having succeeded.
    failed: BTreeSet<String>,
    told_succeeded: i32,
}

/// Sees every change of Jobs and their pods.
#[derive(Default)]
struct Seen {
    ended: Mutex<BTreeMap<String, Ended>>,
    violations: Mutex<Vec<String>>,
}

fn job_of(meta: &ObjectMeta) -> Option<&str> {
    let mut owners = meta.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true) && owner.kind == "Job")?;
    Some(&owner.uid)
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn is_set(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == kind && one.status == "True")
}

impl Seen {
    fn start(world: &World) -> Arc<Seen> {
        let seen = Arc::new(Seen::default());
        let (weak, cache) = (Arc::downgrade(&seen), Arc::downgrade(&world.truth.cache));
        world.truth.cache.listen(Box::new(move |change| {
            if let (Some(seen), Some(cache)) = (weak.upgrade(), cache.upgrade()) {
                seen.look(change, &cache.view());
            }
        }));
        seen
    }

    fn look(&self, change: &Changed, view: &View) {
        if change.resource.resource == "pods" {
            let (old, new) = change.typed::<Pod>();
            let Some(pod) = new.or(old) else { return };
            let Some(job) = job_of(&pod.metadata) else { return };
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let mut ended = self.ended.lock();
            let ended = ended.entry(job.to_string()).or_default();
            let goes = new.is_none() || pod.metadata.deletion_timestamp.is_some();
            if phase(pod) == "Succeeded" {
                ended.succeeded.insert(uid.clone());
            }
            if phase(pod) == "Failed" || goes {
                ended.failed.insert(uid);
            }
        }
        for job in view.all::<Job>() {
            self.check(job, view);
        }
    }

    fn check(&self, job: &Job, view: &View) {
        let (Some(spec), Some(status)) = (&job.spec, &job.status) else { return };
        let uid = job.metadata.uid.clone().unwrap_or_default();
        let mut wrong = Vec::new();
        let pods: Vec<_> = view.owned_by::<Pod>(&uid).filter(|pod| truth::is_active(pod)).collect();
        let most = spec.parallelism.unwrap_or(1);
        if pods.len() as i32 > most {
            wrong.push(format!("{} pods run, more than {most}", pods.len()));
        }
        let label = |pod: &&&Arc<Pod>| pod.metadata.labels.as_ref()?.get(INDEX).cloned();
        let indexes: Vec<String> = pods.iter().filter_map(|pod| label(&pod)).collect();
        if indexes.iter().collect::<BTreeSet<_>>().len() != indexes.len() {
            wrong.push(format!("an index twice in {indexes:?}"));
        }
        if is_set(job, "Complete") && is_set(job, "Failed") {
            wrong.push("complete and failed".into());
        }
        let mut ended = self.ended.lock();
        let ended = ended.entry(uid).or_default();
        let succeeded = status.succeeded.unwrap_or(0);
        if succeeded < ended.told_succeeded {
            wrong.push(format!("{succeeded} succeeded, after {}", ended.told_succeeded));
        }
        ended.told_succeeded = succeeded;
        // The table of pods may be behind that of Jobs.
        let version = parse_revision(job.metadata.resource_version.as_deref().unwrap_or_default());
        let pods = wasmfleet::api::Gvr::of::<Pod>();
        if view.revision(&pods) >= version {
            let named = status.uncounted_terminated_pods.clone().unwrap_or_default();
            let count = |told: Option<i32>, named: Option<Vec<String>>| {
                told.unwrap_or(0) as usize + named.map_or(0, |list| list.len())
            };
            // What a Job that fails gives up counts as failed before it is deleted.
            ended.failed.extend(named.failed.iter().flatten().cloned());
            let told = count(status.succeeded, named.succeeded);
            if told > ended.succeeded.len() {
                wrong.push(format!("{told} counted of {} that succeeded", ended.succeeded.len()));
            }
            let told = count(status.failed, named.failed);
            if told > ended.failed.len() {
                wrong.push(format!("{told} counted of {} that failed", ended.failed.len()));
            }
        }
        let mut violations = self.violations.lock();
        if violations.len() < 10 {
            let name = name_of(job);
            violations.extend(wrong.into_iter().map(|what| format!("{name}: {what}")));
        }
    }

    fn assert_kept(&self) {
        assert_eq!(*self.violations.lock(), Vec::<String>::new());
    }
}

/// A Job whose pods end after a while, as `end` says.
fn job(name: &str, spec: Value, end: &str) -> Value {
    let containers = json!([{"name": "c", "image": "hello:v1", "args": [format!("exit={end}")]}]);
    let mut spec = spec;
    spec["template"] = json!({"spec": {"restartPolicy": "Never", "containers": containers}});
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

/// Why the Jobs have not come to their end.
fn unfinished(view: &View) -> Option<String> {
    for job in view.all::<Job>() {
        if !is_set(job, "Complete") && !is_set(job, "Failed") {
            return Some(format!("{:?} goes on: {:?}", job.metadata.name, job.status));
        }
    }
    let kept = |pod: &&Arc<Pod>| {
        pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
    };
    let pod = view.all::<Pod>().find(kept)?;
    Some(format!("{:?} still has its finalizer", pod.metadata.name))
}

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
        let seen = Seen::start(&world);
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
        world.until(unfinished).await;
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
        let seen = Seen::start(&world);
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
        world.until(unfinished).await;
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
        let seen = Seen::start(&world);
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
        world.until(unfinished).await;
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
