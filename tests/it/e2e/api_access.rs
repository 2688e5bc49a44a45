//! A component inside a pod asks the API about itself, with its mounted token.

use crate::cluster::tools::has;
use crate::cluster::{Space, guests};

const MAY_READ: &str = "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: default}]
";

fn asking(name: &str, host: &str) -> String {
    let host = match host {
        "" => String::new(),
        host => format!("    - {{name: API_HOST, value: {host}}}\n"),
    };
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: api-client:v1
    env:
    - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
{host}"
    )
}

#[test]
fn a_component_gets_its_own_pod_as_roles_allow() {
    let space = Space::new("api-access");
    space.cluster.push(&guests::path("rust-api-client.wasm"), "api-client:v1");
    space.apply(&asking("stranger", ""));
    assert_eq!(space.exit_code("stranger"), 1);
    let told = space.wasmctl("logs stranger").ok();
    let who = "system:serviceaccount:api-access:default";
    has(&told, &["403 ", &format!("User \\\"{who}\\\" cannot get resource \\\"pods\\\"")]);
    space.apply(MAY_READ);
    // By its address, and by its names.
    for (pod, host) in [
        ("address", ""),
        ("short", "kubernetes.default"),
        ("long", "kubernetes.default.svc.cluster.local"),
    ] {
        space.apply(&asking(pod, host));
        assert_eq!(space.exit_code(pod), 0, "{}", space.wasmctl(&format!("logs {pod}")).stdout);
        let told = space.wasmctl(&format!("logs {pod}")).ok();
        has(&told, &["200 {", "\"kind\":\"Pod\"", &format!("\"name\":\"{pod}\"")]);
    }
}
