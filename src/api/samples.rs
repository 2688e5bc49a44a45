//! Objects of real kinds for property tests: made from the table of built-in types, so that every
//! list type, merge key and atomic value turns up. The same number is the same object.

use serde_json::{Map, Value, json};

use crate::api::typegraph::{Container, FieldType, Special, TypeId, graph};

pub type GroupKind = (&'static str, &'static str, &'static str);

pub const KINDS: &[GroupKind] = &[
    ("", "v1", "Pod"),
    ("", "v1", "Service"),
    ("", "v1", "ConfigMap"),
    ("", "v1", "ServiceAccount"),
    ("", "v1", "Node"),
    ("", "v1", "ResourceQuota"),
    ("apps", "v1", "Deployment"),
    ("apps", "v1", "StatefulSet"),
    ("batch", "v1", "CronJob"),
    ("networking.k8s.io", "v1", "NetworkPolicy"),
    ("networking.k8s.io", "v1", "Ingress"),
    ("policy", "v1", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io", "v1", "Role"),
    ("discovery.k8s.io", "v1", "EndpointSlice"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
];

/// What nobody applies: no manager owns it.
const SYSTEMS_OWN: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "selfLink",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// Deeper messages are left out; CustomResourceDefinitions have no end.
const MAX_DEPTH: usize = 9;

/// A generator of numbers, so that one seed is one object (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn message(&mut self, id: TypeId, depth: usize) -> Map<String, Value> {
        self.fields(id, id, depth)
    }

    /// The fields of a message, which may be inlined in another: that one has the merge rules.
    fn fields(&mut self, id: TypeId, outer: TypeId, depth: usize) -> Map<String, Value> {
        let mut map = Map::new();
        for field in graph().fields(id) {
            // The roots have both of their parts; below, about a third of what there may be.
            let wanted = depth == 0 || self.below(3) == 0;
            let skipped = ["apiVersion", "kind", "managedFields"].contains(&field.name);
            if !wanted || skipped || depth > MAX_DEPTH {
                continue;
            }
            if let (true, FieldType::Message(inner)) = (field.inlined, field.kind) {
                map.extend(self.fields(inner, outer, depth));
                continue;
            }
            let value = match field.container {
                Container::One => self.value(field.kind, depth + 1),
                Container::Map => {
                    let count = self.below(3);
                    let pairs =
                        (0..count).map(|n| (format!("k{n}"), self.value(field.kind, depth + 1)));
                    Value::Object(pairs.collect())
                }
                Container::List => self.list(outer, field.name, field.kind, depth),
            };
            map.insert(field.name.to_string(), value);
        }
        map
    }

    /// Elements that merge by keys, or as a set, are all different.
    fn list(&mut self, parent: TypeId, name: &str, kind: FieldType, depth: usize) -> Value {
        let rule = graph().merge_rule(graph().name(parent), name).copied().unwrap_or_default();
        let mut keys: Vec<&str> = rule.list_map_keys.split(',').collect();
        keys.push(rule.patch_merge_key);
        keys.retain(|key| !key.is_empty());
        let is_set = rule.list_type == "set" || rule.patch_strategy.contains("merge");
        let count = self.below(4);
        let mut items: Vec<Value> = Vec::new();
        for n in 0..count {
            let mut item = self.value(kind, depth + 1);
            match &mut item {
                Value::Object(map) => {
                    for key in &keys {
                        let FieldType::Message(inner) = kind else { continue };
                        let is_number = graph().field_named(inner, key).is_some_and(|field| {
                            matches!(field.kind, FieldType::Int32 | FieldType::Int64)
                        });
                        let text = format!("e{n}");
                        let value = if is_number { json!(n + 1) } else { json!(text) };
                        map.insert((*key).to_string(), value);
                    }
                }
                scalar if is_set => *scalar = json!(format!("e{n}")),
                _ => {}
            }
            items.push(item);
        }
        Value::Array(items)
    }

    fn value(&mut self, kind: FieldType, depth: usize) -> Value {
        match kind {
            FieldType::Message(id) => Value::Object(self.message(id, depth)),
            FieldType::Bool => json!(self.below(2) == 0),
            FieldType::Int32 | FieldType::Int64 | FieldType::Double => json!(self.below(5)),
            FieldType::Special(Special::StringList) => json!(["a"]),
            FieldType::Special(Special::SchemaOrBool | Special::SchemaOrArray) => json!({}),
            FieldType::Special(Special::RawJson) => json!({"a": self.below(3)}),
            _ => json!(format!("v{}", self.below(5))),
        }
    }

    pub fn object(&mut self, (group, version, kind): GroupKind) -> Value {
        let id = graph().kind(group, version, kind).expect("a known kind");
        let mut map = self.message(id, 0);
        map.remove("status");
        let meta = map.entry("metadata").or_insert_with(|| json!({}));
        for own in SYSTEMS_OWN {
            meta.as_object_mut().expect("an object").remove(*own);
        }
        map.insert("apiVersion".into(), json!(format!("{group}/{version}")));
        map.insert("kind".into(), json!(kind));
        Value::Object(map)
    }
}
