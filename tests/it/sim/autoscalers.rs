//! Autoscalers follow what is measured.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use parking_lot::Mutex;

use super::*;

const LEAST: i32 = 1;
const MOST: i32 = 8;
/// What a pod should use, in MiB.
const TARGET: u64 = 100;

/// Under a load that changes, an API that fails and restarts: never beyond its bounds, and at rest
/// with as many replicas as the load needs.
#[test]
fn autoscalers_follow_the_load() {
    each_seed(|seed| async move {
        // Who scales up has fewer available than asked for, for a while.
        let mut world = World::new(seed, false, 3).await;
        world.start_control();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = seen.clone();
        world.truth.cache.listen(Box::new(move |change| {
            if let (_, Some(web)) = change.typed::<Deployment>() {
                told.lock().push(replicas(web));
            }
        }));
        world.create::<Deployment>(deployment("web", 2, 1, 1)).await;
        world.faults.load(2 * TARGET);
        world.create::<HorizontalPodAutoscaler>(autoscaler()).await;
        world.rest().await;
        world.faults.set(true);
        for _ in 0..4 {
            let load = world.random.random_range(0..2 * TARGET * MOST as u64);
            world.faults.load(load);
            world.sleep(Duration::from_secs(180)).await;
            if world.random.random_bool(0.5) {
                world.restart_control().await;
            }
        }
        world.faults.set(false);
        let needed = world.random.random_range(LEAST..=MOST);
        // A little less than so many pods should use, and more than the tolerance less.
        world.faults.load(TARGET * needed as u64 - TARGET / 10);
        let has_what_it_needs = |view: &View| {
            let web = view.get::<Deployment>("default", "web")?;
            let there = replicas(web);
            (there != needed).then(|| format!("{there} replicas where {needed} are needed"))
        };
        world.until(|view| truth::unfinished(view).or_else(|| has_what_it_needs(view))).await;
        let seen = seen.lock().clone();
        assert!(seen.iter().all(|there| (LEAST..=MOST).contains(there)), "{seen:?}");
        // Until no window holds an older recommendation.
        tokio::time::sleep(Duration::from_secs(90)).await;
        let autoscaler = world.client.get::<HorizontalPodAutoscaler>("default", "web").await;
        let status = autoscaler.unwrap().status.unwrap();
        assert_eq!((status.current_replicas, status.desired_replicas), (Some(needed), needed));
        world.end().await;
    });
}

fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default()
}

fn autoscaler() -> Value {
    let target = json!({"type": "AverageValue", "averageValue": format!("{TARGET}Mi")});
    json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"minReplicas": LEAST, "maxReplicas": MOST,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 30}},
            "metrics": [{"type": "Resource", "resource": {"name": "memory", "target": target}}]}})
}
