//! `kubectl/kubectl.go`.

use anyhow::{Result, ensure};
use regex::Regex;

use crate::conformance::checks::holds;
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
