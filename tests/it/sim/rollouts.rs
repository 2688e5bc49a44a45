//! Rollouts keep their promises.

use super::engine::themes::bounds;
use super::*;

/// Rollouts under a faulty API, with nothing else going wrong: never above maxSurge, never below
/// minAvailable, whatever the controllers see late, twice or not at all.
#[test]
fn rollouts_keep_their_bounds() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, true, 3).await;
        world.start_control();
        let replicas = world.random.random_range(1..6);
        let mut web = deployment("web", replicas, 0, 0);
        web["spec"]["strategy"]["rollingUpdate"] = bounds(&mut world.random);
        web["spec"]["minReadySeconds"] = json!(world.random.random_range(0..2) * 5);
        world.create::<Deployment>(web).await;
        world.create::<Service>(service("web")).await;
        world.rest().await;
        world.faults.set(true);
        for version in 2..5 {
            world.patch::<Deployment>("web", image(version)).await;
            // Often the next version comes before the last one is there.
            world.sleep(Duration::from_secs(20)).await;
            if world.random.random_bool(0.5) {
                world.restart_control().await;
            }
        }
        // Fewer replicas are fewer soon: what is more than them is seen.
        if world.random.random_bool(0.5) {
            world.patch::<Deployment>("web", json!({"spec": {"replicas": 1}})).await;
        }
        world.sleep(Duration::from_secs(60)).await;
        // An older template again is a rollback.
        world.patch::<Deployment>("web", image(2)).await;
        world.sleep(Duration::from_secs(60)).await;
        world.faults.set(false);
        world.rest().await;
        let web = world.client.get::<Deployment>("default", "web").await.unwrap();
        let revision =
            web.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"].clone();
        assert!(revision.parse::<u32>().unwrap() >= 3, "revision {revision}");
        world.end().await;
    });
}

/// Pods of two templates never live side by side.
#[test]
fn recreated_deployments_end_before_they_begin() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, true, 3).await;
        world.start_control();
        let mut web = deployment("web", 4, 0, 0);
        web["spec"]["strategy"] = json!({"type": "Recreate"});
        world.create::<Deployment>(web).await;
        world.create::<Service>(service("web")).await;
        world.rest().await;
        world.faults.set(true);
        for version in 2..6 {
            world.patch::<Deployment>("web", image(version)).await;
            world.sleep(Duration::from_secs(15)).await;
            if world.random.random_bool(0.3) {
                world.restart_control().await;
            }
        }
        world.faults.set(false);
        world.rest().await;
        world.end().await;
    });
}

/// A quota that leaves less room than maxSurge wants: most creations are refused, and the rollout
/// goes on with those that are not.
#[test]
fn a_quota_slows_a_rollout_and_does_not_stop_it() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, true, 3).await;
        world.start_control();
        world.create::<Deployment>(deployment("web", 20, 15, 0)).await;
        world.rest().await;
        world.faults.allow_pods(22);
        world.patch::<Deployment>("web", image(2)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.until(failure_is_told).await;
        world.faults.set(true);
        world.sleep(Duration::from_secs(30)).await;
        world.faults.set(false);
        world.rest().await;
        let told = world.client.get::<Deployment>("default", "web").await.unwrap().status;
        let conditions = told.and_then(|status| status.conditions).unwrap_or_default();
        assert!(!conditions.iter().any(|one| one.type_ == "ReplicaFailure"), "{conditions:?}");
        world.end().await;
    });
}

fn failure_is_told(view: &View) -> Option<String> {
    let web = view.get::<Deployment>("default", "web")?;
    let status = web.status.as_ref();
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let told = conditions.any(|one| one.type_ == "ReplicaFailure" && one.status == "True");
    (!told).then(|| format!("the refusal is not told: {status:?}"))
}
