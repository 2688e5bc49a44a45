//! The real kubectl: objects, selection, edits, nodes.

use crate::cluster::tools::has;
use crate::cluster::{Cluster, Space, guests, until};

const CONF: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {a: b}
";

#[test]
fn objects_are_created_changed_and_deleted() {
    let Some(space) = Space::with_kubectl("k-objects") else { return };
    let kubectl = |words: &str| space.kubectl(words).ok();
    // `create` sends protobuf where it can, and JSON from files.
    kubectl("create configmap made --from-literal=a=b");
    kubectl("create secret generic hidden --from-literal=password=x");
    kubectl("create serviceaccount robot");
    kubectl("create deployment web --image=hello:v1 --replicas=2 --port=8080");
    kubectl("expose deployment web --port=80 --target-port=8080");
    kubectl("create service clusterip other --tcp=80:8080");
    kubectl("run one --image=tool:v1 --restart=Never --command -- tool exit=0");
    assert_eq!(kubectl("get configmap made -o jsonpath={.data.a}"), "b");
    let applied = space.kubectl_with("apply -f -", CONF, &[]).ok();
    assert_eq!(applied, "configmap/conf created\n");
    assert_eq!(space.kubectl_with("apply -f -", CONF, &[]).ok(), "configmap/conf unchanged\n");
    let other = CONF.replace("a: b", "a: c");
    has(&space.kubectl_with("diff -f -", &other, &[]).stdout, &["-  a: b", "+  a: c"]);
    let dry = space.kubectl_with("apply --dry-run=server -f -", &other, &[]).ok();
    assert_eq!(dry, "configmap/conf configured (server dry run)\n");
    assert_eq!(space.kubectl_with("apply -f -", &other, &[]).ok(), "configmap/conf configured\n");
    assert_eq!(kubectl("get configmap conf -o jsonpath={.data.a}"), "c");
    kubectl("label configmap conf tier=web");
    kubectl("annotate configmap conf note=hi");
    has(&kubectl("get configmap conf --show-labels"), &["tier=web"]);
    kubectl("label configmap conf tier-");
    kubectl("patch configmap conf --type merge -p '{\"data\":{\"m\":\"1\"}}'");
    kubectl(
        "patch configmap conf --type json -p '[{\"op\":\"add\",\"path\":\"/data/j\",\"value\":\"2\"}]'",
    );
    assert_eq!(kubectl("get configmap conf -o jsonpath={.data}"), r#"{"a":"c","j":"2","m":"1"}"#);
    let editor = [("KUBE_EDITOR", "sed -i s/hunter/gatherer/")];
    kubectl("patch configmap conf -p '{\"data\":{\"e\":\"hunter\"}}'");
    space.kubectl_with("edit configmap conf", "", &editor).ok();
    assert_eq!(kubectl("get configmap conf -o jsonpath={.data.e}"), "gatherer");
    kubectl("replace --force -f examples/hello.yaml");
    kubectl("delete -f examples/hello.yaml");
    kubectl("delete configmap conf made");
    has(
        &space.kubectl("get configmap conf").fails(),
        &["NotFound", "configmaps \"conf\" not found"],
    );
    has(
        &space.kubectl("create configmap made2 --from-literal=a=b --dry-run=server -o yaml").ok(),
        &["a: b"],
    );
    kubectl("delete pod one --now");
    kubectl("delete deployment web --cascade=foreground");
    assert_eq!(kubectl("get pods -o name"), "");
}

/// kubectl asks for tokens in protobuf.
#[test]
fn tokens_are_made_for_accounts() {
    let Some(space) = Space::with_kubectl("k-tokens") else { return };
    let kubectl = |words: &str| space.kubectl(words).ok();
    kubectl("create serviceaccount robot");
    let token = kubectl("create token robot --duration 10m --audience vault");
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    kubectl("run one --image=sleep:v1 --restart=Never");
    kubectl("create token default --bound-object-kind Pod --bound-object-name one");
    let secret = "create token robot --bound-object-kind Secret --bound-object-name s";
    has(&space.kubectl(secret).fails(), &["cannot bind token for serviceaccount"]);
    has(&space.kubectl("create token robot --duration 1m").fails(), &["less than 10 minutes"]);
}

#[test]
fn server_side_apply_owns_fields_and_refuses_others() {
    let Some(space) = Space::with_kubectl("k-apply") else { return };
    let apply = |words: &str, manifest: &str| {
        let words = format!("apply --server-side {words} -f -");
        space.kubectl_with(&words, manifest, &[])
    };
    assert_eq!(apply("", CONF).ok(), "configmap/conf serverside-applied\n");
    assert_eq!(apply("", CONF).ok(), "configmap/conf serverside-applied\n");
    let other = CONF.replace("a: b", "a: c");
    let refused = apply("--field-manager=other", &other).fails();
    has(&refused, &["conflict with \"kubectl\"", ".data.a"]);
    apply("--field-manager=other --force-conflicts", &other).ok();
    let shown = space.kubectl("get configmap conf -o yaml --show-managed-fields").ok();
    has(&shown, &["a: c", "manager: other", "operation: Apply", "f:a: {}"]);
    has(&apply("--dry-run=server --force-conflicts", CONF).ok(), &["(server dry run)"]);
    // From client-side to server-side apply, as kubectl itself moves over.
    let moved = CONF.replace("conf", "moved");
    space.kubectl_with("apply -f -", &moved, &[]).ok();
    apply("", &moved).ok();
    apply("", &moved.replace("a: b", "a: d")).ok();
    assert_eq!(space.value("configmap moved", ".data.a"), "d");
}

#[test]
fn get_and_describe_show_what_upstream_shows() {
    let Some(space) = Space::with_kubectl("k-shows") else { return };
    space.apply(&guests::deployment("web", "hello:v1", 2));
    space.apply(&guests::service("web"));
    space.rolled_out("deployment/web");
    let kubectl = |words: &str| space.kubectl(words).ok();
    let header = |words: &str| {
        let table = kubectl(words);
        table.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for (kind, columns) in [
        ("pods", "NAME READY STATUS RESTARTS AGE"),
        ("pods -o wide", "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES"),
        ("deployments", "NAME READY UP-TO-DATE AVAILABLE AGE"),
        ("rs", "NAME DESIRED CURRENT READY AGE"),
        ("svc", "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE"),
        ("endpointslices", "NAME ADDRESSTYPE PORTS ENDPOINTS AGE"),
        ("nodes", "NAME STATUS ROLES AGE VERSION"),
        ("namespaces", "NAME STATUS AGE"),
        ("cm", "NAME DATA AGE"),
        ("sa", "NAME AGE"),
        ("events", "LAST SEEN TYPE REASON OBJECT MESSAGE"),
        ("leases -n kube-node-lease", "NAME HOLDER AGE"),
    ] {
        // Upstream dropped SECRETS from service accounts only in some versions: both are right.
        let found = header(&format!("get {kind}"));
        let found = found.replace("NAME SECRETS AGE", "NAME AGE");
        assert_eq!(found, columns, "{kind}");
    }
    let pod = kubectl("get pods -o jsonpath={.items[0].metadata.name}");
    let described = kubectl(&format!("describe pod {pod}"));
    has(&described, &["Status:           Running", "Controlled By:  ReplicaSet/web-", "Started"]);
    let described = kubectl("describe deployment web");
    has(&described, &["2 available", "NewReplicaSetAvailable", "deployment-controller"]);
    has(&kubectl("describe service web"), &["Endpoints:", ":8080"]);
    has(&kubectl("describe node node-1"), &["Ready", "Allocated resources:", "wasmtime://"]);
    has(&kubectl("describe namespace k-shows"), &["Active"]);
    has(&kubectl("get all"), &["pod/web-", "service/web", "deployment.apps/web"]);
    has(&kubectl("explain deployment.spec.strategy"), &["RollingUpdate", "FIELDS:"]);
    has(&kubectl("api-resources"), &["deployments", "apps/v1"]);
    has(&kubectl("version"), &["Server Version: v1.35"]);
    has(&kubectl("get --raw /readyz"), &["ok"]);
    has(&kubectl("cluster-info"), &["is running at"]);
    let sorted = kubectl("get pods --sort-by=.metadata.name -o custom-columns=N:.metadata.name");
    assert_eq!(sorted.lines().count(), 3);
    let wrong = guests::deployment("x", "hello:v1", 1).replace("replicas: 1", "replicaz: 1");
    let told = space.kubectl_with("apply -f -", &wrong, &[]).fails();
    has(&told, &["strict decoding error", "unknown field \"spec.replicaz\""]);
}

#[test]
fn logs_and_waiting() {
    let Some(space) = Space::with_kubectl("k-logs") else { return };
    space.apply(&guests::job_pod("p", "tool:v1", &["one", "sleep=800", "two"]));
    space.kubectl("wait pod/p --for=condition=PodScheduled --timeout=60s").ok();
    space.kubectl("wait pod/p --for=jsonpath={.status.phase}=Succeeded --timeout=60s").ok();
    let log = space.kubectl("logs p").ok();
    has(&log, &["arg[1]=one", "arg[3]=two"]);
    assert_eq!(space.kubectl("logs -f p").ok(), log);
    assert_eq!(space.kubectl("logs p --tail=1").ok().lines().count(), 1);
    assert_eq!(space.kubectl("logs p --limit-bytes=5").ok().len(), 5);
    has(&space.kubectl("logs p --timestamps --since=10m").ok(), &["T", "Z arg[1]=one"]);
    space.kubectl("delete pod p --wait=false").ok();
    space.kubectl("wait --for=delete pod/p --timeout=60s").ok();
}

/// On a cluster of its own: what is done to nodes concerns every pod.
#[test]
fn nodes_are_cordoned_drained_and_taken_back() {
    if crate::cluster::tools::kubectl().is_none() {
        return;
    }
    let cluster = Cluster::start(2);
    cluster.push(&guests::path("rust-http-p2.wasm"), "hello:v1");
    cluster.apply(&guests::deployment("web", "hello:v1", 4));
    cluster.wasmctl("rollout status deployment/web --timeout 90s").ok();
    let kubectl = |words: &str| cluster.kubectl(words).ok();
    kubectl("taint node node-2 test=yes:PreferNoSchedule");
    kubectl("taint node node-2 test-");
    kubectl("cordon node-1");
    has(&kubectl("get nodes"), &["Ready,SchedulingDisabled"]);
    kubectl("drain node-1 --ignore-daemonsets --timeout=90s");
    let nodes = "get pods -o jsonpath={.items[*].spec.nodeName}";
    until("all pods on the other node", || {
        let found = kubectl(nodes);
        let phases = kubectl("get deployment web -o jsonpath={.status.readyReplicas}");
        match found.split(' ').all(|node| node == "node-2") && phases == "4" {
            true => Ok(()),
            false => Err(format!("{found} {phases}")),
        }
    });
    kubectl("uncordon node-1");
    kubectl("scale deployment web --replicas=8");
    kubectl("rollout status deployment/web --timeout=90s");
    assert!(kubectl(nodes).contains("node-1"));
}
