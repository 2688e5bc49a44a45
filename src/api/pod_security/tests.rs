//! Pods and what they lack, in upstream's words.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::*;
use crate::api::field::Errors;

fn lacks(level: Level, minor: Option<u32>, spec: Value) -> String {
    let mut full = json!({"containers": [{"name": "a"}]});
    for (field, value) in spec.as_object().unwrap() {
        full[field] = value.clone();
    }
    let spec: PodSpec = serde_json::from_value(full).unwrap();
    let annotations = BTreeMap::new();
    details(&violations(LevelVersion { level, minor }, &Subject::new(&annotations, &spec)))
}

fn hardened(name: &str) -> Value {
    json!({"name": name, "securityContext": {"allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"}}})
}

#[test]
fn a_plain_pod_is_baseline_and_not_restricted() {
    assert_eq!(lacks(Level::Privileged, None, json!({"hostPID": true})), "");
    assert_eq!(lacks(Level::Baseline, None, json!({})), "");
    assert_eq!(
        lacks(Level::Restricted, None, json!({})),
        "allowPrivilegeEscalation != false (container \"a\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \
         \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or \
         container \"a\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or \
         container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
         \"Localhost\")"
    );
    let good = json!({"containers": [hardened("a")], "initContainers": [hardened("i")],
        "volumes": [{"name": "v", "emptyDir": {}}]});
    assert_eq!(lacks(Level::Restricted, None, good), "");
}

#[test]
fn what_leads_out_of_a_container_is_named() {
    let bad = json!({"hostNetwork": true, "hostIPC": true,
        "securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"},
            {"name": "net.ipv4.tcp_rmem", "value": "1"}], "seLinuxOptions": {"user": "u"},
            "windowsOptions": {"hostProcess": true}, "appArmorProfile": {"type": "Unconfined"},
            "seccompProfile": {"type": "Unconfined"}},
        "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
        "containers": [
            {"name": "a", "ports": [{"containerPort": 1, "hostPort": 80}],
                "livenessProbe": {"httpGet": {"port": 1, "host": "h"}},
                "securityContext": {"privileged": true, "procMount": "Unmasked",
                    "capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}}},
            {"name": "b", "securityContext": {"privileged": true,
                "seLinuxOptions": {"type": "spc_t"}}}]});
    let expected = [
        "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
        "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in \
         securityContext.capabilities.add)",
        "host namespaces (hostNetwork=true, hostIPC=true)",
        "hostPath volumes (volume \"v\")",
        "hostPort (container \"a\" uses hostPort 80)",
        "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
        "privileged (containers \"a\", \"b\" must not set securityContext.privileged=true)",
        "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        "seLinuxOptions (pod and container \"b\" set forbidden securityContext.seLinuxOptions: \
         type \"spc_t\"; user may not be set)",
        "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        "forbidden sysctls (kernel.msgmax)",
        "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
    ];
    assert_eq!(lacks(Level::Baseline, None, bad.clone()), expected.join(", "));
    // An older version knew fewer sysctls and no hosts of probes.
    let before = lacks(Level::Baseline, Some(31), bad.clone());
    assert!(before.contains("forbidden sysctls (kernel.msgmax, net.ipv4.tcp_rmem)"), "{before}");
    assert!(!before.contains("probe"), "{before}");
    // The restricted level words its own where it has them.
    let strict = lacks(Level::Restricted, None, bad);
    assert!(!strict.contains("hostPath volumes"), "{strict}");
    assert!(strict.contains("volume \"v\" uses restricted volume type \"hostPath\""), "{strict}");
    assert!(!strict.contains("non-default capabilities"), "{strict}");
}

#[test]
fn versions_change_what_is_asked() {
    let root = json!({"hostUsers": false, "securityContext": {"runAsUser": 0}});
    let lacks = |minor| {
        let spec = root.clone();
        lacks(Level::Restricted, minor, spec)
    };
    assert!(lacks(Some(34)).contains("runAsUser=0 (pod must not set runAsUser=0)"));
    assert!(!lacks(Some(35)).contains("runAs"));
    assert!(!lacks(Some(99)).contains("runAs"));
    assert!(!lacks(Some(7)).contains("allowPrivilegeEscalation"));
}

#[test]
fn labels_are_read() {
    let read = |pairs: &[(&str, &str)]| {
        let labels = pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), v.to_string())).collect();
        let mut errors = Errors::default();
        let policy = Policy::of(&labels, &mut errors);
        let texts: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
        (policy.enforce.to_string(), policy.warn.to_string(), texts.join("; "))
    };
    let text = |a: &str, b: &str, c: &str| (a.to_string(), b.to_string(), c.to_string());
    assert_eq!(read(&[]), text("privileged:latest", "privileged:latest", ""));
    let enforced = read(&[("enforce", "baseline"), ("enforce-version", "v1.30")]);
    assert_eq!(enforced, text("baseline:v1.30", "baseline:v1.30", ""));
    let lax = read(&[("enforce", "restricted"), ("warn", "privileged")]);
    assert_eq!(lax, text("restricted:latest", "privileged:latest", ""));
    for bad in ["v1.", "v1.01", "1.30", "v2.0", "v1.x", ""] {
        let (_, _, why) = read(&[("warn-version", bad)]);
        assert!(why.ends_with("must be \"latest\" or \"v1.x\""), "{bad}: {why}");
    }
    let (enforce, _, why) = read(&[("enforce", "strict")]);
    assert_eq!(enforce, "restricted:latest");
    assert_eq!(
        why,
        "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be \
         one of privileged, baseline, restricted"
    );
}
