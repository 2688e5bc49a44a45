//! The workloads that are simulated, as a user writes them.

use serde_json::{Value, json};

pub fn deployment(name: &str, replicas: i32, surge: i32, unavailable: i32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "hello:v1"}]},
            },
        },
    })
}

pub fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

pub fn image(version: u32) -> Value {
    let containers = json!([{"name": "c", "image": format!("hello:v{version}")}]);
    json!({"spec": {"template": {"spec": {"containers": containers}}}})
}

pub fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": "hello:v1"}]}})
}

pub fn stateful_set(replicas: usize, policy: &str, unavailable: usize) -> Value {
    json!({"metadata": {"name": "db", "namespace": "default"},
        "spec": {"replicas": replicas, "serviceName": "db", "podManagementPolicy": policy,
            "selector": {"matchLabels": {"app": "db"}}, "template": template("db"),
            "updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": unavailable}}}})
}

pub fn daemon_set(surge: u32) -> Value {
    let unavailable = u32::from(surge == 0);
    json!({"metadata": {"name": "agent", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent"),
            "updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}})
}

/// A Job whose pods end after a while, as `end` says.
pub fn job(name: &str, spec: Value, end: &str) -> Value {
    let containers = json!([{"name": "c", "image": "hello:v1", "args": [format!("exit={end}")]}]);
    let mut spec = spec;
    spec["template"] = json!({"metadata": {"labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "containers": containers}});
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

/// A Deployment whose pods want 300 m CPU each.
pub fn large(name: &str, replicas: i32, class: Option<&str>) -> Value {
    let mut large = deployment(name, replicas, 1, 1);
    let spec = &mut large["spec"]["template"]["spec"];
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "300m"}});
    if let Some(class) = class {
        spec["priorityClassName"] = class.into();
    }
    large
}

pub fn priority_class(name: &str, value: i32) -> Value {
    json!({"metadata": {"name": name}, "value": value})
}

/// Guards the pods with the label `app`; nothing but evictions takes them away.
pub fn budget(app: &str, least: i32) -> Value {
    json!({"metadata": {"name": app, "namespace": "default"},
        "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": app}}}})
}

/// A Job each minute; each has four pods, one after the other.
pub fn cron_job(name: &str, policy: &str) -> Value {
    let spec = json!({"completions": 4, "parallelism": 1});
    let spec = json!({"schedule": "* * * * *", "concurrencyPolicy": policy,
        "jobTemplate": {"spec": job("", spec, "0")["spec"]}});
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

/// A pod that is nobody's, and stays nobody's.
pub fn bystander() -> Value {
    json!({"metadata": {"name": "bystander", "namespace": "default", "labels": {"app": "none"}},
        "spec": {"containers": [{"name": "c", "image": "hello:v1"}]}})
}
