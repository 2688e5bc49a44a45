//! Nodes that are full: pods get every place there is, and none that there is not.

use super::*;

/// The places that three nodes have for pods of [`CPU`].
const PLACES: i32 = 9;
const CPU: &str = "300m";

fn large(replicas: i32) -> Value {
    let mut large = deployment("web", replicas, 1, 1);
    large["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": CPU}});
    large
}

/// As many pods run as there are places, and the others wait for a reason.
fn all_places_are_taken(view: &View) -> Option<String> {
    let pods: Vec<_> = view.all::<Pod>().filter(|pod| truth::is_active(pod)).collect();
    let ready = pods.iter().filter(|pod| truth::is_ready(pod)).count();
    let deleting = view.all::<Pod>().any(|pod| pod.metadata.deletion_timestamp.is_some());
    let full = ready == usize::try_from(PLACES).unwrap() && !deleting;
    if full { truth::waits_in_vain(view) } else { Some(format!("{ready} pods have a place")) }
}

#[test]
fn every_place_is_taken_and_no_place_twice() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        world.start_control();
        world.create::<Deployment>(large(PLACES + 4)).await;
        world.until(all_places_are_taken).await;
        world.stays_quiet().await;
        world.faults.set(true);
        for _ in 0..15 {
            disturb(&mut world).await;
            world.sleep(Duration::from_secs(8)).await;
        }
        for node in world.fakes.names() {
            cordon(&world, &node, false).await;
        }
        world.faults.set(false);
        world.patch::<Deployment>("web", json!({"spec": {"replicas": PLACES + 2}})).await;
        world.until(all_places_are_taken).await;
        world.patch::<Deployment>("web", json!({"spec": {"replicas": PLACES - 2}})).await;
        world.rest().await;
        world.end().await;
    });
}

async fn disturb(world: &mut World) {
    let placed: Vec<String> = {
        let view = world.truth.cache.view();
        let pods = view.all::<Pod>().filter(|pod| truth::is_active(pod) && truth::is_ready(pod));
        pods.filter_map(|pod| pod.metadata.name.clone()).collect()
    };
    let pod = placed.get(world.random.random_range(0..placed.len().max(1)));
    let nodes = world.fakes.names();
    let node = &nodes[world.random.random_range(0..nodes.len())];
    match world.random.random_range(0..7) {
        0 => world.restart_control().await,
        1 => {
            let replicas = world.random.random_range(0..PLACES + 6);
            world.patch::<Deployment>("web", json!({"spec": {"replicas": replicas}})).await;
        }
        2 => cordon(world, node, true).await,
        3 => cordon(world, node, false).await,
        4 => {
            if let Some(pod) = pod {
                let patch = Patch::Merge(json!({"status": {"phase": "Failed"}}));
                let target = Target::one::<Pod>("default", pod).subresource("status");
                let _ = world.api.patch(&target, patch, &Default::default()).await;
            }
        }
        _ => {
            if let Some(pod) = pod {
                // It may be gone meanwhile.
                let _ = world.client.delete::<Pod>("default", pod, &Default::default()).await;
            }
        }
    }
}

async fn cordon(world: &World, node: &str, unschedulable: bool) {
    let patch = Patch::Merge(json!({"spec": {"unschedulable": unschedulable}}));
    world.client.patch::<Node>("", node, patch).await.expect("it is patched");
}
