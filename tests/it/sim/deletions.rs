//! Deletions and what they take along.

use super::truth::Gone;
use super::*;

/// Owners and namespaces go with all that is theirs, and with nothing that is not.
#[test]
fn deletions_take_what_is_theirs() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, true, 2).await;
        world.start_control();
        for name in ["background", "foreground", "orphan", "stays"] {
            world.create::<Deployment>(deployment(name, 2, 1, 0)).await;
        }
        let namespace = json!({"metadata": {"name": "team"}});
        world.create::<Namespace>(namespace).await;
        world.rest().await;
        let mut in_team = deployment("web", 2, 1, 0);
        in_team["metadata"]["namespace"] = "team".into();
        world.create::<Deployment>(in_team).await;
        world.rest().await;
        let account = world.client.get::<ServiceAccount>("team", "default").await;
        assert!(account.is_ok(), "{account:?}");
        let ca = world.client.get::<ConfigMap>("team", "kube-root-ca.crt").await.unwrap();
        assert_eq!(ca.data.unwrap()["ca.crt"], "the CA");
        world.faults.set(true);
        world.delete::<Deployment>("background", Propagation::Background).await;
        world.delete::<Deployment>("foreground", Propagation::Foreground).await;
        world.delete::<Deployment>("orphan", Propagation::Orphan).await;
        world.client.delete::<Namespace>("", "team", &Default::default()).await.unwrap();
        world.sleep(Duration::from_secs(30)).await;
        world.restart_control().await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        world.faults.set(false);
        tokio::time::sleep(Duration::from_secs(120)).await;
        let all = ListOptions::default();
        let deployments = world.client.list::<Deployment>(None, &all).await.unwrap();
        assert_eq!(names(&deployments), ["stays"]);
        let sets = world.client.list::<ReplicaSet>(None, &all).await.unwrap();
        let left: Vec<String> = names(&sets).iter().map(|name| before_hash(name)).collect();
        assert_eq!(left, ["orphan", "stays"]);
        let orphan = sets.iter().find(|set| before_hash(name_of(*set)) == "orphan").unwrap();
        assert!(orphan.metadata.owner_references.as_ref().is_none_or(|owners| owners.is_empty()));
        let pods = world.client.list::<Pod>(None, &all).await.unwrap();
        assert_eq!(pods.len(), 4);
        let gone = world.truth.gone();
        assert!(goes_last("foreground", &gone), "a foreground owner outlives its dependents");
        assert!(!goes_last("background", &gone), "a background owner does not");
        let team = world.client.get::<Namespace>("", "team").await;
        assert!(team.is_err_and(|error| error.is_not_found()));
        world.rest().await;
        world.end().await;
    });
}

/// Whether a Deployment went after its ReplicaSets, and those after their pods.
fn goes_last(deployment: &str, gone: &[Gone]) -> bool {
    let owner = gone.iter().find(|one| one.name == deployment).expect("it went");
    let owned = |owner: &Gone| {
        let dependents = gone.iter().filter(|one| one.owners.contains(&owner.uid));
        dependents.cloned().collect::<Vec<Gone>>()
    };
    let sets = owned(owner);
    let pods: Vec<(Gone, Gone)> =
        sets.iter().flat_map(|set| owned(set).into_iter().map(|pod| (set.clone(), pod))).collect();
    assert!(!sets.is_empty() && !pods.is_empty(), "{deployment} had both");
    sets.iter().all(|set| set.revision < owner.revision)
        && pods.iter().all(|(set, pod)| pod.revision < set.revision)
}
