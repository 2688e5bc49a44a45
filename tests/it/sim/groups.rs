//! Pod groups amid faults: of a gang that fits all run, of one that does not nobody ever has a place;
//! and two schedulers that do not know of each other, who never fill one place twice.

use std::collections::BTreeSet;

use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::scheduling::v1alpha1::Workload;

use super::*;

/// The places that three nodes have for pods of [`CPU`].
const PLACES: usize = 9;
const CPU: &str = "300m";

fn member(group: &str, n: usize) -> Value {
    json!({"metadata": {"name": format!("{group}-{n}"), "namespace": "default",
            "labels": {"group": group}},
        "spec": {"workloadRef": {"name": "gangs", "podGroup": group},
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": CPU}}}]}})
}

fn gangs(sizes: &[(&str, usize)]) -> Value {
    let group = |(name, size): &(&str, usize)| json!({"name": name, "policy": {"gang": {"minCount": size}}});
    json!({"metadata": {"name": "gangs", "namespace": "default"},
        "spec": {"podGroups": sizes.iter().map(group).collect::<Vec<_>>()}})
}

fn of_group(view: &View, group: &str) -> Vec<Arc<Pod>> {
    let is_own = |pod: &&Arc<Pod>| {
        pod.metadata.labels.as_ref().and_then(|labels| labels.get("group")).map(String::as_str)
            == Some(group)
    };
    view.all::<Pod>().filter(is_own).cloned().collect()
}

fn placed(view: &View, group: &str) -> usize {
    let has_node = |pod: &Arc<Pod>| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    of_group(view, group).into_iter().filter(has_node).count()
}

/// Whether the conditions of a group's pods name it.
fn are_told(view: &View, group: &str) -> bool {
    let name = format!("pod group default/gangs/{group}");
    of_group(view, group).into_iter().all(|pod| {
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let mut messages = conditions.filter_map(|one| one.message.as_deref());
        messages.any(|message| message.contains(&name))
    })
}

#[test]
fn gangs_run_together_or_not_at_all() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        world.start_control();
        world.faults.set(true);
        for n in 0..PLACES + 1 {
            world.create::<Pod>(member("huge", n)).await;
        }
        for n in 0..5 {
            world.create::<Pod>(member("small", n)).await;
            world.sleep(Duration::from_secs(2)).await;
            assert_eq!(placed(&world.truth.cache.view(), "small"), 0, "no Workload, no place");
        }
        world.create::<Workload>(gangs(&[("small", 6), ("huge", PLACES + 1)])).await;
        world.sleep(Duration::from_secs(10)).await;
        assert_eq!(placed(&world.truth.cache.view(), "small"), 0, "one is missing");
        world.restart_control().await;
        world.create::<Pod>(member("small", 5)).await;
        world.sleep(Duration::from_secs(5)).await;
        world.faults.set(false);
        let all = |view: &View| {
            let (small, huge) = (placed(view, "small"), placed(view, "huge"));
            ((small, huge) != (6, 0)).then(|| format!("{small} and {huge} have a place"))
        };
        world.until(all).await;
        let all_told = are_told(&world.truth.cache.view(), "huge");
        assert!(all_told, "those of the other one are told why they wait");
        // One that ends makes room for nobody of the gang that is too large.
        let _ = world.client.delete::<Pod>("default", "small-0", &Default::default()).await;
        world.until(|view| (placed(view, "huge") != 0).then(|| "too early".into())).await;
        world.end().await;
    });
}

#[test]
fn two_schedulers_never_fill_a_place_twice() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        world.start_control();
        world.start_second();
        for n in 0..3 * PLACES {
            let mut pod = member("none", n);
            pod["spec"].as_object_mut().unwrap().remove("workloadRef");
            world.create::<Pod>(pod).await;
            if n % 5 == 0 {
                world.sleep(Duration::from_millis(50)).await;
            }
        }
        let full = |view: &View| {
            let placed = placed(view, "none");
            (placed != PLACES).then(|| format!("{placed} pods have a place"))
        };
        world.until(full).await;
        for n in 0..4 {
            let names: Vec<String> = {
                let view = world.truth.cache.view();
                let pods = of_group(&view, "none").into_iter();
                let bound = pods
                    .filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()));
                bound.filter_map(|pod| pod.metadata.name.clone()).collect()
            };
            for name in names.iter().skip(n).step_by(2) {
                let _ = world.client.delete::<Pod>("default", name, &Default::default()).await;
            }
            world.sleep(Duration::from_secs(5)).await;
        }
        world.stop_second().await;
        let none_left = |view: &View| {
            let (there, placed) = (of_group(view, "none").len(), placed(view, "none"));
            (placed != there.min(PLACES)).then(|| format!("{placed} of {there} have a place"))
        };
        world.until(none_left).await;
        world.close().await;
    });
}

/// A full cluster, into which gangs of a higher priority come.
#[test]
fn a_gang_gets_places_of_the_low_and_one_that_is_too_large_gets_none() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        for (name, value) in [("low", 1), ("high", 9)] {
            let class = json!({"metadata": {"name": name}, "value": value});
            world.create::<PriorityClass>(class).await;
        }
        world.start_control();
        let mut low = deployment("web", i32::try_from(PLACES).unwrap(), 1, 1);
        let spec = &mut low["spec"]["template"]["spec"];
        spec["priorityClassName"] = "low".into();
        spec["containers"][0]["resources"] = json!({"requests": {"cpu": CPU}});
        world.create::<Deployment>(low).await;
        let low_run = |view: &View, wanted: usize| {
            let ready = view.all::<Pod>().filter(|pod| {
                let spec = pod.spec.as_ref();
                let class = spec.and_then(|spec| spec.priority_class_name.as_deref());
                class == Some("low") && truth::is_active(pod) && truth::is_ready(pod)
            });
            let ready = ready.count();
            (ready != wanted).then(|| format!("{ready} of the low ones run"))
        };
        world.until(|view| low_run(view, PLACES)).await;
        let names = |view: &View| -> BTreeSet<String> {
            view.all::<Pod>().filter_map(|pod| pod.metadata.uid.clone()).collect()
        };
        let there = names(&world.truth.cache.view());
        world.create::<Workload>(gangs(&[("small", 6), ("huge", PLACES + 1)])).await;
        let high = |group: &str, n: usize| {
            let mut pod = member(group, n);
            pod["spec"]["priorityClassName"] = "high".into();
            pod
        };
        world.faults.set(true);
        for n in 0..PLACES + 1 {
            world.create::<Pod>(high("huge", n)).await;
        }
        world.sleep(Duration::from_secs(60)).await;
        let now = names(&world.truth.cache.view());
        assert!(now.is_superset(&there), "nobody goes for a gang that does not fit");
        for n in 0..6 {
            world.create::<Pod>(high("small", n)).await;
        }
        world.sleep(Duration::from_secs(1)).await;
        world.restart_control().await;
        world.sleep(Duration::from_secs(20)).await;
        world.faults.set(false);
        let done = |view: &View| {
            let (small, huge) = (placed(view, "small"), placed(view, "huge"));
            let ones =
                ((small, huge) != (6, 0)).then(|| format!("{small} and {huge} have a place"));
            ones.or_else(|| low_run(view, PLACES - 6))
        };
        world.until(done).await;
        for n in 0..PLACES + 1 {
            let name = format!("huge-{n}");
            let _ = world.client.delete::<Pod>("default", &name, &Default::default()).await;
        }
        world.until(done).await;
        world.stays_quiet().await;
        world.close().await;
    });
}
