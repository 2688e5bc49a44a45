//! `kubectl/kubectl.go`, of a ReplicationController and its pods.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::conformance::checks::{annotation, holds, is, name};
use crate::conformance::workloads::{AGNHOST, SERVER, are_running, uid};
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!(
        "Kubectl client Kubectl describe should check if kubectl describe prints relevant \
         information for rc and pods",
        describe
    ),
    case!("Kubectl client Kubectl expose should create services for rc", expose),
    case!("Kubectl client Update Demo should create and stop a replication controller", demo),
    case!("Kubectl client Update Demo should scale a replication controller", scaled_demo),
    case!("Kubectl client Kubectl patch should add annotations for pods in rc", patch),
];

/// As in test/e2e/testing-manifests/kubectl/agnhost-primary-{controller,service}.
async fn start(context: &Context, with_service: bool) -> Result<Vec<Value>> {
    let labels = json!({"app": "agnhost", "role": "primary"});
    let container = json!({"name": "agnhost-primary", "image": AGNHOST,
        "ports": [{"name": "agnhost-server", "containerPort": 6379}]});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
    let metadata = json!({"name": "agnhost-primary", "labels": labels});
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": metadata, "spec": {"replicas": 1, "template": template}});
    context.kubectl("create -f -", &controller.to_string()).await?.ok();
    if with_service {
        let ports = json!([{"port": 6379, "targetPort": "agnhost-server"}]);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"ports": ports, "selector": labels}});
        context.kubectl("create -f -", &service.to_string()).await?.ok();
    }
    are_running(&context.own("v1/pods"), "app=agnhost", 1).await
}

/// For each of `wanted`, the next line with the first of its words has the other ones too. A line
/// may serve twice.
fn lines_are(text: &str, wanted: &[&[&str]]) -> Result<()> {
    let mut lines = text.lines().peekable();
    for words in wanted {
        while lines.next_if(|line| !line.contains(words[0])).is_some() {}
        let line = lines.peek().copied().unwrap_or_default();
        let has_all = words.iter().all(|word| line.contains(word));
        ensure!(has_all, "{words:?} is not in {line:?} of:\n{text}");
    }
    Ok(())
}

async fn describe(context: &Context) -> Result<()> {
    let pods = start(context, true).await?;
    let namespace = context.namespace.as_str();
    let told =
        async |what: &str| anyhow::Ok(context.kubectl(&format!("describe {what}"), "").await?.ok());
    for pod in &pods {
        lines_are(
            &told(&format!("pod {}", name(pod))).await?,
            &[
                &["Name:", "agnhost-primary-"],
                &["Namespace:", namespace],
                &["Node:"],
                &["Labels:", "app=agnhost"],
                &["role=primary"],
                &["Annotations:"],
                &["Status:", "Running"],
                &["IP:"],
                &["Controlled By:", "ReplicationController/agnhost-primary"],
                &["Image:", AGNHOST],
                &["State:", "Running"],
                &["QoS Class:", "BestEffort"],
            ],
        )?;
    }
    let controller: &[&[&str]] = &[
        &["Name:", "agnhost-primary"],
        &["Namespace:", namespace],
        &["Selector:", "app=agnhost,role=primary"],
        &["Labels:", "app=agnhost"],
        &["role=primary"],
        &["Annotations:"],
        &["Replicas:", "1 current", "1 desired"],
        &["Pods Status:", "1 Running", "0 Waiting", "0 Succeeded", "0 Failed"],
        &["Pod Template:"],
        &["Image:", AGNHOST],
        &["Events:"],
    ];
    eventually("the controller, described", async || {
        Ok(lines_are(&told("rc agnhost-primary").await?, controller).ok())
    })
    .await?;
    lines_are(
        &told("service agnhost-primary").await?,
        &[
            &["Name:", "agnhost-primary"],
            &["Namespace:", namespace],
            &["Labels:", "app=agnhost"],
            &["role=primary"],
            &["Annotations:"],
            &["Selector:", "app=agnhost", "role=primary"],
            &["Type:", "ClusterIP"],
            &["IP:"],
            &["Port:", "<unset>", "6379/TCP"],
            &["Endpoints:"],
            &["Session Affinity:", "None"],
        ],
    )?;
    let nodes = context.all("v1/nodes").items(&[]).await?;
    let node = name(&nodes[0]);
    lines_are(
        &told(&format!("node {node}")).await?,
        &[
            &["Name:", node],
            &["Labels:"],
            &["Annotations:"],
            &["CreationTimestamp:"],
            &["Conditions:"],
            &["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"],
            &["Addresses:"],
            &["Capacity:"],
            &["Version:"],
            &["Kernel Version:"],
            &["OS Image:"],
            &["Container Runtime Version:"],
            &["Kubelet Version:"],
            &["Kube-Proxy Version:"],
            &["Pods:"],
        ],
    )?;
    lines_are(
        &told(&format!("namespace {namespace}")).await?,
        &[&["Name:", namespace], &["Labels:"], &["Annotations:"], &["Status:", "Active"]],
    )
}

/// The Service has one port, and its EndpointSlices have one pod with the port behind it.
async fn service_is(context: &Context, service: &str, port: u16) -> Result<()> {
    let slices = context.own("discovery.k8s.io/v1/endpointslices");
    let selector = format!("kubernetes.io/service-name={service}");
    let what = format!("endpoints of {service}");
    let found = eventually(&what, async || {
        let found = slices.items_labelled(&selector).await?;
        let has = |slice: &Value| slice["endpoints"].as_array().is_some_and(|e| !e.is_empty());
        Ok(found.iter().any(has).then_some(found))
    });
    for slice in found.await? {
        let endpoints = slice["endpoints"].as_array().map_or(0, Vec::len);
        holds(endpoints == 1, "there is one endpoint")?;
        is(&slice["ports"][0]["port"], 6379)?;
    }
    let spec = context.own("v1/services").get(service).await?["spec"].take();
    holds(spec["ports"].as_array().is_some_and(|ports| ports.len() == 1), "it has one port")?;
    is(&spec["ports"][0]["port"], port)?;
    is(&spec["ports"][0]["targetPort"], 6379)
}

async fn expose(context: &Context) -> Result<()> {
    for pod in start(context, false).await? {
        let words = format!("logs {} agnhost-primary", name(&pod));
        eventually("its log", async || {
            let log = context.kubectl(&words, "").await?.ok();
            Ok(log.contains("Paused").then_some(()))
        })
        .await?;
    }
    let words = "expose rc agnhost-primary --name=rm2 --port=1234 --target-port=6379";
    context.kubectl(words, "").await?.ok();
    service_is(context, "rm2", 1234).await?;
    let words = "expose service rm2 --name=rm3 --port=2345 --target-port=6379";
    context.kubectl(words, "").await?.ok();
    service_is(context, "rm3", 2345).await
}

async fn patch(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let patch = json!({"metadata": {"annotations": {"x": "y"}}});
    for pod in start(context, false).await? {
        context.kubectl(&format!("patch pod {} -p '{patch}'", name(&pod)), "").await?.ok();
        let read = pods.get(name(&pod)).await?;
        is(&uid(&read).into(), uid(&pod))?;
        is(annotation(&read, "x"), "y")?;
    }
    Ok(())
}

/// As upstream's `nautilus`; each of its pods answers with the name of a picture.
fn nautilus() -> Value {
    let labels = json!({"name": "update-demo", "version": "nautilus"});
    let container = json!({"name": "update-demo", "image": SERVER,
        "env": [{"name": "WHO", "value": "nautilus.jpg"}], "ports": [{"containerPort": 8080}]});
    json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "update-demo-nautilus"}, "spec": {"replicas": 2,
            "selector": labels, "template": {"metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}}})
}

/// So many pods are there, as kubectl's templates tell, and answer.
async fn demo_runs(context: &Context, count: usize) -> Result<()> {
    let template = |text: &str| format!("-o template '--template={text}'");
    let names = template("{{range.items}}{{.metadata.name}} {{end}}");
    let names = format!("get pods {names} -l name=update-demo");
    let what = format!("{count} pods of the demo");
    let pods = eventually(&what, async || {
        let told = context.kubectl(&names, "").await?.ok();
        let pods: Vec<String> = told.split_whitespace().map(str::to_string).collect();
        Ok((pods.len() == count).then_some(pods))
    });
    let running = template(
        "{{if (exists . \"status\" \"containerStatuses\")}}{{range .status.containerStatuses}}\
         {{if (and (eq .name \"update-demo\") (exists . \"state\" \"running\"))}}true{{end}}\
         {{end}}{{end}}",
    );
    let image = template(
        "{{if (exists . \"spec\" \"containers\")}}{{range .spec.containers}}\
         {{if eq .name \"update-demo\"}}{{.image}}{{end}}{{end}}{{end}}",
    );
    for pod in pods.await? {
        eventually(&format!("{pod} running and answering"), async || {
            let told = context.kubectl(&format!("get pods {pod} {running}"), "").await?;
            if told.stdout.trim() != "true" {
                return Ok(None);
            }
            let path =
                format!("/api/v1/namespaces/{}/pods/{pod}/proxy/data.json", context.namespace);
            let answer = context.client.send("GET", &path, &[], Vec::new()).await?;
            Ok((answer.code == 200 && answer.text() == "nautilus.jpg").then_some(()))
        })
        .await?;
        let told = context.kubectl(&format!("get pods {pod} {image}"), "").await?.ok();
        ensure!(told.trim() == SERVER, "the image of {pod}: {told}");
    }
    Ok(())
}

/// What was made goes, and nothing of it is found any more.
async fn demo_ends(context: &Context) -> Result<()> {
    let words = "delete --grace-period=0 --force -f -";
    context.kubectl(words, &nautilus().to_string()).await?.ok();
    eventually("no controller and no Service", async || {
        let told = context.kubectl("get rc,svc -l name=update-demo --no-headers", "").await?.ok();
        Ok(told.trim().is_empty().then_some(()))
    })
    .await?;
    let alive = "get pods -l name=update-demo -o 'go-template={{range .items}}\
                 {{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}'";
    eventually("no pod", async || {
        let told = context.kubectl(alive, "").await?.ok();
        Ok(told.trim().is_empty().then_some(()))
    })
    .await
}

async fn demo(context: &Context) -> Result<()> {
    context.kubectl("create -f -", &nautilus().to_string()).await?.ok();
    demo_runs(context, 2).await?;
    demo_ends(context).await
}

async fn scaled_demo(context: &Context) -> Result<()> {
    context.kubectl("create -f -", &nautilus().to_string()).await?.ok();
    demo_runs(context, 2).await?;
    for count in [1, 2] {
        let words = format!("scale rc update-demo-nautilus --replicas={count} --timeout=2m");
        context.kubectl(&words, "").await?.ok();
        demo_runs(context, count).await?;
    }
    demo_ends(context).await
}
