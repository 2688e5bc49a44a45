//! Pods of a higher priority come into a full cluster: they get their places from lower ones, whatever
//! fails meanwhile, and then nobody is evicted any more.

use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::*;

/// The places that three nodes have for pods of 300 m.
const PLACES: usize = 9;
const HIGH: usize = 4;

fn class(name: &str, value: i32, policy: &str) -> Value {
    json!({"metadata": {"name": name}, "value": value, "preemptionPolicy": policy})
}

fn of_class(class: &str, replicas: usize) -> Value {
    let mut workload = deployment(class, i32::try_from(replicas).unwrap(), 1, 1);
    let spec = &mut workload["spec"]["template"]["spec"];
    spec["priorityClassName"] = class.into();
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "300m"}});
    workload
}

/// All places are taken, as many of them by the high ones as asked.
fn the_high_have_their_places(view: &View) -> Option<String> {
    let ready = |class: Option<&str>| {
        let pods = view.all::<Pod>().filter(|pod| truth::is_active(pod) && truth::is_ready(pod));
        let of_class = |pod: &&Arc<Pod>| {
            let name = pod.spec.as_ref().and_then(|spec| spec.priority_class_name.as_deref());
            class.is_none() || name == class
        };
        pods.filter(of_class).count()
    };
    let deleting = view.all::<Pod>().any(|pod| pod.metadata.deletion_timestamp.is_some());
    if (ready(Some("high")), ready(None), deleting) != (HIGH, PLACES, false) {
        return Some(format!("{} high ones of {} pods run", ready(Some("high")), ready(None)));
    }
    truth::waits_in_vain(view)
}

#[test]
fn the_high_get_places_of_the_low_and_then_it_is_quiet() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        world.create::<PriorityClass>(class("low", 1, "PreemptLowerPriority")).await;
        world.create::<PriorityClass>(class("polite", 5, "Never")).await;
        world.create::<PriorityClass>(class("high", 9, "PreemptLowerPriority")).await;
        world.start_control();
        world.create::<Deployment>(of_class("low", PLACES + 2)).await;
        let full = |view: &View| {
            let ready = view.all::<Pod>().filter(|pod| truth::is_ready(pod)).count();
            (ready != PLACES).then(|| format!("{ready} pods have a place"))
        };
        world.until(full).await;
        world.create::<Deployment>(of_class("polite", 2)).await;
        world.create::<Deployment>(of_class("high", HIGH)).await;
        world.until(the_high_have_their_places).await;
        world.stays_quiet().await;
        let polite = world
            .truth
            .cache
            .view()
            .all::<Pod>()
            .filter(|pod| truth::is_ready(pod))
            .any(|pod| pod.spec.as_ref().and_then(|spec| spec.priority) == Some(5));
        assert!(!polite, "nobody went for those who ask nobody to go");
        world.faults.set(true);
        for _ in 0..15 {
            disturb(&mut world).await;
            world.sleep(Duration::from_secs(8)).await;
        }
        world.faults.set(false);
        let replicas = json!({"spec": {"replicas": HIGH}});
        world.patch::<Deployment>("high", replicas).await;
        world.until(the_high_have_their_places).await;
        world.end().await;
    });
}

async fn disturb(world: &mut World) {
    let pods: Vec<String> = {
        let view = world.truth.cache.view();
        let pods = view.all::<Pod>().filter(|pod| truth::is_active(pod));
        pods.filter_map(|pod| pod.metadata.name.clone()).collect()
    };
    let pod = pods.get(world.random.random_range(0..pods.len().max(1)));
    match world.random.random_range(0..4) {
        0 => world.restart_control().await,
        1 => {
            let replicas = world.random.random_range(0..HIGH + 3);
            let patch = json!({"spec": {"replicas": replicas}});
            world.patch::<Deployment>("high", patch).await;
        }
        _ => {
            if let Some(pod) = pod {
                // It may be gone meanwhile.
                let _ = world.client.delete::<Pod>("default", pod, &Default::default()).await;
            }
        }
    }
}
