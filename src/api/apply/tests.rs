//! Apply as stories: who applies what, what the object is then, who owns what, who is refused.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

/// An object, and its managers beside it.
struct Story {
    shape: Shape<'static>,
    object: Option<Object>,
    now: u32,
}

impl Story {
    fn new() -> Story {
        Story { shape: Shape::of_kind("apps", "v1", "Deployment"), object: None, now: 0 }
    }

    fn try_apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), ApplyError> {
        self.now += 1;
        let time = format!("2026-01-01T00:00:{:02}Z", self.now);
        let who = Who { manager, group: "apps", version: "v1", subresource: "", time: &time };
        let applied = apply(
            &OneVersion(self.shape),
            self.object.as_ref(),
            &object(config),
            Part::WithoutStatus,
            who,
            force,
        )?;
        let mut object = applied.object;
        object.set_meta("managedFields", applied.managers.write());
        self.object = Some(object);
        Ok(())
    }

    fn apply(&mut self, manager: &str, config: Value) -> &mut Story {
        self.try_apply(manager, config, false).unwrap();
        self
    }

    fn update(&mut self, manager: &str, change: impl FnOnce(&mut Value)) -> &mut Story {
        self.now += 1;
        let time = format!("2026-01-01T00:00:{:02}Z", self.now);
        let old = self.object.clone().unwrap();
        let mut new = old.clone().into_value();
        change(&mut new);
        let mut new = object(new);
        let managers = old.meta().get("managedFields").and_then(Managers::read).unwrap();
        let who = Who { manager, group: "apps", version: "v1", subresource: "", time: &time };
        let managers =
            update(&OneVersion(self.shape), &managers, &old, &new, Part::WithoutStatus, who);
        new.set_meta("managedFields", managers.write());
        self.object = Some(new);
        self
    }

    fn spec(&self) -> Value {
        self.object.as_ref().unwrap().get("spec").cloned().unwrap_or(Value::Null)
    }

    fn owned(&self, manager: &str) -> Vec<String> {
        let fields = self.object.as_ref().unwrap().meta().get("managedFields").unwrap();
        let managers = Managers::read(fields).unwrap();
        let found = managers.0.iter().find(|(one, _)| one.name == manager);
        found.map(|(_, owned)| owned.fields.paths()).unwrap_or_default()
    }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "n"}, "spec": spec})
}

#[test]
fn what_its_manager_leaves_out_goes() {
    let mut story = Story::new();
    story.apply("a", deployment(json!({"replicas": 2, "paused": true})));
    assert_eq!(story.owned("a"), [".spec.paused", ".spec.replicas"]);
    story.apply("a", deployment(json!({"replicas": 2})));
    assert_eq!(story.spec(), json!({"replicas": 2}));
    assert_eq!(story.owned("a"), [".spec.replicas"]);
}

#[test]
fn another_managers_field_is_a_conflict_unless_equal_or_forced() {
    let mut story = Story::new();
    story.apply("a", deployment(json!({"replicas": 2})));
    // The same value: both own it, and neither takes it away from the other.
    story.apply("b", deployment(json!({"replicas": 2, "paused": true})));
    story.apply("a", deployment(json!({})));
    assert_eq!(story.spec(), json!({"replicas": 2, "paused": true}));
    story.apply("a", deployment(json!({"minReadySeconds": 1})));
    let error = story.try_apply("a", deployment(json!({"replicas": 3})), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"b\": .spec.replicas"
    );
    let two = deployment(json!({"replicas": 3, "paused": false}));
    let error = story.try_apply("a", two.clone(), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"b\":\n- .spec.paused\n- .spec.replicas"
    );
    story.try_apply("a", two, true).unwrap();
    assert_eq!(story.spec(), json!({"replicas": 3, "paused": false}));
    assert!(story.owned("b").is_empty());
}

#[test]
fn an_update_takes_what_it_changes() {
    let mut story = Story::new();
    story.apply("a", deployment(json!({"replicas": 2, "paused": true})));
    story.update("scaler", |object| object["spec"]["replicas"] = json!(5));
    assert_eq!(story.owned("a"), [".spec.paused"]);
    assert_eq!(story.owned("scaler"), [".spec.replicas"]);
    let again = deployment(json!({"replicas": 2, "paused": true}));
    let error = story.try_apply("a", again, false).unwrap_err().to_string();
    assert!(
        error.contains("conflict with \"scaler\" using apps/v1 at 2026-01-01T00:00:02Z"),
        "{error}"
    );
    // Who leaves the field out has given it up, and the other's value stays.
    story.apply("a", deployment(json!({"paused": true})));
    assert_eq!(story.spec(), json!({"replicas": 5, "paused": true}));
}

fn containers(list: Value) -> Value {
    deployment(json!({"template": {"spec": {"containers": list}}}))
}

#[test]
fn lists_merge_by_their_keys() {
    let mut story = Story::new();
    story.apply(
        "a",
        containers(json!([{"name": "web", "image": "i:1", "ports": [{"containerPort": 80}]}])),
    );
    story.apply(
        "b",
        containers(json!([{"name": "side", "image": "s:1"},
        {"name": "web", "ports": [{"containerPort": 80, "protocol": "UDP"}]}])),
    );
    let list = story.spec()["template"]["spec"]["containers"].clone();
    assert_eq!(
        list,
        json!([{"name": "side", "image": "s:1"}, {"name": "web", "image": "i:1",
            "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]}])
    );
    // The element goes when its last owner leaves it out, with all that nobody else owns.
    story.update("x", |object| {
        object["spec"]["template"]["spec"]["containers"][0]["tty"] = json!(true);
    });
    story.apply("b", containers(json!([])));
    let list = story.spec()["template"]["spec"]["containers"].clone();
    assert_eq!(list[0]["name"], "side", "x owns a field of it");
    assert_eq!(list[1], json!({"name": "web", "image": "i:1", "ports": [{"containerPort": 80}]}));
    let twice = containers(json!([{"name": "web"}, {"name": "web"}]));
    assert!(matches!(story.try_apply("a", twice, false), Err(ApplyError::Invalid(_))));
    let nameless = containers(json!([{"image": "x"}]));
    let error = story.try_apply("a", nameless, false).unwrap_err().to_string();
    assert!(error.contains("omits key field \"name\""), "{error}");
}

#[test]
fn what_was_there_before_the_first_apply_is_defended() {
    let mut story = Story::new();
    story.object = Some(object(deployment(json!({"replicas": 4}))));
    let error = story.try_apply("a", deployment(json!({"replicas": 2})), false).unwrap_err();
    assert!(error.to_string().contains("before-first-apply"), "{error}");
    story.apply("a", deployment(json!({"replicas": 4})));
    assert_eq!(story.owned("before-first-apply"), [".spec.replicas"]);
}

#[test]
fn atomic_values_are_owned_as_one_and_the_systems_fields_by_nobody() {
    let mut story = Story::new();
    let mut config = deployment(json!({"selector": {"matchLabels": {"a": "b"}}}));
    config["metadata"]["labels"] = json!({"x": "y"});
    config["metadata"]["finalizers"] = json!(["a/b"]);
    config["status"] = json!({"replicas": 1});
    story.apply("a", config);
    assert_eq!(
        story.owned("a"),
        [".metadata.finalizers[=\"a/b\"]", ".metadata.labels.x", ".spec.selector"]
    );
}

#[test]
fn old_updaters_are_joined() {
    let mut story = Story::new();
    story.apply("a", deployment(json!({"replicas": 1})));
    for n in 0..14 {
        story.update(&format!("m{n}"), |object| {
            object["metadata"]["annotations"][format!("k{n}")] = json!("v");
        });
    }
    let fields = story.object.as_ref().unwrap().meta().get("managedFields").unwrap();
    assert_eq!(fields.as_array().unwrap().len(), 11, "ten updaters and the applier");
    assert!(story.owned("ancient-changes").contains(&".metadata.annotations.k0".to_string()));
}

#[test]
fn custom_resources_follow_their_schema() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "parts": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["id"], "items": {"type": "object", "properties": {
                "id": {"type": "string"}, "size": {"type": "integer"}}}},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "free": {"type": "array", "items": {"type": "string"}}}}}});
    let who = |manager| Who { manager, group: "x", version: "v1", subresource: "", time: "t" };
    let shape = Shape::Resource(&schema);
    let config = |spec: Value| object(json!({"apiVersion": "x/v1", "kind": "X", "spec": spec}));
    let one = config(json!({"parts": [{"id": "a", "size": 1}], "tags": ["p"], "free": ["1"]}));
    let first = apply(&OneVersion(shape), None, &one, Part::Whole, who("a"), false).unwrap();
    let mut live = first.object;
    live.set_meta("managedFields", first.managers.write());
    let two = config(json!({"parts": [{"id": "b", "size": 2}], "tags": ["q"]}));
    let second =
        apply(&OneVersion(shape), Some(&live), &two, Part::Whole, who("b"), false).unwrap();
    assert_eq!(
        second.object.get("spec").unwrap(),
        &json!({"parts": [{"id": "a", "size": 1}, {"id": "b", "size": 2}], "tags": ["p", "q"],
            "free": ["1"]})
    );
    let third = config(json!({"free": ["2"]}));
    assert!(apply(&OneVersion(shape), Some(&live), &third, Part::Whole, who("b"), false).is_err());
}

/// A kind whose `spec.count` of v1 is `spec.replicas` in v2.
struct Renamed(Value);

impl Versions for Renamed {
    fn shape(&self, api_version: &str) -> Option<Shape<'_>> {
        matches!(api_version, "x/v1" | "x/v2").then_some(Shape::Resource(&self.0))
    }

    fn convert(&self, object: Object, api_version: &str) -> Object {
        let (from, to) =
            if api_version == "x/v2" { ("count", "replicas") } else { ("replicas", "count") };
        let mut value = object.into_value();
        value["apiVersion"] = api_version.into();
        let spec = value["spec"].as_object_mut().unwrap();
        if let Some(count) = spec.remove(from) {
            spec.insert(to.into(), count);
        }
        Object::from_value(value).unwrap()
    }
}

#[test]
fn owners_in_another_version_keep_what_is_theirs() {
    let versions = Renamed(json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"count": {}, "replicas": {}, "a": {}, "b": {}}}}}));
    let who = |manager, version| Who { manager, group: "x", version, subresource: "", time: "t" };
    let config = |version: &str, spec: Value| {
        object(json!({"apiVersion": format!("x/{version}"), "kind": "X", "spec": spec}))
    };
    let stored = |applied: Applied| {
        let mut live = applied.object;
        live.set_meta("managedFields", applied.managers.write());
        live
    };
    let part = Part::Whole;
    let first = config("v1", json!({"count": 1, "a": 1}));
    let live = stored(apply(&versions, None, &first, part, who("m", "v1"), false).unwrap());
    let live = versions.convert(live, "x/v2");
    // Another manager, in the newer version: the older one's field is still its own.
    let other = config("v2", json!({"replicas": 2}));
    let refused = apply(&versions, Some(&live), &other, part, who("n", "v2"), false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 1 conflict: conflict with \"m\": .spec.count"
    );
    let taken = apply(&versions, Some(&live), &other, part, who("n", "v2"), true).unwrap();
    let of = |managers: &Managers, name: &str| {
        let found = managers.0.iter().filter(|(manager, _)| manager.name == name);
        found.map(|(m, o)| (m.api_version.clone(), o.fields.paths())).collect::<Vec<_>>()
    };
    assert_eq!(of(&taken.managers, "m"), [("x/v1".to_string(), vec![".spec.a".to_string()])]);
    // An applier has one entry, whatever version it speaks; what it leaves out goes, and what
    // others own in other versions stays.
    let live = stored(taken);
    let again = config("v2", json!({"b": 1}));
    let moved = apply(&versions, Some(&live), &again, part, who("m", "v2"), false).unwrap();
    assert_eq!(moved.object.get("spec").unwrap(), &json!({"replicas": 2, "b": 1}));
    assert_eq!(of(&moved.managers, "m"), [("x/v2".to_string(), vec![".spec.b".to_string()])]);
    let live = versions.convert(stored(moved), "x/v1");
    let older = config("v1", json!({"a": 3}));
    let back = apply(&versions, Some(&live), &older, part, who("m", "v1"), false).unwrap();
    assert_eq!(back.object.get("spec").unwrap(), &json!({"count": 2, "a": 3}));
    // Other writes take away in the owner's version, too; who wrote in none that is served is gone.
    let live = stored(back);
    let mut changed = live.clone().into_value();
    changed["spec"]["count"] = json!(7);
    let managers = Managers::read(live.meta().get("managedFields").unwrap()).unwrap();
    let after = update(&versions, &managers, &live, &object(changed), part, who("scaler", "v1"));
    assert!(of(&after, "n").is_empty());
    let gone = Manager {
        name: "old".into(),
        operation: Operation::Apply,
        api_version: "x/v0".into(),
        subresource: String::new(),
    };
    let owned = Owned { fields: walk::fields(&Shape::Deduced, &json!({"z": 1})), time: "t".into() };
    let mut managers = managers;
    managers.0.insert(gone, owned);
    let mut changed = live.clone().into_value();
    changed["spec"]["count"] = json!(8);
    let after = update(&versions, &managers, &live, &object(changed), part, who("scaler", "v1"));
    assert!(of(&after, "old").is_empty());
}

/// Structs that may be absent are fields of whoever made them; others are there anyway.
#[test]
fn structs_that_appear_belong_to_who_made_them() {
    let versions = OneVersion(Shape::of_kind("apps", "v1", "Deployment"));
    let deployment =
        |spec: Value| object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec}));
    let new = deployment(json!({
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"securityContext": {}, "affinity": {"nodeAffinity": {"x": 1}},
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}},
    }));
    let nothing = deployment(json!({}));
    let who = Who { manager: "m", group: "apps", version: "v1", subresource: "", time: "t" };
    let managers =
        update(&versions, &Managers::default(), &nothing, &new, Part::WithoutStatus, who);
    let (_, owned) = managers.0.first_key_value().unwrap();
    assert_eq!(
        owned.fields.to_value(),
        json!({"f:spec": {
            "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                "f:spec": {
                    "f:securityContext": {},
                    "f:affinity": {".": {}, "f:nodeAffinity": {".": {}, "f:x": {}}},
                    "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {},
                        "f:resources": {".": {}, "f:limits": {".": {}, "f:cpu": {}}}}},
                },
            },
        }})
    );
}

/// Small specs of a Deployment, with lists and maps.
fn specs() -> impl Strategy<Value = Value> {
    let containers = proptest::collection::btree_map("[abc]", (0..3u8, 0..3u8), 0..3);
    let labels = proptest::collection::btree_map("[xyz]", "[01]", 0..3);
    (proptest::option::of(0..3u8), containers, labels).prop_map(|(replicas, containers, labels)| {
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, (image, port))| {
                json!({"name": name, "image": image.to_string(), "ports": [{"containerPort": port}]})
            })
            .collect();
        let mut spec = json!({"template": {"metadata": {"labels": labels},
            "spec": {"containers": containers}}});
        if let Some(replicas) = replicas {
            spec["replicas"] = replicas.into();
        }
        deployment(spec)
    })
}

proptest! {
    #[test]
    fn apply_is_idempotent(one in specs(), two in specs()) {
        let mut story = Story::new();
        story.apply("a", one);
        story.try_apply("b", two.clone(), true).unwrap();
        let once = story.object.clone();
        story.apply("b", two);
        prop_assert_eq!(once, story.object);
    }

    #[test]
    fn the_applied_fields_are_as_applied(one in specs(), two in specs()) {
        let mut story = Story::new();
        story.apply("a", one);
        story.try_apply("b", two.clone(), true).unwrap();
        let live = story.object.clone().unwrap().into_value();
        let changes = walk::compare(&story.shape, &live, &two);
        prop_assert!(changes.added.is_empty() && changes.modified.is_empty(), "{:?}", changes);
    }

    #[test]
    fn leaving_everything_out_gives_everything_up(one in specs(), two in specs()) {
        let mut story = Story::new();
        story.apply("a", one.clone());
        let alone = story.object.clone().unwrap().get("spec").cloned();
        story.try_apply("b", two, false).ok();
        let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "n"}});
        story.apply("b", nothing);
        prop_assert!(story.owned("b").is_empty());
        let after = story.object.clone().unwrap().get("spec").cloned();
        prop_assert_eq!(alone, after, "what b added is gone, what a has is there");
    }

    #[test]
    fn disjoint_managers_never_conflict(one in specs(), replicas in 0..9u8) {
        let mut story = Story::new();
        let mut one = one;
        one["spec"].as_object_mut().unwrap().remove("replicas");
        story.apply("a", one.clone());
        story.apply("b", deployment(json!({"replicas": replicas})));
        story.apply("a", one);
        prop_assert_eq!(story.spec()["replicas"].clone(), json!(replicas));
    }
}
