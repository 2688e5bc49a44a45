//! The verbs of `wasmctl` and what they print.

use crate::cluster::tools::has;
use crate::cluster::{Space, guests};

#[test]
fn get_prints_in_every_form() {
    let space = Space::new("get");
    space.apply(&guests::deployment("web", "hello:v1", 2));
    space.rolled_out("deployment/web");
    let table = space.wasmctl("get deployments").ok();
    let words: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]);
    assert_eq!(words[1][..4], ["web", "2/2", "2", "2"]);
    has(&space.wasmctl("get deploy -o wide").ok(), &["CONTAINERS", "hello:v1", "app=web"]);
    assert_eq!(space.wasmctl("get deploy -o name").ok(), "deployment.apps/web\n");
    let json: serde_json::Value =
        serde_json::from_str(&space.wasmctl("get deploy web -o json").ok()).expect("JSON");
    assert_eq!(json["spec"]["replicas"], 2);
    let yaml = space.wasmctl("get deploy web -o yaml").ok();
    has(&yaml, &["apiVersion: apps/v1\n", "kind: Deployment\n", "replicas: 2\n"]);
    let path = "get pods -o 'jsonpath={range .items[*]}{.status.phase}{\"\\n\"}{end}'";
    assert_eq!(space.wasmctl(path).ok(), "Running\nRunning\n");
    has(&space.wasmctl("get pods -l app=web --show-labels").ok(), &["pod-template-hash="]);
    assert_eq!(space.wasmctl("get pods -l app=other -o name").ok(), "");
    has(&space.wasmctl("get pods -l app=other").stderr, &["No resources found in get namespace"]);
    let all = space.wasmctl("get pods -A").ok();
    has(&all, &["NAMESPACE", "get   "]);
    let several = space.wasmctl("get deploy,rs,pods").ok();
    has(&several, &["deployment.apps/web", "replicaset.apps/web-", "pod/web-"]);
    let selected = "get pods --field-selector status.phase=Running -o name";
    assert_eq!(space.wasmctl(selected).ok().lines().count(), 2);
}

#[test]
fn objects_are_created_described_scaled_and_deleted() {
    let space = Space::new("verbs");
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {a: b}\n";
    assert_eq!(space.wasmctl_with("create -f -", map).ok(), "configmap/conf created\n");
    has(&space.wasmctl_with("create -f -", map).fails(), &["already exists"]);
    let first = map.replace("conf", "applied");
    assert_eq!(space.wasmctl_with("apply -f -", &first).ok(), "configmap/applied created\n");
    assert_eq!(space.wasmctl_with("apply -f -", &first).ok(), "configmap/applied unchanged\n");
    let other = map.replace("a: b", "a: c");
    assert_eq!(space.wasmctl_with("apply -f -", &other).ok(), "configmap/conf configured\n");
    let dry = space.wasmctl_with("apply --dry-run -f -", &map.replace("a: b", "a: d")).ok();
    has(&dry, &["configmap/conf configured (server dry run)"]);
    assert_eq!(space.value("configmap conf", ".data.a"), "c");

    space.apply(&guests::deployment("web", "hello:v1", 1));
    space.apply(&guests::service("web"));
    space.rolled_out("deployment/web");
    has(&space.wasmctl("scale deployment/web --replicas=3").ok(), &["deployment.apps/web scaled"]);
    space.rolled_out("deployment/web");
    space.wait_value("deployment/web", ".status.availableReplicas", "3");
    let told = space.wasmctl("scale deployment/web --current-replicas=9 --replicas=1").fails();
    has(&told, &["9"]);
    let restarted = space.wasmctl("rollout restart deployment/web").ok();
    assert_eq!(restarted, "deployment.apps/web restarted\n");
    space.rolled_out("deployment/web");
    let described = space.wasmctl("describe deployment web").ok();
    has(&described, &["Name:", "web", "Replicas:", "Events:", "ScalingReplicaSet"]);
    has(&space.wasmctl("describe node node-1").ok(), &["Capacity:", "Conditions:"]);
    has(&space.wasmctl("logs deployment/web").ok(), &[]);

    assert_eq!(space.wasmctl("delete configmap conf").ok(), "configmap/conf deleted\n");
    has(&space.wasmctl("delete configmap conf").fails(), &["configmaps \"conf\" not found"]);
    space.wasmctl("delete deployment,service -l app=web").ok();
    space.wasmctl_with("delete -f -", &guests::service("web")).ok();
    space.wait_value("pods", ".items[*].metadata.name", "");
}

#[test]
fn autoscalers_and_jobs_are_made_from_arguments() {
    let space = Space::new("generated");
    space.apply(&guests::deployment("web", "hello:v1", 1));
    let told = space.wasmctl("autoscale deployment/web --min=2 --max=5 --cpu=70% --name=own").ok();
    assert_eq!(told, "horizontalpodautoscaler.autoscaling/own autoscaled\n");
    let target = space.value("hpa own", ".spec.scaleTargetRef.name");
    let bounds =
        ["min", "max"].map(|bound| space.value("hpa own", &format!(".spec.{bound}Replicas")));
    assert_eq!((target.as_str(), bounds), ("web", ["2".to_string(), "5".to_string()]));
    let percent = ".spec.metrics[0].resource.target.averageUtilization";
    assert_eq!(space.value("hpa own", percent), "70");
    has(&space.wasmctl("autoscale deployment/none --max=5").fails(), &["not found"]);
    has(&space.wasmctl("autoscale service/kubernetes --max=5").fails(), &["cannot be scaled"]);
    has(&space.wasmctl("autoscale deployment/web --max=1 --min=2").fails(), &["less than"]);

    let told = space.wasmctl("create job once --image=tool:v1 -- exit=0").ok();
    assert_eq!(told, "job.batch/once created\n");
    space.apply(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: yearly}\nspec:\n  schedule: '0 0 1 1 *'\n  \
         jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: main, \
         image: 'tool:v1', args: [exit=0]}]}}}}\n",
    );
    let told = space.wasmctl("create job now --from=cronjob/yearly").ok();
    assert_eq!(told, "job.batch/now created\n");
    assert_eq!(space.value("job now", ".metadata.ownerReferences[0].name"), "yearly");
    for job in ["once", "now"] {
        space.wait_value(&format!("job {job}"), ".status.succeeded", "1");
    }
    has(&space.wasmctl("create job x --from=job/now").fails(), &["write cronjob/NAME"]);
    has(&space.wasmctl("create job x --from=cronjob/none").fails(), &["not found"]);
    let printed = "create job x --from=cronjob/yearly --dry-run=client -o yaml";
    has(&space.wasmctl(printed).ok(), &["kind: Job", "cronjob.kubernetes.io/instantiate: manual"]);
}

#[test]
fn run_waits_for_its_pods_end() {
    let space = Space::new("run");
    let words = "run once --image tool:v1 --restart Never --wait --rm -e A=b -- exit=6";
    let output = space.wasmctl(words);
    assert_eq!(output.code, 6, "{}", output.told());
    has(&output.stdout, &["arg[1]=exit=6", "env A=b"]);
    assert_eq!(space.wasmctl("get pods -o name").ok(), "");
    has(&space.wasmctl("run x --image tool:v1 --dry-run").ok(), &["kind: Pod", "image: tool:v1"]);
}

#[test]
fn images_kinds_and_versions_are_listed() {
    let space = Space::new("lists");
    let images = space.wasmctl("images").ok();
    has(&images, &["IMAGE", "hello", "v1", "sha256:"]);
    let kinds = space.wasmctl("api-resources").ok();
    has(&kinds, &["deployments", "deploy", "apps/v1", "Deployment", "pods", "po"]);
    has(&space.wasmctl("version").ok(), &["v1.35"]);
    has(&space.wasmctl("--help").ok(), &["apply", "rollout", "push"]);
    has(&space.wasmctl("completion bash").ok(), &["wasmctl"]);
}

#[test]
fn inspect_tells_what_a_program_is() {
    let space = Space::new("inspect");
    let file = guests::path("rust-http-p2.wasm");
    let told = space.wasmctl(&format!("inspect {}", file.display())).ok();
    let wanted = [
        "Kind:        component, serves HTTP\n",
        "Entry:       wasi:http/incoming-handler@0.2",
        "Runs here:   yes\n",
        "\nImports:\n  wasi:",
        "\nMade with:\n  processed-by: wit-bindgen-rust",
        "Digest:      <none>\n",
    ];
    has(&told, &wanted);
    // Of an image, the same, and its digest.
    let image = space.wasmctl("inspect hello:v1 -o json").ok();
    let image: serde_json::Value = serde_json::from_str(&image).expect("JSON");
    assert_eq!(image["kind"], "http");
    assert!(image["digest"].as_str().unwrap().starts_with("sha256:"));
    let size = std::fs::metadata(&file).unwrap().len();
    assert_eq!(image["sizeBytes"], size);
    let text = r#"(module (import "env" "magic" (func)) (func (export "_start")))"#;
    let needs = guests::assembled("needs-magic", text);
    let told = space.wasmctl(&format!("inspect {}", needs.display())).ok();
    has(&told, &["Runs here:   no: nothing provides the import `env::magic`"]);
    has(&told, &["\n  env::magic   (nothing provides it)\n"]);
    has(&space.wasmctl("inspect none:v1").fails(), &["there is no v1 of none"]);
    has(&space.wasmctl("inspect ./none.wasm").fails(), &["./none.wasm", "No such file"]);
    has(&space.wasmctl("inspect ghcr.io/a/b:c").fails(), &["is in another registry"]);
    has(&space.wasmctl("inspect Cargo.toml").fails(), &["not a WebAssembly module"]);
}
