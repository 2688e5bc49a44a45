//! StatefulSets and DaemonSets: one pod for each ordinal or node, in order, within bounds.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use parking_lot::Mutex;
use wasmfleet::client::cache::Changed;

use super::engine::objects::bystander;
use super::engine::truth::read::{is_daemon, ordinal};
use super::engine::truth::rest::{unfinished_daemons, unfinished_set};
use super::engine::truth::sets::{Bounds, SetsSeen};
use super::*;

#[test]
fn stateful_sets_keep_order_and_bounds() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        let seen = SetsSeen::start(&world.truth);
        world.start_control();
        world.rest().await;
        let replicas = world.random.random_range(1..5);
        let unavailable = world.random.random_range(1..3);
        world.create::<StatefulSet>(stateful_set(replicas, "OrderedReady", unavailable)).await;
        *seen.bounds.lock() = Some(Bounds { replicas, unavailable: replicas });
        world.faults.set(true);
        world.sleep(Duration::from_secs(120)).await;
        world.faults.set(false);
        world.until(unfinished_set).await;
        *seen.bounds.lock() = Some(Bounds { replicas, unavailable });
        world.faults.set(true);
        for version in 2..5 {
            world.patch::<StatefulSet>("db", image(version)).await;
            world.sleep(Duration::from_secs(20)).await;
            if world.random.random_bool(0.5) {
                world.restart_control().await;
            }
        }
        // A rollback is an older revision with a new number.
        world.patch::<StatefulSet>("db", image(2)).await;
        world.sleep(Duration::from_secs(60)).await;
        world.faults.set(false);
        world.until(unfinished_set).await;
        seen.assert_kept();
        let revisions = world
            .client
            .list::<ControllerRevision>(Some("default"), &ListOptions::default())
            .await
            .unwrap();
        let newest = revisions.iter().map(|one| one.revision).max();
        assert!(revisions.len() <= 4 && newest >= Some(2), "{:?}", names(&revisions));
        world.end().await;
    });
}

#[test]
fn stateful_sets_survive_trouble() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        let seen = SetsSeen::start(&world.truth);
        world.start_control();
        world.rest().await;
        let policy = if seed % 2 == 0 { "OrderedReady" } else { "Parallel" };
        world.create::<StatefulSet>(stateful_set(4, policy, 1)).await;
        world.faults.set(true);
        for step in 0..12 {
            world.sleep(Duration::from_secs(20)).await;
            let at = world.random.random_range(0..4);
            let pod = format!("db-{at}");
            // It may be gone meanwhile.
            match world.random.random_range(0..5) {
                0 => world.restart_control().await,
                1 => {
                    let _ = world.client.delete::<Pod>("default", &pod, &Default::default()).await;
                }
                2 => {
                    let patch = Patch::Merge(json!({"status": {"phase": "Failed"}}));
                    let target = Target::one::<Pod>("default", &pod).subresource("status");
                    let _ = world.api.patch(&target, patch, &Default::default()).await;
                }
                3 => {
                    let replicas = world.random.random_range(0..6);
                    let patch = json!({"spec": {"replicas": replicas}});
                    world.patch::<StatefulSet>("db", patch).await;
                }
                _ => world.patch::<StatefulSet>("db", image(step + 2)).await,
            }
        }
        world.faults.set(false);
        world.until(unfinished_set).await;
        seen.assert_kept();
        world.end().await;
    });
}

#[test]
fn daemons_run_once_on_every_node() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        let seen = SetsSeen::start(&world.truth);
        world.start_control();
        world.rest().await;
        world.create::<DaemonSet>(daemon_set((seed % 2) as u32)).await;
        world.faults.set(true);
        for step in 0..8 {
            world.sleep(Duration::from_secs(30)).await;
            let pods: Vec<String> = {
                let view = world.truth.cache.view();
                let pods = view.in_namespace::<Pod>("default").filter(|pod| is_daemon(pod));
                pods.map(|pod| name_of(&**pod).to_string()).collect()
            };
            match world.random.random_range(0..4) {
                0 => world.restart_control().await,
                1 if !pods.is_empty() => {
                    let pod = &pods[world.random.random_range(0..pods.len())];
                    // It may be gone meanwhile.
                    let _ = world.client.delete::<Pod>("default", pod, &Default::default()).await;
                }
                2 => world.patch::<DaemonSet>("agent", image(step + 2)).await,
                _ => {}
            }
        }
        world.fakes.add_node("n9", &world.tasks).await;
        world.sleep(Duration::from_secs(30)).await;
        world.faults.set(false);
        world.until(unfinished_daemons).await;
        seen.assert_kept();
        // A node that is cut off keeps its pod, and one that is gone has none.
        world.fakes.set("n9", Link::Cut);
        tokio::time::sleep(Duration::from_secs(600)).await;
        {
            let view = world.truth.cache.view();
            let there = view.indexed::<Pod>("n9").filter(|pod| truth::is_active(pod)).count();
            assert_eq!(there, 1, "the daemon's pod tolerates that its node is unreachable");
        }
        world.fakes.set("n9", Link::Up);
        world.until(unfinished_daemons).await;
        world.end().await;
    });
}

/// What holds of claims whatever happens.
struct Claims {
    violations: Mutex<Vec<String>>,
    /// The uid of each ordinal's claim, while none may be deleted.
    first: Mutex<BTreeMap<String, String>>,
    retains: bool,
}

impl Claims {
    fn start(world: &World, retains: bool) -> Arc<Claims> {
        let (violations, first) = (Mutex::default(), Mutex::default());
        let claims = Arc::new(Claims { violations, first, retains });
        let (weak, cache) = (Arc::downgrade(&claims), Arc::downgrade(&world.truth.cache));
        world.truth.cache.listen(Box::new(move |change| {
            if let (Some(claims), Some(cache)) = (weak.upgrade(), cache.upgrade()) {
                claims.look(change, &cache.view());
            }
        }));
        claims
    }

    fn look(&self, change: &Changed, view: &View) {
        let mut wrong = Vec::new();
        if let (old, new) = change.typed::<PersistentVolumeClaim>()
            && (old.is_some() || new.is_some())
        {
            let name = change.key.name.clone();
            let uid = new.and_then(|claim| claim.metadata.uid.clone());
            let mut first = self.first.lock();
            let known =
                first.entry(name.clone()).or_insert_with(|| uid.clone().unwrap_or_default());
            if self.retains && uid.as_ref() != Some(known) {
                wrong.push(format!("the claim {name} was deleted"));
            }
            let ending = new.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some());
            if self.retains && ending {
                wrong.push(format!("the claim {name} is being deleted"));
            }
        }
        if let (_, Some(pod)) = change.typed::<Pod>()
            && let Some(at) = ordinal(pod)
        {
            let spec = pod.spec.as_ref();
            let volumes = spec.and_then(|spec| spec.volumes.as_ref()).into_iter().flatten();
            let mut mounted = volumes.filter_map(|one| one.persistent_volume_claim.as_ref());
            let wanted = format!("data-db-{at}");
            if !mounted.any(|claim| claim.claim_name == wanted) {
                wrong.push(format!("db-{at} does not mount {wanted}"));
            }
            let claim = view.get::<PersistentVolumeClaim>("default", &wanted);
            let volume = claim.and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
            let volume = volume.and_then(|name| view.get::<PersistentVolume>("", &name));
            let node = spec.and_then(|spec| spec.node_name.as_deref());
            if let (Some(volume), Some(node)) = (volume, node.filter(|_| truth::is_active(pod)))
                && wasmfleet::api::kinds::storage::local_node(volume) != Some(node)
            {
                wrong.push(format!("db-{at} is on {node}, and its volume elsewhere"));
            }
        }
        let mut violations = self.violations.lock();
        if violations.len() < 10 {
            violations.extend(wrong);
        }
    }
}

/// Why the claims are not as asked.
fn unfinished_claims(view: &View) -> Option<String> {
    if let Some(why) = unfinished_set(view) {
        return Some(why);
    }
    let phase = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|s| s.phase.clone());
    let set = view.get::<StatefulSet>("default", "db")?;
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    (0..wanted).find_map(|at| {
        let claim = view.get::<PersistentVolumeClaim>("default", &format!("data-db-{at}"));
        let phase = claim.and_then(|claim| phase(claim));
        (phase.as_deref() != Some("Bound")).then(|| format!("data-db-{at} is {phase:?}"))
    })
}

#[test]
fn claims_stay_with_their_ordinals() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        let retains = seed % 3 != 0;
        let claims = Claims::start(&world, retains);
        world.start_control();
        world.rest().await;
        let policy = if seed % 2 == 0 { "OrderedReady" } else { "Parallel" };
        let mut set = stateful_set(3, policy, 1);
        set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}}]);
        let scaled = if retains { "Retain" } else { "Delete" };
        set["spec"]["persistentVolumeClaimRetentionPolicy"] =
            json!({"whenDeleted": "Retain", "whenScaled": scaled});
        world.create::<StatefulSet>(set).await;
        world.faults.set(true);
        for step in 0..10 {
            world.sleep(Duration::from_secs(20)).await;
            let pod = format!("db-{}", world.random.random_range(0..4));
            match world.random.random_range(0..4) {
                0 => world.restart_control().await,
                // It may be gone meanwhile.
                1 => {
                    let _ = world.client.delete::<Pod>("default", &pod, &Default::default()).await;
                }
                2 => {
                    let replicas = world.random.random_range(0..5);
                    let patch = json!({"spec": {"replicas": replicas}});
                    world.patch::<StatefulSet>("db", patch).await;
                }
                _ => world.patch::<StatefulSet>("db", image(step + 2)).await,
            }
        }
        world.faults.set(false);
        world.until(unfinished_claims).await;
        let view_of = || {
            let view = world.truth.cache.view();
            let claims = view.in_namespace::<PersistentVolumeClaim>("default");
            claims.map(|claim| name_of(&**claim).to_string()).collect::<Vec<_>>()
        };
        // What was scaled away is gone only where the policy says so.
        if retains {
            world.patch::<StatefulSet>("db", json!({"spec": {"replicas": 0}})).await;
            let before = view_of();
            world.until(unfinished_claims).await;
            assert_eq!(view_of(), before);
        } else {
            // A claim whose pod was never made, since the set shrank before that, stays, as upstream.
            let left = view_of();
            let wanted = {
                let view = world.truth.cache.view();
                let set = view.get::<StatefulSet>("default", "db");
                set.and_then(|set| set.spec.as_ref()?.replicas).unwrap_or(1)
            };
            let used: Vec<String> = (1..wanted).map(|at| format!("data-db-{at}")).collect();
            let unused = |name: &String| name != "data-db-0" && !used.contains(name);
            let unused: Vec<String> = left.into_iter().filter(unused).collect();
            world.patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}})).await;
            world.until(unfinished_claims).await;
            world
                .until(|view| {
                    let claims = view.in_namespace::<PersistentVolumeClaim>("default");
                    let mut names = claims.map(|claim| name_of(&**claim).to_string());
                    names.find(|name| name != "data-db-0" && !unused.contains(name))
                })
                .await;
        }
        assert_eq!(*claims.violations.lock(), Vec::<String>::new());
        world.end().await;
    });
}

/// A name that a pod of somebody else has is asked for less and less often, and the controller's
/// errors tell of it; when it is free, the set has it at once.
#[test]
fn a_name_that_is_taken_is_waited_for_calmly() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        let mut foreign = bystander();
        foreign["metadata"]["name"] = json!("db-0");
        world.create::<Pod>(foreign).await;
        world.start_control();
        world.create::<StatefulSet>(stateful_set(1, "OrderedReady", 1)).await;
        world.pass(Duration::from_secs(600)).await;
        let mut stats = world.stats().into_iter();
        let stats = stats.find(|one| one.controller == "statefulset-controller").unwrap();
        let told = stats.last_error.as_ref().map_or("", |(_, text)| text);
        assert!(told.contains("\"db-0\" already exists"), "{told:?}");
        assert!(stats.retries() < 40, "{} tries", stats.retries());
        world.client.delete::<Pod>("default", "db-0", &Default::default()).await.unwrap();
        world.sleep(Duration::from_secs(30)).await;
        world.until(unfinished_set).await;
        world.end().await;
    });
}
