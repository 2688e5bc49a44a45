//! Owners and what depends on them, and namespaces that go.

use super::*;

#[test]
fn a_dependent_goes_only_after_its_owner_is_surely_gone() {
    let objects = Objects::new(&[pod("a", "n1", "True")]);
    let plan = objects.plan_by(&*collector("pods"), "default/a");
    assert_eq!(
        objects.text(&plan),
        "check absence of replicasets.apps default/web-h1\nthen\ndelete pods default/a"
    );
    let Write::Delete { options, .. } = &plan.writes[2] else { panic!("{plan:?}") };
    assert_eq!(options.uid.as_deref(), Some("a-uid"));
    assert_eq!(options.resource_version.as_deref(), Some("5"));
    // A kind that is not kept here is never taken for absent.
    let mut custom = pod("a", "n1", "True");
    custom["metadata"]["ownerReferences"] = json!([owner("example.com/v1", "Widget", "w")]);
    let objects = Objects::new(&[custom]);
    assert!(objects.plan_by(&*collector("pods"), "default/a").is_empty());
    // One owner lives: only the other reference goes.
    let mut shared = pod("a", "n1", "True");
    let other = owner("v1", "ConfigMap", "gone");
    shared["metadata"]["ownerReferences"] =
        json!([owner("apps/v1", "ReplicaSet", "web-h1"), other]);
    let objects = Objects::new(&[shared, set(1, 1, 1, 1, 1)]);
    let text = objects.text(&objects.plan_by(&*collector("pods"), "default/a"));
    assert!(text.contains("check absence of configmaps default/gone\nthen\npatch pods"), "{text}");
}

#[test]
fn a_foreground_deletion_waits_for_its_dependents() {
    let mut owner_set = set(1, 0, 0, 0, 0);
    owner_set["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
    owner_set["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    let objects = Objects::new(&[owner_set.clone(), pod("a", "n1", "True")]);
    assert!(objects.plan_by(&*collector("replicasets"), "default/web-h1").is_empty());
    let plan = objects.plan_by(&*collector("pods"), "default/a");
    assert_eq!(objects.text(&plan), "delete pods default/a");
    let objects = Objects::new(&[owner_set]);
    let plan = objects.plan_by(&*collector("replicasets"), "default/web-h1");
    assert_eq!(
        objects.text(&plan),
        r#"patch replicasets.apps default/web-h1 {"metadata":{"finalizers":[]}}"#
    );
}

#[test]
fn a_circle_of_owners_does_not_block() {
    let map = |name: &str, other: &str, deleting: bool| {
        let mut map = json!({"kind": "ConfigMap", "metadata": {"name": name,
            "ownerReferences": [owner("v1", "ConfigMap", other)]}});
        if deleting {
            map["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
            map["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
        }
        map
    };
    let objects = Objects::new(&[map("a", "b", true), map("b", "a", false)]);
    let text = objects.text(&objects.plan_by(&*collector("configmaps"), "default/b"));
    assert!(text.contains(r#""blockOwnerDeletion":false"#), "{text}");
}

#[test]
fn a_namespace_loses_its_pods_first_and_then_the_rest() {
    let namespace = json!({"kind": "Namespace",
        "metadata": {"name": "default", "deletionTimestamp": "2026-01-01T00:59:00Z"},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"}});
    let secret = json!({"kind": "Secret", "metadata": {"name": "s"}});
    let both = Objects::new(&[namespace.clone(), secret.clone(), pod("a", "n1", "True")]);
    let text = both.text(&both.plan("namespace-controller", "default"));
    assert!(text.starts_with("delete pods default/a\nupdate namespaces default status"), "{text}");
    assert!(
        text.contains("Some resources are remaining: pods. has 1 resource instances"),
        "{text}"
    );
    let rest = Objects::new(&[namespace.clone(), secret]);
    let text = rest.text(&rest.plan("namespace-controller", "default"));
    assert!(text.starts_with("delete secrets default/s\n"), "{text}");
    let empty = Objects::new(&[namespace]);
    let text = empty.text(&empty.plan("namespace-controller", "default"));
    assert!(text.contains("delete events default/*"), "{text}");
    let end = "then\nupdate namespaces default finalize {\"spec\":{\"finalizers\":[]}}";
    assert!(text.ends_with(end), "{text}");
}
