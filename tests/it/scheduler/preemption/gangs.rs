//! Preemption for gangs: enough of them fit afterwards, or nobody goes.

use wasmfleet::scheduler::gangs::GangPreemption;
use wasmfleet::scheduler::preemption::Victim;

use super::*;

/// So many pods of a gang of which all are needed.
fn gang(count: usize, priority: i32, centi_cpu: i64) -> Vec<PodInfo> {
    (0..count).map(|n| member(&waits(&format!("g{n}"), priority, centi_cpu), "g", count)).collect()
}

/// A pod as one of a gang of which `together` are needed.
pub fn member(pod: &Pod, group: &str, together: usize) -> PodInfo {
    let mut pod = pod.clone();
    let reference = json!({"name": "w", "podGroup": group});
    pod.spec.as_mut().unwrap().workload_ref = Some(serde_json::from_value(reference).unwrap());
    PodInfo { together, ..PodInfo::of(&pod) }
}

fn decide_all(snapshot: &mut Snapshot, pods: Vec<PodInfo>) -> Vec<Decision> {
    cycle::schedule(pods, snapshot, &default_framework())
}

pub fn room_of(decisions: &[Decision]) -> Option<&GangPreemption> {
    decisions.iter().find_map(|one| match one {
        Decision::PreemptForGang(preemption) => Some(preemption),
        _ => None,
    })
}

/// `g0 a, g1 b: without low`
fn told(decisions: &[Decision]) -> String {
    let Some(room) = room_of(decisions) else { panic!("{decisions:?}") };
    let members = room.members.iter().map(|one| format!("{} {}", one.pod.key.name, one.node));
    let mut members: Vec<String> = members.collect();
    members.sort();
    let mut victims: Vec<&str> = room.victims.iter().map(|one| &*one.key.name).collect();
    victims.sort();
    format!("{}: without {}", members.join(", "), victims.join(", "))
}

fn bound(decisions: &[Decision]) -> usize {
    decisions.iter().filter(|one| matches!(one, Decision::Bind { .. })).count()
}

/// What each pod is told of preemption, if it is the same.
fn why(decisions: &[Decision]) -> String {
    let texts = decisions.iter().map(|one| match one {
        Decision::Refuse { refusal, .. } => refusal.preemption.clone().unwrap_or_default(),
        other => panic!("{other:?}"),
    });
    let mut texts: Vec<String> = texts.collect();
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    texts.remove(0)
}

#[test]
fn the_places_are_kept_until_all_victims_are_gone() {
    let pods = [
        runs("x", "a", 1, 60, 1),
        runs("y", "b", 1, 60, 1),
        runs("high", "c", 9, 60, 1),
        runs("free", "d", 1, 40, 1),
    ];
    let mut snapshot = cluster(&["a", "b", "c", "d"], &pods);
    let decisions = decide_all(&mut snapshot, gang(3, 5, 60));
    assert_eq!(decisions.len(), 1);
    let text = told(&decisions);
    assert!(text.contains(" a, ") && text.contains(" b") && text.contains(" d"), "{text}");
    assert!(text.ends_with(": without x, y"), "{text}");
    // They wait, and leave it to nobody of their priority; what one victim leaves is not enough.
    let waiting = "not eligible due to a terminating pod on the nominated node.";
    let decisions = decide_all(&mut snapshot, gang(3, 5, 60));
    assert_eq!(why(&decisions), waiting);
    let Decision::Refuse { refusal, .. } = &decisions[0] else { panic!("{decisions:?}") };
    let told = refusal.told();
    assert!(told.ends_with(&format!("{waiting} It waits until those pods have left.")), "{told}");
    snapshot.set_pod(&leaves(pods[0].clone()));
    snapshot.set_pod(&leaves(pods[1].clone()));
    snapshot.remove_pod("x");
    assert_eq!(why(&decide_all(&mut snapshot, gang(3, 5, 60))), waiting);
    let peers: Vec<Pod> = (0..3).map(|n| waits(&format!("peer{n}"), 5, 51)).collect();
    for line in lines(&mut snapshot, &peers) {
        assert!(line.contains("4 Insufficient cpu"), "{line}");
    }
    snapshot.remove_pod("y");
    assert_eq!(bound(&decide_all(&mut snapshot, gang(3, 5, 60))), 3);
    assert!(snapshot.nominees().is_empty());
}

#[test]
fn nobody_goes_for_a_gang_that_would_not_fit() {
    let pods = [runs("x", "a", 1, 60, 1), runs("y", "b", 1, 60, 1), runs("high", "c", 9, 60, 1)];
    let mut snapshot = cluster(&["a", "b", "c"], &pods);
    let decisions = decide_all(&mut snapshot, gang(5, 5, 50));
    let text = "without pods of lower priority there would be room for 4 of the 5 pods.";
    assert_eq!(why(&decisions), text);
    let Decision::Refuse { refusal, .. } = &decisions[0] else { panic!("{decisions:?}") };
    assert!(refusal.message().contains("there is room for 0 of the 5 pods"), "{refusal:?}");
    assert!(snapshot.nominees().is_empty() && snapshot.take_freed().is_empty());
    for name in ["a", "b"] {
        let residents: Vec<bool> =
            snapshot.residents_below(name, 9).map(|(_, one)| one.is_preempted).collect();
        assert_eq!(residents, [false], "{name} is as it was");
        assert_eq!(snapshot.node(name).unwrap().requested.milli_cpu, 600);
    }
    let mut polite = gang(4, 5, 50);
    for pod in &mut polite {
        std::sync::Arc::make_mut(&mut pod.wants).never_preempts = true;
    }
    let never = "not eligible due to preemptionPolicy=Never.";
    assert_eq!(why(&decide_all(&mut snapshot, polite)), never);
    // One of them asks for more than any node has.
    let mut pods = gang(2, 5, 50);
    pods.push(member(&waits("huge", 5, 101), "g", 3));
    pods.iter_mut().for_each(|pod| pod.together = 3);
    let decisions = decide_all(&mut snapshot, pods.clone());
    assert!(why(&decisions).contains("room for 2 of the 3 pods"), "{decisions:?}");
    // Without it they fit.
    pods.iter_mut().for_each(|pod| pod.together = 2);
    assert_eq!(room_of(&decide_all(&mut snapshot, pods)).unwrap().members.len(), 2);
}

#[test]
fn budgets_come_first_and_who_need_not_go_stays() {
    let pods = [
        labelled(runs("kept", "a", 1, 60, 1), "kept"),
        runs("mid", "b", 3, 60, 1),
        runs("low", "c", 2, 60, 1),
    ];
    let mut snapshot = cluster(&["a", "b", "c"], &pods);
    set_budget(&mut snapshot, "kept", "kept", 0);
    assert_eq!(told(&decide_all(&mut snapshot, gang(2, 5, 80))), "g0 c, g1 b: without low, mid");
    let mut snapshot = cluster(&["a", "b", "c"], &pods);
    set_budget(&mut snapshot, "kept", "kept", 0);
    let text = told(&decide_all(&mut snapshot, gang(3, 5, 80)));
    assert!(text.ends_with("without kept, low, mid"), "where there is no choice: {text}");
    // The small one went for the first pod, and has room again beside the second one.
    let pods = [runs("small", "a", 1, 20, 1), runs("large", "a", 2, 80, 1)];
    let mut snapshot = cluster(&["a"], &pods);
    let gang = [waits("g0", 5, 20), waits("g1", 5, 60)].map(|pod| member(&pod, "g", 2));
    assert_eq!(told(&decide_all(&mut snapshot, gang.to_vec())), "g0 a, g1 a: without large");
}

#[test]
fn victims_are_below_every_pod_of_the_gang() {
    let pods = [runs("one", "a", 1, 60, 1), runs("four", "b", 4, 60, 1)];
    let mut snapshot = cluster(&["a", "b"], &pods);
    let gang = [waits("g0", 3, 50), waits("g1", 9, 60)].map(|pod| member(&pod, "g", 2));
    let text = why(&decide_all(&mut snapshot, gang.to_vec()));
    assert!(text.contains("room for 1 of the 2"), "{text}");
    snapshot.set_pod(&runs("two", "b", 2, 60, 1));
    snapshot.remove_pod("four");
    assert_eq!(told(&decide_all(&mut snapshot, gang.to_vec())), "g0 a, g1 b: without one, two");
    // The less important one keeps its node beside the other.
    assert_eq!(snapshot.nominees().node_of("g0"), Some("a"));
    assert_eq!(snapshot.nominees().node_of("g1"), Some("b"));
    snapshot.remove_pod("one");
    snapshot.remove_pod("two");
    assert_eq!(bound(&decide_all(&mut snapshot, gang.to_vec())), 2);
}

#[test]
fn pods_of_a_gang_that_want_to_be_apart_get_each_a_node() {
    let term = json!({"topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": "x"}}});
    let apart = json!({"affinity": {"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let one = |name: &str| {
        let mut pod = labelled(waits(name, 5, 10), "x");
        let mut spec = serde_json::to_value(&pod.spec).unwrap();
        merge(&mut spec, apart.clone());
        pod.spec = serde_json::from_value(spec).unwrap();
        pod
    };
    let apart = |count: usize| -> Vec<PodInfo> {
        (0..count).map(|n| member(&one(&format!("g{n}")), "g", count)).collect()
    };
    let pods = [
        labelled(runs("x", "a", 1, 10, 1), "x"),
        runs("full", "b", 1, 95, 1),
        runs("beside", "b", 1, 5, 1),
        labelled(runs("high", "c", 9, 10, 1), "x"),
    ];
    let mut snapshot = cluster(&["a", "b", "c"], &pods);
    let decisions = decide_all(&mut snapshot, apart(3));
    assert!(why(&decisions).contains("room for 2 of the 3"), "{decisions:?}");
    let text = told(&decide_all(&mut snapshot, apart(2)));
    assert!(text.ends_with(": without full, x"), "{text}");
    snapshot.remove_pod("x");
    snapshot.remove_pod("full");
    assert_eq!(bound(&decide_all(&mut snapshot, apart(2))), 2);
}

#[test]
fn what_is_kept_is_let_go_when_one_of_them_is_gone() {
    let mut snapshot = cluster(&["a", "b"], &[runs("x", "a", 1, 60, 1), runs("y", "b", 1, 60, 1)]);
    assert!(room_of(&decide_all(&mut snapshot, gang(2, 5, 60))).is_some());
    let mut left = gang(2, 5, 60);
    left.pop();
    let decisions = decide_all(&mut snapshot, left);
    let [Decision::Refuse { ends_nomination: true, .. }] = &decisions[..] else {
        panic!("{decisions:?}")
    };
    snapshot.end_nomination("g1", "");
    assert!(snapshot.nominees().is_empty() && snapshot.take_freed().len() == 2);
}

/// The places that a node has for a gang's pods beside others: its CPU in hundredths, how many pods.
fn places(room: (i64, usize), others: &[&Pod], each: i64) -> usize {
    let taken: i64 = others.iter().map(|pod| random::cpu(pod) / 10).sum();
    let by_cpu = usize::try_from((room.0 - taken) / each).unwrap_or(0);
    by_cpu.min(room.1 - others.len())
}

#[test]
fn random_clusters_give_a_gang_what_can_be_had() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    let (mut fitted, mut preempted, mut refused) = (0, 0, 0);
    for seed in 0..1_500 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut snapshot = Snapshot::default();
        let mut rooms: Vec<(String, (i64, usize), Vec<Pod>)> = Vec::new();
        for n in 0..random.random_range(1..5) {
            let (cpu, most) = (random.random_range(3..12) * 10, random.random_range(2..6));
            let name = format!("n{n}");
            let more = json!({"status": {"allocatable":
                {"cpu": format!("{}m", cpu * 10), "pods": most.to_string()}}});
            snapshot.set_node(&node(&name, more));
            let mut placed: Vec<Pod> = Vec::new();
            for m in 0..random.random_range(0..7) {
                let (priority, second) = (random.random_range(0..4), random.random_range(0..3));
                let each = random.random_range(1..6) * 10;
                if places((cpu, most), &placed.iter().collect::<Vec<_>>(), each) > 0 {
                    let pod = runs(&format!("n{n}-p{m}"), &name, priority, each, second);
                    snapshot.set_pod(&pod);
                    placed.push(pod);
                }
            }
            rooms.push((name, (cpu, most), placed));
        }
        let (priority, each) = (random.random_range(1..5), random.random_range(1..6) * 10);
        let count = random.random_range(2..7);
        let sum = |below: i32| -> usize {
            let of = |(_, room, pods): &(String, (i64, usize), Vec<Pod>)| {
                let stay: Vec<&Pod> =
                    pods.iter().filter(|pod| random::priority(pod) >= below).collect();
                places(*room, &stay, each)
            };
            rooms.iter().map(of).sum()
        };
        let decisions = decide_all(&mut snapshot, gang(count, priority, each));
        if sum(i32::MIN) >= count {
            assert_eq!(bound(&decisions), count, "seed {seed}");
            fitted += 1;
            continue;
        }
        assert_eq!(bound(&decisions), 0, "seed {seed}");
        let Some(room) = room_of(&decisions) else {
            assert!(sum(priority) < count, "seed {seed}: {}", why(&decisions));
            assert!(snapshot.nominees().is_empty(), "seed {seed}");
            refused += 1;
            continue;
        };
        assert_eq!(room.members.len(), count, "seed {seed}");
        assert!(room.victims.iter().all(|one| one.priority < priority), "seed {seed}");
        for victim in &room.victims {
            check_needed(victim, room, &rooms, each, seed);
            snapshot.remove_pod(&victim.uid);
        }
        assert_eq!(bound(&decide_all(&mut snapshot, gang(count, priority, each))), count);
        preempted += 1;
    }
    assert!(
        fitted > 200 && preempted > 200 && refused > 200,
        "{fitted} fitted, {preempted} preempted, {refused} refused"
    );
}

/// With the victim still there its node would not have room for the pods that are to come.
fn check_needed(
    victim: &Victim,
    room: &GangPreemption,
    rooms: &[(String, (i64, usize), Vec<Pod>)],
    each: i64,
    seed: u64,
) {
    let coming = room.members.iter().filter(|one| one.node == *victim.node).count();
    let (_, size, pods) = rooms.iter().find(|(name, ..)| *name == *victim.node).unwrap();
    let goes = |pod: &&Pod| {
        let uid = pod.metadata.uid.as_deref().unwrap();
        uid != victim.uid && room.victims.iter().any(|one| one.uid == uid)
    };
    let stay: Vec<&Pod> = pods.iter().filter(|pod| !goes(pod)).collect();
    assert!(places(*size, &stay, each) < coming, "seed {seed}: {} goes in vain", victim.uid);
}
