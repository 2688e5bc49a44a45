//! Resource quotas: what is used of them.

use super::*;
use wasmfleet::api::Raw;

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

/// The controller over what is stored beside the tables.
fn counting(stored: Value) -> Arc<dyn Controller> {
    let tell = move |(group, resource): (&str, &str), namespace: &str| {
        let all = stored[format!("{resource}.{group}")].as_array().cloned().unwrap_or_default();
        let here = all.into_iter().filter(|one| one["metadata"]["namespace"] == namespace);
        here.map(|one| Raw(one.to_string().into())).collect()
    };
    let options = Options { stored: Arc::new(tell), ..Options::default() };
    controllers::all(&options).into_iter().find(|one| one.name() == CONTROLLER).unwrap()
}

#[test]
fn a_new_quota_is_counted() {
    let hard = json!({"pods": "5", "count/pods": "5", "requests.memory": "1Gi",
        "count/configmaps": "3", "secrets": "2", "count/jobs.batch": "1",
        "requests.storage": "9Gi", "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
        "services.nodeports": "3", "example.com/x": "1"});
    let at =
        |namespace: &str, spec: Value| json!({"metadata": {"namespace": namespace}, "spec": spec});
    let claim = |size: &str, class: Value| {
        at(
            "default",
            json!({"storageClassName": class, "resources": {"requests": {"storage": size}}}),
        )
    };
    let ports = json!({"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]});
    let stored = json!({
        "configmaps.": [at("default", json!({})), at("other", json!({}))],
        "jobs.batch": [at("default", json!({})), at("default", json!({}))],
        "persistentvolumeclaims.": [claim("1Gi", json!("gold")), claim("2Gi", json!(null))],
        "services.": [at("default", ports)],
    });
    let objects = objects(quota(hard, json!({})));
    let plan = objects.plan_by(&*counting(stored), "default/q");
    let [Write::Update { object, .. }] = &plan.writes[..] else { panic!("{plan:?}") };
    let status = object.get("status").unwrap();
    assert_eq!(
        status["used"],
        json!({"count/configmaps": "1", "count/jobs.batch": "2", "count/pods": "3", "pods": "2",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
            "requests.memory": "128Mi", "requests.storage": "3Gi", "secrets": "0",
            "services.nodeports": "2"})
    );
    assert_eq!(status["hard"].get("example.com/x"), None);
    assert_eq!(plan.again_after, Some(std::time::Duration::from_secs(5)));
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
