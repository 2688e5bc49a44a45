//! What a pod's containers are told and given beside WASI, and what stands behind it: buckets of
//! `wasi:keyvalue` are ConfigMaps of the pod's namespace, tokens are the pod's own.
//!
//! A bucket `NAME` is the ConfigMap `keyvalue.NAME`, made at the first write. So it is durable when a
//! write returns, shared by the pods of a namespace that are given it, bounded as every ConfigMap,
//! and goes with its namespace. The API server lets a node write those alone that its pods name.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{ConfigMap, Container, ObjectReference, Pod};
use serde_json::{Map, Value, json};

use super::Shared;
use super::notices::container_reference;
use super::pod_state::spec;
use super::sources::{self, TokenOwner};
use crate::api::kinds::pod_grants::{self, bucket_object, names};
use crate::client::Patch;
use crate::client::event::{Notice, Severity};
use crate::runtime::Denial;
use crate::runtime::workload::{Bucket, Changes, Identity, Platform, Workload, WriteError};
use crate::volumes::{Context, Need, VolumeError};

/// Life of a token that a program asks for, in seconds (as upstream's projected ones).
const TOKEN_SECONDS: i64 = 3600;
/// Calls of programs to the API under way at once, of one node: they leave room for the node's own.
pub const MAX_CALLS: usize = 16;
/// Tries of a write that others disturb.
const MAX_TRIES: usize = 8;
/// Longest key of a ConfigMap, in bytes (k8s.io/apimachinery/pkg/util/validation).
const MAX_KEY_BYTES: usize = 253;

/// What a pod's containers need from the API beside volumes and environments.
pub fn needs(pod: &Pod) -> Vec<Need> {
    let maps = names(pod.metadata.annotations.as_ref(), pod_grants::CONFIG);
    maps.into_iter().map(|name| Need::ConfigMap(name.to_string())).collect()
}

/// What `wasi:config/store` answers with: the data of the listed ConfigMaps, later ones win.
pub fn config(context: &Context) -> Result<BTreeMap<String, String>, VolumeError> {
    let mut config = BTreeMap::new();
    for name in names(context.pod.metadata.annotations.as_ref(), pod_grants::CONFIG) {
        let Some(map) = context.objects.config_maps.get(name) else {
            return Err(VolumeError::Missing(format!("configmap {name:?} not found")));
        };
        config.extend(map.data.clone().unwrap_or_default());
    }
    Ok(config)
}

/// Everything of it for one container.
pub fn workload(
    node: &Arc<Shared>,
    pod: &Arc<Pod>,
    container: &Container,
    config: BTreeMap<String, String>,
) -> Workload {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let account = spec(pod).service_account_name.as_deref().unwrap_or("default");
    let listed = |annotation| {
        let listed = names(meta.annotations.as_ref(), annotation);
        listed.into_iter().map(str::to_string).collect()
    };
    Workload {
        identity: Identity {
            namespace: text(&meta.namespace),
            pod: text(&meta.name),
            uid: text(&meta.uid),
            container: container.name.clone(),
            node: node.options.name.clone(),
            service_account: account.to_string(),
            labels: meta.labels.clone().unwrap_or_default(),
        },
        config,
        buckets: listed(pod_grants::KEYVALUE),
        audiences: listed(pod_grants::TOKEN_AUDIENCES),
        platform: Arc::new(OfPod {
            node: Arc::downgrade(node),
            regarding: container_reference(pod, &container.name),
            service_account: account.to_string(),
        }),
        ..Workload::default()
    }
}

/// The platform of one container. A guest that is still ending holds no node.
struct OfPod {
    node: Weak<Shared>,
    /// The container, as Events name it: a whole pod is too much to hold for as long as it runs.
    regarding: ObjectReference,
    service_account: String,
}

impl OfPod {
    fn node(&self) -> Result<Arc<Shared>, String> {
        self.node.upgrade().ok_or_else(|| "the node is going down".to_string())
    }

    fn namespace(&self) -> &str {
        self.regarding.namespace.as_deref().unwrap_or_default()
    }

    /// Tells the container's pod; while the node is going down, nobody.
    fn warn(&self, reason: &'static str, message: String) {
        let Ok(node) = self.node() else { return };
        node.tell(Notice {
            regarding: self.regarding.clone(),
            severity: Severity::Warning,
            reason: reason.into(),
            message,
        });
    }
}

/// What is told of something that a container was refused.
fn refusal_text(denial: &Denial) -> String {
    let Denial { host, port, can_be_listed } = denial;
    let what = match port {
        Some(port) if host.contains(':') => format!("Connection to [{host}]:{port}"),
        Some(port) => format!("Connection to {host}:{port}"),
        None => format!("Look-up of {host}"),
    };
    let hosts = pod_grants::ALLOWED_HOSTS;
    match can_be_listed {
        _ if host == "::1" => format!(
            "{what} denied: pods have no addresses of IPv6; a pod's loopback is 127.0.0.1, or localhost"
        ),
        true => format!(
            "{what} denied: outside of the cluster a pod reaches only hosts that its annotation {hosts} \
             lists, and {host:?} is not among them"
        ),
        false => format!(
            "{what} denied: addresses of the node's machine and link are closed, and no {hosts} opens \
             them"
        ),
    }
}

#[async_trait::async_trait]
impl Platform for OfPod {
    fn denied(&self, denial: Denial) {
        self.warn("OutboundDenied", refusal_text(&denial));
    }

    fn failed(&self, why: String) {
        self.warn("RequestFailed", format!("The handler failed at a request: {why}"));
    }

    async fn token(&self, audience: &str) -> Result<String, String> {
        let node = self.node()?;
        let _turn = node.workload_calls.acquire().await.map_err(|e| e.to_string())?;
        let owner = TokenOwner {
            namespace: self.namespace(),
            pod: self.regarding.name.as_deref().unwrap_or_default(),
            uid: self.regarding.uid.as_deref().unwrap_or_default(),
            service_account: &self.service_account,
        };
        let token = sources::token(&node, owner, audience, TOKEN_SECONDS).await;
        token.map(|token| token.to_string()).map_err(|error| error.message)
    }

    async fn read(&self, bucket: &str) -> Result<Bucket, String> {
        let node = self.node()?;
        let _turn = node.workload_calls.acquire().await.map_err(|e| e.to_string())?;
        match node.client.get::<ConfigMap>(self.namespace(), &bucket_object(bucket)).await {
            Ok(map) => Ok(contents(map)),
            Err(error) if error.is_not_found() => Ok(Bucket::default()),
            Err(error) => Err(error.message),
        }
    }

    async fn write(
        &self,
        bucket: &str,
        version: Option<&str>,
        changes: Changes,
    ) -> Result<(), WriteError> {
        let node = self.node().map_err(WriteError::Failed)?;
        let patch = patch(version.filter(|version| !version.is_empty()), changes)?;
        let name = bucket_object(bucket);
        let turn = node.workload_calls.acquire().await;
        let _turn = turn.map_err(|error| WriteError::Failed(error.to_string()))?;
        for _ in 0..MAX_TRIES {
            let patch = Patch::Merge(patch.clone());
            match node.client.patch::<ConfigMap>(self.namespace(), &name, patch).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_not_found() => {
                    make(&node, self.namespace(), &name).await.map_err(WriteError::Failed)?;
                    // There is a version now, which the caller has not seen.
                    if version.is_some() {
                        return Err(WriteError::Conflict);
                    }
                }
                Err(error) if error.code == 409 && version.is_some() => {
                    return Err(WriteError::Conflict);
                }
                Err(error) if error.code == 409 => {}
                Err(error) => return Err(WriteError::Failed(error.message)),
            }
        }
        Err(WriteError::Conflict)
    }
}

/// Makes a bucket's ConfigMap. An apply names it in its URL, by which the API server sees that the
/// node may, and does no harm to one that is there.
async fn make(node: &Shared, namespace: &str, name: &str) -> Result<(), String> {
    let description = "A bucket of wasi:keyvalue, written by the pods that are given it.";
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
        "name": name,
        "namespace": namespace,
        "annotations": {"kubernetes.io/description": description},
    }});
    let patch = Patch::Apply { config, force: true };
    let made = node.client.patch::<ConfigMap>(namespace, name, patch).await;
    made.map(|_| ()).map_err(|error| error.message)
}

/// The merge patch (RFC 7386) of changes.
fn patch(version: Option<&str>, changes: Changes) -> Result<Value, WriteError> {
    let (mut bytes, mut texts) = (Map::new(), Map::new());
    for (key, value) in changes {
        let name = encode(&key);
        if name.len() > MAX_KEY_BYTES {
            let text = format!(
                "the key {key:?} is too long: it may take {MAX_KEY_BYTES} places, of which letters, \
                 digits, '-' and '.' take one each and other bytes three"
            );
            return Err(WriteError::Failed(text));
        }
        // A text that somebody put there by hand makes room.
        texts.insert(name.clone(), Value::Null);
        bytes.insert(name, value.map_or(Value::Null, |value| STANDARD.encode(value).into()));
    }
    let mut patch = json!({"binaryData": bytes, "data": texts});
    if let Some(version) = version {
        patch["metadata"] = json!({"resourceVersion": version});
    }
    Ok(patch)
}

/// What a ConfigMap is as a bucket; text values count, too.
fn contents(map: ConfigMap) -> Bucket {
    let bytes = map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
    let texts = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
    let entries = bytes.chain(texts).map(|(name, value)| (decode(&name), value)).collect();
    Bucket { version: map.metadata.resource_version, entries }
}

/// Any key as a ConfigMap may have it: other bytes than letters, digits, '-' and '.' become `_` and
/// two hexadecimal digits, and so does a '.' in front.
fn encode(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for (at, byte) in key.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || (byte == b'.' && at > 0) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("_{byte:02x}"));
        }
    }
    name
}

/// The key of [`encode`]; a name that is none of ours stands for itself.
fn decode(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'_');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_name_of_its_own() {
        let keys = ["a", "A-b.c", "user:1", "user/1", "_3a", ".hidden", "..", "ü ", "a_b"];
        let names: Vec<String> = keys.iter().map(|key| encode(key)).collect();
        for (key, name) in keys.iter().zip(&names) {
            assert_eq!(decode(name), *key, "{name}");
            let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            assert!(name.bytes().all(fit) && !name.starts_with('.'), "{name}");
        }
        let different: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(different.len(), keys.len());
        assert_eq!(decode("by_hand"), "by_hand");
    }

    #[test]
    fn changes_are_one_patch() {
        let changes = vec![("a b".to_string(), Some(b"1".to_vec())), ("c".to_string(), None)];
        let made = patch(Some("7"), changes).expect("a patch");
        let wanted = json!({"metadata": {"resourceVersion": "7"},
            "binaryData": {"a_20b": "MQ==", "c": null}, "data": {"a_20b": null, "c": null}});
        assert_eq!(made, wanted);
        let long = vec![("/".repeat(100), Some(Vec::new()))];
        assert!(matches!(patch(None, long), Err(WriteError::Failed(_))));
    }
}
