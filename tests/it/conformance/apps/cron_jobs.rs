//! `apps/cronjob.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::operations::{self, Status, Subject};
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] =
    &[case!("CronJob should support CronJob API operations", api_operations)];

const CRON_JOBS: &str = "batch/v1/cronjobs";

/// The spec of a CronJob, as most of upstream's tests have it.
pub fn spec(schedule: &str, policy: &str, args: &[&str]) -> Value {
    let container = json!({"name": "c", "image": "tool:v1", "args": args,
        "volumeMounts": [{"mountPath": "/data", "name": "data"}]});
    let pod = json!({"restartPolicy": "OnFailure", "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [container]});
    let job = json!({"parallelism": 1, "completions": 1, "backoffLimit": 1,
        "template": {"spec": pod}});
    json!({"schedule": schedule, "concurrencyPolicy": policy, "jobTemplate": {"spec": job}})
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
