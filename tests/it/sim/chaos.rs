//! Everything that can go wrong, at once.

use super::*;

/// Everything at once: pods fail and are deleted, nodes die and come back, Deployments are scaled,
/// paused and changed, the controllers are restarted between any two writes.
#[test]
fn chaos_comes_to_rest() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 4).await;
        world.start_control();
        for (name, replicas) in [("a", 3), ("b", 5)] {
            world.create::<Deployment>(deployment(name, replicas, 1, 1)).await;
            world.create::<Service>(service(name)).await;
        }
        world.sleep(Duration::from_secs(10)).await;
        world.faults.set(true);
        for step in 0..25 {
            chaos(&mut world, step).await;
            world.sleep(Duration::from_secs(15)).await;
        }
        for node in world.fakes.names() {
            world.fakes.set(&node, Link::Up);
        }
        world.fakes.heal();
        for name in ["a", "b"] {
            world.patch::<Deployment>(name, json!({"spec": {"paused": false}})).await;
        }
        world.faults.set(false);
        world.rest().await;
        world.end().await;
    });
}

async fn chaos(world: &mut World, step: u32) {
    let name = if world.random.random_bool(0.5) { "a" } else { "b" };
    let pods: Vec<ObjectKey> = {
        let view = world.truth.cache.view();
        let pods = view.in_namespace::<Pod>("default").filter(|pod| truth::is_active(pod));
        pods.map(|pod| ObjectKey::of(&pod.metadata)).collect()
    };
    let index = world.random.random_range(0..pods.len().max(1));
    let pod = pods.get(index);
    let nodes = world.fakes.names();
    let node = nodes[world.random.random_range(0..nodes.len())].clone();
    match world.random.random_range(0..10) {
        0 | 1 => world.patch::<Deployment>(name, image(step + 2)).await,
        2 => {
            let replicas = world.random.random_range(0..7);
            world.patch::<Deployment>(name, json!({"spec": {"replicas": replicas}})).await;
        }
        3 => {
            let paused = world.random.random_bool(0.5);
            world.patch::<Deployment>(name, json!({"spec": {"paused": paused}})).await;
        }
        4 => {
            let link = if world.random.random_bool(0.5) { Link::Cut } else { Link::Down };
            world.fakes.set(&node, link);
        }
        5 => world.fakes.set(&node, Link::Up),
        6 => world.restart_control().await,
        7 => {
            if let Some(pod) = pod {
                world.fakes.make_sick(pod);
            }
        }
        8 => {
            if let Some(pod) = pod {
                // It may be gone meanwhile.
                let _ = world.client.delete::<Pod>("default", &pod.name, &Default::default()).await;
            }
        }
        _ => {
            if let Some(pod) = pod {
                let patch = Patch::Merge(json!({"status": {"phase": "Failed"}}));
                let target = Target::one::<Pod>("default", &pod.name).subresource("status");
                let _ = world.api.patch(&target, patch, &Default::default()).await;
            }
        }
    }
}
