//! `common/node/expansion.go` and `common/node/containers.go`: what becomes of `$(NAME)`, and of
//! commands and arguments. A Wasm program shows its arguments itself: no shell does.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::conformance::checks::{has_lines, is};
use crate::conformance::workloads::{BUSYBOX, becomes, is_running, output};
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] = &[
    case!("Variable Expansion should allow composing env vars into new env vars", variables),
    case!("Variable Expansion should allow substituting values in a container's command", command),
    case!("Variable Expansion should allow substituting values in a container's args", args),
    case!("Variable Expansion should allow substituting values in a volume subpath", sub_path),
    case!(
        "Variable Expansion should fail substituting values in a volume subpath with backticks",
        sub_path_up
    ),
    case!(
        "Variable Expansion should fail substituting values in a volume subpath with absolute path",
        sub_path_absolute
    ),
    case!(
        "Variable Expansion should verify that a failing subpath expansion can be modified during \
         the lifecycle of a container [Slow]",
        sub_path_mended
    ),
    case!("Variable Expansion should succeed in writing subpaths in container", sub_path_written),
    case!("Containers should use the image defaults if command and args are blank", image_defaults),
    case!(
        "Containers should be able to override the image's default arguments (container cmd)",
        own_args
    ),
    case!(
        "Containers should be able to override the image's default command (container entrypoint)",
        own_command
    ),
    case!(
        "Containers should be able to override the image's default command and arguments",
        own_both
    ),
];

fn pod(name: &str, container: Value) -> Value {
    let mut own = json!({"name": "dapi-container", "image": BUSYBOX});
    for (key, value) in container.as_object().into_iter().flatten() {
        own[key] = value.clone();
    }
    json!({"metadata": {"name": name, "labels": {"name": name}},
        "spec": {"restartPolicy": "Never", "containers": [own]}})
}

async fn variables(context: &Context) -> Result<()> {
    let env = json!([{"name": "FOO", "value": "foo-value"}, {"name": "BAR", "value": "bar-value"},
        {"name": "FOOBAR", "value": "$(FOO);;$(BAR)"}]);
    let told = output(context, &pod("var-expansion", json!({"env": env}))).await?;
    let lines = ["env FOO=foo-value", "env BAR=bar-value", "env FOOBAR=foo-value;;bar-value"];
    has_lines(&told, &lines)
}

async fn command(context: &Context) -> Result<()> {
    let container = json!({"env": [{"name": "TEST_VAR", "value": "test-value"}],
        "command": ["box", "$(TEST_VAR)", "$$(TEST_VAR)", "$(OTHER)"]});
    let told = output(context, &pod("var-expansion", container)).await?;
    has_lines(&told, &["arg[1]=test-value", "arg[2]=$(TEST_VAR)", "arg[3]=$(OTHER)"])
}

async fn args(context: &Context) -> Result<()> {
    let container = json!({"env": [{"name": "TEST_VAR", "value": "test-value"}],
        "command": ["box"], "args": ["$(TEST_VAR)"]});
    has_lines(&output(context, &pod("var-expansion", container)).await?, &["arg[1]=test-value"])
}

/// A pod with an empty volume, mounted as a whole and by an expression.
fn volume_pod(name: &str, value: &str, expression: &str, args: Value) -> Value {
    let annotation = json!({"fieldRef": {"apiVersion": "v1",
        "fieldPath": "metadata.annotations['mysubpath']"}});
    let env = json!([{"name": "POD_NAME", "value": value},
        {"name": "ANNOTATION", "valueFrom": annotation}]);
    let mounts = json!([
        {"name": "workdir1", "mountPath": "/subpath_mount", "subPathExpr": expression},
        {"name": "workdir1", "mountPath": "/volume_mount"}]);
    let mut pod = pod(name, json!({"env": env, "volumeMounts": mounts, "args": args}));
    pod["spec"]["volumes"] = json!([{"name": "workdir1", "emptyDir": {}}]);
    pod
}

async fn sub_path(context: &Context) -> Result<()> {
    let args = json!(["write=/subpath_mount/file", "cat=/volume_mount/var-expansion/file"]);
    let pod = volume_pod("var-expansion", "var-expansion", "$(POD_NAME)", args);
    has_lines(&output(context, &pod).await?, &["written by the guest"])
}

async fn fails(context: &Context, value: &str) -> Result<()> {
    let pods = context.own("v1/pods");
    pods.create(&volume_pod("var-expansion", value, "$(POD_NAME)", json!([]))).await?;
    let reason = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"]
            == "CreateContainerConfigError"
    };
    becomes(&pods, "var-expansion", "refused", reason).await.map(drop)
}

async fn sub_path_up(context: &Context) -> Result<()> {
    fails(context, "..").await
}

async fn sub_path_absolute(context: &Context) -> Result<()> {
    fails(context, "/tmp").await
}

async fn sub_path_mended(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let args = json!(["sleep=3600000"]);
    let mut pod = volume_pod("var-expansion", "foo", "$(ANNOTATION)/$(POD_NAME)", args);
    pod["metadata"]["annotations"] = json!({"notmysubpath": "mypath"});
    pods.create(&pod).await?;
    let waits = |pod: &Value| {
        let state = &pod["status"]["containerStatuses"][0]["state"];
        state["waiting"]["reason"] == "CreateContainerConfigError"
    };
    becomes(&pods, "var-expansion", "waiting", waits).await?;
    pods.update("var-expansion", |pod| {
        pod["metadata"]["annotations"]["mysubpath"] = "mypath".into();
    })
    .await?;
    is_running(&pods, "var-expansion").await?;
    pods.delete("var-expansion").await.map(drop)
}

/// What upstream does by a shell in the container, kubectl's exec does: the program writes, and the
/// node answers `test`.
async fn sub_path_written(context: &Context) -> Result<()> {
    let pods = context.own("v1/pods");
    let args = json!(["sleep=3600000"]);
    let mut pod = volume_pod("var-expansion", "foo", "$(ANNOTATION)/$(POD_NAME)", args);
    pod["metadata"]["annotations"] = json!({"mysubpath": "mypath"});
    pods.create(&pod).await?;
    is_running(&pods, "var-expansion").await?;
    let exec = async |words: &str| {
        let told = context.kubectl(&format!("exec var-expansion -- {words}"), "").await?;
        ensure!(told.code == 0, "{}", told.told());
        Ok(())
    };
    exec("busybox write=/volume_mount/mypath/foo/test.log").await?;
    exec("test -f /subpath_mount/test.log").await?;
    pods.update("var-expansion", |pod| {
        pod["metadata"]["annotations"]["mysubpath"] = "mynewpath".into();
    })
    .await?;
    let running = is_running(&pods, "var-expansion").await?;
    is(&running["status"]["containerStatuses"][0]["restartCount"], 0)?;
    pods.delete("var-expansion").await.map(drop)
}

/// Our images have a name, and no arguments.
async fn image_defaults(context: &Context) -> Result<()> {
    let told = output(context, &pod("client-containers", json!({}))).await?;
    has_lines(&told, &["arg[0]=busybox"])?;
    ensure!(!told.contains("arg[1]"), "{told}");
    Ok(())
}

async fn own_args(context: &Context) -> Result<()> {
    let container = json!({"args": ["override", "arguments"]});
    let told = output(context, &pod("client-containers", container)).await?;
    has_lines(&told, &["arg[0]=busybox", "arg[1]=override", "arg[2]=arguments"])
}

async fn own_command(context: &Context) -> Result<()> {
    let container = json!({"command": ["/agnhost-2", "entrypoint-tester"]});
    let told = output(context, &pod("client-containers", container)).await?;
    has_lines(&told, &["arg[0]=/agnhost-2", "arg[1]=entrypoint-tester"])
}

async fn own_both(context: &Context) -> Result<()> {
    let container = json!({"command": ["/agnhost-2"],
        "args": ["entrypoint-tester", "override", "arguments"]});
    let told = output(context, &pod("client-containers", container)).await?;
    let lines = ["arg[0]=/agnhost-2", "arg[1]=entrypoint-tester", "arg[2]=override"];
    has_lines(&told, &lines)
}
