//! Environments and volumes from ConfigMaps, Secrets and fields.

use std::fs;

use serde_json::json;

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
            "ports": [{"containerPort": 9090}],
            "resources": {"limits": {"memory": "64Mi", "cpu": "250m"}},
            "envFrom": [{"prefix": "C_", "configMapRef": {"name": "conf"}}],
            "env": [
                {"name": "GREETING", "value": "hi $(C_who)"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {
                    "resource": "limits.memory", "divisor": "1Mi"}}},
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
    assert!(rig.reasons().contains(&"FailedMount"));

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
    let env: Vec<String> = running.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let ip = format!("IP={}", running.pod_ip);
    let wanted = ["C_who=you", "GREETING=hi you", &ip, "APP=a", "MEM=64", "TLS=pem"];
    assert_eq!(env, wanted);
    assert_eq!(running.http_port, 9090);
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
