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

const LIVING: &str = "8d5c1b5e-3f0a-4c7e-9a51-0c2f6f7a1e90";
const FLIPPED: &str = "8d5c1b5e-3f0a-4c7e-9a51-0c2f6f7a1e91";
const FORMER: &str = "1f04a7c2-90be-4e13-8d6f-b75a2e44c301";

/// A dependent that names an owner which lives with another uid: the owner is as old as `owner_made`,
/// and the dependent as `made`.
fn of_namesake(uid: &str, owner_made: &str, made: &str) -> Objects {
    let mut web = web(3, 1, json!({}));
    web["metadata"]["uid"] = json!(LIVING);
    web["metadata"]["creationTimestamp"] = json!(owner_made);
    let mut set = set(1, 3, 3, 3, 4);
    set["metadata"]["ownerReferences"][0]["uid"] = json!(uid);
    set["metadata"]["creationTimestamp"] = json!(made);
    Objects::new(&[web, set, pod("a", "n1", "True")])
}

fn collected(objects: &Objects) -> String {
    objects.text(&objects.plan_by(&*collector("replicasets"), "default/web-h1"))
}

/// The reference goes, and the owner adopts what it had: nobody loses a pod for one wrong digit.
#[test]
fn a_damaged_reference_deletes_nothing() {
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:10:00Z");
    let kept = "check presence of deployments.apps default/web\nthen\n\
        patch replicasets.apps default/web-h1 {\"metadata\":{\"ownerReferences\":[]}}\n\
        event OwnerRefDamaged";
    for (uid, owner_made, made) in [
        // One digit, however old the dependent is; and what no uid looks like.
        (FLIPPED, early, early),
        (FLIPPED, late, early),
        ("", early, early),
        // Younger than the owner that lives: it never had another one of that name.
        (FORMER, early, late),
    ] {
        let text = collected(&of_namesake(uid, owner_made, made));
        assert!(text.starts_with(kept), "{uid} {owner_made} {made}: {text}");
    }
    // The name is damaged, and the uid is the living one's.
    let mut objects = vec![web(3, 1, json!({})), set(1, 3, 3, 3, 4), pod("a", "n1", "True")];
    objects[1]["metadata"]["ownerReferences"][0]["name"] = json!("wfb");
    assert!(collected(&Objects::new(&objects)).starts_with(kept));
    // What nobody adopts again keeps its reference, and goes with its owner one day.
    objects[1]["metadata"]["ownerReferences"][0]["controller"] = json!(false);
    let text = collected(&Objects::new(&objects));
    let told = "check presence of deployments.apps default/web\nevent OwnerRefDamaged";
    assert!(text.starts_with(told), "{text}");
}

/// An owner that was deleted and made anew under its name is another one.
#[test]
fn what_a_former_owner_of_the_name_had_is_collected() {
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:10:00Z");
    for made in [early, late] {
        let text = collected(&of_namesake(FORMER, late, made));
        assert_eq!(
            text,
            "check absence of deployments.apps default/web\nthen\n\
             delete replicasets.apps default/web-h1",
            "{made}"
        );
    }
}
