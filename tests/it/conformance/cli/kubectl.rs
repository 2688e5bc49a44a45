//! `kubectl/kubectl.go`.

use anyhow::{Result, ensure};
use regex::Regex;

use serde_json::{Value, json};

use crate::conformance::checks::{holds, is};
use crate::conformance::workloads::{
    BUSYBOX, HTTPD, are_running, becomes, is_running, pause_pod, serves,
};
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] = &[
    case!(
        "Kubectl client Kubectl api-versions should check if v1 is in available api versions",
        api_versions
    ),
    case!(
        "Kubectl client Kubectl cluster-info should check if Kubernetes control plane services is \
         included in cluster-info",
        cluster_info
    ),
    case!(
        "Kubectl client Kubectl diff should check if kubectl diff finds a difference for \
         Deployments",
        diff
    ),
    case!("Kubectl client Kubectl label should update the label on a resource", label),
    case!("Kubectl client Kubectl replace should update a single-container pod's image", replace),
    case!(
        "Kubectl client Kubectl run pod should create a pod from an image when restart is Never",
        run_never
    ),
    case!(
        "Kubectl client Kubectl server-side dry-run should check if kubectl can dry-run update Pods",
        dry_run
    ),
    case!("Kubectl client Kubectl version should check is all data is printed", version),
];

async fn api_versions(context: &Context) -> Result<()> {
    let versions = context.kubectl("api-versions", "").await?.ok();
    holds(versions.lines().any(|version| version == "v1"), "v1 is among the versions")
}

async fn cluster_info(context: &Context) -> Result<()> {
    let info = context.kubectl("cluster-info", "").await?.ok();
    // Colours may stand between the words.
    for words in ["Kubernetes control plane", "is running at"] {
        ensure!(info.contains(words), "no {words:?} in {info}");
    }
    Ok(())
}

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: httpd-deployment
spec:
  replicas: 2
  selector: {matchLabels: {app: httpd}}
  template:
    metadata: {labels: {app: httpd}}
    spec:
      containers:
      - name: httpd
        image: httpd:v1
        ports: [{containerPort: 80}]
";

async fn diff(context: &Context) -> Result<()> {
    context.kubectl("create -f -", DEPLOYMENT).await?.ok();
    let other = DEPLOYMENT.replace("httpd:v1", "busybox:v1");
    let found = context.kubectl("diff -f -", &other).await?;
    // A difference is told with 1, an error with more.
    ensure!(found.code == 1, "{}", found.told());
    for image in ["httpd:v1", "busybox:v1"] {
        ensure!(found.stdout.contains(image), "no {image} in {}", found.told());
    }
    context.kubectl("delete -f -", &other).await?.ok();
    Ok(())
}

async fn version(context: &Context) -> Result<()> {
    let version = context.kubectl("version", "").await?.ok();
    for item in ["Client Version: ", "Server Version: "] {
        let pattern = Regex::new(&format!(r"{item}v\d\.\d+\.[\d\w\-\.\+]+"))?;
        ensure!(pattern.is_match(&version), "no valid {item:?} in {version}");
    }
    Ok(())
}

async fn label(context: &Context) -> Result<()> {
    let mut pod = pause_pod("pause", json!({"name": "pause"}));
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    context.kubectl("create -f -", &pod.to_string()).await?.ok();
    becomes(&context.own("v1/pods"), "pause", "running and ready", serves).await?;
    let shown =
        async || anyhow::Ok(context.kubectl("get pod pause -L testing-label", "").await?.ok());
    let (label, value) = ("testing-label", "testing-label-value");
    context.kubectl(&format!("label pods pause {label}={value}"), "").await?.ok();
    holds(shown().await?.contains(value), "the label is shown")?;
    context.kubectl(&format!("label pods pause {label}-"), "").await?.ok();
    holds(!shown().await?.contains(value), "the label is not shown any more")?;
    context.kubectl("delete --grace-period=0 --force -f -", &pod.to_string()).await?.ok();
    Ok(())
}

/// `kubectl run` of a pod with a label, which then runs.
async fn run_httpd(context: &Context, pod: &str) -> Result<()> {
    let words = format!("run {pod} --image={HTTPD} --pod-running-timeout=2m0s --labels=run={pod}");
    context.kubectl(&words, "").await?.ok();
    are_running(&context.own("v1/pods"), &format!("run={pod}"), 1).await?;
    Ok(())
}

async fn replace(context: &Context) -> Result<()> {
    let pod = "e2e-test-httpd-pod";
    run_httpd(context, pod).await?;
    let text = context.kubectl(&format!("get pod {pod} -o json"), "").await?.ok();
    let mut object: Value = serde_json::from_str(&text)?;
    is(&object["spec"]["containers"][0]["image"], HTTPD)?;
    object["spec"]["containers"][0]["image"] = BUSYBOX.into();
    context.kubectl("replace -f -", &object.to_string()).await?.ok();
    let read = context.own("v1/pods").get(pod).await?;
    is(&read["spec"]["containers"][0]["image"], BUSYBOX)?;
    context.kubectl(&format!("delete pods {pod}"), "").await?.ok();
    Ok(())
}

async fn run_never(context: &Context) -> Result<()> {
    let pod = "e2e-test-httpd-pod";
    let words = format!("run {pod} --restart=Never --pod-running-timeout=2m0s --image={HTTPD}");
    context.kubectl(&words, "").await?.ok();
    let read = context.own("v1/pods").get(pod).await?;
    is(&read["spec"]["containers"][0]["image"], HTTPD)?;
    is(&read["spec"]["restartPolicy"], "Never")?;
    context.kubectl(&format!("delete pods {pod}"), "").await?.ok();
    Ok(())
}

async fn dry_run(context: &Context) -> Result<()> {
    let pod = "e2e-test-httpd-pod";
    run_httpd(context, pod).await?;
    let containers = json!([{"name": pod, "image": BUSYBOX}]);
    let patch = json!({"spec": {"containers": containers}});
    context.kubectl(&format!("patch pod {pod} -p '{patch}' --dry-run=server"), "").await?.ok();
    let read = is_running(&context.own("v1/pods"), pod).await?;
    is(&read["spec"]["containers"][0]["image"], HTTPD)?;
    context.kubectl(&format!("delete pods {pod}"), "").await?.ok();
    Ok(())
}
