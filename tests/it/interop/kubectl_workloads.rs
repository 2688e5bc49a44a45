//! The real kubectl with the other workloads: rollouts of sets and daemons, Jobs made of CronJobs, and
//! what is left of them when they are deleted.

use crate::cluster::tools::has;
use crate::cluster::{Space, guests};

const CRON_JOB: &str = "apiVersion: batch/v1
kind: CronJob
metadata: {name: yearly}
spec:
  schedule: '0 0 1 1 *'
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: main, image: 'tool:v1', args: [print=made]}]
";

/// A StatefulSet or DaemonSet of the HTTP component.
fn workload(kind: &str, name: &str) -> String {
    let manifest = guests::deployment(name, "hello:v1", 2);
    let manifest = manifest.replace("kind: Deployment", &format!("kind: {kind}"));
    match kind {
        "DaemonSet" => manifest.replace("  replicas: 2\n", ""),
        _ => manifest.replace("  replicas: 2\n", "  replicas: 2\n  serviceName: db\n"),
    }
}

#[test]
fn sets_and_daemons_are_rolled_out_undone_and_restarted() {
    let Some(space) = Space::with_kubectl("k-workloads") else { return };
    let kubectl = |words: &str| space.kubectl(words).ok();
    for (kind, name) in [("StatefulSet", "statefulset/db"), ("DaemonSet", "daemonset/agent")] {
        let bare = name.split('/').next_back().unwrap_or_default();
        space.kubectl_with("apply -f -", &workload(kind, bare), &[]).ok();
        let done = || kubectl(&format!("rollout status {name} --timeout=90s"));
        let image = || space.value(name, ".spec.template.spec.containers[0].image");
        done();
        kubectl(&format!("set image {name} main=hello:v2"));
        done();
        has(&kubectl(&format!("rollout history {name}")), &["REVISION", "1", "2"]);
        has(&kubectl(&format!("rollout history {name} --revision=1")), &["hello:v1"]);
        kubectl(&format!("rollout undo {name}"));
        done();
        assert_eq!(image(), "hello:v1");
        kubectl(&format!("rollout restart {name}"));
        done();
        has(&kubectl(&format!("rollout history {name}")), &["3", "4"]);
    }
    kubectl("autoscale statefulset/db --min=2 --max=3 --cpu=80%");
    has(&kubectl("get hpa db"), &["StatefulSet/db", "2", "3"]);
    kubectl("delete statefulset/db --cascade=orphan");
    has(&kubectl("get pods -o name"), &["pod/db-0", "pod/db-1"]);
    kubectl("delete daemonset/agent --cascade=foreground");
    let left = kubectl("get pods -o name");
    assert!(!left.contains("agent"), "{left}");
}

#[test]
fn a_job_is_made_of_a_cron_job_and_waited_for() {
    let Some(space) = Space::with_kubectl("k-jobs") else { return };
    let kubectl = |words: &str| space.kubectl(words).ok();
    space.kubectl_with("apply -f -", CRON_JOB, &[]).ok();
    kubectl("create job now --from=cronjob/yearly");
    kubectl("wait job/now --for=condition=Complete --timeout=90s");
    has(&kubectl("get job now"), &["Complete", "1/1"]);
    has(&kubectl("logs job/now"), &["made"]);
}
