//! Pods, and the templates of pods: containers as kubectl describes them.

use serde_json::Value;

use super::super::discovery::text;
use super::page::{Page, date, items, number};
use crate::api::jsonpath::plain;

pub fn describe(page: &mut Page, pod: &Value) {
    page.field(0, "Service Account", text(pod, "/spec/serviceAccountName"));
    let node = match (text(pod, "/spec/nodeName"), text(pod, "/status/hostIP")) {
        ("", _) => "<none>".to_string(),
        (node, ip) => format!("{node}/{ip}"),
    };
    page.field(0, "Node", node);
    page.field(0, "Start Time", date(text(pod, "/status/startTime")));
    match text(pod, "/metadata/deletionTimestamp") {
        "" => page.field(0, "Status", text(pod, "/status/phase")),
        time => {
            page.field(0, "Status", format!("Terminating (since {})", date(time)));
            let grace = number(pod, "/metadata/deletionGracePeriodSeconds");
            page.field(0, "Termination Grace Period", format!("{grace}s"));
        }
    }
    page.some(0, "Reason", text(pod, "/status/reason"));
    page.some(0, "Message", text(pod, "/status/message"));
    page.field(0, "IP", text(pod, "/status/podIP"));
    containers(page, 0, pod.get("spec"), pod.get("status"));
    page.conditions(pod, &[("Type", "/type"), ("Status", "/status"), ("Reason", "/reason")]);
    volumes(page, 0, pod.get("spec"));
    page.field(0, "QoS Class", text(pod, "/status/qosClass"));
    placement(page, 0, pod.get("spec"));
}

/// The pod template of a workload.
pub fn template(page: &mut Page, template: &Value) {
    page.heading(0, "Pod Template");
    page.map(1, "Labels", template.pointer("/metadata/labels"), "=");
    let annotations = template.pointer("/metadata/annotations");
    if annotations.and_then(Value::as_object).is_some_and(|map| !map.is_empty()) {
        page.map(1, "Annotations", annotations, ": ");
    }
    containers(page, 1, template.get("spec"), None);
    volumes(page, 1, template.get("spec"));
    placement(page, 1, template.get("spec"));
}

fn containers(page: &mut Page, depth: usize, spec: Option<&Value>, status: Option<&Value>) {
    let none = Value::Null;
    let (spec, status) = (spec.unwrap_or(&none), status.unwrap_or(&none));
    for (label, of, told) in [
        ("Init Containers", "/initContainers", "/initContainerStatuses"),
        ("Containers", "/containers", "/containerStatuses"),
        ("Ephemeral Containers", "/ephemeralContainers", "/ephemeralContainerStatuses"),
    ] {
        let mut containers = items(spec, of).peekable();
        if containers.peek().is_none() {
            continue;
        }
        page.heading(depth, label);
        for one in containers {
            let name = text(one, "/name");
            page.heading(depth + 1, name);
            let state = items(status, told).find(|status| text(status, "/name") == name);
            container(page, depth + 2, one, state);
        }
    }
}

fn container(page: &mut Page, depth: usize, container: &Value, status: Option<&Value>) {
    if let Some(status) = status {
        page.field(depth, "Container ID", text(status, "/containerID"));
    }
    page.field(depth, "Image", text(container, "/image"));
    if let Some(status) = status {
        page.field(depth, "Image ID", text(status, "/imageID"));
    }
    let ports = items(container, "/ports").map(|port| {
        let number = number(port, "/containerPort");
        match text(port, "/name") {
            "" => format!("{number}/{}", text(port, "/protocol")),
            name => format!("{number}/{} ({name})", text(port, "/protocol")),
        }
    });
    let ports: Vec<String> = ports.collect();
    let ports = if ports.is_empty() { "<none>".to_string() } else { ports.join(", ") };
    page.field(depth, "Port", ports);
    for (label, path) in [("Command", "/command"), ("Args", "/args")] {
        let words: Vec<String> = items(container, path).map(plain).collect();
        if !words.is_empty() {
            page.values(depth, label, words);
        }
    }
    if let Some(status) = status {
        state(page, depth, "State", status.get("state"));
        state(page, depth, "Last State", status.get("lastState"));
        let ready = status.get("ready").and_then(Value::as_bool) == Some(true);
        page.field(depth, "Ready", if ready { "True" } else { "False" });
        page.field(depth, "Restart Count", number(status, "/restartCount").to_string());
    }
    page.fields(depth, "Limits", container.pointer("/resources/limits"));
    page.fields(depth, "Requests", container.pointer("/resources/requests"));
    for (label, field) in [
        ("Liveness", "livenessProbe"),
        ("Readiness", "readinessProbe"),
        ("Startup", "startupProbe"),
    ] {
        page.some(depth, label, container.get(field).map(probe).unwrap_or_default());
    }
    environment(page, depth, container);
    let mounts = items(container, "/volumeMounts").map(|mount| {
        let read_only = mount.get("readOnly").and_then(Value::as_bool) == Some(true);
        let mode = if read_only { "ro" } else { "rw" };
        format!("{} from {} ({mode})", text(mount, "/mountPath"), text(mount, "/name"))
    });
    page.values(depth, "Mounts", mounts.collect());
}

fn state(page: &mut Page, depth: usize, label: &str, state: Option<&Value>) {
    let Some(state) = state.and_then(Value::as_object).and_then(|state| state.iter().next()) else {
        if label == "State" {
            page.field(depth, label, "Waiting");
        }
        return;
    };
    let (name, detail) = state;
    let title = match name.as_str() {
        "running" => "Running",
        "terminated" => "Terminated",
        _ => "Waiting",
    };
    page.field(depth, label, title);
    page.some(depth, "  Reason", text(detail, "/reason"));
    page.some(depth, "  Message", text(detail, "/message"));
    if title == "Terminated" {
        page.field(depth, "  Exit Code", number(detail, "/exitCode").to_string());
    }
    for (label, path) in [("  Started", "/startedAt"), ("  Finished", "/finishedAt")] {
        match text(detail, path) {
            "" => {}
            time => page.field(depth, label, date(time)),
        }
    }
}

/// `http-get http://:80/ delay=0s timeout=1s period=10s #success=1 #failure=3`.
fn probe(probe: &Value) -> String {
    let seconds = |path: &str| number(probe, path);
    let text_of = |path: &str| probe.pointer(path).map(plain).unwrap_or_default();
    let how = if probe.get("httpGet").is_some() {
        format!(
            "http-get {}://{}:{}{}",
            text_of("/httpGet/scheme").to_lowercase(),
            text_of("/httpGet/host"),
            text_of("/httpGet/port"),
            text_of("/httpGet/path")
        )
    } else if probe.get("tcpSocket").is_some() {
        format!("tcp-socket {}:{}", text_of("/tcpSocket/host"), text_of("/tcpSocket/port"))
    } else if probe.get("grpc").is_some() {
        format!("grpc :{}", text_of("/grpc/port"))
    } else {
        "exec".to_string()
    };
    format!(
        "{how} delay={}s timeout={}s period={}s #success={} #failure={}",
        seconds("/initialDelaySeconds"),
        seconds("/timeoutSeconds"),
        seconds("/periodSeconds"),
        seconds("/successThreshold"),
        seconds("/failureThreshold")
    )
}

fn environment(page: &mut Page, depth: usize, container: &Value) {
    let sources: Vec<String> = items(container, "/envFrom")
        .map(|source| {
            let prefix = match text(source, "/prefix") {
                "" => String::new(),
                prefix => format!(" with prefix {prefix}"),
            };
            match text(source, "/configMapRef/name") {
                "" => format!("Secret {}{prefix}", text(source, "/secretRef/name")),
                name => format!("ConfigMap {name}{prefix}"),
            }
        })
        .collect();
    if !sources.is_empty() {
        page.values(depth, "Environment Variables from", sources);
    }
    let mut variables = items(container, "/env").peekable();
    if variables.peek().is_none() {
        page.field(depth, "Environment", "<none>");
        return;
    }
    page.heading(depth, "Environment");
    for variable in variables {
        page.field(depth + 1, text(variable, "/name"), variable_text(variable));
    }
}

fn variable_text(variable: &Value) -> String {
    let from = |path: &str| variable.pointer(&format!("/valueFrom{path}"));
    if let Some(key) = from("/configMapKeyRef") {
        let (key, name) = (text(key, "/key"), text(key, "/name"));
        return format!("<set to the key '{key}' of config map '{name}'>");
    }
    if let Some(key) = from("/secretKeyRef") {
        let (key, name) = (text(key, "/key"), text(key, "/name"));
        return format!("<set to the key '{key}' in secret '{name}'>");
    }
    if let Some(field) = from("/fieldRef") {
        return format!("({}:{})", text(field, "/apiVersion"), text(field, "/fieldPath"));
    }
    if let Some(field) = from("/resourceFieldRef") {
        return format!("({})", text(field, "/resource"));
    }
    text(variable, "/value").to_string()
}

fn volumes(page: &mut Page, depth: usize, spec: Option<&Value>) {
    let none = Value::Null;
    let mut volumes = items(spec.unwrap_or(&none), "/volumes").peekable();
    if volumes.peek().is_none() {
        page.field(depth, "Volumes", "<none>");
        return;
    }
    page.heading(depth, "Volumes");
    for volume in volumes {
        let source = volume.as_object().into_iter().flatten().find(|(field, _)| *field != "name");
        let Some((kind, source)) = source else { continue };
        let what = match kind.as_str() {
            "configMap" => format!("ConfigMap {}", text(source, "/name")),
            "secret" => format!("Secret {}", text(source, "/secretName")),
            "emptyDir" => "EmptyDir".to_string(),
            "projected" => "Projected".to_string(),
            "downwardAPI" => "DownwardAPI".to_string(),
            other => other.to_string(),
        };
        page.field(depth + 1, text(volume, "/name"), what);
    }
}

fn placement(page: &mut Page, depth: usize, spec: Option<&Value>) {
    let none = Value::Null;
    let spec = spec.unwrap_or(&none);
    page.map(depth, "Node-Selectors", spec.get("nodeSelector"), "=");
    page.values(depth, "Tolerations", items(spec, "/tolerations").map(toleration).collect());
}

/// `key=value:NoExecute op=Exists for 300s`.
fn toleration(toleration: &Value) -> String {
    let mut out = text(toleration, "/key").to_string();
    let exists = text(toleration, "/operator") == "Exists";
    match text(toleration, "/value") {
        "" => {}
        value => out += &format!("={value}"),
    }
    match text(toleration, "/effect") {
        "" => {}
        effect => out += &format!(":{effect}"),
    }
    if exists {
        out += if out.is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = toleration.get("tolerationSeconds").and_then(Value::as_i64) {
        out += &format!(" for {seconds}s");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_that_fails_tells_why() {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"serviceAccountName": "default", "nodeName": "n", "containers": [{
                "name": "c", "image": "x:v1", "args": ["a", "b"],
                "resources": {"limits": {"memory": "64Mi"}},
                "env": [{"name": "A", "value": "1"},
                        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "livenessProbe": {"tcpSocket": {"port": "http"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}],
                "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                    "effect": "NoExecute", "tolerationSeconds": 300}]},
            "status": {"phase": "Running", "hostIP": "127.0.0.1", "podIP": "127.0.0.2",
                "qosClass": "Burstable", "containerStatuses": [{
                "name": "c", "restartCount": 2, "ready": false,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 7, "reason": "Error"}}}]}});
        let mut page = Page::default();
        describe(&mut page, &pod);
        let text = page.lines().join("\n");
        for piece in [
            "Node:             n/127.0.0.1\n",
            "Containers:\n  c:\n    Container ID:\n    Image:          x:v1\n",
            "    Args:           a\n                    b\n",
            "    State:          Waiting\n      Reason:       CrashLoopBackOff\n",
            "    Last State:     Terminated\n      Reason:       Error\n      Exit Code:    7\n",
            "    Restart Count:  2\n    Limits:\n      memory:  64Mi\n",
            "    Liveness:       tcp-socket :http delay=0s timeout=1s period=10s #success=1",
            "      B:  <set to the key 'k' in secret 's'>\n",
            "Tolerations:      node.kubernetes.io/not-ready:NoExecute op=Exists for 300s",
        ] {
            assert!(text.contains(piece), "{piece:?} is not in:\n{text}");
        }
    }
}
