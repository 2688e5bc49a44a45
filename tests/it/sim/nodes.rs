//! Nodes that vanish, are cut off, or are deleted.

use std::collections::BTreeSet;

use super::*;

/// Most nodes vanish at once: nobody is evicted; one node vanishes: its pods are replaced.
#[test]
fn evictions_stop_when_most_nodes_vanish() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 5).await;
        world.start_control();
        world.create::<Deployment>(deployment("web", 10, 1, 1)).await;
        world.rest().await;
        for node in ["n0", "n1", "n2"] {
            world.fakes.set(node, Link::Down);
        }
        tokio::time::sleep(Duration::from_secs(1200)).await;
        let deleting = |world: &World| {
            let view = world.truth.cache.view();
            view.all::<Pod>().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count()
        };
        assert_eq!(deleting(&world), 0, "nobody is evicted while 60 % of the nodes are lost");
        world.fakes.set("n0", Link::Up);
        world.fakes.set("n1", Link::Up);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let on_lost = {
            let view = world.truth.cache.view();
            let mut pods = view.all::<Pod>().filter(|pod| truth::is_active(pod));
            pods.any(|p| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some("n2"))
        };
        assert!(!on_lost, "the pods of the one lost node are replaced");
        // The machine is gone for good: its pods are not waited for.
        world.client.delete::<Node>("", "n2", &DeleteOptions::default()).await.unwrap();
        world.rest().await;
        world.end().await;
    });
}

/// The uids of the pods that are not on their way out.
fn uids(world: &World) -> BTreeSet<String> {
    let view = world.truth.cache.view();
    let pods = view.all::<Pod>().filter(|pod| truth::is_active(pod));
    pods.filter_map(|pod| pod.metadata.uid.clone()).collect()
}

/// A node is cut off for less time than pods tolerate: they run on, are not sent to meanwhile, and
/// serve again when it is back. None is replaced.
#[test]
fn a_short_partition_costs_no_pod() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        world.start_control();
        world.rest().await;
        world.create::<Deployment>(deployment("web", 6, 1, 1)).await;
        world.create::<Service>(service("web")).await;
        world.rest().await;
        let before = uids(&world);
        world.fakes.set("n1", Link::Cut);
        world.faults.set(true);
        tokio::time::sleep(Duration::from_secs(120)).await;
        {
            let view = world.truth.cache.view();
            let cut: Vec<_> = view.indexed::<Pod>("n1").collect();
            assert!(!cut.is_empty() && !cut.iter().any(|pod| truth::is_ready(pod)), "{cut:?}");
        }
        world.faults.set(false);
        let writes = world.faults.writes();
        world.fakes.set("n1", Link::Up);
        world.rest().await;
        assert_eq!(uids(&world), before, "a pod was replaced");
        let writes = world.faults.writes() - writes;
        assert!(writes < 100, "{writes} writes: agent and controllers contradict each other");
        world.end().await;
    });
}

/// A node is cut off for longer: its pods are replaced, and end when it is back.
#[test]
fn a_long_partition_moves_its_pods() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        world.start_control();
        world.rest().await;
        world.create::<Deployment>(deployment("web", 6, 1, 1)).await;
        world.create::<Service>(service("web")).await;
        world.rest().await;
        world.faults.set(true);
        world.fakes.set("n1", Link::Cut);
        tokio::time::sleep(Duration::from_secs(600)).await;
        world.faults.set(false);
        let ready = {
            let view = world.truth.cache.view();
            let pods =
                view.all::<Pod>().filter(|pod| truth::is_active(pod) && truth::is_ready(pod));
            pods.count()
        };
        assert_eq!(ready, 6, "pods of the lost node are replaced");
        world.fakes.set("n1", Link::Up);
        world.rest().await;
        world.end().await;
    });
}

/// Someone deletes the Node of a machine that runs: its agent registers again, its pods stay.
#[test]
fn a_deleted_node_that_comes_back_keeps_its_pods() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 2).await;
        world.start_control();
        world.rest().await;
        world.create::<Deployment>(deployment("web", 4, 1, 1)).await;
        world.rest().await;
        let before = uids(&world);
        world.client.delete::<Node>("", "n1", &DeleteOptions::default()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(90)).await;
        world.rest().await;
        assert_eq!(uids(&world), before, "a pod was replaced");
        world.end().await;
    });
}
