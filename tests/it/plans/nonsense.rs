//! Bits that flip, and nonsense, in owner references, selectors and replica counts: whatever is stored
//! there, no controller panics, and none deletes what nobody asked to delete.
//!
//! One object is damaged at a time, past all validation, as by a fault of the store's disk. What all
//! controllers then plan about whatever the change makes dirty is held to a bound:
//!
//! - a damaged owner reference or selector costs the damaged object itself, at most, and where others
//!   depend on that one, not even it: what goes is gone for whatever depends on it, to the last one;
//! - a damaged count costs the pods of its own workload, at most, since a smaller number cannot be told
//!   from one that was asked for; a negative one costs nothing.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wasmfleet::api::Gvr;
use wasmfleet::base::ids::Ids;

use super::*;

const INJECTIONS: usize = 10_000;
/// Every so often everything is looked at, and not only what a change makes dirty.
const LOOK_AT_ALL_EVERY: usize = 100;

/// A healthy namespace, with something of every workload.
fn healthy() -> Vec<Value> {
    let mut all = vec![
        json!({"kind": "Namespace", "metadata": {"name": "default"}, "status": {"phase": "Active"}}),
        web(4, 1, json!({"maxSurge": 1, "maxUnavailable": 1})),
        set(1, 4, 4, 4, 5),
        set(2, 0, 0, 4, 5),
    ];
    all.extend((0..4).map(|n| pod(&format!("web-h1-{n}"), "n1", "True")));
    for node in ["n1", "n2", "n3"] {
        let ready = json!({"type": "Ready", "status": "True"});
        all.push(json!({"kind": "Node", "metadata": {"name": node}, "spec": {"podCIDR": node},
            "status": {"conditions": [ready]}}));
    }
    let labelled = |app: &str| {
        let mut template = template(1);
        template["metadata"]["labels"] = json!({"app": app});
        template
    };
    let owned = |name: String, app: &str, kind: &str, version: &str| {
        let mut one = pod(&name, "n1", "True");
        one["metadata"]["labels"] = json!({"app": app, "controller-revision-hash": "r"});
        one["metadata"]["ownerReferences"] = json!([owner(version, kind, app)]);
        one
    };
    all.push(json!({"kind": "StatefulSet", "metadata": {"name": "db", "generation": 1},
        "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": labelled("db")}}));
    all.extend((0..3).map(|n| owned(format!("db-{n}"), "db", "StatefulSet", "apps/v1")));
    all.push(json!({"kind": "DaemonSet", "metadata": {"name": "agent", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": labelled("agent")}}));
    all.push(owned("agent-1".into(), "agent", "DaemonSet", "apps/v1"));
    all.push(json!({"kind": "Job", "metadata": {"name": "many", "generation": 1},
        "spec": {"completions": 6, "parallelism": 3, "backoffLimit": 6,
            "selector": {"matchLabels": {"app": "many"}}, "template": labelled("many")}}));
    all.extend((0..3).map(|n| owned(format!("many-{n}"), "many", "Job", "batch/v1")));
    all.push(json!({"kind": "ReplicationController", "metadata": {"name": "old", "generation": 1},
        "spec": {"replicas": 2, "selector": {"app": "old"}, "template": labelled("old")}}));
    all.extend((0..2).map(|n| owned(format!("old-{n}"), "old", "ReplicationController", "v1")));
    all.push(json!({"kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}));
    all.push(json!({"kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}}));
    all.iter_mut().for_each(with_real_uids);
    all
}

/// A uid as servers make them.
fn real_uid(name: &str) -> Value {
    json!(Ids::seeded(name.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte))).uid())
}

fn with_real_uids(object: &mut Value) {
    let meta = &mut object["metadata"];
    meta["uid"] = real_uid(meta["name"].as_str().unwrap());
    for owner in meta["ownerReferences"].as_array_mut().into_iter().flatten() {
        owner["uid"] = real_uid(owner["name"].as_str().unwrap());
    }
}

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Owners,
    Selector,
    Count,
}

const FIELDS: &[(Field, &str)] = &[
    (Field::Owners, "/metadata/ownerReferences"),
    (Field::Selector, "/spec/selector"),
    (Field::Count, "/spec/replicas"),
    (Field::Count, "/spec/completions"),
    (Field::Count, "/spec/parallelism"),
];

/// Something else in a field's place.
fn damaged(value: &Value, field: Field, random: &mut StdRng) -> Option<Value> {
    if random.random_bool(0.6) {
        let mut bytes = value.to_string().into_bytes();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        return serde_json::from_slice(&bytes).ok();
    }
    let numbers = [i32::MIN, -1, 0, 1, 1 << 20, i32::MAX - 1, i32::MAX];
    let pick = random.random_range(0..numbers.len());
    Some(match field {
        Field::Count => json!(numbers[pick]),
        Field::Selector => match pick {
            0 => json!({}),
            1 => json!({"matchLabels": {}}),
            2 => json!({"matchLabels": {"app": "db"}}),
            3 => json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
            4 => json!({"matchExpressions": [{"key": "", "operator": "Nonsense", "values": []}]}),
            5 => json!({"app": "many"}),
            _ => json!({"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}),
        },
        Field::Owners => {
            let mut owners = value.clone();
            let one = owners.get_mut(0)?;
            match pick {
                0 => one["uid"] = json!(""),
                1 => one["kind"] = json!("Nonsense"),
                2 => one["apiVersion"] = json!("/"),
                3 => one["name"] = json!("db"),
                4 => one["uid"] = real_uid("db"),
                5 => one["controller"] = json!(null),
                _ => {
                    let twin = one.clone();
                    owners.as_array_mut()?.push(twin);
                }
            }
            owners
        }
    })
}

/// What is there, by its kind.
type Tables = BTreeMap<String, Vec<Value>>;

fn kind_of(resource: &Gvr) -> &'static str {
    match &*resource.resource {
        "deployments" => "Deployment",
        "replicasets" => "ReplicaSet",
        "replicationcontrollers" => "ReplicationController",
        "statefulsets" => "StatefulSet",
        "daemonsets" => "DaemonSet",
        "jobs" => "Job",
        "pods" => "Pod",
        other => panic!("{other} are never deleted"),
    }
}

/// Feeds a table anew; `false` if a value is no object of the kind, which no cache would take.
fn feed(cache: &Cache, kind: &str, values: &[Value]) -> bool {
    fn of<T: Kind>(cache: &Cache, values: &[Value]) -> bool {
        let items: Result<Vec<T>, _> = values.iter().cloned().map(serde_json::from_value).collect();
        items.map(|items| cache.replace::<T>(items, 5)).is_ok()
    }
    match kind {
        "Deployment" => of::<Deployment>(cache, values),
        "ReplicaSet" => of::<ReplicaSet>(cache, values),
        "ReplicationController" => of::<ReplicationController>(cache, values),
        "StatefulSet" => of::<StatefulSet>(cache, values),
        "DaemonSet" => of::<DaemonSet>(cache, values),
        "Job" => of::<Job>(cache, values),
        "Service" => of::<Service>(cache, values),
        "PodDisruptionBudget" => of::<PodDisruptionBudget>(cache, values),
        "Pod" => of::<Pod>(cache, values),
        other => panic!("{other} has nothing to be damaged"),
    }
}

/// The objects that a plan deletes, as far as its checks let it go.
fn deletions(plan: &Plan, cache: &Cache) -> Vec<(Gvr, ObjectKey)> {
    let view = cache.view();
    let key = |target: &Target| {
        let namespace = target.namespace.as_deref().unwrap_or_default();
        ObjectKey::new(namespace, target.name.as_deref().unwrap_or("*"))
    };
    let mut deleted = Vec::new();
    for write in &plan.writes {
        match write {
            Write::Absent { target, uid } => {
                let found = view.object(&target.resource, &key(target));
                let found = found.filter(|one| uid.is_none() || one.meta().uid == *uid);
                if found.is_some() {
                    break;
                }
            }
            Write::Delete { target, .. } | Write::DeleteAll { target } => {
                deleted.push((target.resource.clone(), key(target)));
            }
            _ => {}
        }
    }
    deleted
}

#[test]
fn nonsense_never_deletes_much() {
    let objects = Objects::new(&healthy());
    let controllers = Arc::new(controllers::all(&Options::default()));
    let dirty: Arc<Mutex<BTreeSet<(usize, ObjectKey)>>> = Arc::default();
    let (all, marked) = (controllers.clone(), dirty.clone());
    let weak = Arc::downgrade(&objects.cache);
    objects.cache.listen(Box::new(move |change| {
        let Some(cache) = weak.upgrade() else { return };
        let view = cache.view();
        let mut marked = marked.lock();
        for (at, controller) in all.iter().enumerate() {
            marked.extend(controller.keys(change, &view).into_iter().map(|key| (at, key)));
        }
    }));
    let everything: BTreeSet<(usize, ObjectKey)> = {
        let view = objects.cache.view();
        let of = |(at, controller): (usize, &Arc<dyn Controller>)| {
            let keys = controller.reads().into_iter().flat_map(|resource| view.keys(&resource));
            keys.map(|key| (at, key)).collect::<Vec<_>>()
        };
        controllers.iter().enumerate().flat_map(of).collect()
    };
    let now: Timestamp = NOW.parse().unwrap();
    let deleted_by = |keys: BTreeSet<(usize, ObjectKey)>| -> BTreeSet<(Gvr, ObjectKey)> {
        let plan = |(at, key): (usize, ObjectKey)| {
            deletions(&controllers[at].reconcile(&objects.cache.view(), &key, now), &objects.cache)
        };
        keys.into_iter().flat_map(plan).collect()
    };
    assert_eq!(deleted_by(everything.clone()), BTreeSet::new(), "at first all is well");
    // What is deleted makes others dirty, until nothing more is; `tables` is what is there.
    let lost_by = |keys: BTreeSet<(usize, ObjectKey)>, tables: &mut Tables| {
        let (mut lost, mut keys) = (BTreeSet::new(), keys);
        loop {
            let deleted: BTreeSet<_> = deleted_by(keys).difference(&lost).cloned().collect();
            if deleted.is_empty() {
                return lost;
            }
            let kinds: BTreeSet<&str> = deleted.iter().map(|(of, _)| kind_of(of)).collect();
            for kind in kinds {
                let gone = |one: &Value| {
                    let name = &one["metadata"]["name"];
                    let mut deleted = deleted.iter().filter(|(of, _)| kind_of(of) == kind);
                    deleted.any(|(_, key)| key.name == "*" || *name == json!(*key.name))
                };
                let table = tables.get_mut(kind).unwrap();
                table.retain(|one| !gone(one));
                assert!(feed(&objects.cache, kind, table), "what is left is as before");
            }
            lost.extend(deleted);
            keys = std::mem::take(&mut *dirty.lock());
        }
    };
    let candidates: Vec<(&String, usize, Field, &str)> = objects
        .by_kind
        .iter()
        .flat_map(|(kind, values)| values.iter().enumerate().map(move |(at, one)| (kind, at, one)))
        .flat_map(|(kind, at, one)| {
            let has = FIELDS.iter().filter(move |(_, path)| one.pointer(path).is_some());
            has.map(move |(field, path)| (kind, at, *field, *path))
        })
        .collect();
    let mut random = StdRng::seed_from_u64(7);
    let (mut injected, mut costly) = (0, 0);
    while injected < INJECTIONS {
        let (kind, at, field, path) = candidates[random.random_range(0..candidates.len())];
        let mut tables = objects.by_kind.clone();
        let values = tables.get_mut(kind).unwrap();
        let slot = values[at].pointer_mut(path).unwrap();
        let Some(nonsense) = damaged(slot, field, &mut random) else { continue };
        if nonsense == *slot {
            continue;
        }
        let text = nonsense.to_string();
        let is_negative = nonsense.as_i64().is_some_and(|number| number < 0);
        *slot = nonsense;
        values[at]["metadata"]["resourceVersion"] = json!("6");
        let name = values[at]["metadata"]["name"].as_str().unwrap().to_string();
        if !feed(&objects.cache, kind, values) {
            continue;
        }
        injected += 1;
        let mut keys = std::mem::take(&mut *dirty.lock());
        if injected % LOOK_AT_ALL_EVERY == 0 {
            keys.extend(everything.clone());
        }
        let lost = lost_by(keys, &mut tables);
        let allowed = |(of, key): &&(Gvr, ObjectKey)| match field {
            Field::Owners | Field::Selector => kind_of(of) == kind && *key.name == name,
            Field::Count => !is_negative && key.name.starts_with(&name),
        };
        let wrong: Vec<_> = lost.iter().filter(|one| !allowed(one)).collect();
        assert!(wrong.is_empty(), "{kind} {name} with {path} {text} costs {wrong:?}");
        costly += usize::from(!lost.is_empty());
        for kind in tables.keys().filter(|kind| tables[*kind] != objects.by_kind[*kind]) {
            assert!(feed(&objects.cache, kind, &objects.by_kind[kind]), "what was healthy is");
        }
        dirty.lock().clear();
    }
    println!("{injected} injections, {costly} cost anything");
}
