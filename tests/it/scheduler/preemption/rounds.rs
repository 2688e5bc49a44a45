//! Gangs and single pods over time, in random clusters: whoever leaves for a gang leaves so that it
//! runs, and a gang has a place for all of its pods or for none.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::gangs::{member, room_of};
use super::random::priority;
use super::*;

/// Pods that come together, and have the same name but for a number.
struct Comer {
    group: String,
    pods: Vec<Pod>,
    /// Pods left for it.
    costs: bool,
}

impl Comer {
    fn priority(&self) -> i32 {
        self.pods.first().map_or(i32::MIN, priority)
    }

    fn infos(&self) -> Vec<PodInfo> {
        let together = if self.pods.len() > 1 { self.pods.len() } else { 0 };
        self.pods.iter().map(|pod| member(pod, &self.group, together)).collect()
    }
}

struct Rounds {
    seed: u64,
    random: StdRng,
    snapshot: Snapshot,
    waiting: Vec<Comer>,
    running: BTreeMap<String, Pod>,
    ending: Vec<Pod>,
    /// Gangs for which somebody left.
    paid: usize,
}

impl Rounds {
    fn new(seed: u64) -> Rounds {
        let mut random = StdRng::seed_from_u64(seed);
        let names: Vec<String> = (0..random.random_range(1..5)).map(|n| format!("n{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let snapshot = cluster(&names, &[]);
        let (waiting, running, ending) = (Vec::new(), BTreeMap::new(), Vec::new());
        Rounds { seed, random, snapshot, waiting, running, ending, paid: 0 }
    }

    /// Somebody comes who is not more important than those for whom others leave.
    fn come(&mut self, round: usize) {
        let under_way = self.waiting.iter().filter(|one| one.costs).map(Comer::priority);
        let most = under_way.min().unwrap_or(5).min(5);
        let priority = self.random.random_range(0..=most);
        let count = [1, 1, 1, 2, 3, 5][self.random.random_range(0..6)];
        let group = format!("c{round}");
        let same = self.random.random_bool(0.7);
        let each = self.random.random_range(1..7) * 10;
        let one = |n: usize| {
            let own = self.random.random_range(1..7) * 10;
            let centi_cpu = if same { each } else { own };
            waits(&format!("{group}-{n}"), priority, centi_cpu)
        };
        let pods = (0..count).map(one).collect();
        self.waiting.push(Comer { group, pods, costs: false });
    }

    /// One cycle; answers whether nothing was done in it.
    fn decide(&mut self) -> bool {
        self.waiting.sort_by_key(|one| Reverse(one.priority()));
        let pods = self.waiting.iter().flat_map(Comer::infos).collect();
        let decisions = cycle::schedule(pods, &mut self.snapshot, &default_framework());
        let victims = room_of(&decisions).is_some();
        let mut is_quiet = !victims;
        let mut bound: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for decision in decisions {
            match decision {
                Decision::Bind { pod, node } => {
                    self.excuse(pod.wants.priority);
                    bound.entry(pod.group.unwrap().group.clone()).or_default().push(node.clone());
                    self.place(&pod.uid, &node);
                    is_quiet = false;
                }
                Decision::PreemptForGang(room) => {
                    let going: Vec<String> = room
                        .victims
                        .iter()
                        .filter(|one| !one.is_leaving)
                        .map(|one| one.uid.clone())
                        .collect();
                    let comer = self.waiting.iter_mut().find(|one| one.group == room.group.group);
                    comer.unwrap().costs |= !going.is_empty();
                    self.excuse(room.members[0].pod.wants.priority);
                    self.paid += usize::from(!going.is_empty());
                    going.iter().for_each(|uid| self.leave(uid));
                }
                Decision::Preempt { pod, preemption, .. } => {
                    self.excuse(pod.wants.priority);
                    let going = preemption.victims.iter().filter(|one| !one.is_leaving);
                    let going: Vec<String> = going.map(|one| one.uid.clone()).collect();
                    going.iter().for_each(|uid| self.leave(uid));
                    is_quiet = false;
                }
                Decision::Refuse { .. } | Decision::Later { .. } => {}
                other => panic!("seed {}: {other:?}", self.seed),
            }
        }
        for (group, nodes) in bound {
            let at = self.waiting.iter().position(|one| one.group == group).unwrap();
            let comer = self.waiting.remove(at);
            assert_eq!(nodes.len(), comer.pods.len(), "seed {}: all or none", self.seed);
        }
        is_quiet
    }

    /// Those of a higher priority may have taken what was meant for gangs of a lower one.
    fn excuse(&mut self, priority: i32) {
        let lower = self.waiting.iter_mut().filter(|one| one.priority() < priority);
        lower.for_each(|one| one.costs = false);
    }

    fn place(&mut self, uid: &str, node: &str) {
        let mut pods = self.waiting.iter().flat_map(|one| &one.pods);
        let pod = pods.find(|pod| pod.metadata.uid.as_deref() == Some(uid)).unwrap();
        let mut pod = pod.clone();
        pod.spec.as_mut().unwrap().node_name = Some(node.into());
        self.snapshot.set_pod(&pod);
        self.running.insert(uid.into(), pod);
    }

    fn leave(&mut self, uid: &str) {
        let pod = leaves(self.running.remove(uid).unwrap());
        self.snapshot.set_pod(&pod);
        self.ending.push(pod);
    }

    fn end_some(&mut self) {
        let ending = std::mem::take(&mut self.ending);
        for pod in ending {
            if self.random.random_bool(0.5) {
                self.snapshot.remove_pod(pod.metadata.uid.as_deref().unwrap());
            } else {
                self.ending.push(pod);
            }
        }
    }
}

#[test]
fn who_leaves_for_a_gang_leaves_so_that_it_runs() {
    let mut paid = 0;
    for seed in 0..400 {
        let mut rounds = Rounds::new(seed);
        let mut at_rest = 0;
        for round in 0.. {
            assert!(round < 300, "seed {seed} does not come to rest");
            if round < 25 && rounds.random.random_bool(0.7) {
                rounds.come(round);
            }
            let is_quiet = rounds.decide() && round >= 25 && rounds.ending.is_empty();
            rounds.end_some();
            for node in rounds.snapshot.nodes() {
                assert!(node.requested.milli_cpu <= 1000, "seed {seed}: {node:?}");
            }
            at_rest = if is_quiet { at_rest + 1 } else { 0 };
            if at_rest == 3 {
                break;
            }
        }
        for comer in &rounds.waiting {
            assert!(!comer.costs, "seed {seed}: somebody left for {}, in vain", comer.group);
        }
        assert!(rounds.snapshot.nominees().is_empty(), "seed {seed}: nobody is on the way");
        paid += rounds.paid;
    }
    assert!(paid > 100, "{paid}");
}
