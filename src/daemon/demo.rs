//! `up --demo`: pushes the bundled component, applies the hello example, waits until it is ready,
//! calls it, and says what to try next.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use http_body_util::BodyExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use serde::Deserialize;
use serde_json::Value;

use crate::api::registry::Registry;
use crate::api::{Object, ObjectKey};
use crate::client::remote::Remote;
use crate::client::{Api, Client, ListOptions, Patch, Target, WatchOptions, WriteOptions};
use crate::images::layout::Interfaces;
use crate::images::push;

const COMPONENT: &[u8] = include_bytes!("../../examples/guests/built/rust-http-p2.wasm");
const MANIFEST: &str = include_str!("../../examples/hello.yaml");
const IMAGE: &str = "hello:v1";
const NAMESPACE: &str = "default";
const NAME: &str = "hello";
/// From apply to ready; a first compile on a slow machine takes seconds.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// For the first answer of the Service: its listener opens a moment after the endpoints are ready.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const ANSWER_RETRY: Duration = Duration::from_millis(20);
/// The most that is printed of the answer.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Runs the demo against the API as an administrator, over HTTPS as any client would.
pub async fn run(remote: &Remote, client: &Client, kubeconfig: &Path) -> anyhow::Result<()> {
    println!("pushing the bundled component as {IMAGE}");
    push::push(remote, &IMAGE.parse()?, COMPONENT.into(), Interfaces::of(COMPONENT))
        .await
        .context("pushing the component")?;
    for document in serde_yaml::Deserializer::from_str(MANIFEST) {
        let object = Object::from_value(Value::deserialize(document)?)?;
        println!("applying {} {}", object.kind(), object.name());
        apply(remote, object).await?;
    }
    match tokio::time::timeout(READY_LIMIT, wait_ready(client)).await {
        Ok(ready) => ready?,
        Err(_) => bail!("not ready after {READY_LIMIT:?}: {}", why_not_ready(client).await),
    }
    let service: Service = client.get(NAMESPACE, NAME).await?;
    let url = url_of(&service).context("the Service has no cluster IP")?;
    let answer = call(&url).await?;
    println!("\n$ curl {url}\n{}\n", answer.trim_end());
    println!("{}", next_commands(&url, kubeconfig));
    Ok(())
}

/// Creates an object, or merges it into the one that is there.
async fn apply(remote: &Remote, object: Object) -> anyhow::Result<()> {
    let registry = Registry::builtin();
    let kind = registry
        .by_kind(object.api_version(), object.kind())
        .with_context(|| format!("the example has an unknown kind {}", object.kind()))?;
    let target = Target {
        resource: kind.gvr.clone(),
        namespace: Some(NAMESPACE.into()),
        name: None,
        subresource: None,
    };
    let options = WriteOptions { field_manager: "wasmfleet-demo".into(), ..Default::default() };
    match remote.create(&target, object.clone(), &options).await {
        Err(error) if error.is_already_exists() => {
            let target = Target { name: Some(object.name().into()), ..target };
            remote.patch(&target, Patch::Strategic(object.into_value()), &options).await?;
        }
        result => {
            result?;
        }
    }
    Ok(())
}

/// Prints each change of the number of ready replicas until all are.
async fn wait_ready(client: &Client) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        let options = WatchOptions {
            field_selector: format!("metadata.name={NAME}"),
            ..WatchOptions::default()
        };
        let target = Target::all::<Deployment>(Some(NAMESPACE));
        let mut events = client.api.watch(&target, &options).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            let Some(raw) = event.raw() else { continue };
            let deployment: Deployment = raw.decode()?;
            let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
            let status = deployment.status.unwrap_or_default();
            let seen = status.observed_generation == deployment.metadata.generation;
            let ready = status.available_replicas.unwrap_or_default();
            if seen && last != Some(ready) {
                println!("{ready}/{wanted} replicas ready");
                last = Some(ready);
            }
            let updated = status.updated_replicas.unwrap_or_default();
            let total = status.replicas.unwrap_or_default();
            if seen && ready == wanted && updated == wanted && total == wanted {
                return Ok(());
            }
        }
    }
}

/// What the pods say of themselves, for the error.
async fn why_not_ready(client: &Client) -> String {
    let options = ListOptions { label_selector: format!("app={NAME}"), ..ListOptions::default() };
    let pods = match client.list::<Pod>(Some(NAMESPACE), &options).await {
        Ok(pods) => pods,
        Err(error) => return error.to_string(),
    };
    let mut lines = Vec::new();
    for pod in pods {
        let status = pod.status.unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        let waiting = status.container_statuses.into_iter().flatten().find_map(|container| {
            let waiting = container.state?.waiting?;
            Some(format!("{}: {}", waiting.reason?, waiting.message.unwrap_or_default()))
        });
        let conditions = status.conditions.into_iter().flatten().find(|c| c.status == "False");
        let why = waiting.or_else(|| conditions.and_then(|c| c.message)).unwrap_or_default();
        lines.push(format!("pod {} is {phase} {why}", ObjectKey::of(&pod.metadata)));
    }
    if lines.is_empty() { "no pod was created".into() } else { lines.join("; ") }
}

fn url_of(service: &Service) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let port = spec.ports.as_ref()?.first()?.port;
    Some(format!("http://{}:{port}/", spec.cluster_ip.as_ref()?))
}

async fn call(url: &str) -> anyhow::Result<String> {
    let deadline = tokio::time::Instant::now() + ANSWER_LIMIT;
    loop {
        match get(url).await {
            Ok(answer) => return Ok(answer),
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(error.context(format!("calling {url}")));
            }
            Err(_) => tokio::time::sleep(ANSWER_RETRY).await,
        }
    }
}

async fn get(url: &str) -> anyhow::Result<String> {
    let uri: http::Uri = url.parse()?;
    let executor = hyper_util::rt::TokioExecutor::new();
    let client = hyper_util::client::legacy::Client::builder(executor)
        .build_http::<http_body_util::Empty<bytes::Bytes>>();
    let response = client.get(uri).await?;
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let body = body.collect().await.map_err(|e| anyhow::anyhow!("{e}"))?.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    if !status.is_success() {
        bail!("the Service answered {status}: {text}");
    }
    Ok(text)
}

fn next_commands(url: &str, kubeconfig: &Path) -> String {
    let kubeconfig = kubeconfig.display();
    format!(
        "Next, in another terminal:
  export KUBECONFIG={kubeconfig}
  curl {url}
  wasmctl get pods -o wide
  wasmctl logs deployment/hello
  wasmctl scale deployment/hello --replicas=5
  wasmctl push examples/guests/built/rust-http-p3.wasm hello:v2
  wasmctl set image deployment/hello hello=hello:v2
  wasmctl rollout status deployment/hello
  kubectl get all            # kubectl works as well
Ctrl-C stops the cluster; the same command brings it back."
    )
}
