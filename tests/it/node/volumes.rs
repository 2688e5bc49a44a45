//! Environments and volumes from ConfigMaps, Secrets and fields.

use std::fs;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::json;
use wasmfleet::volumes::unpack::Form;

use super::harness::Rig;

#[tokio::test(start_paused = true)]
async fn environment_and_volumes_come_from_objects() {
    let rig = Rig::start().await;
    let spec = json!({
        "volumes": [
            {"name": "conf", "configMap": {"name": "conf"}},
            {"name": "key", "secret": {"secretName": "key", "items": [
                {"key": "tls", "path": "certs/tls.pem", "mode": 256}]}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "info", "downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}],
        "containers": [{"name": "web", "image": "reg:5000/team/hello:v1",
            "command": ["serve"], "args": ["--greet=$(GREETING)", "$$(GREETING)"],
            "ports": [{"containerPort": 5353, "protocol": "UDP"}, {"containerPort": 9090},
                {"containerPort": 8081}],
            "resources": {"limits": {"memory": "64Mi", "cpu": "250m"}},
            "envFrom": [{"prefix": "C_", "configMapRef": {"name": "conf"}}],
            "env": [
                {"name": "GREETING", "value": "hi $(C_who)"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {
                    "resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "DISK", "valueFrom": {"resourceFieldRef": {
                    "resource": "limits.ephemeral-storage", "divisor": "1Gi"}}},
                {"name": "TLS", "valueFrom": {"secretKeyRef": {"name": "key", "key": "tls"}}}],
            "volumeMounts": [
                {"name": "conf", "mountPath": "/conf"},
                {"name": "conf", "mountPath": "/etc/app/who.txt", "subPath": "who"},
                {"name": "key", "mountPath": "/key"},
                {"name": "tmp", "mountPath": "/tmp"},
                {"name": "tmp", "mountPath": "/own", "subPathExpr": "$(APP)/logs"},
                {"name": "info", "mountPath": "/info"}]}]});
    rig.create("a", spec).await;
    let pod = rig.pod("a", |pod| super::harness::summary(pod).contains("ContainerCreating")).await;
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    let message = status.state.as_ref().unwrap().waiting.as_ref().unwrap().message.clone();
    let wanted = "MountVolume.SetUp failed for volume \"conf\" : configmap \"conf\" not found";
    assert_eq!(message.as_deref(), Some(wanted));
    assert!(rig.has_told("FailedMount"));

    rig.create_other(
        "configmaps",
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "conf", "namespace": "default"}, "data": {"who": "you"}}),
    )
    .await;
    rig.create_other(
        "secrets",
        json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "key", "namespace": "default"}, "stringData": {"tls": "pem"}}),
    )
    .await;
    rig.pod_is("a", "Running ready web:running/0").await;
    let running = rig.running();
    assert_eq!(running.args, ["serve", "--greet=hi you", "$(GREETING)"]);
    // Behind the variables of the API's Service.
    let own = running.env.iter().filter(|(name, _)| !name.starts_with("KUBERNETES_"));
    let env: Vec<String> = own.map(|(k, v)| format!("{k}={v}")).collect();
    let ip = format!("IP={}", running.pod_ip);
    let wanted = [
        "HOSTNAME=a",
        "C_who=you",
        "GREETING=hi you",
        &ip,
        "APP=a",
        "MEM=64",
        "DISK=10",
        "TLS=pem",
    ];
    assert_eq!(env, wanted);
    assert_eq!(running.http_ports, [9090, 8081]);
    assert_eq!(running.memory_limit_bytes, 64 << 20);
    assert_eq!(running.cpu_limit_millicores, Some(250));
    let mount = |guest: &str| {
        running.mounts.iter().find(|mount| mount.guest_path == guest).unwrap().clone()
    };
    let text =
        |guest: &str, file: &str| fs::read_to_string(mount(guest).host_path.join(file)).unwrap();
    assert_eq!(text("/conf", "who"), "you");
    assert_eq!(text("/etc/app", "who.txt"), "you");
    assert_eq!(text("/key", "certs/tls.pem"), "pem");
    assert_eq!(text("/info", "labels"), "app=\"a\"");
    assert!(mount("/conf").read_only && !mount("/tmp").read_only);
    let own = mount("/own");
    assert_eq!(own.host_path.join(own.sub_path), mount("/tmp").host_path.join("a/logs"));
    let pod_dir = mount("/tmp").host_path;
    assert!(pod_dir.exists());

    // A changed ConfigMap reaches the files.
    let patch = wasmfleet::client::Patch::Merge(json!({"data": {"who": "all"}}));
    let maps = rig.client.patch::<k8s_openapi::api::core::v1::ConfigMap>("default", "conf", patch);
    maps.await.unwrap();
    rig.clock.sleep(std::time::Duration::from_secs(130)).await;
    assert_eq!(text("/conf", "who"), "all");

    rig.delete("a", None).await;
    rig.gone("a").await;
    assert!(!pod_dir.exists());
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_of_the_environment_is_a_config_error() {
    let rig = Rig::start().await;
    rig.create_other(
        "configmaps",
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "conf", "namespace": "default"}, "data": {"who": "you"}}),
    )
    .await;
    let key = |optional: bool| {
        json!({"containers": [{"name": "web", "image": "hello", "env": [
            {"name": "X", "valueFrom": {"configMapKeyRef":
                {"name": "conf", "key": "nope", "optional": optional}}}]}]})
    };
    rig.create("a", key(false)).await;
    let pod = rig.pod_is("a", "Pending unready web:CreateContainerConfigError/0").await;
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    let message = status.state.as_ref().unwrap().waiting.as_ref().unwrap().message.clone();
    assert_eq!(message.as_deref(), Some("couldn't find key nope in ConfigMap default/conf"));
    rig.create("b", key(true)).await;
    rig.pod_is("b", "Running ready web:running/0").await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_dir_beyond_its_limit_ends_the_pod() {
    let rig = Rig::start().await;
    let spec = json!({
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Ki"}}],
        "containers": [{"name": "web", "image": "hello",
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}]});
    rig.create("a", spec).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    fs::write(rig.running().mounts[0].host_path.join("big"), vec![0; 2048]).unwrap();
    rig.pod_is("a", "Failed (Evicted) unready web:Error=137/0").await;
}

/// A pod with one emptyDir, whose container has these limits.
fn writer(empty_dir: serde_json::Value, limits: serde_json::Value) -> serde_json::Value {
    json!({
        "volumes": [{"name": "tmp", "emptyDir": empty_dir}],
        "containers": [{"name": "web", "image": "hello", "resources": {"limits": limits},
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}]})
}

async fn is_evicted(rig: &Rig, name: &str, message: &str) {
    let pod = rig.pod_is(name, "Failed (Evicted) unready web:Error=137/0").await;
    assert_eq!(pod.status.as_ref().unwrap().message.as_deref(), Some(message));
    assert!(rig.notices.lock().iter().any(|n| n.reason == "Evicted" && n.message == message));
}

#[tokio::test(start_paused = true)]
async fn an_empty_dir_in_memory_is_bounded_by_the_pods_memory_and_leaves_nothing() {
    let mut rig = Rig::start().await;
    let spec = writer(json!({"medium": "Memory"}), json!({"memory": "1Mi"}));
    rig.create("a", spec.clone()).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    let dir = rig.running().mounts[0].host_path.clone();
    if dir.starts_with(rig.dir.path()) {
        println!("not tested: there is no tmpfs here");
        return;
    }
    fs::write(dir.join("kept"), "x").unwrap();
    // What a pod has outlives the agent; what one had that is gone does not.
    rig.create("b", spec).await;
    rig.pod_is("b", "Running ready web:running/0").await;
    let mounts = rig.runtime.running().into_iter().map(|one| one.mounts[0].host_path.clone());
    let other = mounts.into_iter().find(|found| *found != dir).unwrap();
    assert!(other.exists());
    rig.stop_agent().await;
    rig.delete("b", Some(0)).await;
    rig.start_agent();
    rig.gone("b").await;
    rig.pod_is("a", "Running ready web:running/1").await;
    assert!(!other.exists());
    assert_eq!(fs::read_to_string(dir.join("kept")).unwrap(), "x");
    fs::write(dir.join("big"), vec![0; 1 << 20]).unwrap();
    let pod = rig.pod("a", |pod| pod.status.as_ref().is_some_and(|status| status.reason.is_some()));
    let message = pod.await.status.as_ref().unwrap().message.clone();
    let wanted = "Usage of EmptyDir volume \"tmp\" exceeds the limit \"1Mi\". ";
    assert_eq!(message.as_deref(), Some(wanted));
    rig.delete("a", Some(0)).await;
    rig.gone("a").await;
    // The node's own directory goes with its last pod.
    let top = dir.parent().unwrap().parent().unwrap();
    // The object went at once, and a thread may still be at the files.
    for _ in 0..100 {
        if !top.exists() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert!(!top.exists(), "{}", top.display());
}

#[tokio::test(start_paused = true)]
async fn without_memory_to_write_to_a_volume_is_on_disk_and_it_is_told() {
    let rig = Rig::with(|options| options.memory_roots = Vec::new()).await;
    rig.create("a", writer(json!({"medium": "Memory", "sizeLimit": "1Ki"}), json!({}))).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    assert!(rig.told("NoMemoryMedium").await.message.contains("(tmp)"));
    let dir = rig.running().mounts[0].host_path.clone();
    assert!(dir.starts_with(rig.dir.path()));
    fs::write(dir.join("big"), vec![0; 2048]).unwrap();
    is_evicted(&rig, "a", "Usage of EmptyDir volume \"tmp\" exceeds the limit \"1Ki\". ").await;
}

#[tokio::test(start_paused = true)]
async fn ephemeral_storage_beyond_its_limit_ends_the_pod() {
    let rig = Rig::start().await;
    rig.create("a", writer(json!({}), json!({"ephemeral-storage": "1Ki"}))).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    fs::write(rig.running().mounts[0].host_path.join("big"), vec![0; 2048]).unwrap();
    let message = "Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. ";
    is_evicted(&rig, "a", message).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_holds_a_token_that_is_renewed() {
    let rig = Rig::start().await;
    rig.create_other(
        "configmaps",
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kube-root-ca.crt", "namespace": "default"},
            "data": {"ca.crt": "pem"}}),
    )
    .await;
    let spec = json!({"automountServiceAccountToken": true,
        "containers": [{"name": "web", "image": "hello"}]});
    rig.create("a", spec).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    let mount = rig.running().mounts[0].clone();
    assert_eq!(mount.guest_path, "/var/run/secrets/kubernetes.io/serviceaccount");
    assert!(mount.read_only);
    let text = |file: &str| fs::read_to_string(mount.host_path.join(file)).unwrap();
    assert_eq!((text("ca.crt").as_str(), text("namespace").as_str()), ("pem", "default"));
    let first = text("token");
    assert_eq!(first.split('.').count(), 3);
    // Kept for most of its hour, then replaced, in the same directory.
    rig.clock.sleep(std::time::Duration::from_secs(2800)).await;
    assert_eq!(text("token"), first);
    rig.clock.sleep(std::time::Duration::from_secs(200)).await;
    assert_ne!(text("token"), first);
}

/// A volume, and a claim that is bound to it.
async fn create_bound(rig: &Rig, name: &str, volume: serde_json::Value) {
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": format!("pv-{name}"),
            "resources": {"requests": {"storage": "1Gi"}}}});
    rig.create_other("persistentvolumeclaims", claim).await;
    bind(rig, name, volume).await;
}

async fn bind(rig: &Rig, name: &str, mut volume: serde_json::Value) {
    let claim = rig.client.get::<PersistentVolumeClaim>("default", name).await.unwrap();
    volume["metadata"]["name"] = json!(format!("pv-{name}"));
    let spec = volume["spec"].as_object_mut().unwrap();
    spec.insert("capacity".into(), json!({"storage": "1Gi"}));
    spec.entry("accessModes").or_insert(json!(["ReadWriteOnce"]));
    spec.insert(
        "claimRef".into(),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default",
            "name": name, "uid": claim.metadata.uid}),
    );
    let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
    rig.client.create(&volume).await.unwrap();
    let mut bound = claim;
    bound.status.get_or_insert_default().phase = Some("Bound".into());
    rig.client.update_status(&bound).await.unwrap();
}

/// What the provisioner makes for the node.
fn made(name: &str) -> serde_json::Value {
    let term = json!({"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]});
    json!({"metadata": {"annotations":
            {"pv.kubernetes.io/provisioned-by": "wasmfleet.dev/local"}},
        "spec": {"local": {"path": format!("/x/volumes/pv-{name}")},
            "persistentVolumeReclaimPolicy": "Delete",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}})
}

fn user(claim: &str, mount: serde_json::Value) -> serde_json::Value {
    let mut mounts = json!([{"name": "data", "mountPath": "/data"}]);
    mounts[0].as_object_mut().unwrap().extend(mount.as_object().unwrap().clone());
    json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
        "containers": [{"name": "web", "image": "hello",
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": mounts}]})
}

async fn waiting_message(rig: &Rig, pod: &str) -> String {
    let pod = rig.pod(pod, |pod| super::harness::summary(pod).contains("ContainerCreating")).await;
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    let waiting = status.state.as_ref().unwrap().waiting.as_ref().unwrap();
    waiting.message.clone().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_mounted_once_it_is_bound_and_outlives_pods_and_agents() {
    let mut rig = Rig::start().await;
    rig.create("a", user("one", json!({}))).await;
    let missing = "Unable to attach or mount volumes: unmounted volumes=[data], unattached \
                   volumes=[], failed to process volumes=[data]: error processing PVC default/one: ";
    let message = waiting_message(&rig, "a").await;
    let text = "failed to fetch PVC from API server: persistentvolumeclaims \"one\" not found";
    assert_eq!(message, format!("{missing}{text}"));
    rig.create_other(
        "persistentvolumeclaims",
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "one", "namespace": "default"},
            "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "pv-one",
                "resources": {"requests": {"storage": "1Gi"}}}}),
    )
    .await;
    let told = format!("{missing}PVC is not bound");
    rig.until(|_| rig.notices.lock().iter().any(|n| n.message == told).then_some(())).await;
    bind(&rig, "one", made("one")).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    let mount = rig.running().mounts[0].clone();
    let dir = rig.dir.path().join("volumes/pv-one");
    assert_eq!((mount.host_path.clone(), mount.read_only), (dir.clone(), false));
    fs::write(dir.join("kept"), "data").unwrap();
    let held = rig.client.get::<PersistentVolume>("", "pv-one").await.unwrap();
    let finalizer = "external-provisioner.volume.kubernetes.io/finalizer".to_string();
    assert!(held.metadata.finalizers.unwrap().contains(&finalizer));
    // Neither the pod's end nor the agent's takes anything away.
    rig.restart_agent().await;
    rig.pod_is("a", "Running ready web:running/1").await;
    rig.delete("a", None).await;
    rig.gone("a").await;
    assert_eq!(fs::read_to_string(dir.join("kept")).unwrap(), "data");
    // Read-only, a part of it, a part by name.
    rig.create("b", user("one", json!({"readOnly": true}))).await;
    rig.pod_is("b", "Running ready web:running/0").await;
    assert!(rig.running().mounts[0].read_only);
    rig.delete("b", None).await;
    rig.gone("b").await;
    rig.create("c", user("one", json!({"subPathExpr": "of/$(POD)"}))).await;
    rig.pod_is("c", "Running ready web:running/0").await;
    assert!(dir.join("of/c").is_dir());
    rig.delete("c", None).await;
    rig.gone("c").await;
    // With its volume goes the directory, and then the finalizer.
    rig.client.delete::<PersistentVolume>("", "pv-one", &Default::default()).await.unwrap();
    let mut volume = rig.client.get::<PersistentVolume>("", "pv-one").await.unwrap();
    volume.status.get_or_insert_default().phase = Some("Released".into());
    rig.client.update_status(&volume).await.unwrap();
    rig.clock.sleep(std::time::Duration::from_secs(60)).await;
    let left = rig.client.get::<PersistentVolume>("", "pv-one").await.unwrap();
    assert_eq!(left.metadata.finalizers.unwrap(), ["kubernetes.io/pv-protection"]);
    assert!(!dir.exists());
}

#[tokio::test(start_paused = true)]
async fn only_what_is_the_nodes_own_or_allowed_is_mounted() {
    let outside = tempfile::tempdir().unwrap();
    let allowed = fs::canonicalize(outside.path()).unwrap().join("shared");
    fs::create_dir_all(allowed.join("inner")).unwrap();
    std::os::unix::fs::symlink(outside.path(), allowed.join("up")).unwrap();
    let rig = Rig::with(|options| options.host_paths = vec![allowed.clone()]).await;
    let local = |path: &str| {
        let mut volume = made("x");
        volume["metadata"]["annotations"] = json!(null);
        volume["spec"]["local"]["path"] = json!(path);
        volume["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
        volume
    };
    let mut elsewhere = made("elsewhere");
    let affinity = &mut elsewhere["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0];
    affinity["matchExpressions"][0]["values"] = json!(["n2"]);
    let mut forged = made("forged");
    forged["spec"]["local"]["path"] = json!("/etc");
    let own = rig.dir.path().join("volumes/pv-other");
    let refused = [
        ("etc", local("/etc"), "is in no directory of this node that pods may mount"),
        ("own", local(own.to_str().unwrap()), "is in no directory of this node"),
        ("up", local(allowed.join("up").to_str().unwrap()), "open"),
        ("elsewhere", elsewhere, "MountVolume.NodeAffinity check failed for volume"),
        ("forged", forged, "was made here, and not at"),
    ];
    for (name, volume, why) in refused {
        create_bound(&rig, name, volume).await;
        rig.create(name, user(name, json!({}))).await;
        let message = waiting_message(&rig, name).await;
        assert!(message.contains(why), "{name}: {message}");
        assert!(rig.runtime.running().is_empty());
        rig.delete(name, Some(0)).await;
        rig.gone(name).await;
    }
    let inner = allowed.join("inner");
    create_bound(&rig, "inner", local(inner.to_str().unwrap())).await;
    rig.create("inner", user("inner", json!({}))).await;
    rig.pod_is("inner", "Running ready web:running/0").await;
    let mount = rig.running().mounts[0].clone();
    assert_eq!(mount.host_path.join(mount.sub_path), inner);
    rig.delete("inner", Some(0)).await;
    rig.gone("inner").await;
    let host = |path: &str, kind: &str| {
        json!({"volumes": [{"name": "data", "hostPath": {"path": path, "type": kind}}],
            "containers": [{"name": "web", "image": "hello",
                "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "sub"}]}]})
    };
    let new = allowed.join("made/here");
    rig.create("h", host(new.to_str().unwrap(), "DirectoryOrCreate")).await;
    rig.pod_is("h", "Running ready web:running/0").await;
    assert!(new.join("sub").is_dir());
    rig.create("etc", host("/etc", "")).await;
    assert!(waiting_message(&rig, "etc").await.contains("--host-path"));
}

/// A pod that mounts an image's files.
fn reader(reference: &str, mount: serde_json::Value) -> serde_json::Value {
    let mut mounts = json!([{"name": "data", "mountPath": "/data"}]);
    mounts[0].as_object_mut().unwrap().extend(mount.as_object().unwrap().clone());
    json!({"volumes": [{"name": "data", "image": {"reference": reference}}],
        "containers": [{"name": "web", "image": "hello", "volumeMounts": mounts}]})
}

fn file(name: &str, text: &'static str) -> (Form, Bytes) {
    (Form::File(name.into()), Bytes::from_static(text.as_bytes()))
}

#[tokio::test(start_paused = true)]
async fn the_files_of_an_image_are_mounted_and_shared() {
    let rig = Rig::start().await;
    rig.create("a", reader("data:v1", json!({"readOnly": false}))).await;
    let pod = rig.pod_is("a", "Pending unready web:ErrImagePull/0").await;
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    let message = status.state.as_ref().unwrap().waiting.as_ref().unwrap().message.clone();
    assert_eq!(message.as_deref(), Some("data:v1 is not there"));
    let failed = "Failed to pull image \"data:v1\": data:v1 is not there";
    assert_eq!(rig.told("Failed").await.message, failed);
    rig.pod_is("a", "Pending unready web:ImagePullBackOff/0").await;
    assert_eq!(rig.told("BackOff").await.message, "Back-off pulling image \"data:v1\"");
    let layers = vec![file("model/weights", "1 2 3"), file("readme", "read me")];
    rig.images.contents.lock().insert("data:v1".into(), layers);
    rig.pod_is("a", "Running ready web:running/0").await;
    let mount = rig.running().mounts[0].clone();
    assert!(mount.read_only);
    let read = |dir: &std::path::Path, file: &str| fs::read_to_string(dir.join(file)).unwrap();
    assert_eq!(read(&mount.host_path, "model/weights"), "1 2 3");
    let loads = || rig.images.loads.lock().iter().filter(|name| *name == "data:v1").count();
    assert_eq!(loads(), 2);
    rig.delete("a", Some(0)).await;
    rig.gone("a").await;

    // Unpacked once, for whoever mounts it or a part of it.
    rig.create("b", reader("data:v1", json!({"subPath": "model"}))).await;
    rig.pod_is("b", "Running ready web:running/0").await;
    let part = rig.running().mounts[0].clone();
    assert_eq!((part.host_path, part.sub_path), (mount.host_path.clone(), "model".into()));
    assert_eq!(loads(), 2);
    rig.delete("b", Some(0)).await;
    rig.gone("b").await;
    rig.create("c", reader("data:v1", json!({"subPath": "readme", "mountPath": "/etc/readme"})))
        .await;
    rig.pod_is("c", "Running ready web:running/0").await;
    let copy = rig.running().mounts[0].clone();
    assert_eq!((read(&copy.host_path, "readme"), copy.read_only), ("read me".into(), true));

    // What is not in it is not made; what leads out of it is nobody's.
    rig.create("missing", reader("data:v1", json!({"subPath": "missing"}))).await;
    rig.pod_is("missing", "Pending unready web:CreateContainerConfigError/0").await;
    assert!(!mount.host_path.join("missing").exists());
    rig.images.contents.lock().insert("bad:v1".into(), vec![file("../out", "x")]);
    rig.create("bad", reader("bad:v1", json!({}))).await;
    let pod = rig.pod_is("bad", "Pending unready web:ErrImagePull/0").await;
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    let message = status.state.as_ref().unwrap().waiting.as_ref().unwrap().message.clone();
    let wanted = "image bad:v1 is not unpacked: layer 0: \"../out\" leads out of the volume";
    assert_eq!(message.as_deref(), Some(wanted));
    let left = fs::read_dir(rig.dir.path().join("image-volumes")).unwrap();
    assert_eq!(left.count(), 1, "nothing is left of what was refused");
}
