//! What a simulator remembers of pods, and what follows for each: pure, so that a pod costs some
//! hundred bytes and no task.
//!
//! ```text
//!   bound ─(start delay)─▶ Starts ─▶ Runs ─(finish after, where it may end)─▶ gone from here
//!             deleted, from any of them ─▶ Ends ─▶ gone from here
//! ```

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::addresses::Addresses;
use super::status::{Facts, Seen};
use super::{Options, Uid};
use crate::api::simulated::index_of;

/// What a simulator remembers.
pub struct Book {
    simulator: String,
    nodes: u32,
    start_delay: Duration,
    finish_after: Option<Duration>,
    pods: HashMap<Uid, Known>,
    addresses: Addresses,
    /// Counts lists, so that what a list does not have is found.
    round: u32,
}

struct Known {
    namespace: Box<str>,
    name: Box<str>,
    address: Option<Ipv4Addr>,
    stage: Stage,
    round: u32,
}

enum Stage {
    /// To be told as running.
    Starts(Box<Facts>),
    /// Told as running; the facts of one that may end by itself.
    Runs(Option<Box<Facts>>),
    /// To be deleted; whether somebody waits for it to be told as ended before.
    Ends { held: bool },
}

/// What is to be written about a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Run {
        facts: Box<Facts>,
        address: Ipv4Addr,
    },
    Finish {
        facts: Box<Facts>,
        address: Option<Ipv4Addr>,
    },
    Delete {
        held: bool,
    },
    /// There is no address left: later.
    Wait,
}

/// An action and whose it is: namespace and name.
pub struct Due {
    pub namespace: String,
    pub name: String,
    pub action: Action,
}

impl Book {
    pub fn new(options: &Options) -> Book {
        Book {
            simulator: options.name.clone(),
            nodes: options.nodes,
            start_delay: options.start_delay,
            finish_after: options.finish_after,
            pods: HashMap::new(),
            addresses: Addresses::new(&options.name),
            round: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// A list begins.
    pub fn list(&mut self) {
        self.round += 1;
    }

    /// A list has ended: what it did not have is gone.
    pub fn listed(&mut self) {
        let (round, addresses) = (self.round, &mut self.addresses);
        self.pods.retain(|_, known| {
            let stays = known.round == round;
            if !stays && let Some(address) = known.address {
                addresses.give_back(address);
            }
            stays
        });
    }

    /// Takes a pod in as it is now; answers when something is to be written about it.
    pub fn see(&mut self, pod: &Seen<'_>) -> Option<Duration> {
        let on = index_of(&self.simulator, pod.node()).filter(|index| *index < self.nodes);
        on?;
        if pod.is_deleted() {
            let held = pod.is_held() && !pod.is_finished();
            self.known(pod).stage = Stage::Ends { held };
            return Some(Duration::ZERO);
        }
        if pod.is_finished() {
            self.forget(pod.uid());
            return None;
        }
        let (start_delay, finish_after) = (self.start_delay, self.finish_after);
        let may_finish = finish_after.filter(|_| pod.may_finish());
        let is_new = !self.pods.contains_key(pod.uid());
        let known = self.known(pod);
        if !is_new && !matches!(known.stage, Stage::Runs(_)) {
            // What is planned for it stays planned.
            return None;
        }
        let told = pod.is_ready().then(|| pod.address()).flatten();
        let Some(address) = told else {
            known.stage = Stage::Starts(Box::new(pod.facts()));
            // One that ran is told again at once: somebody took its node for lost.
            return Some(if is_new { start_delay } else { Duration::ZERO });
        };
        let was = known.address.replace(address);
        if is_new {
            known.stage = Stage::Runs(may_finish.map(|_| Box::new(pod.facts())));
        }
        if was != Some(address) {
            self.addresses.adopt(address);
        }
        may_finish.filter(|_| is_new)
    }

    fn known(&mut self, pod: &Seen<'_>) -> &mut Known {
        let round = self.round;
        let known = self.pods.entry(pod.uid().into()).or_insert_with(|| Known {
            namespace: pod.namespace().into(),
            name: pod.name().into(),
            address: None,
            stage: Stage::Runs(None),
            round,
        });
        known.round = round;
        known
    }

    /// A pod is not there any more, or has ended.
    pub fn forget(&mut self, uid: &str) {
        if let Some(address) = self.pods.remove(uid).and_then(|known| known.address) {
            self.addresses.give_back(address);
        }
    }

    /// What is to be written about a pod now.
    pub fn due(&mut self, uid: &str) -> Option<Due> {
        let known = self.pods.get_mut(uid)?;
        let action = match &known.stage {
            Stage::Starts(facts) => {
                known.address = known.address.or_else(|| self.addresses.take());
                match known.address {
                    Some(address) => Action::Run { facts: facts.clone(), address },
                    None => Action::Wait,
                }
            }
            Stage::Runs(Some(facts)) => {
                Action::Finish { facts: facts.clone(), address: known.address }
            }
            Stage::Runs(None) => return None,
            Stage::Ends { held } => Action::Delete { held: *held },
        };
        let (namespace, name) = (known.namespace.to_string(), known.name.to_string());
        Some(Due { namespace, name, action })
    }

    /// It was written; answers when the next is due.
    pub fn done(&mut self, uid: &str, action: &Action) -> Option<Duration> {
        match action {
            Action::Run { facts, .. } => {
                let known = self.pods.get_mut(uid)?;
                // A deletion that was seen meanwhile goes on.
                if !matches!(known.stage, Stage::Starts(_)) {
                    return None;
                }
                let finish = self.finish_after.filter(|_| facts.may_finish);
                known.stage = Stage::Runs(finish.map(|_| facts.clone()));
                finish
            }
            Action::Finish { .. } => {
                self.forget(uid);
                None
            }
            // The watch tells when it is gone.
            Action::Delete { .. } | Action::Wait => None,
        }
    }
}
