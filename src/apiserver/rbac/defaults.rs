//! The roles and bindings that every cluster has (plugin/pkg/auth/authorizer/rbac/bootstrappolicy),
//! as far as their resources are served here.

use serde_json::{Value, json};

use crate::apiserver::user::SERVICE_ACCOUNTS;

/// An administrator who sets it to `false` keeps what the server would add again.
pub const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// Marks what comes from here.
const BOOTSTRAPPING: &str = "kubernetes.io/bootstrapping";
const GROUP: &str = "rbac.authorization.k8s.io";

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

/// Resources of users' namespaces that `view` may read: groups and plurals.
const VIEWED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "configmaps",
            "endpoints",
            "events",
            "limitranges",
            "namespaces",
            "namespaces/status",
            "persistentvolumeclaims",
            "pods",
            "pods/log",
            "pods/status",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "replicationcontrollers/status",
            "resourcequotas",
            "resourcequotas/status",
            "serviceaccounts",
            "services",
            "services/status",
        ],
    ),
    ("discovery.k8s.io", &["endpointslices"]),
    (
        "apps",
        &[
            "controllerrevisions",
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "statefulsets",
            "statefulsets/scale",
            "statefulsets/status",
        ],
    ),
    ("batch", &["cronjobs", "cronjobs/status", "jobs", "jobs/status"]),
    ("autoscaling", &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]),
    ("policy", &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
    ("networking.k8s.io", &["ingresses", "ingresses/status", "networkpolicies"]),
];

/// Those that `edit` may change.
const EDITED: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "configmaps",
            "events",
            "persistentvolumeclaims",
            "pods",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "secrets",
            "serviceaccounts",
            "services",
        ],
    ),
    (
        "apps",
        &[
            "daemonsets",
            "deployments",
            "deployments/rollback",
            "deployments/scale",
            "replicasets",
            "replicasets/scale",
            "statefulsets",
            "statefulsets/scale",
        ],
    ),
    ("batch", &["cronjobs", "jobs"]),
    ("autoscaling", &["horizontalpodautoscalers"]),
    ("policy", &["poddisruptionbudgets"]),
    ("networking.k8s.io", &["ingresses", "networkpolicies"]),
];

/// What of a kubelet is authorized apart.
const NODE_PARTS: [&str; 4] = ["nodes/log", "nodes/metrics", "nodes/proxy", "nodes/stats"];

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn rules_of(table: &[(&str, &[&str])], verbs: &[&str]) -> Vec<Value> {
    table.iter().map(|(group, resources)| rule(group, resources, verbs)).collect()
}

fn role(name: &str, labels: Value, rules: Vec<Value>) -> Value {
    json!({"metadata": {"name": name, "labels": labelled(labels), "annotations":
        {AUTO_UPDATE: "true"}}, "rules": rules})
}

fn labelled(mut labels: Value) -> Value {
    labels[BOOTSTRAPPING] = "rbac-defaults".into();
    labels
}

/// A role that gathers those with a label.
fn gathering(name: &str, own_labels: Value, gathered: &[&str]) -> Value {
    let selectors: Vec<Value> = gathered
        .iter()
        .map(|to| json!({"matchLabels": {format!("{GROUP}/aggregate-to-{to}"): "true"}}))
        .collect();
    json!({"metadata": {"name": name, "labels": labelled(own_labels), "annotations":
        {AUTO_UPDATE: "true"}},
        "aggregationRule": {"clusterRoleSelectors": selectors}, "rules": []})
}

/// Every default ClusterRole.
pub fn cluster_roles() -> Vec<Value> {
    let to = |name: &str| json!({format!("{GROUP}/aggregate-to-{name}"): "true"});
    let discovery = ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", "/version"];
    let health = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let urls = |urls: &[&str]| json!({"nonResourceURLs": urls, "verbs": ["get"]});
    let mut edit = rules_of(EDITED, WRITE);
    edit.push(rule("", &["secrets"], READ));
    edit.push(rule("", &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy"], READ));
    edit.push(rule("", &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy"], WRITE));
    edit.push(rule("", &["pods/coredump", "pods/profile", "pods/why"], &["get"]));
    edit.push(rule("", &["pods/eviction", "serviceaccounts/token"], &["create"]));
    edit.push(rule("", &["serviceaccounts"], &["impersonate"]));
    edit.push(rule("coordination.k8s.io", &["leases"], &[READ, WRITE].concat()));
    let reviews = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"];
    vec![
        role(
            "cluster-admin",
            json!({}),
            vec![
                json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
                json!({"nonResourceURLs": ["*"], "verbs": ["*"]}),
            ],
        ),
        gathering("admin", json!({}), &["admin"]),
        gathering("edit", to("admin"), &["edit"]),
        gathering("view", to("edit"), &["view"]),
        role(
            "system:aggregate-to-admin",
            to("admin"),
            vec![
                rule("authorization.k8s.io", &["localsubjectaccessreviews"], &["create"]),
                rule(GROUP, &["rolebindings", "roles"], &[READ, WRITE].concat()),
            ],
        ),
        role("system:aggregate-to-edit", to("edit"), edit),
        role("system:aggregate-to-view", to("view"), rules_of(VIEWED, READ)),
        role(
            "system:basic-user",
            json!({}),
            vec![
                rule("authorization.k8s.io", &reviews, &["create"]),
                rule("authentication.k8s.io", &["selfsubjectreviews"], &["create"]),
            ],
        ),
        role("system:discovery", json!({}), vec![urls(&[&discovery[..], &health[..]].concat())]),
        role("system:public-info-viewer", json!({}), vec![urls(&health)]),
        role(
            "system:service-account-issuer-discovery",
            json!({}),
            vec![urls(&["/.well-known/openid-configuration", "/openid/v1/jwks"])],
        ),
        role(
            "system:monitoring",
            json!({}),
            vec![urls(
                &[&health[..], &["/healthz/*", "/livez/*", "/metrics", "/readyz/*"]].concat(),
            )],
        ),
        role(
            "system:aggregated-metrics-reader",
            // As metrics-server brings it.
            json!({
                format!("{GROUP}/aggregate-to-admin"): "true",
                format!("{GROUP}/aggregate-to-edit"): "true",
                format!("{GROUP}/aggregate-to-view"): "true",
            }),
            vec![rule("metrics.k8s.io", &["nodes", "pods"], READ)],
        ),
        role(
            "system:kubelet-api-admin",
            json!({}),
            vec![
                rule("", &["nodes"], &["get", "list", "watch"]),
                rule("", &["nodes"], &["proxy"]),
                rule("", &NODE_PARTS, &["*"]),
            ],
        ),
        role(
            "system:auth-delegator",
            json!({}),
            vec![
                rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
                rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
            ],
        ),
    ]
}

/// Every default ClusterRoleBinding.
pub fn cluster_role_bindings() -> Vec<Value> {
    let binding = |name: &str, role: &str, groups: &[&str]| {
        let subjects: Vec<Value> = groups
            .iter()
            .map(|group| json!({"apiGroup": GROUP, "kind": "Group", "name": group}))
            .collect();
        json!({"metadata": {"name": name, "labels": labelled(json!({})), "annotations":
            {AUTO_UPDATE: "true"}}, "subjects": subjects,
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}})
    };
    let (all, nobody) = ("system:authenticated", "system:unauthenticated");
    vec![
        binding("cluster-admin", "cluster-admin", &["system:masters"]),
        binding("system:basic-user", "system:basic-user", &[all]),
        binding("system:discovery", "system:discovery", &[all]),
        binding("system:monitoring", "system:monitoring", &["system:monitoring"]),
        binding("system:public-info-viewer", "system:public-info-viewer", &[all, nobody]),
        binding(
            "system:service-account-issuer-discovery",
            "system:service-account-issuer-discovery",
            &[SERVICE_ACCOUNTS],
        ),
    ]
}
