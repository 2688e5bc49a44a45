//! Pods that must each have a host of their own: as many run as there are hosts, on all of them, and
//! the others come as soon as one of those is gone.

use super::*;

const HOSTS: usize = 3;

fn apart(replicas: usize) -> Value {
    let mut apart = deployment("web", i32::try_from(replicas).unwrap(), 1, 1);
    let term = json!({"topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    apart["spec"]["template"]["spec"]["affinity"] = json!({"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    apart
}

/// The hosts of the pods that have one, those that are leaving included.
fn hosts(view: &View) -> Vec<String> {
    let goes_on = |pod: &&Arc<Pod>| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    };
    let pods = view.all::<Pod>().filter(goes_on);
    let node = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let mut hosts: Vec<String> = pods.filter_map(node).collect();
    hosts.sort();
    hosts
}

fn no_host_has_two(view: &View) {
    let hosts = hosts(view);
    assert!(hosts.windows(2).all(|two| two[0] != two[1]), "{hosts:?}");
}

fn each_host_has_one(view: &View) -> Option<String> {
    let ready =
        view.all::<Pod>().filter(|pod| truth::is_active(pod) && truth::is_ready(pod)).count();
    let hosts = hosts(view);
    ((ready, hosts.len()) != (HOSTS, HOSTS)).then(|| format!("{ready} run on {hosts:?}"))
}

#[test]
fn each_host_has_one_whoever_goes() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, HOSTS).await;
        world.start_control();
        world.create::<Deployment>(apart(HOSTS + 2)).await;
        world.until(each_host_has_one).await;
        world.stays_quiet().await;
        world.faults.set(true);
        for _ in 0..12 {
            let pods: Vec<String> = {
                let view = world.truth.cache.view();
                no_host_has_two(&view);
                let pods = view.all::<Pod>().filter(|pod| truth::is_active(pod));
                pods.filter_map(|pod| pod.metadata.name.clone()).collect()
            };
            match world.random.random_range(0..4) {
                0 => world.restart_control().await,
                _ if pods.is_empty() => {}
                _ => {
                    let pod = &pods[world.random.random_range(0..pods.len())];
                    // It may be gone meanwhile.
                    let _ = world.client.delete::<Pod>("default", pod, &Default::default()).await;
                }
            }
            world.sleep(Duration::from_secs(8)).await;
        }
        world.faults.set(false);
        world.until(each_host_has_one).await;
        no_host_has_two(&world.truth.cache.view());
        world.end().await;
    });
}
