//! Resource quotas: what is used of them.

use super::*;

const CONTROLLER: &str = "resourcequota-controller";

fn quota(hard: Value, status: Value) -> Value {
    json!({"kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": hard}, "status": status})
}

fn sized(name: &str, phase: &str) -> Value {
    let mut pod = pod(name, "n1", "True");
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"memory": "64Mi"}});
    pod["status"]["phase"] = json!(phase);
    pod
}

fn objects(quota: Value) -> Objects {
    let map = json!({"kind": "ConfigMap", "metadata": {"name": "m"}});
    let mut stranger = sized("stranger", "Running");
    stranger["metadata"]["namespace"] = json!("other");
    let running = [sized("a", "Running"), sized("b", "Pending"), sized("done", "Succeeded")];
    let mut all = vec![quota, map, stranger];
    all.extend(running);
    Objects::new(&all)
}

#[test]
fn a_new_quota_is_counted() {
    let hard = json!({"pods": "5", "count/pods": "5", "requests.memory": "1Gi",
        "count/configmaps": "3", "secrets": "2", "count/jobs.batch": "1"});
    objects(quota(hard, json!({}))).check(
        CONTROLLER,
        "default/q",
        r#"update resourcequotas default/q status {"status":{"hard":{"count/configmaps":"3","count/pods":"5","pods":"5","requests.memory":"1Gi","secrets":"2"},"used":{"count/configmaps":"1","count/pods":"3","pods":"2","requests.memory":"128Mi","secrets":"0"}}}
           again after 5s"#,
    );
}

#[test]
fn what_went_is_taken_off_and_what_is_right_stays() {
    let hard = json!({"pods": "5", "requests.memory": "1Gi"});
    let status = |pods: &str, memory: &str| json!({"hard": hard, "used": {"pods": pods, "requests.memory": memory}});
    let right = quota(hard.clone(), status("2", "131072Ki"));
    objects(right).check(CONTROLLER, "default/q", "");
    objects(quota(hard.clone(), status("3", "192Mi"))).check(
        CONTROLLER,
        "default/q",
        r#"update resourcequotas default/q status {"status":{"used":{"pods":"2","requests.memory":"128Mi"}}}"#,
    );
    // The quota was charged for what the table of pods does not show yet.
    let mut ahead = quota(hard.clone(), status("3", "64Mi"));
    ahead["metadata"]["resourceVersion"] = json!("9");
    objects(ahead).check(
        CONTROLLER,
        "default/q",
        r#"update resourcequotas default/q status {"status":{"used":{"requests.memory":"128Mi"}}}
           again after 5s"#,
    );
}

#[test]
fn every_counted_resource_is_kept() {
    let kept = controllers::kept();
    for resource in wasmfleet::api::kinds::quota_usage::COUNTED {
        assert!(kept.contains(resource), "{resource}");
    }
}
