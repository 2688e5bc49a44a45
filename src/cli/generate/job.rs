//! `wasmctl create job NAME --from=cronjob/NAME`: a CronJob's Job at once.

use anyhow::bail;
use serde_json::{Map, Value, json};

use crate::cli::discovery::text;
use crate::cli::selection;
use crate::cli::session::Session;

/// Says of a CronJob's Job that it did not come by the schedule.
const MANUAL: &str = "cronjob.kubernetes.io/instantiate";

/// The CronJob of `--from`.
pub async fn cron_job(session: &Session, from: &str) -> anyhow::Result<Value> {
    let selected = match from.contains('/') {
        true => selection::named(session, &[from.to_string()]).await?,
        false => Vec::new(),
    };
    let gvr = selected.first().map(|one| &one.resource.gvr);
    match gvr.filter(|gvr| gvr.group == "batch" && gvr.resource == "cronjobs") {
        Some(_) => Ok(session.get_json(&selected[0].path(Some(&session.namespace))).await?),
        None => bail!("--from={from} is no CronJob: write cronjob/NAME"),
    }
}

/// Makes of a Job what the CronJob's controller would make, but for the mark that a person did.
pub fn fill(job: &mut Value, cron_job: &Value) {
    let template = &cron_job["spec"]["jobTemplate"];
    job["spec"] = template["spec"].clone();
    if !template["metadata"]["labels"].is_null() {
        job["metadata"]["labels"] = template["metadata"]["labels"].clone();
    }
    let mut annotations = Map::from_iter([(MANUAL.to_string(), json!("manual"))]);
    annotations
        .extend(template["metadata"]["annotations"].as_object().cloned().unwrap_or_default());
    job["metadata"]["annotations"] = Value::Object(annotations);
    // Without blockOwnerDeletion, for which one would need a right to the CronJob's finalizers.
    job["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "batch/v1", "kind": "CronJob", "controller": true,
        "name": text(cron_job, "/metadata/name"), "uid": text(cron_job, "/metadata/uid"),
    }]);
}

#[cfg(test)]
mod tests {
    use super::super::tests::of;
    use super::*;

    #[test]
    fn jobs_are_of_an_image_or_of_a_cron_job() {
        let job = of(&["job", "once", "--image=r.io/tool:v1", "--", "a", "b"]).unwrap();
        let container = json!({"name": "once", "image": "r.io/tool:v1", "args": ["a", "b"]});
        let pod = json!({"restartPolicy": "Never", "containers": [container]});
        assert_eq!(job["spec"], json!({"template": {"spec": pod}}));
        let mut job = of(&["job", "once", "--from=cronjob/nightly"]).unwrap();
        fill(
            &mut job,
            &json!({
                "metadata": {"name": "nightly", "uid": "u"},
                "spec": {"jobTemplate": {
                    "metadata": {"labels": {"l": "1"}, "annotations": {"a": "1"}},
                    "spec": {"template": {"spec": pod}},
                }},
            }),
        );
        assert_eq!(job["spec"], json!({"template": {"spec": pod}}));
        let metadata = json!({
            "name": "once", "labels": {"l": "1"}, "annotations": {MANUAL: "manual", "a": "1"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly",
                                 "uid": "u", "controller": true}],
        });
        assert_eq!(job["metadata"], metadata);
        for wrong in [&[][..], &["--image=a", "--from=cj/b"], &["--from=cj/b", "--", "x"]] {
            assert!(of(&[&["job", "once"], wrong].concat()).is_err(), "{wrong:?}");
        }
    }
}
