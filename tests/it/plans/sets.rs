//! What StatefulSets and DaemonSets plan.

use super::*;

const HASH: &str = "controller-revision-hash";

fn old_data() -> Value {
    json!({"spec": {"template": {"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "v1"}]}, "$patch": "replace"}}})
}

/// A revision of the template of this version.
fn revision(kind: &str, owner_name: &str, version: u32, number: i64) -> Value {
    let mut data = old_data();
    data["spec"]["template"]["spec"]["containers"][0]["image"] = json!(format!("v{version}"));
    json!({"kind": "ControllerRevision", "revision": number, "data": data,
        "metadata": {"name": format!("{owner_name}-h{version}"), "labels": {"app": "web"},
            "ownerReferences": [owner("apps/v1", kind, owner_name)]}})
}

fn db(replicas: i32, version: u32, more: Value) -> Value {
    let mut spec = json!({"replicas": replicas, "serviceName": "db",
        "selector": {"matchLabels": {"app": "web"}}, "template": template(version)});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"kind": "StatefulSet", "metadata": {"name": "db", "generation": 1}, "spec": spec,
        "status": {"replicas": 0, "currentRevision": "db-h1"}})
}

fn db_pod(ordinal: i32, version: u32, ready: &str) -> Value {
    let name = format!("db-{ordinal}");
    let mut pod = pod(&name, "n1", ready);
    pod["metadata"]["ownerReferences"] = json!([owner("apps/v1", "StatefulSet", "db")]);
    pod["metadata"]["labels"] = json!({"app": "web", HASH: format!("db-h{version}"),
        "statefulset.kubernetes.io/pod-name": name, "apps.kubernetes.io/pod-index": ordinal.to_string()});
    pod
}

fn db_text(set: Value, others: &[Value]) -> String {
    let mut objects = vec![set, revision("StatefulSet", "db", 1, 1)];
    objects.extend_from_slice(others);
    let objects = Objects::new(&objects);
    let text = objects.text(&objects.plan("statefulset-controller", "default/db"));
    let lines = text.lines().filter(|line| !line.contains("db status "));
    lines.map(head).collect::<Vec<_>>().join("\n")
}

/// A line without what is written; a creation has the name of what is created.
fn head(line: &str) -> String {
    let Some((head, written)) = line.split_once(" {") else { return line.into() };
    let value: Value = serde_json::from_str(&format!("{{{written}")).unwrap();
    match value["metadata"]["name"].as_str() {
        Some(name) => head.replace('*', name),
        None => head.into(),
    }
}

#[test]
fn a_stateful_set_records_its_template_before_it_makes_pods() {
    let objects = Objects::new(&[db(1, 1, json!({}))]);
    let text = objects.text(&objects.plan("statefulset-controller", "default/db"));
    assert!(text.starts_with("create controllerrevisions.apps"), "{text}");
    assert!(text.contains(r#""$patch":"replace""#) && text.contains(r#""revision":1"#), "{text}");
    assert!(!text.contains("create pods"), "{text}");
}

#[test]
fn pods_are_made_and_ended_one_after_the_other() {
    let (first, second) = (db_pod(0, 1, "True"), db_pod(1, 1, "True"));
    assert_eq!(db_text(db(2, 1, json!({})), &[]), "create pods default/db-0");
    assert_eq!(db_text(db(2, 1, json!({})), &[db_pod(0, 1, "False")]), "");
    assert_eq!(
        db_text(db(2, 1, json!({})), std::slice::from_ref(&first)),
        "create pods default/db-1"
    );
    let both = [first.clone(), second.clone()];
    assert_eq!(db_text(db(2, 1, json!({})), &both), "");
    assert_eq!(db_text(db(0, 1, json!({})), &both), "delete pods default/db-1");
    let parallel = || json!({"podManagementPolicy": "Parallel"});
    let made = db_text(db(2, 1, parallel()), &[]);
    assert_eq!(made, "create pods default/db-0\ncreate pods default/db-1");
    let from_three = json!({"ordinals": {"start": 3}});
    assert_eq!(db_text(db(1, 1, from_three), &[]), "create pods default/db-3");
}

#[test]
fn updates_go_from_the_last_down_to_the_partition() {
    let revisions = revision("StatefulSet", "db", 2, 2);
    let pods = [db_pod(0, 1, "True"), db_pod(1, 1, "True"), db_pod(2, 1, "True"), revisions];
    let rolling = |rolling: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}});
    assert_eq!(db_text(db(3, 2, rolling(json!({}))), &pods), "delete pods default/db-2");
    assert_eq!(db_text(db(3, 2, rolling(json!({"partition": 3}))), &pods), "");
    let two = db_text(db(3, 2, rolling(json!({"maxUnavailable": 2}))), &pods);
    assert_eq!(two, "delete pods default/db-2\ndelete pods default/db-1");
    let on_delete = json!({"updateStrategy": {"type": "OnDelete"}});
    assert_eq!(db_text(db(3, 2, on_delete), &pods), "");
}

#[test]
fn a_template_that_comes_back_is_its_old_revision_with_a_new_number() {
    let text = db_text(db(0, 1, json!({})), &[revision("StatefulSet", "db", 2, 2)]);
    assert_eq!(text, "update controllerrevisions.apps default/db-h1");
}

#[test]
fn a_pod_that_failed_is_replaced_and_one_without_its_labels_mended() {
    let mut failed = db_pod(0, 1, "False");
    failed["status"]["phase"] = json!("Failed");
    assert_eq!(db_text(db(1, 1, json!({})), &[failed]), "delete pods default/db-0");
    let mut bare = db_pod(0, 1, "True");
    bare["metadata"]["labels"] = json!({"app": "web", HASH: "db-h1"});
    assert_eq!(db_text(db(1, 1, json!({})), &[bare]), "patch pods default/db-0");
}

fn agent(version: u32, strategy: Value) -> Value {
    json!({"kind": "DaemonSet", "metadata": {"name": "agent", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template(version),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": strategy}}})
}

fn node(name: &str, more: Value) -> Value {
    json!({"kind": "Node", "metadata": {"name": name}, "spec": more})
}

fn agent_pod(name: &str, node: &str, version: u32, ready: &str) -> Value {
    let mut pod = pod(name, node, ready);
    pod["metadata"]["ownerReferences"] = json!([owner("apps/v1", "DaemonSet", "agent")]);
    pod["metadata"]["labels"] = json!({"app": "web", HASH: format!("h{version}")});
    pod
}

fn agents(set: Value, others: &[Value]) -> (String, Value) {
    let mut objects = vec![set, revision("DaemonSet", "agent", 1, 1)];
    objects.extend_from_slice(others);
    let objects = Objects::new(&objects);
    let plan = objects.plan("daemonset-controller", "default/agent");
    let status = plan.writes.iter().find_map(|write| match write {
        Write::Update { target, object } if target.subresource.is_some() => {
            Some(object.clone().into_value()["status"].clone())
        }
        _ => None,
    });
    let text = objects.text(&plan);
    let lines = text.lines().filter(|line| !line.contains("agent status "));
    (lines.collect::<Vec<_>>().join("\n"), status.unwrap_or_default())
}

#[test]
fn a_daemon_set_fills_the_nodes_that_it_tolerates() {
    let taint = |effect: &str| json!({"taints": [{"key": "own", "effect": effect}]});
    let cordoned =
        json!({"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]});
    let (text, status) = agents(
        agent(1, json!({"maxUnavailable": 1})),
        &[
            node("a", cordoned),
            node("b", taint("NoSchedule")),
            node("c", taint("NoExecute")),
            agent_pod("stays", "b", 1, "True"),
            agent_pod("goes", "c", 1, "True"),
        ],
    );
    assert!(
        text.contains(r#""matchFields":[{"key":"metadata.name","operator":"In","values":["a"]}]"#),
        "{text}"
    );
    assert_eq!(text.matches("create pods").count(), 1, "{text}");
    assert!(text.contains("node.kubernetes.io/unreachable"), "{text}");
    assert!(text.contains("delete pods default/goes") && !text.contains("default/stays"), "{text}");
    assert_eq!(
        (&status["desiredNumberScheduled"], &status["numberMisscheduled"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn a_daemon_set_updates_within_its_bounds() {
    let nodes = [node("a", json!({})), node("b", json!({})), revision("DaemonSet", "agent", 2, 2)];
    let with = |pods: &[Value]| [nodes.as_slice(), pods].concat();
    let (old_a, old_b) = (agent_pod("a1", "a", 1, "True"), agent_pod("b1", "b", 1, "True"));
    let one = || json!({"maxUnavailable": 1, "maxSurge": 0});
    let (text, _) = agents(agent(2, one()), &with(&[old_a.clone(), old_b.clone()]));
    assert_eq!(text, "delete pods default/a1");
    // One is unavailable already: it goes, and no other.
    let sick = agent_pod("b1", "b", 1, "False");
    let (text, _) = agents(agent(2, one()), &with(&[old_a.clone(), sick]));
    assert_eq!(text, "delete pods default/b1");
    let surge = || json!({"maxUnavailable": 0, "maxSurge": 1});
    let (text, _) = agents(agent(2, surge()), &with(&[old_a.clone(), old_b.clone()]));
    assert!(text.starts_with("create pods") && text.contains(r#"["a"]"#), "{text}");
    assert!(!text.contains(r#"["b"]"#) && !text.contains("delete"), "{text}");
    let new_a = agent_pod("a2", "a", 2, "True");
    let (text, _) = agents(agent(2, surge()), &with(&[old_a, new_a, old_b]));
    assert_eq!(text, "delete pods default/a1");
}

const TEMPLATES: &str = r#"[{"metadata": {"name": "data"}, "spec": {"accessModes":
    ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]"#;

/// A set with claims, as its policy says.
fn kept(replicas: i32, when_deleted: &str, when_scaled: &str) -> Value {
    let templates: Value = serde_json::from_str(TEMPLATES).unwrap();
    let policy = json!({"whenDeleted": when_deleted, "whenScaled": when_scaled});
    db(
        replicas,
        1,
        json!({"volumeClaimTemplates": templates, "persistentVolumeClaimRetentionPolicy": policy}),
    )
}

fn db_claim(ordinal: i32, owners: Value) -> Value {
    json!({"kind": "PersistentVolumeClaim", "metadata": {"name": format!("data-db-{ordinal}"),
        "ownerReferences": owners}, "spec": {"accessModes": ["ReadWriteOnce"]}})
}

fn set_owner() -> Value {
    json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "db-uid",
        "controller": true, "blockOwnerDeletion": true}])
}

fn pod_owner(ordinal: i32) -> Value {
    json!([{"apiVersion": "v1", "kind": "Pod", "name": format!("db-{ordinal}"),
        "uid": format!("db-{ordinal}-uid"), "controller": true, "blockOwnerDeletion": true}])
}

#[test]
fn claims_are_made_before_their_pod() {
    let set = kept(1, "Delete", "Retain");
    assert_eq!(
        db_text(set.clone(), &[]),
        "create persistentvolumeclaims default/data-db-0\nthen\ncreate pods default/db-0"
    );
    let objects = Objects::new(&[set.clone(), revision("StatefulSet", "db", 1, 1)]);
    let plan = objects.plan("statefulset-controller", "default/db");
    let created: Vec<&Object> = plan
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Create { object, .. } => Some(object),
            _ => None,
        })
        .collect();
    let claim = created[0];
    assert_eq!(claim.at(&["metadata", "labels"]).unwrap(), &json!({"app": "web"}));
    assert_eq!(claim.at(&["metadata", "ownerReferences"]).unwrap(), &set_owner());
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]);
    assert_eq!(created[1].at(&["spec", "volumes"]).unwrap(), &volumes);
    // One that is there is used; one that is going is waited for.
    let there = db_claim(0, set_owner());
    assert_eq!(db_text(set.clone(), std::slice::from_ref(&there)), "create pods default/db-0");
    let mut going = there;
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:30:00Z");
    let text = db_text(set.clone(), &[going]);
    assert!(text.starts_with("event FailedCreate: create Pod db-0 in StatefulSet db"), "{text}");
    // So is one that an earlier pod of this name takes along.
    let mut left = pod_owner(0);
    left[0]["uid"] = json!("old");
    let text = db_text(set, &[db_claim(0, left)]);
    assert!(text.starts_with("event FailedCreate"), "{text}");
}

#[test]
fn the_retention_policy_says_who_owns_a_claim() {
    let owners = |when_deleted: &str, when_scaled: &str, before: Value, spare: bool| {
        let at = i32::from(spare);
        let set = kept(1, when_deleted, when_scaled);
        let mut objects = vec![set, revision("StatefulSet", "db", 1, 1), db_pod(0, 1, "True")];
        let fitting = if when_deleted == "Delete" { set_owner() } else { json!(null) };
        if spare {
            objects.extend([db_pod(1, 1, "True"), db_claim(0, fitting)]);
        }
        objects.push(db_claim(at, before));
        let objects = Objects::new(&objects);
        let plan = objects.plan("statefulset-controller", "default/db");
        plan.writes.iter().find_map(|write| match write {
            Write::Patch { target, patch: Patch::Merge(patch) }
                if target.name.as_deref() == Some(&format!("data-db-{at}")) =>
            {
                Some(patch["metadata"]["ownerReferences"].clone())
            }
            Write::Delete { target, .. } => {
                assert_eq!(&*target.resource.resource, "pods", "no claim is deleted");
                None
            }
            _ => None,
        })
    };
    let none = || json!(null);
    assert_eq!(owners("Retain", "Retain", none(), false), None);
    assert_eq!(owners("Retain", "Retain", none(), true), None);
    assert_eq!(owners("Retain", "Retain", set_owner(), false), Some(json!([])));
    assert_eq!(owners("Delete", "Retain", none(), false), Some(set_owner()));
    assert_eq!(owners("Delete", "Retain", set_owner(), true), None);
    assert_eq!(owners("Retain", "Delete", none(), false), None);
    assert_eq!(owners("Retain", "Delete", none(), true), Some(pod_owner(1)));
    assert_eq!(owners("Delete", "Delete", set_owner(), true), Some(pod_owner(1)));
    assert_eq!(owners("Delete", "Delete", pod_owner(0), false), Some(set_owner()));
    // What somebody else controls is theirs.
    let other = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x",
        "controller": true}]);
    assert_eq!(owners("Delete", "Delete", other, false), None);
}

/// Whoever reads it knows which pod, and which claim, could not be made.
#[test]
fn what_a_stateful_set_could_not_make_is_named() {
    let claims = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]});
    let objects = Objects::new(&[db(1, 1, claims), revision("StatefulSet", "db", 1, 1)]);
    let plan = objects.plan("statefulset-controller", "default/db");
    let refused = plan.writes.iter().filter_map(|write| {
        let (action, target) = write.named_subject()?;
        let error = ApiError::forbidden(&target.resource, "", "no");
        (action == Action::Create).then_some(Outcome { action, target, result: Err(error) })
    });
    let refused: Vec<Outcome> = refused.collect();
    let (key, now) = (ObjectKey::new("default", "db"), NOW.parse().unwrap());
    let controller = named("statefulset-controller");
    let told = controller.settle(&objects.cache.view(), &key, &refused, now).notices;
    let told: Vec<&str> = told.iter().map(|notice| notice.message.as_str()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    let claim = "create Claim data-db-0 Pod db-0 in StatefulSet db failed error: ";
    assert!(told[0].starts_with(claim), "{told:?}");
    assert!(told[1].starts_with("create Pod db-0 in StatefulSet db failed error: "), "{told:?}");
}
