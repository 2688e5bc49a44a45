//! One file of a static pod: decoded, defaulted and validated as the API server does with a Pod,
//! named after its node. Pure.
//!
//! Source: k8s.io/kubernetes pkg/kubelet/config/common.go (tryDecodeSinglePod, applyDefaults).

use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::api::field::Errors;
use crate::api::kinds::static_pod;
use crate::api::resource::Operation;
use crate::api::{KindInfo, meta, strict};

/// What the API server sets of objects: what a file has of it, of a pod that was exported, means
/// nothing here.
const SYSTEM_FIELDS: [&str; 8] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "managedFields",
    "ownerReferences",
];
/// Bytes of a uid's digest, as upstream's MD5 has.
const UID_BYTES: usize = 16;

/// A file's pod, and what its author should know.
#[derive(Debug)]
pub struct Manifest {
    pub pod: Pod,
    pub warnings: Vec<String>,
}

/// The pod of a file's bytes, or why there is none, for the user.
pub fn parse(bytes: &[u8], file: &Path, node: &str, now: Timestamp) -> Result<Manifest, String> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err("it is empty; it has to hold a Pod".into());
    }
    let parsed = strict::parse_yaml(bytes).map_err(|error| format!("not read: {error}"))?;
    if let Some(field) = parsed.duplicates.first() {
        return Err(format!("the field {field:?} is there twice"));
    }
    let mut value = parsed.value;
    check_kind(&value)?;
    let fields = value.as_object_mut().ok_or("it holds no object")?;
    fields.remove("status");
    name(fields, file, node, now)?;
    decode(value, node)
}

fn check_kind(value: &Value) -> Result<(), String> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("v1", "Pod") => Ok(()),
        _ if value.is_null() => Err("it is empty; it has to hold a Pod".into()),
        (version, kind) => Err(format!(
            "it holds apiVersion {version:?} and kind {kind:?}; a static pod has \"v1\" and \"Pod\""
        )),
    }
}

/// Gives the pod the names that it has on this node, and what upstream's kubelet adds.
fn name(
    fields: &mut Map<String, Value>,
    file: &Path,
    node: &str,
    now: Timestamp,
) -> Result<(), String> {
    let content = serde_json::to_vec(&*fields).map_err(|error| error.to_string())?;
    let meta = fields.get_mut("metadata").and_then(Value::as_object_mut);
    let meta = meta.ok_or("metadata is missing")?;
    let own = meta.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let own = own.ok_or("metadata.name is missing; a static pod needs one")?;
    let name = format!("{own}-{}", node.to_lowercase());
    for field in SYSTEM_FIELDS {
        meta.remove(field);
    }
    let mut digest = Sha256::new();
    digest.update(format!("host:{node}\nfile:{}\n", file.display()));
    digest.update(content);
    let uid = hex::encode(&digest.finalize()[..UID_BYTES]);
    meta.insert("name".into(), name.into());
    if meta.get("namespace").is_none_or(|space| space.is_null() || space == "") {
        meta.insert("namespace".into(), "default".into());
    }
    let annotations = meta.entry("annotations").or_insert(Value::Null);
    if annotations.is_null() {
        *annotations = json!({});
    }
    // What is no map is left to the decoder to refuse.
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove(static_pod::MIRROR);
        for (key, value) in [
            (static_pod::SOURCE, static_pod::SOURCE_FILE.to_string()),
            (static_pod::HASH, uid.clone()),
            (static_pod::SEEN, now.to_string()),
        ] {
            annotations.insert(key.into(), value.into());
        }
    }
    meta.insert("uid".into(), uid.into());
    Ok(())
}

fn decode(value: Value, node: &str) -> Result<Manifest, String> {
    let info = KindInfo::of::<Pod>();
    let draft = info.rules.decode(value, None, Operation::Create);
    let mut draft = draft.map_err(|error| error.message)?;
    let mut pod: Pod = draft.object.typed().map_err(|error| error.message)?;
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = Some(node.to_string());
    // So that no trouble of the node drives its mirror away.
    let always = Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&always) {
        tolerations.push(always);
    }
    draft.object = crate::api::Object::from_typed(&pod);
    let draft = info.rules.redefault(draft).map_err(|error| error.message)?;
    let mut errors = Errors::default();
    meta::validate(&draft.object, &info, None, &mut errors);
    let mut errors = errors.into_vec();
    errors.extend(info.rules.validate(&draft, Operation::Create));
    if !errors.is_empty() {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(format!("invalid pod: {}", texts.join("; ")));
    }
    if let Some(resource) = static_pod::object_reference(&pod) {
        return Err(format!(
            "static pods may not reference {resource}: they run without the API, which has those"
        ));
    }
    let mut warnings: Vec<String> =
        draft.unknown.iter().map(|field| format!("unknown field {field:?}")).collect();
    warnings.extend(info.rules.warnings(&draft));
    Ok(Manifest { pod, warnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn parsed(text: &str) -> Result<Manifest, String> {
        parse(text.as_bytes(), Path::new("/pods/web.yaml"), "node-1", NOW)
    }

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, uid: mine}\n\
                       spec: {containers: [{name: c, image: hello}]}\n";

    #[test]
    fn a_pod_is_named_after_its_node_and_known_by_its_content() {
        let Manifest { pod, warnings } = parsed(WEB).expect("a pod");
        assert_eq!(warnings, [""; 0]);
        let (meta, spec) = (pod.metadata, pod.spec.expect("a spec"));
        assert_eq!(meta.name.as_deref(), Some("web-node-1"));
        assert_eq!(meta.namespace.as_deref(), Some("default"));
        let uid = meta.uid.expect("a uid");
        assert_eq!(uid.len(), 32);
        let annotations = meta.annotations.expect("annotations");
        assert_eq!(annotations[static_pod::HASH], uid);
        assert_eq!(annotations[static_pod::SOURCE], "file");
        assert_eq!(annotations[static_pod::SEEN], "1970-01-01T00:00:00Z");
        assert_eq!(spec.node_name.as_deref(), Some("node-1"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"), "defaults are set");
        let tolerations = spec.tolerations.expect("tolerations");
        assert_eq!(tolerations[0].effect.as_deref(), Some("NoExecute"));
        assert_eq!(pod.status.and_then(|status| status.phase).as_deref(), Some("Pending"));

        let uid_of = |text: &str, file: &str, node: &str| {
            let manifest = parse(text.as_bytes(), Path::new(file), node, NOW).expect("a pod");
            manifest.pod.metadata.uid.expect("a uid")
        };
        assert_eq!(uid_of(WEB, "/pods/web.yaml", "node-1"), uid);
        assert_eq!(uid_of(&format!("# said\n{WEB}"), "/pods/web.yaml", "node-1"), uid);
        assert_ne!(uid_of(&WEB.replace("hello", "other"), "/pods/web.yaml", "node-1"), uid);
        assert_ne!(uid_of(WEB, "/pods/other.yaml", "node-1"), uid);
        assert_ne!(uid_of(WEB, "/pods/web.yaml", "node-2"), uid);
    }

    #[test]
    fn what_is_no_static_pod_says_why() {
        let spec = |more: &str| WEB.replace("spec: {", &format!("spec: {{{more}, "));
        let cases = [
            (String::new(), "empty"),
            ("[1]".into(), "kind"),
            ("a: b: c".into(), "not read"),
            (WEB.replace("kind: Pod", "kind: Service"), "kind \"Service\""),
            (WEB.replace("name: web, ", ""), "metadata.name"),
            (WEB.replace("name: web", "name: We_b"), "metadata.name"),
            (WEB.replace("name: c,", "name: c, name: d,"), "twice"),
            (WEB.replace("[{name: c, image: hello}]", "[]"), "spec.containers"),
            (spec("serviceAccountName: x"), "may not reference serviceaccounts"),
            (spec("imagePullSecrets: [{name: x}]"), "may not reference secrets"),
            (spec("volumes: [{name: v, configMap: {name: x}}]"), "may not reference configmaps"),
            (format!("{WEB}---\n{WEB}"), "not read"),
        ];
        for (text, why) in cases {
            let error = parsed(&text).expect_err(&text);
            assert!(error.contains(why), "{text}\n{error}");
        }
    }

    #[test]
    fn unknown_fields_are_told() {
        let text = WEB.replace("name: c,", "name: c, imagee: x,");
        let warnings = parsed(&text).expect("a pod").warnings;
        assert_eq!(warnings, ["unknown field \"spec.containers[0].imagee\""]);
    }
}
