//! The real kubectl: a StatefulSet's data outlives its pods, the agents and the program.

use crate::cluster::tools::has;
use crate::cluster::{Cluster, guests, tools, until};

const SET: &str = "apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: tool:v1
        args: ['sleep=3600000']
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 1Gi}}
";

/// On a cluster of its own: it is stopped and started again.
#[test]
fn data_outlives_pods_and_restarts_and_goes_with_its_claim() {
    if tools::kubectl().is_none() {
        return;
    }
    let mut cluster = Cluster::start(2);
    cluster.push(&guests::path("rust-cmd-p1.wasm"), "tool:v1");
    cluster.apply(SET);
    cluster.kubectl("rollout status statefulset/web --timeout 90s").ok();
    // As upstream's columns show them.
    let kubectl = |words: &str| cluster.kubectl(words).ok();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let classes = words(&kubectl("get sc"));
    let class = "local (default) wasmfleet.dev/local Delete WaitForFirstConsumer true";
    has(&classes, &[class]);
    let volume = kubectl("get pvc data-web-0 -o jsonpath={.spec.volumeName}");
    let claims = words(&kubectl("get pvc"));
    has(
        &claims,
        &[&format!("data-web-0 Bound {volume} 1Gi RWO local <unset>"), "data-web-1 Bound"],
    );
    let volumes = words(&kubectl("get pv"));
    let row = format!("{volume} 1Gi RWO Delete Bound default/data-web-0 local <unset>");
    has(&volumes, &[&row]);
    let reasons = "get events --field-selector involvedObject.name=data-web-0 -o \
                   jsonpath={.items[*].reason}";
    has(&kubectl(reasons), &["WaitForFirstConsumer", "Provisioning", "ProvisioningSucceeded"]);
    kubectl("exec web-0 -- tool write=/data/file");
    let node = kubectl(&format!("get pv {volume} -o jsonpath={{..values[0]}}"));

    let uid = kubectl("get pod web-0 -o jsonpath={.metadata.uid}");
    kubectl("delete pod web-0 --wait=false");
    until("the pod is another one", || {
        match cluster.kubectl("get pod web-0 -o jsonpath={.metadata.uid}") {
            found if found.code == 0 && found.stdout != uid => Ok(()),
            other => Err(other.told()),
        }
    });
    kubectl("rollout status statefulset/web --timeout 90s");
    assert_eq!(kubectl("get pod web-0 -o jsonpath={.spec.nodeName}"), node);
    has(&kubectl("exec web-0 -- tool cat=/data/file"), &["written by the guest"]);
    // The other pod has a volume of its own.
    cluster.kubectl("exec web-1 -- tool cat=/data/file").fails();

    cluster.program().terminate();
    cluster.start_again();
    cluster.kubectl("wait pod/web-0 --for=condition=Ready --timeout=90s").ok();
    until("the agent runs it again", || {
        let shown = cluster.kubectl("exec web-0 -- tool cat=/data/file").told();
        if shown.contains("written by the guest") { Ok(()) } else { Err(shown) }
    });

    // Scaled away, the claims stay; deleted, they take what they had along.
    let dir = cluster.data_dir().join("nodes").join(&node).join("volumes").join(&volume);
    assert!(dir.join("file").exists());
    let kubectl = |words: &str| cluster.kubectl(words).ok();
    kubectl("scale statefulset/web --replicas=0");
    kubectl("wait pod/web-0 --for=delete --timeout=90s");
    assert_eq!(kubectl("get pvc -o name").lines().count(), 2);
    kubectl("delete pvc data-web-0 --timeout=60s");
    until("the volume is gone", || match kubectl("get pv -o name") {
        left if !left.contains(&volume) => Ok(()),
        left => Err(left),
    });
    assert!(!dir.exists());
}
