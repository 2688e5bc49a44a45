//! Directories and parts of volumes: `common/storage/empty_dir.go`, `storage/empty_dir_wrapper.go`,
//! `storage/subpath.go`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::content::{pod, read, sleeping};
use crate::conformance::workloads::{BUSYBOX, are_running, output, run};
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!("EmptyDir volumes pod should support shared volumes between containers", shared),
    case!("EmptyDir wrapper volumes should not conflict", beside),
    case!(
        "EmptyDir wrapper volumes should not cause race condition when used for configmaps [Serial]",
        many
    )
    .within(300),
    case!("Subpath Atomic writer volumes should support subpaths with secret pod", secret_part),
    case!("Subpath Atomic writer volumes should support subpaths with configmap pod", map_part),
    case!(
        "Subpath Atomic writer volumes should support subpaths with configmap pod with mountPath of \
         existing file",
        map_part_at_file
    ),
    case!("Subpath Atomic writer volumes should support subpaths with downward pod", downward_part),
    case!("Subpath Atomic writer volumes should support subpaths with projected pod", projected_part),
];

async fn shared(context: &Context) -> Result<()> {
    let volume = json!({"name": "shared-data", "emptyDir": {}});
    let mut both = sleeping("pod-sharedvolume", &[volume]);
    let container = |name: &str, path: &str, args: Value| {
        json!({"name": name, "image": BUSYBOX, "args": args,
            "volumeMounts": [{"name": "shared-data", "mountPath": path}]})
    };
    let writer = json!(["write=/pod-data/shareddata.txt", "sleep=3600000"]);
    both["spec"]["containers"] = json!([
        container("main", "/usr/share/volumeshare", json!(["sleep=3600000"])),
        container("sub", "/pod-data", writer)
    ]);
    run(&context.own("v1/pods"), &both).await?;
    let words =
        "exec pod-sharedvolume -c main -- busybox cat=/usr/share/volumeshare/shareddata.txt";
    eventually("what one container writes, the other reads", async || {
        let told = context.kubectl(words, "").await?;
        Ok(told.stdout.contains("written by the guest").then_some(()))
    })
    .await
}

async fn beside(context: &Context) -> Result<()> {
    let secret = json!({"metadata": {"name": "wrapped"}, "stringData": {"data-1": "value-1"}});
    context.own("v1/secrets").create(&secret).await?;
    let map = json!({"metadata": {"name": "wrapped"}, "data": {"data-1": "value-2"}});
    context.own("v1/configmaps").create(&map).await?;
    let volumes = [
        json!({"name": "secret-volume", "secret": {"secretName": "wrapped"}}),
        json!({"name": "configmap-volume", "configMap": {"name": "wrapped"}}),
    ];
    run(&context.own("v1/pods"), &sleeping("pod-secrets", &volumes)).await.map(drop)
}

/// Upstream's numbers: volumes of a pod, pods, and how often.
const MAPS: usize = 50;
const PODS: usize = 5;
const TIMES: usize = 3;

async fn many(context: &Context) -> Result<()> {
    let maps = context.own("v1/configmaps");
    for n in 0..MAPS {
        let map =
            json!({"metadata": {"name": format!("racey-{n}")}, "data": {"data-1": "value-1"}});
        maps.create(&map).await?;
    }
    let volumes: Vec<Value> = (0..MAPS)
        .map(|n| {
            json!({"name": format!("racey-{n}"), "configMap": {"name": format!("racey-{n}"),
                "items": [{"key": "data-1", "path": "data-1"}]}})
        })
        .collect();
    let controllers = context.own("v1/replicationcontrollers");
    for n in 0..TIMES {
        let name = format!("wrapped-volume-race-{n}");
        let labels = json!({"name": name});
        let mut one = sleeping("x", &volumes);
        one["metadata"] = json!({"labels": labels});
        one["spec"]["restartPolicy"] = "Always".into();
        let controller = json!({"metadata": {"name": name},
            "spec": {"replicas": PODS, "selector": labels, "template": one}});
        controllers.create(&controller).await?;
        are_running(&context.own("v1/pods"), &format!("name={name}"), PODS).await?;
        controllers.delete(&name).await?;
    }
    Ok(())
}

/// A file of a volume, mounted as `path`, has this text.
async fn has_part(
    context: &Context,
    (volume, path): (Value, &str),
    sub_path: &str,
    text: &str,
) -> Result<()> {
    let args = [format!("cat={path}")];
    let mut pod = pod("pod-subpath-test", &[volume], &args);
    let mount = &mut pod["spec"]["containers"][0]["volumeMounts"][0];
    mount["mountPath"] = path.into();
    mount["subPath"] = sub_path.into();
    let told = output(context, &pod).await?;
    let after = told.split(&format!("=cat={path}\n")).nth(1).unwrap_or_default();
    ensure!(after.starts_with(text), "{told}");
    // And so it is for a pod that goes on.
    pod["metadata"]["name"] = "pod-subpath-running".into();
    pod["spec"]["containers"][0]["args"] = json!(["sleep=3600000"]);
    run(&context.own("v1/pods"), &pod).await?;
    let found = read(context, "pod-subpath-running", path).await?;
    ensure!(found.as_ref().is_ok_and(|found| found.contains(text)), "{found:?}");
    Ok(())
}

async fn map(context: &Context) -> Result<()> {
    let map = json!({"metadata": {"name": "my-configmap"},
        "data": {"configmap-key": "configmap-value"}});
    context.own("v1/configmaps").create(&map).await.map(drop)
}

fn map_volume() -> Value {
    json!({"name": "test-volume", "configMap": {"name": "my-configmap"}})
}

async fn map_part(context: &Context) -> Result<()> {
    map(context).await?;
    let volume = (map_volume(), "/test-volume");
    has_part(context, volume, "configmap-key", "configmap-value").await
}

async fn map_part_at_file(context: &Context) -> Result<()> {
    map(context).await?;
    let volume = (map_volume(), "/etc/resolv.conf");
    has_part(context, volume, "configmap-key", "configmap-value").await
}

async fn secret_part(context: &Context) -> Result<()> {
    let secret = json!({"metadata": {"name": "my-secret"},
        "stringData": {"secret-key": "secret-value"}});
    context.own("v1/secrets").create(&secret).await?;
    let volume = json!({"name": "test-volume", "secret": {"secretName": "my-secret"}});
    has_part(context, (volume, "/test-volume"), "secret-key", "secret-value").await
}

async fn downward_part(context: &Context) -> Result<()> {
    let file = json!({"path": "downward/podname", "fieldRef": {"fieldPath": "metadata.name"}});
    let volume = json!({"name": "test-volume", "downwardAPI": {"items": [file]}});
    has_part(context, (volume, "/test-volume"), "downward/podname", "pod-subpath-").await
}

async fn projected_part(context: &Context) -> Result<()> {
    map(context).await?;
    let source = json!({"name": "my-configmap",
        "items": [{"key": "configmap-key", "path": "projected/configmap-key"}]});
    let sources = json!([{"configMap": source}]);
    let volume = json!({"name": "test-volume", "projected": {"sources": sources}});
    let part = "projected/configmap-key";
    has_part(context, (volume, "/test-volume"), part, "configmap-value").await
}
