//! Preemption in random clusters: beside a slow oracle, and over time.

use std::cmp::Reverse;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

/// A node of the oracle: its CPU in hundredths, and how many pods it may run.
struct Room {
    name: String,
    centi_cpu: i64,
    most_pods: usize,
}

/// A pod of the oracle.
#[derive(Clone, Debug)]
struct One {
    name: String,
    priority: i32,
    centi_cpu: i64,
    second: u32,
    app: Option<&'static str>,
}

impl One {
    fn random(random: &mut StdRng, name: String) -> One {
        One {
            name,
            priority: random.random_range(-1..3),
            centi_cpu: random.random_range(1..6) * 10,
            second: random.random_range(0..3),
            app: *[None, Some("x"), Some("y")].choose(random).unwrap(),
        }
    }

    fn on(&self, node: &str) -> Pod {
        let pod = runs(&self.name, node, self.priority, self.centi_cpu, self.second);
        self.app.map_or(pod.clone(), |app| labelled(pod, app))
    }
}

fn fits(room: &Room, pods: &[One], more: i64) -> bool {
    let taken: i64 = pods.iter().map(|one| one.centi_cpu).sum();
    taken + more <= room.centi_cpu && pods.len() < room.most_pods
}

/// What upstream's documents say, over plain lists: the victims, and how many exceed a budget.
fn victims(
    room: &Room,
    pods: &[One],
    wanted: &One,
    budgets: &BTreeMap<&str, i32>,
) -> Option<(Vec<One>, usize)> {
    let (mut stay, mut lower) = (Vec::new(), Vec::new());
    for one in pods {
        let list = if one.priority < wanted.priority { &mut lower } else { &mut stay };
        list.push(one.clone());
    }
    if lower.is_empty() || !fits(room, &stay, wanted.centi_cpu) {
        return None;
    }
    lower.sort_by_key(|one| (Reverse(one.priority), one.second, one.name.clone()));
    let mut left = budgets.clone();
    let (mut exceeding, mut within) = (Vec::new(), Vec::new());
    for one in lower {
        let left = one.app.and_then(|app| left.get_mut(app));
        let exceeds = left.is_some_and(|left| {
            *left -= 1;
            *left < 0
        });
        if exceeds { exceeding.push(one) } else { within.push(one) }
    }
    let (mut gone, mut exceeded) = (Vec::new(), 0);
    for (list, count) in [(exceeding, 1), (within, 0)] {
        for one in list {
            stay.push(one.clone());
            if !fits(room, &stay, wanted.centi_cpu) {
                stay.pop();
                exceeded += count;
                gone.push(one);
            }
        }
    }
    Some((gone, exceeded))
}

type Rank = (usize, i32, i64, usize, Reverse<u32>);

fn rank(victims: &[One], exceeded: usize) -> Rank {
    let highest = victims.iter().map(|one| one.priority).max().unwrap();
    let of_highest = victims.iter().filter(|one| one.priority == highest);
    let earliest = of_highest.map(|one| one.second).min().unwrap();
    let sum = victims.iter().map(|one| i64::from(one.priority) + (1 << 31)).sum();
    (exceeded, highest, sum, victims.len(), Reverse(earliest))
}

#[test]
fn random_clusters_lose_what_the_oracle_says() {
    let (mut preempted, mut refused) = (0, 0);
    for seed in 0..2_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut snapshot = Snapshot::default();
        let mut rooms = Vec::new();
        for n in 0..random.random_range(1..5) {
            let room = Room {
                name: format!("n{n}"),
                centi_cpu: random.random_range(3..12) * 10,
                most_pods: random.random_range(2..6),
            };
            let cpu = format!("{}m", room.centi_cpu * 10);
            let pods = room.most_pods.to_string();
            let more = json!({"status": {"allocatable": {"cpu": cpu, "pods": pods}}});
            snapshot.set_node(&node(&room.name, more));
            let mut placed = Vec::new();
            for m in 0..random.random_range(0..7) {
                let one = One::random(&mut random, format!("n{n}-p{m}"));
                if fits(&room, &placed, one.centi_cpu) {
                    snapshot.set_pod(&one.on(&room.name));
                    placed.push(one);
                }
            }
            rooms.push((room, placed));
        }
        let mut budgets = BTreeMap::new();
        for app in ["x", "y"] {
            if random.random_bool(0.5) {
                let allowed = random.random_range(0..3);
                set_budget(&mut snapshot, app, app, allowed);
                budgets.insert(app, allowed);
            }
        }
        let mut wanted = One::random(&mut random, "wanted".into());
        wanted.priority += 1;
        let free = rooms.iter().any(|(room, placed)| fits(room, placed, wanted.centi_cpu));
        let best = rooms.iter().filter_map(|(room, placed)| {
            let (gone, exceeded) = victims(room, placed, &wanted, &budgets)?;
            (!gone.is_empty()).then(|| rank(&gone, exceeded))
        });
        let best = best.min();
        let pod = waits("wanted", wanted.priority, wanted.centi_cpu);
        match decide(&mut snapshot, &[pod]).remove(0) {
            Decision::Bind { .. } => assert!(free, "seed {seed}"),
            Decision::Refuse { refusal, .. } => {
                assert!(!free && best.is_none(), "seed {seed}: {}", refusal.message());
                refused += 1;
            }
            Decision::Preempt { preemption, .. } => {
                assert!(!free, "seed {seed}");
                let on = rooms.iter().find(|(room, _)| room.name == preemption.node);
                let (room, placed) = on.unwrap();
                let (gone, exceeded) = victims(room, placed, &wanted, &budgets).unwrap();
                let names = |list: &[One]| -> Vec<String> {
                    let mut names: Vec<_> = list.iter().map(|one| one.name.clone()).collect();
                    names.sort();
                    names
                };
                let decided = preemption.victims.iter().map(|victim| victim.key.name.clone());
                let mut decided: Vec<String> = decided.collect();
                decided.sort();
                assert_eq!(decided, names(&gone), "seed {seed}");
                assert_eq!(Some(rank(&gone, exceeded)), best, "seed {seed}");
                assert!(gone.iter().all(|one| one.priority < wanted.priority), "seed {seed}");
                preempted += 1;
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(preempted > 300 && refused > 100, "{preempted} preempted, {refused} refused");
}

/// Pods come and are decided on in rounds, victims end after a while: it comes to rest, and nobody
/// waits for what those of lower priority have.
#[test]
fn random_clusters_come_to_rest() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes: Vec<String> = (0..random.random_range(1..4)).map(|n| format!("n{n}")).collect();
        let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
        let mut snapshot = cluster(&names, &[]);
        let mut waiting: BTreeMap<String, Pod> = BTreeMap::new();
        let mut running: BTreeMap<String, Pod> = BTreeMap::new();
        let mut ending: BTreeMap<String, Pod> = BTreeMap::new();
        let mut at_rest = 0;
        for round in 0.. {
            assert!(round < 300, "seed {seed} does not come to rest");
            if round < 20 && random.random_bool(0.7) {
                let name = format!("p{round}");
                let mut pod =
                    waits(&name, random.random_range(0..4), random.random_range(1..9) * 10);
                if random.random_bool(0.2) {
                    pod.spec.as_mut().unwrap().preemption_policy = Some("Never".into());
                }
                waiting.insert(name, pod);
            }
            let mut order: Vec<Pod> = waiting.values().cloned().collect();
            order.sort_by_key(|pod| Reverse(priority(pod)));
            let mut is_quiet = round >= 20 && ending.is_empty();
            for decision in decide(&mut snapshot, &order) {
                match decision {
                    Decision::Bind { pod, node } => {
                        let mut bound = waiting.remove(&pod.uid).unwrap();
                        bound.spec.as_mut().unwrap().node_name = Some(node);
                        snapshot.set_pod(&bound);
                        running.insert(pod.uid, bound);
                        is_quiet = false;
                    }
                    Decision::Preempt { pod, preemption, .. } => {
                        assert!(!pod.wants.never_preempts, "seed {seed}");
                        for victim in preemption.victims.iter().filter(|one| !one.is_leaving) {
                            assert!(victim.priority < pod.wants.priority, "seed {seed}");
                            let victim = leaves(running.remove(&victim.uid).unwrap());
                            snapshot.set_pod(&victim);
                            ending.insert(victim.metadata.uid.clone().unwrap(), victim);
                        }
                        is_quiet = false;
                    }
                    Decision::Refuse { .. } => {}
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            let gone: Vec<String> = ending.keys().cloned().collect();
            for uid in gone.into_iter().filter(|_| random.random_bool(0.5)) {
                ending.remove(&uid);
                snapshot.remove_pod(&uid);
            }
            for node in snapshot.nodes() {
                assert!(node.requested.milli_cpu <= 1000, "seed {seed}: {node:?}");
            }
            at_rest = if is_quiet { at_rest + 1 } else { 0 };
            if at_rest == 3 {
                break;
            }
        }
        assert!(snapshot.nominees().is_empty(), "seed {seed}: nobody is on the way");
        for pod in waiting.values() {
            let own = cpu(pod);
            let never = pod.spec.as_ref().unwrap().preemption_policy.as_deref() == Some("Never");
            for node in &names {
                let on_node = running.values().filter(|one| {
                    one.spec.as_ref().unwrap().node_name.as_deref() == Some(*node)
                        && (never || priority(one) >= priority(pod))
                });
                let taken: i64 = on_node.map(cpu).sum();
                assert!(taken + own > 1000, "seed {seed}: {:?} waits", pod.metadata.name);
            }
        }
    }
}

pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or_default()
}

/// Thousandths of a CPU, which are all that these pods ask for.
pub fn cpu(pod: &Pod) -> i64 {
    let container: Value = serde_json::to_value(&pod.spec.as_ref().unwrap().containers[0]).unwrap();
    let text = container["resources"]["requests"]["cpu"].as_str().unwrap().to_string();
    text.trim_end_matches('m').parse().unwrap()
}
