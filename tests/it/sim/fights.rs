//! Bad input to controllers: somebody who undoes what they do, templates that can never start,
//! selectors that match others' pods. Writes stay bounded, what is wrong is told, nothing is lost.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use wasmfleet::api::ApiError;
use wasmfleet::base::Tasks;
use wasmfleet::client::{Client, WatchEvent, WatchOptions, WriteOptions};

use super::*;

/// How soon somebody undoes a write.
const SOON: Duration = Duration::from_millis(10);
/// How long a fight goes on; the second half of it is counted.
const HALF: Duration = Duration::from_secs(300);
/// Writes of all controllers and the scheduler, with their Events, in that time: where a write
/// comes every ten seconds, what follows from it is a few more.
const MOST_WRITES: u64 = 1500;

/// The same where a rollout's steps are undone: their sizes come in turns, which repeats nothing, so
/// that the tokens of the one object, 20 a second, are what holds them. It shows sooner.
const HALF_IN_TURNS: Duration = Duration::from_secs(100);
const MOST_IN_TURNS: u64 = 2_000;

/// What is done to an object as soon as it is seen.
enum Undo {
    Delete,
    Patch(Value),
    Status(Value),
}

/// Undoes, until the tasks stop, what `undo` does not leave alone; counts how often.
fn enemy<T: Kind>(world: &World, tasks: &Tasks, undo: fn(&T) -> Option<Undo>) -> Arc<AtomicU64> {
    let (client, undone) = (world.client.clone(), Arc::new(AtomicU64::new(0)));
    let count = undone.clone();
    tasks.spawn("enemy", async move {
        let all = Target::all::<T>(Some("default"));
        loop {
            let list = client.api.list(&all, &ListOptions::default()).await.unwrap();
            let options =
                WatchOptions { resource_version: list.resource_version, ..WatchOptions::default() };
            let items = list.items.into_iter().map(|raw| Some(raw.decode::<T>().unwrap()));
            let mut events = client.api.watch(&all, &options).await.unwrap();
            let mut seen: Vec<Option<T>> = items.collect();
            loop {
                for object in seen.drain(..).flatten() {
                    let Some(undo) = undo(&object) else { continue };
                    tokio::time::sleep(SOON).await;
                    count.fetch_add(1, Ordering::Relaxed);
                    // Gone meanwhile, or changed: the next event tells.
                    let _ = perform(&client, &object, undo).await;
                }
                let Some(Ok(event)) = events.next().await else { break };
                let is_gone = matches!(event, WatchEvent::Deleted(_));
                let raw = event.raw().filter(|_| !is_gone);
                seen.push(raw.map(|raw| raw.decode::<T>().unwrap()));
            }
        }
    });
    undone
}

async fn perform<T: Kind>(client: &Client, object: &T, undo: Undo) -> Result<(), ApiError> {
    let target = Target::of(object);
    let (target, patch) = match undo {
        Undo::Delete => {
            let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
            return client.api.delete(&target, &now).await.map(drop);
        }
        Undo::Patch(patch) => (target, patch),
        Undo::Status(status) => (target.subresource("status"), json!({"status": status})),
    };
    let options = WriteOptions::default();
    client.api.patch(&target, Patch::Merge(patch), &options).await.map(drop)
}

/// Whether an Event with a reason was written about an object of a kind.
async fn is_told(world: &World, kind: &str, reason: &str) -> bool {
    let events = world.client.list::<Event>(Some("default"), &ListOptions::default()).await;
    events.unwrap().iter().any(|event| {
        event.involved_object.kind.as_deref() == Some(kind)
            && event.reason.as_deref() == Some(reason)
    })
}

/// A fight over some time: it is told, few writes come of it, and once it is over all is as asked.
async fn fight<T: Kind>(
    seed: u64,
    kind: &str,
    (half, most): (Duration, u64),
    undo: fn(&T) -> Option<Undo>,
) {
    let mut world = World::new(seed, false, 2).await;
    world.start_control();
    world.create::<Deployment>(deployment("web", 2, 1, 1)).await;
    world.create::<Service>(service("web")).await;
    world.rest().await;
    let tasks = Tasks::default();
    let undone = enemy::<T>(&world, &tasks, undo);
    tokio::time::sleep(half).await;
    let (writes, undone_before) = (world.faults.writes(), undone.load(Ordering::Relaxed));
    tokio::time::sleep(half).await;
    let writes = world.faults.writes() - writes;
    let undone = undone.load(Ordering::Relaxed) - undone_before;
    let busy = world.stats().into_iter().filter(|one| one.writes > 0);
    let busy: Vec<_> = busy.map(|one| (one.controller, one.writes, one.held)).collect();
    assert!(writes <= most, "{kind}: {writes} writes, {undone} undone: {busy:?}");
    // It goes on all the same: who gives up loses what was asked for.
    assert!(undone >= 20, "{kind}: {undone} undone, {writes} writes");
    assert!(is_told(&world, kind, "RepeatedWrites").await, "{kind}: nobody is told");
    tasks.shut_down(STOP_LIMIT).await;
    world.until(truth::unfinished).await;
    world.end().await;
}

/// What a fight costs does not hang on a seed: one is enough, unless somebody asks for more.
fn is_played(seed: u64) -> bool {
    let asked = |name: &str| std::env::var_os(name).is_some();
    seed == 0 || asked("WASMFLEET_SIM_SEED") || asked("WASMFLEET_SIM_SEEDS")
}

fn in_each_seed<T: Kind>(kind: &'static str, most: (Duration, u64), undo: fn(&T) -> Option<Undo>) {
    each_seed(|seed| async move {
        if is_played(seed) {
            fight::<T>(seed, kind, most, undo).await;
        }
    });
}

#[test]
fn pods_that_somebody_deletes_are_made_again_ever_more_slowly() {
    in_each_seed::<Pod>("ReplicaSet", (HALF, MOST_WRITES), |_| Some(Undo::Delete));
}

#[test]
fn a_size_that_somebody_resets_is_set_no_more_often_than_tokens_allow() {
    in_each_seed::<ReplicaSet>("Deployment", (HALF_IN_TURNS, MOST_IN_TURNS), |set| {
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
        (replicas != Some(0)).then(|| Undo::Patch(json!({"spec": {"replicas": 0}})))
    });
}

#[test]
fn a_status_that_somebody_writes_is_mended_ever_more_slowly() {
    in_each_seed::<Deployment>("Deployment", (HALF, MOST_WRITES), |deployment| {
        let replicas = deployment.status.as_ref().and_then(|status| status.replicas);
        (replicas != Some(77)).then(|| Undo::Status(json!({"replicas": 77})))
    });
}

#[test]
fn slices_that_somebody_deletes_are_made_again_ever_more_slowly() {
    in_each_seed::<EndpointSlice>("Service", (HALF, MOST_WRITES), |_| Some(Undo::Delete));
}

/// What a node does that refuses a pod: it fails before it ever runs.
fn refuse(pod: &Pod) -> Option<Undo> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let ended = matches!(phase, Some("Failed" | "Succeeded"));
    (is_bound && !ended)
        .then(|| Undo::Status(json!({"phase": "Failed", "reason": "UnexpectedAdmissionError"})))
}

/// Templates of which no pod ever starts: few pods are made of them, and it is told.
#[test]
fn a_template_that_never_starts_makes_few_pods() {
    each_seed(|seed| async move {
        if !is_played(seed) {
            return;
        }
        let mut world = World::new(seed, false, 3).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        // They have registered, and must not run what they see first.
        for node in world.fakes.names() {
            world.fakes.set(&node, Link::Cut);
        }
        world.start_control();
        let tasks = Tasks::default();
        let refused = enemy::<Pod>(&world, &tasks, refuse);
        let template = |app: &str| {
            json!({"metadata": {"labels": {"app": app}},
                "spec": {"containers": [{"name": "c", "image": "hello:v1"}],
                    "tolerations": [{"operator": "Exists"}]}})
        };
        let set = |app: &str| {
            json!({"metadata": {"name": app, "namespace": "default"},
                "spec": {"selector": {"matchLabels": {"app": app}}, "template": template(app)}})
        };
        let mut web = set("web");
        web["spec"]["replicas"] = json!(3);
        world.create::<Deployment>(web).await;
        let mut stateful = set("db");
        stateful["spec"]["serviceName"] = json!("db");
        world.create::<StatefulSet>(stateful).await;
        world.create::<DaemonSet>(set("agent")).await;
        tokio::time::sleep(HALF).await;
        let before = refused.load(Ordering::Relaxed);
        tokio::time::sleep(HALF).await;
        let more = refused.load(Ordering::Relaxed) - before;
        // At most every ten seconds three of the Deployment, one of the set, three of the daemons.
        assert!(more <= 7 * 31, "{more} pods in five minutes");
        assert!(more >= 20, "{more} pods in five minutes: somebody gave up");
        let web = world.client.get::<Deployment>("default", "web").await.unwrap();
        let conditions = web.status.unwrap().conditions.unwrap();
        assert!(
            conditions.iter().any(|one| {
                one.type_ == "Available"
                    && one.reason.as_deref() == Some("MinimumReplicasUnavailable")
            }),
            "{conditions:?}"
        );
        assert!(is_told(&world, "ReplicaSet", "RepeatedWrites").await);
        assert!(is_told(&world, "StatefulSet", "RepeatedWrites").await);
        tasks.shut_down(STOP_LIMIT).await;
        world.stop_control().await;
        assert!(world.tasks.shut_down(STOP_LIMIT).await.is_empty());
    });
}

/// Workloads whose selectors match each other's pods leave them to their owners, and come to rest.
#[test]
fn selectors_that_match_others_pods_take_nothing_from_them() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        world.start_control();
        let template = json!({"metadata": {"labels": {"app": "same"}},
            "spec": {"containers": [{"name": "c", "image": "hello:v1"}]}});
        let set = |name: &str, replicas: usize| {
            json!({"metadata": {"name": name, "namespace": "default"},
                "spec": {"replicas": replicas, "template": template,
                    "selector": {"matchLabels": {"app": "same"}}}})
        };
        world.create::<Deployment>(set("a", 3)).await;
        world.create::<ReplicaSet>(set("b", 2)).await;
        let mut stateful = set("c", 2);
        stateful["spec"]["serviceName"] = json!("c");
        world.create::<StatefulSet>(stateful).await;
        world.faults.set(true);
        world.sleep(Duration::from_secs(60)).await;
        world.patch::<ReplicaSet>("b", json!({"spec": {"replicas": 1}})).await;
        world.patch::<Deployment>("a", image(2)).await;
        world.sleep(Duration::from_secs(60)).await;
        world.faults.set(false);
        let wanted = [("ReplicaSet", "a-", 3), ("ReplicaSet", "b", 1), ("StatefulSet", "c", 2)];
        world
            .until(|view| {
                let count = |kind: &str, owner: &str| {
                    let pods = view.in_namespace::<Pod>("default");
                    let owners =
                        pods.flat_map(|pod| pod.metadata.owner_references.iter().flatten());
                    owners.filter(|one| one.kind == kind && one.name.starts_with(owner)).count()
                };
                let counts = wanted.map(|(kind, owner, _)| count(kind, owner));
                let is_so = counts == wanted.map(|(.., count)| count);
                let all = view.in_namespace::<Pod>("default").count();
                (!is_so || all != 6).then(|| format!("{counts:?} of {all}"))
            })
            .await;
        world.end().await;
    });
}
