//! Pod Security labels of namespaces.

use super::*;

const SPACES: &str = "/api/v1/namespaces";
const PREFIX: &str = "pod-security.kubernetes.io/";

fn labels(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(key, value)| (format!("{PREFIX}{key}"), Value::from(*value))).collect()
}

fn warnings(answer: &Answer) -> Vec<&str> {
    answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect()
}

async fn space(cluster: &Cluster, name: &str, pairs: &[(&str, &str)]) -> Answer {
    let object = json!({"metadata": {"name": name, "labels": labels(pairs)}});
    cluster.post(SPACES, &object).await
}

fn hardened(name: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["securityContext"] =
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    pod["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    pod
}

#[tokio::test(start_paused = true)]
async fn labels_must_mean_something() {
    let cluster = Cluster::new().await;
    let refused = space(&cluster, "n", &[("enforce", "strict"), ("warn-version", "1.30")]).await;
    assert_eq!(
        refused.failure(422),
        "Namespace \"n\" is invalid: [metadata.labels[pod-security.kubernetes.io/enforce]: Invalid \
         value: \"strict\": must be one of privileged, baseline, restricted, \
         metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.30\": must \
         be \"latest\" or \"v1.x\"]"
    );
    space(&cluster, "n", &[("enforce", "baseline"), ("audit", "restricted")]).await.expect(201);
    let bad = json!({"metadata": {"labels": labels(&[("audit", "none")])}});
    cluster.merge(&format!("{SPACES}/n"), &bad).await.failure(422);
}

#[tokio::test(start_paused = true)]
async fn pods_are_refused_and_templates_warned_of() {
    let cluster = Cluster::new().await;
    space(&cluster, "n", &[("enforce", "restricted"), ("enforce-version", "v1.30")])
        .await
        .expect(201);
    let pods = "/api/v1/namespaces/n/pods";
    let message = cluster.post(pods, &pod("p")).await.failure(403);
    let begin = "pods \"p\" is forbidden: violates PodSecurity \"restricted:v1.30\": \
                 allowPrivilegeEscalation != false (container \"main\" must set \
                 securityContext.allowPrivilegeEscalation=false), unrestricted capabilities";
    assert!(message.starts_with(begin), "{message}");
    let made = cluster.post(pods, &hardened("p")).await;
    made.expect(201);
    assert!(warnings(&made).iter().all(|text| !text.contains("PodSecurity")), "{:?}", made.headers);
    // What an update leaves alone is not looked at.
    let note = json!({"metadata": {"annotations": {"a": "b"}}});
    cluster.merge(&format!("{pods}/p"), &note).await.expect(200);
    let made = cluster.post("/apis/apps/v1/namespaces/n/deployments", &deployment("d")).await;
    made.expect(201);
    let told = warnings(&made);
    let last = told.last().unwrap();
    assert!(
        last.starts_with("299 - \"would violate PodSecurity \\\"restricted:v1.30\\\": "),
        "{last}"
    );
    assert!(last.ends_with("\\\"RuntimeDefault\\\" or \\\"Localhost\\\")\""), "{last}");
}

#[tokio::test(start_paused = true)]
async fn a_lax_namespace_may_warn() {
    let cluster = Cluster::new().await;
    space(&cluster, "n", &[("warn", "restricted")]).await.expect(201);
    let made = cluster.post("/api/v1/namespaces/n/pods", &pod("p")).await;
    made.expect(201);
    let told = warnings(&made);
    assert!(told.iter().any(|text| text.contains("would violate PodSecurity")), "{told:?}");
    // Without labels nothing is said.
    let made = cluster.post(PODS, &pod("p")).await;
    assert!(warnings(&made).iter().all(|text| !text.contains("PodSecurity")));
}

#[tokio::test(start_paused = true)]
async fn a_stricter_namespace_tells_of_the_pods_that_it_has() {
    let cluster = Cluster::new().await;
    for name in ["b", "a", "c"] {
        cluster.pod(name).await;
    }
    cluster.post(PODS, &hardened("good")).await.expect(201);
    let set = async |pairs: &[(&str, &str)]| {
        let patch = json!({"metadata": {"labels": labels(pairs)}});
        let answer = cluster.merge(&format!("{SPACES}/default"), &patch).await;
        answer.expect(200);
        warnings(&answer).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(set(&[("enforce", "baseline")]).await, [""; 0]);
    assert_eq!(
        set(&[("enforce", "restricted")]).await,
        [
            "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity \
             enforce level \\\"restricted:latest\\\"\"",
            "299 - \"a (and 2 other pods): allowPrivilegeEscalation != false, unrestricted \
             capabilities, runAsNonRoot != true, seccompProfile\"",
        ]
    );
    assert_eq!(set(&[("enforce", "privileged")]).await, [""; 0]);
}
