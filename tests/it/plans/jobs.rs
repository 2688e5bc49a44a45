//! What Jobs and CronJobs plan.

use super::*;

const TRACKING: &str = "batch.kubernetes.io/job-tracking";

fn job(spec: Value, status: Value) -> Value {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "sum"}});
    spec["template"] = json!({"metadata": {"labels": {"app": "sum"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "v1"}]}});
    json!({"kind": "Job", "metadata": {"name": "sum"}, "spec": spec, "status": status})
}

fn own(name: &str, phase: &str) -> Value {
    json!({"kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "sum"}, "finalizers": [TRACKING],
            "ownerReferences": [owner("batch/v1", "Job", "sum")]},
        "spec": {"containers": []},
        "status": {"phase": phase}})
}

fn counted() -> Value {
    json!({"ready": 0, "terminating": 0, "uncountedTerminatedPods": {},
        "startTime": "2026-01-01T00:00:00Z"})
}

fn text(objects: &[Value]) -> String {
    let objects = Objects::new(objects);
    objects.text(&objects.plan("job-controller", "default/sum"))
}

#[test]
fn a_pod_is_named_then_released_then_counted() {
    let spec = || json!({"completions": 1, "parallelism": 1});
    let first = text(&[job(spec(), counted()), own("a", "Succeeded")]);
    let lines: Vec<&str> = first.lines().collect();
    assert!(lines[0].contains(r#""uncountedTerminatedPods":{"succeeded":["a-uid"]}"#), "{first}");
    assert!(lines[0].contains("SuccessCriteriaMet") && !lines[0].contains("Complete"), "{first}");
    assert_eq!(lines[1], "then");
    assert_eq!(lines[2], r#"patch pods default/a {"metadata":{"finalizers":[]}}"#);
    // The finalizer is gone: now it counts, and the Job is complete.
    let mut named = counted();
    named["uncountedTerminatedPods"] = json!({"succeeded": ["a-uid"]});
    named["conditions"] = json!([{"type": "SuccessCriteriaMet", "status": "True",
        "reason": "CompletionsReached", "message": "m"}]);
    let mut released = own("a", "Succeeded");
    released["metadata"]["finalizers"] = json!([]);
    let second = text(&[job(spec(), named.clone()), released]);
    assert!(second.contains(r#""succeeded":1"#) && second.contains("Complete"), "{second}");
    // The same, if the pod itself is gone.
    assert_eq!(text(&[job(spec(), named)]), second);
}

/// A pod that is named in this very pass counts once: the others run on.
#[test]
fn a_pod_that_ends_takes_no_other_with_it() {
    for (spec, also, made) in [
        (json!({"completions": 3, "parallelism": 3}), "Succeeded", 0),
        (json!({"completions": 6, "parallelism": 3}), "Succeeded", 2),
        (json!({"completions": 2, "parallelism": 2}), "Failed", 0),
    ] {
        let pods = [own("a", "Succeeded"), own("z", also), own("b", "Running")];
        let all: Vec<Value> = [job(spec.clone(), counted())].into_iter().chain(pods).collect();
        let text = text(&all);
        assert!(text.contains("patch pods default/a"), "it is named and let go: {text}");
        assert!(!text.contains("pods default/b"), "{spec}: {text}");
        assert_eq!(text.matches("create pods").count(), made, "{spec}: {text}");
    }
}

#[test]
fn a_failed_pod_is_replaced_after_a_wait_that_doubles() {
    let spec = || json!({"completions": 1, "parallelism": 1, "backoffLimit": 6});
    let failed = |name: &str, time: &str| {
        let mut pod = own(name, "Failed");
        pod["metadata"]["finalizers"] = json!([]);
        pod["status"]["containerStatuses"] = json!([{"name": "c", "image": "", "imageID": "",
            "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 1, "finishedAt": time}}}]);
        pod
    };
    let (a, b) = (failed("a", "2026-01-01T00:59:00Z"), failed("b", "2026-01-01T00:59:55Z"));
    let mut status = counted();
    status["failed"] = json!(2);
    let waits = text(&[job(spec(), status.clone()), a.clone(), b]);
    assert_eq!(waits, "again after 15s");
    let tries = text(&[job(spec(), status), a]);
    assert!(tries.contains("create pods default/*") && tries.contains(TRACKING), "{tries}");
}

#[test]
fn a_policy_decides_what_a_failure_is() {
    let rules = json!([
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
    let spec = || {
        json!({"completions": 1, "parallelism": 1, "backoffLimit": 0,
            "podFailurePolicy": {"rules": rules}})
    };
    let exit = |code: i32| {
        let mut pod = own("a", "Failed");
        pod["status"]["containerStatuses"] = json!([{"name": "c", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]);
        pod
    };
    let text = |pod| text(&[job(spec(), counted()), pod]);
    let fatal = text(exit(42));
    let why =
        "Container c for pod default/a failed with exit code 42 matching FailJob rule at index 0";
    assert!(fatal.contains(why) && fatal.contains("FailureTarget"), "{fatal}");
    assert!(text(exit(1)).contains("BackoffLimitExceeded"));
    let mut disturbed = exit(1);
    disturbed["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
    let ignored = text(disturbed);
    assert!(!ignored.contains("FailureTarget") && !ignored.contains(r#""failed""#), "{ignored}");
}

#[test]
fn indexes_have_one_pod_each_and_those_that_fail_are_retried_by_themselves() {
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "backoffLimitPerIndex": 1, "backoffLimit": i32::MAX});
    let indexed = |name: &str, phase: &str, index: u32, failures: u32| {
        let mut pod = own(name, phase);
        pod["metadata"]["annotations"] = json!({
            "batch.kubernetes.io/job-completion-index": index.to_string(),
            "batch.kubernetes.io/job-index-failure-count": failures.to_string()});
        pod
    };
    let pods =
        [indexed("a", "Running", 0, 0), indexed("b", "Failed", 1, 0), indexed("c", "Failed", 2, 1)];
    let all: Vec<Value> = [job(spec, counted())].into_iter().chain(pods).collect();
    let text = text(&all);
    assert!(text.contains(r#""failedIndexes":"2""#), "{text}");
    // The failed pod is kept until its successor is there, which carries its count.
    assert!(!text.contains("patch pods default/b"), "{text}");
    assert!(text.contains("patch pods default/c"), "{text}");
    assert!(text.contains(r#""batch.kubernetes.io/job-index-failure-count":"1""#), "{text}");
    assert!(text.contains(r#""hostname":"sum-1""#) && !text.contains("sum-2"), "{text}");
}

#[test]
fn a_suspended_job_gives_up_its_pods_uncounted() {
    let spec = json!({"completions": 1, "parallelism": 1, "suspend": true});
    let text = text(&[job(spec, counted()), own("a", "Running")]);
    assert!(text.contains(r#""type":"Suspended""#), "{text}");
    let order = "then\npatch pods default/a {\"metadata\":{\"finalizers\":[]}}\nthen\ndelete pods default/a";
    assert!(text.contains(order), "{text}");
}

#[test]
fn a_finished_job_goes_after_its_time() {
    let status = |time: &str| json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": time}]});
    let spec = || json!({"completions": 1, "ttlSecondsAfterFinished": 60});
    assert_eq!(text(&[job(spec(), status("2026-01-01T00:59:30Z"))]), "again after 30s");
    assert_eq!(
        text(&[job(spec(), status("2026-01-01T00:59:00Z"))]),
        "delete jobs.batch default/sum"
    );
}

#[test]
fn pods_of_a_job_that_is_gone_lose_their_finalizer_after_a_live_look() {
    let objects = Objects::new(&[own("a", "Running")]);
    objects.check(
        "job-tracking-controller",
        "default/a",
        r#"check absence of jobs.batch default/sum
           then
           patch pods default/a {"metadata":{"finalizers":[]}}"#,
    );
    let objects = Objects::new(&[own("a", "Running"), job(json!({}), counted())]);
    objects.check("job-tracking-controller", "default/a", "");
}

fn cron(spec: Value, last: Option<&str>) -> Value {
    let mut spec = spec;
    spec["jobTemplate"] = json!({"spec": {"template": {"spec": {"containers": []}}}});
    json!({"kind": "CronJob", "metadata": {"name": "tick"}, "spec": spec,
        "status": {"lastScheduleTime": last}})
}

fn run(name: &str, status: Value) -> Value {
    json!({"kind": "Job",
        "metadata": {"name": name, "ownerReferences": [owner("batch/v1", "CronJob", "tick")],
            "annotations": {"batch.kubernetes.io/cronjob-scheduled-timestamp": "2026-01-01T00:00:00Z"}},
        "spec": {"template": {}}, "status": status})
}

fn tick(objects: &[Value]) -> String {
    let objects = Objects::new(objects);
    objects.text(&objects.plan("cronjob-controller", "default/tick"))
}

#[test]
fn a_cron_job_starts_what_is_due_under_the_name_of_its_minute() {
    let spec = || json!({"schedule": "0 2 * * *", "timeZone": "Europe/Berlin"});
    let text = tick(&[cron(spec(), Some("2025-12-31T01:00:00Z"))]);
    assert!(text.contains(r#""name":"tick-29453820""#), "{text}");
    assert!(text.contains("2026-01-01T02:00:00+01:00"), "{text}");
    assert!(text.contains(r#""lastScheduleTime":"2026-01-01T01:00:00Z""#), "{text}");
    assert!(text.ends_with("again after 86400.1s"), "{text}");
    // Nothing is due before tomorrow.
    assert_eq!(tick(&[cron(spec(), Some("2026-01-01T01:00:00Z"))]), "again after 86400.1s");
}

#[test]
fn a_cron_job_minds_what_runs() {
    let spec = |policy: &str| json!({"schedule": "* * * * *", "concurrencyPolicy": policy});
    let last = Some("2026-01-01T00:59:00Z");
    let running = || run("tick-29453819", json!({}));
    let forbids = tick(&[cron(spec("Forbid"), last), running()]);
    assert!(!forbids.contains("create") && forbids.contains("JobAlreadyActive"), "{forbids}");
    let replaces = tick(&[cron(spec("Replace"), last), running()]);
    let order = replaces.find("delete jobs").zip(replaces.find("create jobs"));
    assert!(order.is_some_and(|(delete, create)| delete < create), "{replaces}");
    let allows = tick(&[cron(spec("Allow"), last), running()]);
    assert!(allows.contains("create") && !allows.contains("delete"), "{allows}");
}

#[test]
fn a_cron_job_misses_times_and_forgets_old_jobs() {
    let spec = json!({"schedule": "0 0 * * *", "startingDeadlineSeconds": 60,
        "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0});
    let done = |kind: &str, time: &str| {
        json!({"startTime": time, "completionTime": time,
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": time}]})
    };
    let text = tick(&[
        cron(spec, Some("2025-12-31T00:00:00Z")),
        run("old", done("Complete", "2025-12-30T00:00:00Z")),
        run("new", done("Complete", "2025-12-31T00:00:00Z")),
        run("bad", done("Failed", "2025-12-31T00:00:00Z")),
    ]);
    assert!(text.contains("event MissSchedule"), "{text}");
    assert!(text.contains("delete jobs.batch default/old"), "{text}");
    assert!(text.contains("delete jobs.batch default/bad"), "{text}");
    assert!(!text.contains("default/new") && !text.contains("create"), "{text}");
    assert!(text.contains(r#""lastSuccessfulTime":"2025-12-31T00:00:00Z""#), "{text}");
}
