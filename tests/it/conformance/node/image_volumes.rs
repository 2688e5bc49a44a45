//! `common/node/image_volume.go`. The image is of two files, as upstream's `kitten`, and pushed to the
//! cluster's own registry by the requests that every client of registries makes.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::conformance::workloads::{BUSYBOX, run};
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] = &[case!(
    "ImageVolume should succeed with pod and pull policy of Always [LinuxOnly] \
     [MinimumKubeletVersion:1.35]",
    mounted
)];

/// Pushes a blob; its descriptor.
async fn blob(context: &Context, name: &str, kind: &str, bytes: Vec<u8>) -> Result<Value> {
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    let size = bytes.len();
    let path = format!("/v2/{name}/blobs/uploads/");
    let begun = context.client.send("POST", &path, &[], Vec::new()).await?.ok()?;
    let place = begun.header("location");
    // A path, or a whole address.
    let place = place.find("/v2/").map_or(place, |at| &place[at..]);
    let sign = if place.contains('?') { '&' } else { '?' };
    let headers = [("content-type", "application/octet-stream")];
    let path = format!("{place}{sign}digest={digest}");
    context.client.send("PUT", &path, &headers, bytes).await?.ok()?;
    let kind = format!("application/vnd.oci.image.{kind}");
    Ok(json!({"mediaType": kind, "digest": digest, "size": size}))
}

async fn push(context: &Context, name: &str, tag: &str, files: &[(&str, &str)]) -> Result<()> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        archive.append_data(&mut header, path, text.as_bytes())?;
    }
    let layer = archive.into_inner()?;
    let diff = format!("sha256:{}", hex::encode(Sha256::digest(&layer)));
    let config = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff]}});
    let config = blob(context, name, "config.v1+json", config.to_string().into_bytes()).await?;
    let layer = blob(context, name, "layer.v1.tar", layer).await?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config,
        "layers": [layer]});
    let (path, headers) = (format!("/v2/{name}/manifests/{tag}"), [("content-type", kind)]);
    context.client.send("PUT", &path, &headers, manifest.to_string().into_bytes()).await?.ok()?;
    Ok(())
}

async fn mounted(context: &Context) -> Result<()> {
    let files = [
        ("data.json", "{\"image\": \"kitten.jpg\"}\n"),
        ("etc/os-release", "NAME=\"Alpine Linux\"\n"),
    ];
    push(context, "conformance/kitten", "v1", &files).await?;
    let image = json!({"reference": "conformance/kitten:v1", "pullPolicy": "Always"});
    let container = json!({"name": "main", "image": BUSYBOX, "args": ["sleep=3600000"],
        "volumeMounts": [{"name": "volume", "mountPath": "/volume"}]});
    let pod = json!({"metadata": {"name": "image-volume-test"}, "spec": {
        "terminationGracePeriodSeconds": 0, "containers": [container],
        "volumes": [{"name": "volume", "image": image}]}});
    run(&context.own("v1/pods"), &pod).await?;
    for (path, text) in [("data.json", "kitten.jpg"), ("etc/os-release", "Alpine Linux")] {
        let words = format!("exec image-volume-test -- busybox cat=/volume/{path}");
        let told = context.kubectl(&words, "").await?.ok();
        ensure!(told.contains(text), "{path}: {told}");
    }
    Ok(())
}
