//! Strategic merge patches: every directive, and what is refused.

use serde_json::json;

use super::*;

const POD: (&str, &str, &str) = ("", "v1", "Pod");
const SERVICE: (&str, &str, &str) = ("", "v1", "Service");
const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");

fn strategic_merge(
    kind: (&str, &str, &str),
    original: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    super::strategic_merge(kind, original.clone(), patch)
}

#[track_caller]
fn check(gvk: (&str, &str, &str), original: Value, patch: Value, expected: Value) {
    assert_eq!(strategic_merge(gvk, &original, &patch).unwrap(), expected, "{patch}");
}

/// The same inside `spec`.
#[track_caller]
fn check_spec(gvk: (&str, &str, &str), original: Value, patch: Value, expected: Value) {
    check(gvk, json!({"spec": original}), json!({"spec": patch}), json!({"spec": expected}));
}

#[test]
fn containers_merge_by_name_and_their_lists_by_their_keys() {
    let template = |spec: Value| json!({"template": {"spec": spec}});
    check_spec(
        DEPLOYMENT,
        template(json!({"containers": [
            {"name": "a", "image": "a:1", "args": ["x", "y"],
             "env": [{"name": "K", "value": "1"}, {"name": "L", "value": "2"}],
             "ports": [{"containerPort": 80, "name": "http"}],
             "volumeMounts": [{"mountPath": "/data", "name": "d"}]},
            {"name": "b", "image": "b:1"}]})),
        template(json!({"containers": [
            {"name": "a", "image": "a:2", "args": ["z"],
             "env": [{"name": "L", "value": "3"}, {"name": "M", "value": "4"}],
             "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 81}],
             "volumeMounts": [{"mountPath": "/data", "readOnly": true}]}]})),
        template(json!({"containers": [
            {"name": "a", "image": "a:2", "args": ["z"],
             "env": [{"name": "K", "value": "1"}, {"name": "L", "value": "3"},
                     {"name": "M", "value": "4"}],
             "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"},
                       {"containerPort": 81}],
             "volumeMounts": [{"mountPath": "/data", "name": "d", "readOnly": true}]},
            {"name": "b", "image": "b:1"}]})),
    );
}

#[test]
fn fields_of_inlined_messages_have_their_rules_too() {
    check_spec(
        POD,
        json!({"ephemeralContainers": [{"name": "e", "env": [{"name": "A", "value": "1"}]}]}),
        json!({"ephemeralContainers": [{"name": "e", "env": [{"name": "B", "value": "2"}]}]}),
        json!({"ephemeralContainers": [{"name": "e",
            "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]}]}),
    );
}

#[test]
fn service_ports_merge_by_port_and_selectors_as_maps() {
    check_spec(
        SERVICE,
        json!({"ports": [{"port": 80, "targetPort": 8080}], "selector": {"a": "1", "b": "2"}}),
        json!({"ports": [{"port": 443}], "selector": {"b": null, "c": "3"}}),
        // Without an order given, what is new comes first: upstream's merge does the same.
        json!({"ports": [{"port": 443}, {"port": 80, "targetPort": 8080}],
            "selector": {"a": "1", "c": "3"}}),
    );
}

#[test]
fn lists_without_a_strategy_are_replaced() {
    check_spec(
        POD,
        json!({"tolerations": [{"key": "a", "operator": "Exists"}], "nodeName": "n"}),
        json!({"tolerations": [{"key": "b"}]}),
        json!({"tolerations": [{"key": "b"}], "nodeName": "n"}),
    );
}

#[test]
fn metadata_lists_merge_as_sets_and_by_uid() {
    check(
        POD,
        json!({"metadata": {"finalizers": ["a", "b"],
            "ownerReferences": [{"uid": "1", "name": "x"}, {"uid": "2", "name": "y"}]}}),
        json!({"metadata": {"finalizers": ["c", "a"],
            "ownerReferences": [{"uid": "2", "controller": true}, {"uid": "1", "$patch": "delete"}]}}),
        json!({"metadata": {"finalizers": ["c", "a", "b"],
            "ownerReferences": [{"uid": "2", "name": "y", "controller": true}]}}),
    );
    check(
        POD,
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b", "x"],
            "$deleteFromPrimitiveList/none": ["b"]}}),
        json!({"metadata": {"finalizers": ["a", "c"]}}),
    );
    check(
        POD,
        json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"],
            "$setElementOrder/finalizers": ["c", "d", "a"], "finalizers": ["d"]}}),
        json!({"metadata": {"finalizers": ["c", "d", "a"]}}),
    );
}

#[test]
fn retain_keys_switches_a_union() {
    check_spec(
        DEPLOYMENT,
        json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}),
        json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
        json!({"strategy": {"type": "Recreate"}}),
    );
    check_spec(
        POD,
        json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"],
            "configMap": {"name": "c"}, "emptyDir": null}]}),
        json!({"volumes": [{"name": "v", "configMap": {"name": "c"}},
            {"name": "w", "emptyDir": {}}]}),
    );
    // A new element keeps nothing of the directive.
    check_spec(
        POD,
        json!({}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
    );
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}});
    let error = strategic_merge(DEPLOYMENT, &json!({"spec": {"strategy": {}}}), &patch);
    assert_eq!(error.unwrap_err(), PatchError::Malformed(BAD_RETAIN_KEYS.into()));
}

#[test]
fn set_element_order_keeps_what_only_the_server_has() {
    let names = |names: &str| -> Value {
        names.split_whitespace().map(|name| json!({"name": name})).collect()
    };
    for (original, patch, order, expected) in [
        // Only the order.
        ("a b c", "", "c a b", "c a b"),
        // `s` is the server's: it stays in front of what it stood in front of.
        ("a s b", "", "a b", "a s b"),
        ("s a b", "", "b a", "s b a"),
        ("a b s", "", "b a", "b a s"),
        ("a s", "n", "n a", "n a s"),
        ("s t a", "n", "a n", "s t a n"),
        ("", "b a", "b a", "b a"),
    ] {
        let mut patch_spec = json!({"$setElementOrder/containers": names(order)});
        if !patch.is_empty() {
            patch_spec["containers"] = names(patch);
        }
        let mut spec = json!({});
        if !original.is_empty() {
            spec["containers"] = names(original);
        }
        check_spec(POD, spec, patch_spec, json!({"containers": names(expected)}));
    }
    // Deleted by name, as kubectl apply sends it.
    check_spec(
        POD,
        json!({"containers": names("a b")}),
        json!({"$setElementOrder/containers": names("b"),
            "containers": [{"name": "a", "$patch": "delete"}]}),
        json!({"containers": names("b")}),
    );
    let patch = json!({"spec": {"$setElementOrder/containers": names("a b"),
        "containers": names("b a")}});
    let error = strategic_merge(POD, &json!({"spec": {}}), &patch).unwrap_err();
    assert!(error.to_string().contains("does not match the $setElementOrder"), "{error}");
    let patch = json!({"spec": {"$setElementOrder/containers": "a"}});
    assert_eq!(strategic_merge(POD, &json!({}), &patch), Ok(json!({"spec": {}})));
    assert_eq!(strategic_merge(POD, &json!({"spec": {}}), &patch).unwrap_err().code(), 400);
}

#[test]
fn patch_directives_replace_delete_and_merge() {
    check_spec(
        POD,
        json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1"}}),
        json!({"containers": [{"$patch": "replace"}, {"name": "c"}],
            "nodeSelector": {"$patch": "replace", "y": "2"}}),
        json!({"containers": [{"name": "c"}], "nodeSelector": {"y": "2"}}),
    );
    check_spec(
        POD,
        json!({"securityContext": {"runAsUser": 1}, "nodeSelector": {"x": "1"}}),
        json!({"securityContext": {"$patch": "delete"},
            "nodeSelector": {"$patch": "merge", "y": "2"}}),
        json!({"securityContext": {}, "nodeSelector": {"x": "1", "y": "2"}}),
    );
    let error = |patch: Value| strategic_merge(POD, &json!({"spec": {}}), &patch).unwrap_err();
    assert_eq!(error(json!({"$patch": "swap"})).to_string(), "unknown patch type: \"swap\"");
    assert_eq!(error(json!([])).code(), 400);
}

#[test]
fn nulls_delete_and_never_get_stored() {
    check(
        POD,
        json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        json!({"metadata": {"labels": {"a": null}, "annotations": {"x": null, "y": "1"}},
            "status": null}),
        json!({"metadata": {"labels": {"b": "2"}, "annotations": {"y": "1"}}}),
    );
    check_spec(
        POD,
        json!({"containers": [{"name": "a"}]}),
        json!({"containers": null, "$setElementOrder/containers": []}),
        json!({}),
    );
}

#[test]
fn misfits_are_errors_or_replaced() {
    let original = json!({"spec": {"containers": [{"name": "a"}]}});
    for patch in [
        json!({"spec": {"containers": [{"image": "x"}]}}),
        json!({"spec": {"containers": ["x"]}}),
        json!({"spec": {"containers": [[]]}}),
        json!({"spec": {"containers": [{"name": "a", "$patch": 5}]}}),
        json!({"spec": {"containers": [{"$patch": "delete"}]}}),
    ] {
        let error = strategic_merge(POD, &original, &patch).unwrap_err();
        assert_eq!(error.code(), 422, "{patch}: {error}");
    }
    check_spec(
        POD,
        json!({"containers": [{"name": "a"}]}),
        json!({"containers": {"a": 1}}),
        json!({"containers": {"a": 1}}),
    );
    check_spec(
        POD,
        json!({"unknown": [1], "map": {"a": 1}}),
        json!({"unknown": [2], "map": {"b": 2}}),
        json!({"unknown": [2], "map": {"a": 1, "b": 2}}),
    );
    let custom = ("example.com", "v1", "Thing");
    assert_eq!(strategic_merge(custom, &json!({}), &json!({})).unwrap_err().code(), 400);
}

#[test]
fn conditions_merge_by_type_and_replaced_structs_do_not_merge() {
    check(
        ("", "v1", "Node"),
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x"}]}}),
        json!({"status": {"$setElementOrder/conditions": [{"type": "Ready"}, {"type": "Disk"}],
            "conditions": [{"type": "Ready", "status": "False"},
                {"type": "Disk", "status": "False"}]}}),
        json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"},
            {"type": "Disk", "status": "False"}]}}),
    );
    check_spec(
        ("policy", "v1", "PodDisruptionBudget"),
        json!({"selector": {"matchLabels": {"a": "1"}}}),
        json!({"selector": {"matchLabels": {"b": "2"}}}),
        json!({"selector": {"matchLabels": {"b": "2"}}}),
    );
}

/// Comparing each element with each would take minutes.
#[test]
fn long_lists_are_merged_element_by_element() {
    const COUNT: usize = 50_000;
    let env = |value: &str| -> Vec<Value> {
        (0..COUNT).map(|n| json!({"name": format!("V{n}"), "value": value})).collect()
    };
    let pod = |env: Value| json!({"spec": {"containers": [{"name": "a", "env": env}]}});
    let order: Vec<Value> = (0..COUNT).rev().map(|n| json!({"name": format!("V{n}")})).collect();
    let mut changes = env("2");
    changes.reverse();
    let patch = json!({"spec": {"containers": [{"name": "a", "env": changes,
        "$setElementOrder/env": order}]}});
    let patched = strategic_merge(POD, &pod(env("1").into()), &patch).unwrap();
    let merged = &patched["spec"]["containers"][0]["env"];
    assert_eq!(merged[0], json!({"name": format!("V{}", COUNT - 1), "value": "2"}));
    let deletions: Vec<Value> =
        (0..COUNT).map(|n| json!({"name": format!("V{n}"), "$patch": "delete"})).collect();
    let emptied = strategic_merge(POD, &patched, &pod(deletions.into())).unwrap();
    assert_eq!(emptied["spec"]["containers"][0]["env"], json!([]));

    let names: Vec<String> = (0..COUNT).map(|n| format!("a.b/f{n}")).collect();
    let object = json!({"metadata": {"finalizers": names}});
    let same = strategic_merge(POD, &object, &object).unwrap();
    assert_eq!(same, object);
    let deletion = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": names}});
    let emptied = strategic_merge(POD, &same, &deletion).unwrap();
    assert_eq!(emptied["metadata"]["finalizers"], json!([]));
}
