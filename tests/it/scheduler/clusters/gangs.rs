//! Gangs in random clusters with every rule: all of them get a place that the oracle finds right, or
//! none; and who leaves for them leaves so that they all do.

use super::*;
use crate::scheduler::merged;

/// What became of gangs.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    placed: usize,
    refused: usize,
    preempted: usize,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.placed += other.placed;
        self.refused += other.refused;
        self.preempted += other.preempted;
    }

    pub fn check(self) {
        let Tally { placed, refused, preempted } = self;
        let text = format!("{placed} gangs placed, {refused} refused, {preempted} preempted");
        assert!(placed > 30 && refused > 30 && preempted > 5, "{text}");
    }
}

impl Twins {
    pub fn gang(&mut self, template: &Value, count: usize) -> Result<(), String> {
        let group = json!({"spec": {"workloadRef": {"name": "w", "podGroup": "g"}}});
        let template = merged(template.clone(), group);
        let pods: Vec<Pod> = (0..count).map(|_| self.named(&template)).collect();
        let decisions = self.ask(&pods);
        if let Some(Decision::PreemptForGang(room)) = decisions.first() {
            for victim in &room.victims {
                let mut all = self.world.pods.iter();
                let at = all.position(|one| one.metadata.uid.as_ref() == Some(&victim.uid));
                let at = at.ok_or("a victim is not there")?;
                if victim.priority >= room.members[0].pod.wants.priority {
                    return Err(format!("{} is as important", victim.key.name));
                }
                self.remove(at);
            }
            let again = self.ask(&pods);
            let placed = self.settle(&pods, again, false)?;
            if placed != count {
                return Err(format!("pods left for {placed} of {count}"));
            }
            self.gangs.preempted += 1;
            return Ok(());
        }
        let placed = self.settle(&pods, decisions, true)?;
        match placed {
            0 => self.gangs.refused += 1,
            all if all == count => self.gangs.placed += 1,
            some => return Err(format!("{some} of {count} are placed")),
        }
        if !self.snapshot.nominees().is_empty() {
            return Err("a place is kept for nobody".into());
        }
        Ok(())
    }

    fn ask(&mut self, pods: &[Pod]) -> Vec<Decision> {
        let together = pods.len();
        let infos = pods.iter().map(|pod| PodInfo { together, ..PodInfo::of(pod) }).collect();
        cycle::schedule_with(infos, &mut self.snapshot, &self.framework, &mut self.classes)
    }

    /// Checks each placement; what is kept for a pod need not be the best.
    fn settle(
        &mut self,
        pods: &[Pod],
        decisions: Vec<Decision>,
        is_best: bool,
    ) -> Result<usize, String> {
        let mut placed = 0;
        for decision in decisions {
            let (info, node) = match decision {
                Decision::Bind { pod, node } => (pod, node),
                Decision::Refuse { .. } => continue,
                other => return Err(format!("{other:?}")),
            };
            let mut named = pods.iter();
            let pod = named.find(|pod| pod.metadata.uid.as_ref() == Some(&info.uid));
            let pod = pod.ok_or("a pod is not of the gang")?;
            if is_best {
                self.bound(pod, &node)?;
            } else if self.world.fits(pod, &node) {
                self.place(pod, &node);
            } else {
                return Err(format!("{} must not be on {node}", info.key.name));
            }
            placed += 1;
        }
        Ok(placed)
    }
}
