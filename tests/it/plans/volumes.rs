//! Volumes and claims: who gets whom, and what becomes of what is left.

use super::*;

const BINDER: &str = "persistentvolume-binder-controller";

fn volume(name: &str, size: &str, more: Value) -> Value {
    let mut volume = json!({"kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
            "storageClassName": "gold", "persistentVolumeReclaimPolicy": "Retain"},
        "status": {"phase": "Available"}});
    merge(&mut volume, more);
    volume
}

fn claim(name: &str, size: &str, more: Value) -> Value {
    let mut claim = json!({"kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "gold",
            "resources": {"requests": {"storage": size}}},
        "status": {"phase": "Pending"}});
    merge(&mut claim, more);
    claim
}

fn merge(object: &mut Value, more: Value) {
    match (object, more) {
        (Value::Object(fields), Value::Object(more)) => {
            for (key, value) in more {
                merge(fields.entry(key).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new,
    }
}

/// What a volume says of its claim.
fn reference(claim: &str) -> Value {
    json!({"spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "namespace": "default", "name": claim, "uid": format!("{claim}-uid"),
        "resourceVersion": "5"}}})
}

fn completed(volume: &str) -> Value {
    json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": volume}})
}

/// The name of the volume that a plan gives to the claim `c`, if it does.
fn given(objects: &[Value]) -> Option<String> {
    let plan = Objects::new(objects).plan(BINDER, "default/c");
    match &plan.writes[..] {
        [Write::Update { target, object }] if &*target.resource.resource == "persistentvolumes" => {
            assert_eq!(object.at(&["spec", "claimRef", "uid"]).unwrap(), "c-uid");
            target.name.clone()
        }
        _ => None,
    }
}

#[test]
fn the_smallest_volume_that_fits_is_given() {
    let labelled = json!({"metadata": {"labels": {"disk": "fast"}}});
    let volumes = [
        volume("large", "8Gi", json!({})),
        volume("small", "1Gi", json!({})),
        volume("right", "3Gi", labelled),
        volume("also-right", "3Gi", json!({})),
        volume("class", "2Gi", json!({"spec": {"storageClassName": "iron"}})),
        volume("block", "2Gi", json!({"spec": {"volumeMode": "Block"}})),
        volume("once", "2Gi", json!({"spec": {"accessModes": ["ReadOnlyMany"]}})),
        volume("taken", "2Gi", reference("other")),
        volume("new", "2Gi", json!({"status": {"phase": "Pending"}})),
        volume("old", "2Gi", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:30:00Z"}})),
    ];
    let with = |claim: Value| given(&[&volumes[..], &[claim]].concat());
    assert_eq!(with(claim("c", "2Gi", json!({}))).as_deref(), Some("also-right"));
    assert_eq!(with(claim("c", "4Gi", json!({}))).as_deref(), Some("large"));
    assert_eq!(with(claim("c", "9Gi", json!({}))), None);
    let selector = json!({"spec": {"selector": {"matchLabels": {"disk": "fast"}}}});
    assert_eq!(with(claim("c", "1Gi", selector)).as_deref(), Some("right"));
    let many = json!({"spec": {"accessModes": ["ReadWriteMany"]}});
    assert_eq!(with(claim("c", "1Gi", many)), None);
    assert_eq!(with(claim("c", "1Gi", json!({"spec": {"storageClassName": ""}}))), None);
    // One that is kept for the claim comes first, unless it does not fit.
    let mut kept = reference("c");
    kept["spec"]["claimRef"]["uid"] = Value::Null;
    let all = [&volumes[..], &[volume("kept", "9Gi", kept.clone())]].concat();
    let with = |claim: Value| given(&[&all[..], &[claim]].concat());
    assert_eq!(with(claim("c", "2Gi", json!({}))).as_deref(), Some("kept"));
    assert_eq!(with(claim("c", "10Gi", json!({}))), None);
    // So it does where the first Pod decides.
    let class = json!({"kind": "StorageClass", "metadata": {"name": "gold"},
        "provisioner": "example.com/p", "volumeBindingMode": "WaitForFirstConsumer"});
    let delayed = [&volumes[..], &[class.clone(), claim("c", "2Gi", json!({}))]].concat();
    assert_eq!(given(&delayed), None);
    let delayed = [&all[..], &[class, claim("c", "2Gi", json!({}))]].concat();
    assert_eq!(given(&delayed).as_deref(), Some("kept"));
}

#[test]
fn a_binding_is_written_in_three_steps() {
    let bound = json!({"phase": "Bound"});
    let volume = |more: Value| {
        let mut one = volume("v", "3Gi", more);
        one["status"] = bound.clone();
        one
    };
    Objects::new(&[volume(reference("c")), claim("c", "2Gi", json!({}))]).check(
        BINDER,
        "default/c",
        r#"update persistentvolumeclaims default/c {"metadata":{"annotations":{"pv.kubernetes.io/bind-completed":"yes","pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"volumeName":"v"}}"#,
    );
    Objects::new(&[volume(reference("c")), claim("c", "2Gi", completed("v"))]).check(
        BINDER,
        "default/c",
        r#"update persistentvolumeclaims default/c status {"status":{"accessModes":["ReadWriteOnce","ReadOnlyMany"],"capacity":{"storage":"3Gi"},"phase":"Bound"}}"#,
    );
    let mut done = completed("v");
    done["status"] = json!({"phase": "Bound", "capacity": {"storage": "3Gi"},
        "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]});
    let objects = Objects::new(&[volume(reference("c")), claim("c", "2Gi", done.clone())]);
    objects.check(BINDER, "default/c", "");
    objects.check(BINDER, "v", "");
    // What is bound and has no volume any more never gets another one.
    let lost = Objects::new(&[claim("c", "2Gi", done.clone())]);
    lost.check(
        BINDER,
        "default/c",
        r#"check absence of persistentvolumes v
           then
           update persistentvolumeclaims default/c status {"status":{"accessModes":null,"capacity":null,"phase":"Lost"}}
           event ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!"#,
    );
    let plan = Objects::new(&[volume(reference("other")), claim("c", "2Gi", done)])
        .plan(BINDER, "default/c");
    assert_eq!(plan.notices[0].reason, "ClaimMisbound");
}

#[test]
fn a_claim_that_names_its_volume_gets_that_one_or_none() {
    let named = json!({"spec": {"volumeName": "v"}});
    let plan = |volume: Value, size: &str| {
        let plan = Objects::new(&[volume, claim("c", size, named.clone())]);
        let plan = plan.plan(BINDER, "default/c");
        assert!(plan.writes.len() <= 1, "{plan:?}");
        (plan.writes.len(), plan.notices.first().map(|notice| notice.message.clone()))
    };
    assert_eq!(plan(volume("v", "3Gi", json!({})), "2Gi"), (1, None));
    let small = "Cannot bind to requested volume \"v\": requested PV is too small";
    assert_eq!(plan(volume("v", "1Gi", json!({})), "2Gi"), (0, Some(small.into())));
    let taken = "volume \"v\" already bound to a different claim.";
    assert_eq!(plan(volume("v", "3Gi", reference("x")), "2Gi"), (0, Some(taken.into())));
    assert_eq!(plan(volume("w", "3Gi", json!({})), "2Gi"), (0, None));
}

#[test]
fn claims_tell_what_they_wait_for() {
    let class = |mode: &str, provisioner: &str| {
        json!({"kind": "StorageClass", "metadata": {"name": "gold"},
            "provisioner": provisioner, "volumeBindingMode": mode})
    };
    let reason = |objects: &[Value]| {
        let plan = Objects::new(objects).plan(BINDER, "default/c");
        (plan.notices[0].reason.to_string(), plan.writes.len())
    };
    let waiting = claim("c", "1Gi", json!({}));
    assert_eq!(reason(std::slice::from_ref(&waiting)), ("ProvisioningFailed".into(), 0));
    let bare = claim("c", "1Gi", json!({"spec": {"storageClassName": ""}}));
    assert_eq!(reason(&[bare]), ("FailedBinding".into(), 0));
    let later = class("WaitForFirstConsumer", "example.com/p");
    assert_eq!(reason(&[later.clone(), waiting.clone()]), ("WaitForFirstConsumer".into(), 0));
    let selected = json!({"metadata": {"annotations":
        {"volume.kubernetes.io/selected-node": "n1"}}});
    let selected = claim("c", "1Gi", selected);
    assert_eq!(reason(&[later, selected]), ("ExternalProvisioning".into(), 1));
    let now = class("Immediate", "example.com/p");
    assert_eq!(reason(&[now, waiting.clone()]), ("ExternalProvisioning".into(), 1));
    let none = class("Immediate", "kubernetes.io/no-provisioner");
    assert_eq!(reason(&[none, waiting]), ("FailedBinding".into(), 0));
    // A default that came after the claim.
    let mut default = class("Immediate", "example.com/p");
    default["metadata"]["annotations"] =
        json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let unclassed = claim("c", "1Gi", json!({"spec": {"storageClassName": null}}));
    Objects::new(&[default, unclassed]).check(
        BINDER,
        "default/c",
        r#"update persistentvolumeclaims default/c {"spec":{"storageClassName":"gold"}}"#,
    );
}

#[test]
fn volumes_are_free_bound_or_left() {
    let phase = |objects: &[Value]| {
        let plan = Objects::new(objects).plan(BINDER, "v");
        let last = plan.writes.last().map(|write| match write {
            Write::Update { object, .. } => object.at(&["status", "phase"]).cloned().unwrap(),
            other => panic!("{other}"),
        });
        (plan.writes.len(), last.unwrap_or_default())
    };
    let new = |more: Value| {
        let mut one = volume("v", "1Gi", more);
        one["status"]["phase"] = json!("Pending");
        one
    };
    assert_eq!(phase(&[new(json!({}))]), (1, json!("Available")));
    let mut kept = reference("c");
    kept["spec"]["claimRef"]["uid"] = Value::Null;
    assert_eq!(phase(&[new(kept)]), (1, json!("Available")));
    let ours = claim("c", "1Gi", completed("v"));
    assert_eq!(phase(&[new(reference("c")), ours.clone()]), (1, json!("Bound")));
    let begun = claim("c", "1Gi", json!({}));
    assert_eq!(phase(&[new(reference("c")), begun]), (0, Value::Null));
    // The claim went, or is another one by now: only after a live read.
    assert_eq!(phase(&[new(reference("c"))]), (3, json!("Released")));
    let mut again = ours.clone();
    again["metadata"]["uid"] = json!("another");
    assert_eq!(phase(&[new(reference("c")), again]), (3, json!("Released")));
    let mut left = new(reference("c"));
    left["status"]["phase"] = json!("Released");
    assert_eq!(phase(&[left.clone()]), (0, Value::Null));
    left["spec"]["persistentVolumeReclaimPolicy"] = json!("Recycle");
    assert_eq!(phase(&[left]), (1, json!("Failed")));
    // It has another volume: this one is free again.
    let elsewhere = claim("c", "1Gi", completed("w"));
    let mut given = new(reference("c"));
    given["metadata"]["annotations"] = json!({"pv.kubernetes.io/bound-by-controller": "yes"});
    Objects::new(&[given, elsewhere]).check(
        BINDER,
        "v",
        r#"update persistentvolumes v {"metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":null}},"spec":{"claimRef":null}}"#,
    );
}

#[test]
fn what_is_in_use_is_kept() {
    const CLAIMS: &str = "persistentvolumeclaim-protection-controller";
    const VOLUMES: &str = "persistentvolume-protection-controller";
    let going = |finalizer: &str| {
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:30:00Z",
            "finalizers": ["example.com/x", finalizer]}})
    };
    let claim = claim("c", "1Gi", going("kubernetes.io/pvc-protection"));
    let user = |node: &str| {
        let mut user = pod("p", node, "True");
        user["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}},
            {"name": "own", "persistentVolumeClaim": {"claimName": "c"}}]);
        user
    };
    Objects::new(&[claim.clone(), user("n1")]).check(CLAIMS, "default/c", "");
    let free =
        r#"patch persistentvolumeclaims default/c {"metadata":{"finalizers":["example.com/x"]}}"#;
    Objects::new(&[claim.clone(), user("")]).check(CLAIMS, "default/c", free);
    Objects::new(&[claim]).check(CLAIMS, "default/c", free);
    let mut volume = volume("v", "1Gi", going("kubernetes.io/pv-protection"));
    volume["status"]["phase"] = json!("Bound");
    Objects::new(&[volume.clone()]).check(VOLUMES, "v", "");
    volume["status"]["phase"] = json!("Released");
    Objects::new(&[volume]).check(
        VOLUMES,
        "v",
        r#"patch persistentvolumes v {"metadata":{"finalizers":["example.com/x"]}}"#,
    );
}

const PROVISIONER: &str = "local-provisioner";

fn local_class(mode: &str) -> Value {
    json!({"kind": "StorageClass", "metadata": {"name": "gold"}, "reclaimPolicy": "Delete",
        "provisioner": "wasmfleet.dev/local", "volumeBindingMode": mode,
        "allowVolumeExpansion": true})
}

fn host(name: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name,
            "labels": {"kubernetes.io/hostname": name},
            "annotations": {"wasmfleet.dev/volumes-dir": format!("/data/{name}/volumes")}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

/// A claim that the binder asks for.
fn asked(more: Value) -> Value {
    let mut claim = claim(
        "c",
        "2Gi",
        json!({"metadata": {"annotations":
            {"volume.kubernetes.io/storage-provisioner": "wasmfleet.dev/local"}}}),
    );
    merge(&mut claim, more);
    claim
}

fn selected(node: &str) -> Value {
    json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}})
}

#[test]
fn a_volume_is_made_on_the_chosen_node() {
    let later = local_class("WaitForFirstConsumer");
    let objects = Objects::new(&[later.clone(), host("n1"), host("n2"), asked(selected("n2"))]);
    objects.check(
        PROVISIONER,
        "default/c",
        r#"create persistentvolumes * {"metadata":{"annotations":{"pv.kubernetes.io/provisioned-by":"wasmfleet.dev/local"},"name":"pvc-c-uid"},"spec":{"accessModes":["ReadWriteOnce"],"capacity":{"storage":"2Gi"},"claimRef":{"apiVersion":"v1","kind":"PersistentVolumeClaim","name":"c","namespace":"default","resourceVersion":"5","uid":"c-uid"},"local":{"path":"/data/n2/volumes/pvc-c-uid"},"nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":["n2"]}]}]}},"persistentVolumeReclaimPolicy":"Delete","storageClassName":"gold","volumeMode":"Filesystem"}}
           event Provisioning: External provisioner is provisioning volume for claim "default/c"
           event ProvisioningSucceeded: Successfully provisioned volume pvc-c-uid"#,
    );
    // The scheduler has not chosen yet; nobody asked; it is there; it is another's class.
    for objects in [
        vec![later.clone(), host("n1"), asked(json!({}))],
        vec![local_class("Immediate"), host("n1"), claim("c", "2Gi", json!({}))],
        vec![
            later.clone(),
            host("n1"),
            asked(selected("n1")),
            volume("pvc-c-uid", "1Gi", json!({})),
        ],
    ] {
        Objects::new(&objects).check(PROVISIONER, "default/c", "");
    }
    // What cannot be is told, and the scheduler chooses again.
    let reason = |objects: &[Value]| Objects::new(objects).plan(PROVISIONER, "default/c");
    let plan = reason(&[later.clone(), host("n1"), asked(selected("gone"))]);
    assert_eq!(plan.notices[0].reason, "ProvisioningFailed");
    let text = "failed to provision volume with StorageClass \"gold\": node \"gone\" not found";
    assert_eq!((plan.notices[0].message.as_str(), plan.writes.len()), (text, 1));
    let block = json!({"spec": {"volumeMode": "Block"}});
    let plan = reason(&[local_class("Immediate"), host("n1"), asked(block)]);
    assert!(plan.notices[0].message.ends_with("block volume provisioning is not supported"));
}

#[test]
fn any_node_that_fits_has_a_volume_that_is_made_at_once() {
    let plan = |objects: &[Value]| Objects::new(objects).plan(PROVISIONER, "default/c");
    let mut narrow = local_class("Immediate");
    narrow["allowedTopologies"] = json!([{"matchLabelExpressions": [
        {"key": "kubernetes.io/hostname", "values": ["n2", "n3"]}]}]);
    let mut cordoned = host("n3");
    cordoned["spec"] = json!({"unschedulable": true});
    let made = plan(&[narrow.clone(), host("n1"), host("n2"), cordoned.clone(), asked(json!({}))]);
    let Write::Create { object, .. } = &made.writes[0] else { panic!("{made:?}") };
    let path = object.at(&["spec", "local", "path"]).unwrap();
    assert_eq!(path, "/data/n2/volumes/pvc-c-uid");
    let none = plan(&[narrow, host("n1"), cordoned, asked(json!({}))]);
    assert!(none.writes.is_empty() && none.notices[0].reason == "ProvisioningFailed");
}

/// A volume that was made on a node for the claim.
fn made(node: &str, more: Value) -> Value {
    let mut volume = volume("pvc-c-uid", "2Gi", reference("c"));
    let term = json!({"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
    merge(
        &mut volume,
        json!({"metadata": {"annotations":
                {"pv.kubernetes.io/provisioned-by": "wasmfleet.dev/local"},
                "finalizers": ["external-provisioner.volume.kubernetes.io/finalizer"]},
            "spec": {"persistentVolumeReclaimPolicy": "Delete",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}},
            "status": {"phase": "Bound"}}),
    );
    merge(&mut volume, more);
    volume
}

#[test]
fn what_was_made_is_deleted_with_its_claim_or_left() {
    let text = |objects: &[Value]| {
        let objects = Objects::new(objects);
        objects.text(&objects.plan(PROVISIONER, "pvc-c-uid"))
    };
    let released = json!({"status": {"phase": "Released"}});
    assert_eq!(text(&[host("n1"), made("n1", json!({}))]), "");
    assert_eq!(
        text(&[host("n1"), made("n1", released.clone())]),
        "delete persistentvolumes pvc-c-uid"
    );
    let mut retained = made("n1", released.clone());
    retained["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
    assert_eq!(
        text(&[host("n1"), retained]),
        r#"patch persistentvolumes pvc-c-uid {"metadata":{"finalizers":[]}}"#
    );
    // Its node removes the directory; one that is gone has taken it along.
    let mut ending = made("n1", released);
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:30:00Z");
    assert_eq!(text(&[host("n1"), ending.clone()]), "");
    assert_eq!(
        text(&[host("n2"), ending]),
        "check absence of nodes n1\nthen\npatch persistentvolumes pvc-c-uid \
         {\"metadata\":{\"finalizers\":[]}}"
    );
    // Others' volumes are others' business.
    let mut foreign = made("n1", json!({"status": {"phase": "Released"}}));
    foreign["metadata"]["annotations"] = Value::Null;
    assert_eq!(text(&[foreign]), "");
}

#[test]
fn a_claim_grows_where_its_class_lets_it() {
    let grown = claim("c", "5Gi", completed("pvc-c-uid"));
    let with = |class: Value| {
        let objects = Objects::new(&[class, host("n1"), made("n1", json!({})), grown.clone()]);
        objects.text(&objects.plan(PROVISIONER, "default/c"))
    };
    assert_eq!(
        with(local_class("Immediate")),
        "update persistentvolumes pvc-c-uid {\"spec\":{\"capacity\":{\"storage\":\"5Gi\"}}}\n\
         event VolumeResizeSuccessful: Resize volume succeeded"
    );
    let mut fixed = local_class("Immediate");
    fixed["allowVolumeExpansion"] = json!(false);
    assert_eq!(with(fixed), "");
}

#[test]
fn an_ephemeral_volume_has_a_claim_of_its_own() {
    const EPHEMERAL: &str = "ephemeral-volume-controller";
    let mut user = pod("p", "", "False");
    user["spec"]["volumes"] = json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate":
        {"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}}}]);
    Objects::new(std::slice::from_ref(&user)).check(
        EPHEMERAL,
        "default/p",
        r#"create persistentvolumeclaims default/* {"metadata":{"labels":{"a":"b"},"name":"p-scratch","namespace":"default","ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Pod","name":"p","uid":"p-uid"}]},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}"#,
    );
    let mut own = claim("p-scratch", "1Gi", json!({}));
    let plan = Objects::new(&[user.clone(), own.clone()]).plan(EPHEMERAL, "default/p");
    assert_eq!((plan.writes.len(), &*plan.notices[0].reason), (0, "FailedBinding"));
    own["metadata"]["ownerReferences"] = json!([owner("v1", "Pod", "p")]);
    Objects::new(&[user, own]).check(EPHEMERAL, "default/p", "");
}
