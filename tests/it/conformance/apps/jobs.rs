//! `apps/job.go`.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{
    annotation, counts, holds, is, is_later, is_seen, label, label_patch, name,
};
use crate::conformance::workloads::{
    BUSYBOX, ONCE, are_running, condition, controller, is_true, phase, uid,
};
use crate::conformance::{Case, Collection, Context, Patch, case, eventually, refused};

pub const CASES: &[Case] = &[
    case!("Job should adopt matching orphans and release non-matching pods", adoption),
    case!(
        "Job should allow to use the pod failure policy on exit code to fail the job early",
        fatal_exit_code
    ),
    case!("Job should apply changes to a job status", status),
    case!(
        "Job should create pods for an Indexed job with completion indexes and specified hostname",
        indexed
    ),
    case!("Job should delete a job", deletion),
    case!(
        "Job should allow to use a pod failure policy to ignore failure matching on DisruptionTarget \
         condition",
        disrupted
    ),
    case!(
        "Job should execute all indexes despite some failing when using backoffLimitPerIndex",
        all_indexes
    ),
    case!("Job should manage the lifecycle of a job", lifecycle),
    case!(
        "Job should mark indexes as failed when the FailIndex action is matched in podFailurePolicy",
        failed_index
    ),
    case!(
        "Job should run a job to completion when tasks sometimes fail and are locally restarted",
        fail_once
    ),
    case!(
        "Job should terminate job execution when the number of failed indexes exceeds \
         maxFailedIndexes",
        too_many_failed
    ),
    case!("Job with successPolicy should succeeded when all indexes succeeded", success_policy),
    case!(
        "Job with successPolicy succeededCount rule should succeeded even when some indexes remain \
         pending",
        enough
    ),
    case!(
        "Job with successPolicy succeededIndexes rule should succeeded even when some indexes \
         remain pending",
        the_right_one
    ),
];

const JOBS: &str = "batch/v1/jobs";
/// Upstream's ways for pods to behave, as arguments of [`BUSYBOX`].
const SUCCEED: &str = "exit=0";
const FAIL: &str = "exit=1";
const NOT_TERMINATE: &str = "sleep=1000000";
/// The first index succeeds, and the next one fails.
const FAIL_ODD: &str = "exit=$(JOB_COMPLETION_INDEX)";

/// A Job as upstream's tests have it, whose pods behave so.
fn job(name: &str, behaviour: &str, parallelism: u32, completions: u32) -> Value {
    let container = json!({"name": "c", "image": BUSYBOX, "args": [behaviour],
        "volumeMounts": [{"mountPath": "/data", "name": "data"}]});
    let pod = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "data", "emptyDir": {}}], "containers": [container]});
    let template = json!({"metadata": {"labels": {"job": name}}, "spec": pod});
    json!({"metadata": {"name": name}, "spec": {
        "parallelism": parallelism, "completions": completions, "backoffLimit": 6,
        "manualSelector": false, "template": template}})
}

/// The Job has so many successful pods, and says that it is complete for this reason.
async fn completes(jobs: &Collection, name: &str, count: u32, reason: &str) -> Result<Value> {
    let job = eventually("the completion of the Job", async || {
        let job = jobs.get(name).await?;
        holds(!is_true(&job, "Failed"), "the Job did not fail")?;
        let done = job["status"]["succeeded"] == count && is_true(&job, "Complete");
        Ok(done.then_some(job))
    })
    .await?;
    is(&condition(&job, "Complete").cloned().unwrap_or_default()["reason"], reason)?;
    is(&condition(&job, "SuccessCriteriaMet").cloned().unwrap_or_default()["reason"], reason)?;
    Ok(job)
}

/// A Job `name` whose pods do not end, two of which run.
async fn running(context: &Context, name: &str) -> Result<(Value, Vec<Value>)> {
    let created = context.own(JOBS).create(&job(name, NOT_TERMINATE, 2, 4)).await?;
    let pods = are_running(&context.own("v1/pods"), &format!("job={name}"), 2).await?;
    Ok((created, pods))
}

async fn adoption(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let (job, found) = running(context, "adopt-release").await?;
    let pod = name(&found[0]);
    pods.update(pod, |pod| pod["metadata"]["ownerReferences"] = Value::Null).await?;
    eventually("the adoption", async || {
        Ok((controller(&pods.get(pod).await?) == Some(uid(&job))).then_some(()))
    })
    .await?;
    pods.update(pod, |pod| pod["metadata"]["labels"] = Value::Null).await?;
    eventually("the release", async || {
        Ok(controller(&pods.get(pod).await?).is_none().then_some(()))
    })
    .await
}

async fn status(context: &Context) -> Result<()> {
    let (jobs, own) = (context.own(JOBS), "CustomConditionType");
    running(context, "suspend-false-to-true").await?;
    let custom = |time: &str| json!([{"type": own, "status": "True", "lastTransitionTime": time}]);
    let time = |object: &Value| condition(object, own).cloned().unwrap_or_default();
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"conditions": custom("2026-01-01T00:00:01Z")}});
    let patched = jobs.patch("suspend-false-to-true/status", Patch::Merge, &patch).await?;
    is(&time(&patched)["lastTransitionTime"], "2026-01-01T00:00:01Z")?;
    is(annotation(&patched, "patchedstatus"), "true")?;
    let change = |job: &mut Value| job["status"]["conditions"] = custom("2026-01-01T00:00:02Z");
    let updated = jobs.update("suspend-false-to-true/status", change).await?;
    is(&time(&updated)["lastTransitionTime"], "2026-01-01T00:00:02Z")?;
    let read = jobs.get("suspend-false-to-true/status").await?;
    is(&read["metadata"]["uid"], uid(&updated))?;
    is(&time(&read)["lastTransitionTime"], "2026-01-01T00:00:02Z")
}

fn make_indexed(job: &mut Value) {
    job["spec"]["completionMode"] = "Indexed".into();
}

async fn indexed(context: &Context) -> Result<()> {
    let mut wanted = job("indexed-job", SUCCEED, 2, 4);
    make_indexed(&mut wanted);
    context.own(JOBS).create(&wanted).await?;
    let done = completes(&context.own(JOBS), "indexed-job", 4, "CompletionsReached").await?;
    is(&done["status"]["completedIndexes"], "0-3")?;
    let pods = context.own("v1/pods").items_labelled("job=indexed-job").await?;
    let mut seen = BTreeSet::new();
    for pod in pods.iter().filter(|pod| phase(pod) == "Succeeded") {
        let index = annotation(pod, "batch.kubernetes.io/job-completion-index");
        let index = index.as_str().unwrap_or_default();
        is(&pod["spec"]["hostname"], format!("indexed-job-{index}"))?;
        seen.insert(index);
    }
    holds(seen == BTreeSet::from(["0", "1", "2", "3"]), "each index has a pod")
}

/// As upstream, until the Job and what it owned is gone.
async fn is_collected(context: &Context, job: &str) -> Result<()> {
    let jobs = context.own(JOBS);
    jobs.delete_with(job, &json!({"propagationPolicy": "Background"})).await?;
    eventually("the end of the Job and of its pods", async || {
        let pods = context.own("v1/pods").items_labelled(&format!("job={job}")).await?;
        let found = jobs.get(job).await;
        Ok((pods.is_empty() && refused(found, 404).is_ok()).then_some(()))
    })
    .await
}

async fn deletion(context: &Context) -> Result<()> {
    running(context, "foo").await?;
    is_collected(context, "foo").await
}

/// Until a Job failed for this reason, which it told before.
async fn fails(jobs: &Collection, name: &str, reason: &str) -> Result<Value> {
    let failed = eventually("the failure of the Job", async || {
        let job = jobs.get(name).await?;
        Ok(is_true(&job, "Failed").then_some(job))
    })
    .await?;
    for kind in ["FailureTarget", "Failed"] {
        is(&condition(&failed, kind).cloned().unwrap_or_default()["reason"], reason)?;
    }
    Ok(failed)
}

/// A rule about pods that end with code 1.
fn on_failure(action: &str) -> Value {
    json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [1]}}]})
}

async fn fatal_exit_code(context: &Context) -> Result<()> {
    let jobs = context.own(JOBS);
    let mut wanted = job("pod-failure-failjob", FAIL, 2, 4);
    wanted["spec"]["podFailurePolicy"] = on_failure("FailJob");
    jobs.create(&wanted).await?;
    fails(&jobs, "pod-failure-failjob", "PodFailurePolicy").await.map(drop)
}

async fn failed_index(context: &Context) -> Result<()> {
    let jobs = context.own(JOBS);
    let mut wanted = job("matching-fail-index-action", FAIL_ODD, 2, 2);
    make_indexed(&mut wanted);
    wanted["spec"].as_object_mut().map(|spec| spec.remove("backoffLimit"));
    wanted["spec"]["backoffLimitPerIndex"] = 1.into();
    wanted["spec"]["podFailurePolicy"] = on_failure("FailIndex");
    jobs.create(&wanted).await?;
    let status = fails(&jobs, name(&wanted), "FailedIndexes").await?["status"].take();
    is(&status["failedIndexes"], "1")?;
    is(&status["completedIndexes"], "0")?;
    is(&status["failed"], 1)?;
    is(&status["succeeded"], 1)
}

/// Upstream's first pod finds that it is the first one, and does not end; here what it reads changes.
async fn disrupted(context: &Context) -> Result<()> {
    let (maps, pods) = (context.own("v1/configmaps"), context.own("v1/pods"));
    maps.create(&json!({"metadata": {"name": "sleep"}, "data": {"ms": "1000000"}})).await?;
    let mut wanted = job("pod-failure-ignore", "sleep=$(MS)", 1, 1);
    let spec = &mut wanted["spec"];
    spec["backoffLimit"] = 0.into();
    spec["podFailurePolicy"] = json!({"rules": [{"action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]});
    spec["template"]["spec"]["containers"][0]["env"] = json!([{"name": "MS",
        "valueFrom": {"configMapKeyRef": {"name": "sleep", "key": "ms"}}}]);
    context.own(JOBS).create(&wanted).await?;
    let found = are_running(&pods, "job=pod-failure-ignore", 1).await?;
    maps.patch("sleep", Patch::Merge, &json!({"data": {"ms": "1"}})).await?;
    let pod = name(&found[0]);
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    pods.create_at(&format!("{pod}/eviction"), &eviction).await?;
    let done = completes(&context.own(JOBS), name(&wanted), 1, "CompletionsReached").await?;
    holds(done["status"]["failed"].as_i64().unwrap_or(0) == 0, "the eviction counts as no failure")
}

/// Upstream's pods count; these look for a file with the name of their index, which the even ones
/// find.
async fn all_indexes(context: &Context) -> Result<()> {
    let jobs = context.own(JOBS);
    let even = json!({"metadata": {"name": "even"}, "data": {"0": "", "2": ""}});
    context.own("v1/configmaps").create(&even).await?;
    let find = "cat=/data/$(JOB_COMPLETION_INDEX)";
    let mut wanted = job("with-backoff-limit-per-index", find, 2, 4);
    make_indexed(&mut wanted);
    wanted["spec"].as_object_mut().map(|spec| spec.remove("backoffLimit"));
    wanted["spec"]["backoffLimitPerIndex"] = 1.into();
    wanted["spec"]["template"]["spec"]["volumes"] =
        json!([{"name": "data", "configMap": {"name": "even"}}]);
    jobs.create(&wanted).await?;
    let status = fails(&jobs, name(&wanted), "FailedIndexes").await?["status"].take();
    is(&status["failedIndexes"], "1,3")?;
    is(&status["completedIndexes"], "0,2")?;
    is(&status["failed"], 4)?;
    is(&status["succeeded"], 2)
}

async fn fail_once(context: &Context) -> Result<()> {
    let mut wanted = job("fail-once-local", "", 2, 4);
    let pod = &mut wanted["spec"]["template"]["spec"];
    pod["restartPolicy"] = "OnFailure".into();
    pod["containers"][0]["image"] = ONCE.into();
    context.own(JOBS).create(&wanted).await?;
    completes(&context.own(JOBS), name(&wanted), 4, "CompletionsReached").await?;
    // Not upstream's: that it was so.
    for pod in context.own("v1/pods").items_labelled("job=fail-once-local").await? {
        is(&pod["status"]["containerStatuses"][0]["restartCount"], 1)?;
    }
    Ok(())
}

/// A Job of five indexes, the first of which is enough.
async fn satisfied(context: &Context, name: &str, rule: Value) -> Result<()> {
    let mut wanted = job(name, FAIL_ODD, 2, 5);
    make_indexed(&mut wanted);
    wanted["spec"]["backoffLimit"] = i32::MAX.into();
    wanted["spec"]["successPolicy"] = json!({"rules": [rule]});
    context.own(JOBS).create(&wanted).await?;
    let done = completes(&context.own(JOBS), name, 1, "SuccessPolicy").await?;
    let status = &done["status"];
    is(&status["completedIndexes"], "0")?;
    is(&status["active"], Value::Null)?;
    is(&status["ready"], 0)?;
    is(&status["terminating"], 0)
}

async fn enough(context: &Context) -> Result<()> {
    satisfied(context, "with-success-policy-succeeded-count", json!({"succeededCount": 1})).await
}

async fn the_right_one(context: &Context) -> Result<()> {
    let rule = json!({"succeededIndexes": "0"});
    satisfied(context, "with-success-policy-succeeded-indexes", rule).await
}

async fn too_many_failed(context: &Context) -> Result<()> {
    let jobs = context.own(JOBS);
    let mut wanted = job("with-max-failed-indexes", FAIL, 1, 4);
    make_indexed(&mut wanted);
    wanted["spec"].as_object_mut().map(|spec| spec.remove("backoffLimit"));
    wanted["spec"]["backoffLimitPerIndex"] = 0.into();
    wanted["spec"]["maxFailedIndexes"] = 0.into();
    jobs.create(&wanted).await?;
    let failed = fails(&jobs, name(&wanted), "MaxFailedIndexesExceeded").await?;
    is(&failed["status"]["failedIndexes"], "0")?;
    is(&failed["status"]["failed"], 1)
}

async fn success_policy(context: &Context) -> Result<()> {
    let mut wanted = job("with-success-policy-all-index-succeeded", SUCCEED, 2, 2);
    make_indexed(&mut wanted);
    wanted["spec"]["successPolicy"] = json!({"rules": [{"succeededIndexes": "0-1"}]});
    context.own(JOBS).create(&wanted).await?;
    let done = completes(&context.own(JOBS), name(&wanted), 2, "SuccessPolicy").await?;
    is(&done["status"]["completedIndexes"], "0,1")
}

async fn lifecycle(context: &Context) -> Result<()> {
    let (jobs, everywhere) = (context.own(JOBS), context.all(JOBS));
    let name = context.unique("e2e");
    let selector = format!("e2e-job-label={name}");
    let mut watch = jobs.watch_labelled(&selector).await?;
    let mut suspended = job(&name, SUCCEED, 2, 4);
    suspended["metadata"]["labels"] = json!({"e2e-job-label": name});
    suspended["spec"]["suspend"] = true.into();
    let created = jobs.create(&suspended).await?;
    let patched = jobs.patch(&name, Patch::Strategic, &label_patch(&name, "patched")).await?;
    is_later(&patched, &created)?;
    is(label(&patched, &name), "patched")?;
    is_seen(&mut watch, "MODIFIED", &patched).await?;
    let change = |job: &mut Value| {
        job["spec"]["suspend"] = false.into();
        job["metadata"]["annotations"]["updated"] = "true".into();
    };
    let updated = jobs.update(&name, change).await?;
    is_seen(&mut watch, "MODIFIED", &updated).await?;
    is(annotation(&updated, "updated"), "true")?;
    counts(&everywhere.items_labelled(&selector).await?, 1)?;
    completes(&jobs, &name, 4, "CompletionsReached").await?;
    let options = json!({"propagationPolicy": "Background"});
    jobs.delete_collection_with(&[("labelSelector", &selector)], &options).await?;
    watch.until("DELETED", |job| *label(job, "e2e-job-label") == *name).await?;
    counts(&everywhere.items_labelled(&selector).await?, 0)
}
